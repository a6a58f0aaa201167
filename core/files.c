/* SPDX-License-Identifier: Apache-2.0 */
/*
 * files.c - make and remove folders below the state folder, hash files.  Any
 * thread that may block; keeps no state.
 */
#include "core.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

int
files_mkdir (const char *path, struct silo_error *err)
{
	char part[PATH_MAX];
	size_t n = strlen (path);

	if (n == 0 || n >= sizeof (part))
		return silo_fail (err, SILO_INVALID, "path of %zu characters: %.100s...", n, path);
	memcpy (part, path, n + 1);
	for (char *p = part + 1; p <= part + n; p++) {
		if (*p != '/' && *p != 0)
			continue;
		char saved = *p;
		*p = 0;
		if (mkdir (part, 0700) < 0 && errno != EEXIST)
			return silo_fail_sys (err, errno, "making folder %s", part);
		*p = saved;
	}
	return 0;
}

#define REMOVE_DEPTH 4096 /* more than PATH_MAX allows to make */

/* Empty the folder behind fd (which is taken).  Folders on another device are mounts that
 * somebody forgot: they are reported, never emptied. */
static int
remove_inside (int fd, dev_t device, int depth, struct silo_error *err)
{
	_cleanup_closedir_ DIR *dir = fdopendir (fd);
	if (!dir) {
		int sys = errno;
		close (fd);
		return silo_fail_sys (err, sys, "opening a folder");
	}
	if (depth > REMOVE_DEPTH)
		return silo_fail (err, SILO_INVALID, "folders nested too deeply");

	for (struct dirent *entry; (errno = 0, entry = readdir (dir));) {
		const char *name = entry->d_name;
		struct stat st;

		if (strcmp (name, ".") == 0 || strcmp (name, "..") == 0)
			continue;
		if (fstatat (dirfd (dir), name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
			if (errno == ENOENT)
				continue;
			return silo_fail_sys (err, errno, "%s", name);
		}
		if (!S_ISDIR (st.st_mode)) {
			if (unlinkat (dirfd (dir), name, 0) < 0 && errno != ENOENT)
				return silo_fail_sys (err, errno, "removing %s", name);
			continue;
		}
		if (st.st_dev != device)
			return silo_fail (err, SILO_PRECONDITION, "%s is a mount point", name);
		int sub =
		    openat (dirfd (dir), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (sub < 0)
			return silo_fail_sys (err, errno, "opening %s", name);
		int r = remove_inside (sub, device, depth + 1, err);
		if (r < 0)
			return r;
		if (unlinkat (dirfd (dir), name, AT_REMOVEDIR) < 0 && errno != ENOENT)
			return silo_fail_sys (err, errno, "removing folder %s", name);
	}
	return errno ? silo_fail_sys (err, errno, "reading a folder") : 0;
}

int
files_remove (const char *path, struct silo_error *err)
{
	struct stat st;

	int fd = open (path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0) {
		if (errno == ENOENT)
			return 0;
		if ((errno == ENOTDIR || errno == ELOOP) && unlink (path) == 0)
			return 0;
		return silo_fail_sys (err, errno, "removing %s", path);
	}
	if (fstat (fd, &st) < 0) {
		int sys = errno;
		close (fd);
		return silo_fail_sys (err, sys, "removing %s", path);
	}
	if (remove_inside (fd, st.st_dev, 0, err) < 0)
		return silo_wrap (err, "removing %s", path);
	if (rmdir (path) < 0 && errno != ENOENT)
		return silo_fail_sys (err, errno, "removing folder %s", path);
	return 0;
}

#define DIGEST_STEP ((size_t) 256 << 10)

int
files_digest (int fd, struct silo_digest *ret, struct silo_error *err)
{
	struct silo_hash *hash = silo_hash_new ();
	_cleanup_free_ unsigned char *buf = malloc (DIGEST_STEP);
	int r = hash && buf ? 0 : silo_fail_nomem (err);
	for (off_t at = 0; r == 0;) {
		ssize_t n = pread (fd, buf, DIGEST_STEP, at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			r = silo_fail_sys (err, errno, "reading a file to be hashed");
		if (n <= 0)
			break;
		at += n;
		if (silo_hash_add (hash, buf, (size_t) n) < 0)
			r = silo_fail (err, SILO_INTERNAL, "SHA-256 of a file");
	}
	if (r == 0 && silo_hash_end (hash, ret) < 0)
		r = silo_fail (err, SILO_INTERNAL, "SHA-256 of a file");
	silo_hash_free (hash);
	return r;
}
