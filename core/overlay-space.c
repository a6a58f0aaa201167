/* SPDX-License-Identifier: Apache-2.0 */
/*
 * overlay-space.c - a mount namespace for a moment.  Kernels before Linux 6.15
 * make overlays only of layers that are attached somewhere in the caller's
 * mount namespace.  Instead of a hidden folder, which a killed process would
 * leave mounted, a thread with a namespace of its own attaches them, makes the
 * overlay (which keeps its own hold on its layers) and ends; the kernel takes
 * the namespace down with it.  Called by overlay.c, on any thread.
 */
#include "overlay.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>

struct space {
	overlay_space_fn *fn;
	void *arg;
	struct silo_error *err;
	int result;
};

static int
space_enter (struct silo_error *err)
{
	/* Of a thread, this moves that thread alone. */
	if (unshare (CLONE_NEWNS) < 0)
		return silo_fail_sys (err, errno, "make a mount namespace for an overlay's layers");
	if (mount (NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return silo_fail_sys (err, errno, "keep an overlay's layers to their namespace");
	return 0;
}

static void *
space_main (void *arg)
{
	struct space *space = arg;

	space->result = space_enter (space->err);
	if (space->result == 0)
		space->result = space->fn (space->arg, space->err);
	return NULL;
}

int
overlay_space (overlay_space_fn *fn, void *arg, struct silo_error *err)
{
	struct silo_error why = { 0 };
	struct space space = { .fn = fn, .arg = arg, .err = &why };
	sigset_t all, before;
	pthread_t thread;

	/* Signals are for the other threads. */
	sigfillset (&all);
	pthread_sigmask (SIG_SETMASK, &all, &before);
	int sys = pthread_create (&thread, NULL, space_main, &space);
	pthread_sigmask (SIG_SETMASK, &before, NULL);
	if (sys != 0)
		return silo_fail_sys (err, sys, "thread for an overlay's layers");
	pthread_join (thread, NULL);
	if (space.result < 0 && err)
		*err = why;
	return space.result;
}

int
overlay_attach (int fd, const char *target, struct silo_error *err)
{
	if (move_mount (fd, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return silo_fail_sys (err, errno, "mount on %s", target);
	return 0;
}

/* These kernels copy a mount only while it is attached, and do not attach one a second time:
 * each who needs it leaves a fresh copy behind. */
int
overlay_borrow (int fd, const char *target, int *ret_fd, struct silo_error *err)
{
	/* One at a time for each tree: the lock is on its root. */
	_cleanup_close_ int lock = openat (fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (lock < 0 || flock (lock, LOCK_EX) < 0)
		return silo_fail_sys (err, errno, "the image's root folder");

	_cleanup_close_ int own = fcntl (fd, F_DUPFD_CLOEXEC, 0);
	if (own < 0)
		return silo_fail_sys (err, errno, "the image's root folder");
	int r = overlay_attach (own, target, err);
	if (r < 0)
		return r;
	_cleanup_close_ int copy =
	    open_tree (own, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	if (copy < 0 || dup3 (copy, fd, O_CLOEXEC) < 0)
		return silo_fail_sys (err, errno, "copy the mount of the image");
	*ret_fd = silo_steal_fd (&own);
	return 0;
}
