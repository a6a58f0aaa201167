/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layers.c - tests of core/layer-file.c, layer-lock.c and what import.c makes
 * of them: records say everything, damaged ones are unknown, and a blob is
 * imported by one at a time, also when a process is killed that was at it.
 */
#include "import.h"
#include "layers.h"
#include "tap.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PATIENCE (30 * 1000000000LL) /* ns until a wait has failed */

struct place {
	char dir[64];
	struct core *core;
	struct silo_instance *content;
};

static void
place_open (struct place *place)
{
	struct silo_error err = { 0 };
	if (core_bare (place->dir, &place->core, &err) < 0 ||
	    wiring_add (place->core, SILO_KIND_CONTENT, "dir", NULL, &place->content, &err) < 0 ||
	    wiring_start (place->core, &err) < 0)
		tap_bail ("%s: %s", place->dir, err.msg);
}

static struct silo_digest
blob_of (int number)
{
	struct silo_digest digest = { { 0xb1, 0x0b } };
	memcpy (digest.b + 4, &number, sizeof (number));
	return digest;
}

static struct silo_layer *
layer (struct silo_import *import, int number)
{
	const struct silo_digest blob = blob_of (number);
	struct silo_layer *ret = NULL;
	struct silo_error err = { 0 };
	if (silo_import_layer_blob (import, "L", &blob, -1, &ret, &err) < 0)
		tap_bail ("%s", err.msg);
	return ret;
}

static struct silo_import *
begin (struct place *place, const struct import_progress *progress)
{
	struct silo_import *import = NULL;
	struct silo_error err = { 0 };
	if (import_new (place->core, progress, &import, &err) < 0)
		tap_bail ("%s", err.msg);
	return import;
}

/* -- records ------------------------------------------------------------------------------ */

static const struct silo_xattr xattrs[] = { { "user.b", { "two", 3 } },
					    { "security.capability", { "\1\0\0", 3 } },
					    { "user.a", { "", 0 } } };
static const struct silo_entry below[] = {
	{ .type = SILO_ENTRY_DIR, .path = "d", .mode = 0755 },
	{ .type = SILO_ENTRY_FILE, .path = "d/hidden", .mode = 0644, .size = 5 },
	{ .type = SILO_ENTRY_FILE, .path = "gone", .mode = 0644, .size = 5 },
};
static const struct silo_entry above[] = {
	{ .type = SILO_ENTRY_DIR, .path = ".", .mode = 0700, .mtime = -1, .mtime_nsec = 999999999 },
	{ .type = SILO_ENTRY_WHITEOUT, .path = "gone" },
	{ .type = SILO_ENTRY_OPAQUE, .path = "d" },
	{ .type = SILO_ENTRY_DIR, .path = "d", .mode = 01777, .uid = UINT32_MAX, .gid = 70000 },
	{ .type = SILO_ENTRY_FILE,
	  .path = "d/file",
	  .mode = 04755,
	  .size = 5,
	  .xattrs = xattrs,
	  .n_xattrs = 3,
	  .mtime = INT64_C (1) << 33 },
	{ .type = SILO_ENTRY_FILE, .path = "d/empty", .mode = 0600, .mtime = INT32_MIN },
	{ .type = SILO_ENTRY_HARDLINK, .path = "d/again", .target = "d/file" },
	{ .type = SILO_ENTRY_HARDLINK,
	  .path = "d/more",
	  .target = "d/empty",
	  .mode = 0751,
	  .uid = 3,
	  .xattrs = xattrs,
	  .n_xattrs = 1 },
	{ .type = SILO_ENTRY_SYMLINK, .path = "link\n\xff", .target = "../x\n\x80" },
	{ .type = SILO_ENTRY_CHAR, .path = "null", .mode = 0666, .rdev_major = 1, .rdev_minor = 3 },
	{ .type = SILO_ENTRY_BLOCK,
	  .path = "disk",
	  .mode = 0660,
	  .rdev_major = 4095,
	  .rdev_minor = 1048575 },
	{ .type = SILO_ENTRY_FIFO, .path = "fifo", .mode = 0622 },
};

