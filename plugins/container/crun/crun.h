/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crun.h - what the files of container/crun share.
 *
 *   crun.c     the instance, start, kill, remove, list
 *   config.c   what a container is: the bundle's config.json
 *   seccomp.c  system calls that no container may make
 *   orphan.c   a crun process that an earlier daemon has left
 *   bundle.c   folders below STATE/run
 *   probe.c    a trial container
 */
#ifndef CRUN_H
#define CRUN_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>
#include <silo/container.h>
#include <silo/log.h>

#define CRUN_MAGIC  0x6372756eu
#define CRUN_ID_MAX 64
#define CRUN_PREFIX 24 /* bytes of "silo-<12 hex digits>-" */
#define CRUN_GROUP  (CRUN_PREFIX + CRUN_ID_MAX)
#define CRUN_PATH   (PATH_MAX - 2 * CRUN_ID_MAX)

struct crun {
	uint32_t magic;
	struct silo_host *host;

	/* options */
	const char *program;
	bool seccomp;

	/* fixed by start */
	char prefix[CRUN_PREFIX]; /* of the cgroups' names: tells this state folder from others */
	char bundles[CRUN_PATH];  /* STATE/run/crun: a folder with config.json for each */
	char states[CRUN_PATH];   /* STATE/run/crun-state: crun's own notes */

	struct silo_children *children; /* the `crun run` of each container */
};

/* Write bundle/config.json. */
int config_write (const struct crun *crun, const struct silo_container_spec *spec,
		  const char *bundle, struct silo_error *err);

/* The linux.seccomp object of config.json; NULL when memory is out. */
struct json_t *seccomp_new (void);

/* End the `crun run` of an earlier daemon. */
int orphan_end (const char *group, const char *bundle, struct silo_error *err);

/* Folders below STATE/run. */
int bundle_make (const char *path, struct silo_error *err);
int bundle_delete (const char *path, struct silo_error *err);
int bundle_list (const char *path, silo_container_fn *fn, void *arg, struct silo_error *err);

int crun_start (void *self, const struct silo_container_spec *spec, struct silo_process *ret,
		struct silo_error *err);
int crun_remove (void *self, const char *id, struct silo_error *err);
int crun_probe (void *self, struct silo_error *err);

static inline void
crun_close (int *fd)
{
	if (*fd >= 0)
		close (*fd);
}
#define _cleanup_close_ SILO_CLEANUP (crun_close)

#endif
