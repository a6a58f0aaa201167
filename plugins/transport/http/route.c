/* SPDX-License-Identifier: Apache-2.0 */
/*
 * route.c - the table of what is served, and the checks that every request
 * passes before its body is read: framing that leaves no doubt, a known path,
 * the right key, no web page in between.  Runs on the site's thread.
 */
#include "http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const struct route routes[] = {
	{ true, "GET", "/v1/worker/next", false, bridge_next },
	{ true, "GET", "/v1/worker/code/", false, bridge_code },
	{ true, "POST", "/v1/worker/result", false, bridge_result },
	{ false, "GET", "/healthz", true, public_health },
	{ false, "POST", "/api/tasks", false, public_add_task },
	{ false, "GET", "/api/tasks/", false, public_get_task },
	{ false, "POST", "/api/results/", false, public_add_result },
	{ false, "GET", "/api/results/", false, public_get_result },
};

/* Headers that decide about a request, and how often they came. */
struct heads {
	const char *key, *host, *transfer, *length;
	int n_key, n_host, n_transfer, n_length, n_origin;
};

static enum MHD_Result
heads_add (void *arg, enum MHD_ValueKind kind SILO_UNUSED, const char *name, const char *value)
{
	struct heads *heads = arg;
	const struct {
		const char *name;
		int *n;
		const char **value;
	} known[] = {
		{ "X-API-Key", &heads->n_key, &heads->key },
		{ MHD_HTTP_HEADER_HOST, &heads->n_host, &heads->host },
		{ MHD_HTTP_HEADER_TRANSFER_ENCODING, &heads->n_transfer, &heads->transfer },
		{ MHD_HTTP_HEADER_CONTENT_LENGTH, &heads->n_length, &heads->length },
		{ MHD_HTTP_HEADER_ORIGIN, &heads->n_origin, NULL },
	};

	for (size_t i = 0; i < sizeof (known) / sizeof (known[0]); i++) {
		if (strcasecmp (name, known[i].name) != 0)
			continue;
		++*known[i].n;
		if (known[i].value)
			*known[i].value = value ? value : "";
	}
	return MHD_YES;
}

static void
route_refuse (struct exchange *x, unsigned status, int code, const char *text)
{
	if (x->bad.code)
		return;
	silo_fail (&x->bad, code, "%s", text);
	x->bad_status = status;
}

/* Where two readers could see the end of the body at different places, a proxy in front of us
 * can be tricked. */
static void
route_check_framing (struct exchange *x, const struct heads *heads)
{
	int64_t length = 0;

	if (heads->n_length > 1 || heads->n_transfer > 1 ||
	    (heads->n_length && heads->n_transfer) || heads->n_host > 1 ||
	    (heads->n_transfer && strcasecmp (heads->transfer, "chunked") != 0) ||
	    (heads->n_length && route_number (MHD_HTTP_HEADER_CONTENT_LENGTH, heads->length,
					      INT64_MAX, &length, NULL) < 0)) {
		route_refuse (x, MHD_HTTP_BAD_REQUEST, SILO_INVALID,
			      "the request's framing is ambiguous: one Host, and one of "
			      "Content-Length or Transfer-Encoding: chunked");
		x->close = true;
		return;
	}
	x->length = (uint64_t) length;
	if (length > x->http->max_body)
		route_refuse (x, MHD_HTTP_CONTENT_TOO_LARGE, SILO_EXHAUSTED,
			      "the body is larger than max_body");
}

static bool
route_matches (const struct route *route, const char *url, char *tail, size_t tail_size)
{
	size_t n = strlen (route->path);

	if (route->path[n - 1] != '/')
		return strcmp (url, route->path) == 0;
	if (strncmp (url, route->path, n) != 0 || !url[n] || strchr (url + n, '/') ||
	    strlen (url + n) >= tail_size)
		return false;
	snprintf (tail, tail_size, "%s", url + n);
	return true;
}

