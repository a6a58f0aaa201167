/* SPDX-License-Identifier: Apache-2.0 */
/*
 * task.c - storage/sqlite's operations on tasks and their results.  Called by
 * the core, one thread at a time; other processes may use the database at the
 * same moment, so whatever reads before it writes does both in a transaction.
 */
#include "sqlite.h"

static int
insert_task (struct sqlite *s, const struct silo_task *task, struct silo_error *err)
{
	_cleanup_query_ struct query q = query_of (s, TASK_ADD);

	bind_text (&q, task->name);
	bind_digest (&q, &task->function);
	bind_text (&q, task->image);
	bind_text (&q, task->python);
	bind_int (&q, task->flags);
	bind_int (&q, task->timeout_ms);
	bind_int (&q, task->created);
	bind_blob (&q, task->args);
	bind_blob (&q, task->kwargs);
	bind_text (&q, task->source);
	return query_run (&q, NULL, err);
}

int
task_add (void *self, struct silo_task *tasks, size_t n, struct silo_error *err)
{
	struct sqlite *s = self;
	int64_t last = 0;

	if (n == 0)
		return 0;
	int r = transaction_begin (s, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n && r >= 0; i++) {
		r = insert_task (s, &tasks[i], err);
		/* Nobody else inserts meanwhile: AUTOINCREMENT counts on by one. */
		assert (r < 0 || i == 0 || sqlite3_last_insert_rowid (s->db) == last + 1);
		last = sqlite3_last_insert_rowid (s->db);
	}
	r = transaction_end (s, r, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		tasks[i].id = last - (int64_t) (n - 1 - i);
	return 0;
}

/* May `attempt` go on with this task?  Inside a transaction. */
static int
check_attempt (struct sqlite *s, int64_t id, int32_t attempt, struct silo_error *err)
{
	_cleanup_query_ struct query q = query_of (s, TASK_STATE);

	bind_int (&q, id);
	int r = query_step (&q, err);
	if (r < 0)
		return r;
	if (r == 0)
		return silo_fail (err, SILO_NOTFOUND, "task %lld does not exist", (long long) id);
	bool done = column_int (&q);
	int64_t newest = column_int (&q);
	if (done)
		return silo_fail (err, SILO_EXISTS, "task %lld has its result", (long long) id);
	if (newest > attempt)
		return silo_fail (err, SILO_ABORTED,
				  "task %lld: attempt %d came too late, attempt %lld has started",
				  (long long) id, attempt, (long long) newest);
	return 0;
}

static int
update_task (struct sqlite *s, enum statement which, int64_t id, int32_t attempt, int64_t when,
	     struct silo_error *err)
{
	_cleanup_query_ struct query q = query_of (s, which);

	bind_int (&q, id);
	bind_int (&q, attempt);
	bind_int (&q, when);
	return query_run (&q, NULL, err);
}

int
task_start (void *self, int64_t id, int32_t attempt, int64_t when, struct silo_error *err)
{
	struct sqlite *s = self;
	int r = transaction_begin (s, err);
	if (r < 0)
		return r;
	r = check_attempt (s, id, attempt, err);
	if (r >= 0)
		r = update_task (s, TASK_START, id, attempt, when, err);
	return transaction_end (s, r, err);
}

static int
insert_result (struct sqlite *s, int64_t id, int32_t attempt, const struct silo_result *result,
	       struct silo_error *err)
{
	_cleanup_query_ struct query q = query_of (s, TASK_RESULT);

	bind_int (&q, id);
	bind_int (&q, attempt);
	bind_text (&q, silo_outcome_name (result->outcome));
	bind_int (&q, result->exit_code);
	bind_text (&q, result->type);
	bind_text (&q, result->message);
	bind_text (&q, result->traceback);
	bind_int (&q, result->truncated);
	bind_text (&q, result->timeline);
	bind_blob (&q, result->value);
	bind_blob (&q, result->exception);
	bind_blob (&q, result->out);
	bind_blob (&q, result->err);
	return query_run (&q, NULL, err);
}

int
task_finish (void *self, int64_t id, int32_t attempt, const struct silo_result *result,
	     int64_t when, struct silo_error *err)
{
	struct sqlite *s = self;
	int r = transaction_begin (s, err);
	if (r < 0)
		return r;
	r = check_attempt (s, id, attempt, err);
	if (r >= 0)
		r = insert_result (s, id, attempt, result, err);
	if (r >= 0)
		r = update_task (s, TASK_FINISH, id, attempt, when, err);
	return transaction_end (s, r, err);
}

static int32_t
parse_state (const char *name)
{
	if (strcmp (name, "queued") == 0)
		return SILO_TASK_QUEUED;
	return strcmp (name, "running") == 0 ? SILO_TASK_RUNNING : SILO_TASK_DONE;
}

/* TASK_COLUMNS */
static void
read_task (struct query *q, struct silo_task *task)
{
	task->id = column_int (q);
	task->name = column_text (q);
	column_digest (q, &task->function);
	task->image = column_text (q);
	task->python = column_text (q);
	task->flags = (uint32_t) column_int (q);
	task->timeout_ms = column_int (q);
	task->state = parse_state (column_text (q));
	task->attempt = (int32_t) column_int (q);
	task->created = column_int (q);
	task->started = column_int (q);
	task->finished = column_int (q);
	task->source = "";
}

/* RESULT_COLUMNS; false: there is none */
static bool
read_result (struct query *q, struct silo_result *result)
{
	bool there = column_int (q) > 0; /* NULL reads as 0 */
	int outcome = silo_outcome_parse (column_text (q));

	/* A name that only a later version knows. */
	result->outcome = outcome < 0 ? SILO_OUTCOME_INTERNAL : outcome;
	result->exit_code = (int32_t) column_int (q);
	result->type = column_text (q);
	result->message = column_text (q);
	result->traceback = column_text (q);
	result->truncated = column_int (q);
	result->timeline = column_text (q);
	return there;
}

int
task_get (void *self, int64_t id, silo_record_fn *fn, void *arg, struct silo_error *err)
{
	_cleanup_query_ struct query q = query_of (self, TASK_GET);
	struct silo_record record = { 0 };
	struct silo_result result = { 0 };

	bind_int (&q, id);
	int r = query_step (&q, err);
	if (r < 0)
		return r;
	if (r == 0)
		return silo_fail (err, SILO_NOTFOUND, "task %lld does not exist", (long long) id);
	read_task (&q, &record.task);
	if (read_result (&q, &result))
		record.result = &result;
	record.task.args = column_blob (&q);
	record.task.kwargs = column_blob (&q);
	record.task.source = column_text (&q);
	result.value = column_blob (&q);
	result.exception = column_blob (&q);
	result.out = column_blob (&q);
	result.err = column_blob (&q);
	r = query_check (&q, err);
	if (r < 0)
		return r;
	fn (arg, &record);
	return 0;
}

int
task_list (void *self, const struct silo_task_query *query, silo_record_fn *fn, void *arg,
	   struct silo_error *err)
{
	_cleanup_query_ struct query q =
	    query_of (self, query->unfinished ? TASK_UNFINISHED : TASK_LIST);

	bind_int (&q, query->before > 0 ? query->before : INT64_MAX);
	bind_int (&q, query->limit > 0 ? query->limit : -1);
	for (;;) {
		struct silo_record record = { 0 };
		struct silo_result result = { 0 };
		int r = query_step (&q, err);
		if (r <= 0)
			return r;
		read_task (&q, &record.task);
		if (read_result (&q, &result))
			record.result = &result;
		r = query_check (&q, err);
		if (r < 0)
			return r;
		if (fn (arg, &record))
			return 0;
	}
}

int
task_drop (void *self, int64_t id, struct silo_error *err)
{
	_cleanup_query_ struct query q = query_of (self, TASK_DROP);
	int changes = 0;

	bind_int (&q, id);
	int r = query_run (&q, &changes, err);
	if (r < 0)
		return r;
	if (changes == 0)
		return silo_fail (err, SILO_NOTFOUND, "task %lld does not exist", (long long) id);
	return 0;
}
