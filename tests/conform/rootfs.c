/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rootfs.c - the suite of the rootfs kind: a tree is indexed through the core,
 * mounted by the plugin under test, and compared with its source; writes stay
 * in their mount; nothing is left of any mount.  Needs root.
 */
#include "rootfs.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include "tap.h"

#define DEADLINE_S   20
#define READ_THREADS 4
#define READ_MS      3000
#define REPEATS      100
#define UPPER_SIZE   (8 << 20)

/* One run of the suite. */
struct run {
	struct conform *c;
	struct silo_instance *content;
	char source[PATH_MAX]; /* the tree */
	char meta[PATH_MAX];   /* its metadata file */
};

/* One mount. */
struct seat {
	struct run *run;
	char target[PATH_MAX], scratch[PATH_MAX];
	void *mount;
	bool mounted;
};

/* -- seats -- */

static void
seat_init (struct run *run, const char *name, struct seat *ret)
{
	char scratch[NAME_MAX + 1];

	*ret = (struct seat){ .run = run };
	snprintf (scratch, sizeof (scratch), "%s.scratch", name);
	conform_mkdir (run->c, name, ret->target, sizeof (ret->target));
	conform_mkdir (run->c, scratch, ret->scratch, sizeof (ret->scratch));
}

static int
seat_try (struct seat *seat, const char *meta, bool writable, int64_t upper_size,
	  struct silo_error *err)
{
	const struct silo_rootfs_spec spec = {
		.meta = meta,
		.content = seat->run->content,
		.target = seat->target,
		.scratch = seat->scratch,
		.writable = writable,
		.upper_size = upper_size,
	};

	int r = instance_call (seat->run->c->instance, rootfs, mount, &spec, &seat->mount, err);
	seat->mounted = r == 0;
	return r;
}

static int
seat_leave (struct seat *seat, struct silo_error *err)
{
	if (!seat->mounted)
		return 0;
	seat->mounted = false;
	return instance_call (seat->run->c->instance, rootfs, unmount, seat->mount, err);
}

/* Mount it, for tests that make no sense without. */
static bool
seat_take (struct seat *seat, bool writable)
{
	struct silo_error err = { 0 };

	int r = seat_try (seat, seat->run->meta, writable, UPPER_SIZE, &err);
	return tap_ok (r == 0, "mount %s%s%s", writable ? "writable" : "read-only",
		       r < 0 ? ": " : "", err.msg);
}

/* Unmount, and remove the folders as the core does.  Both are empty of mounts then. */
static void
seat_free (struct seat *seat)
{
	struct silo_error err = { 0 };

	if (seat->mounted)
		tap_ok (seat_leave (seat, &err) == 0, "unmount%s%s", err.msg[0] ? ": " : "",
			err.msg);
	tap_is_int (rmdir (seat->target), 0, "the target is an empty folder again");
	tap_ok (files_remove (seat->scratch, &err) == 0, "scratch can be removed%s%s",
		err.msg[0] ? ": " : "", err.msg);
}

static void
seat_path (const struct seat *seat, const char *name, char ret[PATH_MAX])
{
	int n = snprintf (ret, PATH_MAX, "%s/%s", seat->target, name);
	assert (n < PATH_MAX);
}

/* -- the image -- */

static void
run_index (struct run *run)
{
	static const char *const none[] = { NULL };
	struct core *core = run->c->core;
	char reference[PATH_MAX + 4];
	struct silo_error err = { 0 };
	struct image_copy *image = NULL;
	bool known;

	run->content = conform_add (run->c, SILO_KIND_CONTENT, "dir", none);
	conform_add (run->c, SILO_KIND_IMAGE, "folder", none);
	conform_add (run->c, SILO_KIND_STORAGE, "files", none);
	conform_mkdir (run->c, "tree", run->source, sizeof (run->source));
	tree_make (run->source);
	snprintf (reference, sizeof (reference), "dir:%s", run->source);

	const struct silo_image_source source = { .reference = reference,
						  .tls_verify = true,
						  .platform = "" };
	const struct index_request request = { &source, "tree", false, NULL };
	int r = image_index (core, &request, &image, &known, &err);
	if (r == 0)
		r = image_meta_path (core, &image->image, run->meta, sizeof (run->meta), &err);
	free (image);
	if (r < 0)
		tap_bail ("indexing the tree: %s", err.msg);
}

