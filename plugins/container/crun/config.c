/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.c - what a container is, as the OCI runtime specification has it: the
 * bundle's config.json.  Called by start on a pool thread; keeps nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <jansson.h>
#include <linux/capability.h>
#include "crun.h"

#define CPU_PERIOD 100000 /* microseconds */
#define NOFILE     1024   /* soft limit; select () breaks above it */

/* What podman leaves to a container. */
#define CAPABILITIES                                                                          \
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",              \
	    "CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", \
	    "CAP_SYS_CHROOT"

static const char *const capabilities[] = { CAPABILITIES, NULL };

static const char *const masked[] = {
	"/proc/acpi",           "/proc/kcore",
	"/proc/keys",           "/proc/latency_stats",
	"/proc/sched_debug",    "/proc/scsi",
	"/proc/timer_list",     "/proc/timer_stats",
	"/sys/dev/block",       "/sys/devices/virtual/powercap",
	"/sys/firmware",        "/sys/fs/selinux",
	"/sys/kernel/security", NULL,
};

static const char *const readonly[] = {
	"/proc/asound", "/proc/bus",           "/proc/fs", "/proc/irq",
	"/proc/sys",    "/proc/sysrq-trigger", NULL,
};

struct mount {
	const char *target;
	const char *type;
	const char *source;
	const char *options[8];
};

static const struct mount mounts[] = {
	{ "/proc", "proc", "proc", { "nosuid", "noexec", "nodev" } },
	{ "/dev", "tmpfs", "tmpfs", { "nosuid", "noexec", "strictatime", "mode=755", "size=1m" } },
	{ "/dev/pts",
	  "devpts",
	  "devpts",
	  { "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5" } },
	{ "/dev/shm", "tmpfs", "shm", { "nosuid", "noexec", "nodev", "mode=1777" } },
	{ "/dev/mqueue", "mqueue", "mqueue", { "nosuid", "noexec", "nodev" } },
	{ "/sys", "sysfs", "sysfs", { "nosuid", "noexec", "nodev", "ro" } },
	{ "/tmp", "tmpfs", "tmpfs", { "nosuid", "nodev", "mode=1777" } },
};

/* With v2 only: programs read their own limits there.  It is the container's own part of the
 * tree, by its cgroup namespace. */
static const struct mount mount_cgroup = {
	"/sys/fs/cgroup", "cgroup", "cgroup", { "nosuid", "noexec", "nodev", "ro" }
};

/* For a root in which the targets of binds cannot be made. */
static const struct mount mount_silo = {
	"/.silo", "tmpfs", "tmpfs", { "nosuid", "nodev", "mode=755", "size=64k" }
};

static json_t *
strings (const char *const *list)
{
	json_t *array = json_array ();
	for (size_t i = 0; array && list[i]; i++) {
		if (json_array_append_new (array, json_string (list[i])) == 0)
			continue;
		json_decref (array);
		return NULL;
	}
	return array;
}

static json_t *
mount_json (const struct mount *mount)
{
	return json_pack ("{s:s, s:s, s:s, s:o}", "destination", mount->target, "type", mount->type,
			  "source", mount->source, "options", strings (mount->options));
}

static json_t *
bind_json (const struct silo_bind *bind)
{
	const char *const options[] = {
		"bind", "nosuid", "nodev", "private", bind->writable ? "rw" : "ro", NULL
	};
	return json_pack ("{s:s, s:s, s:s, s:o}", "destination", bind->target, "type", "bind",
			  "source", bind->source, "options", strings (options));
}

static json_t *
mounts_json (const struct silo_container_spec *spec)
{
	json_t *list = json_array ();
	int bad = !list;
	struct statvfs fs;

	for (size_t i = 0; i < sizeof (mounts) / sizeof (mounts[0]); i++)
		bad |= json_array_append_new (list, mount_json (&mounts[i]));
	if (silo_cgroup_v2 ())
		bad |= json_array_append_new (list, mount_json (&mount_cgroup));
	if (statvfs (spec->rootfs, &fs) == 0 && (fs.f_flag & ST_RDONLY))
		bad |= json_array_append_new (list, mount_json (&mount_silo));
	for (size_t i = 0; i < spec->n_binds; i++)
		bad |= json_array_append_new (list, bind_json (&spec->binds[i]));
	if (bad) {
		json_decref (list);
		return NULL;
	}
	return list;
}

/* Nothing may ask for more than the daemon has: it need not be allowed to. */
static json_t *
rlimit_json (const char *name, int which, rlim_t soft_wished)
{
	struct rlimit now;
	if (getrlimit (which, &now) < 0)
		return NULL;
	/* RLIM_INFINITY does not fit into JSON's integers; half of it limits nothing either. */
	rlim_t hard = now.rlim_max < INT64_MAX ? now.rlim_max : INT64_MAX;
	rlim_t soft = hard < soft_wished ? hard : soft_wished;
	return json_pack ("{s:s, s:I, s:I}", "type", name, "soft", (json_int_t) soft, "hard",
			  (json_int_t) hard);
}

