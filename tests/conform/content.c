/* SPDX-License-Identifier: Apache-2.0 */
/*
 * content.c - what every content plugin promises: each sentence of
 * <silo/content.h> is a check here.  The instance under test starts empty.
 * Optional operations are tested when they are there; the functions of the
 * core that stand in for those that are not, always.
 */
#include "conform.h"
#include "tap.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define THREADS 8
#define EACH    40      /* objects that each thread adds, half of them the same for all */
#define LARGE   5000000 /* bytes */

static const struct silo_error untouched = { .code = 12345, .sys = 67, .msg = "untouched" };

/* -- helpers ---------------------------------------------------------------------- */

static bool
succeeds (int r, const struct silo_error *err, const char *what)
{
	if (r < 0)
		tap_note ("%s: %s", what, err->msg);
	return tap_ok (r == 0 && memcmp (err, &untouched, sizeof (*err)) == 0,
		       "%s succeeds and leaves the error alone", what);
}

static bool
fails (int r, const struct silo_error *err, int code, const char *what)
{
	bool filled = err->code == code && err->msg[0] && !strchr (err->msg, '\n');
	if (r != code || !filled)
		tap_note ("%s: returned %s, error %s: %s", what, silo_code_name (r),
			  silo_code_name (err->code), err->msg);
	return tap_ok (r == code && filled, "%s: %s, with a message", what, silo_code_name (code));
}

/* Bytes that follow from a number. */
static unsigned char *
bytes_of (uint64_t seed, size_t len)
{
	unsigned char *data = malloc (len + 1);
	uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
	if (!data)
		tap_bail ("no memory");
	for (size_t i = 0; i < len; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		data[i] = (unsigned char) state;
	}
	return data;
}

static int
file_of (const void *data, size_t len)
{
	int fd = memfd_create ("object", MFD_CLOEXEC);
	if (fd < 0 || (len > 0 && pwrite (fd, data, len, 0) != (ssize_t) len))
		tap_bail ("memfd: %s", strerror (errno));
	return fd;
}

static struct silo_digest
digest_of (const void *data, size_t len)
{
	struct silo_digest digest;
	if (silo_digest_of (data, len, &digest, NULL) < 0)
		tap_bail ("SHA-256");
	return digest;
}

static struct silo_digest
missing (void)
{
	return digest_of ("this is nowhere", 15);
}

/* Does the store give exactly these bytes? */
static bool
same_bytes (struct silo_instance *content, const struct silo_digest *digest, const void *want,
	    size_t len)
{
	unsigned char *got = malloc (len + 10);
	size_t n = 0;
	int64_t size = -1;
	struct silo_error err;
	bool same = got && silo_content_stat (content, digest, &size, &err) == 0 &&
		    size == (int64_t) len &&
		    silo_content_read (content, digest, 0, got, len + 10, &n, &err) == 0 &&
		    n == len && memcmp (got, want, len) == 0;
	free (got);
	return same;
}

struct tally {
	struct silo_digest wanted;
	int64_t size; /* of it */
	int n, found;
	int stop_after;
};

static int
tally_one (void *arg, const struct silo_digest *digest, int64_t size)
{
	struct tally *tally = arg;
	tally->n++;
	if (silo_digest_equal (digest, &tally->wanted)) {
		tally->found++;
		tally->size = size;
	}
	return tally->n == tally->stop_after;
}

static struct tally
count (struct silo_instance *content, const struct silo_digest *wanted)
{
	struct tally tally = { .size = -1 };
	struct silo_error err = untouched;
	if (wanted)
		tally.wanted = *wanted;
	if (silo_content_each (content, tally_one, &tally, &err) < 0)
		tap_bail ("each: %s", err.msg);
	return tally;
}

/* -- one object ------------------------------------------------------------------------ */

static void
test_missing (struct silo_instance *content)
{
	const struct silo_digest digest = missing ();
	struct silo_error err = untouched;
	int64_t size = -7;
	size_t n = 77;
	char byte;
	int fd = -7;
	fails (silo_content_stat (content, &digest, &size, &err), &err, SILO_NOTFOUND,
	       "stat of what is not there");
	err = untouched;
	fails (silo_content_read (content, &digest, 0, &byte, 1, &n, &err), &err, SILO_NOTFOUND,
	       "read of what is not there");
	err = untouched;
	fails (silo_content_open (content, &digest, &fd, &err), &err, SILO_NOTFOUND,
	       "open of what is not there");
	err = untouched;
	fails (silo_content_remove (content, &digest, &err), &err, SILO_NOTFOUND,
	       "remove of what is not there");
	tap_ok (size == -7 && n == 77 && fd == -7, "failures leave their results alone");
	tap_is_int (count (content, NULL).n, 0, "an empty store lists nothing");
}

