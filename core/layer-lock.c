/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layer-lock.c - one importer at a time per blob, also of several processes.
 * Called by the threads that fill layers.
 *
 * STATE/layers/HEX.lock is a fifo.  Who has it locks it through a descriptor
 * open for writing; who waits has it open for reading and polls: the kernel
 * says POLLHUP when the last writer is gone, also by kill -9, and by then has
 * dropped its lock.  (inotify tells of a close before the lock is dropped.)
 * The holder removes the fifo, so whoever locks one makes sure that it is
 * still the one of that name.
 */
#include "layers.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>

/* Somebody opens, finds the lock taken and closes again: that wakes the others in vain.  More
 * often than this in a row is no coincidence. */
#define LOCK_MAX_TRIES 1000000

static int
lock_fail (const char *name, struct silo_error *err)
{
	return silo_fail_sys (err, errno, "layers/%s", name);
}

/* Open the fifo for waiting, made if need be. */
static int
lock_open (int folder, const char *name, int *ret_fd, struct silo_error *err)
{
	struct stat st;
	int fd = -1;
	for (int i = 0; fd < 0 && i < LOCK_MAX_TRIES; i++) {
		if (mkfifoat (folder, name, 0600) < 0 && errno != EEXIST)
			return lock_fail (name, err);
		fd = openat (folder, name, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
		if (fd < 0 && errno != ENOENT)
			return lock_fail (name, err);
	}
	if (fd < 0)
		return lock_fail (name, err);
	if (fstat (fd, &st) < 0 || !S_ISFIFO (st.st_mode)) {
		close (fd);
		return silo_fail (err, SILO_PRECONDITION, "layers/%s is no fifo: remove it", name);
	}
	*ret_fd = fd;
	return 0;
}

static bool
same_file (int folder, const char *name, int fd)
{
	struct stat a, b;
	return fstat (fd, &a) == 0 && fstatat (folder, name, &b, AT_SYMLINK_NOFOLLOW) == 0 &&
	       a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* *ret_fd: -1: somebody else has it. */
static int
lock_try (int folder, const char *name, int *ret_fd, struct silo_error *err)
{
	*ret_fd = -1;
	_cleanup_close_ int fd =
	    openat (folder, name, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	/* Removed meanwhile, or made again and not opened by its maker yet. */
	if (fd < 0)
		return errno == ENOENT || errno == ENXIO ? 0 : lock_fail (name, err);
	if (flock (fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK || errno == EINTR ? 0 : lock_fail (name, err);
	if (same_file (folder, name, fd))
		*ret_fd = silo_steal_fd (&fd);
	return 0;
}

/* Until the writers of the fifo are gone. */
static int
lock_wait (int fifo, const int stop_fds[2], struct silo_error *err)
{
	struct pollfd fds[3] = { { .fd = fifo },
				 { .fd = stop_fds[0], .events = POLLIN },
				 { .fd = stop_fds[1], .events = POLLIN } };
	while (poll (fds, ARRAY_SIZE (fds), -1) < 0)
		if (errno != EINTR)
			return silo_fail_sys (err, errno, "waiting for another import");
	return fds[1].revents || fds[2].revents ? silo_fail (err, SILO_CANCELLED, "stopped") : 0;
}

int
layer_lock (int folder, const struct silo_digest *blob, const int stop_fds[2],
	    struct layer_lock *ret, struct silo_error *err)
{
	struct layer_lock lock = { .folder = folder, .fd = -1 };
	char hex[SILO_DIGEST_HEX + 1];
	silo_digest_hex (blob, hex);
	snprintf (lock.name, sizeof (lock.name), "%s.lock", hex);
	for (int i = 0; i < LOCK_MAX_TRIES; i++) {
		_cleanup_close_ int fifo = -1;
		/* First a reader, then a try: a holder that goes in between is noticed. */
		int r = lock_open (folder, lock.name, &fifo, err);
		if (r == 0)
			r = lock_try (folder, lock.name, &lock.fd, err);
		if (r < 0)
			return r;
		if (lock.fd >= 0) {
			*ret = lock;
			return 0;
		}
		r = same_file (folder, lock.name, fifo) ? lock_wait (fifo, stop_fds, err) : 0;
		if (r < 0)
			return r;
	}
	return silo_fail (err, SILO_UNAVAILABLE, "layers/%s is never free", lock.name);
}

void
layer_unlock (struct layer_lock *lock)
{
	if (lock->fd < 0)
		return;
	unlinkat (lock->folder, lock->name, 0);
	close (lock->fd);
	lock->fd = -1;
}
