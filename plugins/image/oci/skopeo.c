/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skopeo.c - one process of skopeo, which knows registries, their protocols and
 * logins: started, watched while anybody waits for it, and ended.  It dies with
 * the thread that started it, also when that is killed: a registry that hangs
 * would keep it for ever.  What it says when it fails becomes an error.
 */
#include "oci.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#define GRACE_MS 3000 /* to end by itself, and again after SIGTERM */
/* What an error has room for. */
#define MAX_SHOWN 80
#define MAX_SAID  115

struct patience
patience_of (const struct oci *oci, enum form form, int cancel_fd)
{
	return (struct patience){
		.cancel_fd = cancel_fd,
		.stop_fd = -1,
		.deadline = oci->timeout > 0 ? silo_monotonic () + oci->timeout * 1000000 : 0,
		/* Whoever reads a large archive first may be silent for long. */
		.stall = form == FORM_REGISTRY ? oci->stall : 0,
	};
}

/* -- start and end ------------------------------------------------------------- */

int
skopeo_start (const char **argv, int in, bool out, const struct patience *patience,
	      struct skopeo *ret, struct silo_error *err)
{
	const char *program = argv[SKOPEO_ARGV];
	struct silo_spawn spawn = { .argv = argv, .in = in, .out = out, .err = true };
	struct silo_process process;
	struct silo_error why = { 0 };
	/* A session of its own: Ctrl-C is for us, who then end it. */
	spawn.session = true;
	argv[0] = "setpriv";
	argv[1] = "--pdeathsig";
	argv[2] = "KILL";
	int r = silo_spawn (&spawn, &process, &why);
	if (r == SILO_NOTFOUND) { /* then without */
		spawn.argv = argv + SKOPEO_ARGV;
		r = silo_spawn (&spawn, &process, &why);
	}
	if (r == SILO_NOTFOUND)
		return silo_fail (err, SILO_PRECONDITION,
				  "%s is not installed; it fetches images from registries",
				  program);
	if (r < 0)
		return silo_fail (err, r, "%s", why.msg);
	fcntl (process.err, F_SETFL, O_NONBLOCK);
	*ret = (struct skopeo){ .process = process, .patience = patience };
	return 0;
}

int
skopeo_end (struct skopeo *skopeo, bool at_once)
{
	struct pollfd fd = { skopeo->process.pidfd, POLLIN, 0 };
	int status = -1;
	if (skopeo->process.pidfd < 0)
		return -1;
	if (at_once || poll (&fd, 1, GRACE_MS) <= 0) {
		pidfd_send_signal (skopeo->process.pidfd, SIGTERM, NULL, 0);
		if (poll (&fd, 1, GRACE_MS) <= 0)
			pidfd_send_signal (skopeo->process.pidfd, SIGKILL, NULL, 0);
	}
	silo_process_wait (&skopeo->process, &status, NULL);
	return status;
}

/* -- what it says --------------------------------------------------------------- */

static void
tail_add (struct skopeo *skopeo, const char *data, size_t len)
{
	const size_t room = sizeof (skopeo->tail) - 1;
	if (len > room) {
		data += len - room;
		len = room;
	}
	if (skopeo->tail_len + len > room) {
		size_t drop = skopeo->tail_len + len - room;
		memmove (skopeo->tail, skopeo->tail + drop, skopeo->tail_len - drop);
		skopeo->tail_len -= drop;
	}
	memcpy (skopeo->tail + skopeo->tail_len, data, len);
	skopeo->tail_len += len;
	skopeo->tail[skopeo->tail_len] = '\0';
}

/* What its stderr holds now; closes it at its end. */
static void
tail_read (struct skopeo *skopeo)
{
	char data[4096];
	ssize_t n;
	if (skopeo->process.err < 0)
		return;
	while ((n = read (skopeo->process.err, data, sizeof (data))) > 0)
		tail_add (skopeo, data, (size_t) n);
	if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		close (skopeo->process.err);
		skopeo->process.err = -1;
	}
}

