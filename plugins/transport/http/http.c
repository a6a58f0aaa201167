/* SPDX-License-Identifier: Apache-2.0 */
/*
 * http.c - transport/http: the instance.  Options, start (bind), listen (serve),
 * drain, stop.
 */
#include "http.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define HTTP_PEM_MAX (1024 * 1024)

static const struct silo_option options[] = {
	{ .name = "listen",
	  .type = SILO_LIST,
	  .offset = offsetof (struct http, listen),
	  .def = "127.0.0.1:8000 unix:http.sock",
	  .help = "addresses, HOST:PORT and unix:PATH (relative to the state folder, mode 0600)" },
	{ .name = "bridge",
	  .type = SILO_PATH,
	  .offset = offsetof (struct http, bridge),
	  .def = "run/bridge/bridge.sock",
	  .help = "unix socket that workers in containers use; empty: serve no workers" },
	{ .name = "api_key",
	  .type = SILO_SECRET,
	  .offset = offsetof (struct http, api_key),
	  .def = "",
	  .help = "key that TCP clients send as header X-API-Key; unix sockets need none" },
	{ .name = "max_body",
	  .type = SILO_SIZE,
	  .offset = offsetof (struct http, max_body),
	  .def = "64M",
	  .min = 64 * 1024,
	  .max = 1024 * 1024 * 1024,
	  .help = "largest request body, in bytes" },
	{ .name = "max_connections",
	  .type = SILO_INT,
	  .offset = offsetof (struct http, max_connections),
	  .def = "4096",
	  .min = 1,
	  .max = 1000000,
	  .help = "connections to one address at a time" },
	{ .name = "receive_timeout",
	  .type = SILO_DURATION,
	  .offset = offsetof (struct http, receive_timeout),
	  .def = "30s",
	  .min = 100,
	  .max = 3600000,
	  .help = "time in which a request has to arrive completely" },
	{ .name = "tls_cert",
	  .type = SILO_PATH,
	  .offset = offsetof (struct http, tls_cert),
	  .def = "",
	  .help = "PEM file with the certificate chain; with tls_key, TCP is served by TLS only" },
	{ .name = "tls_key",
	  .type = SILO_PATH,
	  .offset = offsetof (struct http, tls_key),
	  .def = "",
	  .help = "PEM file with the private key" },
	{ .name = "insecure",
	  .type = SILO_BOOL,
	  .offset = offsetof (struct http, insecure),
	  .def = "false",
	  .help = "listen off loopback also without TLS and a key" },
	{ .name = NULL },
};

/* -- addresses --------------------------------------------------------------------- */

static int
http_bind (struct http *http, const char *address, struct silo_error *err)
{
	bool tls = *http->tls_cert && *http->tls_key;
	struct site *site = &http->sites[http->n_sites];

	*site = (struct site){ .http = http };
	int r = silo_listen (http->host, address, 0600, http->insecure || (tls && *http->api_key),
			     &site->listener, err);
	if (r < 0)
		return r;
	site->tls = tls && !site->listener.local;
	http->n_sites++;
	return 0;
}

/* The socket's folder is bound into containers, whose users may be anybody: they must be able
 * to reach and use it.  The state folder above keeps the host's other users away. */
static int
http_make_bridge_folder (const char *path, struct silo_error *err)
{
	char folder[PATH_MAX];

	for (const char *end = strchr (path + 1, '/'); end; end = strchr (end + 1, '/')) {
		if ((size_t) (end - path) >= sizeof (folder))
			return silo_fail (err, SILO_RANGE, "%s is too long", path);
		snprintf (folder, sizeof (folder), "%.*s", (int) (end - path), path);
		if (mkdir (folder, 0755) == 0) {
			if (chmod (folder, 0755) < 0) /* whatever the umask is */
				return silo_fail_sys (err, errno, "folder %s", folder);
		} else if (errno != EEXIST) {
			return silo_fail_sys (err, errno, "folder %s", folder);
		}
	}
	return 0;
}

static int
http_bind_bridge (struct http *http, struct silo_error *err)
{
	struct site *site = &http->sites[http->n_sites];
	char address[PATH_MAX];

	int r = http_make_bridge_folder (http->bridge, err);
	if (r < 0)
		return r;
	snprintf (address, sizeof (address), "unix:%s", http->bridge);
	*site = (struct site){ .http = http, .bridge = true };
	r = silo_listen (http->host, address, 0666, false, &site->listener, err);
	if (r < 0)
		return r;
	http->n_sites++;
	return silo_bridge_offer (http->host, site->listener.path, err);
}

