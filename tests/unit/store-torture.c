/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store-torture.c - counts, checks and collects a store with everything in it
 * that there may be, with the first allocation of the core failing, then the
 * second, and so on: each time an error comes back, nothing is removed, and
 * under the leak sanitizer nothing stays.
 */
#include "fsck.h"
#include "tap.h"
#include "torture.h"

#include <fcntl.h>
#include <sys/stat.h>

#define STORE_KINDS (WIRE (SILO_KIND_STORAGE) | WIRE (SILO_KIND_CONTENT) | WIRE (SILO_KIND_IMAGE))

struct place {
	char dir[64], ini[96], tree[96];
};

static void
put_file (const char *dir, const char *name, const char *text)
{
	char path[256];
	snprintf (path, sizeof (path), "%s/%s", dir, name);
	FILE *file = fopen (path, "we");
	if (!file || fputs (text, file) < 0 || fclose (file) < 0)
		tap_bail ("%s: %s", path, strerror (errno));
}

static void
index_tree (struct core *core, const struct place *place, const char *name)
{
	char reference[128];
	snprintf (reference, sizeof (reference), "dir:%s", place->tree);
	const struct silo_image_source source = { .reference = reference,
						  .tls_verify = true,
						  .platform = "",
						  .id = "",
						  .cancel_fd = -1 };
	const struct index_request request = { .source = &source, .name = name };
	struct silo_error err = { 0 };
	struct image_copy *copy = NULL;
	bool known;
	if (image_index (core, &request, &copy, &known, &err) < 0)
		tap_bail ("index %s: %s", name, err.msg);
	free (copy);
}

/* Let an object that is there have other bytes, or go. */
static void
spoil (const struct place *place, const char *contents, bool gone)
{
	char hex[SILO_DIGEST_HEX + 1], path[256];
	struct silo_digest digest;
	if (silo_digest_of (contents, strlen (contents), &digest, NULL) < 0)
		tap_bail ("no SHA-256");
	silo_digest_hex (&digest, hex);
	snprintf (path, sizeof (path), "%s/objects/%.2s/%s", place->dir, hex, hex + 2);
	if (gone ? unlink (path) < 0 : chmod (path, 0600) < 0 || truncate (path, 1) < 0)
		tap_bail ("%s: %s", path, strerror (errno));
}

static void
make_store (const struct place *place)
{
	struct silo_error err = { 0 };
	struct core *core = NULL;
	if (mkdir (place->tree, 0700) < 0 ||
	    core_open (place->ini, STORE_KINDS, CORE_CREATE, &core, &err) < 0)
		tap_bail ("%s: %s", place->ini, err.msg);
	put_file (place->tree, "a", "contents of a");
	put_file (place->tree, "b", "of the first image");
	index_tree (core, place, "one:1");
	index_tree (core, place, "same:1");
	put_file (place->tree, "b", "of the second");
	put_file (place->tree, "c", "also");
	index_tree (core, place, "two:1");
	put_file (place->tree, "c", "of none any more");
	index_tree (core, place, "two:1");
	core_close (core);
	put_file (place->dir, "images/stray", "");
	spoil (place, "contents of a", false);
	spoil (place, "of the first image", true);
}

/* All that is asked of a store without changing it. */
static int
run (struct core *core, size_t *ret_flaws, struct silo_error *err)
{
	SILO_CLEANUP (images_usage_free) struct images_usage usage = { 0 };
	SILO_CLEANUP (fsck_free) struct fsck fsck = { .core = core };
	struct store_usage store;
	struct gc_report report;
	int r = images_usage (core, &usage, err);
	if (r == 0)
		r = store_usage (core, &store, err);
	if (r == 0)
		r = image_collect (core, NULL, true, &report, err);
	if (r == 0)
		r = fsck_check (&fsck, err);
	*ret_flaws = fsck.n + fsck.n_strays;
	return r;
}

int
main (void)
{
	struct place place = { .dir = "/tmp/silo-store-torture-XXXXXX" };
	struct silo_error err = { 0 };
	struct core *core = NULL;
	size_t flaws = 0;
	long n = 0;
	int r;

	atomic_store (&left, -1);
	if (!mkdtemp (place.dir))
		tap_bail ("%s: %s", place.dir, strerror (errno));
	snprintf (place.ini, sizeof (place.ini), "%s/silo.ini", place.dir);
	snprintf (place.tree, sizeof (place.tree), "%s/tree", place.dir);
	put_file (place.dir, "silo.ini",
		  "[silo]\nstate = .\nstorage = files\ncontent = dir\nimage = folder\n"
		  "runner = r\n");
	make_store (&place);
	if (core_open (place.ini, STORE_KINDS, 0, &core, &err) < 0)
		tap_bail ("%s", err.msg);
	tap_is_int (run (core, &flaws, &err), 0, "all is seen when memory is there: %s", err.msg);
	tap_is_int (flaws, 3, "with all that is wrong");
	do {
		memset (&err, 0, sizeof (err));
		atomic_store (&left, ++n);
		r = run (core, &flaws, &err);
		if (left == 0)
			tap_ok (r == SILO_EXHAUSTED && err.code == r && err.msg[0],
				"allocation %ld fails: %s", n, r == 0 ? "unnoticed" : err.msg);
	} while (left == 0 && n < 2000);
	tap_is_int (r, 0, "after %ld allocations all is seen again", n);
	tap_is_int (flaws, 3, "and nothing was changed");
	tap_ok (n > 30, "there were many");
	core_close (core);
	if (files_remove (place.dir, &err) < 0)
		tap_note ("%s", err.msg);
	return tap_done ();
}
