/* SPDX-License-Identifier: Apache-2.0 */
/*
 * schema.c - opens the database of storage/sqlite.  A new one is made whole
 * under another name and then renamed, so that a file named `path` is always a
 * complete database: an empty one has lost its contents and is refused, as is
 * a damaged one, one of another program, and one of a newer Silo.  Runs in
 * `start`, possibly in several processes at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include "sqlite.h"

#define APPLICATION_ID 0x53494c4f /* "SILO" */
#define MIN_PAGE       512        /* no database is smaller */

/* Step i brings a database from user_version i to i + 1.  Steps that were released are
 * never edited. */
static const char *const migrations[] = {
	/* Names and meaning of tasks (id, func, args, kwargs, func_str) and results (task_id,
	 * output) are those of the original Silo.  Large columns are last in their tables. */
	"CREATE TABLE tasks ("
	"  id INTEGER PRIMARY KEY AUTOINCREMENT,"
	"  name TEXT NOT NULL,"
	"  func TEXT NOT NULL," /* SHA-256 of the code, which is a thing of kind 'code' */
	"  image TEXT NOT NULL,"
	"  python TEXT NOT NULL,"
	"  flags INTEGER NOT NULL,"
	"  timeout_ms INTEGER NOT NULL,"
	"  state TEXT NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done')),"
	"  attempt INTEGER NOT NULL DEFAULT 0,"
	"  created INTEGER NOT NULL," /* these three in ns since 1970 */
	"  started INTEGER NOT NULL DEFAULT 0,"
	"  finished INTEGER NOT NULL DEFAULT 0,"
	"  args BLOB NOT NULL,"
	"  kwargs BLOB NOT NULL,"
	"  func_str TEXT NOT NULL);"
	"CREATE INDEX tasks_unfinished ON tasks (id) WHERE state <> 'done';"
	"CREATE TABLE results ("
	"  task_id INTEGER PRIMARY KEY REFERENCES tasks (id),"
	"  attempt INTEGER NOT NULL,"
	"  outcome TEXT NOT NULL,"
	"  exit_code INTEGER NOT NULL,"
	"  type TEXT NOT NULL,"
	"  message TEXT NOT NULL,"
	"  traceback TEXT NOT NULL,"
	"  truncated INTEGER NOT NULL,"
	"  timeline TEXT NOT NULL,"
	"  output BLOB NOT NULL,"
	"  exception BLOB NOT NULL,"
	"  stdout BLOB NOT NULL,"
	"  stderr BLOB NOT NULL);"
	/* Not ON DELETE CASCADE: the sqlite3 program does not obey that by itself. */
	"CREATE TRIGGER tasks_drop AFTER DELETE ON tasks BEGIN"
	"  DELETE FROM results WHERE task_id = old.id; END;"
	"CREATE TABLE images ("
	"  name TEXT PRIMARY KEY NOT NULL,"
	"  meta TEXT NOT NULL,"
	"  source TEXT NOT NULL,"
	"  source_id TEXT NOT NULL,"
	"  config TEXT NOT NULL,"
	"  python TEXT NOT NULL,"
	"  python_version TEXT NOT NULL,"
	"  inodes INTEGER NOT NULL,"
	"  size INTEGER NOT NULL,"
	"  created INTEGER NOT NULL);"
	"CREATE TABLE things ("
	"  kind TEXT NOT NULL,"
	"  name TEXT NOT NULL,"
	"  created INTEGER NOT NULL,"
	"  value BLOB NOT NULL,"
	"  PRIMARY KEY (kind, name));"
	/* For people. */
	"CREATE VIEW calls AS SELECT"
	"  t.id, t.name, t.image, t.state, t.attempt, r.outcome,"
	"  datetime (t.created / 1000000000, 'unixepoch', 'localtime') AS created,"
	"  CASE WHEN t.started > 0 THEN round ((t.started - t.created) / 1e6, 1) END AS waited_ms,"
	"  CASE WHEN t.started > 0 AND t.finished > 0"
	"    THEN round ((t.finished - t.started) / 1e6, 1) END AS ran_ms,"
	"  length (t.args) + length (t.kwargs) AS args_size, length (r.output) AS output_size,"
	"  r.type, r.message"
	"  FROM tasks t LEFT JOIN results r ON r.task_id = t.id;"
	"CREATE VIEW totals AS SELECT"
	"  t.name, t.image, count (*) AS calls, sum (t.state <> 'done') AS unfinished,"
	"  sum (coalesce (r.outcome <> 'success', 0)) AS failed,"
	"  round (avg (CASE WHEN t.started > 0 AND t.finished > 0"
	"    THEN t.finished - t.started END) / 1e6, 1) AS mean_ms,"
	"  datetime (max (t.created) / 1000000000, 'unixepoch', 'localtime') AS latest"
	"  FROM tasks t LEFT JOIN results r ON r.task_id = t.id GROUP BY t.name, t.image;",
	/* Digests of the blobs of its layers. */
	"ALTER TABLE images ADD COLUMN layers TEXT NOT NULL DEFAULT '';",
};

