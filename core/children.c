/* SPDX-License-Identifier: Apache-2.0 */
/*
 * children.c - the programs behind containers (`crun run`, `podman run`), by
 * container id, for container plugins: whoever removes a container that is just
 * being started must end its starter first.
 *
 * The core holds and reaps the processes; here are only pidfds of them.  Any
 * thread.
 */
#include "core.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <silo/container.h>

#define END_MS 5000 /* that a program may take to be gone after SIGKILL */

struct child {
	struct child *next;
	int pidfd;
	char id[];
};

struct silo_children {
	pthread_mutex_t lock;
	struct child *first; /* lock */
};

int
silo_children_new (struct silo_children **ret, struct silo_error *err)
{
	struct silo_children *children = calloc (1, sizeof (*children));
	if (!children)
		return silo_fail_nomem (err);
	int sys = pthread_mutex_init (&children->lock, NULL);
	if (sys) {
		free (children);
		return silo_fail_sys (err, sys, "make a lock");
	}
	*ret = children;
	return 0;
}

static void
child_free (struct child *child)
{
	if (child)
		util_close (&child->pidfd);
	free (child);
}

void
silo_children_free (struct silo_children *children)
{
	if (!children)
		return;
	while (children->first) {
		struct child *child = children->first;
		children->first = child->next;
		child_free (child);
	}
	pthread_mutex_destroy (&children->lock);
	free (children);
}

int
silo_children_add (struct silo_children *children, const char *id, int pidfd,
		   struct silo_error *err)
{
	size_t len = strlen (id) + 1;
	struct child *child = malloc (sizeof (*child) + len);
	if (!child)
		return silo_fail_nomem (err);
	memcpy (child->id, id, len);
	child->pidfd = fcntl (pidfd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	if (child->pidfd < 0) {
		int sys = errno;
		free (child);
		return silo_fail_sys (err, sys, "watch container %s", id);
	}

	scope_lock (&children->lock);
	child->next = children->first;
	children->first = child;
	return 0;
}

/* Where the pointer to it is; NULL at the end of the list. */
static struct child **
children_find (struct silo_children *children, const char *id)
{
	struct child **at = &children->first;
	while (*at && strcmp ((*at)->id, id) != 0)
		at = &(*at)->next;
	return at;
}

static bool
child_ended (const struct child *child, int ms)
{
	struct pollfd fd = { .fd = child->pidfd, .events = POLLIN };
	return poll (&fd, 1, ms) > 0;
}

bool
silo_children_signal (struct silo_children *children, const char *id, int sig)
{
	scope_lock (&children->lock);
	const struct child *child = *children_find (children, id);
	return child && !child_ended (child, 0) &&
	       pidfd_send_signal (child->pidfd, sig, NULL, 0) == 0;
}

static struct child *
children_take (struct silo_children *children, const char *id)
{
	scope_lock (&children->lock);
	struct child **at = children_find (children, id);
	struct child *child = *at;
	if (child)
		*at = child->next;
	return child;
}

int
silo_children_end (struct silo_children *children, const char *id, struct silo_error *err)
{
	struct child *child = children_take (children, id);
	bool ended = !child || child_ended (child, 0);

	if (!ended) {
		pidfd_send_signal (child->pidfd, SIGKILL, NULL, 0);
		ended = child_ended (child, END_MS);
	}
	child_free (child);
	return ended ? 0
		     : silo_fail (err, SILO_UNAVAILABLE,
				  "the starter of container %s does not end after SIGKILL", id);
}