/* The text of the last message: msg="..." of a logrus line, or the last line itself. */
static void
tail_message (struct skopeo *skopeo, char *to, size_t size)
{
	while (skopeo->tail_len > 0 && (unsigned char) skopeo->tail[skopeo->tail_len - 1] <= ' ')
		skopeo->tail[--skopeo->tail_len] = '\0';
	const char *line = strrchr (skopeo->tail, '\n');
	line = line ? line + 1 : skopeo->tail;
	const char *msg = strstr (line, "msg=\"");
	const char *at = msg ? msg + 5 : line;
	size_t used = 0;
	for (; *at && !(msg && *at == '"') && used + 1 < size; at++) {
		if (msg && *at == '\\' && at[1])
			at++;
		to[used++] = *at;
	}
	to[used] = '\0';
}

/* What to do about it, as far as one can know. */
struct kind {
	const char *text; /* in what skopeo says */
	int code;
	const char *hint;
};

static const struct kind *
kind_of (const char *said)
{
	static const struct kind kinds[] = {
		{ "unknown command", SILO_PRECONDITION, " (skopeo 1.9 or newer is needed)" },
		{ "failed to execute", SILO_PRECONDITION,
		  " (it fetches images; is it installed?)" },
		{ "manifest unknown", SILO_NOTFOUND, "" },
		{ "name unknown", SILO_NOTFOUND, "" },
		{ "no image found in", SILO_NOTFOUND, "" },
		{ "does not resolve to an image", SILO_NOTFOUND, "" },
		{ "no such file", SILO_NOTFOUND, "" },
		{ "not found", SILO_NOTFOUND, "" },
		{ "unauthorized", SILO_DENIED, " (see `skopeo login`)" },
		{ "authentication required", SILO_DENIED, " (see `skopeo login`)" },
		{ "invalid username/password", SILO_DENIED, " (see `skopeo login`)" },
		{ "denied", SILO_DENIED, "" },
		{ "invalid reference", SILO_INVALID, "" },
		{ "Invalid image name", SILO_INVALID, "" },
		{ "no space left", SILO_EXHAUSTED, "" },
		{ "exceeded maximum allowed size", SILO_EXHAUSTED, "" },
		{ "HTTP response to HTTPS", SILO_UNAVAILABLE, " (is --tls-verify=false meant?)" },
		{ "x509:", SILO_UNAVAILABLE, " (is --tls-verify=false meant?)" },
		{ "corrupted blob", SILO_DATALOSS, "" },
		{ "bytes in blob, got", SILO_DATALOSS, "" },
		{ "does not match provided manifest digest", SILO_DATALOSS, "" },
	};
	static const struct kind other = { "", SILO_UNAVAILABLE, "" };
	for (size_t i = 0; i < sizeof (kinds) / sizeof (kinds[0]); i++)
		if (strstr (said, kinds[i].text))
			return &kinds[i];
	return &other;
}

/* skopeo says what it was doing, for what, for what ..., and at last what is wrong. */
static const char *
useful_end (const char *said, size_t max)
{
	size_t len = strlen (said);
	if (len <= max)
		return said;
	const char *end = said + len - max, *part = strstr (end, ": ");
	return part && strlen (part) > max / 2 ? part + 2 : end;
}

int
skopeo_fail (const char *reference, const char *said, struct silo_error *err)
{
	char message[600];
	const struct kind *kind = kind_of (said);
	size_t used = 0;
	for (; *said && used + 1 < sizeof (message); said++)
		message[used++] = *said >= ' ' && *said != 0x7f ? *said : ' ';
	message[used] = '\0';
	const char *end = useful_end (message, MAX_SAID);
	const size_t len = strlen (reference);
	return silo_fail (err, kind->code, "%s%s: %s%s%s", len > MAX_SHOWN ? "..." : "",
			  len > MAX_SHOWN ? reference + len - MAX_SHOWN : reference,
			  end > message ? "..." : "", end, kind->hint);
}

/* -- waiting ----------------------------------------------------------------------- */

static int
skopeo_died (struct skopeo *skopeo, struct silo_error *err)
{
	char message[1024];
	tail_read (skopeo);
	tail_message (skopeo, message, sizeof (message));
	return skopeo_fail ("skopeo", *message ? message : "it has ended without a word", err);
}

