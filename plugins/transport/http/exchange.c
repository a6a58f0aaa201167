/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exchange.c - the life of one request: headers -> body, or refused and drained
 * -> handled by its route -> answered, at once or after waiting suspended ->
 * completed.  The steps run on the thread of the site; answers come from there
 * or from the core's thread.
 *
 * libmicrohttpd calls exchange_handle several times for one request: with the
 * headers, with each piece of the body, at its end, and after each resume.
 */
#include "http.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A body that is refused is read to its end, so that the answer gets through, but not more
 * than this many times what would have been allowed. */
#define EXCHANGE_DRAIN 4

/* How long stopping waits for answers to be sent, ns. */
#define EXCHANGE_LAST_WORDS ((int64_t) 500 * 1000000)

/* -- memory ------------------------------------------------------------------ */

static struct exchange *
exchange_new (struct site *site, struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info =
	    MHD_get_connection_info (connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	struct exchange *x = info && info->socket_context ? calloc (1, sizeof (*x)) : NULL;

	if (!x)
		return NULL;
	x->magic = EXCHANGE_MAGIC;
	x->site = site;
	x->http = site->http;
	x->peer = info->socket_context;
	x->connection = connection;
	atomic_init (&x->refs, 1);
	x->body.max = (size_t) site->http->max_body;
	pthread_mutex_init (&x->lock, NULL);
	return x;
}

static void
exchange_unref (struct exchange *x)
{
	if (atomic_fetch_sub (&x->refs, 1) > 1)
		return;
	if (x->response)
		MHD_destroy_response (x->response);
	silo_buf_free (&x->body);
	pthread_mutex_destroy (&x->lock);
	free (x);
}

void
exchange_core_begin (struct exchange *x)
{
	atomic_fetch_add (&x->refs, 1);
}

void
exchange_core_done (struct exchange *x)
{
	exchange_unref (x);
}

/* -- answers -------------------------------------------------------------------- */

/* Under both locks. */
static void
exchange_unlink (struct exchange *x)
{
	if (x->prev)
		x->prev->next = x->next;
	else
		x->http->waiting = x->next;
	if (x->next)
		x->next->prev = x->prev;
}

void
exchange_answer (struct exchange *x, unsigned status, struct MHD_Response *response)
{
	struct MHD_Response *late = NULL;

	pthread_mutex_lock (&x->lock);
	if (x->answered) {
		late = response;
	} else {
		x->answered = true;
		x->status = status;
		x->response = response;
		if (x->suspended) {
			pthread_mutex_lock (&x->http->lock);
			exchange_unlink (x);
			pthread_mutex_unlock (&x->http->lock);
			x->suspended = false;
			MHD_resume_connection (x->connection);
		}
	}
	pthread_mutex_unlock (&x->lock);
	if (late)
		MHD_destroy_response (late);
}

struct MHD_Response *
exchange_response (const void *data, size_t len, const char *type, enum MHD_ResponseMemoryMode mode)
{
	void *bytes = (void *) (uintptr_t) data;
	struct MHD_Response *response = MHD_create_response_from_buffer (len, bytes, mode);

	if (!response) {
		if (mode == MHD_RESPMEM_MUST_FREE)
			free (bytes);
		return NULL;
	}
	if (MHD_add_response_header (response, MHD_HTTP_HEADER_CONTENT_TYPE, type) != MHD_YES) {
		MHD_destroy_response (response);
		return NULL;
	}
	return response;
}

void
exchange_text (struct exchange *x, unsigned status, const char *text)
{
	exchange_answer (x, status,
			 exchange_response (text, strlen (text), "text/plain; charset=utf-8",
					    MHD_RESPMEM_MUST_COPY));
}

void
exchange_end_waiting (struct http *http)
{
	const struct silo_error err = { SILO_UNAVAILABLE, 0, "the daemon is stopping" };

	pthread_mutex_lock (&http->lock);
	http->stopping = true;
	while (http->waiting) {
		struct exchange *x = http->waiting;
		/* Locks are taken in the other order, so let go of this one; a reference keeps
		 * the exchange meanwhile.  Being in the list it is suspended, so that
		 * libmicrohttpd still has its own reference. */
		atomic_fetch_add (&x->refs, 1);
		pthread_mutex_unlock (&http->lock);
		exchange_fail (x, &err);
		exchange_unref (x);
		pthread_mutex_lock (&http->lock);
	}
	int64_t due = silo_monotonic () + EXCHANGE_LAST_WORDS;
	const struct timespec until = { due / 1000000000, due % 1000000000 };
	while (http->n_handled > 0 &&
	       pthread_cond_timedwait (&http->answered, &http->lock, &until) == 0)
		;
	pthread_mutex_unlock (&http->lock);
}

/* -- the steps ---------------------------------------------------------------------- */

static void
exchange_refuse (struct exchange *x, unsigned status, int code, const char *text)
{
	silo_fail (&x->bad, code, "%s", text);
	x->bad_status = status;
	silo_buf_free (&x->body);
}

/* A piece of the body. */
static enum MHD_Result
exchange_take (struct exchange *x, const char *data, size_t *data_size)
{
	size_t limit = x->body.max;

	x->n_received += *data_size;
	if (x->n_received > limit * EXCHANGE_DRAIN)
		return MHD_NO;
	if (!x->bad.code && x->n_received > limit)
		exchange_refuse (x, MHD_HTTP_CONTENT_TOO_LARGE, SILO_EXHAUSTED,
				 "the body is larger than max_body");
	if (!x->bad.code && silo_buf_add (&x->body, data, *data_size, NULL) < 0)
		exchange_refuse (x, 0, SILO_EXHAUSTED, "out of memory");
	*data_size = 0;
	return MHD_YES;
}

/* The whole request is there. */
static void
exchange_begin (struct exchange *x)
{
	x->handled = true;
	pthread_mutex_lock (&x->http->lock);
	x->http->n_handled++;
	pthread_mutex_unlock (&x->http->lock);
	watch_remove (&x->http->watch, x->peer);
	if (!x->bad.code)
		x->route->handle (x);
	else if (x->bad_status)
		exchange_fail_status (x, x->bad_status, &x->bad);
	else
		exchange_fail (x, &x->bad);
}

/* Suspend unless there is an answer already.  False: there is one. */
static bool
exchange_wait (struct exchange *x)
{
	const struct silo_error stopping = { SILO_UNAVAILABLE, 0, "the daemon is stopping" };
	struct http *http = x->http;
	bool waits = false;

	pthread_mutex_lock (&x->lock);
	if (!x->answered) {
		pthread_mutex_lock (&http->lock);
		waits = !http->stopping;
		if (waits) {
			x->suspended = true;
			x->prev = NULL;
			x->next = http->waiting;
			if (x->next)
				x->next->prev = x;
			http->waiting = x;
			MHD_suspend_connection (x->connection);
		}
		pthread_mutex_unlock (&http->lock);
	}
	bool answered = x->answered;
	pthread_mutex_unlock (&x->lock);
	if (!waits && !answered)
		exchange_fail (x, &stopping);
	return waits;
}

static enum MHD_Result
exchange_reply (struct exchange *x)
{
	struct MHD_Response *response = x->response;

	if (!response)
		return MHD_NO; /* no memory for an answer: close */
	if (x->close)
		MHD_add_response_header (response, MHD_HTTP_HEADER_CONNECTION, "close");
	if (x->allow[0])
		MHD_add_response_header (response, MHD_HTTP_HEADER_ALLOW, x->allow);
	/* A worker that has shown its token may run a task for hours before it speaks again. */
	if (x->site->bridge && x->status < 300 && !x->peer->known) {
		x->peer->known = true;
		MHD_set_connection_option (x->connection, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
	}
	return MHD_queue_response (x->connection, x->status, response);
}

enum MHD_Result
exchange_handle (void *cls, struct MHD_Connection *connection, const char *url, const char *method,
		 const char *version SILO_UNUSED, const char *data, size_t *data_size, void **state)
{
	struct exchange *x = *state;

	if (!x) {
		x = exchange_new (cls, connection);
		if (!x)
			return MHD_NO;
		*state = x;
		route_find (x, url, method);
		if (x->length > x->body.max * EXCHANGE_DRAIN)
			x->close = true; /* far too large even to be thrown away */
		if (!x->close)
			return MHD_YES;
		exchange_begin (x);
		return exchange_reply (x);
	}
	assert (x->magic == EXCHANGE_MAGIC);
	if (*data_size > 0)
		return exchange_take (x, data, data_size);
	if (!x->handled)
		exchange_begin (x);
	return exchange_wait (x) ? MHD_YES : exchange_reply (x);
}

void
exchange_completed (void *cls SILO_UNUSED, struct MHD_Connection *connection SILO_UNUSED,
		    void **state, enum MHD_RequestTerminationCode how)
{
	struct exchange *x = *state;

	if (!x)
		return;
	assert (x->magic == EXCHANGE_MAGIC && !x->suspended);
	*state = NULL;
	if (x->handled) {
		pthread_mutex_lock (&x->http->lock);
		if (--x->http->n_handled == 0)
			pthread_cond_signal (&x->http->answered);
		pthread_mutex_unlock (&x->http->lock);
	}
	if (how == MHD_REQUEST_TERMINATED_COMPLETED_OK && !x->peer->known)
		watch_add (&x->http->watch, x->peer);
	exchange_unref (x);
}

const char *
exchange_header (struct exchange *x, const char *name)
{
	return MHD_lookup_connection_value (x->connection, MHD_HEADER_KIND, name);
}
