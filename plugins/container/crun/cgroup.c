/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cgroup.c - finding and ending containers by their cgroups.
 *
 * A container's cgroups, "silo-<state folder>-<id>" in each hierarchy (v1) or
 * in the one tree (v2), are its one identity that survives a crash of the
 * daemon and of crun: nothing here reads a pid from a file.  Any thread.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <linux/magic.h>
#include "crun.h"

#define CGROUP_ROOT "/sys/fs/cgroup"
#define TREES_MAX   32    /* hierarchies looked at */
#define BATCH       256   /* processes ended at a time */
#define END_MS      10000 /* that a killed process may take to be gone */
#define RETRY_MS    2     /* between attempts at removing a cgroup */

/* The roots of all hierarchies. */
struct trees {
	struct {
		int fd;
		bool real; /* else an ordinary folder, see trees_open */
	} item[TREES_MAX];
	int n;
};

static void
trees_close (struct trees *trees)
{
	while (trees->n > 0)
		close (trees->item[--trees->n].fd);
}

static bool
is_type (int fd, unsigned long type)
{
	struct statfs fs;
	return fstatfs (fd, &fs) == 0 && (unsigned long) fs.f_type == type;
}

static void
trees_add (struct trees *trees, int fd)
{
	bool real = is_type (fd, CGROUP_SUPER_MAGIC) || is_type (fd, CGROUP2_SUPER_MAGIC);
	trees->item[trees->n].real = real;
	trees->item[trees->n++].fd = fd;
}

