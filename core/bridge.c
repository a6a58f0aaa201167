/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bridge.c - the functions offered to transports: the caller's face and the
 * worker's face.  Any thread: each copies what it needs into a request and
 * posts it to the loop, or gives it to the pool when it only reads storage.
 */
#include "engine.h"

#include <inttypes.h>

#define NAME_MAX_BYTES 1024 /* of a function's and an image's name */

struct request {
	struct loop_post post;
	struct pool_job job;
	struct engine *engine;
	uint64_t call;
	bool hold;
	int64_t task;
	int32_t attempt;
	int marks;
	struct silo_digest digest;
	struct silo_result *result;
	char *text; /* token, name or value */
	size_t text_len;
	struct worker *worker;
	union {
		silo_task_reply_fn *task;
		silo_done_fn *done;
		silo_function_reply_fn *function;
		silo_work_fn *work;
		silo_code_fn *code;
	} fn;
	void *arg;
	struct silo_error error;
};

static void
request_free (void *arg)
{
	struct request *request = arg;

	if (!request)
		return;
	free (request->result);
	free (request->text);
	free (request);
}

static int
request_new (struct silo_host *host, const void *text, size_t text_len, struct request **ret,
	     struct silo_error *err)
{
	if (!host->core->engine)
		return silo_fail (err, SILO_UNAVAILABLE, "no daemon runs here");
	struct request *request = calloc (1, sizeof (*request));
	if (!request)
		return silo_fail_nomem (err);
	request->engine = host->core->engine;
	request->text = malloc (text_len + 1);
	if (!request->text) {
		free (request);
		return silo_fail_nomem (err);
	}
	if (text_len)
		memcpy (request->text, text, text_len);
	request->text[text_len] = 0;
	request->text_len = text_len;
	*ret = request;
	return 0;
}

static void
request_post (struct request *request, loop_fn *fn)
{
	loop_post (request->engine->core->loop, &request->post, fn, request);
}

/* -- the caller's face --------------------------------------------------------- */

static void
submit_here (void *arg)
{
	call_begin (arg);
}

static int
check_task (const struct silo_task *task, struct silo_bytes code, struct silo_digest *ret_digest,
	    struct silo_error *err)
{
	struct silo_digest digest;

	if (!(task->flags & SILO_TASK_EXTERNAL) && (!task->image || !task->image[0]))
		return silo_fail (err, SILO_INVALID,
				  "no image: expected the name of an indexed one");
	if (strlen (task->image ? task->image : "") > NAME_MAX_BYTES ||
	    strlen (task->name ? task->name : "") > NAME_MAX_BYTES)
		return silo_fail (err, SILO_INVALID,
				  "a name of more than %d bytes: function %.40s..., image %.40s...",
				  NAME_MAX_BYTES, task->name ? task->name : "",
				  task->image ? task->image : "");
	if (task->timeout_ms < 0)
		return silo_fail (err, SILO_INVALID,
				  "timeout of %" PRId64 " ms: expected more than 0, or 0 for the "
				  "default",
				  task->timeout_ms);
	*ret_digest = task->function;
	if (!code.len && silo_digest_empty (&task->function))
		return silo_fail (err, SILO_INVALID, "neither code nor the digest of a function");
	if (!code.len)
		return 0;
	int r = silo_digest_of (code.data, code.len, &digest, err);
	if (r < 0)
		return r;
	if (!silo_digest_empty (&task->function) && !silo_digest_equal (&digest, &task->function))
		return silo_fail (err, SILO_INVALID,
				  "the code does not have the digest that was sent with it");
	*ret_digest = digest;
	return 0;
}

