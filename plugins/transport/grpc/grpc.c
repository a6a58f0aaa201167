/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grpc.c - transport/grpc: the instance.  Options, start (bind), listen (serve),
 * drain, stop, and the threads of the completion queues.
 */
#include "server.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <grpc/grpc_security.h>

#define SERVER_PEM_MAX (1024 * 1024)
/* How long stopping waits for answers to be sent, ns. */
#define SERVER_LAST_WORDS ((int64_t) 500 * 1000000)

static const struct silo_option options[] = {
	{ .name = "listen",
	  .type = SILO_LIST,
	  .offset = offsetof (struct server, listen),
	  .def = "127.0.0.1:50051 unix:grpc.sock",
	  .help = "addresses, HOST:PORT and unix:PATH (relative to the state folder, mode 0600)" },
	{ .name = "api_key",
	  .type = SILO_SECRET,
	  .offset = offsetof (struct server, api_key),
	  .def = "",
	  .help = "key that TCP clients send as metadata x-api-key; unix sockets need none" },
	{ .name = "max_message",
	  .type = SILO_SIZE,
	  .offset = offsetof (struct server, max_message),
	  .def = "64M",
	  .min = 64 * 1024,
	  .max = 1024 * 1024 * 1024,
	  .help = "largest request taken, in bytes" },
	{ .name = "max_calls",
	  .type = SILO_INT,
	  .offset = offsetof (struct server, max_calls),
	  .def = "1024",
	  .min = 1,
	  .max = 1000000,
	  .help = "calls in flight before new ones are refused with RESOURCE_EXHAUSTED" },
	{ .name = "receive_timeout",
	  .type = SILO_DURATION,
	  .offset = offsetof (struct server, receive_timeout),
	  .def = "30s",
	  .min = 100,
	  .max = 3600000,
	  .help = "time in which a request has to arrive completely" },
	{ .name = "rest_after",
	  .type = SILO_DURATION,
	  .offset = offsetof (struct server, rest_after),
	  .def = "30s",
	  .min = 100,
	  .max = 86400000,
	  .help = "time without a client after which gRPC is stopped until the next one comes" },
	{ .name = "tls_cert",
	  .type = SILO_PATH,
	  .offset = offsetof (struct server, tls_cert),
	  .def = "",
	  .help = "PEM file with the certificate chain; with tls_key, TCP is served by TLS only" },
	{ .name = "tls_key",
	  .type = SILO_PATH,
	  .offset = offsetof (struct server, tls_key),
	  .def = "",
	  .help = "PEM file with the private key" },
	{ .name = "insecure",
	  .type = SILO_BOOL,
	  .offset = offsetof (struct server, insecure),
	  .def = "false",
	  .help = "listen off loopback also without TLS and a key" },
	{ .name = NULL },
};

/* -- completion queues ------------------------------------------------------- */

static void *
queue_run (void *arg)
{
	struct queue *queue = arg;
	const gpr_timespec forever = gpr_inf_future (GPR_CLOCK_REALTIME);

	for (;;) {
		grpc_event event = grpc_completion_queue_next (queue->grpc, forever, NULL);
		if (event.type == GRPC_QUEUE_SHUTDOWN)
			return NULL;
		if (event.type != GRPC_OP_COMPLETE)
			continue;
		struct tag *tag = event.tag;
		assert (tag->magic == TAG_MAGIC);
		tag->done (tag, event.success);
	}
}

static int
queues_start (struct server *server, struct silo_error *err)
{
	for (int i = 0; i < SERVER_QUEUES; i++) {
		struct queue *queue = &server->queues[i];
		queue->server = server;
		queue->index = i;
		queue->grpc = grpc_completion_queue_create_for_next (NULL);
		int r = pthread_create (&queue->thread, NULL, queue_run, queue);
		if (r != 0)
			return silo_fail_sys (err, r, "thread for gRPC");
		queue->running = true;
	}
	return 0;
}

