/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bootstrap.c - one run of mmdebstrap, from its start to the last byte of its
 * tar, in a folder of its own below STATE/tmp.  Its packages' scripts run as
 * root in a chroot with mounts of its own: for root, all of it lives in new
 * mount and pid namespaces that end with the process that made them, and that
 * one ends with the thread that started it.  So no process, mount or file
 * is left, whoever is killed.
 *
 * Its stdout is read by the thread of tar_read that calls source_next, which
 * alone touches struct run meanwhile; source_stop only writes to an eventfd.
 */
#include "debian.h"
#include "tar.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <unistd.h>

#define CHUNK       ((size_t) 256 << 10)
#define MAX_LINE    500
#define MAX_ENV     4096
#define MAX_WAIT_MS 3600000
#define TICK_MS     100   /* when nothing tells that the user gives up */
#define GRACE_MS    10000 /* to end by itself */

struct run {
	struct silo_import *import;
	struct silo_process process;
	struct temp temp;
	int stop_fd;
	int64_t deadline; /* ns; 0: none */
	bool ended;       /* its stdout is at its end */
	char *chunk;
	char line[MAX_LINE]; /* of stderr, as far as it has come */
	size_t line_len;
	char first[MAX_LINE]; /* that starts with "E: ", which says what is wrong */
	char last[MAX_LINE];
};

/* -- what it says --------------------------------------------------------------------- */

/* What people who wait want to know of it. */
static void
say_step (const struct run *run)
{
	static const char *const steps[][2] = {
		{ "I: running apt-get update", "reading the list of packages" },
		{ "I: downloading packages", "fetching packages" },
		{ "I: extracting archives", "unpacking packages" },
		{ "I: installing", "installing packages" },
		{ "I: creating tarball", "reading files" },
	};
	for (size_t i = 0; i < sizeof (steps) / sizeof (steps[0]); i++)
		if (strncmp (run->line, steps[i][0], strlen (steps[i][0])) == 0)
			silo_import_progress (run->import, steps[i][1], 0, 0);
}

static void
line_done (struct run *run)
{
	static const char wrong[] = "E: ";
	run->line[run->line_len] = '\0';
	for (size_t i = 0; i < run->line_len; i++)
		if ((unsigned char) run->line[i] < ' ' || run->line[i] == 0x7f)
			run->line[i] = ' ';
	if (run->line_len > 0)
		memcpy (run->last, run->line, run->line_len + 1);
	if (!*run->first && strncmp (run->line, wrong, strlen (wrong)) == 0)
		memcpy (run->first, run->line, run->line_len + 1);
	say_step (run);
	run->line_len = 0;
}

/* What its stderr holds now; closes it at its end. */
static void
said_read (struct run *run)
{
	char data[4096];
	ssize_t n;
	while ((n = read (run->process.err, data, sizeof (data))) > 0)
		for (ssize_t i = 0; i < n; i++) {
			if (data[i] == '\n')
				line_done (run);
			else if (run->line_len < sizeof (run->line) - 1)
				run->line[run->line_len++] = data[i];
		}
	if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		line_done (run);
		close (run->process.err);
		run->process.err = -1;
	}
}

static int
said_fail (const struct run *run, const char *name, struct silo_error *err)
{
	static const struct {
		const char *text;
		int code;
		const char *hint;
	} kinds[] = {
		{ "does not have a Release file", SILO_NOTFOUND,
		  " (no such suite? docker://debian:... is the registry's image)" },
		{ "Unable to locate package", SILO_NOTFOUND, "" },
		{ "has no installation candidate", SILO_NOTFOUND, "" },
		{ "Couldn't find any package", SILO_NOTFOUND, "" },
		{ "unknown variant", SILO_INVALID, "" },
		{ "invalid variant", SILO_INVALID, "" },
		{ "No space left", SILO_EXHAUSTED, "" },
		{ "failed to execute", SILO_PRECONDITION,
		  " (is it installed? apt-get install mmdebstrap)" },
		{ "unable to pick chroot mode", SILO_DENIED, " (run it as root)" },
	};
	const char *said = *run->first ? run->first : run->last, *hint = "";
	int code = SILO_UNAVAILABLE;
	for (size_t i = 0; i < sizeof (kinds) / sizeof (kinds[0]); i++) {
		if (!strstr (said, kinds[i].text))
			continue;
		code = kinds[i].code;
		hint = kinds[i].hint;
		break;
	}
	if (strncmp (said, "E: ", 3) == 0)
		said += 3;
	return silo_fail (err, code, "%.60s: %.120s%s", name, *said ? said : "mmdebstrap fails",
			  hint);
}

/* -- its tar, as a source ---------------------------------------------------------------- */

