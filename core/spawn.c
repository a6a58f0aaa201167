/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spawn.c - the one place that starts processes.
 *
 * The daemon is full of threads that are not ours (gRPC, HTTP, FUSE), so there
 * is no fork: posix_spawn makes a child that shares our memory and does nothing
 * but set up its descriptors and signals until it executes.  Processes are
 * watched by pidfd.  Any thread may call any of it.
 */
#include "core.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#define TAIL_MAX  512   /* bytes of a tool's stderr that are kept for the message */
#define RUN_CHUNK 16384 /* bytes read at a time */
#define RUN_AFTER 128   /* reads of each pipe after the end: more than a pipe can hold */

/* Both ends of the pipes while a process is being started. */
struct spawn_pipes {
	int out[2];
	int err[2];
};

static void
spawn_close (int *fd)
{
	util_close (fd);
	*fd = -1;
}

static void
spawn_pipes_close (struct spawn_pipes *pipes)
{
	for (int i = 0; i < 2; i++) {
		spawn_close (&pipes->out[i]);
		spawn_close (&pipes->err[i]);
	}
}

/* A pipe whose ends are not 0, 1 or 2, even when the daemon was started without them: the
 * file actions below would overwrite one with the other. */
static int
spawn_pipe (int ret[2], struct silo_error *err)
{
	int fd[2];
	if (pipe2 (fd, O_CLOEXEC) < 0)
		return silo_fail_sys (err, errno, "make a pipe");

	for (int i = 0; i < 2; i++) {
		if (fd[i] > STDERR_FILENO)
			continue;
		int moved = fcntl (fd[i], F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
		if (moved < 0) {
			int sys = errno;
			close (fd[0]);
			close (fd[1]);
			return silo_fail_sys (err, sys, "make a pipe");
		}
		close (fd[i]);
		fd[i] = moved;
	}
	ret[0] = fd[0];
	ret[1] = fd[1];
	return 0;
}

/* What the child does to its descriptors, in this order.  Returns an errno value. */
static int
spawn_actions (posix_spawn_file_actions_t *actions, const struct silo_spawn *spawn,
	       const struct spawn_pipes *pipes)
{
	const int from[3] = { spawn->in, pipes->out[1], pipes->err[1] };

	for (int fd = 0; fd < 3; fd++) {
		int sys = from[fd] >= 0
			      ? posix_spawn_file_actions_adddup2 (actions, from[fd], fd)
			      : posix_spawn_file_actions_addopen (actions, fd, "/dev/null",
								  fd == 0 ? O_RDONLY : O_WRONLY, 0);
		if (sys)
			return sys;
	}
	int sys = posix_spawn_file_actions_addclosefrom_np (actions, STDERR_FILENO + 1);
	if (sys)
		return sys;
	return posix_spawn_file_actions_addchdir_np (actions, spawn->cwd ? spawn->cwd : "/");
}

/* Signals as in a fresh process, whatever the daemon ignores or blocks. */
static int
spawn_attributes (posix_spawnattr_t *attr, const struct silo_spawn *spawn)
{
	sigset_t all, none;
	/* sigfillset leaves out two that glibc keeps for itself; the child would ignore them. */
	memset (&all, 0xff, sizeof all);
	sigemptyset (&none);

	int sys = posix_spawnattr_setsigdefault (attr, &all);
	if (!sys)
		sys = posix_spawnattr_setsigmask (attr, &none);
	if (!sys)
		sys =
		    posix_spawnattr_setflags (attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK |
							(spawn->session ? POSIX_SPAWN_SETSID : 0));
	return sys;
}

static int
spawn_child (const struct silo_spawn *spawn, const struct spawn_pipes *pipes, pid_t *ret_pid)
{
	posix_spawn_file_actions_t actions;
	int sys = posix_spawn_file_actions_init (&actions);
	if (sys)
		return sys;

	posix_spawnattr_t attr;
	sys = posix_spawnattr_init (&attr);
	if (sys)
		goto out_actions;
	sys = spawn_actions (&actions, spawn, pipes);
	if (!sys)
		sys = spawn_attributes (&attr, spawn);
	if (!sys)
		sys = posix_spawnp (ret_pid, spawn->argv[0], &actions, &attr,
				    (char *const *) spawn->argv,
				    spawn->env ? (char *const *) spawn->env : environ);
	posix_spawnattr_destroy (&attr);
out_actions:
	posix_spawn_file_actions_destroy (&actions);
	return sys;
}

static int
spawn_fail (const struct silo_spawn *spawn, int sys, struct silo_error *err)
{
	const char *cwd = spawn->cwd ? spawn->cwd : "/";

	if (sys == ENOENT && access (cwd, X_OK) < 0)
		return silo_fail_sys (err, errno, "start %s in %s", spawn->argv[0], cwd);
	if (sys == ENOENT && !strchr (spawn->argv[0], '/'))
		return silo_fail (err, SILO_NOTFOUND, "program %s is not in PATH; is it installed?",
				  spawn->argv[0]);
	return silo_fail_sys (err, sys, "start %s", spawn->argv[0]);
}

int
silo_spawn (const struct silo_spawn *spawn, struct silo_process *ret, struct silo_error *err)
{
	assert (spawn->argv && spawn->argv[0]);

	SILO_CLEANUP (spawn_pipes_close)
	struct spawn_pipes pipes = { { -1, -1 }, { -1, -1 } };
	int r = 0;
	if (spawn->out)
		r = spawn_pipe (pipes.out, err);
	if (r == 0 && spawn->err)
		r = spawn_pipe (pipes.err, err);
	if (r < 0)
		return silo_wrap (err, "start %s", spawn->argv[0]);

	pid_t pid = -1;
	int sys = spawn_child (spawn, &pipes, &pid);
	if (sys)
		return spawn_fail (spawn, sys, err);

	/* The child is ours and not reaped yet: its number cannot be anybody else's. */
	int pidfd = pidfd_open (pid, 0);
	if (pidfd < 0) {
		sys = errno;
		kill (pid, SIGKILL);
		while (waitpid (pid, NULL, 0) < 0 && errno == EINTR)
			;
		return silo_fail_sys (err, sys, "watch %s", spawn->argv[0]);
	}

	*ret = (struct silo_process){
		.pid = pid,
		.pidfd = pidfd,
		.out = silo_steal_fd (&pipes.out[0]),
		.err = silo_steal_fd (&pipes.err[0]),
	};
	return 0;
}

int
silo_process_wait (struct silo_process *process, int *ret_status, struct silo_error *err)
{
	siginfo_t info = { 0 };
	int r;

	do
		r = waitid (P_PIDFD, (id_t) process->pidfd, &info, WEXITED);
	while (r < 0 && errno == EINTR);
	int sys = errno;

	spawn_close (&process->pidfd);
	spawn_close (&process->out);
	spawn_close (&process->err);
	if (r < 0)
		return silo_fail_sys (err, sys, "wait for process %d", (int) process->pid);
	*ret_status = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
	return 0;
}

/* -- silo_run ---------------------------------------------------------------- */

/* The end of what a tool has said on stderr. */
struct run_tail {
	char text[TAIL_MAX + 1];
	size_t len;
};

struct run {
	const char *name;
	struct silo_process process;
	struct silo_buf *out; /* NULL: not wanted */
	struct run_tail tail;
	int64_t deadline; /* silo_monotonic (), or 0 */
};

static void
run_tail_add (struct run_tail *tail, const char *data, size_t len)
{
	if (len >= TAIL_MAX) {
		data += len - TAIL_MAX;
		len = TAIL_MAX;
		tail->len = 0;
	} else if (tail->len + len > TAIL_MAX) {
		size_t drop = tail->len + len - TAIL_MAX;
		memmove (tail->text, tail->text + drop, tail->len - drop);
		tail->len -= drop;
	}
	memcpy (tail->text + tail->len, data, len);
	tail->len += len;
	tail->text[tail->len] = '\0';
}

/* The last line that is not empty, with nothing unprintable in it. */
static const char *
run_tail_line (struct run_tail *tail)
{
	char *text = tail->text;
	size_t end = tail->len;

	while (end > 0 && (unsigned char) text[end - 1] <= ' ')
		end--;
	size_t start = end;
	while (start > 0 && text[start - 1] != '\n')
		start--;
	text[end] = '\0';
	for (size_t i = start; i < end; i++)
		if ((unsigned char) text[i] < ' ' || text[i] == 0x7f)
			text[i] = ' ';
	return text + start;
}

/* Take some of what a pipe holds now; closes it at its end.  *fd is O_NONBLOCK. */
static int
run_read (struct run *run, int *fd, struct silo_error *err)
{
	char chunk[RUN_CHUNK];

	if (*fd < 0)
		return 0;
	ssize_t n = read (*fd, chunk, sizeof chunk);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n < 0)
		return silo_fail_sys (err, errno, "read the output of %s", run->name);
	if (n == 0)
		spawn_close (fd);
	else if (fd == &run->process.err)
		run_tail_add (&run->tail, chunk, (size_t) n);
	else if (silo_buf_add (run->out, chunk, (size_t) n, err) < 0)
		return silo_wrap (err, "output of %s", run->name);
	return 0;
}

