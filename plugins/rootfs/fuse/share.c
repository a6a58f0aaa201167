/* SPDX-License-Identifier: Apache-2.0 */
/*
 * share.c - one FUSE mount per image, attached nowhere, shared by all mounts of
 * the image, and the threads that serve it.  It ends with the last mount: the
 * threads are told through an eventfd, since a lazily unmounted file system
 * lives on in the kernel as long as somebody holds a file of it open.
 */
#include "fuse.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

/* The kernel wants room for the largest write (see serve_init), and its headers. */
#define REQUEST_MAX (READ_MAX + 4096)

static void
event_set (int fd)
{
	const uint64_t one = 1;
	ssize_t n = write (fd, &one, sizeof (one));
	assert (n == sizeof (one));
}

/* -- the threads -- */

/* Is there a request to read?  False: it is time to end. */
static bool
worker_wait (struct share *share)
{
	struct pollfd fds[2] = {
		{ .fd = fuse_session_fd (share->session), .events = POLLIN },
		{ .fd = share->stop, .events = POLLIN },
	};

	while (poll (fds, 2, -1) < 0)
		assert (errno == EINTR || errno == ENOMEM);
	return fds[1].revents == 0;
}

/* Read one request.  Not libfuse's fuse_session_receive_buf, which writes to stderr when the
 * kernel ends the connection.  0: there is none; -1: there will be none. */
static ssize_t
worker_read (struct share *share, void *to)
{
	ssize_t n = read (fuse_session_fd (share->session), to, REQUEST_MAX);

	if (n >= 0)
		return n;
	/* Another thread was quicker, or the request has been interrupted (ENOENT).  Else the
	 * file system is unmounted (ENODEV) or its connection aborted. */
	return errno == EAGAIN || errno == EINTR || errno == ENOENT ? 0 : -1;
}

static void *
worker_main (void *arg)
{
	struct worker *worker = arg;
	struct share *share = worker->share;
	ssize_t n = 0;

	while (n >= 0 && !fuse_session_exited (share->session) && worker_wait (share)) {
		n = worker_read (share, worker->request);
		if (n <= 0)
			continue;
		if (share->pass)
			pass_request (share->pass, worker->request, (size_t) n);
		const struct fuse_buf request = { .mem = worker->request, .size = (size_t) n };
		fuse_session_process_buf (share->session, &request);
	}

	pthread_mutex_lock (&share->lock);
	bool last = --share->running == 0;
	pthread_mutex_unlock (&share->lock);
	if (last)
		event_set (share->done);
	return NULL;
}

/* No signal of the daemon's is delivered to these threads. */
static int
workers_start (struct share *share, size_t n, struct silo_error *err)
{
	sigset_t all, before;
	int sys = 0;

	share->workers = calloc (n, sizeof (*share->workers));
	if (!share->workers)
		return silo_fail_nomem (err);
	share->running = n;
	sigfillset (&all);
	pthread_sigmask (SIG_SETMASK, &all, &before);
	while (sys == 0 && share->n_workers < n) {
		struct worker *worker = &share->workers[share->n_workers];
		worker->share = share;
		worker->request = malloc (REQUEST_MAX);
		sys = worker->request ? pthread_create (&worker->thread, NULL, worker_main, worker)
				      : ENOMEM;
		if (sys == 0)
			share->n_workers++;
		else
			free (worker->request);
	}
	pthread_sigmask (SIG_SETMASK, &before, NULL);
	return sys == 0 ? 0 : silo_fail_sys (err, sys, "thread for image %s", share->path);
}

/* -- the mount -- */

/* A FUSE file system over `device`, mounted at no path. */
static int
share_mount (struct share *share, int device, struct silo_error *err)
{
	char fd[24], uid[32], gid[32], max_read[32];

	snprintf (fd, sizeof (fd), "fd=%d", device);
	snprintf (uid, sizeof (uid), "user_id=%u", (unsigned) geteuid ());
	snprintf (gid, sizeof (gid), "group_id=%u", (unsigned) getegid ());
	snprintf (max_read, sizeof (max_read), "max_read=%u", READ_MAX);
	const char *const options[] = {
		"source=silo", "subtype=silo",        fd,       uid,  gid,  "rootmode=40000",
		"allow_other", "default_permissions", max_read, "ro", NULL,
	};
	return silo_fs_mount ("fuse", options, &share->fd, err);
}

static int
share_session (struct share *share, const struct fuse_lowlevel_ops *ops, int device,
	       struct silo_error *err)
{
	char name[] = "silo", max_read[40], path[32];
	char *argv[] = { name, max_read, NULL };
	struct fuse_args args = FUSE_ARGS_INIT (2, argv);

	/* libfuse insists on hearing this here, too. */
	snprintf (max_read, sizeof (max_read), "-omax_read=%u", READ_MAX);
	share->session = fuse_session_new (&args, ops, sizeof (*ops), share);
	fuse_opt_free_args (&args);
	if (!share->session)
		return silo_fail_nomem (err);
	if (share->pass && pass_session (share, device))
		return 0;
	snprintf (path, sizeof (path), "/dev/fd/%d", device);
	if (fuse_session_mount (share->session, path) != 0)
		return silo_fail (err, SILO_INTERNAL, "libfuse refuses descriptor %d", device);
	return 0;
}

