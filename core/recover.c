/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recover.c - what an earlier daemon on this state folder left behind when it
 * was killed: containers, worker folders, unfinished tasks.  Runs once at
 * start, before anything is served; its mounts died with its namespace.
 */
#include "engine.h"

#include <inttypes.h>

#define RECOVER_MAX 100000 /* containers or tasks; more are left for the next start */

/* -- containers -------------------------------------------------------------------- */

struct ids {
	char **item;
	size_t n;
	struct silo_error err;
};

static int
keep_id (void *arg, const char *id)
{
	struct ids *ids = arg;

	char **item = realloc (ids->item, (ids->n + 1) * sizeof (*item));
	if (!item)
		return silo_fail_nomem (&ids->err);
	ids->item = item;
	if (util_strdup (id, &ids->item[ids->n], &ids->err) < 0)
		return -1;
	ids->n++;
	return ids->n >= RECOVER_MAX;
}

static int
clean_containers (struct core *core, struct silo_instance *container, struct silo_error *err)
{
	struct ids ids = { 0 };

	int r = instance_call (container, container, list, keep_id, &ids, err);
	if (r == 0 && ids.err.code)
		r = silo_fail (err, ids.err.code, "%s", ids.err.msg);
	for (size_t i = 0; i < ids.n; i++) {
		if (r == 0) {
			silo_log (&core->host, SILO_INFO,
				  "removing container %s of an earlier daemon", ids.item[i]);
			r = instance_call (container, container, remove, ids.item[i], err);
		}
		free (ids.item[i]);
	}
	free (ids.item);
	return r;
}

int
recover_clean (struct core *core, struct silo_error *err)
{
	char path[4096];
	struct silo_error why;

	/* Also those of a container plugin that this daemon does not use, if it can be asked:
	 * the earlier one may have had another silo.ini. */
	for (size_t i = 0; i < core->wiring.container.n; i++) {
		struct silo_instance *container = core->wiring.container.item[i];
		int r = clean_containers (core, container, &why);
		if (r < 0 && container == core->container)
			return silo_fail (err, r, "%s", why.msg);
		if (r < 0)
			silo_log (&container->host, SILO_DEBUG, "looking for leftovers: %s",
				  why.msg);
	}
	int r = silo_state_path (&core->host, "run/workers", path, sizeof (path), err);
	if (r == 0)
		r = files_remove (path, err);
	if (r == 0)
		r = files_mkdir (path, err);
	return r;
}

/* -- tasks ---------------------------------------------------------------------------- */

struct unfinished {
	int64_t id;
	int32_t attempt;
	uint32_t flags;
};

struct unfinished_list {
	struct unfinished *item;
	size_t n;
	struct silo_error err;
};

static int
keep_task (void *arg, const struct silo_record *record)
{
	struct unfinished_list *list = arg;
	const struct silo_task *task = &record->task;

	struct unfinished *item = realloc (list->item, (list->n + 1) * sizeof (*item));
	if (!item)
		return silo_fail_nomem (&list->err);
	list->item = item;
	item[list->n++] = (struct unfinished){ task->id, task->attempt, task->flags };
	return 0;
}

static int
submit_again (void *arg, const struct silo_record *record)
{
	struct engine *engine = arg;
	struct silo_error err;
	struct call *call;

	if (call_new (engine, &record->task, (struct silo_bytes){ 0 }, NULL, NULL, &call, &err) <
	    0) {
		silo_log (&engine->core->host, SILO_WARN,
			  "task %" PRId64 " of an earlier daemon waits for the next start: %s",
			  record->task.id, err.msg);
		return 0;
	}
	call->stored = true;
	atomic_fetch_add (&engine->n_calls, 1);
	call_begin (call);
	return 0;
}

int
recover_tasks (struct core *core, struct silo_error *err)
{
	struct silo_instance *storage = core->wiring.storage;
	const struct silo_task_query query = { .unfinished = true, .limit = RECOVER_MAX };
	const struct silo_result lost = {
		.outcome = SILO_OUTCOME_LOST,
		.type = "",
		.message = "the daemon stopped while it waited or ran, and its caller was gone",
		.traceback = "",
		.timeline = "{}",
	};
	struct unfinished_list list = { 0 };
	size_t again = 0, given_up = 0;

	int r = instance_call (storage, storage, task_list, &query, keep_task, &list, err);
	if (r == 0 && list.err.code)
		r = silo_fail (err, list.err.code, "%s", list.err.msg);
	/* The list has the newest first; the oldest is run first. */
	for (size_t i = list.n; r == 0 && i-- > 0;) {
		const struct unfinished *task = &list.item[i];
		struct silo_error why;
		int settled;

		if (task->flags & SILO_TASK_EXTERNAL)
			continue;
		if (task->flags & SILO_TASK_DETACHED) {
			again++;
			settled = instance_call (storage, storage, task_get, task->id, submit_again,
						 core->engine, &why);
		} else {
			given_up++;
			settled = instance_call (storage, storage, task_finish, task->id,
						 task->attempt, &lost, silo_now (), &why);
		}
		/* One damaged record is no reason to leave the others. */
		if (settled < 0)
			silo_log (&core->host, SILO_WARN, "task %" PRId64 ": %s", task->id,
				  why.msg);
	}
	free (list.item);
	if (again || given_up)
		silo_log (&core->host, SILO_INFO,
			  "tasks of an earlier daemon: %zu run again, %zu lost with their callers",
			  again, given_up);
	return r;
}
