/* SPDX-License-Identifier: Apache-2.0 */
/*
 * server.h - the map of transport/grpc, in reading order: the instance
 * (grpc.c), who connects (door.c), a call's life (call.c), what the methods do
 * (method.c, v1.c, legacy.c), protobuf (codec.c), gRPC's own log (log.c).
 *
 * Threads: one for each completion queue runs every tag of its calls; the door
 * accepts connections and watches deadlines; the core's loop thread brings
 * events, which only queue bytes and start a batch.
 */
#ifndef SERVER_H
#define SERVER_H

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/slice.h>
#include <protobuf-c/protobuf-c.h>
#include <silo/silo.h>

#define SERVER_QUEUES 2  /* completion queues: one stuck poller leaves the other */
#define SERVER_SLOTS  32 /* calls that gRPC may hand over before we ask again, per queue */
#define TAG_MAGIC     0x51a57a60u
#define STATUS_MAX    4096 /* bytes of a status message as it travels (percent-encoded) */
#define OUTPUT_CHUNK  (128 * 1024)
#define OUTPUT_HOLD   (1024 * 1024) /* more queued than this: the function has to wait */
#define OUTPUT_RESUME (256 * 1024)

struct server;
struct call;

/* What a completion queue gives back: who continues. */
struct tag {
	uint32_t magic;
	void (*done) (struct tag *tag, bool ok);
};

/* -- grpc.c: the instance, its options, start and stop ----------------------- */

/* One gRPC server for each level of trust, so that a call's origin is never in doubt. */
struct face {
	struct server *server; /* NULL: no address of this kind */
	grpc_server *grpc;     /* NULL: no address of this kind, or gRPC is not needed yet */
	bool trusted;          /* unix sockets: the file's mode is the key */
	struct tag shutdown;
	atomic_int slots[SERVER_QUEUES]; /* calls asked for and not begun */
};

enum { FACE_LOCAL, FACE_TCP, FACE_COUNT };

struct queue {
	struct server *server;
	int index;
	grpc_completion_queue *grpc;
	pthread_t thread;
	bool running;
};

struct server {
	/* options */
	const char *const *listen;
	const char *api_key;
	int64_t max_message, max_calls, receive_timeout, rest_after;
	const char *tls_cert, *tls_key;
	bool insecure;

	struct silo_host *host;
	struct silo_listener *listeners;
	size_t n_listeners;
	struct face faces[FACE_COUNT];
	struct queue queues[SERVER_QUEUES];
	struct door *door;
	grpc_server_credentials *plain;
	/* the starting thread's, then the door's */
	bool roused;          /* gRPC runs */
	bool listening;       /* calls may come */
	atomic_bool draining; /* new calls are answered UNAVAILABLE */
	atomic_bool stopping; /* no new slots */

	pthread_mutex_t lock;
	pthread_cond_t ended;
	/* protected by lock */
	int live;                                      /* calls that hold gRPC objects */
	int faces_open;                                /* faces whose shutdown has not completed */
	struct call *receiving_first, *receiving_last; /* oldest first */
	bool receiving_watched;                        /* the door looks at them in time */
};

/* Start gRPC unless it runs.  Its timer threads wake up every second, so it is not started
 * before the first client shows (with TLS, where it listens itself, in start). */
int server_rouse (struct server *server, struct silo_error *err);
/* Stop it again; calls that live are cancelled. */
void server_rest (struct server *server);

/* -- door.c: accepts connections, watches deadlines -------------------------- */

int door_open (struct server *server, struct door **ret, struct silo_error *err);
/* Begin to accept. */
int door_start (struct door *door, struct silo_error *err);
/* Wake it: a call has begun to wait for its message. */
void door_kick (struct door *door);
/* Accept no more and end the thread; door_kick still may be called.  NULL is allowed. */
void door_close (struct door *door);
void door_free (struct door *door);

/* -- call.c, send.c: the life of one call -------------------------------------- */

/* Bytes on their way to the client: an encoded message, or output that can still grow. */
struct piece {
	struct piece *next;
	grpc_byte_buffer *ready; /* NULL: output */
	int stream;
	struct silo_buf output;
};

struct method {
	const char *path;
	bool open; /* answered without a key */
	void (*handle) (struct call *call, struct silo_bytes message);
};

struct call {
	struct tag begun, received, closed, sent;
	struct server *server;
	struct face *face;
	struct queue *queue;
	const struct method *method;
	grpc_call *grpc;
	grpc_call_details details;
	grpc_metadata_array metadata;
	grpc_byte_buffer *message;   /* being received */
	grpc_byte_buffer *in_flight; /* being sent */
	int cancelled;               /* gRPC's answer to RECV_CLOSE_ON_SERVER */

