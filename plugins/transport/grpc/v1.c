/* SPDX-License-Identifier: Apache-2.0 */
/*
 * v1.c - the methods of silo.v1: Hello, Call, GetFunction.  Requests are
 * checked here; how a call ends is data, never a status.
 */
#include "server.h"

#include <string.h>
#include "silo_v1.pb-c.h"

#ifndef SILO_VERSION
#define SILO_VERSION "0"
#endif

#define V1_NAME_MAX   256
#define V1_IMAGE_MAX  512
#define V1_PYTHON_MAX 32

static void
v1_message_free (ProtobufCMessage **message)
{
	codec_free (*message);
}

#define _cleanup_message_ SILO_CLEANUP (v1_message_free)

void
v1_hello (struct call *call, struct silo_bytes wire)
{
	_cleanup_message_ ProtobufCMessage *message = NULL;
	Silo__V1__HelloReply reply = SILO__V1__HELLO_REPLY__INIT;
	char daemon[] = "silo " SILO_VERSION;
	struct silo_error err = { 0 };

	if (codec_unpack (&silo__v1__hello_request__descriptor, wire, &message, &err) < 0) {
		call_fail (call, &err);
		return;
	}
	reply.daemon = daemon;
	reply.max_message = call->server->max_message;
	call_reply (call, &reply.base);
}

/* -- Call --------------------------------------------------------------------- */

static void
v1_accepted (struct call *call, int64_t task)
{
	Silo__V1__Accepted accepted = SILO__V1__ACCEPTED__INIT;
	Silo__V1__CallEvent event = SILO__V1__CALL_EVENT__INIT;

	accepted.task = task;
	event.event_case = SILO__V1__CALL_EVENT__EVENT_ACCEPTED;
	event.accepted = &accepted;
	call_send (call, &event.base, false);
}

static ProtobufCBinaryData
v1_bytes (struct silo_bytes bytes)
{
	return (ProtobufCBinaryData){ bytes.len, (uint8_t *) (uintptr_t) bytes.data };
}

static ProtobufCBinaryData
v1_text (const char *text)
{
	return v1_bytes ((struct silo_bytes){ text, text ? strlen (text) : 0 });
}

static void
v1_result (struct call *call, int64_t task, const struct silo_result *result)
{
	Silo__V1__Result reply = SILO__V1__RESULT__INIT;
	Silo__V1__CallEvent event = SILO__V1__CALL_EVENT__INIT;

	reply.outcome = (char *) (uintptr_t) silo_outcome_name (result->outcome);
	reply.exit_code = result->exit_code;
	reply.value = v1_bytes (result->value);
	reply.exception = v1_bytes (result->exception);
	reply.type = v1_text (result->type);
	reply.message = v1_text (result->message);
	reply.traceback = v1_text (result->traceback);
	reply.task = task;
	event.event_case = SILO__V1__CALL_EVENT__EVENT_RESULT;
	event.result = &reply;
	call_send (call, &event.base, true);
}

static void
v1_event (void *arg, const struct silo_event *event)
{
	struct call *call = arg;

	switch (event->type) {
	case SILO_EVENT_ACCEPTED:
		v1_accepted (call, event->task);
		break;
	case SILO_EVENT_OUTPUT:
		call_send_output (call, event->stream, event->data);
		break;
	case SILO_EVENT_RESULT:
		v1_result (call, event->task, event->result);
		call_core_done (call);
		break;
	}
}

static int
v1_check_call (const Silo__V1__CallRequest *request, struct silo_error *err)
{
	if (request->function.len != 0 && request->function.len != sizeof (struct silo_digest))
		return silo_fail (err, SILO_INVALID, "function has %zu bytes, a SHA-256 has 32",
				  request->function.len);
	if (request->function.len == 0 && request->code.len == 0)
		return silo_fail (err, SILO_INVALID, "neither function nor code is given");
	if (request->timeout_ms < 0)
		return silo_fail (err, SILO_INVALID, "timeout_ms is negative");
	int r = codec_check_text ("name", request->name, V1_NAME_MAX, err);
	if (r == 0)
		r = codec_check_text ("image", request->image, V1_IMAGE_MAX, err);
	if (r == 0)
		r = codec_check_text ("python", request->python, V1_PYTHON_MAX, err);
	return r;
}

void
v1_call (struct call *call, struct silo_bytes wire)
{
	_cleanup_message_ ProtobufCMessage *message = NULL;
	struct silo_error err = { 0 };

	if (codec_unpack (&silo__v1__call_request__descriptor, wire, &message, &err) < 0) {
		call_fail (call, &err);
		return;
	}
	const Silo__V1__CallRequest *request = (const Silo__V1__CallRequest *) message;
	if (v1_check_call (request, &err) < 0) {
		call_fail (call, &err);
		return;
	}
	struct silo_task task = { .name = request->name,
				  .image = request->image,
				  .python = request->python,
				  .source = request->source,
				  .args = { request->args.data, request->args.len },
				  .kwargs = { request->kwargs.data, request->kwargs.len },
				  .timeout_ms = request->timeout_ms };
	if (request->function.len == sizeof (task.function))
		memcpy (task.function.b, request->function.data, sizeof (task.function.b));
	call_submit (call, &task, (struct silo_bytes){ request->code.data, request->code.len },
		     v1_event);
}

/* -- GetFunction ---------------------------------------------------------------- */

static void
v1_function (void *arg, const struct silo_function *function, const struct silo_error *err)
{
	struct call *call = arg;

	if (function) {
		Silo__V1__Function reply = SILO__V1__FUNCTION__INIT;
		reply.name = (char *) (uintptr_t) function->name;
		reply.digest = v1_bytes (
		    (struct silo_bytes){ function->digest.b, sizeof (function->digest.b) });
		reply.image = (char *) (uintptr_t) function->image;
		reply.python = (char *) (uintptr_t) function->python;
		reply.source = (char *) (uintptr_t) function->source;
		reply.timeout_ms = function->timeout_ms;
		call_reply (call, &reply.base);
	} else {
		call_fail (call, err);
	}
	call_core_done (call);
}

void
v1_get_function (struct call *call, struct silo_bytes wire)
{
	_cleanup_message_ ProtobufCMessage *message = NULL;
	struct silo_error err = { 0 };

	if (codec_unpack (&silo__v1__get_function_request__descriptor, wire, &message, &err) < 0) {
		call_fail (call, &err);
		return;
	}
	const Silo__V1__GetFunctionRequest *request =
	    (const Silo__V1__GetFunctionRequest *) message;
	if (!*request->name) {
		call_fail_text (call, SILO_INVALID, "name is empty");
		return;
	}
	if (codec_check_text ("name", request->name, V1_NAME_MAX, &err) < 0) {
		call_fail (call, &err);
		return;
	}
	call_core_begin (call);
	silo_function_read (call->server->host, request->name, v1_function, call);
}