static int
deliver (struct silo_layer *layer, const struct silo_entry *entries, size_t n,
	 struct silo_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < n; i++) {
		r = silo_layer_entry (layer, &entries[i], err);
		if (r == 0 && entries[i].size > 0)
			r = silo_layer_data (layer, "bytes", 5, err);
	}
	return r == 0 ? silo_layer_end (layer, err) : r;
}

/* Import blobs 1 and 2; *ret_known counts those that were known. */
static struct silo_digest
import_both (struct place *place, int *ret_known, char *ret_layers, size_t size)
{
	struct silo_import *import = begin (place, NULL);
	struct silo_layer *low = layer (import, 1), *high = layer (import, 2);
	struct silo_buf layers SILO_CLEANUP (silo_buf_free) = SILO_BUF (1000);
	struct meta_info info = { 0 };
	struct silo_error err = { 0 };
	bool known = false;
	int r = silo_layer_begin (low, -1, &known, &err);
	*ret_known = known;
	if (r == 0 && !known)
		r = deliver (low, below, ARRAY_SIZE (below), &err);
	if (r == 0)
		r = silo_layer_begin (high, -1, &known, &err);
	*ret_known += known;
	if (r == 0 && !known)
		r = deliver (high, above, ARRAY_SIZE (above), &err);
	if (r == 0)
		r = import_layers (import, &layers, &err);
	if (r == 0)
		snprintf (ret_layers, size, "%s", (char *) layers.data);
	int fd = memfd_create ("meta", MFD_CLOEXEC);
	if (r == 0)
		r = import_finish (import, fd, &info, &err);
	if (r < 0)
		tap_bail ("%s", err.msg);
	close (fd);
	import_free (import);
	return info.digest;
}

static void
record_path (struct place *place, int number, char *ret, size_t size)
{
	const struct silo_digest blob = blob_of (number);
	char hex[SILO_DIGEST_HEX + 1];
	silo_digest_hex (&blob, hex);
	snprintf (ret, size, "%s/layers/%s", place->dir, hex);
}

static void
test_record (struct place *place)
{
	char layers[200], want[200], hex[2][SILO_DIGEST_HEX + 1];
	int known = 0;
	for (int i = 0; i < 2; i++) {
		const struct silo_digest blob = blob_of (i + 1);
		silo_digest_hex (&blob, hex[i]);
	}
	snprintf (want, sizeof (want), "%s %s", hex[0], hex[1]);
	const struct silo_digest first = import_both (place, &known, layers, sizeof (layers));
	tap_is_int (known, 0, "at first no layer is known");
	tap_is_str (layers, want, "the image record names both blobs");
	const struct silo_digest second = import_both (place, &known, layers, sizeof (layers));
	tap_is_int (known, 2, "then both are");
	tap_ok (silo_digest_equal (&first, &second), "and give the same metadata file");
	tap_is_str (layers, want, "from the same blobs");
}

static void
test_no_digest (struct place *place)
{
	struct silo_buf layers SILO_CLEANUP (silo_buf_free) = SILO_BUF (1000);
	struct silo_error err = { 0 };
	struct silo_layer *plain = NULL;
	bool known = true;
	struct silo_import *import = begin (place, NULL);
	layer (import, 1);
	tap_is_int (silo_import_layer (import, "plain", &plain, &err), 0, "a layer without digest");
	tap_is_int (silo_layer_begin (plain, -1, &known, &err), 0, "is begun");
	tap_ok (!known, "is not known");
	tap_is_int (deliver (plain, below, ARRAY_SIZE (below), &err), 0, "ends");
	tap_is_int (import_layers (import, &layers, &err), 0, "its image");
	tap_is_str ((char *) layers.data, "", "names no blobs");
	import_free (import);
}

/* -- damage ---------------------------------------------------------------------------------- */

static int
try_read (const void *data, size_t len)
{
	struct tree_layer *layer = NULL;
	struct silo_error err = { 0 };
	/* A copy of exactly this length, so that the sanitizer sees a byte too many. */
	unsigned char *copy = malloc (len ? len : 1);
	if (!copy)
		tap_bail ("no memory");
	if (len > 0)
		memcpy (copy, data, len);
	int r = layer_file_read (copy, len, &layer, &err);
	if (r == 0)
		tree_layer_free (layer);
	else if (err.code != r || !err.msg[0])
		tap_bail ("an error without text");
	free (copy);
	return r;
}

