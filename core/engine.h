/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engine.h - calls and the workers that run them.  The loop thread owns all of
 * it; what a pool job may touch while it runs is said at the field.
 *
 *   bridge.c   the functions offered to transports: copy, post to the loop
 *   call.c     a call's way, one list of steps
 *   engine.c   which call gets which worker; start-up and draining
 *   worker.c   a container's life: mount, start, idle, end, remove
 *   output.c   its two pipes: from bytes to OUTPUT events, marks
 *   recover.c  what an earlier daemon left behind
 */
#ifndef ENGINE_H
#define ENGINE_H

#include <stdatomic.h>
#include "core.h"

struct call;
struct worker;

/* A function in an image: calls of the same one share workers. */
struct function {
	struct function *next;
	struct silo_digest code;
	struct image_copy *image;
	unsigned refs; /* calls and workers */
	int waiting;   /* calls in the queue */
	int starting;  /* workers that have not asked for work yet */
};

struct engine {
	struct core *core;
	atomic_int n_calls;    /* any thread may read; changed when a call is made and freed */
	atomic_bool draining;  /* refuse new calls */
	atomic_ullong numbers; /* the last call number given */

	struct call *calls;         /* all of them, newest first */
	struct call *queue, **tail; /* those that wait for a worker, oldest first */
	struct function *functions;
	struct worker *workers;
	int n_workers, max_workers;
	int64_t started; /* silo_now () */

	struct names *names; /* names.c: what functions were last sent under which name */
	loop_fn *quiet;      /* while draining: called once when no call and no worker is left */
	void *quiet_arg;
	struct loop_timer drain_timer;
};

/* -- call.c ----------------------------------------------------------------- */

enum call_step { CALL_ACCEPT, CALL_WORKER, CALL_START, CALL_RUN, CALL_FINISH, CALL_REPLY };

/* Moments of a call, in order; nanoseconds on silo_monotonic, 0: did not happen. */
enum call_stamp {
	STAMP_SUBMIT,    /* a transport has handed it in */
	STAMP_STORED,    /* storage has it: not lost any more */
	STAMP_SPAWN,     /* a new worker was begun for it */
	STAMP_MOUNTED,   /* its root file system is there */
	STAMP_CONTAINER, /* its process is started */
	STAMP_CONNECTED, /* its runner asked for work */
	STAMP_RUN,       /* the task was handed to a worker */
	STAMP_CODE,      /* the worker fetched the function's code */
	STAMP_RESULT,    /* it posted the result */
	STAMP_OUTPUT,    /* all output before it was read */
	STAMP_COUNT
};

struct call {
	struct engine *engine;
	struct call *next, **link;             /* in engine->calls */
	struct call *queue_next, **queue_link; /* in engine->queue; link NULL: not in it */
	uint64_t number;
	enum call_step step;
	bool busy;      /* a pool job has it: only the job may touch task, code and error */
	bool cancelled; /* the caller gave up */
	bool stored;
	bool hold;      /* no OUTPUT now */
	bool abandoned; /* the daemon stops: leave it unfinished in storage */

	struct silo_task *task; /* owned copy */
	void *code;             /* owned; freed once stored */
	size_t code_len;
	silo_event_fn *fn; /* NULL: nobody listens (any more) */
	void *arg;

	struct function *function;
	struct worker *worker;      /* from CALL_START until it has the result */
	struct image_copy *image;   /* from CALL_ACCEPT */
	struct silo_result *result; /* set: on its way to CALL_FINISH */
	int marks;                  /* output streams that end with a mark; -1: no result yet */
	struct silo_buf out, err;   /* kept output */
	bool truncated;
	int64_t stamps[STAMP_COUNT];
	struct loop_timer deadline;
	struct pool_job job;
	struct silo_error error; /* of the job */
	int outcome;             /* of the job, when it fails */
	struct loop_post post;
};

/* [any] A new call, not yet known to the engine; task and code are copied. */
int call_new (struct engine *engine, const struct silo_task *task, struct silo_bytes code,
	      silo_event_fn *fn, void *arg, struct call **ret, struct silo_error *err);
void call_free (struct call *call); /* [any] only before call_begin */
/* From now on it is the engine's.  `stored` is set for a task of an earlier daemon. */
void call_begin (struct call *call);
void call_cancel (struct call *call);
/* It has this worker now. */
void call_given (struct call *call, struct worker *worker);
/* End it with a result of our own making; ignored when it has one. */
void call_fail (struct call *call, int outcome, int exit_code, const char *fmt, ...)
    SILO_PRINTF (4, 5);
/* The worker's result; its end waits for the marks. */
void call_result (struct call *call, struct silo_result *result, int marks);
void call_output (struct call *call, int stream, const void *data, size_t len);
/* Called when marks came in, a stream ended or the wait for them is over. */
void call_output_done (struct call *call, bool all);
struct call *call_find (struct engine *engine, uint64_t number);
struct call *call_find_task (struct engine *engine, int64_t task);
void call_set_hold (struct call *call, bool hold);

/* -- engine.c ----------------------------------------------------------------- */

