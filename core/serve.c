/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve.c - the daemon, from lock to exit.  Everything that can go wrong for
 * reasons of the machine or of silo.ini goes wrong before it is ready; after
 * that it ends by SIGTERM or SIGINT: tasks may run to their end for a while,
 * a second signal ends them at once.
 */
#include "engine.h"

#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#define POOL_THREADS 32

struct server {
	struct core *core;
	struct loop_io signals;
	int signal_fd;
	bool draining;
	struct pool_job stop_job;
};

/* Tell the service manager, if there is one (the protocol is in sd_notify(3)). */
static void
notify (struct core *core, const char *state)
{
	const char *path = getenv ("NOTIFY_SOCKET");
	struct sockaddr_un to = { .sun_family = AF_UNIX };

	if (!path || (path[0] != '/' && path[0] != '@') || strlen (path) >= sizeof (to.sun_path))
		return;
	memcpy (to.sun_path, path, strlen (path));
	if (to.sun_path[0] == '@')
		to.sun_path[0] = 0;
	_cleanup_close_ int fd = socket (AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 ||
	    sendto (fd, state, strlen (state), MSG_NOSIGNAL, (struct sockaddr *) &to,
		    (socklen_t) (offsetof (struct sockaddr_un, sun_path) + strlen (path))) < 0)
		silo_log (&core->host, SILO_WARN, "telling the service manager: %s",
			  strerror (errno));
}