static void
sign (unsigned char *data, size_t len)
{
	struct silo_digest tail;
	silo_digest_of (data, len - 32, &tail, NULL);
	memcpy (data + len - 32, tail.b, 32);
}

static void
test_damage (struct place *place)
{
	struct silo_buf record SILO_CLEANUP (silo_buf_free) = SILO_BUF (1 << 20);
	struct silo_error err = { 0 };
	char path[256];
	int taken = 0, accepted = 0;
	uint64_t state = 88172645463325252u;
	record_path (place, 2, path, sizeof (path));
	if (silo_buf_add_file (&record, path, &err) < 0)
		tap_bail ("%s", err.msg);
	tap_is_int (try_read (record.data, record.len), 0, "a record is read");
	for (size_t len = 0; len < record.len; len++)
		taken += try_read (record.data, len) == 0;
	tap_is_int (taken, 0, "one that is cut anywhere is not");
	for (size_t i = 0; i < record.len; i++) {
		record.data[i] ^= 0x20;
		taken += try_read (record.data, record.len) == 0;
		record.data[i] ^= 0x20;
	}
	tap_is_int (taken, 0, "nor one with a changed byte");
	/* Somebody who can sign: any answer will do, as long as there is one. */
	for (int i = 0; i < 20000; i++) {
		unsigned char *copy = malloc (record.len);
		if (!copy)
			tap_bail ("no memory");
		memcpy (copy, record.data, record.len);
		for (int n = 0; n < 1 + i % 3; n++) {
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			copy[40 + state % (record.len - 72)] = (unsigned char) (state >> 32);
		}
		sign (copy, record.len);
		accepted += try_read (copy, record.len) == 0;
		free (copy);
	}
	tap_ok (accepted > 0 && accepted < 20000, "what is signed is read if it can be: %d of %d",
		accepted, 20000);
}

static void
object_path (struct place *place, char *ret, size_t size)
{
	struct silo_digest digest;
	char hex[SILO_DIGEST_HEX + 1];
	silo_digest_of ("bytes", 5, &digest, NULL);
	silo_digest_hex (&digest, hex);
	snprintf (ret, size, "%s/objects/%.2s/%s", place->dir, hex, hex + 2);
}

/* What makes a layer unknown is put right by its import. */
static void
test_unknown (struct place *place)
{
	char path[256], object[256], other[256], layers[200];
	const struct silo_digest want = import_both (place, &(int){ 0 }, layers, sizeof (layers));
	struct stat st;
	int known = 0;
	record_path (place, 1, other, sizeof (other));
	record_path (place, 2, path, sizeof (path));
	object_path (place, object, sizeof (object));
	for (int i = 0; i < 5; i++) {
		static const char *const what[] = { "without its object", "with a cut object",
						    "cut", "empty", "of another blob" };
		bool done = i == 0   ? unlink (object) == 0
			    : i == 1 ? truncate (object, 3) == 0
			    : i == 2 ? truncate (path, 100) == 0
			    : i == 3 ? truncate (path, 0) == 0
				     : unlink (path) == 0 && link (other, path) == 0;
		const struct silo_digest got = import_both (place, &known, layers, sizeof (layers));
		/* The object is in both: the import of the first brings it back. */
		tap_ok (done && known == 1, "a record %s is not known", what[i]);
		tap_ok (silo_digest_equal (&got, &want) && stat (object, &st) == 0 &&
			    st.st_size == 5,
			"the import puts it right");
		import_both (place, &known, layers, sizeof (layers));
		tap_is_int (known, 2, "then it is known again");
	}
}

/* -- one at a time ------------------------------------------------------------------------------ */

struct taker {
	pthread_t thread;
	struct place *place;
	int first, n, step; /* blobs */
	int cancel_fd, stop_fd;
	atomic_int *at_it; /* how many import blob `first`; NULL: not counted */
	int r, imported, together;
	struct silo_error err;
};

