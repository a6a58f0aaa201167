/* SPDX-License-Identifier: Apache-2.0 */
/*
 * statement.c - the calls of the SQLite library that the operations need:
 * prepared statements, binding, reading rows, transactions, errors.  One
 * thread at a time.
 */
#include <errno.h>
#include "sqlite.h"

/* Columns of a task without its large ones, which come last in the table: a row's tail is
 * on overflow pages, and reading columns behind them would read them all. */
#define TASK_COLUMNS                                                                           \
	"t.id, t.name, t.func, t.image, t.python, t.flags, t.timeout_ms, t.state, t.attempt, " \
	"t.created, t.started, t.finished"
#define RESULT_COLUMNS                                                                     \
	"r.task_id, r.outcome, r.exit_code, r.type, r.message, r.traceback, r.truncated, " \
	"r.timeline"
#define IMAGE_COLUMNS                                                                            \
	"name, meta, source, source_id, config, python, python_version, inodes, size, created, " \
	"layers"
#define FROM_TASKS " FROM tasks t LEFT JOIN results r ON r.task_id = t.id"

static const char *const texts[N_STATEMENTS] = {
	/* IMMEDIATE: take the write lock now, where waiting for it is possible.  A reader that
	 * turns writer later is refused when another process has written in between. */
	[BEGIN] = "BEGIN IMMEDIATE",
	[COMMIT] = "COMMIT",
	[ROLLBACK] = "ROLLBACK",
	[TASK_ADD] = "INSERT INTO tasks (name, func, image, python, flags, timeout_ms, created, "
		     "args, kwargs, func_str) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
	[TASK_STATE] = "SELECT state = 'done', attempt FROM tasks WHERE id = ?",
	[TASK_START] = "UPDATE tasks SET state = 'running', attempt = ?2, started = ?3 "
		       "WHERE id = ?1",
	[TASK_FINISH] = "UPDATE tasks SET state = 'done', attempt = max (attempt, ?2), "
			"finished = ?3 WHERE id = ?1",
	[TASK_RESULT] = "INSERT INTO results (task_id, attempt, outcome, exit_code, type, message, "
			"traceback, truncated, timeline, output, exception, stdout, stderr) "
			"VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
	[TASK_GET] = "SELECT " TASK_COLUMNS ", " RESULT_COLUMNS ", t.args, t.kwargs, t.func_str, "
		     "r.output, r.exception, r.stdout, r.stderr" FROM_TASKS " WHERE t.id = ?",
	[TASK_LIST] = "SELECT " TASK_COLUMNS ", " RESULT_COLUMNS FROM_TASKS
		      " WHERE t.id < ? ORDER BY t.id DESC LIMIT ?",
	[TASK_UNFINISHED] = "SELECT " TASK_COLUMNS ", " RESULT_COLUMNS FROM_TASKS
			    " WHERE t.state <> 'done' AND t.id < ? ORDER BY t.id DESC LIMIT ?",
	[TASK_DROP] = "DELETE FROM tasks WHERE id = ?",
	[IMAGE_PUT] = "INSERT OR REPLACE INTO images (" IMAGE_COLUMNS ") "
		      "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
	[IMAGE_GET] = "SELECT " IMAGE_COLUMNS " FROM images WHERE name = ?",
	[IMAGE_LIST] = "SELECT " IMAGE_COLUMNS " FROM images ORDER BY name",
	[IMAGE_DROP] = "DELETE FROM images WHERE name = ?",
	[THING_PUT] = "INSERT OR REPLACE INTO things (kind, name, created, value) "
		      "VALUES (?, ?, ?, ?)",
	[THING_GET] = "SELECT kind, name, created, value FROM things WHERE kind = ? AND name = ?",
	[THING_LIST] = "SELECT kind, name, created, value FROM things WHERE kind = ? ORDER BY name",
	[THING_DROP] = "DELETE FROM things WHERE kind = ? AND name = ?",
};

int
sqlite_fail (struct sqlite *s, sqlite3 *db, int rc, struct silo_error *err)
{
	/* Without a connection there is nobody to ask for details. */
	const char *msg = db ? sqlite3_errmsg (db) : sqlite3_errstr (rc);
	int sys = db ? sqlite3_system_errno (db) : 0;

	switch (rc & 0xff) {
	case SQLITE_NOMEM:
		return silo_fail_nomem (err);
	case SQLITE_FULL:
	case SQLITE_TOOBIG:
		return silo_fail (err, SILO_EXHAUSTED, "%s: %s", s->path, msg);
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
	case SQLITE_PROTOCOL:
		return silo_fail (err, SILO_UNAVAILABLE,
				  "%s: another process has kept it locked for %lld s", s->path,
				  (long long) s->busy / 1000);
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return silo_fail (err, SILO_DATALOSS, "%s: %s", s->path, msg);
	case SQLITE_IOERR:
	case SQLITE_CANTOPEN: {
		/* Not all of what a full disk causes is reported as SQLITE_FULL.  The errno may
		 * be that of an earlier, harmless failure: only these are believed. */
		bool clear = sys == ENOSPC || sys == EDQUOT || sys == EMFILE || sys == ENFILE ||
			     sys == EACCES || sys == EROFS;
		return clear ? silo_fail_sys (err, sys, "%s: %s", s->path, msg)
			     : silo_fail (err, SILO_INTERNAL, "%s: %s (SQLite code %d)", s->path,
					  msg, rc);
	}
	case SQLITE_READONLY:
	case SQLITE_PERM:
		return silo_fail (err, SILO_DENIED, "%s: %s", s->path, msg);
	default:
		return silo_fail (err, SILO_INTERNAL, "%s: %s (SQLite code %d)", s->path, msg, rc);
	}
}