static int
trees_open (struct trees *trees, struct silo_error *err)
{
	trees->n = 0;
	int root = open (CGROUP_ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return silo_fail_sys (err, errno, "open %s", CGROUP_ROOT);
	if (is_type (root, CGROUP2_SUPER_MAGIC)) {
		trees_add (trees, root);
		return 0;
	}

	DIR *dir = fdopendir (root);
	if (!dir) {
		int sys = errno;
		close (root);
		return silo_fail_sys (err, sys, "read %s", CGROUP_ROOT);
	}
	/* Links (cpu -> cpu,cpuacct) name a hierarchy a second time.  Not every folder is a
	 * hierarchy: crun writes its files below "unified" even where nothing is mounted. */
	for (struct dirent *entry; trees->n < TREES_MAX && (entry = readdir (dir));) {
		if (entry->d_name[0] == '.')
			continue;
		int fd =
		    openat (root, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0)
			trees_add (trees, fd);
	}
	closedir (dir);
	return 0;
}

bool
cgroup_is_v2 (void)
{
	struct statfs fs;
	return statfs (CGROUP_ROOT, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
}

/* v1 has a file for the sum of memory and swap unless the kernel was told not to count swap.
 * v2 shows its file below the root only; the daemon's own cgroup has it. */
bool
cgroup_has_swap (void)
{
	if (!cgroup_is_v2 ())
		return access (CGROUP_ROOT "/memory/memory.memsw.limit_in_bytes", F_OK) == 0;

	char line[PATH_MAX] = "", path[2 * PATH_MAX];
	FILE *f = fopen ("/proc/self/cgroup", "re");
	if (!f)
		return false;
	char *got = fgets (line, sizeof (line), f);
	fclose (f);
	if (!got || strncmp (line, "0::/", 4) != 0)
		return false;
	line[strcspn (line, "\n")] = '\0';
	snprintf (path, sizeof (path), "%s%s/memory.swap.max", CGROUP_ROOT, line + 3);
	return access (path, F_OK) == 0;
}

static void
cgroup_name (const struct crun *crun, const char *id, char ret[CRUN_PREFIX + CRUN_ID_MAX])
{
	snprintf (ret, CRUN_PREFIX + CRUN_ID_MAX, "%s%s", crun->prefix, id);
}

/* -- processes ------------------------------------------------------------------- */

/* A line of /proc/PID/FILE that `match` accepts? */
static bool
proc_has_line (pid_t pid, const char *file, bool (*match) (const char *line, const char *arg),
	       const char *arg)
{
	char path[64], line[PATH_MAX];
	snprintf (path, sizeof (path), "/proc/%d/%s", (int) pid, file);
	FILE *f = fopen (path, "re");
	bool found = false;

	while (f && !found && fgets (line, sizeof (line), f)) {
		line[strcspn (line, "\n")] = '\0';
		found = match (line, arg);
	}
	if (f)
		fclose (f);
	return found;
}

/* "7:pids:/NAME", or below it */
static bool
line_in_cgroup (const char *line, const char *name)
{
	const char *at = strstr (line, ":/");
	size_t len = strlen (name);
	return at && strncmp (at + 2, name, len) == 0 &&
	       (at[2 + len] == '\0' || at[2 + len] == '/');
}

/* "NSpid:\t4711\t1": the first process of a pid namespace below ours */
static bool
line_is_init (const char *line, const char *arg)
{
	(void) arg;
	if (strncmp (line, "NSpid:\t", 7) != 0)
		return false;
	const char *last = strrchr (line + 7, '\t');
	return last && strcmp (last, "\t1") == 0;
}

/* The start of a file of /proc, terminated; 0: there is none. */
static size_t
read_proc (const char *path, char *ret, size_t size)
{
	_cleanup_close_ int fd = open (path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read (fd, ret, size - 1);
	if (n < 0)
		n = 0;
	ret[n] = '\0';
	return (size_t) n;
}

/* A pidfd, if the process still is one of this cgroup once it cannot be mistaken any more. */
static int
open_member (pid_t pid, const char *name)
{
	int fd = pidfd_open (pid, 0);
	if (fd >= 0 && !proc_has_line (pid, "cgroup", line_in_cgroup, name)) {
		close (fd);
		fd = -1;
	}
	return fd;
}

/* Up to `max` processes of a cgroup in one hierarchy. */
static int
read_procs (int tree, const char *name, pid_t *ret, int max)
{
	char path[CRUN_PREFIX + CRUN_ID_MAX + 16], line[32];
	snprintf (path, sizeof (path), "%s/cgroup.procs", name);
	int fd = openat (tree, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	FILE *f = fd < 0 ? NULL : fdopen (fd, "r");
	int n = 0;

	if (!f) {
		if (fd >= 0)
			close (fd);
		return 0;
	}
	while (n < max && fgets (line, sizeof (line), f)) {
		long pid = strtol (line, NULL, 10);
		if (pid > 1)
			ret[n++] = (pid_t) pid;
	}
	fclose (f);
	return n;
}

/* The same from the first hierarchy that has any: a start that was cut short is not in all. */
static int
find_procs (const struct trees *trees, const char *name, pid_t ret[BATCH])
{
	int n = 0;
	for (int i = 0; n == 0 && i < trees->n; i++)
		if (trees->item[i].real)
			n = read_procs (trees->item[i].fd, name, ret, BATCH);
	return n;
}

static int
find_init (const struct trees *trees, const char *name, pid_t *ret_pid)
{
	pid_t pids[BATCH];
	int n = find_procs (trees, name, pids);

	for (int i = 0; i < n; i++) {
		int fd = open_member (pids[i], name);
		if (fd >= 0 && proc_has_line (pids[i], "status", line_is_init, NULL)) {
			*ret_pid = pids[i];
			return fd;
		}
		if (fd >= 0)
			close (fd);
	}
	return -1;
}

int
cgroup_init (const struct crun *crun, const char *id, int *ret_pidfd, struct silo_error *err)
{
	char name[CRUN_PREFIX + CRUN_ID_MAX];
	SILO_CLEANUP (trees_close) struct trees trees = { .n = 0 };
	int r = trees_open (&trees, err);
	if (r < 0)
		return r;

	cgroup_name (crun, id, name);
	pid_t pid;
	int fd = find_init (&trees, name, &pid);
	if (fd < 0)
		return silo_fail (err, SILO_NOTFOUND, "container %s does not run", id);
	*ret_pidfd = fd;
	return 0;
}

/* A pidfd of the `crun run` that an earlier daemon has left: the parent of the container's first
 * process, if it was started with the container's bundle. */
static int
find_starter (const struct crun *crun, const char *id, pid_t init)
{
	char path[64], text[8192], bundle[PATH_MAX];
	snprintf (path, sizeof (path), "/proc/%d/stat", (int) init);
	if (read_proc (path, text, sizeof (text)) == 0)
		return -1;
	const char *after = strrchr (text, ')'); /* " S PPID ..." */
	long parent = after && strlen (after) > 4 ? strtol (after + 4, NULL, 10) : 0;
	if (parent <= 1 || parent == getpid ())
		return -1;

	int fd = pidfd_open ((pid_t) parent, 0);
	snprintf (path, sizeof (path), "/proc/%ld/cmdline", parent);
	size_t len = fd < 0 ? 0 : read_proc (path, text, sizeof (text));
	snprintf (bundle, sizeof (bundle), "%s/%s", crun->bundles, id);
	for (const char *word = text; word < text + len; word += strlen (word) + 1)
		if (strcmp (word, bundle) == 0)
			return fd;
	if (fd >= 0)
		close (fd);
	return -1;
}

/* -- the end ----------------------------------------------------------------------- */

static int64_t
deadline (void)
{
	return silo_monotonic () + END_MS * INT64_C (1000000);
}

/* Kill it and wait until it is gone, or the deadline. */
static bool
end_process (int pidfd, int64_t until)
{
	struct pollfd fd = { .fd = pidfd, .events = POLLIN };

	pidfd_send_signal (pidfd, SIGKILL, NULL, 0);
	for (;;) {
		int64_t left = until - silo_monotonic ();
		int n = poll (&fd, 1, left > 0 ? (int) (left / 1000000) : 0);
		if (n > 0)
			return true;
		if (n == 0 && left <= 0)
			return false;
	}
}

/* The first process takes its whole pid namespace with it, faster than anything in there can
 * fork. */
int
cgroup_kill (const struct crun *crun, const char *id, struct silo_error *err)
{
	char name[CRUN_PREFIX + CRUN_ID_MAX];
	int64_t until = deadline ();
	SILO_CLEANUP (trees_close) struct trees trees = { .n = 0 };
	int r = trees_open (&trees, err);
	if (r < 0)
		return r;

	cgroup_name (crun, id, name);
	pid_t pid = 0;
	_cleanup_close_ int init = find_init (&trees, name, &pid);
	_cleanup_close_ int starter = init < 0 ? -1 : find_starter (crun, id, pid);
	bool gone = starter < 0 || end_process (starter, until);
	gone = gone && (init < 0 || end_process (init, until));
	while (gone) {
		pid_t pids[BATCH];
		int n = find_procs (&trees, name, pids);
		if (n == 0)
			return 0;
		for (int i = 0; gone && i < n; i++) {
			_cleanup_close_ int fd = open_member (pids[i], name);
			gone = fd < 0 || end_process (fd, until);
		}
		gone = gone && silo_monotonic () < until;
	}
	return silo_fail (err, SILO_UNAVAILABLE,
			  "processes of container %s have not ended after SIGKILL", id);
}

/* A cgroup stays busy for a moment after its last process. */
static int
remove_one (int tree, const char *name, int64_t until)
{
	while (unlinkat (tree, name, AT_REMOVEDIR) < 0) {
		if (errno == ENOENT)
			return 0;
		if (errno != EBUSY || silo_monotonic () > until)
			return errno;
		poll (NULL, 0, RETRY_MS);
	}
	return 0;
}

int
cgroup_remove (const struct crun *crun, const char *id, struct silo_error *err)
{
	char name[CRUN_PREFIX + CRUN_ID_MAX];
	int64_t until = deadline ();
	SILO_CLEANUP (trees_close) struct trees trees = { .n = 0 };
	int r = trees_open (&trees, err);

	cgroup_name (crun, id, name);
	for (int i = 0; r == 0 && i < trees.n; i++) {
		int tree = trees.item[i].fd;
		int sys = trees.item[i].real ? remove_one (tree, name, until)
					     : bundle_delete_at (tree, name);
		if (sys)
			r = silo_fail_sys (err, sys, "remove the cgroup %s", name);
	}
	return r;
}

int
cgroup_list (const struct crun *crun, silo_container_fn *fn, void *arg, struct silo_error *err)
{
	size_t prefix = strlen (crun->prefix);
	SILO_CLEANUP (trees_close) struct trees trees = { .n = 0 };
	int r = trees_open (&trees, err);

	for (int i = 0; r == 0 && i < trees.n; i++) {
		int fd = openat (trees.item[i].fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		DIR *dir = fd < 0 ? NULL : fdopendir (fd);
		if (!dir) {
			r = silo_fail_sys (err, errno, "read %s", CGROUP_ROOT);
			if (fd >= 0)
				close (fd);
			break;
		}
		for (struct dirent *entry; r == 0 && (entry = readdir (dir));)
			if (entry->d_type == DT_DIR &&
			    strncmp (entry->d_name, crun->prefix, prefix) == 0 &&
			    strlen (entry->d_name + prefix) <= CRUN_ID_MAX)
				r = fn (arg, entry->d_name + prefix);
		closedir (dir);
	}
	return r;
}