/* -- the tests -- */

static void
test_probe (struct run *run)
{
	struct silo_error err = { 0 };
	struct holdings before;
	char scratch[PATH_MAX];

	conform_mkdir (run->c, "probe", scratch, sizeof (scratch));
	holdings_take (&before);
	int r = instance_call (run->c->instance, rootfs, probe, scratch, &err);
	tap_ok (r == 0, "probe: it works here%s%s", r < 0 ? ": " : "", err.msg);
	holdings_same (&before, "probe");
	tap_is_int (rmdir (scratch), 0, "probe leaves its folder empty");
}

static void
test_same (struct run *run, bool writable)
{
	const char *how = writable ? "writable" : "read-only";
	struct holdings before;
	char want[256], got[256];
	struct stat a, b, c;
	struct seat seat;
	char path[PATH_MAX];

	seat_init (run, "same", &seat);
	holdings_take (&before);
	if (seat_take (&seat, writable)) {
		tap_is_int (tree_compare (run->source, seat.target), 0,
			    "%s: every entry is as in the source", how);
		tree_find (run->source, want, sizeof (want));
		tree_find (seat.target, got, sizeof (got));
		tap_is_str (got, want, "%s: find prints the same", how);
		seat_path (&seat, "links/one", path);
		bool ok = stat (path, &a) == 0;
		seat_path (&seat, "links/two", path);
		ok = ok && stat (path, &b) == 0;
		seat_path (&seat, "modes/three", path);
		tap_ok (ok && stat (path, &c) == 0 && a.st_ino == b.st_ino && b.st_ino == c.st_ino,
			"%s: hard links are one inode", how);
		seat_path (&seat, "many/nowhere", path);
		tap_ok (access (path, F_OK) < 0 && errno == ENOENT && access (path, F_OK) < 0 &&
			    errno == ENOENT,
			"%s: a name that is not there is not there, twice", how);
	}
	seat_free (&seat);
	holdings_same (&before, how);
}

/* What a folder's own numbers say: ".." leads back, all the way up. */
static void
test_dots (struct run *run)
{
	struct seat seat;
	char path[PATH_MAX];
	struct stat up, top;

	seat_init (run, "dots", &seat);
	if (seat_take (&seat, false)) {
		seat_path (&seat, "deep/d0/d1/d2/..", path);
		bool ok = stat (path, &up) == 0;
		seat_path (&seat, "deep/d0/d1", path);
		tap_ok (ok && stat (path, &top) == 0 && up.st_ino == top.st_ino,
			"\"..\" of a folder is the folder above");
		seat_path (&seat, "deep/d0/../..", path);
		tap_ok (stat (path, &up) == 0 && stat (seat.target, &top) == 0 &&
			    up.st_ino == top.st_ino,
			"\"..\" leads back to the root");
	}
	seat_free (&seat);
}

static void
test_readonly (struct run *run)
{
	struct seat seat;
	struct statvfs st;
	char path[PATH_MAX];

	seat_init (run, "readonly", &seat);
	if (seat_take (&seat, false)) {
		seat_path (&seat, "new", path);
		tap_is_int (tree_write (path, "x"), -EROFS, "read-only: no new file");
		seat_path (&seat, TREE_ALONE, path);
		tap_is_int (tree_write (path, "x"), -EROFS, "read-only: no write");
		tap_ok (unlink (path) < 0 && errno == EROFS, "read-only: no unlink");
		tap_ok (chmod (path, 0600) < 0 && errno == EROFS, "read-only: no chmod");
		tap_ok (setxattr (path, "user.new", "1", 1, 0) < 0 && errno == EROFS,
			"read-only: no new attribute");
		tap_ok (statvfs (path, &st) == 0 && (st.f_flag & ST_RDONLY),
			"read-only: statvfs says so");
		tap_ok ((st.f_flag & ST_NODEV) && (st.f_flag & ST_NOSUID),
			"device nodes and set-id do nothing");
		seat_path (&seat, "modes/null", path);
		int fd = open (path, O_RDONLY | O_CLOEXEC);
		tap_ok (fd < 0 && errno == EACCES, "a device node cannot be opened");
	}
	seat_free (&seat);
}

