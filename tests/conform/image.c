/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.c - what every image plugin promises: references that are not its own
 * it leaves to others; what it imports is the source, entry for entry; nothing
 * is changed by an import that fails or is stopped.  Which of the sources made
 * here a plugin can read, it says itself; it must be one at least.  One that
 * reads none of them is given an image of its own in SILO_TEST_REFERENCE, with
 * which there is nothing to compare.
 */
#include "image.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include "tap.h"

static const struct silo_error untouched = { .code = 12345, .sys = 67, .msg = "untouched" };

struct suite {
	struct conform *c;
	struct silo_instance *content;
	char tree[PATH_MAX], layout[PATH_MAX];
	char layer[SILO_DIGEST_HEX + 1];
	const char *given; /* a reference of an image that is not the tree; NULL: none */
};

static int
identify (struct suite *s, const char *reference, struct silo_buf *id, struct silo_error *err)
{
	const struct silo_image_source source = { reference, true, "", "", -1 };
	struct silo_instance *instance = s->c->instance;
	return instance_call (instance, image, identify, &source, id, err);
}

static int
import_with (struct suite *s, const char *reference, const char *name,
	     const struct import_progress *progress, struct image_copy **ret, bool *ret_known,
	     struct silo_error *err)
{
	const struct silo_image_source source = { reference, true, "", "", -1 };
	const struct index_request request = { &source, name, false, progress };
	return image_index (s->c->core, &request, ret, ret_known, err);
}

/* How many things STATE holds that an import may leave: metadata files, temporary ones. */
static int
leftovers (struct suite *s, const char *name)
{
	char path[PATH_MAX];
	int n = 0;
	silo_state_path (&s->c->core->host, name, path, sizeof (path), NULL);
	_cleanup_closedir_ DIR *dir = opendir (path);
	for (const struct dirent *e; dir && (e = readdir (dir));)
		n += e->d_name[0] != '.' && strcmp (e->d_name, "lock") != 0;
	return n;
}

static void
test_foreign (struct suite *s)
{
	static const char *const foreign[] = { "silo-test-unknown://x/y z", "", "???",
					       "silo-test-unknown:/a b" };
	for (size_t i = 0; i < ARRAY_SIZE (foreign); i++) {
		_cleanup_buf_ struct silo_buf id = SILO_BUF (4096);
		struct silo_error err = untouched;
		int r = identify (s, foreign[i], &id, &err);
		tap_ok (r == SILO_UNIMPLEMENTED && err.code == r && id.len == 0,
			"\"%s\" is left to others", foreign[i]);
	}
}

/* -- what is imported is the source --------------------------------------------------- */

static void
test_contents (struct suite *s, const char *reference)
{
	_cleanup_free_ struct image_copy *first = NULL, *again = NULL, *found = NULL;
	struct silo_error err = untouched;
	char path[PATH_MAX];
	bool known = true;
	int r = import_with (s, reference, "first", NULL, &first, &known, &err);
	if (!tap_ok (r == 0 && !known, "%s is imported", reference))
		tap_bail ("%s", err.msg);
	image_meta_path (s->c->core, &first->image, path, sizeof (path), NULL);
	if (reference != s->given)
		image_compare (s->content, path, s->tree);
	tap_is_str (first->image.source, reference, "the record has the reference");
	tap_ok (image_find (s->c->core, "first", &found, &err) == 0 &&
		    silo_digest_equal (&found->image.meta, &first->image.meta),
		"and is found by its name");
	r = import_with (s, reference, "first", NULL, &again, &known, &err);
	tap_ok (r == 0 && known && silo_digest_equal (&again->image.meta, &first->image.meta),
		"a second time it is known");
	tap_is_int (leftovers (s, "tmp"), 0, "nothing temporary is left");
	tap_is_int (leftovers (s, "images"), 1, "one metadata file");
}

static void
test_identify (struct suite *s, const char *reference)
{
	_cleanup_buf_ struct silo_buf one = SILO_BUF (4096), two = SILO_BUF (4096);
	struct silo_error err = untouched;
	int r = identify (s, reference, &one, &err);
	if (r == 0)
		r = identify (s, reference, &two, &err);
	tap_ok (r == 0 && memcmp (&err, &untouched, sizeof (err)) == 0, "identify");
	tap_is_mem (one.data, one.len, two.data, two.len, "says the same twice");
}

