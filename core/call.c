/* SPDX-License-Identifier: Apache-2.0 */
/*
 * call.c - a call's way from submit to reply: the list of steps at the end of
 * this file, read top to bottom.  A step returns FLOW_NEXT when the next may
 * begin, or FLOW_WAIT when something else (a pool job, a worker, a timer) will
 * call call_resume.  All on the loop thread, but for the *_work functions,
 * which run on the pool.
 */
#include "engine.h"

#include <inttypes.h>
#include <stdarg.h>

enum flow { FLOW_NEXT, FLOW_WAIT };

static void call_resume (struct call *call);

/* -- making and freeing ------------------------------------------------------ */

int
call_new (struct engine *engine, const struct silo_task *task, struct silo_bytes code,
	  silo_event_fn *fn, void *arg, struct call **ret, struct silo_error *err)
{
	struct call *call = calloc (1, sizeof (*call));
	if (!call)
		return silo_fail_nomem (err);
	call->engine = engine;
	call->fn = fn;
	call->arg = arg;
	call->marks = -1;
	call->stamps[STAMP_SUBMIT] = silo_monotonic ();
	call->number = atomic_fetch_add (&engine->numbers, 1) + 1;
	call->out.max = call->err.max = (size_t) engine->core->settings->output_limit;

	int r = task_copy (task, &call->task, err);
	if (r == 0 && code.len) {
		call->code = malloc (code.len);
		if (!call->code) {
			r = silo_fail_nomem (err);
		} else {
			memcpy (call->code, code.data, code.len);
			call->code_len = code.len;
		}
	}
	if (r < 0) {
		call_free (call);
		return r;
	}
	*ret = call;
	return 0;
}

void
call_free (struct call *call)
{
	if (!call)
		return;
	silo_buf_free (&call->out);
	silo_buf_free (&call->err);
	free (call->image);
	free (call->result);
	free (call->code);
	free (call->task);
	free (call);
}

/* Take it out of the engine; the last thing that happens to a call. */
static void
call_end (struct call *call)
{
	struct engine *engine = call->engine;

	assert (!call->busy && !call->worker && !call->queue_link && !call->deadline.slot);
	*call->link = call->next;
	if (call->next)
		call->next->link = call->link;
	if (call->function)
		function_unref (engine, call->function);
	atomic_fetch_sub (&engine->n_calls, 1);
	call_free (call);
	engine_check_quiet (engine);
}

struct call *
call_find (struct engine *engine, uint64_t number)
{
	for (struct call *call = engine->calls; call; call = call->next)
		if (call->number == number)
			return call;
	return NULL;
}

struct call *
call_find_task (struct engine *engine, int64_t task)
{
	for (struct call *call = engine->calls; call; call = call->next)
		if (call->stored && call->task->id == task)
			return call;
	return NULL;
}

/* -- events -------------------------------------------------------------------- */

static void
call_event (struct call *call, struct silo_event *event)
{
	if (!call->fn)
		return;
	event->task = call->stored ? call->task->id : 0;
	call->fn (call->arg, event);
}

void
call_output (struct call *call, int stream, const void *data, size_t len)
{
	struct silo_buf *kept = stream == 1 ? &call->out : &call->err;
	size_t room = kept->max - kept->len;

	if (len > room)
		call->truncated = true;
	if (silo_buf_add (kept, data, len < room ? len : room, NULL) < 0)
		call->truncated = true;
	if (!call->cancelled)
		call_event (call, &(struct silo_event){ .type = SILO_EVENT_OUTPUT,
							.stream = stream,
							.data = { data, len } });
}

/* -- results -------------------------------------------------------------------- */

/* Its worker is not its any more; a worker whose task has no result of its own is not to be
 * trusted with another. */
static void
call_leave_worker (struct call *call, bool healthy)
{
	struct worker *worker = call->worker;

	if (!worker)
		return;
	call->worker = NULL;
	worker->call = NULL;
	if (healthy)
		worker_done (worker);
	else
		worker_kill (worker);
}

/* A result of our own making. */
static void
call_verdict (struct call *call, int outcome, int exit_code, const char *message)
{
	struct silo_result result = { .outcome = outcome,
				      .exit_code = exit_code,
				      .message = message };

	/* Without memory for the text the outcome alone still travels. */
	if (result_copy (&result, &call->result, NULL) == 0)
		return;
	call->result = calloc (1, sizeof (result));
	assert (call->result);
	*call->result = (struct silo_result){ .outcome = outcome,
					      .exit_code = exit_code,
					      .type = "",
					      .message = "out of memory",
					      .traceback = "",
					      .timeline = "" };
}