static void
test_read (struct silo_instance *content, const struct silo_digest *digest,
	   const unsigned char *data, size_t len)
{
	unsigned char got[64];
	struct silo_error err = untouched;
	size_t n = 99;
	size_t middle = len / 2, want = len - middle < 20 ? len - middle : 20;
	succeeds (silo_content_read (content, digest, (int64_t) middle, got, 20, &n, &err), &err,
		  "read from the middle");
	tap_is_mem (got, n, data + middle, want, "its bytes, fewer only at the end");
	n = 99;
	succeeds (silo_content_read (content, digest, (int64_t) len, got, 20, &n, &err), &err,
		  "read at the end");
	tap_is_int ((int64_t) n, 0, "gives nothing");
	n = 99;
	succeeds (silo_content_read (content, digest, (int64_t) len + 1000, got, 20, &n, &err),
		  &err, "read past the end");
	tap_is_int ((int64_t) n, 0, "gives nothing");
}

static void
test_open (struct silo_instance *content, const struct silo_digest *digest,
	   const unsigned char *data, size_t len)
{
	struct silo_error err = untouched;
	unsigned char *got = malloc (len + 1);
	int fd = -1;
	if (!got || !succeeds (silo_content_open (content, digest, &fd, &err), &err, "open")) {
		free (got);
		return;
	}
	size_t done = 0;
	for (ssize_t n; done < len && (n = pread (fd, got + done, len - done, (off_t) done)) > 0;)
		done += (size_t) n;
	tap_is_mem (got, done, data, len, "the descriptor has its bytes");
	tap_ok (fcntl (fd, F_GETFD) & FD_CLOEXEC, "it is close-on-exec");
	tap_ok (write (fd, "x", 1) < 0, "it is read-only");
	close (fd);
	free (got);
}

static void
test_size (struct silo_instance *content, size_t len)
{
	unsigned char *data = bytes_of (len + 1, len);
	const struct silo_digest want = digest_of (data, len);
	struct silo_error err = untouched;
	struct silo_digest digest = { 0 };
	int64_t size = -1;
	int fd = file_of (data, len);
	lseek (fd, (off_t) len, SEEK_SET); /* add begins at 0 wherever the descriptor stands */
	tap_note ("an object of %zu bytes", len);
	succeeds (silo_content_add (content, fd, &digest, &size, &err), &err, "add");
	tap_ok (silo_digest_equal (&digest, &want) && size == (int64_t) len,
		"says digest and size");
	tap_ok (same_bytes (content, &want, data, len), "the same bytes come back");
	struct tally before = count (content, &want);
	tap_ok (before.found == 1 && before.size == (int64_t) len, "it is listed once");
	test_read (content, &want, data, len);
	test_open (content, &want, data, len);
	succeeds (silo_content_add (content, fd, &digest, &size, &err), &err, "add again");
	tap_ok (silo_digest_equal (&digest, &want) && size == (int64_t) len &&
		    count (content, NULL).n == before.n,
		"changes nothing");
	succeeds (silo_content_remove (content, &want, &err), &err, "remove");
	fails (silo_content_stat (content, &want, &size, &err), &err, SILO_NOTFOUND, "it is gone");
	err = untouched;
	succeeds (silo_content_add (content, fd, &digest, &size, &err), &err, "and can come back");
	close (fd);
	free (data);
}

/* -- writing piece by piece ---------------------------------------------------------------- */

static struct silo_writer *
writer_with (struct silo_instance *content, const unsigned char *data, size_t len)
{
	struct silo_writer *writer = NULL;
	struct silo_error err = untouched;
	if (silo_writer_open (content, &writer, &err) < 0)
		tap_bail ("writer: %s", err.msg);
	for (size_t done = 0, n; done < len; done += n) {
		n = len - done < 70001 ? len - done : 70001;
		if (silo_writer_add (writer, data + done, n, &err) < 0)
			tap_bail ("writer: %s", err.msg);
	}
	return writer;
}