static int
patience_over (const struct patience *patience, int64_t since, struct silo_error *err)
{
	int64_t now = silo_monotonic ();
	if (patience->deadline && now >= patience->deadline)
		return silo_fail (err, SILO_TIMEOUT,
				  "no answer in time; option timeout says how "
				  "long an image may take");
	if (patience->stall && now >= since + patience->stall * 1000000)
		return silo_fail (err, SILO_TIMEOUT, "no answer for %g s",
				  (double) patience->stall / 1000);
	return 0;
}

/* For poll: until one of the two ends. */
static int
patience_left (const struct patience *patience, int64_t since)
{
	int64_t end = patience->deadline;
	if (patience->stall && (!end || since + patience->stall * 1000000 < end))
		end = since + patience->stall * 1000000;
	if (!end)
		return -1;
	int64_t left = (end - silo_monotonic () + 999999) / 1000000;
	return left < 0 ? 0 : left > INT32_MAX ? INT32_MAX : (int) left;
}

int
skopeo_wait (struct skopeo *skopeo, int fd, struct silo_error *err)
{
	const struct patience *patience = skopeo->patience;
	const int64_t since = silo_monotonic ();
	for (;;) {
		struct pollfd fds[] = {
			{ fd, POLLIN, 0 },
			{ skopeo->process.pidfd, POLLIN, 0 },
			{ skopeo->process.err, POLLIN, 0 },
			{ patience->cancel_fd, POLLIN, 0 },
			{ patience->stop_fd, POLLIN, 0 },
		};
		int n = poll (fds, sizeof (fds) / sizeof (fds[0]), patience_left (patience, since));
		if (n < 0 && errno != EINTR)
			return silo_fail_sys (err, errno, "waiting for skopeo");
		int r = patience_over (patience, since, err);
		if (r < 0)
			return r;
		if (n <= 0)
			continue;
		if (fds[3].revents || fds[4].revents)
			return silo_fail (err, SILO_CANCELLED, "stopped");
		if (fds[0].revents)
			return 0;
		if (fds[1].revents)
			return skopeo_died (skopeo, err);
		if (fds[2].revents)
			tail_read (skopeo);
	}
}

/* -- asking for a manifest -------------------------------------------------------------- */

static int
inspect_read (struct skopeo *skopeo, struct silo_buf *to, struct silo_error *err)
{
	char data[16384];
	for (;;) {
		int r = skopeo_wait (skopeo, skopeo->process.out, err);
		if (r < 0)
			return r;
		ssize_t n = read (skopeo->process.out, data, sizeof (data));
		if (n < 0 && errno != EINTR)
			return silo_fail_sys (err, errno, "reading from skopeo");
		if (n == 0)
			return 0;
		if (n > 0 && silo_buf_add (to, data, (size_t) n, NULL) < 0)
			return silo_fail (err, SILO_EXHAUSTED,
					  "the manifest is larger than %zu bytes", to->max);
	}
}

int
skopeo_inspect (const struct oci *oci, const struct silo_image_source *source,
		const struct reference *reference, struct silo_buf *to, struct silo_error *err)
{
	const char *argv[] = {
		NULL,
		NULL,
		NULL,
		oci->skopeo,
		"--insecure-policy",
		"inspect",
		"--raw",
		source->tls_verify ? "--tls-verify=true" : "--tls-verify=false",
		"--",
		reference->text,
		NULL,
	};
	const struct patience patience = patience_of (oci, reference->form, source->cancel_fd);
	struct skopeo skopeo;
	struct silo_error why = { 0 };
	int r = skopeo_start (argv, -1, true, &patience, &skopeo, err);
	if (r < 0)
		return r;
	r = inspect_read (&skopeo, to, &why);
	tail_read (&skopeo);
	int status = skopeo_end (&skopeo, r < 0);
	if (r == SILO_CANCELLED)
		return silo_fail (err, r, "%s", why.msg);
	if (r < 0)
		return silo_fail (err, r, "%.80s: %s", source->reference, why.msg);
	if (status == 0)
		return 0;
	char message[1024];
	tail_message (&skopeo, message, sizeof (message));
	return skopeo_fail (source->reference, *message ? message : "skopeo has failed", err);
}
