/* SPDX-License-Identifier: Apache-2.0 */
/*
 * storage.c - what every storage plugin promises: each sentence of
 * <silo/storage.h> is a check here.  The instance under test starts empty and
 * is emptied after each group.  storage-names.c has images and things,
 * storage-process.c several threads, several processes, and `kill -9`.
 */
#include "conform.h"
#include "storage.h"
#include "tap.h"

const struct silo_error storage_untouched = { .code = 12345, .sys = 67, .msg = "untouched" };

bool
storage_ok (int r, const struct silo_error *err, const char *what)
{
	bool clean = memcmp (err, &storage_untouched, sizeof (*err)) == 0;

	if (r < 0)
		tap_note ("%s: %s", what, err->msg);
	return tap_ok (r == 0 && clean, "%s succeeds and leaves the error alone", what);
}

bool
storage_fails (int r, const struct silo_error *err, int code, const char *what)
{
	bool filled = err->code == code && err->msg[0] && !strchr (err->msg, '\n');

	if (r != code || !filled)
		tap_note ("%s: returned %s, error %s: %s", what, silo_code_name (r),
			  silo_code_name (err->code), err->msg);
	return tap_ok (r == code && filled, "%s: %s, with a message", what, silo_code_name (code));
}

struct silo_task
storage_task (const char *name)
{
	return (struct silo_task){
		.name = name,
		.function = { { 1, 2, 3, 0xff } },
		.image = "python:3.11",
		.python = "3.11",
		.source = "def f ():\n\treturn 1\n",
		.args = { "\x80\x05\x00(", 4 },
		.kwargs = { "}\x00.", 3 },
		.timeout_ms = 1500,
		.created = 1700000000123456789,
	};
}

struct silo_result
storage_result (void)
{
	return (struct silo_result){
		.outcome = SILO_OUTCOME_SUCCESS,
		.value = { "\x80\x05K\x07.", 5 },
		.type = "",
		.message = "",
		.traceback = "",
		.timeline = "{}",
	};
}

int64_t
storage_add (struct conform *c, const struct silo_task *task)
{
	struct silo_error err = storage_untouched;
	struct silo_task copy = *task;
	int r = instance_call (c->instance, storage, task_add, &copy, 1, &err);

	if (r < 0)
		tap_ok (false, "task_add: %s", err.msg);
	return r < 0 ? 0 : copy.id;
}

/* -- comparing records --------------------------------------------------------------------- */

/* What a record should be; what is left out in lists is not compared there. */
struct expected {
	const struct silo_task *task;
	const struct silo_result *result;
	bool list;
	int calls;
};

static bool
same_bytes (struct silo_bytes a, struct silo_bytes b)
{
	return a.len == b.len && (a.len == 0 || memcmp (a.data, b.data, a.len) == 0);
}

static void
check_task (const struct silo_task *got, const struct silo_task *want, bool list)
{
	const struct silo_bytes none = { NULL, 0 };

	tap_is_int (got->id, want->id, "id");
	tap_is_str (got->name, want->name, "name");
	tap_ok (silo_digest_equal (&got->function, &want->function), "function's digest");
	tap_is_str (got->image, want->image, "image");
	tap_is_str (got->python, want->python, "python");
	tap_is_str (got->source, list ? "" : want->source, "source");
	tap_ok (same_bytes (got->args, list ? none : want->args), "args");
	tap_ok (same_bytes (got->kwargs, list ? none : want->kwargs), "kwargs");
	tap_is_int (got->flags, want->flags, "flags");
	tap_is_int (got->timeout_ms, want->timeout_ms, "timeout_ms");
	tap_is_int (got->state, want->state, "state");
	tap_is_int (got->attempt, want->attempt, "attempt");
	tap_is_int (got->created, want->created, "created");
	tap_is_int (got->started, want->started, "started");
	tap_is_int (got->finished, want->finished, "finished");
}

static void
check_result (const struct silo_result *got, const struct silo_result *want, bool list)
{
	const struct silo_bytes none = { NULL, 0 };

	tap_is_int (got->outcome, want->outcome, "outcome");
	tap_is_int (got->exit_code, want->exit_code, "exit_code");
	tap_ok (same_bytes (got->value, list ? none : want->value), "value");
	tap_ok (same_bytes (got->exception, list ? none : want->exception), "exception");
	tap_is_str (got->type, want->type, "type");
	tap_is_str (got->message, want->message, "message");
	tap_is_str (got->traceback, want->traceback, "traceback");
	tap_ok (same_bytes (got->out, list ? none : want->out), "out");
	tap_ok (same_bytes (got->err, list ? none : want->err), "err");
	tap_is_int (got->truncated, want->truncated, "truncated");
	tap_is_str (got->timeline, want->timeline, "timeline");
}