static void
route_lookup (struct exchange *x, const char *url, const char *method)
{
	size_t n = 0;

	for (size_t i = 0; i < sizeof (routes) / sizeof (routes[0]); i++) {
		const struct route *route = &routes[i];
		if (route->bridge != x->site->bridge ||
		    !route_matches (route, url, x->tail, sizeof (x->tail)))
			continue;
		if (strcmp (method, route->method) == 0) {
			x->route = route;
			x->allow[0] = 0;
			return;
		}
		n += (size_t) snprintf (x->allow + n, sizeof (x->allow) - n, "%s%s", n ? ", " : "",
					route->method);
		assert (n < sizeof (x->allow));
	}
	if (n)
		route_refuse (x, MHD_HTTP_METHOD_NOT_ALLOWED, SILO_UNIMPLEMENTED,
			      "this path does not have that method");
	else
		route_refuse (x, MHD_HTTP_NOT_FOUND, SILO_NOTFOUND, "there is no such path");
}

/* -- who may ------------------------------------------------------------------- */

/* An IP address or localhost, with or without a port: a name that somebody else's DNS can
 * point at this machine is neither. */
static bool
route_host_is_local (const char *host)
{
	char name[64];
	struct in6_addr addr;
	const char *end = strchr (host, *host == '[' ? ']' : ':');
	size_t n = end ? (size_t) (end - host) : strlen (host);

	if (n >= sizeof (name))
		return false;
	memcpy (name, host, n);
	name[n] = 0;
	return strcasecmp (name, "localhost") == 0 || inet_pton (AF_INET, name, &addr) == 1 ||
	       (name[0] == '[' && inet_pton (AF_INET6, name + 1, &addr) == 1);
}

static void
route_check_caller (struct exchange *x, const struct heads *heads)
{
	const struct http *http = x->http;
	const struct silo_listener *listener = &x->site->listener;

	if (listener->local || (x->route && x->route->open))
		return;
	if (*http->api_key) {
		if (heads->n_key == 1 && silo_secret_equal (heads->key, strlen (heads->key),
							    http->api_key, strlen (http->api_key)))
			return;
		route_refuse (x, 0, SILO_UNAUTHENTICATED,
			      heads->n_key ? "the key in X-API-Key is wrong"
					   : "a key is needed in X-API-Key");
		return;
	}
	/* Without a key everybody on this machine may, but not the web pages in their
	 * browsers: those send Origin, or come under a name of their own. */
	if (heads->n_origin ||
	    (listener->loopback && heads->n_host && !route_host_is_local (heads->host)))
		route_refuse (x, 0, SILO_DENIED,
			      "requests of web pages are not taken without an api_key");
}

static void
route_find_token (struct exchange *x)
{
	const char *value = exchange_header (x, MHD_HTTP_HEADER_AUTHORIZATION);

	if (!value || strncasecmp (value, "Bearer ", 7) != 0 || !value[7] ||
	    strlen (value + 7) >= sizeof (x->token)) {
		route_refuse (x, 0, SILO_UNAUTHENTICATED,
			      "a token is needed: Authorization: Bearer TOKEN");
		return;
	}
	snprintf (x->token, sizeof (x->token), "%s", value + 7);
}

void
route_find (struct exchange *x, const char *url, const char *method)
{
	struct heads heads = { 0 };

	MHD_get_connection_values (x->connection, MHD_HEADER_KIND, heads_add, &heads);
	route_check_framing (x, &heads);
	route_lookup (x, url, method);
	if (x->site->bridge)
		route_find_token (x);
	else
		route_check_caller (x, &heads);
}

int
route_number (const char *what, const char *text, int64_t max, int64_t *ret, struct silo_error *err)
{
	size_t n = strlen (text);

	/* strtoll alone takes white space and signs. */
	if (n == 0 || n > 19 || strspn (text, "0123456789") != n)
		return silo_fail (err, SILO_INVALID, "%s \"%.40s\" is no number", what, text);
	errno = 0;
	long long value = strtoll (text, NULL, 10);
	if (errno || value > max)
		return silo_fail (err, SILO_INVALID, "%s %s is too large", what, text);
	*ret = value;
	return 0;
}
