/* SPDX-License-Identifier: Apache-2.0 */
/*
 * orphan.c - a `crun run` that an earlier daemon has left behind.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include "crun.h"

#define END_MS 5000 /* that crun may take to be gone after SIGKILL */

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
orphan_find (const char *group, const char *bundle)
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
orphan_end (const char *group, const char *bundle, struct silo_error *err)
{
	_cleanup_close_ int pidfd = orphan_find (group, bundle);
	if (pidfd < 0)
		return 0;

	struct pollfd fd = { .fd = pidfd, .events = POLLIN };
	pidfd_send_signal (pidfd, SIGKILL, NULL, 0);
	return poll (&fd, 1, END_MS) > 0 ? 0
					 : silo_fail (err, SILO_UNAVAILABLE,
						      "the crun behind %s does not end after "
						      "SIGKILL",
						      bundle);
}
