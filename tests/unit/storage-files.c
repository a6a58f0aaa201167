/* SPDX-License-Identifier: Apache-2.0 */
/*
 * storage-files.c - tests of storage/files alone: the folder that operators
 * read, folders that must be refused, damaged files, what killed processes
 * leave, a full disk, starts at the same moment.
 */
#include "storage.h"

#define DISK "4m"

struct place {
	char state[STATE_SIZE];
	char store[STATE_SIZE + 16];
};

/* The path of something in the store; valid until the next call but one. */
static const char *
in_store (const struct place *place, const char *name, char path[STATE_SIZE + 128])
{
	snprintf (path, STATE_SIZE + 128, "%s/%s", place->store, name);
	return path;
}

#define IN_STORE(name) in_store (place, (name), (char[STATE_SIZE + 128]){ 0 })
#define TASK(id, what) IN_STORE ("tasks/000000000000000000" #id what)

static void
open_or_bail (struct store *store, const struct place *place, const char *const *options)
{
	struct silo_error err;
	if (store_open (store, place->state, "files", options, &err) < 0)
		tap_bail ("%s", err.msg);
}

static void
remove_store (const struct place *place)
{
	const char *const argv[] = { "rm", "-rf", place->store, NULL };
	struct silo_error err;
	if (silo_run (argv, NULL, 0, NULL, &err) < 0)
		tap_bail ("%s", err.msg);
}

static void
put_image (struct store *store, const char *name)
{
	const struct silo_image image = { .name = name,
					  .source = "",
					  .source_id = "",
					  .config = "{}",
					  .python = "",
					  .python_version = "" };
	struct silo_error err;
	if (instance_call (store->instance, storage, image_put, &image, &err) < 0)
		tap_bail ("%s", err.msg);
}

static void
put_thing (struct store *store, const char *kind, const char *name)
{
	const struct silo_thing thing = { kind, name, { "value", 5 }, 1 };
	struct silo_error err;
	if (instance_call (store->instance, storage, thing_put, &thing, &err) < 0)
		tap_bail ("%s", err.msg);
}

/* A store with tasks 1 (done), 2 (running), 3 (queued), an image and a thing. */
static void
make_store (const struct place *place, struct store *store)
{
	struct silo_error err;
	int64_t ids[3];

	remove_store (place);
	open_or_bail (store, place, NULL);
	if (add_tasks (store, 3, 3000, ids, &err) < 0 ||
	    instance_call (store->instance, storage, task_start, 1, 1, 5, &err) < 0 ||
	    finish_task (store, 1, &err) < 0 ||
	    instance_call (store->instance, storage, task_start, 2, 1, 5, &err) < 0)
		tap_bail ("%s", err.msg);
	put_image (store, "python:3.11");
	put_thing (store, "code", "a/b");
}

static bool
exists (const char *path)
{
	struct stat st;
	return lstat (path, &st) == 0;
}

static int
count_entries (const char *path)
{
	_cleanup_closedir_ DIR *dir = opendir (path);
	struct dirent *entry;
	int n = 0;
	if (!dir)
		tap_bail ("%s: %s", path, strerror (errno));
	while ((entry = readdir (dir)))
		n += entry->d_name[0] != '.';
	return n;
}