static void
queues_stop (struct server *server)
{
	for (int i = 0; i < SERVER_QUEUES; i++) {
		struct queue *queue = &server->queues[i];
		if (!queue->grpc)
			continue;
		grpc_completion_queue_shutdown (queue->grpc);
		if (queue->running)
			pthread_join (queue->thread, NULL);
		else
			while (grpc_completion_queue_next (
				   queue->grpc, gpr_inf_future (GPR_CLOCK_REALTIME), NULL)
				   .type != GRPC_QUEUE_SHUTDOWN)
				;
		grpc_completion_queue_destroy (queue->grpc);
		queue->grpc = NULL;
		queue->running = false;
	}
}

/* -- faces -------------------------------------------------------------------- */

static grpc_arg
face_arg (const char *key, int value)
{
	return (grpc_arg){ .type = GRPC_ARG_INTEGER,
			   .key = (char *) (uintptr_t) key,
			   .value.integer = value };
}

static void
face_down (struct tag *tag, bool ok SILO_UNUSED)
{
	struct face *face = (struct face *) ((char *) tag - offsetof (struct face, shutdown));
	struct server *server = face->server;

	pthread_mutex_lock (&server->lock);
	server->faces_open--;
	pthread_cond_broadcast (&server->ended);
	pthread_mutex_unlock (&server->lock);
}

static void
face_create (struct server *server, struct face *face)
{
	grpc_arg args[] = {
		face_arg (GRPC_ARG_ALLOW_REUSEPORT, 0),
		face_arg (GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int) server->max_message),
		/* No decompression: a message is as large as it came. */
		face_arg (GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1),
		face_arg (GRPC_ARG_ENABLE_CHANNELZ, 0),
		face_arg (GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 5000),
		face_arg (GRPC_ARG_MAX_CONNECTION_IDLE_MS, 600000),
		face_arg (GRPC_ARG_KEEPALIVE_TIME_MS, 30000),
		face_arg (GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000),
		face_arg (GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000),
		face_arg (GRPC_ARG_MAX_CONCURRENT_STREAMS, 1024),
	};
	const grpc_channel_args all = { sizeof (args) / sizeof (args[0]), args };

	face->shutdown = (struct tag){ TAG_MAGIC, face_down };
	face->grpc = grpc_server_create (&all, NULL);
	for (int i = 0; i < SERVER_QUEUES; i++)
		grpc_server_register_completion_queue (face->grpc, server->queues[i].grpc, NULL);
	server->faces_open++;
}

/* Until no call is live; calls that ended just now still have their result on the way. */
static void
faces_linger (struct server *server)
{
	int64_t due = silo_monotonic () + SERVER_LAST_WORDS;
	const struct timespec until = { due / 1000000000, due % 1000000000 };
	int r = 0;

	pthread_mutex_lock (&server->lock);
	while (r == 0 && server->live > 0)
		r = pthread_cond_timedwait (&server->ended, &server->lock, &until);
	pthread_mutex_unlock (&server->lock);
}

static void
faces_close (struct server *server)
{
	for (int i = 0; i < FACE_COUNT; i++)
		if (server->faces[i].grpc)
			grpc_server_shutdown_and_notify (server->faces[i].grpc,
							 server->queues[0].grpc,
							 &server->faces[i].shutdown);
	faces_linger (server);
	for (int i = 0; i < FACE_COUNT; i++)
		if (server->faces[i].grpc)
			grpc_server_cancel_all_calls (server->faces[i].grpc);
	pthread_mutex_lock (&server->lock);
	while (server->faces_open > 0 || server->live > 0)
		pthread_cond_wait (&server->ended, &server->lock);
	pthread_mutex_unlock (&server->lock);
	for (int i = 0; i < FACE_COUNT; i++) {
		if (server->faces[i].grpc)
			grpc_server_destroy (server->faces[i].grpc);
		server->faces[i].grpc = NULL;
	}
}

