/* SPDX-License-Identifier: Apache-2.0 */
/*
 * args.c - the command line of podman.  Everybody on the machine can read it:
 * nothing of a container's environment is in it.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include "podman.h"

#define NOFILE 1024 /* soft limit; select () breaks above it */

void
args_add (struct args *args, const char *fmt, ...)
{
	char **item = realloc (args->item, (args->n + 2) * sizeof (*item));
	char *text = NULL;
	va_list ap;

	if (!item) {
		args->failed = true;
		return;
	}
	args->item = item;
	va_start (ap, fmt);
	if (vasprintf (&text, fmt, ap) < 0) {
		text = NULL;
		args->failed = true;
	}
	va_end (ap);
	item[args->n] = text;
	if (text)
		args->n++;
	item[args->n] = NULL;
}

void
args_free (struct args *args)
{
	for (size_t i = 0; i < args->n; i++)
		free (args->item[i]);
	free (args->item);
	*args = (struct args){ NULL, 0, false };
}

/* A podman of our own: it shares no storage, lock or setting with the host's. */
void
args_common (struct args *args, const struct podman *podman)
{
	args_add (args, "%s", podman->program);
	args_add (args, "--root=%s/root", podman->folder);
	args_add (args, "--runroot=%s", podman->runroot);
	args_add (args, "--tmpdir=%s/tmp", podman->folder);
	args_add (args, "--storage-driver=vfs"); /* there are no images; others make mounts */
	args_add (args, "--cgroup-manager=cgroupfs");
	args_add (args, "--runtime=%s", podman->runtime);
	args_add (args, "--events-backend=none");
	args_add (args, "--log-level=error");
}

/* podman lowers its own number of processes to this, and nothing can raise it again. */
static rlim_t
pid_max (void)
{
	char text[32];
	_cleanup_close_ int fd = open ("/proc/sys/kernel/pid_max", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read (fd, text, sizeof (text) - 1);
	if (n <= 0)
		return NOFILE;
	text[n] = '\0';
	return strtoul (text, NULL, 10);
}

/* podman asks for its own defaults when nothing is said, and the kernel refuses more than the
 * hard limits that the daemon has. */
static void
add_limit (struct args *args, const char *name, int which, rlim_t soft_most, rlim_t hard_most)
{
	struct rlimit now = { 0, 0 };
	getrlimit (which, &now);
	rlim_t hard = now.rlim_max < hard_most ? now.rlim_max : hard_most;
	rlim_t soft = hard < soft_most ? hard : soft_most;
	args_add (args, "--ulimit=%s=%llu:%llu", name, (unsigned long long) soft,
		  (unsigned long long) hard);
}

static void
add_resources (struct args *args, const struct silo_container_spec *spec)
{
	add_limit (args, "nofile", RLIMIT_NOFILE, NOFILE, INT64_MAX);
	add_limit (args, "nproc", RLIMIT_NPROC, pid_max (), pid_max ());
	add_limit (args, "core", RLIMIT_CORE, 0, 0);
	if (spec->memory > 0)
		args_add (args, "--memory=%lldb", (long long) spec->memory);
	if (spec->memory > 0 && silo_cgroup_swap ()) /* the sum of both: no swap */
		args_add (args, "--memory-swap=%lldb", (long long) spec->memory);
	if (spec->cpu > 0) {
		args_add (args, "--cpu-period=100000");
		args_add (args, "--cpu-quota=%lld", (long long) spec->cpu * 100);
	}
	args_add (args, "--pids-limit=%lld", spec->pids > 0 ? (long long) spec->pids : -1LL);
}

static int
add_binds (struct args *args, const struct silo_container_spec *spec, struct silo_error *err)
{
	for (size_t i = 0; i < spec->n_binds; i++) {
		const struct silo_bind *bind = &spec->binds[i];
		if (strchr (bind->source, ':') || strchr (bind->target, ':'))
			return silo_fail (err, SILO_INVALID,
					  "podman cannot bind %s to %s: a colon in a path",
					  bind->source, bind->target);
		args_add (args, "--volume=%s:%s:%s,nosuid,nodev", bind->source, bind->target,
			  bind->writable ? "rw" : "ro");
	}
	return 0;
}

/* What podman does for people at terminals, and what it has in place of our own. */
static void
add_manners (struct args *args, const struct podman *podman)
{
	args_add (args, "--rm");
	args_add (args, "--log-driver=none"); /* the pipes are read by the core */
	args_add (args, "--sig-proxy=false");
	args_add (args, "--unsetenv-all");
	args_add (args, "--http-proxy=false");
	args_add (args, "--no-hosts");
	args_add (args, "--systemd=false");
	args_add (args, "--sdnotify=ignore");
	args_add (args, "--network=none");
	args_add (args, "--pid=private");
	args_add (args, "--ipc=private");
	args_add (args, "--uts=private");
	args_add (args, "--security-opt=no-new-privileges");
	if (podman->seccomp[0])
		args_add (args, "--security-opt=seccomp=%s/seccomp.json", podman->folder);
	/* 1777 is what podman gives a tmpfs. */
	args_add (args, "--tmpfs=/tmp:rw,exec,nosuid,nodev,notmpcopyup");
}

int
args_run (struct args *args, const struct podman *podman, const struct silo_container_spec *spec,
	  struct silo_error *err)
{
	char env[PATH_MAX];
	files_name (podman, spec->id, ".env", env);

	args_common (args, podman);
	args_add (args, "run");
	add_manners (args, podman);
	args_add (args, "--name");
	args_add (args, "%s%s", podman->prefix, spec->id);
	args_add (args, "--cgroup-parent=/%s%s", podman->prefix, spec->id);
	args_add (args, "--hostname=%s", spec->hostname);
	args_add (args, "--user=%u:%u", (unsigned) spec->uid, (unsigned) spec->gid);
	args_add (args, "--workdir=%s", spec->cwd);
	args_add (args, "--env-file=%s", env);
	add_resources (args, spec);
	if (spec->readonly) {
		args_add (args, "--read-only");
		args_add (args, "--read-only-tmpfs=false");
	}
	int r = add_binds (args, spec, err);
	if (r < 0)
		return r;
	args_add (args, "--rootfs");
	args_add (args, "%s", spec->rootfs);
	for (size_t i = 0; spec->argv[i]; i++)
		args_add (args, "%s", spec->argv[i]);
	return args->failed ? silo_fail_nomem (err) : 0;
}
