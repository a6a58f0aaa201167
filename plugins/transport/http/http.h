/* SPDX-License-Identifier: Apache-2.0 */
/*
 * http.h - the map of transport/http, in reading order: the instance (http.c),
 * one libmicrohttpd daemon for each socket (site.c), a request's life
 * (exchange.c), JSON in and out (body.c), what is answered to whom (route.c,
 * public.c, bridge.c), slow peers (watch.c).
 *
 * Threads: each site's libmicrohttpd thread runs all of its requests; answers
 * come on the core's thread, or at once; the watch cuts off who sends too
 * slowly.
 */
#ifndef HTTP_H
#define HTTP_H

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>
#include <microhttpd.h>
#include <silo/silo.h>

#define EXCHANGE_MAGIC 0x51a5e8c4u

struct http;
struct exchange;
struct route;

/* -- watch.c: who sends too slowly ------------------------------------------- */

/* One connection. */
struct peer {
	int fd;
	bool known; /* a worker that has shown its token: may be silent between requests */
	/* protected by watch->lock */
	bool watched;
	int64_t deadline;
	struct peer *next, *prev;
};

/* A request has to be complete this long after its connection was opened or the last request
 * on it was answered. */
struct watch {
	int64_t timeout; /* ns */
	pthread_t thread;
	bool running;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* protected by lock */
	bool closing;
	bool asleep;               /* without a deadline: has to be told of the first peer */
	struct peer *first, *last; /* oldest first */
};

int watch_open (struct watch *watch, int64_t timeout_ms, struct silo_error *err);
void watch_close (struct watch *watch);
void watch_add (struct watch *watch, struct peer *peer);
/* After it returns the watch does not touch the peer. */
void watch_remove (struct watch *watch, struct peer *peer);

/* -- http.c: the instance, its options, start and stop ----------------------- */

/* One listening socket. */
struct site {
	struct http *http;
	struct silo_listener listener;
	struct MHD_Daemon *mhd; /* NULL: not serving yet */
	bool bridge;            /* for workers; the others are for clients */
	bool tls;
};

struct http {
	/* options */
	const char *const *listen;
	const char *bridge, *api_key;
	int64_t max_body, max_connections, receive_timeout;
	const char *tls_cert, *tls_key;
	bool insecure;

	struct silo_host *host;
	struct site *sites;
	size_t n_sites;
	struct silo_buf cert, key;
	struct watch watch;

	pthread_mutex_t lock;
	pthread_cond_t answered;
	/* protected by lock */
	bool draining;            /* no new tasks */
	bool stopping;            /* nobody may wait any more */
	struct exchange *waiting; /* suspended requests */
	int n_handled;            /* requests between being complete and being answered */
	int64_t log_second;
	int log_lines;
};

/* -- site.c: libmicrohttpd ------------------------------------------------------ */

int site_serve (struct site *site, struct silo_error *err);
void site_close (struct site *site);

/* -- exchange.c: the life of one request ------------------------------------------ */

struct exchange {
	uint32_t magic;
	struct site *site;
	struct http *http;
	struct peer *peer;
	struct MHD_Connection *connection;
	const struct route *route;
	char tail[72];         /* of the path, behind the route's */
	struct silo_error bad; /* decided before the body was read; code 0: none */
	unsigned bad_status;   /* HTTP status, when bad.code alone does not say it; or 0 */
	char allow[16];        /* with status 405: the methods that the path has */
	bool close;            /* what follows on the connection cannot be trusted */
	uint64_t length;       /* as the client says, 0 when it does not */
	struct silo_buf body;
	size_t n_received;
	bool handled;
	char token[256]; /* bridge: the worker's */
	bool then_next;  /* bridge: a result that asks for the next task as well */

	atomic_int refs; /* one for libmicrohttpd, one while the core owes an answer */
	pthread_mutex_t lock;
	/* protected by lock */
	bool answered, suspended;
	unsigned status;
	struct MHD_Response *response;
	/* protected by http->lock, taken after this one */
	struct exchange *next, *prev;
};

/* Callbacks of libmicrohttpd. */
enum MHD_Result exchange_handle (void *cls, struct MHD_Connection *connection, const char *url,
				 const char *method, const char *version, const char *data,
				 size_t *data_size, void **state);
void exchange_completed (void *cls, struct MHD_Connection *connection, void **state,
			 enum MHD_RequestTerminationCode how);
/* Answer 503 to all that wait, now and from now on, and give them a moment to hear it. */
void exchange_end_waiting (struct http *http);

/* The core will call back: keep it until exchange_core_done. */
void exchange_core_begin (struct exchange *x);
void exchange_core_done (struct exchange *x);
/* A response of these bytes, freed or copied as `mode` says, also on failure; NULL: no memory. */
struct MHD_Response *exchange_response (const void *data, size_t len, const char *type,
					enum MHD_ResponseMemoryMode mode);
/* Answer; the first answer counts.  Takes the response; NULL: there was no memory for it. */
void exchange_answer (struct exchange *x, unsigned status, struct MHD_Response *response);
void exchange_text (struct exchange *x, unsigned status, const char *text);
const char *exchange_header (struct exchange *x, const char *name);

/* -- body.c: JSON in and out --------------------------------------------------------- */

/* The object that these bytes are; SILO_INVALID for anything else. */
int body_parse (const void *data, size_t len, json_t **ret, struct silo_error *err);
/* A text that may hold bytes from outside; NULL only without memory. */
json_t *body_text (const char *text);
/* Takes the object; NULL: there was no memory for it. */
void exchange_json (struct exchange *x, unsigned status, json_t *object);
/* {"error": {"code": ..., "message": ...}} with the status of the code. */
void exchange_fail (struct exchange *x, const struct silo_error *err);
void exchange_fail_status (struct exchange *x, unsigned status, const struct silo_error *err);

/* -- route.c: what there is, and who may -------------------------------------------- */

struct route {
	bool bridge;
	const char *method;
	const char *path; /* ends with '/': the rest of the URL is the tail */
	bool open;        /* answered without a key */
	void (*handle) (struct exchange *x);
};

/* Find the route, check the request's framing and the caller; sets x->bad when it is refused. */
void route_find (struct exchange *x, const char *url, const char *method);
/* "123" and nothing else, up to max. */
int route_number (const char *what, const char *text, int64_t max, int64_t *ret,
		  struct silo_error *err);

/* -- public.c: the original Silo's HTTP API ------------------------------------------ */

void public_health (struct exchange *x);
void public_add_task (struct exchange *x);
void public_get_task (struct exchange *x);
void public_add_result (struct exchange *x);
void public_get_result (struct exchange *x);

/* -- bridge.c: workers ------------------------------------------------------------------ */

void bridge_next (struct exchange *x);
void bridge_code (struct exchange *x);
void bridge_result (struct exchange *x);

#endif