/* Change all kinds of things in one mount. */
static void
write_all (const struct seat *seat)
{
	char path[PATH_MAX], to[PATH_MAX];
	struct stat st;

	seat_path (seat, "new", path);
	tap_is_int (tree_write (path, "new"), 0, "a new file");
	seat_path (seat, TREE_LARGE, path);
	tap_is_int (tree_write (path, "more"), 0, "append to a large file");
	tap_ok (stat (path, &st) == 0 && st.st_size == TREE_LARGE_SIZE + 4, "it has grown");
	seat_path (seat, TREE_ALONE, path);
	tap_is_int (unlink (path), 0, "unlink");
	seat_path (seat, "odd", path);
	seat_path (seat, "even", to);
	tap_is_int (rename (path, to), 0, "rename a folder");
	seat_path (seat, "sizes/4096", path);
	tap_is_int (truncate (path, 10), 0, "truncate");
	seat_path (seat, "sizes/4097", path);
	tap_is_int (chmod (path, 0600), 0, "chmod");
	seat_path (seat, "xattrs/file", path);
	tap_is_int (setxattr (path, "user.text", "changed", 7, 0), 0, "set an attribute");
	seat_path (seat, "many/new", path);
	tap_is_int (mkdir (path, 0755), 0, "mkdir");
	seat_path (seat, "links/two", path);
	tap_is_int (tree_write (path, "changed"), 0, "write to a file of several links");
	tap_is_int (chown (seat->target, 99, 99), 0, "chown of the root");
}

static void
test_private (struct run *run)
{
	struct seat a, b, after;
	struct holdings before;
	char path[PATH_MAX];

	seat_init (run, "private-a", &a);
	seat_init (run, "private-b", &b);
	seat_init (run, "private-after", &after);
	holdings_take (&before);
	if (seat_take (&a, true) && seat_take (&b, true)) {
		write_all (&a);
		seat_path (&a, "even/with space", path);
		tap_is_int (access (path, F_OK), 0, "the renamed folder has its files");
		tap_is_int (tree_compare (run->source, b.target), 0,
			    "another mount sees nothing of it");
	}
	if (seat_take (&after, false))
		tap_is_int (tree_compare (run->source, after.target), 0,
			    "nor does one made later: objects are as they were");
	seat_free (&a);
	tap_is_int (tree_compare (run->source, b.target), 0,
		    "the other one lives on after the first is unmounted");
	seat_free (&b);
	seat_free (&after);
	holdings_same (&before, "three mounts");
}