static json_t *
process_json (const struct silo_container_spec *spec)
{
	json_t *caps = strings (capabilities);
	return json_pack ("{s:{s:I, s:I}, s:o, s:o, s:s, s:b, s:{s:O, s:O, s:o}, s:[o, o, o]}",
			  "user", "uid", (json_int_t) spec->uid, "gid", (json_int_t) spec->gid,
			  "args", strings (spec->argv), "env", strings (spec->env), "cwd",
			  spec->cwd, "noNewPrivileges", 1, "capabilities", "bounding", caps,
			  "permitted", caps, "effective", caps, "rlimits",
			  rlimit_json ("RLIMIT_NOFILE", RLIMIT_NOFILE, NOFILE),
			  rlimit_json ("RLIMIT_NPROC", RLIMIT_NPROC, RLIM_INFINITY),
			  rlimit_json ("RLIMIT_CORE", RLIMIT_CORE, 0));
}

/* With cgroups v2 the device filter is a BPF program, for which crun 1.8 raises a limit on locked
 * memory (kernels have not counted it there since 5.11) and gives up when it may not.  Without
 * the filter there are still no device nodes: none can be made, and every mount is nodev. */
static bool
can_filter_devices (void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = { { 0 } };
	struct rlimit locked;

	if (!silo_cgroup_v2 ())
		return true;
	if (getrlimit (RLIMIT_MEMLOCK, &locked) == 0 && locked.rlim_max == RLIM_INFINITY)
		return true;
	return syscall (SYS_capget, &head, caps) == 0 &&
	       (caps[CAP_TO_INDEX (CAP_SYS_RESOURCE)].effective & CAP_TO_MASK (CAP_SYS_RESOURCE));
}

/* Limits that are 0 are left out. */
static json_t *
resources_json (const struct silo_container_spec *spec)
{
	json_t *all = can_filter_devices ()
			  ? json_pack ("{s:[{s:b, s:s}]}", "devices", "allow", 0, "access", "rwm")
			  : json_object ();
	int bad = !all;

	if (spec->memory > 0) {
		json_t *memory = json_pack ("{s:I}", "limit", (json_int_t) spec->memory);
		/* The sum of memory and swap: no swap. */
		if (silo_cgroup_swap ())
			bad |= json_object_set_new (memory, "swap", json_integer (spec->memory));
		bad |= json_object_set_new (all, "memory", memory);
	}
	if (spec->cpu > 0)
		bad |= json_object_set_new (all, "cpu",
					    json_pack ("{s:I, s:i}", "quota",
						       (json_int_t) spec->cpu * (CPU_PERIOD / 1000),
						       "period", CPU_PERIOD));
	if (spec->pids > 0)
		bad |= json_object_set_new (all, "pids",
					    json_pack ("{s:I}", "limit", (json_int_t) spec->pids));
	if (bad) {
		json_decref (all);
		return NULL;
	}
	return all;
}

static json_t *
linux_json (const struct crun *crun, const struct silo_container_spec *spec)
{
	char cgroup[CRUN_PREFIX + CRUN_ID_MAX + 2];
	snprintf (cgroup, sizeof (cgroup), "/%s%s", crun->prefix, spec->id);

	json_t *linux_ =
	    json_pack ("{s:[{s:s}, {s:s}, {s:s}, {s:s}, {s:s}], s:s, s:o, s:o, s:o}", "namespaces",
		       "type", "pid", "type", "mount", "type", "ipc", "type", "uts", "type",
		       "network", "cgroupsPath", cgroup, "resources", resources_json (spec),
		       "maskedPaths", strings (masked), "readonlyPaths", strings (readonly));
	int bad = !linux_;

	if (silo_cgroup_v2 ())
		bad |= json_array_append_new (json_object_get (linux_, "namespaces"),
					      json_pack ("{s:s}", "type", "cgroup"));
	if (crun->seccomp)
		bad |= json_object_set_new (linux_, "seccomp", seccomp_new ());
	if (bad) {
		json_decref (linux_);
		return NULL;
	}
	return linux_;
}

int
config_write (const struct crun *crun, const struct silo_container_spec *spec, const char *bundle,
	      struct silo_error *err)
{
	json_t *config =
	    json_pack ("{s:s, s:o, s:{s:s, s:b}, s:s, s:o, s:o}", "ociVersion", "1.0.2", "process",
		       process_json (spec), "root", "path", spec->rootfs, "readonly",
		       (int) spec->readonly, "hostname", spec->hostname, "mounts",
		       mounts_json (spec), "linux", linux_json (crun, spec));
	if (!config)
		return silo_fail (err, SILO_INVALID,
				  "container %s: its arguments, environment and paths must be "
				  "UTF-8 (or memory is out)",
				  spec->id);

	char path[PATH_MAX];
	snprintf (path, sizeof (path), "%s/config.json", bundle);
	/* It holds the environment, and that the token. */
	_cleanup_close_ int fd =
	    open (path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int sys = fd < 0 ? errno : 0;
	if (!sys && json_dumpfd (config, fd, JSON_COMPACT) < 0)
		sys = errno ? errno : EIO;
	json_decref (config);
	return sys ? silo_fail_sys (err, sys, "write %s", path) : 0;
}
