/* SPDX-License-Identifier: Apache-2.0 */
/*
 * call.c - the life of one call: begun -> admitted -> message received ->
 * handled by its method -> closed -> let go.  Runs on the thread of the call's
 * completion queue, except call_core_* and call_steer, which the core's thread
 * calls as well, and call_expire, which the door does.
 *
 * A call holds gRPC's objects until the last of its batches has completed,
 * and its memory until the core owes it nothing more either.
 */
#include "server.h"

#include <stdlib.h>
#include <string.h>
#include <grpc/byte_buffer_reader.h>

#define TAG_CALL(tag, member) ((struct call *) ((char *) (tag) -offsetof (struct call, member)))

static void call_begun (struct tag *tag, bool ok);
static void call_received (struct tag *tag, bool ok);
static void call_closed (struct tag *tag, bool ok);

/* -- memory ----------------------------------------------------------------- */

static struct call *
call_new (struct face *face, struct queue *queue)
{
	struct call *call = calloc (1, sizeof (*call));

	if (!call)
		return NULL;
	call->server = face->server;
	call->face = face;
	call->queue = queue;
	call->begun = (struct tag){ TAG_MAGIC, call_begun };
	call->received = (struct tag){ TAG_MAGIC, call_received };
	call->closed = (struct tag){ TAG_MAGIC, call_closed };
	call->sent = (struct tag){ TAG_MAGIC, call_sent };
	call->refs = 1;
	grpc_call_details_init (&call->details);
	grpc_metadata_array_init (&call->metadata);
	pthread_mutex_init (&call->lock, NULL);
	return call;
}

static void
call_free (struct call *call)
{
	assert (call->batches == 0 && !call->first && !call->in_core);
	silo_buf_free (&call->out);
	silo_buf_free (&call->err);
	free (call->text);
	pthread_mutex_destroy (&call->lock);
	free (call);
}

static void
call_unref (struct call *call)
{
	pthread_mutex_lock (&call->lock);
	bool last = --call->refs == 0;
	pthread_mutex_unlock (&call->lock);
	if (last)
		call_free (call);
}

/* gRPC is done with it: nothing of the call refers to the server any more. */
static void
call_let_go (struct call *call)
{
	struct server *server = call->server;

	grpc_call_details_destroy (&call->details);
	grpc_metadata_array_destroy (&call->metadata);
	if (call->grpc) {
		grpc_call_unref (call->grpc);
		pthread_mutex_lock (&server->lock);
		if (--server->live == 0)
			pthread_cond_broadcast (&server->ended);
		pthread_mutex_unlock (&server->lock);
	}
	call_unref (call);
}

void
call_start_batch (struct call *call, const grpc_op *ops, size_t n, struct tag *tag)
{
	call->batches++;
	grpc_call_error r = grpc_call_start_batch (call->grpc, ops, n, tag, NULL);
	assert (r == GRPC_CALL_OK);
}

void
call_batch_done (struct call *call)
{
	pthread_mutex_lock (&call->lock);
	bool last = --call->batches == 0;
	pthread_mutex_unlock (&call->lock);
	if (last)
		call_let_go (call);
}

/* -- begun: admit it or not -------------------------------------------------- */

void
call_fill_slots (struct face *face, struct queue *queue)
{
	atomic_int *slots = &face->slots[queue->index];

	while (face->grpc && atomic_load (slots) < SERVER_SLOTS &&
	       !atomic_load (&face->server->stopping)) {
		struct call *call = call_new (face, queue);
		if (!call)
			return; /* the next call that comes tries again */
		atomic_fetch_add (slots, 1);
		if (grpc_server_request_call (face->grpc, &call->grpc, &call->details,
					      &call->metadata, queue->grpc, queue->grpc,
					      &call->begun) != GRPC_CALL_OK) {
			atomic_fetch_sub (slots, 1);
			call_let_go (call);
			return;
		}
	}
}

static bool
call_key_ok (struct call *call, bool *ret_given)
{
	const char *key = call->server->api_key;
	bool ok = false;

	*ret_given = false;
	for (size_t i = 0; i < call->metadata.count; i++) {
		const grpc_metadata *item = &call->metadata.metadata[i];
		if (grpc_slice_str_cmp (item->key, "x-api-key") != 0)
			continue;
		/* Two keys are a mistake or a trick; neither counts. */
		ok = !*ret_given &&
		     silo_secret_equal (GRPC_SLICE_START_PTR (item->value),
					GRPC_SLICE_LENGTH (item->value), key, strlen (key));
		*ret_given = true;
	}
	return ok;
}

