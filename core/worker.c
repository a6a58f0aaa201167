/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker.c - a container's life.  A pool job mounts its root and starts it;
 * its runner connects and asks for work; it idles, works, idles ...; it is
 * told to go or killed; when its process is gone a pool job removes the rest.
 * Loop thread, but for the *_work functions.
 */
#include "engine.h"
#include "store.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#define BOOT_LOG   4096
#define KILL_AGAIN 1000 /* ms */

const char *
worker_state_name (enum worker_state state)
{
	static const char *const names[] = {
		[WORKER_STARTING] = "starting", [WORKER_BOOTING] = "booting",
		[WORKER_BUSY] = "busy",         [WORKER_IDLE] = "idle",
		[WORKER_ENDING] = "ending",     [WORKER_REMOVING] = "removing",
	};
	return names[state];
}

static void worker_exited (void *arg, uint32_t events);
static void worker_remove (struct worker *worker);
static void worker_timer_kill (void *arg);

static void
worker_arm (struct worker *worker, int64_t ms, loop_fn *fn)
{
	loop_arm (worker->engine->core->loop, &worker->timer, silo_monotonic () + ms * 1000000, fn,
		  worker);
}

/* Answer its waiting request: there is nothing more to do. */
static void
worker_dismiss (struct worker *worker)
{
	silo_work_fn *fn = worker->next_fn;

	worker->next_fn = NULL;
	if (fn)
		fn (worker->next_arg, NULL, NULL);
}

static void
idle_long (void *arg)
{
	worker_end (arg);
}

static void
worker_idle (struct worker *worker)
{
	worker->state = WORKER_IDLE;
	worker_arm (worker, worker->engine->core->settings->scaledown_window, idle_long);
	engine_dispatch (worker->engine);
	engine_check_quiet (worker->engine);
}

/* Its runner has asked for work for the first time. */
static void
worker_connected (struct worker *worker)
{
	worker->function->starting--;
	worker->stamps[STAMP_CONNECTED] = silo_monotonic ();
	worker_idle (worker);
}

/* -- start ---------------------------------------------------------------------- */

static const struct silo_image *
worker_image (const struct worker *worker)
{
	return worker->image ? &worker->image->image : &worker->function->image->image;
}

/* The image may have been replaced, and what it was be collected, since its record was read:
 * then it is the new one.  But code travels between the same versions only. */
static int
start_pin (struct worker *worker, struct silo_error *err)
{
	const struct silo_image *old = &worker->function->image->image;
	int r = image_pin_current (worker->engine->core, old, &worker->pin, &worker->image, err);
	if (r < 0 || strcmp (worker_image (worker)->python_version, old->python_version) == 0)
		return r;
	return silo_fail (err, SILO_PRECONDITION,
			  "image %s was replaced while this waited: it had Python %s and has %s",
			  old->name, old->python_version, worker_image (worker)->python_version);
}

static int
start_mount (struct worker *worker, char *root, size_t size, struct silo_error *err)
{
	struct core *core = worker->engine->core;
	char scratch[sizeof (worker->folder) + 16], meta[4096];

	snprintf (root, size, "%s/rootfs", worker->folder);
	snprintf (scratch, sizeof (scratch), "%s/scratch", worker->folder);
	int r = files_mkdir (root, err);
	if (r == 0)
		r = files_mkdir (scratch, err);
	if (r == 0)
		r = start_pin (worker, err);
	if (r == 0)
		r = image_meta_path (core, worker_image (worker), meta, sizeof (meta), err);
	if (r < 0)
		return r;
	struct silo_rootfs_spec spec = {
		.meta = meta,
		.content = core->wiring.content,
		.target = root,
		.scratch = scratch,
		.writable = true,
		.upper_size = core->settings->upper_size,
	};
	return instance_call (core->rootfs, rootfs, mount, &spec, &worker->mount, err);
}