static void
test_writer (struct silo_instance *content)
{
	const size_t len = 300000;
	unsigned char *data = bytes_of (99, len);
	const struct silo_digest want = digest_of (data, len), none = digest_of ("", 0);
	struct silo_error err = untouched;
	struct silo_digest digest = { 0 };
	int64_t size = -1;
	int before = count (content, NULL).n;
	silo_writer_abort (NULL);
	silo_writer_abort (writer_with (content, data, len));
	struct silo_writer *open = writer_with (content, data, len);
	tap_is_int (count (content, NULL).n, before, "what is not committed is not listed");
	fails (silo_content_stat (content, &want, &size, &err), &err, SILO_NOTFOUND, "nor there");
	err = untouched;
	for (int i = 0; i < 2; i++) {
		succeeds (silo_writer_commit (i ? writer_with (content, data, len) : open, &digest,
					      &size, &err),
			  &err, i ? "commit of what is there" : "commit");
		tap_ok (silo_digest_equal (&digest, &want) && size == (int64_t) len,
			"says digest and size");
	}
	tap_ok (same_bytes (content, &want, data, len), "the bytes are there");
	tap_is_int (count (content, NULL).n, before + 1, "once");
	int there = count (content, &none).found;
	succeeds (silo_writer_commit (writer_with (content, data, 0), &digest, &size, &err), &err,
		  "commit of nothing");
	tap_ok (silo_digest_equal (&digest, &none) && size == 0 &&
		    count (content, &none).found == 1 &&
		    count (content, NULL).n == before + 2 - there,
		"is the empty object");
	succeeds (silo_content_sync (content, &err), &err, "sync");
	free (data);
}

/* The store's own stage, for plugins that have one. */
static void
test_stage (struct silo_instance *content)
{
	const struct silo_content_ops *ops = instance_ops (content, content);
	tap_ok (!ops->stage == !ops->commit && !ops->stage == !ops->abort,
		"stage, commit and abort: all or none");
	if (!ops->stage || !ops->commit || !ops->abort)
		return;
	struct silo_error err = untouched;
	struct stat st;
	void *stage = NULL;
	int fd = -1, before = count (content, NULL).n;
	succeeds (ops->stage (content->self, &fd, &stage, &err), &err, "stage");
	tap_ok (fstat (fd, &st) == 0 && S_ISREG (st.st_mode) && st.st_size == 0 &&
		    (fcntl (fd, F_GETFD) & FD_CLOEXEC),
		"gives an empty file, close-on-exec");
	ops->abort (content->self, stage);
	tap_ok (fcntl (fd, F_GETFD) < 0, "abort closes it");
	succeeds (ops->stage (content->self, &fd, &stage, &err), &err, "stage");
	tap_is_int (write (fd, "staged", 6), 6, "which can be written");
	const struct silo_digest digest = digest_of ("staged", 6);
	succeeds (ops->commit (content->self, stage, &digest, &err), &err, "commit");
	tap_ok (fcntl (fd, F_GETFD) < 0, "closes it");
	tap_ok (same_bytes (content, &digest, "staged", 6), "and publishes it");
	tap_is_int (count (content, NULL).n, before + 1, "once");
}

/* For plugins with a folder: the kernel finds object abcdef... there as ab/cdef... */
static void
test_folder (struct silo_instance *content)
{
	const char *folder = silo_content_folder (content);
	unsigned char *data = bytes_of (4711, 5000), got[5001];
	const struct silo_digest want = digest_of (data, 5000);
	struct silo_digest digest;
	struct silo_error err = untouched;
	char hex[SILO_DIGEST_HEX + 1], path[4096];
	struct stat st;
	int64_t size;
	if (!folder) {
		tap_note ("this store has no folder");
		free (data);
		return;
	}
	int from = file_of (data, 5000);
	silo_content_add (content, from, &digest, &size, &err);
	close (from);
	silo_digest_hex (&want, hex);
	snprintf (path, sizeof (path), "%s/%.2s/%s", folder, hex, hex + 2);
	tap_ok (folder[0] == '/', "the folder's path is absolute");
	tap_ok (stat (path, &st) == 0 && S_ISREG (st.st_mode) && (st.st_mode & 07777) == 0444,
		"an object is a file there, mode 0444");
	int fd = open (path, O_RDONLY | O_CLOEXEC);
	ssize_t n = read (fd, got, sizeof (got));
	tap_is_mem (got, n > 0 ? (size_t) n : 0, data, 5000, "with its bytes");
	close (fd);
	free (data);
}