/* Until its stdout has something to say. */
static int
run_wait (struct run *run, struct silo_error *err)
{
	const int cancel_fd = silo_import_cancel_fd (run->import);
	for (;;) {
		int64_t left = cancel_fd >= 0 ? MAX_WAIT_MS : TICK_MS;
		if (silo_import_cancelled (run->import))
			return silo_fail (err, SILO_CANCELLED, "stopped");
		if (run->deadline > 0) {
			int64_t rest = (run->deadline - silo_monotonic ()) / 1000000;
			left = rest < left ? rest : left;
			if (rest <= 0)
				return silo_fail (err, SILO_TIMEOUT,
						  "Debian's packages took too long to install; "
						  "[image.debian] timeout allows no more");
		}
		/* Those that are -1 are passed over. */
		struct pollfd fds[] = {
			{ run->process.out, POLLIN, 0 },
			{ run->process.err, POLLIN, 0 },
			{ cancel_fd, POLLIN, 0 },
			{ run->stop_fd, POLLIN, 0 },
		};
		int n = poll (fds, 4, (int) left);
		if (n < 0 && errno != EINTR)
			return silo_fail_sys (err, errno, "poll");
		if (n <= 0)
			continue;
		if (fds[2].revents || fds[3].revents)
			return silo_fail (err, SILO_CANCELLED, "stopped");
		if (fds[1].revents)
			said_read (run);
		if (fds[0].revents)
			return 0;
	}
}

