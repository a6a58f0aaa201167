/* SPDX-License-Identifier: Apache-2.0 */
/*
 * content.c - what stands in for a store's optional operations, on a plugin
 * that has none of them.
 */
#include "core.h"
#include "tap.h"

#include <fcntl.h>
#include <sys/stat.h>

static const char text[] = "all bytes of it";

static void
write_object (struct silo_instance *store, struct silo_digest *ret)
{
	struct silo_writer *writer = NULL;
	struct silo_digest digest, want;
	struct silo_error err = { 0 };
	int64_t size = 0;

	tap_is_int (silo_writer_open (store, &writer, &err), 0, "a writer without stage");
	if (!writer)
		tap_bail ("%s", err.msg);
	silo_writer_add (writer, text, 4, &err);
	silo_writer_add (writer, text + 4, strlen (text) - 4, &err);
	tap_is_int (silo_writer_commit (writer, &digest, &size, &err), 0, "commits");
	silo_digest_of (text, strlen (text), &want, NULL);
	tap_ok (silo_digest_equal (&digest, &want), "the digest is that of the bytes");
	tap_is_int (size, (int64_t) strlen (text), "and so is the size");
	*ret = digest;
}

static void
test_open (struct silo_instance *store, const struct silo_digest *digest)
{
	struct silo_error err = { 0 };
	char got[64] = "";
	int fd = -1;

	tap_is_int (silo_content_open (store, digest, &fd, &err), 0, "open without the operation");
	tap_is_int (read (fd, got, sizeof (got)), (int64_t) strlen (text), "reads from the start");
	tap_is_str (got, text, "the object's bytes");
	tap_ok ((fcntl (fd, F_GETFL) & O_ACCMODE) == O_RDONLY, "the descriptor is read-only");
	tap_ok (fcntl (fd, F_GETFD) & FD_CLOEXEC, "and close-on-exec");
	close (fd);

	struct silo_digest none = { { 1 } };
	tap_is_int (silo_content_open (store, &none, &fd, &err), SILO_NOTFOUND,
		    "an object that is not there");
}

static int
count_object (void *arg, const struct silo_digest *digest, int64_t size)
{
	(void) digest;
	*(int64_t *) arg += size;
	return 0;
}

static void
test_rest (struct silo_instance *store, const struct silo_digest *digest)
{
	struct silo_writer *writer = NULL;
	struct silo_error err = { 0 };
	int64_t total = 0;

	silo_content_each (store, count_object, &total, &err);
	tap_is_int (total, (int64_t) strlen (text), "one object is in the store");
	tap_ok (!silo_content_folder (store), "which has no folder");
	tap_is_int (silo_content_sync (store, &err), 0, "and nothing to sync");

	if (silo_writer_open (store, &writer, &err) == 0)
		silo_writer_add (writer, "thrown away", 11, &err);
	silo_writer_abort (writer);
	silo_writer_abort (NULL);
	total = 0;
	silo_content_each (store, count_object, &total, &err);
	tap_is_int (total, (int64_t) strlen (text), "an aborted writer adds nothing");

	tap_is_int (silo_content_remove (store, digest, &err), 0, "remove");
	tap_is_int (silo_content_stat (store, digest, &total, &err), SILO_NOTFOUND, "it is gone");
}

static void
test_cut (struct core *core)
{
	static const char *const options[] = { "cut = yes", NULL };
	struct silo_instance *store = NULL;
	struct silo_error err = { 0 };
	struct silo_digest digest;
	int fd = -1;

	if (wiring_add (core, SILO_KIND_CONTENT, "test", options, &store, &err) < 0 ||
	    wiring_start (core, &err) < 0)
		tap_bail ("%s", err.msg);
	tap_is_str (store->name, "test-2", "a second instance has a name of its own");
	write_object (store, &digest);
	tap_is_int (silo_content_open (store, &digest, &fd, &err), SILO_DATALOSS,
		    "an object that ends too early is an error");
	tap_is_str (err.msg, "an object ends after 0 of 15 bytes", "and says so");
}

int
main (void)
{
	char dir[] = "/tmp/silo-content-XXXXXX", folder[4096];
	struct silo_instance *store = NULL;
	struct silo_error err = { 0 };
	struct silo_digest digest;
	struct core *core = NULL;

	snprintf (folder, sizeof (folder), "%s/tests/unit/.libs", getenv ("SILO_TEST_BUILD"));
	setenv ("SILO_PLUGIN_PATH", folder, 1);
	if (!mkdtemp (dir) || core_bare (dir, &core, &err) < 0 ||
	    wiring_add (core, SILO_KIND_CONTENT, "test", NULL, &store, &err) < 0 ||
	    wiring_start (core, &err) < 0)
		tap_bail ("%s", err.msg);
	tap_ok (core->wiring.content == store, "the first store is the core's");
	write_object (store, &digest);
	write_object (store, &digest);
	test_open (store, &digest);
	test_rest (store, &digest);
	test_cut (core);
	core_close (core);
	tap_is_int (rmdir (dir), 0, "nothing is left in the state folder");
	return tap_done ();
}
