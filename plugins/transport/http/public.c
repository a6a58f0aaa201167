/* SPDX-License-Identifier: Apache-2.0 */
/*
 * public.c - the HTTP API of the original Silo (docs/formats/http.md): tasks and
 * their results as JSON with base64 strings.  Handlers run on the site's
 * thread, callbacks on the core's.
 */
#include "http.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void
public_health (struct exchange *x)
{
	exchange_text (x, MHD_HTTP_OK, "ok\n");
}

static bool
public_id (struct exchange *x, int64_t *ret)
{
	struct silo_error err = { 0 };

	if (route_number ("task id", x->tail, INT64_MAX, ret, &err) == 0)
		return true;
	exchange_fail (x, &err);
	return false;
}

/* -- POST /api/tasks --------------------------------------------------------------- */

static void
public_added (void *arg, const struct silo_event *event)
{
	struct exchange *x = arg;
	struct silo_error err = { 0 };
	char id[32];

	if (event->type == SILO_EVENT_ACCEPTED) {
		snprintf (id, sizeof (id), "%" PRId64, event->task);
		exchange_text (x, MHD_HTTP_OK, id);
	} else {
		assert (event->type == SILO_EVENT_RESULT);
		const char *message = event->result->message;
		int code = silo_outcome_code (event->result->outcome);
		silo_fail (&err, code ? code : SILO_INTERNAL, "%s",
			   message && *message ? message
					       : silo_outcome_name (event->result->outcome));
		exchange_fail (x, &err);
	}
	exchange_core_done (x);
}

/* A string member; missing and null are "". */
static int
public_text (const json_t *object, const char *name, const char **ret, size_t *ret_len,
	     struct silo_error *err)
{
	const json_t *value = json_object_get (object, name);

	if (value && !json_is_null (value) && !json_is_string (value))
		return silo_fail (err, SILO_INVALID, "%s is no string", name);
	*ret = json_is_string (value) ? json_string_value (value) : "";
	*ret_len = json_is_string (value) ? json_string_length (value) : 0;
	return 0;
}

static int
public_base64 (const json_t *object, const char *name, struct silo_buf *to, struct silo_error *err)
{
	const char *text;
	size_t len;

	int r = public_text (object, name, &text, &len, err);
	if (r < 0)
		return r;
	to->max = len;
	r = silo_base64_decode (text, len, to, err);
	return r < 0 ? silo_wrap (err, "%s", name) : 0;
}

static int
public_submit (struct exchange *x, const json_t *object, struct silo_error *err)
{
	SILO_CLEANUP (silo_buf_free)
	struct silo_buf code = SILO_BUF (0), args = SILO_BUF (0), kwargs = SILO_BUF (0);
	struct silo_task task = { .name = "", .python = "" };
	uint64_t call;
	size_t len;

	int r = public_text (object, "func_str", &task.source, &len, err);
	if (r == 0)
		r = public_text (object, "image_name", &task.image, &len, err);
	if (r == 0)
		r = public_base64 (object, "func", &code, err);
	if (r == 0)
		r = public_base64 (object, "args", &args, err);
	if (r == 0)
		r = public_base64 (object, "kwargs", &kwargs, err);
	if (r == 0 && code.len == 0)
		r = silo_fail (err, SILO_INVALID, "func is missing");
	if (r < 0)
		return r;
	task.args = (struct silo_bytes){ args.data, args.len };
	task.kwargs = (struct silo_bytes){ kwargs.data, kwargs.len };
	/* Without an image it is for somebody who fetches it and posts its result. */
	task.flags = *task.image ? SILO_TASK_DETACHED : SILO_TASK_EXTERNAL;
	exchange_core_begin (x);
	r = silo_submit (x->http->host, &task, (struct silo_bytes){ code.data, code.len },
			 public_added, x, &call, err);
	if (r < 0)
		exchange_core_done (x);
	return r;
}

void
public_add_task (struct exchange *x)
{
	struct silo_error err = { 0 };
	json_t *object = NULL;

	pthread_mutex_lock (&x->http->lock);
	bool draining = x->http->draining;
	pthread_mutex_unlock (&x->http->lock);
	int r = draining ? silo_fail (&err, SILO_UNAVAILABLE, "the daemon is stopping")
			 : body_parse (x->body.data, x->body.len, &object, &err);
	if (r == 0)
		r = public_submit (x, object, &err);
	if (r < 0)
		exchange_fail (x, &err);
	json_decref (object);
}

/* -- GET /api/tasks/ID ----------------------------------------------------------------- */