	/* protected by server->lock */
	struct call *receiving_next, *receiving_prev;
	bool receiving;
	int64_t receive_deadline;

	pthread_mutex_t lock;
	/* protected by lock */
	int refs;       /* one for gRPC's side, one for the core's */
	int batches;    /* started and not completed */
	bool is_closed; /* gRPC has no more use for us: start nothing */
	bool headers_sent;
	bool sending;
	bool ended;       /* status and text are set, nothing is queued after */
	bool status_sent; /* the batch with the status was started */
	int status;       /* a silo_code */
	char *text;       /* of the status, or NULL */
	struct piece *first, *last;
	size_t queued;  /* bytes of output in the queue */
	bool in_core;   /* the core owes us an event or a reply */
	bool submitted; /* id is known */
	uint64_t id;    /* of the call in the core */
	bool want_hold, is_held, want_cancel, did_cancel, steering;

	/* legacy.c: by the core's thread only */
	struct silo_buf out, err;
};

/* Ask for as many calls as may be outstanding on this queue. */
void call_fill_slots (struct face *face, struct queue *queue);
/* The core will call back with this call: keep it until call_core_done. */
void call_core_begin (struct call *call);
void call_core_done (struct call *call);
/* silo_submit, with call_core_begin; a failure is answered to the client. */
void call_submit (struct call *call, const struct silo_task *task, struct silo_bytes code,
		  silo_event_fn *fn);
/* Start a batch; call->lock is held.  Its tag's function ends with call_batch_done, which may
 * free the call. */
void call_start_batch (struct call *call, const grpc_op *ops, size_t n, struct tag *tag);
void call_batch_done (struct call *call);
/* Tell the core what has changed: cancel, hold, resume. */
void call_steer (struct call *call);
/* Cancel calls whose message has not arrived in time.  Returns when to look again
 * (silo_monotonic), or -1. */
int64_t call_expire (struct server *server);

/* send.c.  None of these fails: what cannot be sent ends the call with a status. */

/* The only message, and OK. */
void call_reply (struct call *call, const ProtobufCMessage *message);
void call_reply_bytes (struct call *call, const void *data, size_t len);
/* No (more) message, and this status. */
void call_fail (struct call *call, const struct silo_error *err);
void call_fail_text (struct call *call, int code, const char *text);
/* One message of several; `last`: and OK. */
void call_send (struct call *call, const ProtobufCMessage *message, bool last);
void call_send_output (struct call *call, int stream, struct silo_bytes data);
void call_sent (struct tag *tag, bool ok);
void call_drop_queue (struct call *call); /* call->lock is held */

/* -- method.c, v1.c, legacy.c: what the methods do ------------------------------- */

const struct method *method_find (grpc_slice path);
void v1_hello (struct call *call, struct silo_bytes message);
void v1_call (struct call *call, struct silo_bytes message);
void v1_get_function (struct call *call, struct silo_bytes message);
void legacy_get_package (struct call *call, struct silo_bytes message);

/* -- codec.c: protobuf, with the checks that protobuf-c leaves out ----------------- */

/* SILO_INVALID for whatever is not a well-formed message of this type with proper strings. */
int codec_unpack (const ProtobufCMessageDescriptor *type, struct silo_bytes wire,
		  ProtobufCMessage **ret, struct silo_error *err);
void codec_free (ProtobufCMessage *message);
int codec_pack (const ProtobufCMessage *message, grpc_byte_buffer **ret, struct silo_error *err);
/* A byte buffer of bytes that are copied. */
int codec_wrap (const void *data, size_t len, grpc_byte_buffer **ret, struct silo_error *err);
/* A text from outside: valid UTF-8 without NUL, at most `max` bytes. */
int codec_check_text (const char *what, const char *text, size_t max, struct silo_error *err);
/* Append `data` with everything that is not UTF-8 (and NUL) replaced by U+FFFD. */
int codec_add_text (struct silo_buf *to, struct silo_bytes data, struct silo_error *err);
/* "headline\ntail of detail" that fits STATUS_MAX when percent-encoded; malloc'ed, NULL: no
 * memory. */
char *codec_status_text (const char *headline, const char *detail);

/* -- log.c: gRPC's own messages, as debug lines of the instance -------------------- */

void log_attach (struct silo_host *host);
void log_detach (struct silo_host *host);

#endif
