/* SPDX-License-Identifier: Apache-2.0 */
/*
 * record.c - owned copies of tasks and results: one block that holds the
 * struct and everything that it points to.  Any thread.
 */
#include "core.h"

/* Walks the same fields twice: first to add up, then to copy. */
struct packer {
	char *at; /* NULL while adding up */
	size_t size;
};

static void
pack_bytes (struct packer *p, struct silo_bytes *bytes)
{
	size_t len = bytes->len;

	if (p->at) {
		if (len)
			memcpy (p->at, bytes->data, len);
		bytes->data = p->at;
		p->at += len;
	}
	p->size += len;
}

static void
pack_text (struct packer *p, const char **text)
{
	struct silo_bytes bytes = { *text ? *text : "", (*text ? strlen (*text) : 0) + 1 };

	pack_bytes (p, &bytes);
	if (p->at)
		*text = bytes.data;
}

static void
pack_task (struct packer *p, struct silo_task *task)
{
	pack_text (p, &task->name);
	pack_text (p, &task->image);
	pack_text (p, &task->python);
	pack_text (p, &task->source);
	pack_bytes (p, &task->args);
	pack_bytes (p, &task->kwargs);
}

static void
pack_result (struct packer *p, struct silo_result *result)
{
	pack_text (p, &result->type);
	pack_text (p, &result->message);
	pack_text (p, &result->traceback);
	pack_text (p, &result->timeline);
	pack_bytes (p, &result->value);
	pack_bytes (p, &result->exception);
	pack_bytes (p, &result->out);
	pack_bytes (p, &result->err);
}

int
task_copy (const struct silo_task *task, struct silo_task **ret, struct silo_error *err)
{
	struct silo_task plan = *task;
	struct packer p = { NULL, sizeof (plan) };

	pack_task (&p, &plan);
	struct silo_task *copy = malloc (p.size);
	if (!copy)
		return silo_fail_nomem (err);
	*copy = *task;
	p.at = (char *) (copy + 1);
	pack_task (&p, copy);
	*ret = copy;
	return 0;
}

int
result_copy (const struct silo_result *result, struct silo_result **ret, struct silo_error *err)
{
	struct silo_result plan = *result;
	struct packer p = { NULL, sizeof (plan) };

	pack_result (&p, &plan);
	struct silo_result *copy = malloc (p.size);
	if (!copy)
		return silo_fail_nomem (err);
	*copy = *result;
	p.at = (char *) (copy + 1);
	pack_result (&p, copy);
	*ret = copy;
	return 0;
}