int
statement_prepare_all (struct sqlite *s, struct silo_error *err)
{
	for (int i = 0; i < N_STATEMENTS; i++) {
		int rc = sqlite3_prepare_v3 (s->db, texts[i], -1, SQLITE_PREPARE_PERSISTENT,
					     &s->statements[i], NULL);
		if (rc == SQLITE_ERROR) /* a table or column is not there */
			return silo_fail (err, SILO_DATALOSS,
					  "%s: %s: its tables are not those of Silo any more",
					  s->path, sqlite3_errmsg (s->db));
		if (rc != SQLITE_OK)
			return sqlite_fail (s, s->db, rc, err);
	}
	return 0;
}

void
statement_finalize_all (struct sqlite *s)
{
	for (int i = 0; i < N_STATEMENTS; i++) {
		sqlite3_finalize (s->statements[i]);
		s->statements[i] = NULL;
	}
}

/* -- binding ------------------------------------------------------------------ */

struct query
query_of (struct sqlite *s, enum statement which)
{
	return (struct query){ .s = s, .stmt = s->statements[which] };
}

void
query_reset (struct query *q)
{
	/* What it returns is the error of the last step, which has been reported. */
	sqlite3_reset (q->stmt);
	sqlite3_clear_bindings (q->stmt);
}

static void
keep_first (struct query *q, int rc)
{
	if (q->rc == SQLITE_OK)
		q->rc = rc;
}

void
bind_int (struct query *q, int64_t value)
{
	keep_first (q, sqlite3_bind_int64 (q->stmt, ++q->parameter, value));
}

/* Bound without a copy: the caller's data outlives the statement's use. */
void
bind_text (struct query *q, const char *text)
{
	if (!text)
		text = "";
	keep_first (q, sqlite3_bind_text64 (q->stmt, ++q->parameter, text, strlen (text),
					    SQLITE_STATIC, SQLITE_UTF8));
}

void
bind_blob (struct query *q, struct silo_bytes bytes)
{
	/* A NULL pointer would make it NULL instead of empty. */
	const void *data = bytes.len ? bytes.data : "";
	keep_first (q,
		    sqlite3_bind_blob64 (q->stmt, ++q->parameter, data, bytes.len, SQLITE_STATIC));
}

void
bind_digest (struct query *q, const struct silo_digest *digest)
{
	char hex[SILO_DIGEST_HEX + 1];
	silo_digest_hex (digest, hex);
	keep_first (
	    q, sqlite3_bind_text (q->stmt, ++q->parameter, hex, SILO_DIGEST_HEX, SQLITE_TRANSIENT));
}

/* -- running -------------------------------------------------------------------- */

int
query_step (struct query *q, struct silo_error *err)
{
	if (q->rc == SQLITE_OK) {
		int rc = sqlite3_step (q->stmt);
		q->column = 0;
		if (rc == SQLITE_ROW)
			return 1;
		if (rc == SQLITE_DONE)
			return 0;
		q->rc = rc;
	}
	return sqlite_fail (q->s, q->s->db, q->rc, err);
}

int
query_run (struct query *q, int *ret_changes, struct silo_error *err)
{
	int r = query_step (q, err);
	if (r < 0)
		return r;
	assert (r == 0);
	if (ret_changes)
		*ret_changes = sqlite3_changes (q->s->db);
	return 0;
}

/* -- reading columns ------------------------------------------------------------- */

int64_t
column_int (struct query *q)
{
	return sqlite3_column_int64 (q->stmt, q->column++);
}

const char *
column_text (struct query *q)
{
	int column = q->column++;
	if (sqlite3_column_type (q->stmt, column) == SQLITE_NULL)
		return "";
	const char *text = (const char *) sqlite3_column_text (q->stmt, column);
	if (!text)
		keep_first (q, SQLITE_NOMEM);
	return text ? text : "";
}

struct silo_bytes
column_blob (struct query *q)
{
	int column = q->column++;
	const void *data = sqlite3_column_blob (q->stmt, column);
	int len = sqlite3_column_bytes (q->stmt, column);

	assert (len >= 0);
	if (!data && len > 0) {
		keep_first (q, SQLITE_NOMEM);
		len = 0;
	}
	return (struct silo_bytes){ data, (size_t) len };
}

void
column_digest (struct query *q, struct silo_digest *ret)
{
	if (silo_digest_parse (column_text (q), ret, NULL) < 0) {
		*ret = (struct silo_digest){ 0 };
		keep_first (q, SQLITE_CORRUPT);
	}
}

int
query_check (struct query *q, struct silo_error *err)
{
	if (q->rc == SQLITE_OK)
		return 0;
	if (q->rc == SQLITE_CORRUPT)
		return silo_fail (err, SILO_DATALOSS, "%s: a row has a digest that is none",
				  q->s->path);
	return sqlite_fail (q->s, q->s->db, q->rc, err);
}

/* -- transactions ------------------------------------------------------------------ */

int
transaction_begin (struct sqlite *s, struct silo_error *err)
{
	_cleanup_query_ struct query q = query_of (s, BEGIN);
	return query_run (&q, NULL, err);
}

int
transaction_end (struct sqlite *s, int result, struct silo_error *err)
{
	if (result >= 0) {
		_cleanup_query_ struct query q = query_of (s, COMMIT);
		result = query_run (&q, NULL, err);
	}
	/* A full disk and some other errors have ended the transaction already. */
	if (result < 0 && !sqlite3_get_autocommit (s->db)) {
		_cleanup_query_ struct query q = query_of (s, ROLLBACK);
		query_run (&q, NULL, NULL);
	}
	return result;
}
