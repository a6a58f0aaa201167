/* SPDX-License-Identifier: Apache-2.0 */
/*
 * torture.c - reads silo.ini, makes and starts instances, writes an object,
 * imports an image twice, with the first allocation of the core failing, then
 * the second, and so on: each time an error comes back, and under the leak
 * sanitizer nothing stays.
 */
#include "import.h"
#include "layers.h"
#include "tap.h"
#include "torture.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>

static int
write_object (struct silo_instance *store, struct silo_error *err)
{
	struct silo_writer *writer;
	struct silo_digest digest;
	int64_t size;
	int fd;

	int r = silo_writer_open (store, &writer, err);
	if (r < 0)
		return r;
	r = silo_writer_add (writer, "bytes", 5, err);
	if (r < 0) {
		silo_writer_abort (writer);
		return r;
	}
	r = silo_writer_commit (writer, &digest, &size, err);
	if (r == 0)
		r = silo_content_open (store, &digest, &fd, err);
	if (r == 0)
		close (fd);
	return r;
}

/* A small file, one that has blocks of its own, and one of each other kind. */
static int
fill (struct silo_layer *layer, struct silo_error *err)
{
	static char bytes[300000];
	static const struct silo_xattr xattr = { "user.x", { "y", 1 } };
	static const struct silo_entry entries[] = {
		{ .type = SILO_ENTRY_DIR, .path = "d", .mode = 0755 },
		{ .type = SILO_ENTRY_FILE,
		  .path = "d/small",
		  .size = 5,
		  .xattrs = &xattr,
		  .n_xattrs = 1 },
		{ .type = SILO_ENTRY_FILE, .path = "d/large", .size = sizeof (bytes) },
		{ .type = SILO_ENTRY_HARDLINK, .path = "e/again", .target = "d/small" },
		{ .type = SILO_ENTRY_SYMLINK, .path = "link", .target = "d/small" },
		{ .type = SILO_ENTRY_WHITEOUT, .path = "gone" },
	};
	int r = 0;
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE (entries); i++) {
		r = silo_layer_entry (layer, &entries[i], err);
		if (r == 0 && entries[i].size > 0)
			r = silo_layer_data (layer, bytes, (size_t) entries[i].size, err);
	}
	return r < 0 ? r : silo_layer_end (layer, err);
}

static int
import_into (struct silo_import *import, bool expected, struct silo_error *err)
{
	static const struct silo_digest blob = { { 1 } };
	struct silo_layer *layer;
	struct meta_info info;
	bool known = false;
	int r = silo_import_layer_blob (import, "L", &blob, 1, &layer, err);
	if (r == 0)
		r = silo_layer_begin (layer, -1, &known, err);
	if (r == 0 && known != expected)
		tap_bail ("the layer is %s", known ? "known" : "not known");
	if (r == 0 && !known)
		r = fill (layer, err);
	int fd = memfd_create ("meta", MFD_CLOEXEC);
	if (r == 0)
		r = import_finish (import, fd, &info, err);
	close (fd);
	return r;
}

/* From scratch, then from what is on record. */
static int
import_twice (struct core *core, struct silo_error *err)
{
	char path[PATH_MAX];
	int r = 0;
	if (silo_state_path (&core->host, "layers", path, sizeof (path), NULL) == 0)
		files_remove (path, NULL);
	for (int i = 0; r == 0 && i < 2; i++) {
		struct silo_import *import;
		r = import_new (core, NULL, &import, err);
		if (r < 0)
			return r;
		r = import_into (import, i > 0, err);
		import_free (import);
	}
	return r;
}

/* Everything once. */
static int
run (const char *ini, struct silo_error *err)
{
	struct core *core;

	int r = core_new (ini, CORE_NO_STATE, &core, err);
	if (r < 0)
		return r;
	r = wiring_load (core, WIRE (SILO_KIND_CONTENT), err);
	if (r == 0)
		r = wiring_start (core, err);
	if (r == 0)
		r = write_object (core->wiring.content, err);
	if (r == 0)
		r = import_twice (core, err);
	core_close (core);
	return r;
}

int
main (void)
{
	char dir[] = "/tmp/silo-torture-XXXXXX", ini[64], folder[4096];
	struct silo_error err = { 0 };
	long n = 0;
	int r;

	snprintf (folder, sizeof (folder), "%s/tests/unit/.libs", getenv ("SILO_TEST_BUILD"));
	setenv ("SILO_PLUGIN_PATH", folder, 1);
	if (!mkdtemp (dir))
		tap_bail ("%s: %s", dir, strerror (errno));
	snprintf (ini, sizeof (ini), "%s/silo.ini", dir);
	FILE *f = fopen (ini, "we");
	if (!f ||
	    fputs ("[silo]\nstate = .\ncontent = a\nrunner = r\nlog = info\n debug\n"
		   "[content.a]\nplugin = test\nupper = test\ntrace =\n"
		   "[content.unused]\nplugin = test\n",
		   f) < 0 ||
	    fclose (f) < 0)
		tap_bail ("%s: %s", ini, strerror (errno));

	atomic_store (&left, -1);
	if (!tap_is_int (run (ini, &err), 0, "everything works when memory is there"))
		tap_note ("%s", err.msg);
	do {
		memset (&err, 0, sizeof (err));
		atomic_store (&left, ++n);
		r = run (ini, &err);
		/* `left` is 0 when the n-th allocation was reached and failed */
		if (left == 0)
			tap_ok (r == SILO_EXHAUSTED && err.code == r && err.msg[0],
				"allocation %ld fails: %s", n, r == 0 ? "unnoticed" : err.msg);
	} while (left == 0 && n < 2000);
	tap_is_int (r, 0, "after %ld allocations everything works again", n);
	tap_ok (n > 100, "there were many");

	struct silo_error gone = { 0 };
	tap_is_int (files_remove (dir, &gone), 0, "clean up");
	return tap_done ();
}