static int
start_container (struct worker *worker, const char *root, struct silo_error *err)
{
	struct core *core = worker->engine->core;
	const struct silo_image *image = worker_image (worker);
	char token[sizeof (worker->token) + 16], mark[sizeof (worker->mark) + 16];
	char bridge[4096];
	struct run_as as;

	int r = run_as_read (core, image, 4, &as, err);
	if (r < 0)
		return r;
	snprintf (token, sizeof (token), "SILO_TOKEN=%s", worker->token);
	snprintf (mark, sizeof (mark), "SILO_MARK=%s", worker->mark);
	as.env[as.n_env++] = "SILO_SOCKET=/.silo/bridge/bridge.sock";
	as.env[as.n_env++] = token;
	as.env[as.n_env++] = mark;
	snprintf (bridge, sizeof (bridge), "%s", core->bridge);
	*strrchr (bridge, '/') = 0;

	const struct silo_bind binds[] = {
		{ core->settings->runner, "/.silo/runner", false },
		{ bridge, "/.silo/bridge", false },
	};
	const char *const argv[] = { image->python, "-B", "/.silo/runner/runner.py", NULL };
	struct silo_container_spec spec = {
		.id = worker->id,
		.rootfs = root,
		.argv = argv,
		.env = as.env,
		.cwd = as.cwd,
		.uid = as.uid,
		.gid = as.gid,
		.hostname = "silo",
		.binds = binds,
		.n_binds = ARRAY_SIZE (binds),
		.memory = core->settings->memory,
		.cpu = core->settings->cpu,
		.pids = core->settings->pids,
	};
	worker->has_container = true;
	r = instance_call (core->container, container, start, &spec, &worker->process, err);
	run_as_free (&as);
	return r;
}

static void
start_work (void *arg)
{
	struct worker *worker = arg;
	char root[sizeof (worker->folder) + 16];
	struct silo_error *err = &worker->error;

	int r = silo_state_path (&worker->engine->core->host, "run/workers", worker->folder,
				 sizeof (worker->folder) - WORKER_ID - 2, err);
	if (r == 0) {
		size_t n = strlen (worker->folder);
		snprintf (worker->folder + n, sizeof (worker->folder) - n, "/%s", worker->id);
		r = start_mount (worker, root, sizeof (root), err);
	}
	worker->stamps[STAMP_MOUNTED] = silo_monotonic ();
	if (r == 0)
		r = start_container (worker, root, err);
	worker->stamps[STAMP_CONTAINER] = silo_monotonic ();
	err->code = r;
}

/* It will never ask for work.  The oldest call that waits for its like hears why; a busy
 * one has its own end. */
static void
start_failed (struct worker *worker, const char *why)
{
	struct engine *engine = worker->engine;

	worker->function->starting--;
	for (struct call *call = engine->queue; call; call = call->queue_next) {
		if (call->function == worker->function) {
			call_fail (call, SILO_OUTCOME_START, worker->status,
				   "the container did not start: %s", why);
			return;
		}
	}
	silo_log (&engine->core->host, SILO_WARN, "worker %s did not start: %s", worker->id, why);
}

static void
startup_late (void *arg)
{
	struct worker *worker = arg;
	char why[120];

	snprintf (why, sizeof (why), "its runner did not connect within %" PRId64 " ms",
		  worker->engine->core->settings->startup_timeout);
	worker->state = WORKER_ENDING;
	start_failed (worker, why);
	worker_timer_kill (worker);
}

static void
start_done (void *arg)
{
	struct worker *worker = arg;
	struct core *core = worker->engine->core;
	struct silo_error *err = &worker->error;

	worker->state = WORKER_BOOTING;
	if (err->code == 0)
		err->code = output_open (worker, err);
	if (err->code == 0)
		err->code = loop_watch (core->loop, &worker->exit_io, worker->process.pidfd,
					EPOLLIN, worker_exited, worker, err);
	if (err->code < 0) {
		worker_dismiss (worker);
		start_failed (worker, err->msg);
		worker_remove (worker);
		return;
	}
	worker_arm (worker, core->settings->startup_timeout, startup_late);
	if (worker->doomed)
		worker_kill (worker);
	else if (worker->next_fn)
		worker_connected (worker);
}

static int
random_hex (char *to, size_t digits, struct silo_error *err)
{
	unsigned char bytes[64];

	assert (digits <= 2 * sizeof (bytes));
	int r = silo_random (bytes, digits / 2, err);
	for (size_t i = 0; r == 0 && i < digits / 2; i++)
		snprintf (to + 2 * i, 3, "%02x", bytes[i]);
	return r;
}