static void
test_layout (const struct place *place)
{
	/* Both sums can be checked with a shell. */
	const char *const sums[] = { "sh", "-c",
				     "set -e; for f in \"$0\"/tasks/*.task; do "
				     "test \"$(sed -n '2p' $f | sha256sum | cut -c1-64)\" = "
				     "\"$(sed -n '1s/.* //p' $f)\"; done",
				     place->store, NULL };
	struct store store;
	struct silo_error err;
	struct stat st;
	size_t len;

	make_store (place, &store);
	tap_ok (stat (place->store, &st) == 0 && (st.st_mode & 07777) == 0700, "mode 0700");
	tap_ok (stat (TASK (1, ".task"), &st) == 0 && (st.st_mode & 07777) == 0600, "mode 0600");
	tap_ok (exists (TASK (1, ".result")) && !exists (TASK (1, ".run")), "a task that is done");
	tap_ok (exists (TASK (2, ".run")) && !exists (TASK (2, ".result")), "one that runs");
	tap_ok (!exists (TASK (3, ".run")) && !exists (TASK (3, ".result")), "one that waits");
	tap_ok (exists (IN_STORE ("images/python%3A3.11.image")), "an image's name is encoded");
	tap_ok (exists (IN_STORE ("things/code/a%2Fb.thing")), "a thing's too");
	tap_is_int (count_entries (IN_STORE ("temp")), 0, "nothing is left in temp");
	char last[32] = "";
	tap_is_int (readlink (IN_STORE ("last"), last, sizeof (last) - 1), 1, "a link");
	tap_is_str (last, "3", "to the last id");
	char *text = read_file (IN_STORE ("format"), &len);
	tap_is_str (text, "silo store 1\n", "what the folder is");
	free (text);
	text = read_file (TASK (2, ".run"), &len);
	tap_ok (strncmp (text, "silo run 1 ", 11) == 0 && strstr (text, "\"attempt\": 1"),
		"a file reads as text");
	free (text);
	tap_is_int (silo_run (sums, NULL, 0, NULL, &err), 0, "its sum is that of its second line");
	store_close (&store);
}

/* -- folders that are refused ---------------------------------------------------------------- */

static void
make_last (const struct place *place, const char *target)
{
	unlink (IN_STORE ("last"));
	if (symlink (target, IN_STORE ("last")) < 0)
		tap_bail ("%s", strerror (errno));
}

static void
test_foreign (const struct place *place)
{
	struct store store;

	remove_store (place);
	mkdir (place->store, 0700);
	write_file (IN_STORE ("diary"), "dear", 4);
	check_refused (place->state, "files", NULL, SILO_INVALID, "diary", "a folder of others");
	tap_is_int (count_entries (place->store), 1, "and nothing is made in it");
	remove_store (place);
	write_file (place->store, "x", 1);
	check_refused (place->state, "files", NULL, SILO_INVALID, place->store, "a file");

	make_store (place, &store);
	store_close (&store);
	write_file (IN_STORE ("format"), "silo store 2\n", 13);
	check_refused (place->state, "files", NULL, SILO_PRECONDITION, "another version",
		       "a store of a newer Silo");
	write_file (IN_STORE ("format"), "", 0);
	check_refused (place->state, "files", NULL, SILO_DATALOSS, "silo store 1",
		       "an empty format");
	unlink (IN_STORE ("format"));
	check_refused (place->state, "files", NULL, SILO_DATALOSS, "format is gone",
		       "a store without its format");
	write_file (IN_STORE ("format"), "silo store 1\n", 13);
	static const char *const bad[] = { "three", "-3", "3 ",  "03",
					   "3\n",   "+3", "0x3", "99999999999999999999" };
	for (size_t i = 0; i < ARRAY_SIZE (bad); i++) {
		make_last (place, bad[i]);
		check_refused (place->state, "files", NULL, SILO_DATALOSS, "last", "a bad last id");
	}
	unlink (IN_STORE ("last"));
	check_refused (place->state, "files", NULL, SILO_DATALOSS, "last", "no last id");
	write_file (IN_STORE ("last"), "3", 1);
	check_refused (place->state, "files", NULL, SILO_DATALOSS, "last", "one in a file");
	make_last (place, "3");
	open_or_bail (&store, place, NULL);
	tap_ok (true, "which an operator can mend");
	store_close (&store);
}

/* -- damaged files ------------------------------------------------------------------------------ */

static int
on_name (void *arg, const struct silo_image *image SILO_UNUSED)
{
	++*(int *) arg;
	return 0;
}

/* Getting task 1 must name the file, listing must show the two others. */
static void
damaged (struct store *store, const char *file, const char *what)
{
	struct silo_error err = { 0 };
	const struct silo_task_query query = { .limit = 10 };
	int64_t n = 0;
	int r = get_task (store, 1, &err);

	tap_ok (r == SILO_DATALOSS && strstr (err.msg, file), "%s: %s", what, err.msg);
	r = instance_call (store->instance, storage, task_list, &query, on_count, &n, &err);
	tap_ok (r == 0 && n == 2, "and a list leaves it out");
}

