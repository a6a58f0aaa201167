/* SPDX-License-Identifier: Apache-2.0 */
/*
 * silo/container.h - the container kind: runs one process tree, isolated, in a
 * mounted root file system.
 *
 * Every container gets: no network but its own loopback, no new privileges,
 * the capabilities that podman leaves, the default seccomp profile, its own
 * pid, mount, ipc and uts namespaces, /proc, /dev, /sys read-only, /tmp and
 * /dev/shm as tmpfs, resource limits; none of the host's environment and no
 * descriptor but 0, 1 and 2.
 */
#ifndef SILO_CONTAINER_H
#define SILO_CONTAINER_H

#include <stdbool.h>
#include <stdint.h>
#include <silo/host.h>
#include <silo/plugin.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A host path bound into the container: a file, a folder or a socket. */
struct silo_bind {
	const char *source; /* absolute, on the host */
	const char *target; /* absolute, in the container; made if missing */
	bool writable;      /* else read-only, nosuid, nodev */
};

struct silo_container_spec {
	const char *id;          /* [a-z0-9-]{1,64}, unique among live containers */
	const char *rootfs;      /* absolute path of the mounted root */
	bool readonly;           /* mount the root read-only */
	const char *const *argv; /* argv[0] is an absolute path in the container, or searched
				  * in the PATH of env */
	const char *const *env;  /* "A=b", NULL-terminated: all of its environment */
	const char *cwd;         /* absolute, in the container; made if missing */
	uint32_t uid, gid;
	const char *hostname;
	const struct silo_bind *binds;
	size_t n_binds;
	int64_t memory; /* bytes; 0: no limit */
	int64_t cpu;    /* thousandths of a processor; 0: no limit */
	int64_t pids;   /* processes and threads; 0: no limit */
};

typedef int silo_container_fn (void *arg, const char *id);

struct silo_container_ops {
	/* required: can this machine do it?  Tries it.  SILO_UNIMPLEMENTED says why not. */
	int (*probe) (void *self, struct silo_error *err);
	/* required: start it with stdin from /dev/null and stdout and stderr as pipes.  The
	 * process in *ret lives as long as the container and ends with its status (0..255, or
	 * 128 + signal).  A container that could not be started may show only as a process
	 * that ends with a message on stderr. */
	int (*start) (void *self, const struct silo_container_spec *spec, struct silo_process *ret,
		      struct silo_error *err);
	/* required: send a signal to its first process.  SILO_NOTFOUND when it is gone. */
	int (*kill) (void *self, const char *id, int sig, struct silo_error *err);
	/* required: end it if it lives (SIGKILL) and remove everything of it: processes,
	 * cgroups, bundle.  Removing what is not there succeeds. */
	int (*remove) (void *self, const char *id, struct silo_error *err);
	/* required: ids of all containers of this state folder, also those that an earlier
	 * daemon left behind */
	int (*list) (void *self, silo_container_fn *fn, void *arg, struct silo_error *err);
	/* optional: freeze and thaw */
	int (*pause) (void *self, const char *id, struct silo_error *err);
	int (*resume) (void *self, const char *id, struct silo_error *err);
};

/* -- tools for container plugins ---------------------------------------------- */

/* A container is found again after any crash by its cgroups, which have one name, directly
 * below the root, in every hierarchy (cgroups v1) or in the one tree (v2). */

/* Its first process: pid 1 of its pid namespace.  SILO_NOTFOUND when nothing runs. */
SILO_API int silo_cgroup_first (const char *name, pid_t *ret_pid, int *ret_pidfd,
				struct silo_error *err);
/* SIGKILL for everything in it; returns when nothing of it runs. */
SILO_API int silo_cgroup_kill (const char *name, struct silo_error *err);
/* Remove the cgroups, in which nothing runs any more. */
SILO_API int silo_cgroup_remove (const char *name, struct silo_error *err);
/* All whose name starts with `prefix`; fn is given what follows it, perhaps more than once. */
SILO_API int silo_cgroup_list (const char *prefix, silo_container_fn *fn, void *arg,
			       struct silo_error *err);
/* One tree (v2), or one for each controller? */
SILO_API bool silo_cgroup_v2 (void);
/* Can swap be limited? */
SILO_API bool silo_cgroup_swap (void);

/* The programs that have started containers and live as long as they do, by container id; the
 * core reaps them.  All of it may be called from several threads. */
struct silo_children;
SILO_API int silo_children_new (struct silo_children **ret, struct silo_error *err);
SILO_API void silo_children_free (struct silo_children *children);
/* `pidfd` is borrowed. */
SILO_API int silo_children_add (struct silo_children *children, const char *id, int pidfd,
				struct silo_error *err);
/* false: it has ended or was never added */
SILO_API bool silo_children_signal (struct silo_children *children, const char *id, int sig);
/* SIGKILL if it lives, wait until it is gone, forget it.  Also when it was never added. */
SILO_API int silo_children_end (struct silo_children *children, const char *id,
				struct silo_error *err);

#ifdef __cplusplus
}
#endif
#endif