/* Returns 1, "stop": get succeeds all the same. */
static int
on_expected (void *arg, const struct silo_record *record)
{
	struct expected *expected = arg;

	expected->calls++;
	check_task (&record->task, expected->task, expected->list);
	if (tap_ok (!record->result == !expected->result, "%s result",
		    expected->result ? "has its" : "has no") &&
	    record->result)
		check_result (record->result, expected->result, expected->list);
	return 1;
}

static void
check_record (struct conform *c, const struct silo_task *task, const struct silo_result *result)
{
	struct expected expected = { .task = task, .result = result };
	struct silo_error err = storage_untouched;

	int r =
	    instance_call (c->instance, storage, task_get, task->id, on_expected, &expected, &err);
	storage_ok (r, &err, "task_get");
	tap_is_int (expected.calls, 1, "task_get calls back once");

	const struct silo_task_query query = { .before = task->id + 1, .limit = 1 };
	expected.list = true;
	expected.calls = 0;
	r = instance_call (c->instance, storage, task_list, &query, on_expected, &expected, &err);
	storage_ok (r, &err, "task_list");
	tap_is_int (expected.calls, 1, "task_list calls back once");
}

/* -- ids, and emptying ------------------------------------------------------------------------ */

int
storage_on_id (void *arg, const struct silo_record *record)
{
	struct storage_ids *ids = arg;

	if (ids->n < STORAGE_IDS)
		ids->id[ids->n] = record->task.id;
	ids->n++;
	return ids->stop_after && ids->n >= ids->stop_after;
}

void
storage_list (struct conform *c, struct silo_task_query query, struct storage_ids *ret)
{
	struct silo_error err = storage_untouched;

	ret->n = 0;
	int r = instance_call (c->instance, storage, task_list, &query, storage_on_id, ret, &err);
	if (r < 0)
		tap_ok (false, "task_list: %s", err.msg);
}

void
storage_empty (struct conform *c)
{
	struct storage_ids ids = { 0 };
	struct silo_error err = storage_untouched;

	do {
		storage_list (c, (struct silo_task_query){ .limit = STORAGE_IDS }, &ids);
		for (size_t i = 0; i < ids.n; i++)
			if (instance_call (c->instance, storage, task_drop, ids.id[i], &err) < 0) {
				tap_ok (false, "task_drop: %s", err.msg);
				return;
			}
	} while (ids.n);
}

/* -- the groups -------------------------------------------------------------------------------- */

static void
test_add (struct conform *c)
{
	struct silo_task task = storage_task ("näme \xe2\x82\xac 'quoted' \"twice\" \\ %s\n");

	task.flags = SILO_TASK_DETACHED | SILO_TASK_EXTERNAL | 1u << 31;
	task.timeout_ms = INT64_MAX;
	task.id = storage_add (c, &task);
	tap_ok (task.id > 0, "an id is positive");
	check_record (c, &task, NULL);

	struct silo_task empty = {
		.name = "", .image = "", .python = "", .source = "", .created = 1
	};
	empty.id = storage_add (c, &empty);
	check_record (c, &empty, NULL);

	const size_t mega = 1u << 20;
	unsigned char *large = malloc (2 * mega);
	if (!large)
		tap_bail ("out of memory");
	for (size_t i = 0; i < 2 * mega; i++)
		large[i] = (unsigned char) (i * 131 >> 3);
	struct silo_task big = storage_task ("big");
	big.args = (struct silo_bytes){ large, 2 * mega };
	big.kwargs = (struct silo_bytes){ large + 1, mega };
	big.id = storage_add (c, &big);
	check_record (c, &big, NULL);
	free (large);
	storage_empty (c);
}