static void
test_damage_of (const struct place *place, const char *path, const char *file)
{
	struct store store;
	size_t len;

	make_store (place, &store);
	char *data = read_file (path, &len), *copy = malloc (len + 1);
	if (!copy)
		tap_bail ("out of memory");
	char *second = memchr (data, '\n', len);
	if (!second)
		tap_bail ("%s has no second line", path);
	size_t flips[] = { 0, 7, (size_t) (second - data) - 3, (size_t) (second - data) + 20 };
	for (size_t i = 0; i < ARRAY_SIZE (flips); i++) {
		memcpy (copy, data, len);
		copy[flips[i]] ^= 1;
		write_file (path, copy, len);
		damaged (&store, file, "one flipped bit");
	}
	static const int cuts[] = { 0, 1, 20, 60, 90, 99 };
	for (size_t i = 0; i < ARRAY_SIZE (cuts); i++) {
		write_file (path, data, len * (size_t) cuts[i] / 100);
		damaged (&store, file, "a file that is cut off");
	}
	memcpy (copy, data, len);
	copy[len] = 'x';
	write_file (path, copy, len + 1);
	damaged (&store, file, "a file with one byte more");
	unlink (path);
	if (symlink ("/etc/passwd", path) < 0)
		tap_bail ("%s", strerror (errno));
	damaged (&store, file, "a symbolic link");
	unlink (path);
	if (mkfifo (path, 0600) < 0)
		tap_bail ("%s", strerror (errno));
	damaged (&store, file, "a pipe");
	unlink (path);
	mkdir (path, 0700);
	damaged (&store, file, "a folder");
	rmdir (path);
	write_file (path, data, len);
	struct silo_error err;
	tap_is_int (get_task (&store, 1, &err), 0, "put back, it is read again");
	free (data);
	free (copy);
	store_close (&store);
}

/* Heads that have the right sum and the wrong contents. */
static void
test_odd_heads (const struct place *place)
{
	static const char *const heads[] = {
		"[]\n",
		"null\n",
		"{}\n",
		"{\"id\": 1, \"parts\": []}\n",
		"{\"id\": 1, \"parts\": [[\"args\", -1, \"\"]]}\n",
		"{\"id\": 1, \"parts\": [[\"args\", 9223372036854775807, \"\"]]}\n",
		"{\"id\": 1, \"id\": 1, \"parts\": {}}\n",
		"{\"id\": 1, \"parts\": [7]}\n",
		"{\"id\": \"1\", \"name\": 1, \"parts\": []}\n",
		"\xff\xfe\n",
	};
	struct store store;
	size_t len;

	make_store (place, &store);
	const char *path = TASK (1, ".task");
	for (size_t i = 0; i < ARRAY_SIZE (heads); i++) {
		struct silo_digest digest;
		char hex[SILO_DIGEST_HEX + 1], text[512];
		silo_digest_of (heads[i], strlen (heads[i]), &digest, NULL);
		silo_digest_hex (&digest, hex);
		int n = snprintf (text, sizeof (text), "silo task 1 %zu %s\n%s", strlen (heads[i]),
				  hex, heads[i]);
		write_file (path, text, (size_t) n);
		damaged (&store, "0001.task", "an odd head");
	}
	char *other = read_file (TASK (2, ".task"), &len);
	write_file (path, other, len);
	damaged (&store, "0001.task", "the file of another task");
	free (other);
	other = read_file (TASK (2, ".run"), &len);
	write_file (path, other, len);
	damaged (&store, "0001.task", "a file of another kind");
	free (other);
	store_close (&store);
}

