/* SPDX-License-Identifier: Apache-2.0 */
/*
 * container.c - the suite of the container kind: real containers in a Debian
 * tree, each with an overlay above it.  The mount namespace is ours already.
 */
#include "container.h"

#include <fcntl.h>
#include <fts.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define BOX_MS     120000 /* that a container may be silent before it counts as hung */
#define OUTPUT_MAX (1 << 20)

/* -- one container -------------------------------------------------------------- */

void
box_init (struct box *box, struct run *run, const char *script)
{
	static const char *const env[] = { BOX_PATH, NULL };

	*box = (struct box){ .process = { .pid = -1, .pidfd = -1, .out = -1, .err = -1 },
			     .out = SILO_BUF (OUTPUT_MAX),
			     .text = SILO_BUF (OUTPUT_MAX),
			     .status = -1 };
	snprintf (box->id, sizeof (box->id), "%s-%u", run->mark,
		  __atomic_add_fetch (&run->next, 1, __ATOMIC_RELAXED));
	box->spec = (struct silo_container_spec){
		.id = box->id,
		.rootfs = run->root,
		.argv = box->argv,
		.env = env,
		.cwd = "/",
		.hostname = "box",
	};
	box_argv (box, (const char *const[]){ "/bin/sh", "-c", script, run->mark, NULL });
}

void
box_argv (struct box *box, const char *const *argv)
{
	size_t n = 0;
	for (; argv[n] && n < ARRAY_SIZE (box->argv) - 1; n++)
		box->argv[n] = argv[n];
	box->argv[n] = NULL;
}

int
box_start (struct box *box, struct run *run, struct silo_error *err)
{
	return instance_call (run->c->instance, container, start, &box->spec, &box->process, err);
}

static void
box_read (int *fd, struct silo_buf *to)
{
	char chunk[65536];
	ssize_t n = read (*fd, chunk, sizeof (chunk));

	if (n > 0 && silo_buf_add (to, chunk, (size_t) n, NULL) < 0)
		tap_bail ("a container writes without end");
	if (n == 0 || (n < 0 && errno != EINTR)) {
		close (*fd);
		*fd = -1;
	}
}

/* Wait for more output; false at the end of both pipes. */
static bool
box_more (struct box *box)
{
	struct pollfd fds[2] = { { .fd = box->process.out, .events = POLLIN },
				 { .fd = box->process.err, .events = POLLIN } };

	if (box->process.out < 0 && box->process.err < 0)
		return false;
	int n = poll (fds, 2, BOX_MS);
	if (n == 0)
		tap_bail ("container %s hangs; so far: %s%s", box->id,
			  box->out.data ? (char *) box->out.data : "",
			  box->text.data ? (char *) box->text.data : "");
	if (n > 0 && fds[0].revents)
		box_read (&box->process.out, &box->out);
	if (n > 0 && fds[1].revents)
		box_read (&box->process.err, &box->text);
	return true;
}

bool
box_expect (struct box *box, const char *text)
{
	for (;;) {
		if (box->out.data && strstr ((char *) box->out.data, text))
			return true;
		if (!box_more (box))
			return false;
	}
}

int
box_wait (struct box *box)
{
	struct silo_error err = { 0 };

	while (box_more (box))
		;
	struct pollfd fd = { .fd = box->process.pidfd, .events = POLLIN };
	if (poll (&fd, 1, BOX_MS) == 0)
		tap_bail ("container %s has closed its output and does not end", box->id);
	if (silo_process_wait (&box->process, &box->status, &err) < 0)
		tap_bail ("container %s: %s", box->id, err.msg);
	return box->status;
}

int
box_kill (struct box *box, struct run *run, int sig)
{
	return instance_call (run->c->instance, container, kill, box->id, sig, NULL);
}

int
box_remove (struct box *box, struct run *run)
{
	struct silo_error err = { 0 };
	int r = instance_call (run->c->instance, container, remove, box->id, &err);
	if (r < 0)
		tap_note ("remove %s: %s", box->id, err.msg);
	return r;
}

void
box_free (struct box *box)
{
	silo_buf_free (&box->out);
	silo_buf_free (&box->text);
}

int
box_run (struct box *box, struct run *run)
{
	struct silo_error err = { 0 };

	if (box_start (box, run, &err) < 0) {
		tap_note ("start: %s", err.msg);
		return -1;
	}
	int status = box_wait (box);
	return box_remove (box, run) < 0 ? -1 : status;
}

bool
run_is (struct run *run, const char *script, int status, const char *out, const char *what)
{
	struct box box;
	box_init (&box, run, script);
	int got = box_run (&box, run);
	const char *said = box.out.data ? (char *) box.out.data : "";
	bool passed = tap_ok (got == status && strcmp (said, out) == 0, "%s", what);
	if (!passed)
		tap_note ("status %d, stdout \"%s\", stderr \"%s\"; want %d, \"%s\"", got, said,
			  box.text.data ? (char *) box.text.data : "", status, out);
	box_free (&box);
	return passed;
}

/* -- what is left ---------------------------------------------------------------- */