#define VERSION ((int) (sizeof (migrations) / sizeof (migrations[0])))

static void
close_db (sqlite3 **db)
{
	sqlite3_close (*db);
}

static void
close_fd (int *fd)
{
	if (*fd >= 0)
		close (*fd);
}

static int
run (struct sqlite *s, sqlite3 *db, const char *sql, struct silo_error *err)
{
	int rc = sqlite3_exec (db, sql, NULL, NULL, NULL);
	return rc == SQLITE_OK ? 0 : sqlite_fail (s, db, rc, err);
}

/* The first column of the first row of a pragma, as text. */
static int
ask (struct sqlite *s, sqlite3 *db, const char *pragma, char *ret, size_t size,
     struct silo_error *err)
{
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2 (db, pragma, -1, &stmt, NULL);

	if (rc == SQLITE_OK)
		rc = sqlite3_step (stmt);
	if (rc == SQLITE_ROW) {
		const char *text = (const char *) sqlite3_column_text (stmt, 0);
		snprintf (ret, size, "%s", text ? text : "");
		rc = SQLITE_OK;
	}
	int r = rc == SQLITE_OK ? 0 : sqlite_fail (s, db, rc, err);
	sqlite3_finalize (stmt);
	return r;
}

static int
ask_int (struct sqlite *s, sqlite3 *db, const char *pragma, int64_t *ret, struct silo_error *err)
{
	char text[32];
	int r = ask (s, db, pragma, text, sizeof (text), err);
	if (r >= 0)
		*ret = strtoll (text, NULL, 10);
	return r;
}