/* -- gRPC itself ------------------------------------------------------------------ */

/* Take calls: gRPC is there, and everything that they need. */
static void
server_begin (struct server *server)
{
	for (int i = 0; i < FACE_COUNT; i++) {
		struct face *face = &server->faces[i];
		if (!face->grpc)
			continue;
		grpc_server_start (face->grpc);
		for (int q = 0; q < SERVER_QUEUES; q++)
			call_fill_slots (face, &server->queues[q]);
	}
}

void
server_rest (struct server *server)
{
	if (!server->roused)
		return;
	atomic_store (&server->stopping, true);
	faces_close (server);
	queues_stop (server);
	atomic_store (&server->stopping, false);
	grpc_server_credentials_release (server->plain);
	server->plain = NULL;
	server->roused = false;
	grpc_shutdown ();
	log_detach (server->host);
}

int
server_rouse (struct server *server, struct silo_error *err)
{
	if (server->roused)
		return 0;
	server->roused = true;
	log_attach (server->host);
	grpc_init ();
	server->plain = grpc_insecure_server_credentials_create ();
	int r = queues_start (server, err);
	for (int i = 0; r == 0 && i < FACE_COUNT; i++)
		if (server->faces[i].server)
			face_create (server, &server->faces[i]);
	if (r == 0 && server->listening)
		server_begin (server);
	if (r < 0)
		server_rest (server);
	return r;
}

/* -- addresses ------------------------------------------------------------------ */

/* gRPC takes no descriptor for TLS: give the address back and let it bind. */
static int
server_bind_tls (struct server *server, struct silo_listener *listener, struct silo_error *err)
{
	SILO_CLEANUP (silo_buf_free)
	struct silo_buf cert = SILO_BUF (SERVER_PEM_MAX), key = SILO_BUF (SERVER_PEM_MAX);

	int r = silo_buf_add_file (&cert, server->tls_cert, err);
	if (r == 0)
		r = silo_buf_add_file (&key, server->tls_key, err);
	if (r < 0)
		return r;
	grpc_ssl_pem_key_cert_pair pair = { .private_key = (char *) key.data,
					    .cert_chain = (char *) cert.data };
	grpc_server_credentials *tls = grpc_ssl_server_credentials_create_ex (
	    NULL, &pair, 1, GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE, NULL);
	explicit_bzero (key.data, key.len);
	if (!tls)
		return silo_fail (err, SILO_INVALID, "%s and %s: no certificate and key of TLS",
				  server->tls_cert, server->tls_key);
	silo_listener_close (listener);
	int port = grpc_server_add_http2_port (server->faces[FACE_TCP].grpc, listener->name, tls);
	grpc_server_credentials_release (tls);
	if (port == 0)
		return silo_fail (err, SILO_UNAVAILABLE,
				  "%s: cannot serve TLS with %s: wrong certificate or key, or "
				  "address already in use",
				  listener->name, server->tls_cert);
	return 0;
}

static int
server_bind (struct server *server, const char *address, struct silo_error *err)
{
	bool tls = *server->tls_cert && *server->tls_key;
	struct silo_listener *listener = &server->listeners[server->n_listeners];

	int r = silo_listen (server->host, address, 0600,
			     server->insecure || (tls && *server->api_key), listener, err);
	if (r < 0)
		return r;
	server->n_listeners++;
	struct face *face = &server->faces[listener->local ? FACE_LOCAL : FACE_TCP];
	face->server = server;
	face->trusted = listener->local;
	return 0;
}

/* With every face known, so that gRPC starts with all of them. */
static int
server_bind_all_tls (struct server *server, struct silo_error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < server->n_listeners; i++) {
		if (server->listeners[i].local)
			continue;
		r = server_rouse (server, err);
		if (r == 0)
			r = server_bind_tls (server, &server->listeners[i], err);
	}
	return r;
}