static int
lock_state (struct core *core, struct silo_error *err)
{
	char path[4096], pid[24] = "";

	int r = silo_state_path (&core->host, "lock", path, sizeof (path), err);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = open (path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return silo_fail_sys (err, errno, "%s", path);
	if (flock (fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return silo_fail_sys (err, errno, "locking %s", path);
		ssize_t n = pread (fd, pid, sizeof (pid) - 1, 0);
		return silo_fail (
		    err, SILO_INVALID,
		    "state folder %s is in use by another daemon (pid %.*s): stop it, "
		    "or give this one a [silo] state of its own",
		    core->settings->state, n > 0 ? (int) strcspn (pid, "\n") : 1,
		    n > 0 ? pid : "?");
	}
	snprintf (pid, sizeof (pid), "%d\n", getpid ());
	if (ftruncate (fd, 0) < 0 || pwrite (fd, pid, strlen (pid), 0) < 0)
		return silo_fail_sys (err, errno, "%s", path);
	core->lock_fd = silo_steal_fd (&fd);
	return 0;
}

/* -- stopping ------------------------------------------------------------------------- */

static void
stop_transports (void *arg)
{
	struct server *server = arg;
	struct instance_list *list = &server->core->wiring.transport;

	for (size_t i = list->n; i-- > 0;)
		instance_stop (list->item[i]);
}

static void
stop_done (void *arg)
{
	struct server *server = arg;

	loop_quit (server->core->loop);
}

/* No call and no worker is left.  Transports stop while the loop still runs, so that what
 * they wait for comes. */
static void
server_quiet (void *arg)
{
	struct server *server = arg;

	pool_run (server->core->pool, &server->stop_job, stop_transports, stop_done, server);
}

static void
server_signal (void *arg, uint32_t events SILO_UNUSED)
{
	struct server *server = arg;
	struct core *core = server->core;
	struct signalfd_siginfo info;

	if (read (server->signal_fd, &info, sizeof (info)) != sizeof (info))
		return;
	int64_t grace = server->draining ? 0 : core->settings->drain;
	silo_log (&core->host, SILO_INFO, "SIG%s: stopping, %d tasks may run %" PRId64 " ms more",
		  sigabbrev_np ((int) info.ssi_signo), atomic_load (&core->engine->n_calls), grace);
	if (!server->draining) {
		notify (core, "STOPPING=1");
		for (size_t i = 0; i < core->wiring.transport.n; i++) {
			struct silo_instance *transport = core->wiring.transport.item[i];
			instance_ops (transport, transport)->drain (transport->self);
		}
	}
	if (!server->draining || core->engine->quiet)
		engine_drain (core->engine, grace, server_quiet, server);
	server->draining = true;
}

/* -- starting -------------------------------------------------------------------------- */

static int
watch_signals (struct server *server, struct silo_error *err)
{
	sigset_t set;

	sigemptyset (&set);
	sigaddset (&set, SIGTERM);
	sigaddset (&set, SIGINT);
	server->signal_fd = signalfd (-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (server->signal_fd < 0)
		return silo_fail_sys (err, errno, "signalfd");
	return loop_watch (server->core->loop, &server->signals, server->signal_fd, EPOLLIN,
			   server_signal, server, err);
}

static int
check_runner (struct core *core, struct silo_error *err)
{
	char path[4096];

	if (!core->bridge)
		return silo_fail (err, SILO_INVALID,
				  "[silo] transport: none of them serves workers; add http");
	snprintf (path, sizeof (path), "%s/runner.py", core->settings->runner);
	if (access (path, R_OK) < 0)
		return silo_fail (err, SILO_INVALID, "[silo] runner: %s: %s", path,
				  strerror (errno));
	snprintf (path, sizeof (path), "%s/cloudpickle/__init__.py", core->settings->runner);
	if (access (path, R_OK) < 0)
		return silo_fail (err, SILO_INVALID, "[silo] runner: %s: %s", path,
				  strerror (errno));
	return 0;
}

static int
server_listen (struct core *core, struct silo_error *err)
{
	for (size_t i = 0; i < core->wiring.transport.n; i++) {
		struct silo_instance *transport = core->wiring.transport.item[i];
		int r = instance_call (transport, transport, listen, err);
		if (r < 0)
			return silo_wrap (err, "[%s]", transport->host.name);
	}
	return 0;
}

static int
server_start (struct server *server, struct silo_error *err)
{
	struct core *core = server->core;
	char run[4096];

	int r = lock_state (core, err);
	if (r == 0 && geteuid () == 0)
		r = namespace_enter (err);
	if (r == 0)
		r = silo_state_path (&core->host, "run", run, sizeof (run), err);
	if (r == 0)
		r = files_mkdir (run, err);
	if (r == 0)
		r = loop_new (&core->loop, err);
	if (r == 0)
		r = pool_new (core->loop, POOL_THREADS, &core->pool, err);
	if (r == 0)
		r = watch_signals (server, err);
	if (r == 0)
		r = wiring_load (core, WIRE_ALL, err);
	if (r == 0)
		r = wiring_start (core, err);
	if (r == 0)
		r = check_runner (core, err);
	if (r == 0)
		r = probe_rootfs (core, &core->rootfs, err);
	if (r == 0)
		r = probe_container (core, &core->container, err);
	if (r == 0)
		r = recover_clean (core, err);
	if (r == 0)
		r = engine_new (core, &core->engine, err);
	if (r == 0)
		r = control_open (core, &core->control, err);
	if (r == 0)
		r = server_listen (core, err);
	if (r == 0)
		r = control_ready (core->control, err);
	return r;
}

static void
server_stop (struct server *server)
{
	struct core *core = server->core;

	pool_free (core->pool);
	core->pool = NULL;
	control_close (core->control);
	core->control = NULL;
	wiring_stop (core);
	engine_free (core->engine);
	core->engine = NULL;
	loop_free (core->loop);
	core->loop = NULL;
	if (server->signal_fd >= 0)
		close (server->signal_fd);
}

int
serve_main (struct core *core)
{
	struct server server = { .core = core, .signal_fd = -1, .signals.fd = -1 };
	struct silo_error err = { 0 };
	int status = 1;
	sigset_t set;

	sigemptyset (&set);
	sigaddset (&set, SIGTERM);
	sigaddset (&set, SIGINT);
	sigaddset (&set, SIGPIPE);
	pthread_sigmask (SIG_BLOCK, &set, NULL);

	int r = server_start (&server, &err);
	if (r == 0) {
		silo_log (
		    &core->host, SILO_INFO,
		    "ready: state %s, storage %s, content %s, rootfs %s, container %s, at most "
		    "%d workers",
		    core->settings->state, core->wiring.storage->name, core->wiring.content->name,
		    core->rootfs->name, core->container->name, core->engine->max_workers);
		notify (core, "READY=1");
		/* New calls can be served even when the old ones cannot be looked at. */
		if (recover_tasks (core, &err) < 0)
			silo_log (&core->host, SILO_ERROR, "tasks of an earlier daemon: %s",
				  err.msg);
		r = loop_run (core->loop, &err);
	} else {
		status = 2;
		/* A transport may have taken calls already; they end as all calls do. */
		if (core->engine) {
			engine_drain (core->engine, 0, server_quiet, &server);
			loop_run (core->loop, NULL);
		}
	}
	server_stop (&server);
	if (r < 0) {
		cli_fail (&err);
		return status;
	}
	silo_log (&core->host, SILO_INFO, "stopped");
	return 0;
}

static void
serve_help (void)
{
	puts ("usage: silo serve [--config FILE]\n"
	      "\n"
	      "Run the daemon in the foreground: it logs to stderr, tells a service manager when\n"
	      "it is ready, and ends on SIGTERM or SIGINT (tasks get [silo] drain to finish; a\n"
	      "second signal ends them at once).  Exit status 2: it could not start.");
}

int
cmd_serve (struct cli *cli)
{
	static const struct option options[] = { { "help", no_argument, NULL, 'h' }, { 0 } };
	struct silo_error err;
	struct core *core;

	for (int c; (c = getopt_long (cli->argc, cli->argv, "h", options, NULL)) != -1;) {
		if (c != 'h')
			return 2;
		serve_help ();
		return 0;
	}
	if (cli_no_arguments (cli, &err) < 0)
		return cli_fail (&err);
	if (core_new (cli->config, CORE_CREATE, &core, &err) < 0) {
		cli_fail (&err);
		return 2;
	}
	int status = serve_main (core);
	core_close (core);
	return status;
}
