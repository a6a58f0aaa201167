/* SPDX-License-Identifier: Apache-2.0 */
/*
 * temp.c - folders below STATE/tmp, one per import.  Each is locked by its
 * process: one without a lock was left by a process that was killed, and the
 * next start removes it.
 */
#include "temp.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_DEPTH 256 /* a root file system has 20 */
#define MAX_TRIES 5

/* Remove what is in the folder behind fd, which is taken. */
static void
empty (int fd, int depth)
{
	DIR *dir = fdopendir (fd);
	if (!dir) {
		close (fd);
		return;
	}
	for (const struct dirent *entry; (entry = readdir (dir));) {
		if (strcmp (entry->d_name, ".") == 0 || strcmp (entry->d_name, "..") == 0)
			continue;
		if (unlinkat (dirfd (dir), entry->d_name, 0) == 0 || depth == MAX_DEPTH)
			continue;
		int sub = openat (dirfd (dir), entry->d_name,
				  O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (sub >= 0)
			empty (sub, depth + 1);
		unlinkat (dirfd (dir), entry->d_name, AT_REMOVEDIR);
	}
	closedir (dir);
}

void
temp_remove (struct temp *temp)
{
	if (temp->fd < 0)
		return;
	int fd = openat (temp->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0)
		empty (fd, 0);
	rmdir (temp->path);
	close (temp->fd);
	temp->fd = -1;
}

/* A new folder `path`, which ends in XXXXXX.  Another process that starts at this very moment
 * may take it for one without owner, before it is locked. */
static int
make_locked (char *path, int *ret_fd)
{
	if (!mkdtemp (path))
		return -1;
	int fd = open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 && flock (fd, LOCK_EX | LOCK_NB) == 0) {
		*ret_fd = fd;
		return 0;
	}
	int sys = errno;
	if (fd >= 0)
		close (fd);
	errno = sys;
	return -1;
}

int
temp_make (struct silo_host *host, const char *prefix, struct temp *ret, struct silo_error *err)
{
	struct temp temp = { .fd = -1 };
	int r = silo_state_path (host, "tmp", temp.path, sizeof (temp.path) - 32, err);
	if (r < 0)
		return r;
	if (mkdir (temp.path, 0700) < 0 && errno != EEXIST)
		return silo_fail_sys (err, errno, "folder %s", temp.path);
	size_t len = strlen (temp.path);
	for (int tries = 0; tries < MAX_TRIES; tries++) {
		snprintf (temp.path + len, sizeof (temp.path) - len, "/%.16sXXXXXX", prefix);
		if (make_locked (temp.path, &temp.fd) == 0) {
			*ret = temp;
			return 0;
		}
		if (errno != EWOULDBLOCK && errno != ENOENT)
			break;
	}
	return silo_fail_sys (err, errno, "folder %s", temp.path);
}

void
temp_clean (struct silo_host *host, const char *prefix)
{
	struct temp temp;
	char path[sizeof (temp.path) - 300];
	if (silo_state_path (host, "tmp", path, sizeof (path), NULL) < 0)
		return;
	DIR *dir = opendir (path);
	if (!dir)
		return;
	for (const struct dirent *entry; (entry = readdir (dir));) {
		if (strncmp (entry->d_name, prefix, strlen (prefix)) != 0)
			continue;
		snprintf (temp.path, sizeof (temp.path), "%s/%s", path, entry->d_name);
		temp.fd = openat (dirfd (dir), entry->d_name,
				  O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (temp.fd < 0)
			continue;
		if (flock (temp.fd, LOCK_EX | LOCK_NB) == 0)
			temp_remove (&temp);
		else
			close (temp.fd);
	}
	closedir (dir);
}