static int
call_admit (struct call *call, int live, struct silo_error *err)
{
	struct server *server = call->server;
	bool given;

	call->method = method_find (call->details.method);
	if (*server->api_key && !call->face->trusted && !(call->method && call->method->open) &&
	    !call_key_ok (call, &given))
		return silo_fail (err, SILO_UNAUTHENTICATED,
				  given ? "the key in metadata x-api-key is wrong"
					: "a key is needed in metadata x-api-key");
	if (!call->method)
		return silo_fail (err, SILO_UNIMPLEMENTED, "there is no such method");
	if (call->method->open)
		return 0;
	if (atomic_load (&server->draining))
		return silo_fail (err, SILO_UNAVAILABLE, "the daemon is stopping");
	if (live > server->max_calls)
		return silo_fail (err, SILO_EXHAUSTED,
				  "%lld calls are in flight already, which is the limit "
				  "(max_calls)",
				  (long long) server->max_calls);
	return 0;
}

/* Put it at the end of the list that the door watches. */
static void
call_expect_message (struct call *call)
{
	struct server *server = call->server;

	call->receive_deadline = silo_monotonic () + server->receive_timeout * 1000000;
	pthread_mutex_lock (&server->lock);
	bool kick = !server->receiving_watched;
	server->receiving_watched = true;
	call->receiving = true;
	call->receiving_prev = server->receiving_last;
	call->receiving_next = NULL;
	if (server->receiving_last)
		server->receiving_last->receiving_next = call;
	else
		server->receiving_first = call;
	server->receiving_last = call;
	pthread_mutex_unlock (&server->lock);
	if (kick)
		door_kick (server->door);
}

static void
call_forget_message (struct call *call)
{
	struct server *server = call->server;

	pthread_mutex_lock (&server->lock);
	if (call->receiving) {
		if (call->receiving_prev)
			call->receiving_prev->receiving_next = call->receiving_next;
		else
			server->receiving_first = call->receiving_next;
		if (call->receiving_next)
			call->receiving_next->receiving_prev = call->receiving_prev;
		else
			server->receiving_last = call->receiving_prev;
		call->receiving = false;
	}
	pthread_mutex_unlock (&server->lock);
}

static void
call_begun (struct tag *tag, bool ok)
{
	struct call *call = TAG_CALL (tag, begun);
	struct server *server = call->server;
	struct silo_error err = { 0 };

	atomic_fetch_sub (&call->face->slots[call->queue->index], 1);
	if (!ok) { /* the server is shutting down */
		call_let_go (call);
		return;
	}
	call_fill_slots (call->face, call->queue);
	pthread_mutex_lock (&server->lock);
	int live = ++server->live;
	pthread_mutex_unlock (&server->lock);

	int r = call_admit (call, live, &err);
	const grpc_op close = { .op = GRPC_OP_RECV_CLOSE_ON_SERVER,
				.data.recv_close_on_server.cancelled = &call->cancelled };
	const grpc_op receive = { .op = GRPC_OP_RECV_MESSAGE,
				  .data.recv_message.recv_message = &call->message };
	if (r == 0)
		call_expect_message (call);
	pthread_mutex_lock (&call->lock);
	call_start_batch (call, &close, 1, &call->closed);
	if (r == 0)
		call_start_batch (call, &receive, 1, &call->received);
	pthread_mutex_unlock (&call->lock);
	if (r < 0)
		call_fail (call, &err);
}

/* -- received: hand it to the method ------------------------------------------ */

/* The message in one piece: that of the buffer when it has only one, else a copy in *ret_copy. */
static struct silo_bytes
call_flatten (grpc_byte_buffer_reader *reader, grpc_slice *ret_copy)
{
	grpc_slice *only;

	*ret_copy = grpc_empty_slice ();
	if (reader->buffer_in->data.raw.slice_buffer.count == 1 &&
	    grpc_byte_buffer_reader_peek (reader, &only))
		return (struct silo_bytes){ GRPC_SLICE_START_PTR (*only),
					    GRPC_SLICE_LENGTH (*only) };
	*ret_copy = grpc_byte_buffer_reader_readall (reader);
	return (struct silo_bytes){ GRPC_SLICE_START_PTR (*ret_copy),
				    GRPC_SLICE_LENGTH (*ret_copy) };
}