static void
test_damaged_names (const struct place *place)
{
	struct store store;
	struct silo_error err = { 0 };
	int n = 0;

	make_store (place, &store);
	put_image (&store, "good");
	write_file (IN_STORE ("images/python%3A3.11.image"), "junk", 4);
	if (link (IN_STORE ("images/good.image"), IN_STORE ("images/copy.image")) < 0)
		tap_bail ("%s", strerror (errno));
	write_file (IN_STORE ("images/notes.txt"), "x", 1);
	int r = instance_call (store.instance, storage, image_list, on_name, &n, &err);
	tap_ok (r == 0 && n == 1, "a list of images shows the sound one");
	n = 0;
	r = instance_call (store.instance, storage, image_get, "python:3.11", on_name, &n, &err);
	tap_ok (r == SILO_DATALOSS && n == 0, "the damaged one: %s", err.msg);
	r = instance_call (store.instance, storage, image_get, "copy", on_name, &n, &err);
	tap_ok (r == SILO_DATALOSS && n == 0, "the renamed one: %s", err.msg);
	put_image (&store, "python:3.11");
	r = instance_call (store.instance, storage, image_get, "python:3.11", on_name, &n, &err);
	tap_ok (r == 0 && n == 1, "which image_put mends");
	store_close (&store);
}

static void
test_text (const struct place *place)
{
	struct store store;
	struct silo_error err;
	struct silo_task task = { .name = "\xff", .image = "", .python = "", .source = "" };

	make_store (place, &store);
	tap_is_int (instance_call (store.instance, storage, task_add, &task, 1, &err), SILO_INVALID,
		    "a name that is not UTF-8: %s", err.msg);
	tap_is_int (count_tasks (&store, &err), 3, "adds nothing");
	store_close (&store);
}

/* -- what killed processes leave ------------------------------------------------------------------ */

static void
test_leftovers (const struct place *place)
{
	struct store store, second;
	struct silo_error err;
	size_t len;

	make_store (place, &store);
	write_file (IN_STORE ("temp/new-1"), "x", 1);
	open_or_bail (&second, place, NULL);
	tap_ok (exists (IN_STORE ("temp/new-1")), "files of a live process are left alone");
	store_close (&second);

	/* Half a batch: its files are there, `last` is not raised. */
	char *task = read_file (TASK (3, ".task"), &len);
	write_file (TASK (4, ".task"), task, len);
	write_file (TASK (5, ".task"), task, len);
	free (task);
	tap_is_int (count_tasks (&store, &err), 3, "half a batch is not seen");
	tap_is_int (get_task (&store, 4, &err), SILO_NOTFOUND, "nor found");
	tap_is_int (finish_task (&store, 4, &err), SILO_NOTFOUND, "nor finished");
	store_close (&store);
	/* Half a drop: the task is in temp/, its result is still there. */
	if (rename (TASK (1, ".task"), IN_STORE ("temp/drop-1")) < 0)
		tap_bail ("%s", strerror (errno));
	open_or_bail (&store, place, NULL);
	tap_is_int (count_entries (IN_STORE ("temp")), 0, "temp is emptied at start");
	tap_ok (!exists (TASK (1, ".result")), "and a drop completed");
	int64_t id;
	tap_is_int (add_tasks (&store, 1, 10, &id, &err), 0, "adding goes on");
	tap_is_int (id, 4, "with the next id");
	tap_is_int (get_task (&store, 4, &err), 0, "which is the new task");
	tap_is_int (get_task (&store, 5, &err), SILO_NOTFOUND, "and no other");
	store_close (&store);

	/* Half a store. */
	remove_store (place);
	mkdir (place->store, 0700);
	mkdir (IN_STORE ("temp"), 0700);
	mkdir (IN_STORE ("tasks"), 0700);
	write_file (IN_STORE ("temp/new-2"), "", 0);
	open_or_bail (&store, place, NULL);
	tap_is_int (add_tasks (&store, 1, 10, &id, &err), 0, "half a store is completed");
	store_close (&store);
}

