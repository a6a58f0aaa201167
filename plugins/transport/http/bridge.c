/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bridge.c - what workers ask for and bring (docs/formats/bridge.md): the next
 * task, the function's code, a result.  Handlers run on the site's thread,
 * callbacks on the core's or inside the call.  The peer is hostile: every
 * number and name is checked here, and the token by the core.
 */
#include "http.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define BRIDGE_HEAD_MAX (8 * 1024 * 1024)

/* What a runner may say of its task; the other outcomes are the daemon's to find. */
static const int bridge_outcomes[] = {
	SILO_OUTCOME_SUCCESS,  SILO_OUTCOME_EXCEPTION,  SILO_OUTCOME_EXIT,
	SILO_OUTCOME_BAD_CODE, SILO_OUTCOME_BAD_RESULT, SILO_OUTCOME_MISSING_MODULE,
};

static void
bridge_bytes (struct exchange *x, const void *data, size_t len)
{
	exchange_answer (
	    x, MHD_HTTP_OK,
	    exchange_response (data, len, "application/octet-stream", MHD_RESPMEM_MUST_COPY));
}

static void
bridge_nothing (struct exchange *x)
{
	struct MHD_Response *response =
	    MHD_create_response_from_buffer (0, (void *) (uintptr_t) "", MHD_RESPMEM_PERSISTENT);

	exchange_answer (x, MHD_HTTP_NO_CONTENT, response);
}

/* -- GET /v1/worker/next ---------------------------------------------------------- */

static bool
bridge_add_number (struct MHD_Response *response, const char *name, int64_t value)
{
	char text[32];

	snprintf (text, sizeof (text), "%" PRId64, value);
	return MHD_add_response_header (response, name, text) == MHD_YES;
}

static struct MHD_Response *
bridge_task (const struct silo_work *work)
{
	char hex[SILO_DIGEST_HEX + 1];
	size_t len = work->args.len + work->kwargs.len;
	char *body = malloc (len ? len : 1);

	if (!body)
		return NULL;
	if (work->args.len)
		memcpy (body, work->args.data, work->args.len);
	if (work->kwargs.len)
		memcpy (body + work->args.len, work->kwargs.data, work->kwargs.len);
	struct MHD_Response *response =
	    exchange_response (body, len, "application/octet-stream", MHD_RESPMEM_MUST_FREE);
	if (!response)
		return NULL;
	silo_digest_hex (&work->function, hex);
	if (!bridge_add_number (response, "Silo-Task", work->task) ||
	    !bridge_add_number (response, "Silo-Attempt", work->attempt) ||
	    !bridge_add_number (response, "Silo-Args", (int64_t) work->args.len) ||
	    MHD_add_response_header (response, "Silo-Function", hex) != MHD_YES) {
		MHD_destroy_response (response);
		return NULL;
	}
	return response;
}

static void
bridge_work (void *arg, const struct silo_work *work, const struct silo_error *err)
{
	struct exchange *x = arg;

	if (work)
		exchange_answer (x, MHD_HTTP_OK, bridge_task (work));
	else if (err)
		exchange_fail (x, err);
	else
		bridge_nothing (x);
	exchange_core_done (x);
}

void
bridge_next (struct exchange *x)
{
	exchange_core_begin (x);
	silo_worker_next (x->http->host, x->token, bridge_work, x);
}

/* -- GET /v1/worker/code/HEX --------------------------------------------------------- */

static void
bridge_code_read (void *arg, struct silo_bytes code, const struct silo_error *err)
{
	struct exchange *x = arg;

	if (err)
		exchange_fail (x, err);
	else
		bridge_bytes (x, code.data, code.len);
	exchange_core_done (x);
}

void
bridge_code (struct exchange *x)
{
	struct silo_digest function;
	struct silo_error err = { 0 };

	if (silo_digest_parse (x->tail, &function, &err) < 0) {
		exchange_fail (x, &err);
		return;
	}
	exchange_core_begin (x);
	silo_worker_code (x->http->host, x->token, &function, bridge_code_read, x);
}

/* -- POST /v1/worker/result ------------------------------------------------------------ */

/* A decimal header; absent ones are `absent`, or an error when that is negative. */
static int
bridge_number (struct exchange *x, const char *name, int64_t absent, int64_t max, int64_t *ret,
	       struct silo_error *err)
{
	const char *value = exchange_header (x, name);

