/* SPDX-License-Identifier: Apache-2.0 */
/*
 * storage-sqlite.c - tests of storage/sqlite alone: the tables that operators
 * read, databases that must be refused, a full disk, a database that another
 * process keeps locked, starts at the same moment.
 */
#include "storage.h"

#include <sqlite3.h>

#define DISK "8m"

struct place {
	char state[STATE_SIZE];
	char db[STATE_SIZE + 16];
};

static void
open_or_bail (struct store *store, const struct place *place, const char *const *options)
{
	struct silo_error err;
	if (store_open (store, place->state, "sqlite", options, &err) < 0)
		tap_bail ("%s", err.msg);
}

/* As an operator would: the first column of the first row. */
static void
check_sql (const struct place *place, const char *sql, const char *want)
{
	sqlite3 *db = NULL;
	sqlite3_stmt *stmt = NULL;

	if (sqlite3_open_v2 (place->db, &db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK ||
	    sqlite3_prepare_v2 (db, sql, -1, &stmt, NULL) != SQLITE_OK) {
		tap_ok (false, "%s: %s", sql, sqlite3_errmsg (db));
	} else {
		int rc = sqlite3_step (stmt);
		const char *got = (const char *) sqlite3_column_text (stmt, 0);
		tap_is_str (rc == SQLITE_ROW ? got : NULL, want, "%s", sql);
	}
	sqlite3_finalize (stmt);
	sqlite3_close (db);
}

/* Take the database away, as if it had never been. */
static void
remove_db (const struct place *place)
{
	static const char *const suffixes[] = { "", "-wal", "-shm", ".new" };
	char path[STATE_SIZE + 32];

	for (size_t i = 0; i < ARRAY_SIZE (suffixes); i++) {
		snprintf (path, sizeof (path), "%s%s", place->db, suffixes[i]);
		unlink (path);
	}
}

/* A closed database with some tasks in it. */
static void
make_db (const struct place *place)
{
	struct store store;
	struct silo_error err;

	remove_db (place);
	open_or_bail (&store, place, NULL);
	for (int i = 0; i < 40; i++)
		if (add_tasks (&store, 1, 6000, NULL, &err) < 0)
			tap_bail ("%s", err.msg);
	store_close (&store);
}

static void
test_tables (const struct place *place)
{
	struct store store;
	struct silo_error err;
	struct stat st;
	int64_t id;

	open_or_bail (&store, place, NULL);
	tap_ok (stat (place->db, &st) == 0 && (st.st_mode & 07777) == 0600, "mode 0600");
	check_sql (place, "PRAGMA application_id", "1397312591");
	check_sql (place, "PRAGMA user_version", "2");
	check_sql (place, "PRAGMA journal_mode", "wal");
	if (add_tasks (&store, 1, 3, &id, &err) < 0 || finish_task (&store, id, &err) < 0)
		tap_bail ("%s", err.msg);
	check_sql (place,
		   "SELECT id || func_str || length (func) || hex (args) || hex (kwargs) "
		   "FROM tasks",
		   "164000000");
	check_sql (place, "SELECT task_id || output || outcome FROM results", "1valuesuccess");
	check_sql (place, "SELECT id || name || state || outcome || args_size FROM calls",
		   "1unitdonesuccess3");
	check_sql (place, "SELECT name || calls || unfinished || failed FROM totals", "unit100");
	check_sql (place, "DELETE FROM tasks RETURNING id", "1");
	check_sql (place, "SELECT count (*) FROM results", "0");
	tap_is_int (get_task (&store, id, &err), SILO_NOTFOUND, "what an operator deletes is gone");
	store_close (&store);
}

/* -- databases that are refused --------------------------------------------------------------- */

static void
refused (const struct place *place, int code, const char *text, const char *what)
{
	size_t before_len, after_len;
	char *before = read_file (place->db, &before_len);

	check_refused (place->state, "sqlite", NULL, code, text, what);
	char *after = read_file (place->db, &after_len);
	tap_is_mem (after, after_len, before, before_len, "and left as it was");
	free (before);
	free (after);
}

static void
run_sql (const struct place *place, const char *sql)
{
	sqlite3 *db = NULL;

	if (sqlite3_open (place->db, &db) != SQLITE_OK ||
	    sqlite3_exec (db, sql, NULL, NULL, NULL) != SQLITE_OK)
		tap_bail ("%s: %s", sql, sqlite3_errmsg (db));
	sqlite3_close (db);
}

static void
test_foreign (const struct place *place)
{
	char path[STATE_SIZE + 32];

	remove_db (place);
	write_file (place->db, "", 0);
	refused (place, SILO_DATALOSS, "is empty", "an empty file");
	write_file (place->db, "hello, this is a letter and no database at all\n", 47);
	refused (place, SILO_DATALOSS, "not a database", "a letter");
	unlink (place->db);
	mkdir (place->db, 0700);
	check_refused (place->state, "sqlite", NULL, SILO_INVALID, "not a file", "a folder");
	rmdir (place->db);
	run_sql (place, "CREATE TABLE tasks (id INTEGER PRIMARY KEY)");
	refused (place, SILO_INVALID, "another program", "another program's database");
	make_db (place);
	run_sql (place, "PRAGMA user_version = 3");
	refused (place, SILO_PRECONDITION, "newer", "a newer Silo's database");
	make_db (place);
	run_sql (place, "DROP VIEW calls; DROP VIEW totals; ALTER TABLE tasks DROP COLUMN python");
	refused (place, SILO_DATALOSS, "python", "a database without one of the columns");

	remove_db (place);
	snprintf (path, sizeof (path), "%s-wal", place->db);
	write_file (path, "old log", 7);
	check_refused (place->state, "sqlite", NULL, SILO_DATALOSS, "-wal",
		       "a log without database");
	unlink (path);
}

static void
test_damaged (const struct place *place)
{
	static const char no_check[] = "check=no";
	const char *const options[] = { no_check, NULL };
	struct store store;
	struct silo_error err;
	size_t len;

	make_db (place);
	char *data = read_file (place->db, &len);
	if (truncate (place->db, (off_t) len * 6 / 10 / 4096 * 4096) < 0)
		tap_bail ("%s", strerror (errno));
	refused (place, SILO_DATALOSS, "storage.md", "a database cut at 60 %");
	if (truncate (place->db, 50) < 0)
		tap_bail ("%s", strerror (errno));
	refused (place, SILO_DATALOSS, place->db, "one cut within its header");

	memset (data + len / 8192 * 4096, 0, 4096);
	write_file (place->db, data, len);
	refused (place, SILO_DATALOSS, place->db, "one with a zeroed page");
	tap_is_int (store_open (&store, place->state, "sqlite", options, &err), 0,
		    "which check = no does not look for");
	store_close (&store);
	memcpy (data, "garbage header!!", 16);
	write_file (place->db, data, len);
	refused (place, SILO_DATALOSS, "not a database", "one with a garbage header");
	free (data);
}

/* What docs/formats/storage.md advises for damage works. */
static void
test_salvage (const struct place *place)
{
	char saved[STATE_SIZE + 32];
	const char *const argv[] = { "sh",
				     "-c",
				     "(sqlite3 \"$0\" .dump | sed '$d'; echo 'COMMIT; "
				     "PRAGMA application_id = 0x53494c4f; "
				     "PRAGMA user_version = 2;') | sqlite3 \"$1\"",
				     place->db,
				     saved,
				     NULL };
	struct silo_buf out = SILO_BUF (4096);
	struct store store;
	struct silo_error err = { 0 };
	size_t len;

	snprintf (saved, sizeof (saved), "%s.saved", place->db);
	make_db (place);
	char *data = read_file (place->db, &len);
	memset (data + len / 8192 * 4096, 0, 4096);
	write_file (place->db, data, len);
	free (data);
	if (silo_run (argv, NULL, 60000, &out, &err) < 0)
		tap_bail ("the sqlite3 program: %s", err.msg);
	silo_buf_free (&out);
	remove_db (place);
	if (rename (saved, place->db) < 0)
		tap_bail ("%s: %s", saved, strerror (errno));
	open_or_bail (&store, place, NULL);
	int64_t n = count_tasks (&store, &err);
	tap_ok (n >= 30 && n < 40, "%lld of 40 tasks are saved from damage", (long long) n);
	tap_is_int (add_tasks (&store, 1, 10, NULL, &err), 0, "and it goes on");
	store_close (&store);
}

static int
on_layers (void *arg, const struct silo_image *image)
{
	snprintf (arg, 16, "%s", image->layers);
	return 0;
}

/* A database from before images had layers. */
static void
test_migration (const struct place *place)
{
	struct store store;
	struct silo_error err = { 0 };
	char layers[16] = "untouched";

	make_db (place);
	run_sql (place,
		 "ALTER TABLE images DROP COLUMN layers; PRAGMA user_version = 1;"
		 "INSERT INTO images VALUES ('old', lower (hex (randomblob (32))), 'dir:/x', '', "
		 "'{}', '', '', 1, 2, 3)");
	open_or_bail (&store, place, NULL);
	check_sql (place, "PRAGMA user_version", "2");
	tap_is_int (count_tasks (&store, &err), 40, "version 1 has kept its tasks");
	int r = instance_call (store.instance, storage, image_get, "old", on_layers, layers, &err);
	tap_is_int (r, 0, "and its image: %s", err.msg);
	tap_is_str (layers, "", "which has no layers");
	store_close (&store);
	open_or_bail (&store, place, NULL);
	tap_is_int (count_tasks (&store, &err), 40, "it is migrated once");
	store_close (&store);
}

/* -- trouble while it runs --------------------------------------------------------------------- */

static void
test_full (const struct place *place)
{
	struct store store;
	struct silo_error err = { 0 };
	char ballast[STATE_SIZE + 32], *data = calloc (1, 2u << 20);
	int64_t acked = 0, ids[3] = { 0 };
	int r = 0;

	if (!data)
		tap_bail ("out of memory");
	remove_db (place);
	snprintf (ballast, sizeof (ballast), "%s/ballast", place->state);
	write_file (ballast, data, 2u << 20);
	free (data);
	open_or_bail (&store, place, NULL);
	while (acked < 100000 && (r = add_tasks (&store, 3, 3000, ids, &err)) == 0)
		acked += 3;
	tap_is_int (r, SILO_EXHAUSTED, "a full disk: %s", err.msg);
	tap_ok (acked > 100, "after %lld tasks", (long long) acked);
	tap_is_int (count_tasks (&store, &err), acked, "those and no others are there");
	tap_is_int (add_tasks (&store, 3, 3000, ids, &err), SILO_EXHAUSTED, "it stays full");
	tap_is_int (get_task (&store, ids[0], &err), 0, "reading goes on");
	unlink (ballast);
	tap_is_int (add_tasks (&store, 3, 3000, ids, &err), 0, "with room, writing goes on");
	tap_is_int (finish_task (&store, ids[0], &err), 0, "and finishing");
	tap_is_int (count_tasks (&store, &err), acked + 3, "nothing is lost or doubled");
	store_close (&store);
	open_or_bail (&store, place, NULL);
	tap_is_int (count_tasks (&store, &err), acked + 3, "nor after a restart, with its check");
	store_close (&store);
	remove_db (place);
}

struct holder {
	sqlite3 *db;
	struct store *store;
	pthread_t thread;
	int result;
	struct silo_error err;
	int64_t done; /* silo_monotonic () */
};

static void *
add_one (void *arg)
{
	struct holder *holder = arg;
	holder->result = add_tasks (holder->store, 1, 10, NULL, &holder->err);
	holder->done = silo_monotonic ();
	return NULL;
}

/* Another connection with an open write transaction stands for another process. */
static void
test_busy (const struct place *place)
{
	const char *const impatient[] = { "busy=200ms", NULL };
	struct store store;
	struct silo_error err;
	struct holder holder = { .store = &store };

	remove_db (place);
	open_or_bail (&store, place, NULL);
	if (sqlite3_open (place->db, &holder.db) != SQLITE_OK ||
	    sqlite3_exec (holder.db, "BEGIN IMMEDIATE; DELETE FROM tasks", NULL, NULL, NULL) !=
		SQLITE_OK)
		tap_bail ("%s", sqlite3_errmsg (holder.db));
	if (pthread_create (&holder.thread, NULL, add_one, &holder) != 0)
		tap_bail ("no thread");
	/* Long enough that a connection which does not wait has given up. */
	int64_t release = silo_monotonic () + 300000000;
	while (silo_monotonic () < release)
		sched_yield ();
	tap_is_int (sqlite3_exec (holder.db, "COMMIT", NULL, NULL, NULL), SQLITE_OK,
		    "another process writes for a while");
	pthread_join (holder.thread, NULL);
	tap_is_int (holder.result, 0, "an operation waits and then succeeds");
	tap_ok (holder.done >= release, "not before the other one is done");
	store_close (&store);

	open_or_bail (&store, place, impatient);
	sqlite3_exec (holder.db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
	tap_is_int (add_tasks (&store, 1, 10, NULL, &err), SILO_UNAVAILABLE,
		    "a lock that stays: UNAVAILABLE in the end");
	tap_is_int (count_tasks (&store, &err), 1, "reading never waits");
	sqlite3_exec (holder.db, "ROLLBACK", NULL, NULL, NULL);
	tap_is_int (add_tasks (&store, 1, 10, NULL, &err), 0, "and it goes on afterwards");
	sqlite3_close (holder.db);
	store_close (&store);
	remove_db (place);
}

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
	    store_open (&starter->store, starter->place->state, "sqlite", NULL, &starter->err);
	if (starter->result == 0)
		starter->result = add_tasks (&starter->store, 1, 10, NULL, &starter->err);
	return NULL;
}

/* Several find no database, or what a killed one had begun, and all want to make it. */
static void
test_creation (const struct place *place)
{
	struct starter starters[STARTERS];
	struct silo_error err;
	pthread_barrier_t barrier;
	char temp[STATE_SIZE + 32];
	int failed = 0;

	remove_db (place);
	snprintf (temp, sizeof (temp), "%s.new", place->db);
	write_file (temp, "half a database", 15);
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
	tap_is_int (count_tasks (&starters[0].store, &err), STARTERS, "on the same database");
	tap_ok (access (temp, F_OK) < 0, "nothing is left of its making");
	for (int i = 0; i < STARTERS; i++)
		if (starters[i].store.core)
			store_close (&starters[i].store);
}

static void
test_readonly (const struct place *place)
{
	make_db (place);
	if (mount (NULL, place->state, NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
		tap_bail ("remount: %s", strerror (errno));
	check_refused (place->state, "sqlite", NULL, SILO_DENIED, place->db,
		       "a database on a read-only disk");
	if (mount (NULL, place->state, NULL, MS_REMOUNT, NULL) < 0)
		tap_bail ("remount: %s", strerror (errno));
}

static void
test_options (const struct place *place)
{
	const char *const full[] = { "synchronous=full", NULL };
	const char *const wrong[] = { "synchronous=maybe", NULL };
	struct store store;
	struct silo_error err;

	open_or_bail (&store, place, full);
	tap_is_int (add_tasks (&store, 1, 10, NULL, &err), 0, "synchronous = full");
	store_close (&store);
	check_refused (place->state, "sqlite", wrong, SILO_INVALID, "maybe", "an unknown choice");
}

int
main (void)
{
	struct place place;

	store_disk (DISK, place.state);
	snprintf (place.db, sizeof (place.db), "%s/silo.db", place.state);
	test_tables (&place);
	test_foreign (&place);
	test_damaged (&place);
	test_salvage (&place);
	test_migration (&place);
	test_busy (&place);
	test_creation (&place);
	test_readonly (&place);
	test_options (&place);
	test_full (&place);
	return tap_done ();
}
