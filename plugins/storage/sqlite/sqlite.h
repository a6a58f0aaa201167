/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sqlite.h - the parts of storage/sqlite: sqlite.c is the plugin and its life,
 * schema.c makes and checks the database, statement.c wraps the calls of the
 * SQLite library, task.c and named.c are the operations.
 *
 * The plugin is not SILO_PARALLEL: the core calls an instance from one thread
 * at a time, so one connection and one copy of each statement are enough.
 */
#ifndef STORAGE_SQLITE_H
#define STORAGE_SQLITE_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sqlite3.h>
#include <silo/host.h>
#include <silo/log.h>
#include <silo/storage.h>

/* Every statement there is; the texts are in statement.c. */
enum statement {
	BEGIN,
	COMMIT,
	ROLLBACK,
	TASK_ADD,
	TASK_STATE,
	TASK_START,
	TASK_FINISH,
	TASK_RESULT,
	TASK_GET,
	TASK_LIST,
	TASK_UNFINISHED,
	TASK_DROP,
	IMAGE_PUT,
	IMAGE_GET,
	IMAGE_LIST,
	IMAGE_DROP,
	THING_PUT,
	THING_GET,
	THING_LIST,
	THING_DROP,
	N_STATEMENTS
};

struct sqlite {
	/* options */
	const char *path;
	int64_t synchronous; /* index into "normal full" */
	int64_t busy;        /* ms */
	bool check;

	struct silo_host *host;
	sqlite3 *db;
	sqlite3_stmt *statements[N_STATEMENTS];
};

/* -- schema.c -------------------------------------------------------------- */

/* Open the database, which is made when there is no file.  Anything else than a sound Silo
 * database is refused.  On failure *ret is untouched. */
int schema_open (struct sqlite *s, sqlite3 **ret, struct silo_error *err);

/* -- statement.c ----------------------------------------------------------- */

/* The error object for result code `rc` of the SQLite library. */
int sqlite_fail (struct sqlite *s, sqlite3 *db, int rc, struct silo_error *err);

int statement_prepare_all (struct sqlite *s, struct silo_error *err);
void statement_finalize_all (struct sqlite *s);

/* A statement in use: parameters are bound and columns are read from left to right, and the
 * first failure of any of that is reported by the next step.  Reset when it leaves scope. */
struct query {
	struct sqlite *s;
	sqlite3_stmt *stmt;
	int parameter;
	int column;
	int rc;
};

struct query query_of (struct sqlite *s, enum statement which);
void query_reset (struct query *q);
#define _cleanup_query_ SILO_CLEANUP (query_reset)

void bind_int (struct query *q, int64_t value);
void bind_text (struct query *q, const char *text); /* NULL counts as "" */
void bind_blob (struct query *q, struct silo_bytes bytes);
void bind_digest (struct query *q, const struct silo_digest *digest);

/* 1: there is a row; 0: there is none left; else the error. */
int query_step (struct query *q, struct silo_error *err);
/* Run a statement that gives no rows; *ret_changes (may be NULL): rows it changed. */
int query_run (struct query *q, int *ret_changes, struct silo_error *err);

int64_t column_int (struct query *q);
const char *column_text (struct query *q);
struct silo_bytes column_blob (struct query *q);
void column_digest (struct query *q, struct silo_digest *ret);
/* Was every column of this row read? */
int query_check (struct query *q, struct silo_error *err);

/* Writers of all processes take turns from `begin` on.  transaction_end commits when `result`
 * is not negative, else it takes everything back and returns `result`. */
int transaction_begin (struct sqlite *s, struct silo_error *err);
int transaction_end (struct sqlite *s, int result, struct silo_error *err);

/* -- task.c ------------------------------------------------------------------ */

int task_add (void *self, struct silo_task *tasks, size_t n, struct silo_error *err);
int task_start (void *self, int64_t id, int32_t attempt, int64_t when, struct silo_error *err);
int task_finish (void *self, int64_t id, int32_t attempt, const struct silo_result *result,
		 int64_t when, struct silo_error *err);
int task_get (void *self, int64_t id, silo_record_fn *fn, void *arg, struct silo_error *err);
int task_list (void *self, const struct silo_task_query *query, silo_record_fn *fn, void *arg,
	       struct silo_error *err);
int task_drop (void *self, int64_t id, struct silo_error *err);

/* -- named.c ----------------------------------------------------------------- */

int image_put (void *self, const struct silo_image *image, struct silo_error *err);
int image_get (void *self, const char *name, silo_image_fn *fn, void *arg, struct silo_error *err);
int image_list (void *self, silo_image_fn *fn, void *arg, struct silo_error *err);
int image_drop (void *self, const char *name, struct silo_error *err);
int thing_put (void *self, const struct silo_thing *thing, struct silo_error *err);
int thing_get (void *self, const char *kind, const char *name, silo_thing_fn *fn, void *arg,
	       struct silo_error *err);
int thing_list (void *self, const char *kind, silo_thing_fn *fn, void *arg, struct silo_error *err);
int thing_drop (void *self, const char *kind, const char *name, struct silo_error *err);

#endif