/* Write zeros until it fails; -errno, or 0 when `most` bytes went in. */
static int
fill (const char *path, size_t most)
{
	_cleanup_close_ int fd = open (path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	static const char zeros[65536];

	if (fd < 0)
		return -errno;
	for (size_t done = 0; done < most; done += sizeof (zeros)) {
		if (write (fd, zeros, sizeof (zeros)) < 0)
			return -errno;
	}
	return 0;
}

/* Is the instance configured with `upper = disk`, which is documented to have no limit? */
static bool
upper_on_disk (const struct silo_instance *instance)
{
	const struct silo_plugin *plugin = &instance->plugin->head;
	struct silo_option row;

	for (size_t i = 0; options_row (plugin->options, plugin->option_size, i, &row); i++) {
		if (strcmp (row.name, "upper") == 0 && row.type == SILO_CHOICE)
			return *(const int64_t *) ((const char *) instance->self + row.offset) == 1;
	}
	return false;
}

static void
test_limit (struct run *run)
{
	struct silo_error err = { 0 };
	struct seat seat;
	char path[PATH_MAX];
	int r = 0, n;

	if (upper_on_disk (run->c->instance)) {
		tap_note ("an upper on disk has no limit of its own to test");
		return;
	}
	seat_init (run, "limit", &seat);
	if (tap_ok (seat_try (&seat, run->meta, true, UPPER_SIZE, &err) == 0,
		    "mount with an upper of 8 MiB%s%s", err.msg[0] ? ": " : "", err.msg)) {
		seat_path (&seat, "half", path);
		tap_is_int (fill (path, UPPER_SIZE / 2), 0, "half of it can be written");
		seat_path (&seat, "rest", path);
		tap_is_int (fill (path, UPPER_SIZE), -ENOSPC, "more than all of it cannot");
		unlink (path);
		for (n = 0; n < 100000 && r == 0; n++) {
			char name[32];
			snprintf (name, sizeof (name), "empty-%d", n);
			seat_path (&seat, name, path);
			r = fill (path, 0);
		}
		tap_is_int (r, -ENOSPC, "empty files are counted, too (%d fit)", n);
	}
	seat_free (&seat);
}

/* -- a file that is open when its mount goes -- */

struct open_read {
	int fd;
	ssize_t n;
};

static void *
open_read_main (void *arg)
{
	struct open_read *job = arg;
	char buf[4096];

	job->n = pread (job->fd, buf, sizeof (buf), TREE_LARGE_SIZE / 2);
	close (job->fd);
	return NULL;
}

static bool
join_in_time (pthread_t thread)
{
	struct timespec until;

	clock_gettime (CLOCK_REALTIME, &until);
	until.tv_sec += DEADLINE_S;
	return pthread_timedjoin_np (thread, NULL, &until) == 0;
}

static void
test_busy (struct run *run)
{
	struct silo_error err = { 0 };
	struct holdings before;
	struct seat seat;
	char path[PATH_MAX];
	pthread_t thread;

	seat_init (run, "busy", &seat);
	holdings_take (&before);
	if (seat_take (&seat, true)) {
		seat_path (&seat, TREE_LARGE, path);
		struct open_read job = { .fd = open (path, O_RDONLY | O_CLOEXEC) };
		tap_ok (job.fd >= 0, "open a file");
		tap_is_int (seat_leave (&seat, &err), 0, "unmount while a file is open");
		tap_ok (access (path, F_OK) < 0 && errno == ENOENT, "it is gone from its folder");
		if (pthread_create (&thread, NULL, open_read_main, &job) != 0)
			tap_bail ("thread");
		if (!tap_ok (join_in_time (thread),
			     "reading the open file ends, one way or another"))
			tap_bail ("a reader hangs");
	}
	seat_free (&seat);
	holdings_same (&before, "busy unmount");
}

/* -- many readers -- */

struct reader {
	const struct run *run;
	const char *target;
	pthread_t thread;
	unsigned seed;
	int files, wrong;
};

static int
reader_compare (const struct reader *reader, const char *name)
{
	_cleanup_free_ char *want = NULL, *got = NULL;
	char a[PATH_MAX], b[PATH_MAX];

	snprintf (a, sizeof (a), "%.2000s/%.255s", reader->run->source, name);
	snprintf (b, sizeof (b), "%.2000s/%.255s", reader->target, name);
	ssize_t n = tree_read (a, &want), m = tree_read (b, &got);
	return n < 0 || n != m || memcmp (want, got, (size_t) n) != 0;
}

static void *
reader_main (void *arg)
{
	static const char *const names[] = { TREE_LARGE,     TREE_ALONE,     "sizes/65536",
					     "sizes/131073", "sizes/sparse", "links/absolute",
					     "links/one",    "modes/owned",  "xattrs/file" };
	struct reader *reader = arg;
	int64_t until = silo_monotonic () + INT64_C (1000000) * READ_MS;

	while (silo_monotonic () < until) {
		const char *name = names[(size_t) rand_r (&reader->seed) % ARRAY_SIZE (names)];
		/* That one is not read: O_NOFOLLOW.  It is there to mix lookups in. */
		if (strcmp (name, "links/absolute") == 0)
			continue;
		reader->wrong += reader_compare (reader, name);
		reader->files++;
	}
	return NULL;
}

static void
test_readers (struct run *run)
{
	struct reader readers[READ_THREADS];
	struct seat seat;
	int files = 0, wrong = 0;

	seat_init (run, "readers", &seat);
	if (seat_take (&seat, true)) {
		for (unsigned i = 0; i < READ_THREADS; i++) {
			readers[i] =
			    (struct reader){ .run = run, .target = seat.target, .seed = i + 1 };
			if (pthread_create (&readers[i].thread, NULL, reader_main, &readers[i]))
				tap_bail ("thread");
		}
		for (size_t i = 0; i < READ_THREADS; i++) {
			pthread_join (readers[i].thread, NULL);
			files += readers[i].files;
			wrong += readers[i].wrong;
		}
		tap_ok (wrong == 0 && files > READ_THREADS,
			"%d threads read the right bytes (%d files, %d wrong)", READ_THREADS, files,
			wrong);
	}
	seat_free (&seat);
}

/* -- again and again -- */

static void *
repeat_main (void *arg)
{
	struct seat *seat = arg;
	struct silo_error err = { 0 };
	char path[PATH_MAX];
	_cleanup_free_ char *bytes = NULL;
	intptr_t good = 0;

	seat_path (seat, TREE_ALONE, path);
	for (int i = 0; i < REPEATS; i++) {
		if (seat_try (seat, seat->run->meta, i % 2, UPPER_SIZE, &err) < 0)
			break;
		bool read = tree_read (path, &bytes) == 7777;
		free (silo_steal (&bytes));
		if (seat_leave (seat, &err) == 0 && read)
			good++;
		/* What a disk upper leaves is the caller's to remove. */
		if (files_remove (seat->scratch, &err) < 0 || mkdir (seat->scratch, 0700) < 0)
			break;
	}
	return (void *) good;
}

static void
test_repeat (struct run *run)
{
	struct holdings before;
	struct seat seats[READ_THREADS];
	pthread_t threads[READ_THREADS];

	for (int i = 0; i < READ_THREADS; i++) {
		char name[32];
		snprintf (name, sizeof (name), "repeat-%d", i);
		seat_init (run, name, &seats[i]);
	}
	holdings_take (&before);
	tap_is_int ((intptr_t) repeat_main (&seats[0]), REPEATS, "mount and unmount %d times",
		    REPEATS);
	holdings_same (&before, "many mounts, one after another");

	for (int i = 0; i < READ_THREADS; i++) {
		if (pthread_create (&threads[i], NULL, repeat_main, &seats[i]))
			tap_bail ("thread");
	}
	for (int i = 0; i < READ_THREADS; i++) {
		void *good;
		pthread_join (threads[i], &good);
		tap_is_int ((intptr_t) good, REPEATS, "the same from thread %d of %d at once",
			    i + 1, READ_THREADS);
	}
	holdings_same (&before, "many mounts at once");
	for (int i = 0; i < READ_THREADS; i++)
		seat_free (&seats[i]);
}

/* -- what is wrong with an image -- */

static void
test_missing_object (struct run *run)
{
	char source[PATH_MAX + 16], path[PATH_MAX], other[PATH_MAX];
	_cleanup_free_ char *bytes = NULL;
	struct silo_error err = { 0 };
	struct silo_digest digest, again;
	struct seat seat;
	int64_t size;

	snprintf (source, sizeof (source), "%s/%s", run->source, TREE_ALONE);
	ssize_t n = tree_read (source, &bytes);
	if (n < 0 || silo_digest_of (bytes, (size_t) n, &digest, &err) < 0)
		tap_bail ("%s: %zd, %s", source, n, err.msg);
	tap_is_int (silo_content_remove (run->content, &digest, &err), 0, "remove an object");
	free (silo_steal (&bytes));

	seat_init (run, "missing", &seat);
	if (seat_take (&seat, false)) {
		seat_path (&seat, TREE_ALONE, path);
		tap_ok (tree_read (path, &bytes) < 0, "a file without its object cannot be read");
		seat_path (&seat, "sizes/4096", other);
		tap_is_int (tree_read (other, &bytes), 4096, "the others can be read");
	}
	seat_free (&seat);

	_cleanup_close_ int fd = open (source, O_RDONLY | O_CLOEXEC);
	tap_ok (silo_content_add (run->content, fd, &again, &size, &err) == 0 &&
		    silo_digest_equal (&digest, &again),
		"put it back%s%s", err.msg[0] ? ": " : "", err.msg);
}

static void
bad_meta (struct run *run, const char *what, const char *path)
{
	struct silo_error err = { 0 };
	struct seat seat;

	seat_init (run, "bad", &seat);
	tap_ok (seat_try (&seat, path, true, UPPER_SIZE, &err) < 0 && err.code < 0 && err.msg[0],
		"%s is refused: %s", what, err.msg);
	seat_free (&seat);
}

static void
test_bad_meta (struct run *run)
{
	struct holdings before;
	char path[PATH_MAX];

	holdings_take (&before);
	snprintf (path, sizeof (path), "%s/nowhere", run->c->dir);
	bad_meta (run, "a metadata file that is not there", path);
	bad_meta (run, "a folder as metadata file", run->source);
	snprintf (path, sizeof (path), "%.2000s/empty.erofs", run->c->dir);
	tap_is_int (tree_write (path, ""), 0, "an empty file");
	bad_meta (run, "an empty metadata file", path);
	snprintf (path, sizeof (path), "%.2000s/zeros.erofs", run->c->dir);
	tap_is_int (fill (path, 65536), 0, "a file of zeros");
	bad_meta (run, "a metadata file of zeros", path);
	holdings_same (&before, "bad metadata");
}

static void
test_bad_target (struct run *run)
{
	struct silo_error err = { 0 };
	struct holdings before;
	struct seat seat;

	seat_init (run, "target", &seat);
	holdings_take (&before);
	tap_is_int (rmdir (seat.target), 0, "remove the target");
	tap_ok (seat_try (&seat, run->meta, true, UPPER_SIZE, &err) < 0 && err.msg[0],
		"a target that is not there is refused: %s", err.msg);
	holdings_same (&before, "bad target");
	tap_is_int (mkdir (seat.target, 0700), 0, "put it back");
	seat_free (&seat);
}

/* -- wait -- */

static void *
wait_main (void *arg)
{
	struct seat *seat = arg;
	struct silo_error err = { 0 };

	return (void *) (intptr_t) instance_call (seat->run->c->instance, rootfs, wait, seat->mount,
						  &err);
}

static void
test_outside (struct run *run)
{
	struct holdings before;
	pthread_t thread;
	struct seat seat;
	bool waits = instance_ops (run->c->instance, rootfs)->wait;

	seat_init (run, "outside", &seat);
	holdings_take (&before);
	if (seat_take (&seat, true)) {
		if (waits && pthread_create (&thread, NULL, wait_main, &seat) != 0)
			tap_bail ("thread");
		tap_is_int (umount2 (seat.target, MNT_DETACH), 0, "unmount it from outside");
		if (waits && !tap_ok (join_in_time (thread), "wait returns"))
			tap_bail ("wait hangs");
	}
	seat_free (&seat);
	holdings_same (&before, "unmount from outside");
}

/* A second life of the instance: nothing of the first is in its way. */
static void
test_reload (struct run *run)
{
	struct seat seat;

	conform_reload (run->c);
	seat_init (run, "reload", &seat);
	if (seat_take (&seat, true))
		tap_is_int (tree_compare (run->source, seat.target), 0,
			    "after a restart every entry is as in the source");
	seat_free (&seat);
}

int
conform_rootfs (struct conform *c)
{
	struct run run = { .c = c };

	if (geteuid () != 0) {
		tap_skip (1, "mounting needs root");
		return tap_done ();
	}
	run_index (&run);
	test_probe (&run);
	test_same (&run, false);
	test_same (&run, true);
	test_dots (&run);
	test_readonly (&run);
	test_private (&run);
	test_limit (&run);
	test_busy (&run);
	test_readers (&run);
	test_repeat (&run);
	test_missing_object (&run);
	test_bad_meta (&run);
	test_bad_target (&run);
	test_outside (&run);
	test_reload (&run);
	return tap_done ();
}
