/* SPDX-License-Identifier: Apache-2.0 */
/*
 * child.c - the `crun run` processes behind the containers: those that this
 * instance has started, and those that an earlier daemon has left.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include "crun.h"

#define END_MS 5000 /* that crun may take to be gone after SIGKILL */

int
child_add (struct crun *crun, const char *id, int pidfd, struct silo_error *err)
{
	struct crun_child *child = calloc (1, sizeof (*child));
	if (!child)
		return silo_fail_nomem (err);
	child->pidfd = fcntl (pidfd, F_DUPFD_CLOEXEC, 3);
	if (child->pidfd < 0) {
		int sys = errno;
		free (child);
		return silo_fail_sys (err, sys, "watch container %s", id);
	}
	snprintf (child->id, sizeof (child->id), "%s", id);

	pthread_mutex_lock (&crun->lock);
	child->next = crun->children;
	crun->children = child;
	pthread_mutex_unlock (&crun->lock);
	return 0;
}

static struct crun_child *
child_take (struct crun *crun, const char *id)
{
	pthread_mutex_lock (&crun->lock);
	struct crun_child **at = &crun->children;
	while (*at && strcmp ((*at)->id, id) != 0)
		at = &(*at)->next;
	struct crun_child *child = *at;
	if (child)
		*at = child->next;
	pthread_mutex_unlock (&crun->lock);
	return child;
}

static void
child_free (struct crun_child *child)
{
	if (child)
		close (child->pidfd);
	free (child);
}

static bool
child_ended (const struct crun_child *child, int ms)
{
	struct pollfd fd = { .fd = child->pidfd, .events = POLLIN };
	return poll (&fd, 1, ms) > 0;
}

bool
child_signal (struct crun *crun, const char *id, int sig)
{
	bool sent = false;

	pthread_mutex_lock (&crun->lock);
	struct crun_child *child = crun->children;
	while (child && strcmp (child->id, id) != 0)
		child = child->next;
	if (child && !child_ended (child, 0))
		sent = pidfd_send_signal (child->pidfd, sig, NULL, 0) == 0;
	pthread_mutex_unlock (&crun->lock);
	return sent;
}

void
child_forget_all (struct crun *crun)
{
	while (crun->children) {
		struct crun_child *child = crun->children;
		crun->children = child->next;
		child_free (child);
	}
}

/* The start of a file of /proc, terminated; its length. */
static size_t
read_proc (long pid, const char *file, char *ret, size_t size)
{
	char path[64];
	snprintf (path, sizeof (path), "/proc/%ld/%s", pid, file);
	_cleanup_close_ int fd = open (path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read (fd, ret, size - 1);
	if (n < 0)
		n = 0;
	ret[n] = '\0';
	return (size_t) n;
}

/* A pidfd of the crun that an earlier daemon has left: the parent of the container's first
 * process, if it was started with the container's bundle. */
static int
child_orphan (const char *group, const char *bundle)
{
	char text[8192];
	pid_t pid;
	int first;
	if (silo_cgroup_first (group, &pid, &first, NULL) < 0)
		return -1;
	size_t len = read_proc (pid, "stat", text, sizeof (text));
	close (first);

	const char *after = len ? strrchr (text, ')') : NULL; /* ") S PPID ..." */
	long parent = after && strlen (after) > 4 ? strtol (after + 4, NULL, 10) : 0;
	if (parent <= 1 || parent == getpid ())
		return -1;
	int fd = pidfd_open ((pid_t) parent, 0);
	len = fd < 0 ? 0 : read_proc (parent, "cmdline", text, sizeof (text));
	for (const char *word = text; word < text + len; word += strlen (word) + 1)
		if (strcmp (word, bundle) == 0)
			return fd;
	if (fd >= 0)
		close (fd);
	return -1;
}

int
child_end (struct crun *crun, const char *id, const char *group, const char *bundle,
	   struct silo_error *err)
{
	struct crun_child *child = child_take (crun, id);
	if (!child) {
		int fd = child_orphan (group, bundle);
		if (fd < 0)
			return 0;
		child = calloc (1, sizeof (*child));
		if (!child) {
			close (fd);
			return silo_fail_nomem (err);
		}
		child->pidfd = fd;
	}

	int r = 0;
	if (!child_ended (child, 0)) {
		pidfd_send_signal (child->pidfd, SIGKILL, NULL, 0);
		if (!child_ended (child, END_MS))
			r = silo_fail (err, SILO_UNAVAILABLE,
				       "%s of container %s does not end after SIGKILL",
				       crun->program, id);
	}
	child_free (child);
	return r;
}