/* NULL: no memory. */
static json_t *
public_encode (struct silo_bytes bytes)
{
	SILO_CLEANUP (silo_buf_free) struct silo_buf text = SILO_BUF ((size_t) INT32_MAX);

	if (silo_base64_encode (bytes.data, bytes.len, &text, NULL) < 0)
		return NULL;
	return json_stringn_nocheck (text.data ? (const char *) text.data : "", text.len);
}

static void
public_task (void *arg, const struct silo_record *record, const struct silo_error *err)
{
	struct exchange *x = arg;

	if (record) {
		const struct silo_task *task = &record->task;
		json_t *object = json_pack (
		    "{s:I, s:o, s:o, s:o, s:o}", "id", (json_int_t) task->id, "func",
		    public_encode (record->code), "args", public_encode (task->args), "kwargs",
		    public_encode (task->kwargs), "func_str", body_text (task->source));
		if (object && task->image && *task->image)
			json_object_set_new (object, "image_name", body_text (task->image));
		exchange_json (x, MHD_HTTP_OK, object);
	} else {
		exchange_fail (x, err);
	}
	exchange_core_done (x);
}

void
public_get_task (struct exchange *x)
{
	int64_t id;

	if (!public_id (x, &id))
		return;
	exchange_core_begin (x);
	silo_task_read (x->http->host, id, public_task, x);
}

/* -- POST /api/results/ID ---------------------------------------------------------------- */

static void
public_answered (void *arg, const struct silo_error *err)
{
	struct exchange *x = arg;

	if (err)
		exchange_fail (x, err);
	else
		exchange_text (x, MHD_HTTP_OK, "");
	exchange_core_done (x);
}

void
public_add_result (struct exchange *x)
{
	SILO_CLEANUP (silo_buf_free) struct silo_buf value = SILO_BUF (x->body.len);
	const char *text = (const char *) x->body.data;
	size_t len = x->body.len;
	struct silo_error err = { 0 };
	int64_t id;

	if (!public_id (x, &id))
		return;
	while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r'))
		len--; /* as `base64 | curl --data-binary @-` sends it */
	if (silo_base64_decode (text ? text : "", len, &value, &err) < 0) {
		exchange_fail (x, &err);
		return;
	}
	exchange_core_begin (x);
	silo_task_answer (x->http->host, id, (struct silo_bytes){ value.data, value.len },
			  public_answered, x);
}

/* -- GET /api/results/ID ----------------------------------------------------------------- */

/* Written by hand: the value may be large, and base64 needs no escapes. */
static void
public_success (struct exchange *x, int64_t id, struct silo_bytes value)
{
	struct silo_buf text = SILO_BUF ((size_t) INT32_MAX);

	if (silo_buf_addf (&text, NULL, "{\"task_id\":%" PRId64 ",\"output\":\"", id) < 0 ||
	    silo_base64_encode (value.data, value.len, &text, NULL) < 0 ||
	    silo_buf_add (&text, "\"}", 2, NULL) < 0) {
		silo_buf_free (&text);
		exchange_answer (x, MHD_HTTP_OK, NULL);
		return;
	}
	exchange_answer (
	    x, MHD_HTTP_OK,
	    exchange_response (text.data, text.len, "application/json", MHD_RESPMEM_MUST_FREE));
}

static void
public_failure (struct exchange *x, int64_t id, const struct silo_result *result)
{
	exchange_json (x, MHD_HTTP_OK,
		       json_pack ("{s:I, s:n, s:s, s:i, s:o, s:o, s:o}", "task_id", (json_int_t) id,
				  "output", "outcome", silo_outcome_name (result->outcome),
				  "exit_code", (int) result->exit_code, "type",
				  body_text (result->type), "message", body_text (result->message),
				  "traceback", body_text (result->traceback)));
}

static void
public_result (void *arg, const struct silo_record *record, const struct silo_error *err)
{
	const struct silo_error none = { SILO_NOTFOUND, 0, "the task has no result yet" };
	struct exchange *x = arg;

	if (!record)
		exchange_fail (x, err);
	else if (!record->result)
		exchange_fail (x, &none);
	else if (record->result->outcome == SILO_OUTCOME_SUCCESS)
		public_success (x, record->task.id, record->result->value);
	else
		public_failure (x, record->task.id, record->result);
	exchange_core_done (x);
}

void
public_get_result (struct exchange *x)
{
	int64_t id;

	if (!public_id (x, &id))
		return;
	exchange_core_begin (x);
	silo_task_read (x->http->host, id, public_result, x);
}