static int
run_wait_ms (const struct run *run)
{
	if (!run->deadline)
		return -1;
	int64_t left = (run->deadline - silo_monotonic () + 999999) / 1000000;
	return left < 0 ? 0 : left > INT32_MAX ? INT32_MAX : (int) left;
}

/* Read both pipes until the process ends.  What its own children still hold open and write
 * later is not waited for. */
static int
run_follow (struct run *run, struct silo_error *err)
{
	for (int after = 0; after < RUN_AFTER;) {
		struct pollfd fds[3] = {
			{ .fd = run->process.pidfd, .events = POLLIN },
			{ .fd = run->process.out, .events = POLLIN },
			{ .fd = run->process.err, .events = POLLIN },
		};
		int n = poll (fds, ARRAY_SIZE (fds), run_wait_ms (run));
		if (n < 0 && errno != EINTR)
			return silo_fail_sys (err, errno, "wait for %s", run->name);
		if (run->deadline && silo_monotonic () >= run->deadline)
			return silo_fail (err, SILO_TIMEOUT, "%s took too long and was ended",
					  run->name);
		if (n <= 0)
			continue;
		int r = run_read (run, &run->process.out, err);
		if (r == 0)
			r = run_read (run, &run->process.err, err);
		if (r < 0)
			return r;
		if (fds[0].revents && !fds[1].revents && !fds[2].revents)
			break;
		if (fds[0].revents)
			after++;
	}
	return 0;
}

