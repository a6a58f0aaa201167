/* SPDX-License-Identifier: Apache-2.0 */
/*
 * spawn.c - unit tests of core/spawn.c with real programs: exit codes, signals,
 * descriptors and signal masks of the child, large output, missing programs,
 * deadlines; and that no descriptor and no zombie stays behind.
 */
#include "core.h"
#include "tap.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define SH(script)                            \
	(const char *const[])                 \
	{                                     \
		"/bin/sh", "-c", script, NULL \
	}

static int
count_fds (void)
{
	DIR *d = opendir ("/proc/self/fd");
	if (!d)
		tap_bail ("no /proc/self/fd");
	int n = 0;
	while (readdir (d))
		n++;
	closedir (d);
	return n;
}

/* Everything that arrives at a descriptor until its end. */
static void
read_all (int fd, struct silo_buf *to)
{
	char chunk[65536];
	for (;;) {
		ssize_t n = read (fd, chunk, sizeof chunk);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		if (silo_buf_add (to, chunk, (size_t) n, NULL) < 0)
			tap_bail ("output is too long");
	}
}

static int
wait_status (struct silo_process *process)
{
	struct silo_error err = { 0 };
	int status = -1;
	if (silo_process_wait (process, &status, &err) < 0)
		tap_note ("wait: %s", err.msg);
	return status;
}

/* The status of a script without pipes; -1 when it could not be started. */
static int
status_of (const char *script)
{
	struct silo_error err = { 0 };
	struct silo_process process;
	if (silo_spawn (&(struct silo_spawn){ .argv = SH (script), .in = -1 }, &process, &err) <
	    0) {
		tap_note ("spawn: %s", err.msg);
		return -1;
	}
	return wait_status (&process);
}

static void
test_status (void)
{
	tap_is_int (status_of ("exit 0"), 0, "exit code 0");
	tap_is_int (status_of ("exit 7"), 7, "exit code 7");
	tap_is_int (status_of ("exit 255"), 255, "exit code 255");
	tap_is_int (status_of ("kill -9 $$"), 128 + SIGKILL, "killed");
	tap_is_int (status_of ("kill -TERM $$"), 128 + SIGTERM, "terminated");
}

/* The output of one program, started with everything that can be asked for. */
static void
test_child (void)
{
	const char *const argv[] = {
		"sh", "-c",
		"read line; echo \"in=$line cwd=$(pwd) env=$(env | grep -c "
		"^SILO_X=1)\"; echo oops >&2; ls /proc/self/fd | tr '\\n' ' '; "
		"ps -o sid= -p $$ | tr -d ' ' | grep -qx $$ && echo own",
		NULL
	};
	const char *const env[] = { "SILO_X=1", "PATH=/usr/bin:/bin", NULL };
	int in[2];
	if (pipe2 (in, O_CLOEXEC) < 0 || write (in[1], "hello\n", 6) != 6)
		tap_bail ("pipe");
	struct silo_error err = { 0 };
	struct silo_process process;
	const struct silo_spawn spawn = { .argv = argv,
					  .env = env,
					  .cwd = "/usr",
					  .in = in[0],
					  .out = true,
					  .err = true,
					  .session = true };
	if (!tap_is_int (silo_spawn (&spawn, &process, &err), 0, "starts a program from PATH"))
		return;
	_cleanup_buf_ struct silo_buf out = SILO_BUF (4096);
	_cleanup_buf_ struct silo_buf text = SILO_BUF (4096);
	read_all (process.out, &out);
	read_all (process.err, &text);
	/* ls itself holds descriptor 3 open, for the folder that it lists. */
	tap_is_str ((char *) out.data, "in=hello cwd=/usr env=1\n0 1 2 3 own\n",
		    "stdin, folder, environment, session; no other descriptor");
	tap_is_str ((char *) text.data, "oops\n", "stderr");
	tap_ok (fcntl (process.out, F_GETFD) == FD_CLOEXEC &&
		    fcntl (process.err, F_GETFD) == FD_CLOEXEC &&
		    fcntl (process.pidfd, F_GETFD) == FD_CLOEXEC,
		"descriptors are close-on-exec");
	tap_is_int (wait_status (&process), 0, "and it ends");
	tap_is_int (process.pidfd, -1, "waiting closed the descriptors");
	close (in[0]);
	close (in[1]);
}