static void
call_handle (struct call *call)
{
	grpc_byte_buffer_reader reader;
	grpc_slice copy;

	if (!grpc_byte_buffer_reader_init (&reader, call->message)) {
		call_fail_text (call, SILO_INVALID, "the message cannot be read");
		return;
	}
	struct silo_bytes message = call_flatten (&reader, &copy);
	call->method->handle (call, message);
	grpc_slice_unref (copy);
	grpc_byte_buffer_reader_destroy (&reader);
}

static void
call_received (struct tag *tag, bool ok)
{
	struct call *call = TAG_CALL (tag, received);

	call_forget_message (call);
	if (ok && call->message)
		call_handle (call);
	else
		call_fail_text (call, SILO_INVALID, "the request has no message");
	if (call->message)
		grpc_byte_buffer_destroy (call->message);
	call->message = NULL;
	call_batch_done (call);
}

int64_t
call_expire (struct server *server)
{
	int64_t now = silo_monotonic (), next = -1;

	pthread_mutex_lock (&server->lock);
	for (struct call *call = server->receiving_first; call; call = call->receiving_next) {
		if (call->receive_deadline > now) {
			next = call->receive_deadline;
			break;
		}
		/* It leaves the list when gRPC gives the batch back, which is at once; until
		 * then it holds its gRPC call. */
		grpc_call_cancel_with_status (call->grpc, GRPC_STATUS_DEADLINE_EXCEEDED,
					      "the message did not arrive in time", NULL);
	}
	server->receiving_watched = next >= 0;
	pthread_mutex_unlock (&server->lock);
	return next;
}

/* -- closed: the client has its status, or has gone ----------------------------- */

static void
call_closed (struct tag *tag, bool ok SILO_UNUSED)
{
	struct call *call = TAG_CALL (tag, closed);

	pthread_mutex_lock (&call->lock);
	call->is_closed = true;
	call_drop_queue (call);
	call->want_hold = false;
	call->want_cancel = call->cancelled;
	pthread_mutex_unlock (&call->lock);
	call_steer (call);
	call_batch_done (call);
}

/* -- the core's side ------------------------------------------------------------- */

void
call_core_begin (struct call *call)
{
	pthread_mutex_lock (&call->lock);
	assert (!call->in_core);
	call->in_core = true;
	call->refs++;
	pthread_mutex_unlock (&call->lock);
}

void
call_core_done (struct call *call)
{
	pthread_mutex_lock (&call->lock);
	assert (call->in_core);
	call->in_core = false;
	pthread_mutex_unlock (&call->lock);
	call_unref (call);
}

void
call_submit (struct call *call, const struct silo_task *task, struct silo_bytes code,
	     silo_event_fn *fn)
{
	struct silo_error err = { 0 };
	uint64_t id;

	call_core_begin (call);
	if (silo_submit (call->server->host, task, code, fn, call, &id, &err) < 0) {
		call_fail (call, &err);
		call_core_done (call);
		return;
	}
	/* Events may have come already, the last one included; the batch that brought the
	 * message keeps the call. */
	pthread_mutex_lock (&call->lock);
	call->id = id;
	call->submitted = true;
	pthread_mutex_unlock (&call->lock);
	call_steer (call);
}

void
call_steer (struct call *call)
{
	struct silo_host *host = call->server->host;

	pthread_mutex_lock (&call->lock);
	/* One thread at a time, without the lock: the core may call back from inside. */
	while (!call->steering && call->submitted && call->in_core) {
		bool cancel = call->want_cancel && !call->did_cancel, hold = call->want_hold;
		if (!cancel && hold == call->is_held)
			break;
		if (cancel)
			call->did_cancel = true;
		else
			call->is_held = hold;
		call->steering = true;
		pthread_mutex_unlock (&call->lock);
		if (cancel)
			silo_cancel (host, call->id);
		else
			silo_hold_output (host, call->id, hold);
		pthread_mutex_lock (&call->lock);
		call->steering = false;
	}
	pthread_mutex_unlock (&call->lock);
}