void
call_fail (struct call *call, int outcome, int exit_code, const char *fmt, ...)
{
	char message[512];
	va_list ap;

	if (call->result)
		return;
	va_start (ap, fmt);
	vsnprintf (message, sizeof (message), fmt, ap);
	va_end (ap);
	call_verdict (call, outcome, exit_code, message);
	if (call->busy)
		return; /* its job's done function goes on from here */
	engine_dequeue (call->engine, call);
	call_leave_worker (call, false);
	call->step = CALL_FINISH;
	call_resume (call);
}

void
call_result (struct call *call, struct silo_result *result, int marks)
{
	call->stamps[STAMP_RESULT] = silo_monotonic ();
	call->result = result;
	call->marks = marks;
	call_output_done (call, false);
}

void
call_output_done (struct call *call, bool all)
{
	const struct stream *streams = call->worker->streams;
	int marks = 0;

	if (call->marks < 0)
		return; /* no result yet */
	for (int i = 0; i < 2; i++)
		marks += streams[i].fd < 0 ? 1 : streams[i].marks > 0;
	if (marks < call->marks && !all)
		return;
	call->stamps[STAMP_OUTPUT] = silo_monotonic ();
	/* Marks still to come would be taken for those of the worker's next call. */
	bool healthy = marks >= call->marks;
	call->marks = -1;
	call_leave_worker (call, healthy);
	call->step = CALL_FINISH;
	call_resume (call);
}

void
call_cancel (struct call *call)
{
	if (call->cancelled)
		return;
	call->cancelled = true;
	call_set_hold (call, false);
	call_fail (call, SILO_OUTCOME_CANCELLED, 0, "the caller gave up");
}

void
call_set_hold (struct call *call, bool hold)
{
	if (call->hold == hold)
		return;
	call->hold = hold;
	if (call->worker)
		output_hold (call->worker, hold);
}

/* -- step accept: check, give it an id, store it -------------------------------------- */

static int
check_image (struct call *call)
{
	const struct silo_task *task = call->task;

	int r = image_find (call->engine->core, task->image, &call->image, &call->error);
	call->outcome = r == SILO_NOTFOUND ? SILO_OUTCOME_NO_IMAGE : SILO_OUTCOME_INTERNAL;
	if (r < 0)
		return r;

	const struct silo_image *image = &call->image->image;
	call->outcome = SILO_OUTCOME_NO_PYTHON;
	if (!image->python[0])
		return silo_fail (&call->error, SILO_PRECONDITION,
				  "image %.100s has no Python: no python3 in the PATH of the image",
				  task->image);
	call->outcome = SILO_OUTCOME_VERSION;
	if (task->python[0] && image->python_version[0] &&
	    strcmp (task->python, image->python_version) != 0)
		return silo_fail (&call->error, SILO_PRECONDITION,
				  "the caller's Python is %.16s and that of image %.100s is %.16s: "
				  "functions only travel between the same versions",
				  task->python, task->image, image->python_version);
	return 0;
}

static void
accept_work (void *arg)
{
	struct call *call = arg;
	struct core *core = call->engine->core;
	struct silo_task *task = call->task;
	struct silo_bytes code = { call->code, call->code_len };

	int r = task->flags & SILO_TASK_EXTERNAL ? 0 : check_image (call);
	if (r < 0 || call->stored)
		goto out;
	r = names_store (core, call->engine->names, task, code, &call->error);
	call->outcome = r == SILO_NOTFOUND ? SILO_OUTCOME_NO_CODE : SILO_OUTCOME_INTERNAL;
	if (r == 0) {
		task->created = silo_now ();
		r = instance_call (core->wiring.storage, storage, task_add, task, 1, &call->error);
	}
	if (r == SILO_EXHAUSTED)
		call->outcome = SILO_OUTCOME_EXHAUSTED;
out:
	call->error.code = r;
	free (call->code);
	call->code = NULL;
}

