/* SPDX-License-Identifier: Apache-2.0 */
/*
 * legacy.c - silo.Silo/GetPackage, the one method of the original Silo: one
 * request, one response, payloads as base64.  What the function wrote comes
 * with the result; a failure is a status whose message holds the traceback.
 */
#include "server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "silo.pb-c.h"

/* Of each stream; the original client takes answers of 4 MiB. */
#define LEGACY_OUTPUT_MAX (512 * 1024)
#define LEGACY_CUT        "\n[the rest of the output is left out]\n"

static void
legacy_message_free (ProtobufCMessage **message)
{
	codec_free (*message);
}

static void
legacy_output (struct call *call, int stream, struct silo_bytes data)
{
	struct silo_buf *to = stream == 2 ? &call->err : &call->out;
	size_t room = LEGACY_OUTPUT_MAX - to->len;

	to->max = LEGACY_OUTPUT_MAX;
	/* Without memory the output is lost, not the call. */
	silo_buf_add (to, data.data, data.len < room ? data.len : room, NULL);
}

/* The output as text; "" when there is no memory. */
static char *
legacy_text (const struct silo_buf *output, struct silo_buf *to)
{
	to->max = 3 * LEGACY_OUTPUT_MAX + sizeof (LEGACY_CUT);
	if (codec_add_text (to, (struct silo_bytes){ output->data, output->len }, NULL) < 0 ||
	    (output->len == LEGACY_OUTPUT_MAX &&
	     silo_buf_add (to, LEGACY_CUT, strlen (LEGACY_CUT), NULL) < 0) ||
	    to->len == 0)
		return (char *) (uintptr_t) "";
	return (char *) to->data;
}

static void
legacy_success (struct call *call, const struct silo_result *result)
{
	SILO_CLEANUP (silo_buf_free)
	struct silo_buf value = SILO_BUF ((size_t) INT32_MAX), out = SILO_BUF (0),
			err = SILO_BUF (0);
	Silo__GetPackageResponse reply = SILO__GET_PACKAGE_RESPONSE__INIT;
	struct silo_error error = { 0 };

	if (silo_base64_encode (result->value.data, result->value.len, &value, &error) < 0) {
		call_fail (call, &error);
		return;
	}
	if (value.len > 0)
		reply.result = (char *) value.data;
	reply.stdout = legacy_text (&call->out, &out);
	reply.stderr = legacy_text (&call->err, &err);
	call_reply (call, &reply.base);
}

static void
legacy_failure (struct call *call, const struct silo_result *result)
{
	const char *type = result->type ? result->type : "",
		   *message = result->message ? result->message : "";
	char headline[1024];

	if (*type)
		snprintf (headline, sizeof (headline), "%s: %s", type, message);
	else
		snprintf (headline, sizeof (headline), "%s",
			  *message ? message : silo_outcome_name (result->outcome));
	char *text = codec_status_text (headline, result->traceback);
	call_fail_text (call, silo_outcome_code (result->outcome), text ? text : headline);
	free (text);
}

static void
legacy_event (void *arg, const struct silo_event *event)
{
	struct call *call = arg;

	if (event->type == SILO_EVENT_OUTPUT)
		legacy_output (call, event->stream, event->data);
	if (event->type != SILO_EVENT_RESULT)
		return;
	if (event->result->outcome == SILO_OUTCOME_SUCCESS)
		legacy_success (call, event->result);
	else
		legacy_failure (call, event->result);
	call_core_done (call);
}

static int
legacy_decode (const char *field, const char *text, struct silo_buf *to, struct silo_error *err)
{
	size_t len = strlen (text);

	to->max = len;
	int r = silo_base64_decode (text, len, to, err);
	return r < 0 ? silo_wrap (err, "%s", field) : 0;
}

void
legacy_get_package (struct call *call, struct silo_bytes wire)
{
	SILO_CLEANUP (legacy_message_free) ProtobufCMessage *message = NULL;
	SILO_CLEANUP (silo_buf_free)
	struct silo_buf code = SILO_BUF (0), args = SILO_BUF (0), kwargs = SILO_BUF (0);
	struct silo_error err = { 0 };

	int r = codec_unpack (&silo__get_package_request__descriptor, wire, &message, &err);
	const Silo__GetPackageRequest *request = (const Silo__GetPackageRequest *) message;
	if (r == 0)
		r = codec_check_text ("image_name", request->image_name, 512, &err);
	if (r == 0)
		r = legacy_decode ("func", request->func, &code, &err);
	if (r == 0)
		r = legacy_decode ("args", request->args, &args, &err);
	if (r == 0)
		r = legacy_decode ("kwargs", request->kwargs, &kwargs, &err);
	if (r == 0 && code.len == 0)
		r = silo_fail (&err, SILO_INVALID, "func is empty");
	if (r < 0) {
		call_fail (call, &err);
		return;
	}
	const struct silo_task task = { .name = "",
					.image = request->image_name,
					.python = "",
					.source = request->func_str,
					.args = { args.data, args.len },
					.kwargs = { kwargs.data, kwargs.len } };
	call_submit (call, &task, (struct silo_bytes){ code.data, code.len }, legacy_event);
}