int
silo_submit (struct silo_host *host, const struct silo_task *task, struct silo_bytes code,
	     silo_event_fn *fn, void *arg, uint64_t *ret_call, struct silo_error *err)
{
	struct engine *engine = host->core->engine;
	struct silo_task checked = *task;
	struct call *call;

	if (!engine || atomic_load (&engine->draining))
		return silo_fail (err, SILO_UNAVAILABLE, "the daemon is stopping");
	int r = check_task (task, code, &checked.function, err);
	if (r < 0)
		return r;
	checked.id = checked.state = checked.attempt = 0;
	checked.created = checked.started = checked.finished = 0;

	int64_t limit = host->core->settings->max_queue;
	if (atomic_fetch_add (&engine->n_calls, 1) >= limit) {
		atomic_fetch_sub (&engine->n_calls, 1);
		return silo_fail (err, SILO_EXHAUSTED,
				  "%" PRId64 " tasks wait or run, and [silo] max_queue is %" PRId64,
				  limit, limit);
	}
	r = call_new (engine, &checked, code, fn, arg, &call, err);
	if (r < 0) {
		atomic_fetch_sub (&engine->n_calls, 1);
		return r;
	}
	if (ret_call)
		*ret_call = call->number;
	loop_post (host->core->loop, &call->post, submit_here, call);
	return 0;
}

static void
cancel_here (void *arg)
{
	struct request *request = arg;
	struct call *call = call_find (request->engine, request->call);

	if (call)
		call_cancel (call);
	request_free (request);
}

void
silo_cancel (struct silo_host *host, uint64_t call)
{
	struct request *request;
	struct silo_error err;

	if (request_new (host, "", 0, &request, &err) < 0) {
		silo_log (host, SILO_WARN, "cancelling a call: %s", err.msg);
		return;
	}
	request->call = call;
	request_post (request, cancel_here);
}

static void
hold_here (void *arg)
{
	struct request *request = arg;
	struct call *call = call_find (request->engine, request->call);

	if (call)
		call_set_hold (call, request->hold && !call->cancelled);
	request_free (request);
}

void
silo_hold_output (struct silo_host *host, uint64_t call, bool hold)
{
	struct request *request;
	struct silo_error err;

	if (request_new (host, "", 0, &request, &err) < 0) {
		silo_log (host, SILO_WARN, "holding the output of a call: %s", err.msg);
		return;
	}
	request->call = call;
	request->hold = hold;
	request_post (request, hold_here);
}

struct code_reader {
	struct silo_buf *code;
	struct silo_error *err;
	int r;
};

static int
read_code (void *arg, const struct silo_thing *thing)
{
	struct code_reader *reader = arg;

	reader->r = silo_buf_add (reader->code, thing->value.data, thing->value.len, reader->err);
	return 0;
}

static int
load_code (struct core *core, const struct silo_digest *digest, struct silo_buf *ret,
	   struct silo_error *err)
{
	struct code_reader reader = { ret, err, 0 };
	char hex[SILO_DIGEST_HEX + 1];

	silo_digest_hex (digest, hex);
	int r = instance_call (core->wiring.storage, storage, thing_get, "code", hex, read_code,
			       &reader, err);
	return r < 0 ? r : reader.r;
}

struct task_reader {
	struct silo_task *task;
	struct silo_result *result;
	struct silo_error *err;
	int r;
};

static int
copy_record (void *arg, const struct silo_record *record)
{
	struct task_reader *reader = arg;

	reader->r = task_copy (&record->task, &reader->task, reader->err);
	if (reader->r == 0 && record->result)
		reader->r = result_copy (record->result, &reader->result, reader->err);
	return 0;
}

static void
task_read_work (void *arg)
{
	struct request *request = arg;
	struct core *core = request->engine->core;
	_cleanup_buf_ struct silo_buf code = SILO_BUF (SIZE_MAX / 2);
	struct task_reader reader = { .err = &request->error };
	struct silo_error none;

	int r = instance_call (core->wiring.storage, storage, task_get, request->task, copy_record,
			       &reader, &request->error);
	if (r == 0)
		r = reader.r;
	if (r < 0) {
		request->fn.task (request->arg, NULL, &request->error);
	} else {
		/* Code that is gone is no reason to hide the task. */
		load_code (core, &reader.task->function, &code, &none);
		struct silo_record record = { .task = *reader.task,
					      .result = reader.result,
					      .code = { code.data, code.len } };
		request->fn.task (request->arg, &record, NULL);
	}
	free (reader.task);
	free (reader.result);
}