int
worker_new (struct engine *engine, struct function *function, struct silo_error *err)
{
	struct worker *worker = calloc (1, sizeof (*worker));
	if (!worker)
		return silo_fail_nomem (err);

	int r = random_hex (worker->id, WORKER_ID, err);
	if (r == 0)
		r = random_hex (worker->mark, WORKER_MARK, err);
	if (r == 0) {
		snprintf (worker->token, sizeof (worker->token), "%s.", worker->id);
		r = random_hex (worker->token + WORKER_ID + 1, WORKER_TOKEN, err);
	}
	if (r < 0) {
		free (worker);
		return r;
	}
	worker->engine = engine;
	worker->function = function;
	function->refs++;
	function->starting++;
	worker->process = (struct silo_process){ 0, -1, -1, -1 };
	worker->exit_io.fd = -1;
	worker->pin = -1;
	worker->boot_log.max = BOOT_LOG;
	for (int i = 0; i < 2; i++)
		worker->streams[i] =
		    (struct stream){ .worker = worker, .number = i + 1, .fd = -1, .io.fd = -1 };
	worker->stamps[STAMP_SPAWN] = silo_monotonic ();

	worker->next = engine->workers;
	worker->link = &engine->workers;
	if (worker->next)
		worker->next->link = &worker->next;
	engine->workers = worker;
	engine->n_workers++;
	pool_run (engine->core->pool, &worker->job, start_work, start_done, worker);
	return 0;
}

/* -- work ---------------------------------------------------------------------------- */

struct worker *
worker_find (struct engine *engine, const char *token)
{
	size_t len = strlen (token);

	for (struct worker *worker = engine->workers; worker; worker = worker->next)
		if (strncmp (worker->id, token, WORKER_ID) == 0)
			return silo_secret_equal (worker->token, strlen (worker->token), token, len)
				   ? worker
				   : NULL;
	return NULL;
}

void
worker_wants (struct worker *worker, silo_work_fn *fn, void *arg)
{
	struct silo_error err;

	if (worker->next_fn || (worker->call && worker->call->marks < 0)) {
		silo_fail (&err, SILO_ABORTED,
			   "worker %s has a request waiting or a task without result", worker->id);
		fn (arg, NULL, &err);
		return;
	}
	if (worker->state == WORKER_ENDING || worker->state == WORKER_REMOVING) {
		fn (arg, NULL, NULL);
		return;
	}
	worker->next_fn = fn;
	worker->next_arg = arg;
	/* A container can be faster than the word that it has started (STARTING); with a call
	 * it waits for that call's output. */
	if (worker->state == WORKER_BOOTING)
		worker_connected (worker);
	else if (worker->state == WORKER_BUSY && !worker->call)
		worker_idle (worker);
}

void
worker_run (struct worker *worker)
{
	const struct silo_task *task = worker->call->task;
	struct silo_work work = { task->id, task->attempt, task->function, task->args,
				  task->kwargs };
	silo_work_fn *fn = worker->next_fn;

	worker->next_fn = NULL;
	worker->tasks++;
	fn (worker->next_arg, &work, NULL);
}

void
worker_done (struct worker *worker)
{
	if (worker->exited || worker->state != WORKER_BUSY)
		return;
	loop_disarm (worker->engine->core->loop, &worker->mark_timer);
	if (worker->next_fn)
		worker_idle (worker);
	else
		worker_arm (worker, worker->engine->core->settings->kill_grace, worker_timer_kill);
}

/* -- the end ----------------------------------------------------------------------------- */

static void
kill_work (void *arg)
{
	struct worker *worker = arg;
	struct silo_error err;

	/* Gone already is what was wanted. */
	int r = instance_call (worker->engine->core->container, container, kill, worker->id,
			       worker->kill_signal, &err);
	if (r < 0 && r != SILO_NOTFOUND)
		silo_log (&worker->engine->core->host, SILO_WARN, "killing worker %s: %s",
			  worker->id, err.msg);
}

static void
kill_done (void *arg)
{
	struct worker *worker = arg;

	worker->killing = false;
	if (worker->exited)
		worker_remove (worker);
}

static void
worker_signal (struct worker *worker, int sig)
{
	if (worker->killing || worker->exited)
		return;
	worker->killing = true;
	worker->kill_signal = sig;
	pool_run (worker->engine->core->pool, &worker->kill_job, kill_work, kill_done, worker);
}

/* SIGKILL; should the container survive even that, again and again. */
static void
worker_timer_kill (void *arg)
{
	struct worker *worker = arg;

	worker->state = WORKER_ENDING;
	worker_dismiss (worker);
	worker_signal (worker, SIGKILL);
	worker_arm (worker, KILL_AGAIN, worker_timer_kill);
}