int engine_new (struct core *core, struct engine **ret, struct silo_error *err);
void engine_free (struct engine *engine);
int function_get (struct engine *engine, const struct silo_digest *code,
		  const struct image_copy *image, struct function **ret, struct silo_error *err);
void function_unref (struct engine *engine, struct function *function);
void engine_enqueue (struct engine *engine, struct call *call);
void engine_dequeue (struct engine *engine, struct call *call);
/* Give waiting calls to idle workers and start workers for the others. */
void engine_dispatch (struct engine *engine);
/* Refuse new calls; `quiet` comes when all has ended, at the latest some time after `ms`. */
void engine_drain (struct engine *engine, int64_t ms, loop_fn *quiet, void *arg);
void engine_check_quiet (struct engine *engine);

/* -- names.c -------------------------------------------------------------------- */

/* Which function was last sent under a name, so that storage is written only when that
 * changes.  Any thread. */
int names_new (struct names **ret, struct silo_error *err);
void names_free (struct names *names);
/* [pool] Store the code of `task` (if given) and its name; SILO_NOTFOUND when no code is given
 * and none is stored. */
int names_store (struct core *core, struct names *names, const struct silo_task *task,
		 struct silo_bytes code, struct silo_error *err);
/* [pool] Read a function record and hand it on. */
int names_read (struct core *core, const char *name, silo_function_reply_fn *fn, void *arg,
		struct silo_error *err);

/* -- worker.c -------------------------------------------------------------------- */

enum worker_state {
	WORKER_STARTING, /* a pool job mounts and starts */
	WORKER_BOOTING,  /* the process runs, the runner has not asked for work yet */
	WORKER_BUSY,     /* has a call, or has not asked again after one */
	WORKER_IDLE,     /* asks for work */
	WORKER_ENDING,   /* told to go, or killed */
	WORKER_REMOVING, /* the process is gone; a pool job removes the rest */
};

#define WORKER_ID    12 /* hex digits */
#define WORKER_TOKEN 64 /* hex digits after "ID." */
#define WORKER_MARK  32 /* hex digits */

struct stream {
	struct worker *worker;
	int number; /* 1 stdout, 2 stderr */
	int fd;     /* -1: ended */
	struct loop_io io;
	int marks; /* since the current call began */
	size_t n_carry;
	char carry[WORKER_MARK + 2]; /* what may be the beginning of a mark */
};

struct worker {
	struct engine *engine;
	struct worker *next, **link;
	enum worker_state state;
	struct function *function;
	struct call *call;
	int64_t tasks; /* that it was given */

	char id[WORKER_ID + 1];
	char token[WORKER_ID + 1 + WORKER_TOKEN + 1];
	char mark[WORKER_MARK + 1];

	/* the pool's while STARTING and REMOVING */
	char folder[4096];
	int pin;                  /* keeps the image's files; -1: none */
	struct image_copy *image; /* its record, where that is newer than the function's */
	void *mount;
	bool has_container;
	struct silo_process process;
	int64_t stamps[STAMP_COUNT];

	int status; /* of the process, once it has ended */
	bool exited;
	struct loop_io exit_io;
	struct stream streams[2];
	silo_work_fn *next_fn; /* its waiting request for work */
	void *next_arg;
	struct silo_buf boot_log; /* the first output of a worker without a call */
	struct loop_timer timer;  /* startup, idle or kill, by state */
	struct loop_timer mark_timer;
	struct pool_job job, kill_job;
	bool killing; /* kill_job is under way */
	int kill_signal;
	bool doomed; /* to be killed as soon as it has started */
	struct silo_error error;
};

/* Begin one; it counts from now on. */
int worker_new (struct engine *engine, struct function *function, struct silo_error *err);
/* Hand the task of worker->call over; the worker is IDLE. */
void worker_run (struct worker *worker);
/* Its call is over.  A worker that has not asked for work again is BUSY until it does. */
void worker_done (struct worker *worker);
/* It is not wanted any more: ask an idle one to go, kill another. */
void worker_end (struct worker *worker);
void worker_kill (struct worker *worker);
struct worker *worker_find (struct engine *engine, const char *token);
/* The requests of its runner. */
void worker_wants (struct worker *worker, silo_work_fn *fn, void *arg);
const char *worker_state_name (enum worker_state state);

/* -- output.c ---------------------------------------------------------------------- */

int output_open (struct worker *worker, struct silo_error *err);
void output_close (struct worker *worker);
/* A call begins: forget the marks of the one before. */
void output_begin (struct worker *worker);
void output_hold (struct worker *worker, bool hold);
/* A result has come: its marks may take a moment, but not for ever. */
void output_await (struct worker *worker);
/* The process is gone: read what is left. */
void output_drain (struct worker *worker);

/* -- recover.c [pool] ---------------------------------------------------------------- */

/* Remove containers and run/ of an earlier daemon. */
int recover_clean (struct core *core, struct silo_error *err);
/* Settle its unfinished tasks: detached ones are run again, the others are lost. */
int recover_tasks (struct core *core, struct silo_error *err);

#endif