static int
http_bind_all (struct http *http, struct silo_error *err)
{
	size_t n = 0;

	while (http->listen[n])
		n++;
	http->sites = calloc (n + 1, sizeof (*http->sites));
	if (!http->sites)
		return silo_fail_nomem (err);
	for (size_t i = 0; i < n; i++) {
		int r = http_bind (http, http->listen[i], err);
		if (r < 0)
			return r;
	}
	return *http->bridge ? http_bind_bridge (http, err) : 0;
}

/* -- life ------------------------------------------------------------------------------ */

static int
http_init (void *self, struct silo_host *host, struct silo_error *err)
{
	struct http *http = self;
	pthread_condattr_t attr;

	http->host = host;
	if (!*http->tls_cert != !*http->tls_key)
		return silo_fail (err, SILO_INVALID, "tls_cert and tls_key go together");
	if (MHD_is_feature_supported (MHD_FEATURE_EPOLL) != MHD_YES ||
	    (*http->tls_cert && MHD_is_feature_supported (MHD_FEATURE_TLS) != MHD_YES))
		return silo_fail (err, SILO_UNIMPLEMENTED,
				  "this libmicrohttpd was built without epoll or TLS");
	pthread_mutex_init (&http->lock, NULL);
	pthread_condattr_init (&attr);
	pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
	pthread_cond_init (&http->answered, &attr);
	pthread_condattr_destroy (&attr);
	return 0;
}

static void
http_destroy (void *self)
{
	struct http *http = self;

	pthread_cond_destroy (&http->answered);
	pthread_mutex_destroy (&http->lock);
}

static void
http_close_sites (struct http *http)
{
	for (size_t i = 0; i < http->n_sites; i++)
		site_close (&http->sites[i]);
	free (http->sites);
	http->sites = NULL;
	http->n_sites = 0;
	if (http->key.data)
		explicit_bzero (http->key.data, http->key.len);
	silo_buf_free (&http->key);
	silo_buf_free (&http->cert);
}

static void
http_stop (void *self)
{
	struct http *http = self;

	/* libmicrohttpd must not be stopped with suspended connections. */
	exchange_end_waiting (http);
	http_close_sites (http);
	watch_close (&http->watch);
}

static int
http_open (struct http *http, struct silo_error *err)
{
	int r = 0;

	http->cert.max = http->key.max = HTTP_PEM_MAX;
	if (*http->tls_cert)
		r = silo_buf_add_file (&http->cert, http->tls_cert, err);
	if (r == 0 && *http->tls_key)
		r = silo_buf_add_file (&http->key, http->tls_key, err);
	return r == 0 ? http_bind_all (http, err) : r;
}

static int
http_start (void *self, struct silo_error *err)
{
	struct http *http = self;
	sigset_t all, before;

	http->draining = http->stopping = false;
	/* The daemon's signals are not for our threads. */
	sigfillset (&all);
	pthread_sigmask (SIG_SETMASK, &all, &before);
	int r = watch_open (&http->watch, http->receive_timeout, err);
	pthread_sigmask (SIG_SETMASK, &before, NULL);
	if (r < 0)
		return r;
	r = http_open (http, err);
	if (r < 0)
		http_stop (http);
	return r;
}

static int
http_listen (void *self, struct silo_error *err)
{
	struct http *http = self;
	sigset_t all, before;
	int r = 0;

	sigfillset (&all);
	pthread_sigmask (SIG_SETMASK, &all, &before);
	for (size_t i = 0; r == 0 && i < http->n_sites; i++)
		r = site_serve (&http->sites[i], err);
	pthread_sigmask (SIG_SETMASK, &before, NULL);
	return r;
}

static void
http_drain (void *self)
{
	struct http *http = self;

	pthread_mutex_lock (&http->lock);
	http->draining = true;
	pthread_mutex_unlock (&http->lock);
}

static const struct silo_transport_ops ops = { .listen = http_listen, .drain = http_drain };

SILO_PLUGIN (ops, .name = "http", .version = "1.0", .flags = SILO_PARALLEL,
	     .summary = "HTTP: the original Silo's API, and the bridge to workers",
	     .options = options, .instance_size = sizeof (struct http), .init = http_init,
	     .start = http_start, .stop = http_stop, .destroy = http_destroy);