/* Import n blobs of one image one after another. */
static void *
take (void *arg)
{
	struct taker *t = arg;
	const struct import_progress progress = { .cancel_fd = t->cancel_fd };
	struct silo_import *import = begin (t->place, &progress);
	for (int i = 0; t->r == 0 && i < t->n; i++) {
		struct silo_layer *l = layer (import, t->first + i * t->step);
		bool known = false;
		t->r = silo_layer_begin (l, t->stop_fd, &known, &t->err);
		if (t->r < 0 || known)
			continue;
		t->imported++;
		if (t->at_it)
			t->together += atomic_fetch_add (t->at_it, 1) != 0;
		for (int k = 0; k < 20; k++)
			sched_yield ();
		if (t->at_it)
			atomic_fetch_sub (t->at_it, 1);
		t->r = deliver (l, below, ARRAY_SIZE (below), &t->err);
	}
	import_free (import);
	return NULL;
}

static void
start (struct taker *t)
{
	if (pthread_create (&t->thread, NULL, take, t) != 0)
		tap_bail ("thread");
}

static void
test_same_blob (struct place *place)
{
	enum { N = 12 };
	atomic_int at_it = 0;
	struct taker t[N];
	int imported = 0, together = 0, bad = 0;
	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < N; i++) {
			t[i] = (struct taker){ .place = place,
					       .first = 1000 + round,
					       .n = 1,
					       .cancel_fd = -1,
					       .stop_fd = -1,
					       .at_it = &at_it };
			start (&t[i]);
		}
		for (int i = 0; i < N; i++) {
			pthread_join (t[i].thread, NULL);
			imported += t[i].imported;
			together += t[i].together;
			bad += t[i].r < 0;
		}
	}
	tap_is_int (bad, 0, "%d imports of one blob at once, 20 times", N);
	tap_is_int (imported, 20, "one of them does it");
	tap_is_int (together, 0, "alone");
}

static void
test_crosswise (struct place *place)
{
	struct taker up = {
		.place = place, .first = 2000, .n = 100, .step = 1, .cancel_fd = -1, .stop_fd = -1
	};
	struct taker down = {
		.place = place, .first = 2099, .n = 100, .step = -1, .cancel_fd = -1, .stop_fd = -1
	};
	start (&up);
	start (&down);
	pthread_join (up.thread, NULL);
	pthread_join (down.thread, NULL);
	tap_ok (up.r == 0 && down.r == 0, "two images with the same layers in opposite order");
	tap_is_int (up.imported + down.imported, 100, "each layer is imported once");
}

/* Until some thread of ours waits for a blob: it has the fifo open for reading. */
static bool
somebody_waits (int number)
{
	const struct silo_digest blob = blob_of (number);
	char hex[SILO_DIGEST_HEX + 1], link[64], target[512];
	int64_t end = silo_monotonic () + PATIENCE;
	silo_digest_hex (&blob, hex);
	while (silo_monotonic () < end) {
		for (int fd = 3; fd < 64; fd++) {
			snprintf (link, sizeof (link), "/proc/self/fd/%d", fd);
			ssize_t n = readlink (link, target, sizeof (target) - 1);
			if (n <= 0)
				continue;
			target[n] = '\0';
			if (strstr (target, hex) && (fcntl (fd, F_GETFL) & O_ACCMODE) == O_RDONLY)
				return true;
		}
		sched_yield ();
	}
	return false;
}

