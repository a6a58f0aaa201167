/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fetch.c - runs skopeo, which knows registries, their protocols and logins.
 * It is watched while it runs: the user may give up, and a registry may hang.
 * Both end it with SIGTERM, then SIGKILL.
 */
#include "oci.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/utsname.h>
#include <unistd.h>

#define TICK_MS  200 /* how often the user and the clock are asked */
#define GRACE_MS 3000
#define ERR_KEEP 4096
#define ASK_MS   60000 /* longest wait for a manifest alone */

/* One run of skopeo. */
struct run {
	struct silo_process process;
	struct silo_buf *out; /* NULL: thrown away */
	char tail[ERR_KEEP];  /* the end of its stderr */
	size_t tail_len;
	const struct temp *temp;    /* where it writes, for progress */
	struct silo_import *import; /* NULL: cannot be cancelled */
	int64_t started, limit;     /* ns, ms; 0: none */
};

/* -- platforms ------------------------------------------------------------------ */

static void
platform_here (struct platform *ret)
{
	static const char *const names[][2] = {
		{ "x86_64", "amd64" }, { "aarch64", "arm64" },       { "armv7l", "arm" },
		{ "i686", "386" },     { "loongarch64", "loong64" },
	};
	struct utsname uts;
	const char *arch = "amd64";
	if (uname (&uts) == 0) {
		arch = uts.machine;
		for (size_t i = 0; i < sizeof (names) / sizeof (names[0]); i++)
			if (strcmp (uts.machine, names[i][0]) == 0)
				arch = names[i][1];
	}
	*ret = (struct platform){ .os = "linux" };
	snprintf (ret->arch, sizeof (ret->arch), "%.31s", arch);
}

int
platform_parse (const char *text, struct platform *ret, struct silo_error *err)
{
	struct platform platform = { .os = "" };
	if (!text || !*text) {
		platform_here (ret);
		return 0;
	}
	char *const parts[] = { platform.os, platform.arch, platform.variant };
	const char *at = text;
	for (size_t i = 0; i < 3 && at; i++) {
		size_t len = strcspn (at, "/");
		if (len == 0 || len >= sizeof (platform.os))
			break;
		memcpy (parts[i], at, len);
		at = at[len] ? at + len + 1 : NULL;
	}
	if (at || !platform.arch[0])
		return silo_fail (err, SILO_INVALID,
				  "platform \"%.60s\": expected os/arch or os/arch/variant, as in "
				  "linux/arm64",
				  text);
	*ret = platform;
	return 0;
}

/* -- watching ----------------------------------------------------------------------- */

static void
tail_add (struct run *run, const char *data, size_t len)
{
	if (len >= sizeof (run->tail) / 2) {
		data += len - sizeof (run->tail) / 2;
		len = sizeof (run->tail) / 2;
	}
	if (run->tail_len + len > sizeof (run->tail) - 1) {
		size_t drop = run->tail_len + len - (sizeof (run->tail) - 1);
		memmove (run->tail, run->tail + drop, run->tail_len - drop);
		run->tail_len -= drop;
	}
	memcpy (run->tail + run->tail_len, data, len);
	run->tail_len += len;
	run->tail[run->tail_len] = '\0';
}

/* Take what a pipe holds; closes it at its end. */
static int
pipe_read (struct run *run, int *fd, bool is_out, struct silo_error *err)
{
	char data[16384];
	ssize_t n = read (*fd, data, sizeof (data));
	if (n < 0 && errno == EINTR)
		return 0;
	if (n <= 0) {
		close (*fd);
		*fd = -1;
		return 0;
	}
	if (!is_out)
		tail_add (run, data, (size_t) n);
	else if (run->out && silo_buf_add (run->out, data, (size_t) n, NULL) < 0)
		return silo_fail (err, SILO_EXHAUSTED, "the manifest is larger than %zu bytes",
				  run->out->max);
	return 0;
}

static int
check_patience (const struct run *run, struct silo_error *err)
{
	if (run->import && silo_import_cancelled (run->import))
		return silo_fail (err, SILO_CANCELLED, "stopped");
	if (run->limit > 0 && silo_monotonic () - run->started > run->limit * 1000000)
		return silo_fail (err, SILO_TIMEOUT, "no answer within %lld s",
				  (long long) (run->limit / 1000));
	if (run->import && run->temp)
		silo_import_progress (run->import, "fetching", temp_size (run->temp, "image"), 0);
	return 0;
}

/* Until it has ended and said everything. */
static int
run_watch (struct run *run, struct silo_error *err)
{
	struct silo_process *process = &run->process;
	for (;;) {
		struct pollfd fds[] = { { process->pidfd, POLLIN, 0 },
					{ process->out, POLLIN, 0 },
					{ process->err, POLLIN, 0 } };
		int n = poll (fds, 3, TICK_MS);
		if (n < 0 && errno != EINTR)
			return silo_fail_sys (err, errno, "poll");
		int r = check_patience (run, err);
		if (r == 0 && n > 0 && fds[1].revents)
			r = pipe_read (run, &process->out, true, err);
		if (r == 0 && n > 0 && fds[2].revents)
			r = pipe_read (run, &process->err, false, err);
		if (r < 0)
			return r;
		if (n > 0 && fds[0].revents && !fds[1].revents && !fds[2].revents)
			return 0;
	}
}

/* End it, patiently first: it removes its own files then. */
static void
run_end (struct run *run)
{
	struct pollfd fd = { run->process.pidfd, POLLIN, 0 };
	pidfd_send_signal (run->process.pidfd, SIGTERM, NULL, 0);
	if (poll (&fd, 1, GRACE_MS) <= 0)
		pidfd_send_signal (run->process.pidfd, SIGKILL, NULL, 0);
}