	if (value)
		return route_number (name, value, max, ret, err);
	if (absent < 0)
		return silo_fail (err, SILO_INVALID, "header %s is missing", name);
	*ret = absent;
	return 0;
}

static int
bridge_outcome (struct exchange *x, int32_t *ret, struct silo_error *err)
{
	const char *name = exchange_header (x, "Silo-Outcome");
	int outcome = name ? silo_outcome_parse (name) : -1;

	for (size_t i = 0; i < sizeof (bridge_outcomes) / sizeof (bridge_outcomes[0]); i++)
		if (outcome == bridge_outcomes[i]) {
			*ret = outcome;
			return 0;
		}
	return silo_fail (err, SILO_INVALID,
			  "header Silo-Outcome: \"%.40s\" is no outcome of a run",
			  name ? name : "");
}

/* Borrowed from the object. */
static int
bridge_text (const json_t *object, const char *name, const char **ret, struct silo_error *err)
{
	const json_t *value = json_object_get (object, name);

	if (value && !json_is_string (value))
		return silo_fail (err, SILO_INVALID, "the head's %s is no string", name);
	*ret = value ? json_string_value (value) : "";
	return 0;
}

struct bridge_report {
	struct silo_result result;
	int64_t task, attempt, marks;
	json_t *head; /* what the result's strings point into */
};

static int
bridge_read_head (struct exchange *x, size_t len, struct bridge_report *report,
		  struct silo_error *err)
{
	struct silo_result *result = &report->result;

	result->type = result->message = result->traceback = "";
	if (len == 0)
		return 0;
	int r = body_parse (x->body.data, len, &report->head, err);
	if (r == 0)
		r = bridge_text (report->head, "type", &result->type, err);
	if (r == 0)
		r = bridge_text (report->head, "message", &result->message, err);
	if (r == 0)
		r = bridge_text (report->head, "traceback", &result->traceback, err);
	return r;
}

static int
bridge_read (struct exchange *x, struct bridge_report *report, struct silo_error *err)
{
	struct silo_result *result = &report->result;
	int64_t exit_code = 0, head = 0;

	int r = bridge_outcome (x, &result->outcome, err);
	if (r == 0)
		r = bridge_number (x, "Silo-Task", -1, INT64_MAX, &report->task, err);
	if (r == 0)
		r = bridge_number (x, "Silo-Attempt", -1, INT32_MAX, &report->attempt, err);
	if (r == 0)
		r = bridge_number (x, "Silo-Marks", 0, 2, &report->marks, err);
	if (r == 0)
		r = bridge_number (x, "Silo-Exit", 0, INT32_MAX, &exit_code, err);
	if (r == 0)
		r = bridge_number (x, "Silo-Head", 0, BRIDGE_HEAD_MAX, &head, err);
	if (r == 0 && (size_t) head > x->body.len)
		r = silo_fail (err, SILO_INVALID,
			       "Silo-Head %" PRId64 " is more than the body's %zu bytes", head,
			       x->body.len);
	if (r == 0)
		r = bridge_read_head (x, (size_t) head, report, err);
	if (r < 0)
		return r;
	result->exit_code = (int32_t) exit_code;
	struct silo_bytes rest = { x->body.data ? x->body.data + head : NULL,
				   x->body.len - (size_t) head };
	if (result->outcome == SILO_OUTCOME_SUCCESS)
		result->value = rest;
	else
		result->exception = rest;
	return 0;
}

static void
bridge_result_done (void *arg, const struct silo_error *err)
{
	struct exchange *x = arg;

	if (err) {
		exchange_fail (x, err);
	} else if (x->then_next) {
		bridge_next (x);
	} else {
		bridge_nothing (x);
	}
	exchange_core_done (x);
}

void
bridge_result (struct exchange *x)
{
	struct bridge_report report = { 0 };
	struct silo_error err = { 0 };
	const char *next = exchange_header (x, "Silo-Next");

	/* Read now: when the core answers, the request's headers may be gone. */
	x->then_next = next && strcmp (next, "1") == 0;
	if (bridge_read (x, &report, &err) < 0) {
		exchange_fail (x, &err);
	} else {
		exchange_core_begin (x);
		silo_worker_result (x->http->host, x->token, report.task, (int32_t) report.attempt,
				    &report.result, (int) report.marks, bridge_result_done, x);
	}
	json_decref (report.head);
	silo_buf_free (&x->body);
}