static void
test_each_stops (struct silo_instance *content)
{
	struct tally tally = { .stop_after = 1 };
	struct silo_error err = untouched;
	succeeds (silo_content_each (content, tally_one, &tally, &err), &err, "each, stopped");
	tap_is_int (tally.n, 1, "at once");
}

/* -- several threads -------------------------------------------------------------------------- */

struct worker {
	pthread_t thread;
	struct silo_instance *content;
	uint64_t number;
	int bad;
};

/* Object `i` of a thread: the even ones are the same for all. */
static uint64_t
seed_of (const struct worker *worker, uint64_t i)
{
	return i % 2 ? 1000000 + worker->number * 1000 + i : 2000000 + i;
}

static size_t
len_of (uint64_t i)
{
	return 1 + (size_t) i * 3001;
}

static void *
worker_run (void *arg)
{
	struct worker *worker = arg;
	for (uint64_t i = 0; i < EACH; i++) {
		size_t len = len_of (i);
		unsigned char *data = bytes_of (seed_of (worker, i), len);
		const struct silo_digest want = digest_of (data, len);
		struct silo_digest digest;
		struct silo_error err = untouched;
		int64_t size = 0;
		int fd = file_of (data, len), r;
		if (i % 3)
			r = silo_content_add (worker->content, fd, &digest, &size, &err);
		else
			r = silo_writer_commit (writer_with (worker->content, data, len), &digest,
						&size, &err);
		close (fd);
		if (r < 0 || !silo_digest_equal (&digest, &want) ||
		    !same_bytes (worker->content, &want, data, len))
			worker->bad++;
		free (data);
	}
	return NULL;
}

static void
test_threads (struct silo_instance *content)
{
	struct worker workers[THREADS];
	int before = count (content, NULL).n, bad = 0;
	for (int i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){ .content = content, .number = (uint64_t) i };
		if (pthread_create (&workers[i].thread, NULL, worker_run, &workers[i]) != 0)
			tap_bail ("thread");
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join (workers[i].thread, NULL);
		bad += workers[i].bad;
	}
	tap_is_int (bad, 0, "%d threads add the same and different objects", THREADS);
	tap_is_int (count (content, NULL).n - before, EACH / 2 + THREADS * EACH / 2,
		    "each is there once");
}

/* -- restart ----------------------------------------------------------------------------------- */

static void
test_reload (struct conform *c)
{
	const size_t len = 123456;
	unsigned char *data = bytes_of (31337, len);
	const struct silo_digest want = digest_of (data, len);
	struct silo_digest digest;
	struct silo_error err = untouched;
	int64_t size = 0;
	struct silo_writer *committed = writer_with (c->instance, data, len);
	if (silo_writer_commit (committed, &digest, &size, &err) < 0)
		tap_bail ("%s", err.msg);
	int before = count (c->instance, NULL).n;
	conform_reload (c);
	tap_is_int (count (c->instance, NULL).n, before, "all objects are there after a restart");
	tap_ok (same_bytes (c->instance, &want, data, len), "with their bytes");
	free (data);
}

struct list {
	struct silo_digest item[2048];
	size_t n;
};

static int
list_one (void *arg, const struct silo_digest *digest, int64_t size SILO_UNUSED)
{
	struct list *list = arg;
	list->item[list->n++] = *digest;
	return list->n == ARRAY_SIZE (list->item);
}

static void
test_remove_all (struct silo_instance *content)
{
	struct list *list = calloc (1, sizeof (*list));
	struct silo_error err = untouched;
	int failed = 0;
	if (!list || silo_content_each (content, list_one, list, &err) < 0)
		tap_bail ("each");
	for (size_t i = 0; i < list->n; i++)
		failed += silo_content_remove (content, &list->item[i], &err) < 0;
	tap_is_int (failed, 0, "everything that is listed can be removed");
	tap_is_int (count (content, NULL).n, 0, "then the store is empty");
	free (list);
}

int
conform_content (struct conform *c)
{
	test_missing (c->instance);
	test_size (c->instance, 0);
	test_size (c->instance, 1);
	test_size (c->instance, 4096);
	test_size (c->instance, LARGE);
	test_writer (c->instance);
	test_stage (c->instance);
	test_folder (c->instance);
	test_each_stops (c->instance);
	test_threads (c->instance);
	test_reload (c);
	test_remove_all (c->instance);
	return tap_done ();
}