/* -- what it says --------------------------------------------------------------------- */

/* The text of the last message: msg="..." of a logrus line, or the last line itself. */
static void
tail_message (struct run *run, char *to, size_t size)
{
	while (run->tail_len > 0 && run->tail[run->tail_len - 1] <= ' ')
		run->tail[--run->tail_len] = '\0';
	const char *line = strrchr (run->tail, '\n');
	line = line ? line + 1 : run->tail;
	const char *msg = strstr (line, "msg=\"");
	const char *at = msg ? msg + 5 : line;
	size_t used = 0;
	for (; *at && !(msg && *at == '"') && used + 1 < size; at++) {
		if (msg && *at == '\\' && at[1])
			at++;
		to[used++] = *at >= ' ' && *at != 0x7f ? *at : ' ';
	}
	to[used] = '\0';
}

static int
tail_fail (struct run *run, const char *reference, struct silo_error *err)
{
	static const struct {
		const char *text;
		int code;
	} kinds[] = {
		{ "manifest unknown", SILO_NOTFOUND },  { "name unknown", SILO_NOTFOUND },
		{ "no such file", SILO_NOTFOUND },      { "not found", SILO_NOTFOUND },
		{ "unauthorized", SILO_DENIED },        { "denied", SILO_DENIED },
		{ "invalid reference", SILO_INVALID },  { "Invalid image name", SILO_INVALID },
		{ "no image found in", SILO_NOTFOUND }, { "no space left", SILO_EXHAUSTED },
	};
	char message[400];
	tail_message (run, message, sizeof (message));
	int code = SILO_UNAVAILABLE;
	for (size_t i = 0; code == SILO_UNAVAILABLE && i < sizeof (kinds) / sizeof (kinds[0]); i++)
		if (strstr (message, kinds[i].text))
			code = kinds[i].code;
	/* skopeo repeats the reference; what is wrong stands behind it. */
	char *repeated = strstr (message, reference);
	if (repeated && strncmp (repeated + strlen (reference), "\": ", 3) == 0)
		memmove (message, repeated + strlen (reference) + 3,
			 strlen (repeated + strlen (reference) + 3) + 1);
	size_t len = strlen (message);
	return silo_fail (err, code, "%.60s: %s%s", reference, len > 150 ? "..." : "",
			  len > 150 ? message + len - 150 : message);
}

static int
run_skopeo (struct run *run, const char *const *argv, const char *reference, struct silo_error *err)
{
	const struct silo_spawn spawn = { .argv = argv, .in = -1, .out = true, .err = true };
	struct silo_error said = { 0 };
	int status = 0;
	run->started = silo_monotonic ();
	int r = silo_spawn (&spawn, &run->process, err);
	if (r == SILO_NOTFOUND)
		return silo_fail (err, SILO_PRECONDITION,
				  "%s is not installed; it fetches images from registries",
				  argv[0]);
	if (r < 0)
		return r;
	r = run_watch (run, &said);
	if (r < 0)
		run_end (run);
	int waited = silo_process_wait (&run->process, &status, err);
	if (r == SILO_CANCELLED)
		return silo_fail (err, r, "%s", said.msg);
	if (r < 0)
		return silo_fail (err, r, "%.80s: %s", reference, said.msg);
	if (waited < 0)
		return waited;
	return status ? tail_fail (run, reference, err) : 0;
}

/* -- its two uses ------------------------------------------------------------------------ */

int
fetch_manifest (const struct oci *oci, const struct silo_image_source *source,
		const char *reference, struct silo_buf *to, struct silo_error *err)
{
	struct run run = {
		.out = to,
		.limit = oci->timeout > 0 && oci->timeout < ASK_MS ? oci->timeout : ASK_MS,
	};
	const char *const argv[] = {
		oci->skopeo,
		"--insecure-policy",
		"inspect",
		"--raw",
		source->tls_verify ? "--tls-verify=true" : "--tls-verify=false",
		"--",
		reference,
		NULL,
	};
	return run_skopeo (&run, argv, reference, err);
}

int
fetch_image (const struct oci *oci, const struct silo_image_source *source, const char *reference,
	     const struct temp *temp, struct silo_import *import, struct silo_error *err)
{
	struct run run = { .temp = temp, .import = import, .limit = oci->timeout };
	struct platform platform;
	char to[sizeof (temp->path) + 16], work[sizeof (temp->path) + 16];
	int r = platform_parse (source->platform, &platform, err);
	if (r < 0)
		return r;
	snprintf (to, sizeof (to), "dir:%s/image", temp->path);
	snprintf (work, sizeof (work), "%s/work", temp->path);
	const char *argv[20];
	size_t n = 0;
	argv[n++] = oci->skopeo;
	argv[n++] = "--insecure-policy";
	argv[n++] = "--tmpdir";
	argv[n++] = work;
	argv[n++] = "--override-os";
	argv[n++] = platform.os;
	argv[n++] = "--override-arch";
	argv[n++] = platform.arch;
	if (platform.variant[0]) {
		argv[n++] = "--override-variant";
		argv[n++] = platform.variant;
	}
	argv[n++] = "copy";
	argv[n++] = "--quiet";
	argv[n++] = source->tls_verify ? "--src-tls-verify=true" : "--src-tls-verify=false";
	argv[n++] = "--";
	argv[n++] = reference;
	argv[n++] = to;
	argv[n] = NULL;
	silo_import_progress (import, "fetching", 0, 0);
	return run_skopeo (&run, argv, reference, err);
}
