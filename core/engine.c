/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.c - which call gets which worker, and how all of it ends.  Loop
 * thread.  Waiting calls stand in one queue, oldest first; a call takes an
 * idle worker of its function, else a new worker is begun while there is room,
 * else the worker that idles for another function makes room.
 */
#include "engine.h"

int
engine_new (struct core *core, struct engine **ret, struct silo_error *err)
{
	struct engine *engine = calloc (1, sizeof (*engine));
	if (!engine)
		return silo_fail_nomem (err);

	long processors = sysconf (_SC_NPROCESSORS_ONLN);
	engine->core = core;
	engine->tail = &engine->queue;
	engine->started = silo_now ();
	engine->max_workers = (int) core->settings->max_workers;
	if (!engine->max_workers)
		engine->max_workers = processors < 2 ? 4 : (int) processors * 2;

	int r = names_new (&engine->names, err);
	/* A deadline for each call, two timers for each worker, one of the engine's own. */
	if (r == 0)
		r = loop_reserve (
		    core->loop,
		    (size_t) core->settings->max_queue + 2 * (size_t) engine->max_workers + 1, err);
	if (r < 0) {
		engine_free (engine);
		return r;
	}
	*ret = engine;
	return 0;
}

void
engine_free (struct engine *engine)
{
	if (!engine)
		return;
	assert (!engine->calls && !engine->workers && !engine->functions);
	names_free (engine->names);
	free (engine);
}

/* -- functions ------------------------------------------------------------------ */

int
function_get (struct engine *engine, const struct silo_digest *code, const struct image_copy *image,
	      struct function **ret, struct silo_error *err)
{
	struct function *function;

	/* An image that was indexed anew may differ in its config alone. */
	for (function = engine->functions; function; function = function->next)
		if (silo_digest_equal (&function->code, code) &&
		    silo_digest_equal (&function->image->image.meta, &image->image.meta) &&
		    strcmp (function->image->image.config, image->image.config) == 0)
			break;
	if (!function) {
		function = calloc (1, sizeof (*function));
		if (!function)
			return silo_fail_nomem (err);
		int r = image_copy (&image->image, &function->image, err);
		if (r < 0) {
			free (function);
			return r;
		}
		function->code = *code;
		function->next = engine->functions;
		engine->functions = function;
	}
	function->refs++;
	*ret = function;
	return 0;
}

void
function_unref (struct engine *engine, struct function *function)
{
	assert (function->refs > 0);
	if (--function->refs)
		return;
	struct function **link = &engine->functions;
	while (*link != function)
		link = &(*link)->next;
	*link = function->next;
	free (function->image);
	free (function);
}

/* -- the queue ---------------------------------------------------------------------- */

void
engine_enqueue (struct engine *engine, struct call *call)
{
	call->queue_next = NULL;
	call->queue_link = engine->tail;
	*engine->tail = call;
	engine->tail = &call->queue_next;
	call->function->waiting++;
}

void
engine_dequeue (struct engine *engine, struct call *call)
{
	if (!call->queue_link)
		return;
	*call->queue_link = call->queue_next;
	if (call->queue_next)
		call->queue_next->queue_link = call->queue_link;
	else
		engine->tail = call->queue_link;
	call->queue_link = NULL;
	call->function->waiting--;
}

struct roll_call {
	int idle, leaving;
	struct worker *mine;  /* idle, of the function asked for */
	struct worker *other; /* idle for the longest time, of another one */
};

static struct roll_call
engine_roll_call (struct engine *engine, const struct function *function)
{
	struct roll_call roll = { 0 };

	for (struct worker *worker = engine->workers; worker; worker = worker->next) {
		if (worker->state == WORKER_ENDING || worker->state == WORKER_REMOVING)
			roll.leaving++;
		if (worker->state != WORKER_IDLE)
			continue;
		roll.idle++;
		/* The list has the newest first: the last one seen is the oldest. */
		if (worker->function == function)
			roll.mine = worker;
		else if (!roll.other || worker->timer.due < roll.other->timer.due)
			roll.other = worker;
	}
	return roll;
}

void
engine_dispatch (struct engine *engine)
{
	struct call *call, *next;
	struct silo_error err;

	for (call = engine->queue; call; call = next) {
		struct function *function = call->function;
		struct roll_call roll = engine_roll_call (engine, function);

		next = call->queue_next;
		if (roll.mine) {
			engine_dequeue (engine, call);
			call_given (call, roll.mine);
			continue;
		}
		if (function->starting >= function->waiting)
			continue;
		if (engine->n_workers < engine->max_workers) {
			if (worker_new (engine, function, &err) < 0)
				call_fail (call, SILO_OUTCOME_EXHAUSTED, 0, "no worker: %s",
					   err.msg);
			continue;
		}
		/* One place at a time: when it is free, this is called again. */
		if (roll.other && !roll.leaving)
			worker_end (roll.other);
		if (!roll.idle)
			break;
	}
}

/* -- the end ---------------------------------------------------------------------------- */

static void
drain_over (void *arg)
{
	struct engine *engine = arg;
	struct call *next;

	for (struct call *call = engine->calls; call; call = next) {
		next = call->next;
		call->abandoned = !call->result && call->task->flags & SILO_TASK_DETACHED;
		call_fail (call, SILO_OUTCOME_LOST, 0, "the daemon is stopping");
	}
	for (struct worker *worker = engine->workers; worker; worker = worker->next)
		worker_kill (worker);
}

void
engine_drain (struct engine *engine, int64_t ms, loop_fn *quiet, void *arg)
{
	engine->quiet = quiet;
	engine->quiet_arg = arg;
	loop_arm (engine->core->loop, &engine->drain_timer, silo_monotonic () + ms * 1000000,
		  drain_over, engine);
	atomic_store (&engine->draining, true);
	engine_check_quiet (engine);
}

void
engine_check_quiet (struct engine *engine)
{
	if (!atomic_load (&engine->draining) || engine->calls)
		return;
	for (struct worker *worker = engine->workers; worker; worker = worker->next)
		if (worker->state == WORKER_IDLE || worker->state == WORKER_BOOTING)
			worker_end (worker);
	if (engine->workers || !engine->quiet)
		return;
	loop_fn *quiet = engine->quiet;
	engine->quiet = NULL;
	loop_disarm (engine->core->loop, &engine->drain_timer);
	quiet (engine->quiet_arg);
}
