/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cgroup.c - finding and ending containers by their cgroups, for container
 * plugins.
 *
 * A container's cgroups, of the same name in each hierarchy (v1) or in the one
 * tree (v2), are its one identity that survives a crash of the daemon and of
 * whatever had started it: nothing here reads a pid from a file, and every
 * process is checked again once its pidfd is held.  Any thread; no state.
 */
#include "core.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/vfs.h>
#include <linux/magic.h>
#include <silo/container.h>

#define CGROUP_ROOT "/sys/fs/cgroup"
#define TREES_MAX   32    /* hierarchies looked at */
#define DEPTH_MAX   4     /* of cgroups in a container's cgroup */
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
	trees->item[trees->n].real =
	    is_type (fd, CGROUP_SUPER_MAGIC) || is_type (fd, CGROUP2_SUPER_MAGIC);
	trees->item[trees->n++].fd = fd;
}

/* A folder below `parent`, to be read with readdir. */
static DIR *
open_folder (int parent, const char *name)
{
	int fd = openat (parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir (fd);
	if (!dir)
		util_close (&fd);
	return dir;
}

/* The next folder in it, or NULL. */
static const char *
next_folder (DIR *dir)
{
	struct dirent *entry;
	while ((entry = readdir (dir)))
		if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
			return entry->d_name;
	return NULL;
}

static int
trees_open (struct trees *trees, struct silo_error *err)
{
	trees->n = 0;
	_cleanup_closedir_ DIR *dir = open_folder (AT_FDCWD, CGROUP_ROOT);
	if (!dir)
		return silo_fail_sys (err, errno, "open %s", CGROUP_ROOT);
	if (is_type (dirfd (dir), CGROUP2_SUPER_MAGIC)) {
		int fd = fcntl (dirfd (dir), F_DUPFD_CLOEXEC, 3);
		if (fd < 0)
			return silo_fail_sys (err, errno, "open %s", CGROUP_ROOT);
		trees_add (trees, fd);
		return 0;
	}

	/* Links (cpu -> cpu,cpuacct) would name a hierarchy a second time.  Not every folder
	 * is a hierarchy: crun writes its files below "unified" even where nothing is
	 * mounted. */
	for (const char *name; trees->n < TREES_MAX && (name = next_folder (dir));) {
		int fd =
		    openat (dirfd (dir), name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0)
			trees_add (trees, fd);
	}
	return 0;
}

bool
silo_cgroup_v2 (void)
{
	struct statfs fs;
	return statfs (CGROUP_ROOT, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
}

/* v1 has a file for the sum of memory and swap unless the kernel was told not to count swap.
 * v2 shows its file below the root only; the daemon's own cgroup has it. */
bool
silo_cgroup_swap (void)
{
	if (!silo_cgroup_v2 ())
		return access (CGROUP_ROOT "/memory/memory.memsw.limit_in_bytes", F_OK) == 0;

	char line[2048] = "", path[4096];
	_cleanup_fclose_ FILE *f = fopen ("/proc/self/cgroup", "re");
	if (!f || !fgets (line, sizeof (line), f) || strncmp (line, "0::/", 4) != 0)
		return false;
	line[strcspn (line, "\n")] = '\0';
	snprintf (path, sizeof (path), "%s%s/memory.swap.max", CGROUP_ROOT, line + 3);
	return access (path, F_OK) == 0;
}

/* -- processes ------------------------------------------------------------------- */

/* Does /proc/PID/FILE have a line that `match` accepts? */
static bool
proc_has_line (pid_t pid, const char *file, bool (*match) (const char *line, const char *arg),
	       const char *arg)
{
	char path[64], line[4096];
	snprintf (path, sizeof (path), "/proc/%d/%s", (int) pid, file);
	_cleanup_fclose_ FILE *f = fopen (path, "re");
	bool found = false;

	while (f && !found && fgets (line, sizeof (line), f)) {
		line[strcspn (line, "\n")] = '\0';
		found = match (line, arg);
	}
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
line_is_first (const char *line, const char *arg)
{
	(void) arg;
	if (strncmp (line, "NSpid:\t", 7) != 0)
		return false;
	const char *last = strrchr (line + 7, '\t');
	return last && strcmp (last, "\t1") == 0;
}

/* A pidfd, if the process still is one of this cgroup now that it cannot be mistaken. */
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

/* Processes of a cgroup and those in it, up to `max`; the new number of them. */
static int
read_procs (int parent, const char *name, int depth, pid_t *ret, int n, int max)
{
	_cleanup_closedir_ DIR *dir = open_folder (parent, name);
	if (!dir)
		return n;
	int fd = openat (dirfd (dir), "cgroup.procs", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	_cleanup_fclose_ FILE *f = fd < 0 ? NULL : fdopen (fd, "r");
	if (!f)
		util_close (&fd);

	char line[32];
	while (f && n < max && fgets (line, sizeof (line), f)) {
		long pid = strtol (line, NULL, 10);
		if (pid > 1)
			ret[n++] = (pid_t) pid;
	}
	for (const char *child; depth > 0 && n < max && (child = next_folder (dir));)
		n = read_procs (dirfd (dir), child, depth - 1, ret, n, max);
	return n;
}

/* The same from the first hierarchy that has any: a start that was cut short is not in all. */
static int
find_procs (const struct trees *trees, const char *name, pid_t ret[BATCH])
{
	int n = 0;
	for (int i = 0; n == 0 && i < trees->n; i++)
		if (trees->item[i].real)
			n = read_procs (trees->item[i].fd, name, DEPTH_MAX, ret, 0, BATCH);
	return n;
}

static int
find_first (const struct trees *trees, const char *name, pid_t *ret_pid)
{
	pid_t pids[BATCH];
	int n = find_procs (trees, name, pids);

	for (int i = 0; i < n; i++) {
		int fd = open_member (pids[i], name);
		if (fd >= 0 && proc_has_line (pids[i], "status", line_is_first, NULL)) {
			*ret_pid = pids[i];
			return fd;
		}
		util_close (&fd);
	}
	return -1;
}

int
silo_cgroup_first (const char *name, pid_t *ret_pid, int *ret_pidfd, struct silo_error *err)
{
	SILO_CLEANUP (trees_close) struct trees trees = { .n = 0 };
	int r = trees_open (&trees, err);
	if (r < 0)
		return r;
	int fd = find_first (&trees, name, ret_pid);
	if (fd < 0)
		return silo_fail (err, SILO_NOTFOUND, "no container runs in cgroup %s", name);
	*ret_pidfd = fd;
	return 0;
}

/* -- the end ----------------------------------------------------------------------- */

static int64_t
end_deadline (void)
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
		int n = poll (&fd, 1, left > 0 ? (int) (left / 1000000) + 1 : 0);
		if (n > 0)
			return true;
		if (left <= 0)
			return false;
	}
}

/* The first process takes its whole pid namespace with it, faster than anything in there can
 * fork; the rest is looked for afterwards. */
int
silo_cgroup_kill (const char *name, struct silo_error *err)
{
	int64_t until = end_deadline ();
	SILO_CLEANUP (trees_close) struct trees trees = { .n = 0 };
	int r = trees_open (&trees, err);
	if (r < 0)
		return r;

	pid_t pid;
	_cleanup_close_ int first = find_first (&trees, name, &pid);
	bool gone = first < 0 || end_process (first, until);
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
			  "processes in cgroup %s have not ended after SIGKILL", name);
}

/* A cgroup and those in it.  One stays busy for a moment after its last process.  What is not
 * a cgroup also holds files.  Returns an errno value. */
static int
remove_group (int parent, const char *name, bool real, int depth, int64_t until)
{
	_cleanup_closedir_ DIR *dir = open_folder (parent, name);
	if (!dir)
		return errno == ENOENT ? 0 : errno;
	for (const char *child; depth > 0 && (child = next_folder (dir));) {
		int sys = remove_group (dirfd (dir), child, real, depth - 1, until);
		if (sys)
			return sys;
	}
	rewinddir (dir);
	for (struct dirent *entry; !real && (entry = readdir (dir));)
		if (entry->d_type == DT_REG)
			unlinkat (dirfd (dir), entry->d_name, 0);

	while (unlinkat (parent, name, AT_REMOVEDIR) < 0) {
		if (errno == ENOENT)
			return 0;
		if (errno != EBUSY || silo_monotonic () > until)
			return errno;
		poll (NULL, 0, RETRY_MS);
	}
	return 0;
}

int
silo_cgroup_remove (const char *name, struct silo_error *err)
{
	int64_t until = end_deadline ();
	SILO_CLEANUP (trees_close) struct trees trees = { .n = 0 };
	int r = trees_open (&trees, err);

	for (int i = 0; r == 0 && i < trees.n; i++) {
		int sys =
		    remove_group (trees.item[i].fd, name, trees.item[i].real, DEPTH_MAX, until);
		if (sys)
			r = silo_fail_sys (err, sys, "remove cgroup %s", name);
	}
	return r;
}

int
silo_cgroup_list (const char *prefix, silo_container_fn *fn, void *arg, struct silo_error *err)
{
	size_t len = strlen (prefix);
	SILO_CLEANUP (trees_close) struct trees trees = { .n = 0 };
	int r = trees_open (&trees, err);

	for (int i = 0; r == 0 && i < trees.n; i++) {
		_cleanup_closedir_ DIR *dir = open_folder (trees.item[i].fd, ".");
		if (!dir)
			return silo_fail_sys (err, errno, "read %s", CGROUP_ROOT);
		for (const char *name; r == 0 && (name = next_folder (dir));)
			if (strncmp (name, prefix, len) == 0)
				r = fn (arg, name + len);
	}
	return r;
}
