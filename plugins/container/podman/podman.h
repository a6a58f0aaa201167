/* SPDX-License-Identifier: Apache-2.0 */
/*
 * podman.h - what the files of container/podman share.
 *
 *   podman.c   the instance, start, kill, remove, list
 *   args.c     the command line of `podman run`
 *   files.c    podman's settings, a container's environment file and folder
 *   seccomp.c  podman's own seccomp profile, made stricter
 *   probe.c    a trial container
 */
#ifndef PODMAN_H
#define PODMAN_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>
#include <silo/container.h>
#include <silo/log.h>

#define PODMAN_MAGIC  0x706f646du
#define PODMAN_ID_MAX 64
#define PODMAN_PREFIX 24 /* bytes of "silo-<12 hex digits>-" */
#define PODMAN_NAME   (PODMAN_PREFIX + PODMAN_ID_MAX)
#define PODMAN_RUN    50 /* characters that podman accepts as the path of its runroot */
#define PODMAN_PATH   (PATH_MAX - 2 * PODMAN_ID_MAX)

struct podman {
	uint32_t magic;
	struct silo_host *host;

	/* options */
	const char *program;
	const char *runtime;
	const char *seccomp; /* a profile in podman's format; "": podman's own default */

	struct silo_children *children; /* the `podman run` of each container */

	/* fixed by start */
	char prefix[PODMAN_PREFIX]; /* of names and cgroups: tells this state folder from others */
	char folder[PODMAN_PATH];   /* STATE/run/podman */
	char runroot[PODMAN_RUN + 1]; /* FOLDER/runroot, or a link to it in /run */
	char settings[PATH_MAX];      /* CONTAINERS_CONF=FOLDER/containers.conf */
	char storage[PATH_MAX];       /* CONTAINERS_STORAGE_CONF=FOLDER/storage.conf */
	struct silo_error profile;    /* why there is no seccomp profile; code 0: there is */
};

/* A growing argv; add what does not fit into memory and `failed` says so at the end. */
struct args {
	char **item; /* NULL-terminated */
	size_t n;
	bool failed;
};

void args_add (struct args *args, const char *fmt, ...) SILO_PRINTF (2, 3);
void args_free (struct args *args);
/* The program and the options that every command needs. */
void args_common (struct args *args, const struct podman *podman);
/* All of `podman run`. */
int args_run (struct args *args, const struct podman *podman,
	      const struct silo_container_spec *spec, struct silo_error *err);

/* FOLDER/containers.conf and FOLDER/storage.conf */
int files_settings (const struct podman *podman, struct silo_error *err);
/* FOLDER/ID.env, SILO_EXISTS when it is there: the environment must not be seen in any argv. */
int files_env (const struct podman *podman, const struct silo_container_spec *spec,
	       struct silo_error *err);
/* Make spec->cwd in the root, whatever links the image has. */
int files_cwd (const struct silo_container_spec *spec, struct silo_error *err);
void files_name (const struct podman *podman, const char *id, const char *suffix,
		 char ret[PATH_MAX]);
/* `flags`: O_TRUNC or O_EXCL */
int files_write (const char *path, int flags, const char *text, struct silo_error *err);

/* FOLDER/seccomp.json */
int seccomp_write (const struct podman *podman, struct silo_error *err);

int podman_start (void *self, const struct silo_container_spec *spec, struct silo_process *ret,
		  struct silo_error *err);
int podman_remove (void *self, const char *id, struct silo_error *err);
int podman_probe (void *self, struct silo_error *err);

static inline void
podman_close (int *fd)
{
	if (*fd >= 0)
		close (*fd);
}
#define _cleanup_close_ SILO_CLEANUP (podman_close)

#endif