void
silo_task_read (struct silo_host *host, int64_t id, silo_task_reply_fn *fn, void *arg)
{
	struct request *request;
	struct silo_error err;

	if (request_new (host, "", 0, &request, &err) < 0) {
		fn (arg, NULL, &err);
		return;
	}
	request->task = id;
	request->fn.task = fn;
	request->arg = arg;
	pool_run (host->core->pool, &request->job, task_read_work, request_free, request);
}

static int
check_external (void *arg, const struct silo_record *record)
{
	*(bool *) arg = record->task.flags & SILO_TASK_EXTERNAL;
	return 0;
}

static void
answer_work (void *arg)
{
	struct request *request = arg;
	struct silo_instance *storage = request->engine->core->wiring.storage;
	bool external = false;

	int r = instance_call (storage, storage, task_get, request->task, check_external, &external,
			       &request->error);
	if (r == 0 && !external)
		r = silo_fail (&request->error, SILO_DENIED,
			       "task %" PRId64 " gets its result from its worker only",
			       request->task);
	if (r == 0) {
		struct silo_result result = { .outcome = SILO_OUTCOME_SUCCESS,
					      .value = { request->text, request->text_len },
					      .type = "",
					      .message = "",
					      .traceback = "",
					      .timeline = "{}" };
		r = instance_call (storage, storage, task_finish, request->task, 0, &result,
				   silo_now (), &request->error);
	}
	request->fn.done (request->arg, r < 0 ? &request->error : NULL);
}

void
silo_task_answer (struct silo_host *host, int64_t id, struct silo_bytes value, silo_done_fn *fn,
		  void *arg)
{
	struct request *request;
	struct silo_error err;

	if (request_new (host, value.data, value.len, &request, &err) < 0) {
		fn (arg, &err);
		return;
	}
	request->task = id;
	request->fn.done = fn;
	request->arg = arg;
	pool_run (host->core->pool, &request->job, answer_work, request_free, request);
}

static void
function_read_work (void *arg)
{
	struct request *request = arg;

	if (names_read (request->engine->core, request->text, request->fn.function, request->arg,
			&request->error) < 0)
		request->fn.function (request->arg, NULL, &request->error);
}

void
silo_function_read (struct silo_host *host, const char *name, silo_function_reply_fn *fn, void *arg)
{
	struct request *request;
	struct silo_error err;

	if (request_new (host, name, strlen (name), &request, &err) < 0) {
		fn (arg, NULL, &err);
		return;
	}
	request->fn.function = fn;
	request->arg = arg;
	pool_run (host->core->pool, &request->job, function_read_work, request_free, request);
}

/* -- the worker's face --------------------------------------------------------------- */

int
silo_bridge_offer (struct silo_host *host, const char *socket_path, struct silo_error *err)
{
	if (socket_path[0] != '/')
		return silo_fail (err, SILO_INVALID, "bridge socket %s: expected an absolute path",
				  socket_path);
	if (host->core->bridge && strcmp (host->core->bridge, socket_path) == 0)
		return 0; /* the transport was started again */
	if (host->core->bridge)
		return silo_fail (err, SILO_EXISTS, "workers are served on %s already",
				  host->core->bridge);
	return util_strdup (socket_path, &host->core->bridge, err);
}

static struct worker *
request_worker (struct request *request)
{
	struct worker *worker = worker_find (request->engine, request->text);

	if (!worker)
		silo_fail (&request->error, SILO_UNAUTHENTICATED, "no worker has this token");
	return worker;
}

static void
next_here (void *arg)
{
	struct request *request = arg;
	struct worker *worker = request_worker (request);

	if (worker)
		worker_wants (worker, request->fn.work, request->arg);
	else
		request->fn.work (request->arg, NULL, &request->error);
	request_free (request);
}