static int
server_bind_all (struct server *server, struct silo_error *err)
{
	size_t n = 0;

	while (server->listen[n])
		n++;
	server->listeners = calloc (n + 1, sizeof (*server->listeners));
	if (!server->listeners)
		return silo_fail_nomem (err);
	for (size_t i = 0; i < n; i++) {
		int r = server_bind (server, server->listen[i], err);
		if (r < 0)
			return r;
	}
	return *server->tls_cert ? server_bind_all_tls (server, err) : 0;
}

/* -- life ------------------------------------------------------------------------- */

static int
server_init (void *self, struct silo_host *host, struct silo_error *err)
{
	struct server *server = self;
	pthread_condattr_t attr;

	server->host = host;
	if (!server->listen[0])
		return silo_fail (err, SILO_INVALID,
				  "listen is empty: expected HOST:PORT or unix:PATH");
	if (!*server->tls_cert != !*server->tls_key)
		return silo_fail (err, SILO_INVALID, "tls_cert and tls_key go together");
	pthread_mutex_init (&server->lock, NULL);
	pthread_condattr_init (&attr);
	pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
	pthread_cond_init (&server->ended, &attr);
	pthread_condattr_destroy (&attr);
	return 0;
}

static void
server_destroy (void *self)
{
	struct server *server = self;

	pthread_cond_destroy (&server->ended);
	pthread_mutex_destroy (&server->lock);
}

/* Undone by server_close at any stage. */
static int
server_open (struct server *server, struct silo_error *err)
{
	int r = door_open (server, &server->door, err);
	return r == 0 ? server_bind_all (server, err) : r;
}

static void
server_close (struct server *server)
{
	atomic_store (&server->draining, true);
	atomic_store (&server->stopping, true);
	door_close (server->door);
	server_rest (server);
	server->listening = false;
	memset (server->faces, 0, sizeof (server->faces));
	for (size_t i = 0; i < server->n_listeners; i++)
		silo_listener_close (&server->listeners[i]);
	server->n_listeners = 0;
	free (server->listeners);
	server->listeners = NULL;
	door_free (server->door);
	server->door = NULL;
}

static int
server_start (void *self, struct silo_error *err)
{
	struct server *server = self;
	sigset_t all, before;

	atomic_store (&server->draining, false);
	atomic_store (&server->stopping, false);
	server->receiving_watched = false;
	/* The daemon's signals are not for our threads, nor for those that gRPC starts. */
	sigfillset (&all);
	pthread_sigmask (SIG_SETMASK, &all, &before);
	int r = server_open (server, err);
	if (r < 0)
		server_close (server);
	pthread_sigmask (SIG_SETMASK, &before, NULL);
	return r;
}

static void
server_stop (void *self)
{
	server_close (self);
}

static int
server_listen (void *self, struct silo_error *err)
{
	struct server *server = self;
	sigset_t all, before;

	server->listening = true;
	if (server->roused)
		server_begin (server);
	sigfillset (&all);
	pthread_sigmask (SIG_SETMASK, &all, &before);
	int r = door_start (server->door, err);
	pthread_sigmask (SIG_SETMASK, &before, NULL);
	for (size_t i = 0; r == 0 && i < server->n_listeners; i++)
		silo_log (server->host, SILO_INFO, "listening on %s", server->listeners[i].name);
	return r;
}

static void
server_drain (void *self)
{
	struct server *server = self;

	atomic_store (&server->draining, true);
}

static const struct silo_transport_ops ops = { .listen = server_listen, .drain = server_drain };

SILO_PLUGIN (ops, .name = "grpc", .version = "1.0", .flags = SILO_PARALLEL,
	     .summary = "gRPC: silo.v1 and the original silo.Silo, on TCP and unix sockets",
	     .options = options, .instance_size = sizeof (struct server), .init = server_init,
	     .start = server_start, .stop = server_stop, .destroy = server_destroy);