static bool
left_file (struct run *run, const char *name)
{
	char state[PATH_MAX];
	snprintf (state, sizeof (state), "%s/state", run->c->dir);
	char *const roots[] = { (char *) "/sys/fs/cgroup", state, NULL };
	bool found = false;

	FTS *fts = fts_open (roots, FTS_PHYSICAL | FTS_NOCHDIR | FTS_NOSTAT, NULL);
	for (FTSENT *entry; fts && (entry = fts_read (fts));) {
		if (entry->fts_info == FTS_DP || !strstr (entry->fts_name, name))
			continue;
		tap_note ("left: %s", entry->fts_path);
		found = true;
	}
	if (fts)
		fts_close (fts);
	return found;
}

static bool
left_process (const char *name)
{
	_cleanup_closedir_ DIR *dir = opendir ("/proc");
	bool found = false;

	for (struct dirent *entry; dir && (entry = readdir (dir));) {
		char path[300], line[8192] = "";
		long pid = strtol (entry->d_name, NULL, 10);
		if (pid <= 0 || pid == getpid ())
			continue;
		snprintf (path, sizeof (path), "/proc/%ld/cmdline", pid);
		_cleanup_close_ int fd = open (path, O_RDONLY | O_CLOEXEC);
		ssize_t n = fd < 0 ? -1 : read (fd, line, sizeof (line) - 1);
		for (ssize_t i = 0; i < n; i++)
			if (line[i] == '\0')
				line[i] = ' ';
		if (n > 0 && strstr (line, name)) {
			tap_note ("left: process %ld: %s", pid, line);
			found = true;
		}
	}
	return found;
}

bool
nothing_left (struct run *run, const char *id)
{
	bool process = left_process (id), file = left_file (run, id);
	return !process && !file && !is_listed (run->c->instance, id);
}

struct listed {
	const char *id;
	bool found;
};

static int
listed_visit (void *arg, const char *id)
{
	struct listed *listed = arg;
	if (strncmp (id, listed->id, strlen (listed->id)) == 0)
		listed->found = true;
	return 0;
}

bool
is_listed (struct silo_instance *instance, const char *id)
{
	struct listed listed = { .id = id };
	struct silo_error err = { 0 };
	if (instance_call (instance, container, list, listed_visit, &listed, &err) < 0)
		tap_bail ("list: %s", err.msg);
	return listed.found;
}

/* -- the suite --------------------------------------------------------------------- */

/* The tree that script/debian-tree makes; outside a source tree this machine's own root. */
static void
find_tree (char *ret, size_t size)
{
	const char *source = getenv ("SILO_TEST_SOURCE");
	_cleanup_buf_ struct silo_buf out = SILO_BUF (PATH_MAX);
	struct silo_error err = { 0 };
	char script[PATH_MAX];

	snprintf (ret, size, "/");
	if (!source)
		return;
	snprintf (script, sizeof (script), "%s/script/debian-tree", source);
	if (silo_run ((const char *const[]){ script, NULL }, NULL, 0, &out, &err) < 0)
		tap_bail ("a root file system: %s", err.msg);
	snprintf (ret, size, "%.*s", (int) strcspn ((char *) out.data, "\n"), (char *) out.data);
}

static void
mount_root (struct run *run)
{
	char tree[PATH_MAX], scratch[PATH_MAX];
	struct silo_error err = { 0 };

	find_tree (tree, sizeof (tree));
	_cleanup_close_ int lower = open (tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (lower < 0)
		tap_bail ("%s: %s", tree, strerror (errno));
	conform_mkdir (run->c, "root", run->root, sizeof (run->root));
	conform_mkdir (run->c, "scratch", scratch, sizeof (scratch));
	const struct silo_overlay overlay = { .lower = lower,
					      .upper = SILO_UPPER_TMPFS,
					      .upper_size = 64 << 20,
					      .scratch = scratch,
					      .target = run->root };
	if (silo_overlay_mount (&overlay, &err) < 0)
		tap_bail ("a root file system: %s", err.msg);
}

static int
count (const char *path)
{
	int n = 0;
	_cleanup_closedir_ DIR *dir = opendir (path);
	while (dir && readdir (dir))
		n++;
	return n;
}

static int
count_mounts (void)
{
	int n = 0;
	_cleanup_fclose_ FILE *f = fopen ("/proc/self/mountinfo", "re");
	for (int c; f && (c = getc (f)) != EOF;)
		n += c == '\n';
	return n;
}

int
conform_container (struct conform *c)
{
	struct run run = { .c = c };
	struct silo_error err = { 0 };

	if (c->role) {
		snprintf (run.root, sizeof (run.root), "%s/root", c->dir);
		return life_crash (&run);
	}
	snprintf (run.mark, sizeof (run.mark), "box%d", (int) getpid ());
	if (geteuid () != 0)
		tap_skip_all ("containers need root");
	mount_root (&run);

	if (!tap_is_int (instance_call (c->instance, container, probe, &err), 0,
			 "works on this machine"))
		tap_bail ("%s", err.msg);
	int fds = count ("/proc/self/fd"), mounts = count_mounts ();
	test_inside (&run);
	test_limits (&run);
	test_life (&run);

	tap_ok (nothing_left (&run, run.mark), "no process, cgroup or file is left");
	tap_is_int (count ("/proc/self/fd"), fds, "no descriptor is left");
	tap_is_int (count_mounts (), mounts, "no mount is left");
	umount2 (run.root, MNT_DETACH);
	return tap_done ();
}
