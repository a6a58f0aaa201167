/* SPDX-License-Identifier: Apache-2.0 */
/*
 * namespace.c - a mount namespace of the daemon's own.
 *
 * What it mounts lives no longer than the daemon and is seen by nobody else; a
 * daemon that was killed leaves nothing mounted behind.  Called once by serve.c,
 * before there is any thread: unshare () moves only the calling one.
 */
#include "core.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <linux/magic.h>

#define CGROUP_ROOT    "/sys/fs/cgroup"
#define CGROUP_UNIFIED CGROUP_ROOT "/unified"

static bool
namespace_is_cgroup2 (const char *path)
{
	struct statfs fs;
	return statfs (path, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
}

int
namespace_enter (struct silo_error *err)
{
	if (unshare (CLONE_NEWNS) < 0)
		return silo_fail_sys (err, errno, "make a mount namespace for the daemon");

	/* Nothing goes out; what the operator mounts or unmounts later still comes in, so
	 * that no disk is kept busy by our copy of its mount. */
	if (mount (NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return silo_fail_sys (err, errno, "keep mounts to the daemon's namespace");

	/* "Hybrid" hosts have v1 controllers and beside them a v2 tree without any.  crun
	 * refuses to choose; without the second tree, here only, it uses the first. */
	if (!namespace_is_cgroup2 (CGROUP_UNIFIED) || namespace_is_cgroup2 (CGROUP_ROOT))
		return 0;
	if (umount2 (CGROUP_UNIFIED, MNT_DETACH) < 0)
		return silo_fail_sys (err, errno, "leave %s out of the daemon's namespace",
				      CGROUP_UNIFIED);
	/* crun makes its folders there all the same: not in the host's file system. */
	if (mount ("tmpfs", CGROUP_UNIFIED, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
		   "mode=0755,size=16m") < 0)
		return silo_fail_sys (err, errno, "cover %s", CGROUP_UNIFIED);
	return 0;
}