static void
test_ids (struct conform *c)
{
	struct silo_task batch[5];
	struct silo_error err = storage_untouched;
	const struct silo_task task = storage_task ("ids");

	int64_t first = storage_add (c, &task);
	for (size_t i = 0; i < ARRAY_SIZE (batch); i++)
		batch[i] = task;
	int r = instance_call (c->instance, storage, task_add, batch, 0, &err);
	storage_ok (r, &err, "task_add of no task");
	r = instance_call (c->instance, storage, task_add, batch, ARRAY_SIZE (batch), &err);
	storage_ok (r, &err, "task_add of five");
	int64_t last = first;
	for (size_t i = 0; i < ARRAY_SIZE (batch); i++) {
		tap_ok (batch[i].id > last, "ids grow within a batch");
		last = batch[i].id;
		batch[i].state = SILO_TASK_QUEUED;
		check_record (c, &batch[i], NULL);
	}

	r = instance_call (c->instance, storage, task_drop, last, &err);
	storage_ok (r, &err, "task_drop of the newest");
	int64_t next = storage_add (c, &task);
	tap_ok (next > last, "a dropped id is not given again");
	r = instance_call (c->instance, storage, task_drop, next, &err);
	storage_ok (r, &err, "task_drop of the newest");
	conform_reload (c);
	last = storage_add (c, &task);
	tap_ok (last > next, "nor after a restart");
	storage_empty (c);
	conform_reload (c);
	next = storage_add (c, &task);
	tap_ok (next > last, "nor after a restart of an empty store");
	storage_empty (c);
}

static int
start (struct conform *c, int64_t id, int32_t attempt, int64_t when, struct silo_error *err)
{
	*err = storage_untouched;
	return instance_call (c->instance, storage, task_start, id, attempt, when, err);
}

static int
finish (struct conform *c, int64_t id, int32_t attempt, const struct silo_result *result,
	int64_t when, struct silo_error *err)
{
	*err = storage_untouched;
	return instance_call (c->instance, storage, task_finish, id, attempt, result, when, err);
}

static void
test_attempts (struct conform *c)
{
	struct silo_task task = storage_task ("attempts");
	struct silo_result result = storage_result (), late = storage_result ();
	struct silo_error err;

	late.value = (struct silo_bytes){ "late", 4 };
	task.id = storage_add (c, &task);
	storage_ok (start (c, task.id, 1, 1700000001000000001, &err), &err, "task_start");
	task.state = SILO_TASK_RUNNING;
	task.attempt = 1;
	task.started = 1700000001000000001;
	check_record (c, &task, NULL);

	storage_ok (start (c, task.id, 2, 1700000002000000002, &err), &err, "attempt 2");
	task.attempt = 2;
	task.started = 1700000002000000002;
	check_record (c, &task, NULL);
	storage_fails (start (c, task.id, 1, 5, &err), &err, SILO_ABORTED,
		       "task_start of an old attempt");
	storage_fails (finish (c, task.id, 1, &late, 6, &err), &err, SILO_ABORTED,
		       "task_finish of an old attempt");
	check_record (c, &task, NULL);
	conform_reload (c);
	storage_fails (finish (c, task.id, 1, &late, 6, &err), &err, SILO_ABORTED,
		       "task_finish of an old attempt after a restart");

	storage_ok (finish (c, task.id, 2, &result, 1700000003000000003, &err), &err,
		    "task_finish of the newest");
	task.state = SILO_TASK_DONE;
	task.finished = 1700000003000000003;
	check_record (c, &task, &result);
	storage_fails (finish (c, task.id, 2, &late, 7, &err), &err, SILO_EXISTS,
		       "a second task_finish");
	storage_fails (finish (c, task.id, 3, &late, 7, &err), &err, SILO_EXISTS,
		       "task_finish of a later attempt");
	storage_fails (finish (c, task.id, 1, &late, 7, &err), &err, SILO_EXISTS,
		       "task_finish of an old attempt");
	storage_fails (start (c, task.id, 3, 8, &err), &err, SILO_EXISTS,
		       "task_start of a task with a result");
	check_record (c, &task, &result);

	storage_fails (start (c, task.id + 1, 1, 8, &err), &err, SILO_NOTFOUND,
		       "task_start of no task");
	storage_fails (finish (c, task.id + 1, 1, &result, 8, &err), &err, SILO_NOTFOUND,
		       "task_finish of no task");
	storage_fails (start (c, 0, 1, 8, &err), &err, SILO_NOTFOUND, "task_start of task 0");
	storage_fails (finish (c, -1, 1, &result, 8, &err), &err, SILO_NOTFOUND,
		       "task_finish of task -1");
	storage_empty (c);
}

/* A result without any attempt: refused before it ran, or posted from outside. */
static void
test_external (struct conform *c)
{
	struct silo_task task = storage_task ("external");
	struct silo_result result = storage_result ();
	struct silo_error err;

	task.flags = SILO_TASK_EXTERNAL;
	task.id = storage_add (c, &task);
	storage_ok (finish (c, task.id, 0, &result, 1700000009000000009, &err), &err,
		    "task_finish of a task that never started");
	task.state = SILO_TASK_DONE;
	task.finished = 1700000009000000009;
	check_record (c, &task, &result);
	storage_empty (c);
}