void
silo_worker_next (struct silo_host *host, const char *token, silo_work_fn *fn, void *arg)
{
	struct request *request;
	struct silo_error err;

	if (request_new (host, token, strlen (token), &request, &err) < 0) {
		fn (arg, NULL, &err);
		return;
	}
	request->fn.work = fn;
	request->arg = arg;
	request_post (request, next_here);
}

static void
code_work (void *arg)
{
	struct request *request = arg;
	_cleanup_buf_ struct silo_buf code = SILO_BUF (SIZE_MAX / 2);

	if (load_code (request->engine->core, &request->digest, &code, &request->error) < 0)
		request->fn.code (request->arg, (struct silo_bytes){ 0 }, &request->error);
	else
		request->fn.code (request->arg, (struct silo_bytes){ code.data, code.len }, NULL);
}

static void
code_here (void *arg)
{
	struct request *request = arg;
	struct worker *worker = request_worker (request);

	if (worker && !silo_digest_equal (&worker->function->code, &request->digest)) {
		silo_fail (&request->error, SILO_DENIED, "worker %s runs another function",
			   worker->id);
		worker = NULL;
	}
	if (!worker) {
		request->fn.code (request->arg, (struct silo_bytes){ 0 }, &request->error);
		request_free (request);
		return;
	}
	if (worker->call)
		worker->call->stamps[STAMP_CODE] = silo_monotonic ();
	pool_run (request->engine->core->pool, &request->job, code_work, request_free, request);
}

void
silo_worker_code (struct silo_host *host, const char *token, const struct silo_digest *function,
		  silo_code_fn *fn, void *arg)
{
	struct request *request;
	struct silo_error err;

	if (request_new (host, token, strlen (token), &request, &err) < 0) {
		fn (arg, (struct silo_bytes){ 0 }, &err);
		return;
	}
	request->digest = *function;
	request->fn.code = fn;
	request->arg = arg;
	request_post (request, code_here);
}

static void
result_here (void *arg)
{
	struct request *request = arg;
	struct worker *worker = request_worker (request);
	struct call *call = worker ? worker->call : NULL;
	silo_done_fn *fn = request->fn.done;

	if (worker && (!call || call->task->id != request->task)) {
		silo_fail (&request->error, SILO_DENIED, "task %" PRId64 " is not this worker's",
			   request->task);
		worker = NULL;
	} else if (worker && (call->step != CALL_RUN || call->result ||
			      call->task->attempt != request->attempt)) {
		silo_fail (&request->error, SILO_EXISTS,
			   "task %" PRId64 " has a result or a newer attempt than %" PRId32,
			   request->task, request->attempt);
		worker = NULL;
	}
	if (!worker) {
		fn (request->arg, &request->error);
		request_free (request);
		return;
	}
	/* The reply first: the runner may ask for more while its output is read. */
	fn (request->arg, NULL);
	output_await (worker);
	call_result (call, silo_steal (&request->result), request->marks);
	request_free (request);
}

void
silo_worker_result (struct silo_host *host, const char *token, int64_t task, int32_t attempt,
		    const struct silo_result *result, int marks, silo_done_fn *fn, void *arg)
{
	struct silo_result own = {
		.outcome = result->outcome,
		.exit_code = result->exit_code,
		.value = result->value,
		.exception = result->exception,
		.type = result->type,
		.message = result->message,
		.traceback = result->traceback,
	};
	struct request *request;
	struct silo_error err;

	int r = request_new (host, token, strlen (token), &request, &err);
	if (r == 0) {
		r = result_copy (&own, &request->result, &err);
		if (r < 0)
			request_free (request);
	}
	if (r < 0) {
		fn (arg, &err);
		return;
	}
	request->task = task;
	request->attempt = attempt;
	request->marks = marks < 0 ? 0 : marks > 2 ? 2 : marks;
	request->fn.done = fn;
	request->arg = arg;
	request_post (request, result_here);
}