static int
open_file (struct sqlite *s, const char *path, sqlite3 **ret, struct silo_error *err)
{
	sqlite3 *db = NULL;
	/* NOMUTEX: the core calls from one thread at a time. */
	int rc = sqlite3_open_v2 (
	    path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_busy_timeout (db, (int) s->busy);
	if (rc != SQLITE_OK) {
		int r = sqlite_fail (s, db, rc, err);
		sqlite3_close (db);
		return r;
	}
	*ret = db;
	return 0;
}

/* -- a new database --------------------------------------------------------------- */

/* Run the migrations that are still to do.  The version is read again inside the transaction:
 * another process may be doing the same. */
static int
migrate (struct sqlite *s, sqlite3 *db, struct silo_error *err)
{
	int64_t version = 0;
	int r = ask_int (s, db, "PRAGMA user_version", &version, err);

	if (r < 0 || version == VERSION)
		return r;
	r = run (s, db, "BEGIN IMMEDIATE", err);
	if (r >= 0)
		r = ask_int (s, db, "PRAGMA user_version", &version, err);
	for (int64_t i = version; i < VERSION && r >= 0; i++)
		r = run (s, db, migrations[i], err);
	if (r >= 0 && version < VERSION) {
		char sql[80];
		snprintf (sql, sizeof (sql), "PRAGMA user_version = %d; PRAGMA application_id = %d",
			  VERSION, APPLICATION_ID);
		r = run (s, db, sql, err);
	}
	if (r >= 0)
		r = run (s, db, "COMMIT", err);
	if (r < 0)
		sqlite3_exec (db, "ROLLBACK", NULL, NULL, NULL);
	return r;
}

/* Whether there is such a file; errors count as "yes", and opening it will tell. */
static bool
exists (const char *path)
{
	struct stat st;
	return lstat (path, &st) == 0 || errno != ENOENT;
}

/* Fill `temp`, an empty file that only we use. */
static int
fill_new (struct sqlite *s, const char *temp, struct silo_error *err)
{
	static const char *const leftovers[] = { "-journal", "-wal", "-shm" };
	SILO_CLEANUP (close_db) sqlite3 *db = NULL;

	/* SQLite would take those of an interrupted attempt for its own. */
	for (size_t i = 0; i < sizeof (leftovers) / sizeof (leftovers[0]); i++) {
		char path[PATH_MAX + 16];
		snprintf (path, sizeof (path), "%s%s", temp, leftovers[i]);
		if (unlink (path) < 0 && errno != ENOENT)
			return silo_fail_sys (err, errno, "%s", path);
	}
	int r = open_file (s, temp, &db, err);
	if (r >= 0)
		r = run (s, db, "PRAGMA synchronous = FULL", err);
	if (r >= 0)
		r = migrate (s, db, err);
	/* The journal mode is kept in the file; closing leaves no second file behind. */
	if (r >= 0)
		r = run (s, db, "PRAGMA journal_mode = WAL", err);
	return r;
}

static int
sync_folder (const char *path, struct silo_error *err)
{
	char folder[PATH_MAX];
	const char *slash = strrchr (path, '/');

	assert (slash);
	snprintf (folder, sizeof (folder), "%.*s", slash == path ? 1 : (int) (slash - path), path);
	SILO_CLEANUP (close_fd)
	int fd = open (folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fsync (fd) < 0)
		return silo_fail_sys (err, errno, "%s", folder);
	return 0;
}

/* With the lock on `temp` held: make the database unless somebody else has. */
static int
create_locked (struct sqlite *s, const char *temp, int fd, struct silo_error *err)
{
	char wal[PATH_MAX + 16];

	if (exists (s->path))
		return 0;
	snprintf (wal, sizeof (wal), "%s-wal", s->path);
	if (exists (wal))
		/* SQLite would apply the old log to the new file. */
		return silo_fail (err, SILO_DATALOSS,
				  "%s is gone but %s-wal is there: put the database back, or "
				  "remove that file too to begin anew",
				  s->path, s->path);
	if (ftruncate (fd, 0) < 0)
		return silo_fail_sys (err, errno, "%s", temp);
	int r = fill_new (s, temp, err);
	if (r >= 0 && rename (temp, s->path) < 0)
		r = silo_fail_sys (err, errno, "%s", s->path);
	if (r >= 0)
		r = sync_folder (s->path, err);
	if (r < 0)
		unlink (temp);
	return r;
}

/* Processes that start at the same time take turns by a lock on the temporary file.  Who gets
 * it on a file that was renamed or removed meanwhile begins again. */
static int
create (struct sqlite *s, struct silo_error *err)
{
	char temp[PATH_MAX];
	if (snprintf (temp, sizeof (temp), "%s.new", s->path) >= (int) sizeof (temp))
		return silo_fail (err, SILO_RANGE, "path %s is too long", s->path);

	while (!exists (s->path)) {
		struct stat mine, there;
		SILO_CLEANUP (close_fd)
		int fd = open (temp, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0)
			return silo_fail_sys (err, errno, "%s", temp);
		while (flock (fd, LOCK_EX) < 0)
			if (errno != EINTR)
				return silo_fail_sys (err, errno, "%s", temp);
		if (fstat (fd, &mine) < 0)
			return silo_fail_sys (err, errno, "%s", temp);
		if (stat (temp, &there) < 0 || mine.st_ino != there.st_ino ||
		    mine.st_dev != there.st_dev)
			continue;
		return create_locked (s, temp, fd, err);
	}
	return 0;
}

/* -- a database that is there --------------------------------------------------------- */

static int
check_file (struct sqlite *s, struct silo_error *err)
{
	struct stat st;

	if (stat (s->path, &st) < 0)
		return silo_fail_sys (err, errno, "%s", s->path);
	if (!S_ISREG (st.st_mode))
		return silo_fail (err, SILO_INVALID, "%s is not a file, expected a database",
				  s->path);
	/* Asked here because what SQLite says of it, having tried to make the log, misleads. */
	if (faccessat (AT_FDCWD, s->path, W_OK, AT_EACCESS) < 0)
		return silo_fail_sys (err, errno, "%s", s->path);
	if (st.st_size == 0)
		return silo_fail (err, SILO_DATALOSS,
				  "%s is empty, its contents are lost: put a backup in its place, "
				  "or remove it to begin anew",
				  s->path);
	/* SQLite takes a file without a whole header for an empty database. */
	if (st.st_size < MIN_PAGE)
		return silo_fail (err, SILO_DATALOSS,
				  "%s is not a database, or has been cut off: it has %lld bytes",
				  s->path, (long long) st.st_size);
	return 0;
}

/* Is it ours, and of a version that we know? */
static int
check_identity (struct sqlite *s, sqlite3 *db, struct silo_error *err)
{
	int64_t id, version;
	int r = ask_int (s, db, "PRAGMA application_id", &id, err);
	if (r >= 0)
		r = ask_int (s, db, "PRAGMA user_version", &version, err);
	if (r < 0)
		return r;
	if (id != APPLICATION_ID)
		return silo_fail (err, SILO_INVALID,
				  "%s is a database of another program: let path = name another "
				  "file",
				  s->path);
	if (version > VERSION)
		return silo_fail (err, SILO_PRECONDITION,
				  "%s has version %lld, this Silo knows up to %d: use the newer "
				  "Silo that wrote it",
				  s->path, (long long) version, VERSION);
	if (sqlite3_db_readonly (db, "main"))
		return silo_fail (err, SILO_DENIED, "%s may not be written", s->path);
	return 0;
}

static int
check_contents (struct sqlite *s, sqlite3 *db, struct silo_error *err)
{
	char answer[120];

	if (!s->check)
		return 0;
	int r = ask (s, db, "PRAGMA quick_check (1)", answer, sizeof (answer), err);
	if (r < 0)
		return r;
	if (strcmp (answer, "ok") != 0)
		return silo_fail (err, SILO_DATALOSS, "%s: %s", s->path, answer);
	return 0;
}

static int
configure (struct sqlite *s, sqlite3 *db, struct silo_error *err)
{
	char mode[16];
	int r = ask (s, db, "PRAGMA journal_mode = WAL", mode, sizeof (mode), err);

	if (r < 0)
		return r;
	if (strcmp (mode, "wal") != 0)
		return silo_fail (err, SILO_UNIMPLEMENTED,
				  "%s: its file system cannot share memory between processes, "
				  "which WAL needs: let path = name a local file",
				  s->path);
	r = run (s, db,
		 s->synchronous ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL", err);
	/* A burst of large tasks does not leave a large log for good. */
	if (r >= 0)
		r = run (s, db, "PRAGMA journal_size_limit = 67108864", err);
	return r;
}

/* Say what can be done about damage; the file's name is in the message already. */
static int
explain (int r, struct silo_error *err)
{
	struct silo_error cause;

	if (r != SILO_DATALOSS || !err)
		return r;
	cause = *err;
	return silo_fail (err, r,
			  "%.140s; put a backup in its place, or save what is left as "
			  "docs/formats/storage.md says",
			  cause.msg);
}

int
schema_open (struct sqlite *s, sqlite3 **ret, struct silo_error *err)
{
	SILO_CLEANUP (close_db) sqlite3 *db = NULL;
	int r = create (s, err);

	if (r >= 0)
		r = check_file (s, err);
	if (r >= 0)
		r = open_file (s, s->path, &db, err);
	if (r < 0)
		return r;
	r = check_identity (s, db, err);
	if (r >= 0)
		r = check_contents (s, db, err);
	if (r >= 0)
		r = configure (s, db, err);
	if (r >= 0)
		r = migrate (s, db, err);
	if (r < 0)
		return explain (r, err);
	*ret = db;
	db = NULL;
	return 0;
}