static void
test_results (struct conform *c)
{
	const size_t mega = 1u << 20;
	unsigned char *large = malloc (mega);
	struct silo_error err;

	if (!large)
		tap_bail ("out of memory");
	for (size_t i = 0; i < mega; i++)
		large[i] = (unsigned char) (i * 31 >> 2);
	for (int outcome = 0; outcome < SILO_OUTCOME_COUNT; outcome++) {
		struct silo_task task = storage_task ("results");
		struct silo_result result = {
			.outcome = outcome,
			.exit_code = outcome % 2 ? 137 : -1,
			.value = { large, outcome == SILO_OUTCOME_SUCCESS ? mega : 0 },
			.exception = { "\0\0e\0", 4 },
			.type = "package.Überfehler",
			.message = "line\twith \"quotes\" and \xf0\x9f\x90\x8d",
			.traceback = "Traceback (most recent call last):\n  File \"x\", line 1\n",
			.out = { large, mega },
			.err = { "\xff\xfe\0 not UTF-8", 14 },
			.truncated = outcome % 2,
			.timeline = "{\"start\": 1, \"run\": 2}",
		};
		task.id = storage_add (c, &task);
		storage_ok (finish (c, task.id, 1, &result, 9, &err), &err, "task_finish");
		struct storage_seen seen = { 0 };
		storage_see (c, task.id, &seen);
		tap_is_int (seen.outcome, outcome, "outcome %s", silo_outcome_name (outcome));
		task.state = SILO_TASK_DONE;
		task.attempt = seen.attempt; /* free to be 0 or 1: it never started */
		task.finished = 9;
		check_record (c, &task, &result);
	}
	free (large);
	storage_empty (c);
}

/* 30 tasks, of which each third has a result. */
static void
test_list (struct conform *c)
{
	enum { N = 30 };
	struct silo_task batch[N];
	struct storage_ids ids = { 0 };
	struct silo_result result = storage_result ();
	struct silo_error err = storage_untouched;
	bool newest_first = true, all_unfinished = true;

	storage_list (c, (struct silo_task_query){ 0 }, &ids);
	tap_is_int (ids.n, 0, "an empty store lists nothing");
	for (size_t i = 0; i < N; i++)
		batch[i] = storage_task ("list");
	storage_ok (instance_call (c->instance, storage, task_add, batch, N, &err), &err,
		    "task_add");
	for (size_t i = 0; i < N; i += 3)
		if (finish (c, batch[i].id, 1, &result, 9, &err) < 0)
			tap_ok (false, "task_finish: %s", err.msg);
	for (size_t i = 1; i < N; i += 3)
		if (start (c, batch[i].id, 1, 9, &err) < 0)
			tap_ok (false, "task_start: %s", err.msg);

	storage_list (c, (struct silo_task_query){ 0 }, &ids);
	tap_is_int (ids.n, N, "all are listed");
	for (size_t i = 0; i < N; i++)
		newest_first &= ids.id[i] == batch[N - 1 - i].id;
	tap_ok (newest_first, "newest first");

	storage_list (c, (struct silo_task_query){ .limit = 4 }, &ids);
	tap_ok (ids.n == 4 && ids.id[0] == batch[N - 1].id && ids.id[3] == batch[N - 4].id,
		"limit: the four newest");
	storage_list (c, (struct silo_task_query){ .limit = N + 1 }, &ids);
	tap_is_int (ids.n, N, "a limit above what there is");
	storage_list (c, (struct silo_task_query){ .before = batch[10].id }, &ids);
	tap_ok (ids.n == 10 && ids.id[0] == batch[9].id && ids.id[9] == batch[0].id,
		"before: only ids below it");
	storage_list (c, (struct silo_task_query){ .before = batch[0].id }, &ids);
	tap_is_int (ids.n, 0, "before the first");
	storage_list (c, (struct silo_task_query){ .before = INT64_MAX }, &ids);
	tap_is_int (ids.n, N, "before the largest number");

	storage_list (c, (struct silo_task_query){ .unfinished = true }, &ids);
	tap_is_int (ids.n, N - N / 3, "unfinished: only those without a result");
	for (size_t i = 0; i < ids.n && i < N; i++)
		all_unfinished &= (ids.id[i] - batch[0].id) % 3 != 0;
	tap_ok (all_unfinished, "and exactly those");
	storage_list (
	    c, (struct silo_task_query){ .unfinished = true, .before = batch[7].id, .limit = 3 },
	    &ids);
	tap_ok (ids.n == 3 && ids.id[0] == batch[5].id && ids.id[1] == batch[4].id &&
		    ids.id[2] == batch[2].id,
		"all conditions together");

	ids.stop_after = 2;
	storage_list (c, (struct silo_task_query){ 0 }, &ids);
	tap_is_int (ids.n, 2, "a callback stops the list, which then succeeds");
	storage_empty (c);
}