static void
accept_done (void *arg)
{
	struct call *call = arg;

	call->busy = false;
	if (call->error.code) {
		if (!call->result)
			call_verdict (call, call->outcome, 0, call->error.msg);
		call->step = call->stored ? CALL_FINISH : CALL_REPLY;
		call_resume (call);
		return;
	}
	call->stored = true;
	call->stamps[STAMP_STORED] = silo_monotonic ();
	call_event (call, &(struct silo_event){ .type = SILO_EVENT_ACCEPTED });
	if (call->task->flags & (SILO_TASK_DETACHED | SILO_TASK_EXTERNAL))
		call->fn = NULL;
	if (call->task->flags & SILO_TASK_EXTERNAL) {
		call_end (call);
		return;
	}
	call->step = call->result ? CALL_FINISH : CALL_WORKER;
	call_resume (call);
}

static enum flow
step_accept (struct call *call)
{
	call->busy = true;
	pool_run (call->engine->core->pool, &call->job, accept_work, accept_done, call);
	return FLOW_WAIT;
}

/* -- step worker: wait for one that runs this function ------------------------------ */

static enum flow
step_worker (struct call *call)
{
	struct engine *engine = call->engine;
	struct silo_error err;

	if (function_get (engine, &call->task->function, call->image, &call->function, &err) < 0) {
		call_fail (call, SILO_OUTCOME_EXHAUSTED, 0, "%s", err.msg);
		return FLOW_WAIT;
	}
	engine_enqueue (engine, call);
	engine_dispatch (engine);
	return FLOW_WAIT;
}

void
call_given (struct call *call, struct worker *worker)
{
	call->worker = worker;
	worker->call = call;
	worker->state = WORKER_BUSY;
	loop_disarm (call->engine->core->loop, &worker->timer); /* it idles no more */
	/* The stamps of a worker that was ready before the call came are not the call's. */
	for (int i = STAMP_SPAWN; i <= STAMP_CONNECTED; i++)
		if (worker->stamps[i] > call->stamps[STAMP_STORED])
			call->stamps[i] = worker->stamps[i];
	call->step = CALL_START;
	call_resume (call);
}

/* -- step start: an attempt begins, on record before it does ----------------------------- */

static void
start_work (void *arg)
{
	struct call *call = arg;
	struct silo_task *task = call->task;

	task->attempt++;
	task->started = silo_now ();
	int r = instance_call (call->engine->core->wiring.storage, storage, task_start, task->id,
			       task->attempt, task->started, &call->error);
	call->error.code = r;
}

static void
start_done (void *arg)
{
	struct call *call = arg;

	call->busy = false;
	if (call->result) {
		call_leave_worker (call, true);
		call->step = CALL_FINISH;
	} else if (call->error.code) {
		call_fail (call, SILO_OUTCOME_INTERNAL, 0, "%s", call->error.msg);
		return;
	} else {
		call->step = CALL_RUN;
	}
	call_resume (call);
}

static enum flow
step_start (struct call *call)
{
	call->busy = true;
	pool_run (call->engine->core->pool, &call->job, start_work, start_done, call);
	return FLOW_WAIT;
}

/* -- step run: hand it over, wait for the result --------------------------------------------- */

static void
deadline_passed (void *arg)
{
	struct call *call = arg;

	/* It was in time, but its caller does not read: the worker is not kept for that. */
	if (call->result) {
		call_output_done (call, true);
		return;
	}
	call_fail (call, SILO_OUTCOME_TIMEOUT, 0,
		   "it ran longer than its timeout of %" PRId64 " ms", call->task->timeout_ms);
}

static enum flow
step_run (struct call *call)
{
	struct loop *loop = call->engine->core->loop;

	if (!call->task->timeout_ms)
		call->task->timeout_ms = call->engine->core->settings->timeout;
	/* A task that may run for 300 years needs no timer. */
	if (call->task->timeout_ms < INT64_MAX / 2000000)
		loop_arm (loop, &call->deadline,
			  silo_monotonic () + call->task->timeout_ms * 1000000, deadline_passed,
			  call);
	output_begin (call->worker);
	output_hold (call->worker, call->hold);
	call->stamps[STAMP_RUN] = silo_monotonic ();
	worker_run (call->worker);
	return FLOW_WAIT;
}

/* -- step finish: its one result, on record before anybody hears of it -------------------------- */

