/* SPDX-License-Identifier: Apache-2.0 */
/*
 * container.h - the suite of the container kind, in four files.
 *
 *   container.c         the root file system, helpers, the order of checks
 *   container-inside.c  what a container is given and what it may do
 *   container-limits.c  memory, processes, processor
 *   container-life.c    kill, remove, list, after crashes, many at once
 */
#ifndef CONFORM_CONTAINER_H
#define CONFORM_CONTAINER_H

#include "conform.h"
#include "tap.h"

#include <limits.h>
#include <signal.h>

#define BOX_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* The whole run.  Its ids start with `mark`, and so does every process's last argument: whatever
 * is left of a container can be told from other programs on this machine. */
struct run {
	struct conform *c;
	char root[PATH_MAX]; /* a Debian tree, writable */
	char mark[32];
	unsigned next; /* atomic: the number in the next id */
};

/* One container. */
struct box {
	char id[65];
	struct silo_container_spec spec; /* change it between box_init and box_start */
	const char *argv[6];
	struct silo_process process;
	struct silo_buf out, text; /* stdout, stderr */
	int status;
};

/* A box that will run a shell script. */
void box_init (struct box *box, struct run *run, const char *script);
/* The same with another program; NULL-terminated, four words at most. */
void box_argv (struct box *box, const char *const *argv);
int box_start (struct box *box, struct run *run, struct silo_error *err);
/* Read until stdout has said `text`; false when it ends before. */
bool box_expect (struct box *box, const char *text);
/* Read everything, wait for the end; the status. */
int box_wait (struct box *box);
int box_kill (struct box *box, struct run *run, int sig);
int box_remove (struct box *box, struct run *run);
void box_free (struct box *box);

/* Start, wait, remove.  -1 when it does not even start. */
int box_run (struct box *box, struct run *run);
/* That with a script, and check of status and stdout. */
bool run_is (struct run *run, const char *script, int status, const char *out, const char *what);

/* Is anything left of containers whose id starts with `id`: processes, cgroups, files?  Says
 * what. */
bool nothing_left (struct run *run, const char *id);
/* Does `instance` list a container? */
bool is_listed (struct silo_instance *instance, const char *id);

void test_inside (struct run *run);
void test_limits (struct run *run);
void test_life (struct run *run);
/* Role of another process: start one container, say so, wait to be killed. */
int life_crash (struct run *run);

#endif
