/* SPDX-License-Identifier: Apache-2.0 */
/*
 * silo/host.h - what the core does for every plugin: where state lives, and
 * starting processes (nothing else in the daemon may fork).
 */
#ifndef SILO_HOST_H
#define SILO_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <silo/bytes.h>

#ifdef __cplusplus
extern "C" {
#endif

struct silo_host;

/* The state folder (absolute, exists, mode 0700); all that Silo writes is
 * below it.  `run/` in it is emptied when the daemon starts. */
SILO_API const char *silo_state (struct silo_host *host);

/* state folder + "/" + rel; SILO_RANGE when it does not fit into `size`.  An
 * absolute `rel` is copied as it is. */
SILO_API int silo_state_path (struct silo_host *host, const char *rel, char *ret, size_t size,
			      struct silo_error *err);

/* The section's name, "container.crun". */
SILO_API const char *silo_host_name (struct silo_host *host);

/* A process to start.  Signals are at their defaults and unblocked in it, and
 * only descriptors 0, 1 and 2 are open. */
struct silo_spawn {
	const char *const *argv; /* argv[0] is searched in PATH unless it holds a slash */
	const char *const *env;  /* NULL: the daemon's own environment */
	const char *cwd;         /* NULL: "/" */
	int in;                  /* descriptor to become stdin; -1: /dev/null.  Never closed here */
	bool out;                /* make a pipe for stdout, else /dev/null */
	bool err;                /* make a pipe for stderr, else /dev/null */
	bool session;            /* give it a session of its own (setsid) */
};

/* A started process.  pidfd becomes readable when it ends; whoever holds the
 * struct reaps it with silo_process_wait and closes what is >= 0. */
struct silo_process {
	pid_t pid;
	int pidfd;
	int out; /* read end of its stdout, or -1; not O_NONBLOCK */
	int err; /* read end of its stderr, or -1 */
};

SILO_API int silo_spawn (const struct silo_spawn *spawn, struct silo_process *ret,
			 struct silo_error *err);

/* Wait for its end (blocks), reap it and close all its descriptors.
 * *ret_status: exit code 0..255, or 128 + signal. */
SILO_API int silo_process_wait (struct silo_process *process, int *ret_status,
				struct silo_error *err);

/* Run a tool to its end.  stdout goes to `out` (NULL: thrown away); a non-zero
 * exit is SILO_INTERNAL with the last line of its stderr in the message.  More
 * than timeout_ms (0: none) ends it with SILO_TIMEOUT. */
SILO_API int silo_run (const char *const *argv, const char *const *env, int timeout_ms,
		       struct silo_buf *out, struct silo_error *err);

#ifdef __cplusplus
}
#endif
#endif
