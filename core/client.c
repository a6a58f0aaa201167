/* SPDX-License-Identifier: Apache-2.0 */
/*
 * client.c - the verbs' side of STATE/silo.sock: one question, one answer.
 */
#include "core.h"

#include <limits.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/un.h>

#define CLIENT_MAX (256 * 1024 * 1024) /* bytes of an answer */

static int
client_connect (const char *state, int *ret, struct silo_error *err)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };

	int n = snprintf (to.sun_path, sizeof (to.sun_path), "%s/silo.sock", state);
	if (n < 0 || (size_t) n >= sizeof (to.sun_path))
		return silo_fail (err, SILO_INVALID,
				  "[silo] state: %s is too long for a socket in it: at most %zu "
				  "characters",
				  state, sizeof (to.sun_path) - sizeof ("/silo.sock"));
	_cleanup_close_ int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return silo_fail_sys (err, errno, "socket");
	if (connect (fd, (struct sockaddr *) &to, sizeof (to)) < 0) {
		if (errno == ENOENT || errno == ECONNREFUSED || errno == ENOTDIR)
			return silo_fail (err, SILO_UNAVAILABLE,
					  "no daemon runs on state folder %s: start one with `silo "
					  "serve`",
					  state);
		return silo_fail_sys (err, errno, "%s", to.sun_path);
	}
	*ret = silo_steal_fd (&fd);
	return 0;
}

static int
client_read (int fd, struct silo_buf *answer, struct silo_error *err)
{
	for (;;) {
		int r = silo_buf_reserve (answer, 65536, err);
		if (r < 0)
			return r;
		ssize_t n = recv (fd, answer->data + answer->len, 65536, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return silo_fail_sys (err, errno, "reading the daemon's answer");
		if (n == 0)
			return silo_fail (err, SILO_UNAVAILABLE, "the daemon stopped");
		answer->len += (size_t) n;
		if (answer->data[answer->len - 1] == '\n')
			return 0;
	}
}

int
client_ask (const char *state, const json_t *request, json_t **ret, struct silo_error *err)
{
	_cleanup_buf_ struct silo_buf answer = SILO_BUF (CLIENT_MAX);
	_cleanup_close_ int fd = -1;
	json_error_t where;

	int r = client_connect (state, &fd, err);
	if (r < 0)
		return r;
	_cleanup_free_ char *text = json_dumps (request, JSON_COMPACT);
	if (!text)
		return silo_fail_nomem (err);
	size_t len = strlen (text);
	text[len] = '\n'; /* in place of the NUL */
	if (send (fd, text, len + 1, MSG_NOSIGNAL) != (ssize_t) (len + 1))
		return silo_fail_sys (err, errno, "asking the daemon");
	r = client_read (fd, &answer, err);
	if (r < 0)
		return r;
	_cleanup_json_ json_t *reply =
	    json_loadb ((const char *) answer.data, answer.len, 0, &where);
	if (!json_is_object (reply))
		return silo_fail (err, SILO_INTERNAL, "the daemon's answer is no JSON object: %s",
				  where.text);
	if (!json_is_true (json_object_get (reply, "ok"))) {
		const char *message = json_string_value (json_object_get (reply, "message"));
		json_int_t code = json_integer_value (json_object_get (reply, "code"));
		return silo_fail (
		    err, code < 0 && code >= SILO_UNAUTHENTICATED ? (int) code : SILO_INTERNAL,
		    "%s", message ? message : "the daemon gave no reason");
	}
	*ret = silo_steal (&reply);
	return 0;
}

/* Watch the state folder, or the nearest folder above it that exists. */
static int
watch_nearest (int inotify, const char *state, struct silo_error *err)
{
	char path[PATH_MAX];

	if (strlen (state) >= sizeof (path))
		return silo_fail (err, SILO_INVALID, "[silo] state: %.100s... is too long", state);
	snprintf (path, sizeof (path), "%s", state);
	for (;;) {
		if (inotify_add_watch (inotify, path, IN_CREATE | IN_MOVED_TO | IN_ONLYDIR) >= 0)
			return 0;
		if (errno != ENOENT)
			return silo_fail_sys (err, errno, "watching %s", path);
		char *slash = strrchr (path, '/');
		if (!slash || slash == path)
			snprintf (path, sizeof (path), "/");
		else
			*slash = 0;
	}
}

int
client_wait (const char *state, int64_t ms, struct silo_error *err)
{
	int64_t until = silo_monotonic () + ms * 1000000;
	char events[4096];

	for (;;) {
		/* Watch first, then try: what happens in between is not missed. */
		_cleanup_close_ int inotify = inotify_init1 (IN_CLOEXEC);
		_cleanup_close_ int fd = -1;
		if (inotify < 0)
			return silo_fail_sys (err, errno, "inotify");
		int r = watch_nearest (inotify, state, err);
		if (r < 0)
			return r;
		r = client_connect (state, &fd, err);
		if (r != SILO_UNAVAILABLE)
			return r;
		int64_t left = (until - silo_monotonic ()) / 1000000;
		struct pollfd poll_fd = { .fd = inotify, .events = POLLIN };
		if (left <= 0 || poll (&poll_fd, 1, left > 3600000 ? 3600000 : (int) left) == 0)
			return silo_fail (
			    err, SILO_TIMEOUT,
			    "no daemon became ready on state folder %s within %lld ms", state,
			    (long long) ms);
		ssize_t n = read (inotify, events, sizeof (events));
		(void) n;
	}
}