static int
source_next (void *arg, const void **ret, size_t *ret_len, struct silo_error *err)
{
	struct run *run = arg;
	ssize_t n;
	do {
		int r = run_wait (run, err);
		if (r < 0)
			return r;
		n = read (run->process.out, run->chunk, CHUNK);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return silo_fail_sys (err, errno, "mmdebstrap's output");
	run->ended = n == 0;
	*ret = run->chunk;
	*ret_len = (size_t) n;
	return 0;
}

static void
source_stop (void *arg)
{
	struct run *run = arg;
	eventfd_write (run->stop_fd, 1);
}

/* -- start and end ------------------------------------------------------------------------- */

/* What is started: arguments, environment, and the texts that these point to. */
struct command {
	const char *argv[32];
	size_t n;
	const char *env[MAX_ENV];
	char tmpdir[sizeof (((struct temp *) NULL)->path) + 16];
	char architecture[64], variant[DEBIAN_MAX_NAME + 16];
	struct silo_buf include;
};

static void
command_add (struct command *command, const char *argument)
{
	assert (command->n + 1 < sizeof (command->argv) / sizeof (command->argv[0]));
	command->argv[command->n++] = argument;
}

/* Ours, but that temporary files go to a place where nothing is left.  Without root that is not
 * possible: mmdebstrap is other users then, who cannot enter the state folder. */
static int
command_env (struct command *command, const struct run *run, bool root, struct silo_error *err)
{
	size_t n = 0;
	for (char **at = environ; *at; at++) {
		if (root && strncmp (*at, "TMPDIR=", 7) == 0)
			continue;
		if (n == MAX_ENV - 3)
			return silo_fail (err, SILO_EXHAUSTED, "more than %d environment variables",
					  MAX_ENV - 3);
		command->env[n++] = *at;
	}
	command->env[n++] = "DEBIAN_FRONTEND=noninteractive";
	if (root) {
		snprintf (command->tmpdir, sizeof (command->tmpdir), "TMPDIR=%s", run->temp.path);
		command->env[n++] = command->tmpdir;
	}
	return 0;
}

/* Programs in front of mmdebstrap, which see to its end. */
static void
command_prefix (struct command *command, bool root)
{
	static const char *const always[] = { "setpriv", "--pdeathsig" };
	static const char *const alone[] = { "unshare",     "--mount", "--propagation=private",
					     "--pid",       "--fork",  "--kill-child",
					     "--mount-proc" };
	for (size_t i = 0; i < sizeof (always) / sizeof (always[0]); i++)
		command_add (command, always[i]);
	command_add (command, root ? "KILL" : "TERM");
	for (size_t i = 0; root && i < sizeof (alone) / sizeof (alone[0]); i++)
		command_add (command, alone[i]);
}

static int
command_fill (struct command *command, const struct debian *debian, const struct recipe *recipe,
	      struct silo_error *err)
{
	command_add (command, debian->program);
	snprintf (command->variant, sizeof (command->variant), "--variant=%s", debian->variant);
	command_add (command, command->variant);
	command_add (command, "--format=tar");
	/* Devices are the container's matter; name and resolver would be those of this machine. */
	command_add (command, "--skip=output/dev");
	command_add (command, "--customize-hook=rm -f \"$1/etc/hostname\" \"$1/etc/resolv.conf\"");
	if (recipe->packages.len > 0) {
		int r = silo_buf_addf (&command->include, err, "--include=%s",
				       (const char *) recipe->packages.data);
		if (r < 0)
			return r;
		command_add (command, (const char *) command->include.data);
	}
	if (*recipe->architecture) {
		snprintf (command->architecture, sizeof (command->architecture),
			  "--architectures=%s", recipe->architecture);
		command_add (command, command->architecture);
	}
	command_add (command, "--");
	command_add (command, recipe->suite);
	command_add (command, "-");
	if (*debian->mirror)
		command_add (command, debian->mirror);
	return 0;
}

static int
run_start (struct run *run, const struct debian *debian, const struct recipe *recipe,
	   struct silo_error *err)
{
	const bool root = geteuid () == 0;
	struct command *command = calloc (1, sizeof (*command));
	if (!command)
		return silo_fail_nomem (err);
	command->include = (struct silo_buf) SILO_BUF (32 << 10);
	command_prefix (command, root);
	int r = command_env (command, run, root, err);
	if (r == 0)
		r = command_fill (command, debian, recipe, err);
	/* A session of its own: Ctrl-C is for us, who then end it. */
	const struct silo_spawn spawn = {
		.argv = command->argv,
		.env = command->env,
		.in = -1,
		.out = true,
		.err = true,
		.session = true,
	};
	if (r == 0)
		r = silo_spawn (&spawn, &run->process, err);
	if (r == 0)
		fcntl (run->process.err, F_SETFL, O_NONBLOCK);
	silo_buf_free (&command->include);
	free (command);
	return r;
}

/* It has closed its stdout, or is not wanted any more.  Returns its exit status. */
static int
run_end (struct run *run)
{
	struct pollfd fds[] = { { run->process.pidfd, POLLIN, 0 }, { -1, POLLIN, 0 } };
	int status = -1;
	if (run->process.pidfd < 0)
		return -1;
	if (!run->ended)
		pidfd_send_signal (run->process.pidfd, geteuid () == 0 ? SIGKILL : SIGTERM, NULL,
				   0);
	const int64_t until = silo_monotonic () + (int64_t) GRACE_MS * 1000000;
	/* It may still have things to say, and waits for somebody to read them. */
	for (int64_t left = GRACE_MS; left > 0;) {
		fds[1].fd = run->process.err;
		int n = poll (fds, 2, (int) left);
		if (n > 0 && fds[1].revents)
			said_read (run);
		else if (n > 0 && fds[0].revents)
			break;
		left = (until - silo_monotonic ()) / 1000000;
	}
	/* Of one that has ended nothing is left that could be hit. */
	pidfd_send_signal (run->process.pidfd, SIGKILL, NULL, 0);
	silo_process_wait (&run->process, &status, NULL);
	return status;
}

static int
run_read (struct run *run, const char *name, struct silo_layer *layer, struct silo_error *err)
{
	const struct tar_source source = { .next = source_next, .stop = source_stop, .arg = run };
	struct silo_error why = { 0 };
	int r = tar_read (&source, name, run->import, layer, &why);
	int status = run_end (run);
	/* A tar that ends too early is that of one that has failed. */
	if (status != 0 && (r == 0 || (r == SILO_DATALOSS && run->ended)))
		return said_fail (run, name, err);
	if (r < 0)
		return silo_fail (err, r, "%s", why.msg);
	/* Where containers have theirs, and so not a thing that mmdebstrap was to make. */
	const struct silo_entry dev = { .type = SILO_ENTRY_DIR, .path = "dev", .mode = 0755 };
	return silo_layer_entry (layer, &dev, err);
}

int
bootstrap (const struct debian *debian, const struct recipe *recipe, const char *name,
	   struct silo_import *import, struct silo_layer *layer, struct silo_error *err)
{
	struct run run = {
		.import = import,
		.process = { .pidfd = -1, .out = -1, .err = -1 },
		.temp = { .fd = -1 },
		.stop_fd = -1,
		.deadline = debian->timeout ? silo_monotonic () + debian->timeout * 1000000 : 0,
	};
	int r = temp_make (debian->host, DEBIAN_TEMP, &run.temp, err);
	if (r < 0)
		return r;
	run.chunk = malloc (CHUNK);
	run.stop_fd = eventfd (0, EFD_CLOEXEC);
	if (!run.chunk || run.stop_fd < 0)
		r = silo_fail_nomem (err);
	if (r == 0)
		r = run_start (&run, debian, recipe, err);
	if (r == 0)
		r = run_read (&run, name, layer, err);
	if (run.stop_fd >= 0)
		close (run.stop_fd);
	free (run.chunk);
	temp_remove (&run.temp);
	return r;
}
