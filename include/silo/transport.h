/* SPDX-License-Identifier: Apache-2.0 */
/*
 * silo/transport.h - the transport kind, and what the core offers to it: the
 * caller's face (submit, cancel, queries) and the worker's face (the bridge).
 *
 * Offered functions never block and may be called from any thread: they copy
 * what they need once and post to the core's loop.  Callbacks run on one of
 * the core's threads, must not block either, and get data that is borrowed
 * for the length of the callback.  Every callback that is documented to come
 * comes exactly once, also while the daemon stops.
 */
#ifndef SILO_TRANSPORT_H
#define SILO_TRANSPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <silo/plugin.h>
#include <silo/task.h>

#ifdef __cplusplus
extern "C" {
#endif

struct silo_transport_ops {
	/* required: everything is ready, begin to accept.  (start, before it, has bound the
	 * addresses, so that "address in use" stops the daemon before it does anything.) */
	int (*listen) (void *self, struct silo_error *err);
	/* required: accept no new calls from now on; those in flight go on until `stop`, which
	 * comes when they have ended or the grace period has */
	void (*drain) (void *self);
};

/* -- addresses -------------------------------------------------------------- */

/* A socket that listens, made from one word of a `listen` option. */
struct silo_listener {
	int fd;         /* not blocking, close-on-exec; -1: none (any more) */
	bool local;     /* a unix socket: the mode of its file says who may connect */
	bool loopback;  /* only this machine can reach it; true for unix sockets */
	char name[160]; /* "127.0.0.1:50051", "unix:/var/lib/silo/grpc.sock", for messages */
	char path[108]; /* of the unix socket; "" for others */
};

/* Bind and listen on "HOST:PORT", "[IPV6]:PORT", "*:PORT" (every address) or "unix:PATH" (PATH
 * may start at the state folder).  HOST may be a name: its first address is taken; port 0 lets
 * the kernel choose, `name` tells.  The file of a unix socket gets `mode` and replaces a socket
 * that nobody listens on any more.  A TCP address that is not loopback is refused unless
 * `exposed` says that the transport lets nobody in without a key and encrypts, or that the
 * operator wants it so. */
SILO_API int silo_listen (struct silo_host *host, const char *address, mode_t mode, bool exposed,
			  struct silo_listener *ret, struct silo_error *err);
/* Close it, unless fd is -1, and remove the file of a unix socket. */
SILO_API void silo_listener_close (struct silo_listener *listener);

/* -- the caller's face -------------------------------------------------- */

enum silo_event_type {
	SILO_EVENT_ACCEPTED = 1, /* stored; `task` is its id */
	SILO_EVENT_OUTPUT = 2,   /* bytes that the function wrote */
	SILO_EVENT_RESULT = 3,   /* the end; the last event of every call that is not detached */
};

struct silo_event {
	enum silo_event_type type;
	int64_t task;                     /* 0 in a RESULT that was refused before it was stored */
	int stream;                       /* OUTPUT: 1 stdout, 2 stderr */
	struct silo_bytes data;           /* OUTPUT */
	const struct silo_result *result; /* RESULT */
};

typedef void silo_event_fn (void *arg, const struct silo_event *event);

/* Submit a task.  id, state, attempt and the times in *task are ignored.  `code` may be empty
 * when the daemon is believed to have it (else SILO_OUTCOME_NO_CODE comes back).  If it is
 * given, its SHA-256 must equal task->function; an all-zero task->function is filled in.
 *
 * Events: ACCEPTED, any number of OUTPUT, RESULT.  A task with SILO_TASK_DETACHED or
 * SILO_TASK_EXTERNAL gets ACCEPTED as its last event, or only RESULT when it was refused.
 * Fails (SILO_INVALID, SILO_EXHAUSTED, SILO_UNAVAILABLE while stopping) before anything was
 * stored: then no event comes.  *ret_call names the call below until its last event. */
SILO_API int silo_submit (struct silo_host *host, const struct silo_task *task,
			  struct silo_bytes code, silo_event_fn *fn, void *arg, uint64_t *ret_call,
			  struct silo_error *err);
/* The caller has gone or has given up: stop the task.  Its RESULT still comes. */
SILO_API void silo_cancel (struct silo_host *host, uint64_t call);
/* Stop (true) and resume (false) OUTPUT of a call: for callers that read slowly.  What the
 * function writes meanwhile waits in its pipe. */
SILO_API void silo_hold_output (struct silo_host *host, uint64_t call, bool hold);

/* One task with its result; record NULL and err set when there is none. */
typedef void silo_task_reply_fn (void *arg, const struct silo_record *record,
				 const struct silo_error *err);
SILO_API void silo_task_read (struct silo_host *host, int64_t id, silo_task_reply_fn *fn,
			      void *arg);
/* The result of a SILO_TASK_EXTERNAL task.  err is NULL on success; SILO_EXISTS when it has
 * one, SILO_DENIED when it is not an external task. */
typedef void silo_done_fn (void *arg, const struct silo_error *err);
SILO_API void silo_task_answer (struct silo_host *host, int64_t id, struct silo_bytes value,
				silo_done_fn *fn, void *arg);
/* The function last sent under this name. */
typedef void silo_function_reply_fn (void *arg, const struct silo_function *function,
				     const struct silo_error *err);
SILO_API void silo_function_read (struct silo_host *host, const char *name,
				  silo_function_reply_fn *fn, void *arg);

/* -- the worker's face: the bridge --------------------------------------- */

/* A transport that serves workers says so in `start`: the unix socket (absolute path) on which
 * it does.  The socket is bound into every container.  One transport of a daemon has to. */
SILO_API int silo_bridge_offer (struct silo_host *host, const char *socket_path,
				struct silo_error *err);

struct silo_work {
	int64_t task;
	int32_t attempt;
	struct silo_digest function;
	struct silo_bytes args, kwargs;
};

/* The worker that knows `token` (text) asks for its next task.  fn: work set; or both NULL:
 * there will be none, exit; or err (SILO_UNAUTHENTICATED: no such token; SILO_ABORTED: the
 * worker has another request waiting). */
typedef void silo_work_fn (void *arg, const struct silo_work *work, const struct silo_error *err);
SILO_API void silo_worker_next (struct silo_host *host, const char *token, silo_work_fn *fn,
				void *arg);
/* The code of the function that this worker runs, and no other. */
typedef void silo_code_fn (void *arg, struct silo_bytes code, const struct silo_error *err);
SILO_API void silo_worker_code (struct silo_host *host, const char *token,
				const struct silo_digest *function, silo_code_fn *fn, void *arg);
/* The result of an attempt of its own.  Of *result only outcome, exit_code, value, exception,
 * type, message and traceback are looked at.  `marks`: how many of the two output streams
 * the worker has ended with its mark. */
SILO_API void silo_worker_result (struct silo_host *host, const char *token, int64_t task,
				  int32_t attempt, const struct silo_result *result, int marks,
				  silo_done_fn *fn, void *arg);

#ifdef __cplusplus
}
#endif
#endif
