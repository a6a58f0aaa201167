/* SPDX-License-Identifier: Apache-2.0 */
/*
 * site.c - one listening socket and the libmicrohttpd daemon that serves it,
 * on a thread of its own.  Called by http.c; the callbacks run on the daemon's
 * thread.
 */
#include "http.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SITE_IDLE        60          /* seconds that a connection may stand still */
#define SITE_BRIDGE_IDLE 10          /* the same for a worker that has not shown its token */
#define SITE_MEMORY      (64 * 1024) /* per connection, for headers and a piece of body */
#define SITE_LOG_LINES   10          /* a second */

static bool
site_may_log (struct http *http)
{
	int64_t second = silo_monotonic () / 1000000000;

	if (!silo_log_on (http->host, SILO_DEBUG))
		return false;
	pthread_mutex_lock (&http->lock);
	if (second != http->log_second) {
		http->log_second = second;
		http->log_lines = 0;
	}
	bool ok = http->log_lines++ < SITE_LOG_LINES;
	pthread_mutex_unlock (&http->lock);
	return ok;
}

static void __attribute__ ((format (printf, 2, 0)))
site_log (void *arg, const char *fmt, va_list ap)
{
	struct http *http = arg;
	char line[256];

	if (!site_may_log (http))
		return;
	vsnprintf (line, sizeof (line), fmt, ap);
	silo_log (http->host, SILO_DEBUG, "libmicrohttpd: %s", line);
}

static void
site_peer (void *arg, struct MHD_Connection *connection, void **state,
	   enum MHD_ConnectionNotificationCode what)
{
	struct site *site = arg;
	struct watch *watch = &site->http->watch;
	struct peer *peer = *state;

	if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
		if (!peer)
			return;
		watch_remove (watch, peer);
		free (peer);
		*state = NULL;
		return;
	}
	const union MHD_ConnectionInfo *info =
	    MHD_get_connection_info (connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	peer = calloc (1, sizeof (*peer));
	if (!peer || !info) { /* exchange_handle turns a connection without a peer away */
		free (peer);
		return;
	}
	peer->fd = info->connect_fd;
	*state = peer;
	watch_add (watch, peer);
}

/* No path of ours needs %-escapes, and one of them could hide a NUL. */
static size_t
site_keep_escapes (void *arg SILO_UNUSED, struct MHD_Connection *connection SILO_UNUSED, char *text)
{
	return strlen (text);
}

int
site_serve (struct site *site, struct silo_error *err)
{
	struct http *http = site->http;
	unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME |
			 MHD_USE_ERROR_LOG | (site->tls ? MHD_USE_TLS : 0);
	const struct MHD_OptionItem tls[] = {
		{ site->tls ? MHD_OPTION_HTTPS_MEM_CERT : MHD_OPTION_END, 0, http->cert.data },
		{ MHD_OPTION_HTTPS_MEM_KEY, 0, http->key.data },
		{ MHD_OPTION_END, 0, NULL },
	};

	/* The logger comes first, for what is said about the other options. */
	site->mhd = MHD_start_daemon (
	    flags, 0, NULL, NULL, exchange_handle, site, MHD_OPTION_EXTERNAL_LOGGER, site_log, http,
	    MHD_OPTION_LISTEN_SOCKET, site->listener.fd, MHD_OPTION_CONNECTION_LIMIT,
	    (unsigned) http->max_connections, MHD_OPTION_CONNECTION_TIMEOUT,
	    (unsigned) (site->bridge ? SITE_BRIDGE_IDLE : SITE_IDLE),
	    MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) SITE_MEMORY, MHD_OPTION_NOTIFY_COMPLETED,
	    exchange_completed, site, MHD_OPTION_NOTIFY_CONNECTION, site_peer, site,
	    MHD_OPTION_UNESCAPE_CALLBACK, site_keep_escapes, NULL, MHD_OPTION_STRICT_FOR_CLIENT, 1,
	    MHD_OPTION_ARRAY, tls, MHD_OPTION_END);
	if (!site->mhd)
		return silo_fail (err, SILO_INTERNAL, "%s: cannot serve%s", site->listener.name,
				  site->tls ? " with this tls_cert and tls_key" : "");
	site->listener.fd = -1; /* libmicrohttpd closes it */
	silo_log (http->host, SILO_INFO, "%s %s",
		  site->bridge ? "workers connect to" : "listening on", site->listener.name);
	return 0;
}

void
site_close (struct site *site)
{
	if (site->mhd)
		MHD_stop_daemon (site->mhd);
	site->mhd = NULL;
	silo_listener_close (&site->listener);
}