static void
test_signals (void)
{
	sigset_t block, old;
	sigemptyset (&block);
	sigaddset (&block, SIGTERM);
	pthread_sigmask (SIG_BLOCK, &block, &old);
	void (*pipe_was) (int) = signal (SIGPIPE, SIG_IGN);

	_cleanup_buf_ struct silo_buf out = SILO_BUF (4096);
	struct silo_error err = { 0 };
	silo_run (SH ("grep -E '^Sig(Blk|Ign)' /proc/self/status | tr -d '\\n\\t '"), NULL, 0, &out,
		  &err);
	tap_is_str ((char *) out.data, "SigBlk:0000000000000000SigIgn:0000000000000000",
		    "no signal is blocked or ignored");
	signal (SIGPIPE, pipe_was);
	pthread_sigmask (SIG_SETMASK, &old, NULL);
}

/* The pidfd becomes readable at the end, not before. */
static void
test_pidfd (void)
{
	int hold[2];
	if (pipe2 (hold, O_CLOEXEC) < 0)
		tap_bail ("pipe");
	struct silo_error err = { 0 };
	struct silo_process process;
	if (!tap_is_int (silo_spawn (&(struct silo_spawn){ .argv = SH ("read x"), .in = hold[0] },
				     &process, &err),
			 0, "starts"))
		return;
	struct pollfd fd = { .fd = process.pidfd, .events = POLLIN };
	tap_is_int (poll (&fd, 1, 0), 0, "pidfd is silent while it runs");
	tap_ok (process.out == -1 && process.err == -1, "no pipes when none were asked for");
	close (hold[1]);
	tap_is_int (poll (&fd, 1, 10000), 1, "pidfd tells the end");
	tap_is_int (wait_status (&process), 1, "status");
	close (hold[0]);
}

static void
test_missing (void)
{
	struct silo_error err = { 0 };
	struct silo_process process = { .pid = -7 };
	const char *const absent[] = { "silo-no-such-program", NULL };
	const char *const absolute[] = { "/nonexistent/program", NULL };
	const char *const folder[] = { "/tmp", NULL };

	tap_is_int (silo_spawn (&(struct silo_spawn){ .argv = absent, .in = -1 }, &process, &err),
		    SILO_NOTFOUND, "a program that is not installed");
	tap_is_str (err.msg, "program silo-no-such-program is not in PATH; is it installed?",
		    "says so");
	tap_is_int (process.pid, -7, "and leaves the result alone");
	tap_is_int (silo_spawn (&(struct silo_spawn){ .argv = absolute, .in = -1 }, &process, &err),
		    SILO_NOTFOUND, "a missing path: %s", err.msg);
	tap_ok (strstr (err.msg, "/nonexistent/program") != NULL, "is named");
	tap_ok (silo_spawn (&(struct silo_spawn){ .argv = folder, .in = -1 }, &process, &err) < 0,
		"a folder cannot be run: %s", err.msg);
	tap_ok (
	    silo_spawn (
		&(struct silo_spawn){ .argv = SH ("true"), .in = -1, .cwd = "/nonexistent/cwd" },
		&process, &err) < 0 &&
		strstr (err.msg, "/nonexistent/cwd"),
	    "a missing folder is named: %s", err.msg);
}

static void
test_run (void)
{
	struct silo_error err = { 0 };
	_cleanup_buf_ struct silo_buf out = SILO_BUF (64 << 20);

	tap_is_int (silo_run (SH ("echo hi; echo noise >&2"), NULL, 0, &out, &err), 0, "a tool");
	tap_is_str ((char *) out.data, "hi\n", "its stdout");
	silo_buf_free (&out);

	/* More than any pipe holds, on both at once: who reads only one blocks for ever. */
	tap_is_int (silo_run (SH ("head -c 20000000 /dev/zero >&2 & head -c 20000000 /dev/zero; "
				  "wait; printf '\\nlast words\\n\\n' >&2; exit 3"),
			      NULL, 60000, &out, &err),
		    SILO_INTERNAL, "20 MB on both pipes");
	tap_is_int ((int64_t) out.len, 20000000, "all of it arrives");
	tap_is_str (err.msg, "/bin/sh ended with status 3: last words", "the message");

	tap_is_int (silo_run (SH ("echo lost"), NULL, 0, NULL, &err), 0, "stdout thrown away");
	tap_is_int (silo_run (SH ("kill -SEGV $$"), NULL, 0, NULL, &err), SILO_INTERNAL, "a crash");
	tap_is_str (err.msg, "/bin/sh was ended by signal 11", "is told as one");
	tap_is_int (silo_run (SH ("printf 'a\\033[1mb\\tc' >&2; exit 1"), NULL, 0, NULL, &err),
		    SILO_INTERNAL, "odd bytes on stderr");
	tap_is_str (err.msg, "/bin/sh ended with status 1: a [1mb c", "do not reach the message");
}