static void
test_drop (struct conform *c)
{
	struct silo_task task = storage_task ("drop"), other = storage_task ("other");
	struct silo_result result = storage_result ();
	struct silo_error err = storage_untouched;
	struct storage_ids ids = { 0 };

	other.id = storage_add (c, &other);
	for (int i = 0; i < 3; i++) {
		static const char *const what[] = { "of a queued task", "of a running task",
						    "of a task with a result" };
		task.id = storage_add (c, &task);
		if (i > 0)
			storage_ok (start (c, task.id, 1, 3, &err), &err, "task_start");
		if (i > 1)
			storage_ok (finish (c, task.id, 1, &result, 4, &err), &err, "task_finish");
		tap_note ("task_drop %s", what[i]);
		storage_ok (instance_call (c->instance, storage, task_drop, task.id, &err), &err,
			    "task_drop");
		int r = instance_call (c->instance, storage, task_get, task.id, storage_on_id, &ids,
				       &err);
		storage_fails (r, &err, SILO_NOTFOUND, "task_get");
		tap_is_int (ids.n, 0, "and nothing is called back");
		storage_fails (start (c, task.id, 2, 5, &err), &err, SILO_NOTFOUND, "task_start");
		storage_fails (finish (c, task.id, 2, &result, 5, &err), &err, SILO_NOTFOUND,
			       "task_finish");
		err = storage_untouched;
		storage_fails (instance_call (c->instance, storage, task_drop, task.id, &err), &err,
			       SILO_NOTFOUND, "a second task_drop");
		err = storage_untouched;
	}
	storage_list (c, (struct silo_task_query){ 0 }, &ids);
	tap_ok (ids.n == 1 && ids.id[0] == other.id, "others stay");
	check_record (c, &other, NULL);
	storage_empty (c);
}

static void
test_restart (struct conform *c)
{
	struct silo_task queued = storage_task ("queued"), running = storage_task ("running"),
			 done = storage_task ("done");
	struct silo_result result = storage_result ();
	struct silo_error err;

	queued.id = storage_add (c, &queued);
	running.id = storage_add (c, &running);
	done.id = storage_add (c, &done);
	storage_ok (start (c, running.id, 4, 44, &err), &err, "task_start");
	storage_ok (start (c, done.id, 1, 11, &err), &err, "task_start");
	storage_ok (finish (c, done.id, 1, &result, 12, &err), &err, "task_finish");
	conform_reload (c);
	tap_note ("after a restart");
	running.state = SILO_TASK_RUNNING;
	running.attempt = 4;
	running.started = 44;
	done.state = SILO_TASK_DONE;
	done.attempt = 1;
	done.started = 11;
	done.finished = 12;
	check_record (c, &queued, NULL);
	check_record (c, &running, NULL);
	check_record (c, &done, &result);
	storage_empty (c);
}

static int
on_seen (void *arg, const struct silo_record *record)
{
	struct storage_seen *seen = arg;

	seen->there = true;
	seen->attempt = record->task.attempt;
	seen->state = record->task.state;
	seen->outcome = record->result ? record->result->outcome : -1;
	seen->exit_code = record->result ? record->result->exit_code : -1;
	return 0;
}

void
storage_see (struct conform *c, int64_t id, struct storage_seen *ret)
{
	struct silo_error err = storage_untouched;

	*ret = (struct storage_seen){ 0 };
	int r = instance_call (c->instance, storage, task_get, id, on_seen, ret, &err);
	if (r < 0 && r != SILO_NOTFOUND)
		tap_ok (false, "task_get: %s", err.msg);
}

int
conform_storage (struct conform *c)
{
	if (c->role)
		return storage_child (c);
	storage_empty (c);
	test_add (c);
	test_ids (c);
	test_attempts (c);
	test_external (c);
	test_results (c);
	test_list (c);
	test_drop (c);
	test_restart (c);
	storage_test_names (c);
	storage_test_threads (c);
	storage_test_processes (c);
	return tap_done ();
}