static const char *const stamp_names[STAMP_COUNT] = {
	[STAMP_SUBMIT] = "submit",
	[STAMP_STORED] = "stored",
	[STAMP_SPAWN] = "spawn",
	[STAMP_MOUNTED] = "mounted",
	[STAMP_CONTAINER] = "container",
	[STAMP_CONNECTED] = "connected",
	[STAMP_RUN] = "run",
	[STAMP_CODE] = "code",
	[STAMP_RESULT] = "result",
	[STAMP_OUTPUT] = "output",
};

/* {"submit": 0, "stored": 81234, ...}: nanoseconds after submit, in order. */
static void
timeline (const struct call *call, char *ret, size_t size)
{
	size_t n = (size_t) snprintf (ret, size, "{");

	for (int i = 0; i < STAMP_COUNT; i++)
		if (call->stamps[i] && n < size)
			n += (size_t) snprintf (ret + n, size - n, "%s\"%s\": %" PRId64,
						n > 1 ? ", " : "", stamp_names[i],
						call->stamps[i] - call->stamps[STAMP_SUBMIT]);
	if (n < size)
		snprintf (ret + n, size - n, "}");
}

static void
finish_work (void *arg)
{
	struct call *call = arg;
	char text[STAMP_COUNT * 40];

	timeline (call, text, sizeof (text));
	struct silo_result result = *call->result;
	result.timeline = text;
	call->task->finished = silo_now ();
	int r =
	    instance_call (call->engine->core->wiring.storage, storage, task_finish, call->task->id,
			   call->task->attempt, &result, call->task->finished, &call->error);
	call->error.code = r;
}

static void
finish_done (void *arg)
{
	struct call *call = arg;

	call->busy = false;
	/* The caller still gets its result; what could not be kept is said in the log. */
	if (call->error.code)
		silo_log (&call->engine->core->host, SILO_ERROR,
			  "result of task %" PRId64 " is not kept: %s", call->task->id,
			  call->error.msg);
	call->step = CALL_REPLY;
	call_resume (call);
}

static enum flow
step_finish (struct call *call)
{
	struct silo_result *result = call->result;

	loop_disarm (call->engine->core->loop, &call->deadline);
	result->out = (struct silo_bytes){ call->out.data, call->out.len };
	result->err = (struct silo_bytes){ call->err.data, call->err.len };
	result->truncated = call->truncated;
	if (!call->stored || call->abandoned)
		return FLOW_NEXT;
	call->busy = true;
	pool_run (call->engine->core->pool, &call->job, finish_work, finish_done, call);
	return FLOW_WAIT;
}

/* -- step reply: the one RESULT event ------------------------------------------------------------- */

static enum flow
step_reply (struct call *call)
{
	silo_log (&call->engine->core->host, SILO_DEBUG, "task %" PRId64 " (%s) %s%s%s",
		  call->task->id, call->task->name, silo_outcome_name (call->result->outcome),
		  call->result->message[0] ? ": " : "", call->result->message);
	call_event (call,
		    &(struct silo_event){ .type = SILO_EVENT_RESULT, .result = call->result });
	call_end (call);
	return FLOW_WAIT;
}

/* -- the list --------------------------------------------------------------------------------------- */

static enum flow (*const steps[]) (struct call *) = {
	[CALL_ACCEPT] =
	    step_accept, /* check limits and image, store: from here on it is not lost */
	[CALL_WORKER] = step_worker, /* an idle one of this function, else start one */
	[CALL_START] = step_start,   /* the attempt is on record */
	[CALL_RUN] = step_run,       /* hand it over; wait for result, exit, deadline or cancel */
	[CALL_FINISH] = step_finish, /* the result is on record */
	[CALL_REPLY] = step_reply,   /* exactly one result to the caller */
};

static void
call_resume (struct call *call)
{
	while (steps[call->step](call) == FLOW_NEXT)
		call->step++;
}

void
call_begin (struct call *call)
{
	struct engine *engine = call->engine;

	call->next = engine->calls;
	call->link = &engine->calls;
	if (call->next)
		call->next->link = &call->next;
	engine->calls = call;
	call->step = CALL_ACCEPT;
	/* Submitted while the drain began: nothing may begin any more once all was quiet. */
	if (atomic_load (&engine->draining)) {
		call_verdict (call, SILO_OUTCOME_LOST, 0, "the daemon is stopping");
		call->step = CALL_REPLY;
	}
	call_resume (call);
}
