/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch.c - has somebody unmounted it?  The kernel says through poll on
 * /proc/self/mountinfo when the table of mounts changes; a mount is recognised
 * by its number, since its path may be mounted on again.
 */
#include "fuse.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int
watch_id (const char *path, uint64_t *ret, struct silo_error *err)
{
	struct statx stx;

	if (statx (AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC,
		   STATX_MNT_ID, &stx) < 0)
		return silo_fail_sys (err, errno, "mount on %s", path);
	if (!(stx.stx_mask & STATX_MNT_ID))
		return silo_fail (err, SILO_UNIMPLEMENTED, "this kernel does not number mounts");
	*ret = stx.stx_mnt_id;
	return 0;
}

/* The first word of each line is a mount's number. */
static bool
watch_listed (FILE *table, uint64_t id)
{
	bool listed = false;
	char *line = NULL;
	size_t size = 0;

	rewind (table);
	while (!listed && getline (&line, &size, table) > 0)
		listed = strtoull (line, NULL, 10) == id;
	free (line);
	return listed;
}

int
watch_wait (uint64_t id, int done, bool *ret_gone, struct silo_error *err)
{
	FILE *table = fopen ("/proc/self/mountinfo", "re");
	if (!table)
		return silo_fail_sys (err, errno, "/proc/self/mountinfo");

	struct pollfd fds[2] = {
		{ .fd = fileno (table), .events = POLLPRI },
		{ .fd = done, .events = POLLIN },
	};
	bool listed = true;
	int sys = 0;
	while (sys == 0 && (listed = watch_listed (table, id)) && fds[1].revents == 0) {
		if (poll (fds, 2, -1) < 0 && errno != EINTR)
			sys = errno;
	}
	fclose (table);
	if (sys != 0)
		return silo_fail_sys (err, sys, "poll /proc/self/mountinfo");
	*ret_gone = !listed;
	return 0;
}