/* -- several at once -------------------------------------------------------------------- */

struct importer {
	pthread_t thread;
	struct suite *s;
	const char *reference;
	char name[16];
	struct image_copy *copy;
	struct silo_error err;
	int r;
};

static void *
importer_run (void *arg)
{
	struct importer *i = arg;
	bool known;
	i->r = import_with (i->s, i->reference, i->name, NULL, &i->copy, &known, &i->err);
	return NULL;
}

static void
test_parallel (struct suite *s, const char *reference)
{
	struct importer all[4];
	int good = 0;
	for (size_t i = 0; i < ARRAY_SIZE (all); i++) {
		all[i] = (struct importer){ .s = s, .reference = reference };
		snprintf (all[i].name, sizeof (all[i].name), "p%zu", i);
		if (pthread_create (&all[i].thread, NULL, importer_run, &all[i]) != 0)
			tap_bail ("thread");
	}
	for (size_t i = 0; i < ARRAY_SIZE (all); i++)
		pthread_join (all[i].thread, NULL);
	for (size_t i = 0; i < ARRAY_SIZE (all); i++) {
		good += all[i].r == 0 && all[0].r == 0 &&
			silo_digest_equal (&all[i].copy->image.meta, &all[0].copy->image.meta);
		if (all[i].r < 0)
			tap_note ("%s", all[i].err.msg);
	}
	tap_is_int (good, (int) ARRAY_SIZE (all), "imports at the same time give the same image");
	for (size_t i = 0; i < ARRAY_SIZE (all); i++) {
		free (all[i].copy);
		image_remove (s->c->core, all[i].name, NULL);
	}
}

/* -- giving up ------------------------------------------------------------------------------ */

struct stop {
	volatile int cancelled;
	int calls;
	int fd; /* eventfd, for those who wait */
};

static void
stop_now (struct stop *stop)
{
	const uint64_t one = 1;
	stop->cancelled = 1;
	if (write (stop->fd, &one, sizeof (one)) != sizeof (one))
		tap_bail ("eventfd: %s", strerror (errno));
}

static void
stop_soon (void *arg, const struct import_status *status SILO_UNUSED)
{
	struct stop *stop = arg;
	if (++stop->calls == 3)
		stop_now (stop);
}

static void
test_cancel (struct suite *s, const char *reference)
{
	struct stop stop = { .calls = 0 }, now = { .calls = 0 };
	struct stop *const stops[] = { &now, &stop };
	for (size_t i = 0; i < ARRAY_SIZE (stops); i++) {
		_cleanup_close_ int fd = eventfd (0, EFD_CLOEXEC);
		const struct import_progress progress = { stop_soon, stops[i], &stops[i]->cancelled,
							  fd };
		stops[i]->fd = fd;
		if (stops[i] == &now)
			stop_now (&now);
		_cleanup_free_ struct image_copy *copy = NULL;
		struct silo_error err = untouched;
		bool known = false;
		int images = leftovers (s, "images");
		int r = import_with (s, reference, "stopped", &progress, &copy, &known, &err);
		tap_is_int (r, SILO_CANCELLED, "an import that is stopped says so");
		tap_is_int (image_find (s->c->core, "stopped", &copy, &err), SILO_NOTFOUND,
			    "it leaves no record");
		tap_ok (leftovers (s, "images") == images && leftovers (s, "tmp") == 0,
			"and no file");
	}
}

/* -- bad input --------------------------------------------------------------------------------- */

static void
refused (struct suite *s, const char *what, const char *reference, int code, const char *says)
{
	struct image_copy *copy = NULL;
	struct silo_error err = untouched;
	bool known = false;
	int images = leftovers (s, "images");
	int r = import_with (s, reference, "bad", NULL, &copy, &known, &err);
	if (!tap_ok (r == code && err.code == code && strstr (err.msg, says) && !copy &&
			 leftovers (s, "images") == images && leftovers (s, "tmp") == 0 &&
			 image_find (s->c->core, "bad", &copy, NULL) == SILO_NOTFOUND,
		     "%s: refused, nothing is changed", what))
		tap_note ("%s: %s", silo_code_name (r), err.msg);
}