static void
test_cancel (struct place *place)
{
	struct silo_error err = { 0 };
	bool known = true;
	struct silo_import *import = begin (place, NULL);
	struct silo_layer *held = layer (import, 3000);
	tap_is_int (silo_layer_begin (held, -1, &known, &err), 0, "a blob is being imported");
	for (int i = 0; i < 2; i++) {
		struct taker t = {
			.place = place, .first = 3000, .n = 1, .cancel_fd = -1, .stop_fd = -1
		};
		int fd = eventfd (0, EFD_CLOEXEC);
		*(i == 0 ? &t.cancel_fd : &t.stop_fd) = fd;
		start (&t);
		tap_ok (somebody_waits (3000), "another import waits for it");
		eventfd_write (fd, 1);
		pthread_join (t.thread, NULL);
		close (fd);
		tap_ok (t.r == SILO_CANCELLED && t.err.code == t.r, "and can be stopped by its %s",
			i == 0 ? "user" : "plugin");
	}
	import_free (import);
	struct taker t = { .place = place, .first = 3000, .n = 1, .cancel_fd = -1, .stop_fd = -1 };
	start (&t);
	pthread_join (t.thread, NULL);
	tap_ok (t.r == 0 && t.imported == 1, "what was given up is free again");
}

/* This program as a process of its own, which imports a blob and never ends. */
static struct silo_process
holder (struct place *place, int number)
{
	char self[PATH_MAX], text[16], answer = 0;
	struct silo_process process;
	struct silo_error err = { 0 };
	ssize_t n = readlink ("/proc/self/exe", self, sizeof (self) - 1);
	self[n > 0 ? n : 0] = '\0';
	snprintf (text, sizeof (text), "%d", number);
	const char *const argv[] = { self, place->dir, text, NULL };
	const struct silo_spawn spawn = { .argv = argv, .in = -1, .out = true };
	if (silo_spawn (&spawn, &process, &err) < 0 || read (process.out, &answer, 1) != 1)
		tap_bail ("%s: %s", self, err.msg);
	return process;
}

static int
hold (const char *dir, const char *number)
{
	struct place place;
	struct silo_error err = { 0 };
	bool known = true;
	snprintf (place.dir, sizeof (place.dir), "%s", dir);
	place_open (&place);
	struct silo_import *import = begin (&place, NULL);
	struct silo_layer *l = layer (import, (int) strtol (number, NULL, 10));
	if (silo_layer_begin (l, -1, &known, &err) < 0 || known ||
	    write (STDOUT_FILENO, "+", 1) != 1)
		return 1;
	for (;;)
		pause ();
}

static void
test_killed (struct place *place)
{
	int bad = 0;
	for (int i = 0; i < 10; i++) {
		struct silo_process process = holder (place, 4000 + i);
		struct taker t = {
			.place = place, .first = 4000 + i, .n = 1, .cancel_fd = -1, .stop_fd = -1
		};
		struct silo_error err;
		int status = 0;
		start (&t);
		bad += !somebody_waits (4000 + i);
		kill (process.pid, SIGKILL);
		pthread_join (t.thread, NULL);
		bad += t.r < 0 || t.imported != 1;
		bad += silo_process_wait (&process, &status, &err) < 0 || status != 128 + SIGKILL;
	}
	tap_is_int (bad, 0, "a process that imports is killed: who waited imports, ten times");
}

static void
test_traces (struct place *place)
{
	char path[128];
	int strange = 0;
	snprintf (path, sizeof (path), "%s/layers", place->dir);
	DIR *dir = opendir (path);
	for (const struct dirent *e; dir && (e = readdir (dir));)
		strange += e->d_name[0] != '.' && strlen (e->d_name) != SILO_DIGEST_HEX;
	tap_ok (dir != NULL, "the folder of records");
	tap_is_int (strange, 0, "holds nothing else when nobody imports");
	if (dir)
		closedir (dir);
}

int
main (int argc, char **argv)
{
	struct place place;
	struct silo_error err = { 0 };
	const char *tmp = getenv ("TMPDIR");
	if (argc > 2)
		return hold (argv[1], argv[2]);
	snprintf (place.dir, sizeof (place.dir), "%.40s/silo-layers-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp (place.dir))
		tap_bail ("%s: %s", place.dir, strerror (errno));
	place_open (&place);
	test_record (&place);
	test_no_digest (&place);
	test_damage (&place);
	test_unknown (&place);
	test_same_blob (&place);
	test_crosswise (&place);
	test_cancel (&place);
	test_killed (&place);
	test_traces (&place);
	core_close (place.core);
	if (files_remove (place.dir, &err) < 0)
		tap_bail ("%s", err.msg);
	return tap_done ();
}
