/* SPDX-License-Identifier: Apache-2.0 */
/*
 * silo/task.h - a task (one call of a function), its result, and the records
 * that storage keeps of them.  Flat data: strings are UTF-8 and never NULL
 * once the core has seen them ("" is "none").
 */
#ifndef SILO_TASK_H
#define SILO_TASK_H

#include <stdbool.h>
#include <stdint.h>
#include <silo/bytes.h>

#ifdef __cplusplus
extern "C" {
#endif

enum silo_task_flags {
	/* Runs on when its caller goes away, and is run again after a restart. */
	SILO_TASK_DETACHED = 1u << 0,
	/* Stored only: its result is posted from outside (POST /api/results/ID). */
	SILO_TASK_EXTERNAL = 1u << 1,
};

enum silo_task_state {
	SILO_TASK_QUEUED = 0,
	SILO_TASK_RUNNING = 1,
	SILO_TASK_DONE = 2, /* has a result, good or bad */
};

struct silo_task {
	int64_t id;                         /* > 0, given by storage */
	const char *name;                   /* the function's name */
	struct silo_digest function;        /* SHA-256 of its cloudpickle bytes */
	const char *image;                  /* name of the image it runs in */
	const char *python;                 /* caller's Python "3.11"; "": unknown, not checked */
	const char *source;                 /* source text, for people; "" if unknown */
	struct silo_bytes args;             /* pickled tuple */
	struct silo_bytes kwargs;           /* pickled dict */
	uint32_t flags;                     /* enum silo_task_flags */
	int64_t timeout_ms;                 /* per attempt; 0: the default */
	int32_t state;                      /* enum silo_task_state */
	int32_t attempt;                    /* number of the newest attempt, from 1; 0: none yet */
	int64_t created, started, finished; /* 0: not yet */
};

/* How a task ended.  Appended only; names from silo_outcome_name. */
enum silo_outcome {
	SILO_OUTCOME_SUCCESS = 0,    /* "success": value holds the pickled result */
	SILO_OUTCOME_EXCEPTION = 1,  /* "exception": user code raised; exception may be empty when
					 * it could not be pickled */
	SILO_OUTCOME_EXIT = 2,       /* "exit": user code called sys.exit; see exit_code */
	SILO_OUTCOME_CRASH = 3,      /* "crash": the process died; exit_code is 128 + signal or
					 * what it exited with */
	SILO_OUTCOME_TIMEOUT = 4,    /* "timeout" */
	SILO_OUTCOME_CANCELLED = 5,  /* "cancelled" */
	SILO_OUTCOME_START = 6,      /* "start": the container did not start */
	SILO_OUTCOME_BAD_CODE = 7,   /* "bad_code": the function or arguments do not unpickle */
	SILO_OUTCOME_BAD_RESULT = 8, /* "bad_result": what it returned cannot be pickled */
	SILO_OUTCOME_VERSION = 9,    /* "version": Python of caller and image differ */
	SILO_OUTCOME_NO_IMAGE = 10,  /* "no_image": the image is not indexed */
	SILO_OUTCOME_NO_PYTHON = 11, /* "no_python": the image has no Python */
	SILO_OUTCOME_NO_CODE = 12,   /* "no_code": the daemon has no function of this digest; send
					 * the code along */
	SILO_OUTCOME_MISSING_MODULE = 13, /* "missing_module": an import failed in the container */
	SILO_OUTCOME_LOST = 14,           /* "lost": the daemon stopped while it ran */
	SILO_OUTCOME_OOM = 15,            /* "oom": out of memory */
	SILO_OUTCOME_INVALID = 16,        /* "invalid": the request was refused */
	SILO_OUTCOME_EXHAUSTED = 17,      /* "exhausted": a limit of the daemon's */
	SILO_OUTCOME_INTERNAL = 18,       /* "internal": our fault; message says what */
	SILO_OUTCOME_COUNT
};

SILO_API const char *silo_outcome_name (int outcome); /* "internal" for unknown ones */
SILO_API int silo_outcome_parse (const char *name);   /* -1: unknown */
SILO_API int silo_outcome_code (int outcome);         /* the SILO_ code that fits it best */

struct silo_result {
	int32_t outcome;             /* enum silo_outcome */
	int32_t exit_code;           /* EXIT, CRASH */
	struct silo_bytes value;     /* SUCCESS: pickled result */
	struct silo_bytes exception; /* EXCEPTION: pickled exception, may be empty */
	const char *type;            /* EXCEPTION: "ValueError", qualified by its module */
	const char *message;         /* one line for people */
	const char *traceback;       /* EXCEPTION: as Python prints it */
	struct silo_bytes out;       /* stdout, the first part of it up to the kept limit */
	struct silo_bytes err;       /* stderr, likewise */
	bool truncated;              /* out or err were cut */
	const char *timeline;        /* JSON object: step -> nanoseconds after `created` */
};

/* What storage gives back. */
struct silo_record {
	struct silo_task task;
	const struct silo_result *result; /* NULL: none yet */
	struct silo_bytes code; /* of the function; filled in by silo_task_read, never by storage;
				 * empty when unknown */
};

/* A function by the name it was last sent under. */
struct silo_function {
	const char *name;
	struct silo_digest digest;
	const char *image;
	const char *python;
	const char *source;
	int64_t timeout_ms;
};

#ifdef __cplusplus
}
#endif
#endif
