/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image-pin.c - what keeps an image that is in use from being collected, though
 * no record names it any more.  Pool threads of the daemon and verbs.
 *
 * Whoever mounts an image opens its metadata file and locks it (flock, shared)
 * while it mounts, a worker until it has unmounted: a lock cannot outlive its
 * process.  A mount can: `silo mount` may leave one to the kernel, in any mount
 * namespace, perhaps taken from its folder already.  But then the kernel has
 * the file open, which a lease tells: a write lease is given for a file that
 * nobody else has open.  So neither kill -9 nor a reboot leaves a pin behind.
 */
#include "mounts.h"
#include "store.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>

static int
lock_file (int fd, int how)
{
	int r;
	while ((r = flock (fd, how)) < 0 && errno == EINTR)
		;
	return r;
}

int
image_pin (struct core *core, const struct silo_image *image, int *ret_fd, struct silo_error *err)
{
	char path[PATH_MAX];
	struct stat ours, named;
	int r = image_meta_path (core, image, path, sizeof (path), err);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = open (path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	/* The lock waits for a collector that is about to remove it: is it there still? */
	if (fd < 0 || lock_file (fd, LOCK_SH) < 0 || fstat (fd, &ours) < 0 ||
	    stat (path, &named) < 0)
		return silo_fail_sys (err, errno, "metadata file %s of image %.80s", path,
				      image->name);
	if (ours.st_ino != named.st_ino || ours.st_dev != named.st_dev)
		return silo_fail (err, SILO_NOTFOUND,
				  "metadata file %s of image %.80s was replaced just now", path,
				  image->name);
	*ret_fd = silo_steal_fd (&fd);
	return 0;
}

int
image_pin_current (struct core *core, const struct silo_image *image, int *ret_fd,
		   struct image_copy **ret_now, struct silo_error *err)
{
	_cleanup_free_ struct image_copy *now = NULL;
	struct silo_error gone = { 0 };
	int r = image_pin (core, image, ret_fd, &gone);
	if (r != SILO_NOTFOUND) {
		if (r == 0)
			*ret_now = NULL;
		return r < 0 ? silo_fail (err, r, "%s", gone.msg) : 0;
	}
	r = image_find (core, image->name, &now, &gone);
	if (r == SILO_NOTFOUND)
		return silo_fail (err, r, "image %.80s was removed while this waited", image->name);
	if (r < 0)
		return silo_fail (err, r, "%s", gone.msg);
	r = image_pin (core, &now->image, ret_fd, &gone);
	if (r < 0)
		return silo_fail (err, r, "%s: `silo fsck` finds out what is missing", gone.msg);
	*ret_now = silo_steal (&now);
	return 0;
}

/* Has anybody else this file open?  Where leases are not known, any mount that may still be
 * there counts. */
static bool
is_open (struct core *core, int fd)
{
	bool left = true;
	/* Who opens it while we have the lease makes the kernel signal us, by default with
	 * one that ends the process; this one is ignored. */
	if (fcntl (fd, F_SETSIG, SIGURG) == 0 && fcntl (fd, F_SETLEASE, F_WRLCK) == 0) {
		fcntl (fd, F_SETLEASE, F_UNLCK);
		return false;
	}
	return errno == EAGAIN || mounts_left (core, &left, NULL) < 0 || left;
}

int
image_unpinned (struct core *core, const struct image_folder *folder, const char *name, int *ret_fd,
		struct silo_error *err)
{
	*ret_fd = -1;
	_cleanup_close_ int fd =
	    openat (folder->fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return errno == ENOENT ? 0 : silo_fail_sys (err, errno, "images/%s", name);
	if (lock_file (fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? 0 : silo_fail_sys (err, errno, "images/%s", name);
	if (!is_open (core, fd))
		*ret_fd = silo_steal_fd (&fd);
	return 0;
}