int
share_start (struct share *share, const struct fuse_lowlevel_ops *ops, size_t threads,
	     struct silo_error *err)
{
	int device = open ("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (device < 0)
		return silo_fail_sys (err, errno, "/dev/fuse");

	int r = share_mount (share, device, err);
	if (r == 0)
		r = share_session (share, ops, device, err);
	if (r < 0) {
		close (device);
		return r;
	}
	/* From here on the descriptor is the session's. */
	return workers_start (share, threads, err);
}

int
share_new (struct fuse *self, const char *path, struct share **ret, struct silo_error *err)
{
	struct share *share = calloc (1, sizeof (*share));
	if (!share)
		return silo_fail_nomem (err);
	share->self = self;
	share->fd = -1;
	share->stop = eventfd (0, EFD_CLOEXEC);
	share->done = eventfd (0, EFD_CLOEXEC);
	share->path = strdup (path);
	share->pass = self->passthrough != PASSTHROUGH_NO ? pass_new () : NULL;
	pthread_mutex_init (&share->lock, NULL);
	if (share->stop < 0 || share->done < 0 || !share->path ||
	    (self->passthrough != PASSTHROUGH_NO && !share->pass)) {
		int sys = share->stop < 0 || share->done < 0 ? errno : ENOMEM;
		share_free (share);
		return silo_fail_sys (err, sys, "image %s", path);
	}
	*ret = share;
	return 0;
}

static void
close_fd (int fd)
{
	if (fd >= 0)
		close (fd);
}

void
share_free (struct share *share)
{
	if (!share)
		return;
	close_fd (share->fd);
	if (share->n_workers > 0)
		event_set (share->stop);
	for (size_t i = 0; i < share->n_workers; i++) {
		pthread_join (share->workers[i].thread, NULL);
		free (share->workers[i].request);
	}
	/* Closes /dev/fuse, which ends the file system for those who still use it. */
	if (share->session)
		fuse_session_destroy (share->session);
	pass_free (share->pass);
	close_fd (share->stop);
	close_fd (share->done);
	while (share->spares) {
		struct spare *spare = share->spares;
		share->spares = spare->next;
		free (spare);
	}
	silo_meta_close (share->meta);
	pthread_mutex_destroy (&share->lock);
	free (share->workers);
	free (share->path);
	free (share);
}

/* -- sharing -- */

/* Under fuse->lock. */
static int
share_open (struct fuse *self, const char *path, const struct stat *st,
	    struct silo_instance *content, struct share **ret, struct silo_error *err)
{
	struct share *share;
	int r = share_new (self, path, &share, err);
	if (r < 0)
		return r;

	share->dev = st->st_dev;
	share->ino = st->st_ino;
	share->content = content;
	r = silo_meta_open (path, &share->meta, err);
	if (r == 0) {
		share->root = silo_meta_root (share->meta);
		r = share_start (share, &serve_ops, (size_t) self->threads, err);
	}
	if (r < 0) {
		share_free (share);
		return r;
	}
	share->next = self->shares;
	self->shares = share;
	*ret = share;
	return 0;
}

static struct share *
share_find (struct fuse *self, const char *path, const struct stat *st,
	    struct silo_instance *content)
{
	for (struct share *share = self->shares; share; share = share->next) {
		if (share->dev == st->st_dev && share->ino == st->st_ino &&
		    share->content == content && strcmp (share->path, path) == 0)
			return share;
	}
	return NULL;
}

int
share_get (struct fuse *self, const char *path, struct silo_instance *content, struct share **ret,
	   struct silo_error *err)
{
	struct stat st;
	if (lstat (path, &st) < 0)
		return silo_fail_sys (err, errno, "metadata file %s", path);

	int r = 0;
	pthread_mutex_lock (&self->lock);
	struct share *share = share_find (self, path, &st, content);
	if (!share)
		r = share_open (self, path, &st, content, &share, err);
	if (r == 0)
		share->users++;
	pthread_mutex_unlock (&self->lock);
	if (r < 0)
		return r;
	*ret = share;
	return 0;
}

void
share_put (struct share *share)
{
	struct fuse *self = share->self;

	pthread_mutex_lock (&self->lock);
	assert (share->users > 0);
	if (--share->users > 0) {
		pthread_mutex_unlock (&self->lock);
		return;
	}
	struct share **at = &self->shares;
	while (*at && *at != share)
		at = &(*at)->next;
	assert (*at == share);
	*at = share->next;
	bool last = !self->shares;
	pthread_mutex_unlock (&self->lock);
	share_free (share);
	if (last)
		objects_close (self->objects);
}

/* -- buffers -- */

void *
share_buffer (struct share *share)
{
	pthread_mutex_lock (&share->lock);
	struct spare *spare = share->spares;
	if (spare)
		share->spares = spare->next;
	pthread_mutex_unlock (&share->lock);
	return spare ? (void *) spare : malloc (READ_MAX);
}

void
share_buffer_put (struct share *share, void *buffer)
{
	struct spare *spare = buffer;

	if (!spare)
		return;
	pthread_mutex_lock (&share->lock);
	spare->next = share->spares;
	share->spares = spare;
	pthread_mutex_unlock (&share->lock);
}