void
worker_kill (struct worker *worker)
{
	if (worker->state == WORKER_STARTING) {
		worker->doomed = true;
		return;
	}
	if (worker->exited || worker->state == WORKER_ENDING || worker->state == WORKER_REMOVING)
		return;
	if (worker->state == WORKER_BOOTING)
		worker->function->starting--;
	worker->state = WORKER_ENDING;
	worker_dismiss (worker);
	worker_signal (worker, SIGTERM);
	worker_arm (worker, worker->engine->core->settings->kill_grace, worker_timer_kill);
}

void
worker_end (struct worker *worker)
{
	if (worker->state != WORKER_IDLE) {
		worker_kill (worker);
		return;
	}
	worker->state = WORKER_ENDING;
	worker_dismiss (worker);
	worker_arm (worker, worker->engine->core->settings->kill_grace, worker_timer_kill);
}

static void
crash_text (int status, char *ret, size_t size)
{
	if (status > 128 && status < 128 + NSIG && sigabbrev_np (status - 128))
		snprintf (ret, size, "the process was ended by signal %d (SIG%s)%s", status - 128,
			  sigabbrev_np (status - 128),
			  status == 128 + SIGKILL ? "; out of memory?" : "");
	else
		snprintf (ret, size, "the process exited with status %d before it gave a result",
			  status);
}

static int
reap (struct worker *worker)
{
	siginfo_t info = { 0 };

	if (waitid (P_PIDFD, (id_t) worker->process.pidfd, &info, WEXITED) < 0)
		return 255;
	return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

static void
worker_exited (void *arg, uint32_t events SILO_UNUSED)
{
	struct worker *worker = arg;
	struct loop *loop = worker->engine->core->loop;
	struct call *call = worker->call;
	char text[120];

	worker->status = reap (worker);
	loop_unwatch (loop, &worker->exit_io);
	close (worker->process.pidfd);
	worker->process.pidfd = -1;
	output_drain (worker);
	worker->exited = true;
	output_close (worker);
	loop_disarm (loop, &worker->timer);
	worker_dismiss (worker);

	if (call && call->marks >= 0) {
		call_output_done (call, true);
	} else if (call) {
		worker->call = NULL;
		call->worker = NULL;
		crash_text (worker->status, text, sizeof (text));
		call_fail (call, SILO_OUTCOME_CRASH, worker->status, "%s", text);
	} else if (worker->state == WORKER_BOOTING) {
		struct silo_buf *log = &worker->boot_log;
		while (log->len && strchr (" \n\r\t", log->data[log->len - 1]))
			log->data[--log->len] = 0;
		crash_text (worker->status, text, sizeof (text));
		start_failed (worker, log->len ? (const char *) log->data : text);
	}
	worker_remove (worker);
}

static void
remove_work (void *arg)
{
	struct worker *worker = arg;
	struct core *core = worker->engine->core;
	struct silo_error err;

	if (worker->has_container &&
	    instance_call (core->container, container, remove, worker->id, &err) < 0)
		silo_log (&core->host, SILO_WARN, "removing container %s: %s", worker->id, err.msg);
	if (worker->process.pidfd >= 0) /* started, but could not be watched */
		silo_process_wait (&worker->process, &worker->status, NULL);
	if (worker->mount && instance_call (core->rootfs, rootfs, unmount, worker->mount, &err) < 0)
		silo_log (&core->host, SILO_WARN, "unmounting worker %s: %s", worker->id, err.msg);
	util_close (&worker->pin);
	if (worker->folder[0] && files_remove (worker->folder, &err) < 0)
		silo_log (&core->host, SILO_WARN, "worker %s: %s", worker->id, err.msg);
}

static void
remove_done (void *arg)
{
	struct worker *worker = arg;
	struct engine *engine = worker->engine;

	*worker->link = worker->next;
	if (worker->next)
		worker->next->link = worker->link;
	engine->n_workers--;
	function_unref (engine, worker->function);
	silo_buf_free (&worker->boot_log);
	free (worker->image);
	free (worker);
	engine_dispatch (engine);
	engine_check_quiet (engine);
}

/* Begins when both the process and a kill that is under way are through. */
static void
worker_remove (struct worker *worker)
{
	if (worker->killing)
		return;
	loop_disarm (worker->engine->core->loop, &worker->timer);
	output_close (worker);
	worker->state = WORKER_REMOVING;
	pool_run (worker->engine->core->pool, &worker->job, remove_work, remove_done, worker);
}