static void
test_limits (void)
{
	struct silo_error err = { 0 };
	_cleanup_buf_ struct silo_buf out = SILO_BUF (1000);

	tap_is_int (silo_run (SH ("exec yes"), NULL, 60000, &out, &err), SILO_EXHAUSTED,
		    "a tool that writes without end: %s", err.msg);
	tap_ok (out.len <= 1000, "keeps to the buffer's maximum");

	int64_t before = silo_monotonic ();
	tap_is_int (silo_run (SH ("exec sleep 1000"), NULL, 50, NULL, &err), SILO_TIMEOUT,
		    "a tool that hangs: %s", err.msg);
	tap_is_int (silo_run (SH ("exec yes >&2"), NULL, 50, NULL, &err), SILO_TIMEOUT,
		    "and one that floods stderr");
	tap_ok (silo_monotonic () - before < INT64_C (60) * 1000000000, "are ended");

	/* The child's child keeps the pipe open. */
	silo_buf_free (&out);
	tap_is_int (silo_run (SH ("echo quick; sleep 5 & exit 0"), NULL, 0, &out, &err), 0,
		    "a tool that leaves a process behind");
	tap_is_str ((char *) out.data, "quick\n", "is not waited for longer than itself");
}

/* Without 0, 1 and 2 in the parent, new pipes would get those numbers. */
static void
test_closed_stdio (void)
{
	struct silo_error err = { 0 };
	_cleanup_buf_ struct silo_buf out = SILO_BUF (100);
	int saved[3];
	fflush (stdout);
	for (int i = 0; i < 3; i++) {
		saved[i] = fcntl (i, F_DUPFD_CLOEXEC, 10);
		close (i);
	}
	int r = silo_run (SH ("echo out; echo err >&2; exit 4"), NULL, 0, &out, &err);
	for (int i = 0; i < 3; i++) {
		dup2 (saved[i], i);
		close (saved[i]);
	}
	tap_is_int (r, SILO_INTERNAL, "works without 0, 1 and 2");
	tap_is_str ((char *) out.data, "out\n", "stdout");
	tap_is_str (err.msg, "/bin/sh ended with status 4: err", "stderr");
}

/* Out of descriptors after each possible number of them: an error or a success, no leak. */
static void
test_no_descriptors (void)
{
	struct rlimit was, low;
	getrlimit (RLIMIT_NOFILE, &was);
	int lowest = open ("/dev/null", O_RDONLY | O_CLOEXEC), failed = 0;
	close (lowest);
	for (int more = 0; more < 6; more++) {
		low = (struct rlimit){ (rlim_t) (lowest + more), was.rlim_max };
		setrlimit (RLIMIT_NOFILE, &low);
		int r = silo_run (SH ("true"), NULL, 0, &(struct silo_buf) SILO_BUF (10),
				  &(struct silo_error){ 0 });
		setrlimit (RLIMIT_NOFILE, &was);
		if (r < 0)
			failed++;
	}
	tap_is_int (failed, 5, "two pipes and a pidfd: five descriptors are needed");
}

int
main (void)
{
	int before = count_fds ();

	test_status ();
	test_child ();
	test_signals ();
	test_pidfd ();
	test_missing ();
	test_run ();
	test_limits ();
	test_closed_stdio ();
	test_no_descriptors ();

	tap_is_int (count_fds (), before, "no descriptor is left");
	tap_ok (waitpid (-1, NULL, WNOHANG) < 0 && errno == ECHILD, "no process is left");
	return tap_done ();
}