static void
test_damaged_layout (struct suite *s, const char *reference)
{
	char path[PATH_MAX * 2], away[PATH_MAX * 2 + 8], says[40];
	struct stat st;
	snprintf (path, sizeof (path), "%s/blobs/sha256/%s", s->layout, s->layer);
	snprintf (away, sizeof (away), "%s.away", path);
	snprintf (says, sizeof (says), "sha256:%.12s", s->layer);
	image_remove (s->c->core, "first", NULL);
	if (rename (path, away) < 0)
		tap_bail ("%s: %s", path, strerror (errno));
	refused (s, "a missing layer", reference, SILO_DATALOSS, says);
	if (rename (away, path) < 0)
		tap_bail ("%s: %s", path, strerror (errno));

	unsigned char byte = 0;
	int fd = open (path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || fstat (fd, &st) < 0 || pread (fd, &byte, 1, st.st_size - 5) != 1)
		tap_bail ("%s: %s", path, strerror (errno));
	byte ^= 1; /* in the check sum at the end of gzip */
	if (pwrite (fd, &byte, 1, st.st_size - 5) != 1)
		tap_bail ("%s: %s", path, strerror (errno));
	refused (s, "a wrong byte", reference, SILO_DATALOSS, says);
	if (ftruncate (fd, st.st_size / 2) < 0)
		tap_bail ("%s: %s", path, strerror (errno));
	refused (s, "half a layer", reference, SILO_DATALOSS, says);
	if (ftruncate (fd, st.st_size) < 0)
		tap_bail ("%s: %s", path, strerror (errno));
	refused (s, "half of it zeros", reference, SILO_DATALOSS, says);
	close (fd);
}

static void
test_missing (struct suite *s, const char *kind, const char *reference)
{
	_cleanup_buf_ struct silo_buf id = SILO_BUF (4096);
	struct silo_error err = untouched;
	int r = identify (s, reference, &id, &err);
	tap_ok (r < 0 && r != SILO_UNIMPLEMENTED && err.code == r && id.len == 0,
		"a missing %s: an error of its own", kind);
}

/* ---------------------------------------------------------------------------------------------- */

static bool
accepts (struct suite *s, const char *reference)
{
	_cleanup_buf_ struct silo_buf id = SILO_BUF (4096);
	struct silo_error err = untouched;
	int r = identify (s, reference, &id, &err);
	if (r < 0 && r != SILO_UNIMPLEMENTED)
		tap_note ("%s: %s", reference, err.msg);
	return r == 0;
}

static void
test_source (struct suite *s, const char *reference)
{
	tap_note ("importing %s", reference);
	test_identify (s, reference);
	test_contents (s, reference);
	test_parallel (s, reference);
	image_remove (s->c->core, "first", NULL);
	tap_is_int (leftovers (s, "images"), 0, "what is removed leaves nothing");
	test_cancel (s, reference);
}

int
conform_image (struct conform *c)
{
	static const char *const none[] = { NULL };
	struct suite s = { .c = c, .given = getenv ("SILO_TEST_REFERENCE") };
	char folder[PATH_MAX + 8], layout[PATH_MAX + 8];
	conform_mkdir (c, "tree", s.tree, sizeof (s.tree));
	conform_mkdir (c, "layout", s.layout, sizeof (s.layout));
	image_make_tree (s.tree);
	image_make_layout (s.tree, s.layout, s.layer);
	snprintf (folder, sizeof (folder), "dir:%s", s.tree);
	snprintf (layout, sizeof (layout), "oci:%s:t", s.layout);
	s.content = conform_add (c, SILO_KIND_CONTENT, "dir", none);
	conform_add (c, SILO_KIND_STORAGE, "files", none);

	test_foreign (&s);
	bool takes_folder = accepts (&s, folder), takes_layout = accepts (&s, layout);
	bool takes_given = s.given && accepts (&s, s.given);
	tap_ok (takes_folder || takes_layout || takes_given,
		"it takes one of the sources that are tried");
	if (takes_folder) {
		test_source (&s, folder);
		test_missing (&s, "folder", "dir:/nowhere/at/all");
	}
	if (takes_layout) {
		test_source (&s, layout);
		test_missing (&s, "layout", "oci:/nowhere/at/all:t");
		test_damaged_layout (&s, layout);
	}
	if (takes_given)
		test_source (&s, s.given);
	return tap_done ();
}
