/* SPDX-License-Identifier: Apache-2.0 */
/*
 * send.c - what goes to the client of one call: messages and output in a
 * queue, one batch in flight, the status with the last message.  Output that
 * waits grows into larger messages, and past a limit the core is told to hold
 * it back.  Any thread; call->lock protects the queue.
 */
#include "server.h"

#include <stdlib.h>
#include <string.h>
#include "silo_v1.pb-c.h"

#define TAG_CALL(tag, member) ((struct call *) ((char *) (tag) -offsetof (struct call, member)))

static void
piece_free (struct piece *piece)
{
	if (piece->ready)
		grpc_byte_buffer_destroy (piece->ready);
	silo_buf_free (&piece->output);
	free (piece);
}

void
call_drop_queue (struct call *call)
{
	while (call->first) {
		struct piece *piece = call->first;
		call->first = piece->next;
		piece_free (piece);
	}
	call->last = NULL;
	call->queued = 0;
}

/* Under the lock: out of memory half-way.  The client gets this status and nothing more. */
static void
send_abort (struct call *call)
{
	call_drop_queue (call);
	free (call->text);
	call->text = NULL;
	call->ended = true;
	call->status = SILO_EXHAUSTED;
	call->want_cancel = true;
}

/* -- the batch ------------------------------------------------------------- */

/* Under the lock: the first piece as a message of its own. */
static grpc_byte_buffer *
send_encode (struct call *call)
{
	struct piece *piece = call->first;
	grpc_byte_buffer *ready = piece->ready;

	call->first = piece->next;
	if (!call->first)
		call->last = NULL;
	piece->ready = NULL;
	if (!ready) {
		Silo__V1__Output output = SILO__V1__OUTPUT__INIT;
		Silo__V1__CallEvent event = SILO__V1__CALL_EVENT__INIT;
		output.stream = piece->stream;
		output.data = (ProtobufCBinaryData){ piece->output.len, piece->output.data };
		event.event_case = SILO__V1__CALL_EVENT__EVENT_OUTPUT;
		event.output = &output;
		call->queued -= piece->output.len;
		if (codec_pack (&event.base, &ready, NULL) < 0)
			send_abort (call);
	}
	piece_free (piece);
	return ready;
}

static grpc_status_code
send_status_code (int code)
{
	return code <= 0 && code >= SILO_UNAUTHENTICATED ? (grpc_status_code) -code
							 : GRPC_STATUS_INTERNAL;
}

/* Under the lock: start the next batch if there is something to send and none is in flight. */
static void
send_next (struct call *call)
{
	grpc_op ops[3] = { 0 };
	grpc_slice text;
	size_t n = 0;

	if (call->sending || call->status_sent || call->is_closed || (!call->first && !call->ended))
		return;
	if (!call->headers_sent)
		ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
	call->headers_sent = true;
	call->in_flight = call->first ? send_encode (call) : NULL;
	if (call->in_flight) {
		ops[n].op = GRPC_OP_SEND_MESSAGE;
		ops[n++].data.send_message.send_message = call->in_flight;
	}
	if (call->ended && !call->first) {
		call->status_sent = true;
		text = grpc_slice_from_copied_string (call->text ? call->text : "");
		ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
		ops[n].data.send_status_from_server.status = send_status_code (call->status);
		ops[n++].data.send_status_from_server.status_details = &text;
	}
	assert (n > 0);
	call->sending = true;
	call_start_batch (call, ops, n, &call->sent);
	if (call->status_sent)
		grpc_slice_unref (text);
}

void
call_sent (struct tag *tag, bool ok)
{
	struct call *call = TAG_CALL (tag, sent);

	pthread_mutex_lock (&call->lock);
	if (call->in_flight)
		grpc_byte_buffer_destroy (call->in_flight);
	call->in_flight = NULL;
	call->sending = false;
	if (!ok)
		call_drop_queue (call); /* the client has gone; `closed` says so too */
	else
		send_next (call);
	if (call->queued < OUTPUT_RESUME)
		call->want_hold = false;
	pthread_mutex_unlock (&call->lock);
	call_steer (call);
	call_batch_done (call);
}

/* -- the queue --------------------------------------------------------------- */

static void
send_append (struct call *call, struct piece *piece)
{
	if (call->last)
		call->last->next = piece;
	else
		call->first = piece;
	call->last = piece;
}

/* Takes `ready`; NULL: it could not be made. */
static void
send_message (struct call *call, grpc_byte_buffer *ready, bool last)
{
	struct piece *piece = ready ? calloc (1, sizeof (*piece)) : NULL;

	pthread_mutex_lock (&call->lock);
	if (call->is_closed || call->ended) {
		if (ready)
			grpc_byte_buffer_destroy (ready);
		free (piece);
	} else if (piece) {
		piece->ready = ready;
		send_append (call, piece);
		call->ended = last;
	} else {
		if (ready)
			grpc_byte_buffer_destroy (ready);
		send_abort (call);
	}
	send_next (call);
	pthread_mutex_unlock (&call->lock);
	call_steer (call);
}

void
call_send (struct call *call, const ProtobufCMessage *message, bool last)
{
	grpc_byte_buffer *ready = NULL;

	codec_pack (message, &ready, NULL);
	send_message (call, ready, last);
}

void
call_reply (struct call *call, const ProtobufCMessage *message)
{
	call_send (call, message, true);
}

void
call_reply_bytes (struct call *call, const void *data, size_t len)
{
	grpc_byte_buffer *ready = NULL;

	codec_wrap (data, len, &ready, NULL);
	send_message (call, ready, true);
}

void
call_fail_text (struct call *call, int code, const char *text)
{
	pthread_mutex_lock (&call->lock);
	if (!call->ended) {
		call->ended = true;
		call->status = code;
		call->text = strdup (text); /* without memory: the code alone */
	}
	send_next (call);
	pthread_mutex_unlock (&call->lock);
	call_steer (call);
}

void
call_fail (struct call *call, const struct silo_error *err)
{
	call_fail_text (call, err->code, err->msg);
}

/* Under the lock: add to the last piece of output, or begin another. */
static int
send_add_output (struct call *call, int stream, const void *data, size_t len)
{
	struct piece *piece = call->last;

	if (!piece || piece->ready || piece->stream != stream ||
	    piece->output.len + len > OUTPUT_CHUNK) {
		piece = calloc (1, sizeof (*piece));
		if (!piece)
			return silo_fail_nomem (NULL);
		piece->stream = stream;
		piece->output.max = OUTPUT_CHUNK;
		send_append (call, piece);
	}
	call->queued += len;
	return silo_buf_add (&piece->output, data, len, NULL);
}

void
call_send_output (struct call *call, int stream, struct silo_bytes data)
{
	const char *p = data.data;

	pthread_mutex_lock (&call->lock);
	while (data.len > 0 && !call->is_closed && !call->ended) {
		size_t len = data.len < OUTPUT_CHUNK ? data.len : OUTPUT_CHUNK;
		if (send_add_output (call, stream, p, len) < 0)
			send_abort (call);
		p += len;
		data.len -= len;
	}
	if (call->queued > OUTPUT_HOLD)
		call->want_hold = true;
	send_next (call);
	pthread_mutex_unlock (&call->lock);
	call_steer (call);
}