int
silo_run (const char *const *argv, const char *const *env, int timeout_ms, struct silo_buf *out,
	  struct silo_error *err)
{
	const struct silo_spawn spawn = {
		.argv = argv, .env = env, .in = -1, .out = out != NULL, .err = true
	};
	struct run run = { .name = argv[0], .out = out };
	if (timeout_ms > 0)
		run.deadline = silo_monotonic () + (int64_t) timeout_ms * 1000000;

	int r = silo_spawn (&spawn, &run.process, err);
	if (r < 0)
		return r;
	if (run.process.out >= 0)
		fcntl (run.process.out, F_SETFL, O_NONBLOCK);
	fcntl (run.process.err, F_SETFL, O_NONBLOCK);

	r = run_follow (&run, err);
	if (r < 0)
		pidfd_send_signal (run.process.pidfd, SIGKILL, NULL, 0);
	int status = 0;
	int waited = silo_process_wait (&run.process, &status, r < 0 ? NULL : err);
	if (r < 0)
		return r;
	if (waited < 0)
		return waited;
	if (status == 0)
		return 0;

	const char *line = run_tail_line (&run.tail);
	if (status > 128 && status <= 128 + SIGRTMAX)
		return silo_fail (err, SILO_INTERNAL, "%s was ended by signal %d%s%s", run.name,
				  status - 128, *line ? ": " : "", line);
	return silo_fail (err, SILO_INTERNAL, "%s ended with status %d%s%s", run.name, status,
			  *line ? ": " : "", line);
}