static void
test_full (const struct place *place)
{
	struct store store;
	struct silo_error err = { 0 };
	char *data = calloc (1, 1u << 20), ballast[STATE_SIZE + 16];
	int64_t acked = 0, ids[3] = { 0 };
	int r = 0;

	if (!data)
		tap_bail ("out of memory");
	remove_store (place);
	snprintf (ballast, sizeof (ballast), "%s/ballast", place->state);
	write_file (ballast, data, 1u << 20);
	free (data);
	open_or_bail (&store, place, NULL);
	while (acked < 100000 && (r = add_tasks (&store, 3, 9000, ids, &err)) == 0)
		acked += 3;
	tap_is_int (r, SILO_EXHAUSTED, "a full disk: %s", err.msg);
	tap_ok (acked > 100, "after %lld tasks", (long long) acked);
	tap_is_int (count_tasks (&store, &err), acked, "all or none of a batch");
	tap_is_int (count_entries (IN_STORE ("temp")), 0, "nothing is left in temp");
	tap_is_int (count_entries (IN_STORE ("tasks")), acked, "nor in tasks");
	tap_is_int (get_task (&store, ids[0], &err), 0, "reading goes on");
	unlink (ballast);
	tap_is_int (add_tasks (&store, 3, 9000, ids, &err), 0, "with room, writing goes on");
	tap_is_int (ids[2], acked + 3, "without a gap");
	tap_is_int (finish_task (&store, ids[0], &err), 0, "and finishing");
	store_close (&store);
	open_or_bail (&store, place, NULL);
	tap_is_int (count_tasks (&store, &err), acked + 3, "nothing is lost or doubled");
	store_close (&store);
	remove_store (place);
}

/* -- several at once ------------------------------------------------------------------------------- */

enum { STARTERS = 6 };

struct starter {
	const struct place *place;
	pthread_t thread;
	pthread_barrier_t *barrier;
	struct store store;
	int result;
	struct silo_error err;
};

static void *
start_one (void *arg)
{
	struct starter *starter = arg;
	pthread_barrier_wait (starter->barrier);
	starter->result =
	    store_open (&starter->store, starter->place->state, "files", NULL, &starter->err);
	if (starter->result == 0)
		starter->result = add_tasks (&starter->store, 1, 10, NULL, &starter->err);
	return NULL;
}

static void
test_creation (const struct place *place)
{
	struct starter starters[STARTERS];
	struct silo_error err;
	pthread_barrier_t barrier;
	int failed = 0;

	remove_store (place);
	pthread_barrier_init (&barrier, NULL, STARTERS);
	for (int i = 0; i < STARTERS; i++) {
		starters[i] = (struct starter){ .place = place, .barrier = &barrier };
		if (pthread_create (&starters[i].thread, NULL, start_one, &starters[i]) != 0)
			tap_bail ("no thread");
	}
	for (int i = 0; i < STARTERS; i++) {
		pthread_join (starters[i].thread, NULL);
		if (starters[i].result < 0)
			tap_note ("%s", starters[i].err.msg);
		failed += starters[i].result < 0;
	}
	pthread_barrier_destroy (&barrier);
	tap_is_int (failed, 0, "%d begin at the same moment", STARTERS);
	tap_is_int (count_tasks (&starters[0].store, &err), STARTERS, "in the same store");
	for (int i = 0; i < STARTERS; i++)
		if (starters[i].store.core)
			store_close (&starters[i].store);
}

static void
test_fsync (const struct place *place)
{
	const char *const options[] = { "fsync=yes", NULL };
	struct store store;
	struct silo_error err;
	int64_t id;

	remove_store (place);
	open_or_bail (&store, place, options);
	tap_is_int (add_tasks (&store, 1, 10, &id, &err), 0, "fsync = yes: add");
	tap_is_int (finish_task (&store, id, &err), 0, "finish");
	tap_is_int (instance_call (store.instance, storage, task_drop, id, &err), 0, "drop");
	put_image (&store, "i");
	put_thing (&store, "kind", "t");
	store_close (&store);
}

int
main (void)
{
	struct place at, *place = &at;

	store_disk (DISK, at.state);
	snprintf (at.store, sizeof (at.store), "%s/store", at.state);
	test_layout (place);
	test_foreign (place);
	test_damage_of (place, TASK (1, ".task"), "0001.task");
	test_damage_of (place, TASK (1, ".result"), "0001.result");
	test_odd_heads (place);
	test_damaged_names (place);
	test_text (place);
	test_leftovers (place);
	test_creation (place);
	test_fsync (place);
	test_full (place);
	return tap_done ();
}
