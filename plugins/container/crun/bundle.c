/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bundle.c - folders below STATE/run: made for one container, removed with all
 * that is in them, listed after a crash.  Nothing in them is a mount here: what
 * crun mounts, it mounts in the container's own namespace.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "crun.h"

#define DEPTH_MAX 16 /* of folders in folders; crun's are two deep */

int
bundle_make (const char *path, struct silo_error *err)
{
	if (mkdir (path, 0700) < 0)
		return silo_fail_sys (err, errno, "make %s", path);
	return 0;
}

static int
remove_at (int parent, const char *name, int depth)
{
	if (unlinkat (parent, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR)
		return errno;
	if (depth == 0)
		return ELOOP;

	int fd = openat (parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : errno;
	DIR *dir = fdopendir (fd);
	if (!dir) {
		int sys = errno;
		close (fd);
		return sys;
	}
	int sys = 0;
	for (struct dirent *entry; !sys && (entry = readdir (dir));)
		if (strcmp (entry->d_name, ".") != 0 && strcmp (entry->d_name, "..") != 0)
			sys = remove_at (fd, entry->d_name, depth - 1);
	closedir (dir);
	if (!sys && unlinkat (parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		sys = errno;
	return sys;
}

int
bundle_delete (const char *path, struct silo_error *err)
{
	int sys = remove_at (AT_FDCWD, path, DEPTH_MAX);
	return sys ? silo_fail_sys (err, sys, "remove %s", path) : 0;
}

int
bundle_list (const char *path, silo_container_fn *fn, void *arg, struct silo_error *err)
{
	DIR *dir = opendir (path);
	if (!dir && errno == ENOENT)
		return 0;
	if (!dir)
		return silo_fail_sys (err, errno, "read %s", path);

	int r = 0;
	for (struct dirent *entry; r == 0 && (entry = readdir (dir));)
		if (entry->d_name[0] != '.' && strlen (entry->d_name) <= CRUN_ID_MAX)
			r = fn (arg, entry->d_name);
	closedir (dir);
	return r;
}
