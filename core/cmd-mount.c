/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd-mount.c - `silo mount` and `silo umount`: an image as a folder, for
 * people, in the mount namespace of whoever asks.  No daemon takes part.
 *
 * A root file system that the kernel serves alone (rootfs/erofs) is mounted by
 * this process, which then ends.  One that a process has to serve (rootfs/fuse)
 * is mounted by a second `silo mount --foreground` in the background; this
 * process waits until that says on its stdout that the mount is ready.
 */
#include "mounts.h"
#include "store.h"

#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/stat.h>

/* How long `silo umount` waits for the serving process to end. */
#define UMOUNT_WAIT_MS 10000

/* -- arguments -- */

struct mount_args {
	const char *config;
	const char *image;
	char dir[PATH_MAX]; /* absolute */
	const char *rootfs; /* instance; NULL: the first that works */
	bool writable;
	bool foreground;
	bool log; /* once it is mounted, messages go to a file beside the record */
};

static const char mount_help[] =
    "usage: silo mount IMAGE DIR [--rw] [--rootfs NAME] [--foreground]\n"
    "\n"
    "Mount an image on DIR, an empty folder, read-only.\n"
    "\n"
    "  --rw            allow writes; they are thrown away with the mount\n"
    "  --rootfs NAME   by this instance of silo.ini, not the first that works\n"
    "  --foreground    if this process has to serve the mount, do so here and end\n"
    "                  with it, instead of in the background\n"
    "  --log           with --foreground: once mounted, messages go to a file below\n"
    "                  the state folder instead of to stderr\n"
    "  --help\n"
    "\n"
    "`silo umount DIR` ends it.\n";

static const char umount_help[] =
    "usage: silo umount DIR\n"
    "\n"
    "End what `silo mount` has mounted on DIR.  Files of it that are\n"
    "still open stay readable if the kernel serves them alone.\n"
    "\n"
    "  --help\n";

/* Absolute and without symlinks.  A mount whose server has died cannot be looked at, so its
 * own name is not: only the folder that holds it. */
static int
mount_path (const char *dir, char ret[PATH_MAX], struct silo_error *err)
{
	char parent[PATH_MAX];

	if (realpath (dir, ret))
		return 0;
	if (errno != ENOTCONN && errno != EIO && errno != ECONNABORTED)
		return silo_fail_sys (err, errno, "%s", dir);

	size_t len = strlen (dir);
	while (len > 1 && dir[len - 1] == '/')
		len--;
	size_t name = len;
	while (name > 0 && dir[name - 1] != '/')
		name--;
	if (name >= sizeof (parent))
		return silo_fail_sys (err, ENAMETOOLONG, "%s", dir);
	snprintf (parent, sizeof (parent), "%.*s", (int) name, name ? dir : "");
	if (!realpath (name ? parent : ".", ret))
		return silo_fail_sys (err, errno, "%s", dir);
	size_t used = strlen (ret);
	if (used > 1)
		ret[used++] = '/';
	if (used + (len - name) >= PATH_MAX)
		return silo_fail_sys (err, ENAMETOOLONG, "%s", dir);
	memcpy (ret + used, dir + name, len - name);
	ret[used + (len - name)] = '\0';
	return 0;
}

/* -1: go on; else the exit status. */
static int
mount_parse (struct cli *cli, struct mount_args *args)
{
	static const struct option options[] = {
		{ "rw", no_argument, NULL, 'w' },
		{ "rootfs", required_argument, NULL, 'r' },
		{ "foreground", no_argument, NULL, 'f' },
		{ "log", no_argument, NULL, 'l' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct silo_error err;
	int c;

	args->config = cli->config;
	optind = 0; /* begin anew: the program has parsed its own arguments */
	while ((c = getopt_long (cli->argc, cli->argv, "h", options, NULL)) >= 0) {
		switch (c) {
		case 'w':
			args->writable = true;
			break;
		case 'r':
			args->rootfs = optarg;
			break;
		case 'f':
			args->foreground = true;
			break;
		case 'l':
			args->log = true;
			break;
		case 'h':
			fputs (mount_help, stdout);
			return 0;
		default:
			return 2;
		}
	}
	if (cli->argc - optind != 2) {
		fputs (mount_help, stderr);
		return 2;
	}
	args->image = cli->argv[optind];
	if (mount_path (cli->argv[optind + 1], args->dir, &err) < 0)
		return cli_fail (&err);
	return -1;
}

/* DIR is an empty folder; what it holds would be hidden, and a mount by us is not empty. */
static int
mount_check_dir (const char *dir, struct silo_error *err)
{
	_cleanup_closedir_ DIR *folder = opendir (dir);
	struct dirent *entry;

	if (!folder)
		return silo_fail_sys (err, errno, "%s", dir);
	while ((entry = readdir (folder))) {
		if (strcmp (entry->d_name, ".") != 0 && strcmp (entry->d_name, "..") != 0)
			return silo_fail (err, SILO_PRECONDITION,
					  "%s is not empty: silo mounts on empty folders only",
					  dir);
	}
	return 0;
}

/* -- which rootfs -- */

static int
mount_choose (struct core *core, const char *name, struct silo_instance **ret,
	      struct silo_error *err)
{
	const struct instance_list *list = &core->wiring.rootfs;

	if (!name)
		return probe_rootfs (core, ret, err);
	for (size_t i = 0; i < list->n; i++) {
		if (strcmp (list->item[i]->name, name) == 0) {
			*ret = list->item[i];
			return 0;
		}
	}
	return silo_fail (err, SILO_INVALID, "[silo] rootfs does not name %s", name);
}

/* -- mounting, in this process -- */

static int
mount_attach (struct core *core, struct silo_instance *rootfs, const struct mount_args *args,
	      const char *meta, const struct mount_record *record, void **ret_mount,
	      struct silo_error *err)
{
	char scratch[PATH_MAX];

	if (snprintf (scratch, sizeof (scratch), "%s/scratch", record->folder) >=
	    (int) sizeof (scratch))
		return silo_fail (err, SILO_RANGE, "path %s is too long", record->folder);
	const struct silo_rootfs_spec spec = {
		.meta = meta,
		.content = core->wiring.content,
		.target = args->dir,
		.scratch = scratch,
		.writable = args->writable,
		.upper_size = core->settings->upper_size,
	};
	return instance_call (rootfs, rootfs, mount, &spec, ret_mount, err);
}

/* Point stdout at nothing and stderr at the log, so that nobody's terminal or pipe is kept. */
static int
mount_redirect (const struct mount_record *record, struct silo_error *err)
{
	_cleanup_close_ int null = open ("/dev/null", O_RDWR | O_CLOEXEC);
	char path[PATH_MAX];

	snprintf (path, sizeof (path), "%s/log", record->folder);
	_cleanup_close_ int log = open (path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (null < 0 || log < 0)
		return silo_fail_sys (err, errno, "%s", path);
	if (dup2 (null, STDOUT_FILENO) < 0 || dup2 (log, STDERR_FILENO) < 0)
		return silo_fail_sys (err, errno, "%s", path);
	return 0;
}

/* The signals that ask a serving process to end; blocked in all of its threads. */
static void
mount_signals (sigset_t *ret)
{
	sigemptyset (ret);
	sigaddset (ret, SIGINT);
	sigaddset (ret, SIGTERM);
	sigaddset (ret, SIGHUP);
	sigaddset (ret, SIGQUIT);
}

static void *
mount_signalled (void *arg)
{
	const struct mount_record *record = arg;
	sigset_t set;
	int sig;

	mount_signals (&set);
	if (sigwait (&set, &sig) == 0)
		umount2 (record->target, MNT_DETACH | UMOUNT_NOFOLLOW);
	return NULL;
}

/* Until somebody unmounts it, or tells us to. */
static int
mount_serve (struct silo_instance *rootfs, void *mount, struct mount_record *record,
	     struct silo_error *err)
{
	pthread_t thread;

	int sys = pthread_create (&thread, NULL, mount_signalled, record);
	if (sys != 0)
		return silo_fail_sys (err, sys, "thread");
	int r = instance_call (rootfs, rootfs, wait, mount, err);
	/* Unmounting a second time does nothing: ours has gone. */
	pthread_cancel (thread);
	pthread_join (thread, NULL);
	return r;
}

static int
mount_ready (const struct mount_args *args, const struct mount_record *record,
	     struct silo_instance *rootfs, struct silo_error *err)
{
	printf ("mounted %s on %s by rootfs.%s\n", args->image, args->dir, rootfs->name);
	if (fflush (stdout) != 0)
		return silo_fail_sys (err, errno, "stdout");
	return args->log ? mount_redirect (record, err) : 0;
}

/* Mount, say so, and serve if that is our part.  The record goes with the mount. */
static int
mount_here (struct core *core, struct silo_instance *rootfs, const struct mount_args *args,
	    const char *meta, struct silo_error *err)
{
	bool served = instance_ops (rootfs, rootfs)->wait;
	struct mount_record *record;
	void *mount;

	int r = mounts_new (core, args->dir, args->image, rootfs->name, &record, err);
	if (r < 0)
		return r;
	r = mount_attach (core, rootfs, args, meta, record, &mount, err);
	if (r < 0) {
		mounts_remove (record, NULL);
		return r;
	}
	r = mounts_commit (record, served, err);
	if (r == 0)
		r = mount_ready (args, record, rootfs, err);
	if (r == 0 && served)
		r = mount_serve (rootfs, mount, record, err);
	if (r == 0 && !served) {
		mounts_free (record);
		return 0;
	}

	int u = instance_call (rootfs, rootfs, unmount, mount, r < 0 ? NULL : err);
	int m = mounts_remove (record, r < 0 || u < 0 ? NULL : err);
	return r < 0 ? r : u < 0 ? u : m;
}

/* -- mounting, in a process in the background -- */

/* Pass on what the server says on stderr, until it says on stdout that the mount is ready
 * (*ret_ready) or ends. */
static int
mount_listen (const struct silo_process *process, bool *ret_ready, struct silo_error *err)
{
	struct pollfd fds[2] = {
		{ .fd = process->out, .events = POLLIN },
		{ .fd = process->err, .events = POLLIN },
	};
	char buf[1024];

	while (fds[0].fd >= 0 || fds[1].fd >= 0) {
		if (poll (fds, 2, -1) < 0) {
			if (errno == EINTR)
				continue;
			return silo_fail_sys (err, errno, "poll");
		}
		for (int i = 1; i >= 0; i--) {
			if (fds[i].fd < 0 || fds[i].revents == 0)
				continue;
			ssize_t n = read (fds[i].fd, buf, sizeof (buf));
			if (n <= 0)
				fds[i].fd = -1;
			else if (i == 1)
				fwrite (buf, 1, (size_t) n, stderr);
			else if (memchr (buf, '\n', (size_t) n)) {
				fwrite (buf, 1, (size_t) n, stdout);
				*ret_ready = true;
				return 0;
			}
		}
	}
	*ret_ready = false;
	return 0;
}

static int
mount_background (const struct mount_args *args, const char *rootfs, int *ret_status,
		  struct silo_error *err)
{
	char config[PATH_MAX], program[PATH_MAX];
	const char *argv[16];
	int n = 0;

	/* The other process starts in the root folder. */
	if (!realpath (args->config, config))
		return silo_fail_sys (err, errno, "%s", args->config);
	/* By its name, for ps.  It may have been replaced since we started. */
	if (!realpath ("/proc/self/exe", program))
		snprintf (program, sizeof (program), "/proc/self/exe");
	argv[n++] = program;
	argv[n++] = "--config";
	argv[n++] = config;
	argv[n++] = "mount";
	argv[n++] = "--foreground";
	argv[n++] = "--log";
	argv[n++] = "--rootfs";
	argv[n++] = rootfs;
	if (args->writable)
		argv[n++] = "--rw";
	argv[n++] = "--";
	argv[n++] = args->image;
	argv[n++] = args->dir;
	argv[n] = NULL;

	const struct silo_spawn spawn = {
		.argv = argv, .in = -1, .out = true, .err = true, .session = true
	};
	struct silo_process process;
	bool ready;
	int r = silo_spawn (&spawn, &process, err);
	if (r < 0)
		return r;
	r = mount_listen (&process, &ready, err);
	if (r < 0 || !ready) {
		int w = silo_process_wait (&process, ret_status, r < 0 ? NULL : err);
		return r < 0 ? r : w;
	}
	/* It lives on without us. */
	util_close (&process.out);
	util_close (&process.err);
	util_close (&process.pidfd);
	*ret_status = 0;
	return 0;
}

/* -- the verbs -- */

/* *ret_pin keeps the image until whoever serves the mount has its metadata file open. */
static int
mount_open (struct core *core, const struct mount_args *args, char meta[PATH_MAX], int *ret_pin,
	    struct silo_instance **ret_rootfs, struct silo_error *err)
{
	_cleanup_free_ struct image_copy *image = NULL, *now = NULL;
	_cleanup_close_ int pin = -1;

	int r = mount_check_dir (args->dir, err);
	if (r == 0)
		r = image_find (core, args->image, &image, err);
	if (r == 0)
		r = image_pin_current (core, &image->image, &pin, &now, err);
	if (r == 0)
		r = image_meta_path (core, now ? &now->image : &image->image, meta, PATH_MAX, err);
	if (r == 0)
		r = mount_choose (core, args->rootfs, ret_rootfs, err);
	if (r == 0)
		*ret_pin = silo_steal_fd (&pin);
	return r;
}

int
cmd_mount (struct cli *cli)
{
	struct mount_args args = { 0 };
	struct silo_instance *rootfs;
	struct silo_error err = { 0 };
	struct core *core;
	char meta[PATH_MAX], name[128] = "";
	_cleanup_close_ int pin = -1;
	int status = mount_parse (cli, &args);
	if (status >= 0)
		return status;

	/* Before any thread is started, so that none gets them. */
	sigset_t set, before;
	mount_signals (&set);
	if (args.foreground)
		pthread_sigmask (SIG_BLOCK, &set, &before);

	int r = core_open (args.config, WIRE_OFFLINE, CORE_CREATE, &core, &err);
	if (r < 0)
		return cli_fail (&err);
	r = mount_open (core, &args, meta, &pin, &rootfs, &err);
	if (r == 0 && (args.foreground || !instance_ops (rootfs, rootfs)->wait))
		r = mount_here (core, rootfs, &args, meta, &err);
	else if (r == 0)
		snprintf (name, sizeof (name), "%s", rootfs->name);
	core_close (core);
	status = 0;
	if (r == 0 && name[0])
		r = mount_background (&args, name, &status, &err);
	return r < 0 ? cli_fail (&err) : status;
}

/* Whatever is on top of the target now: is it ours? */
static int
umount_check (const struct mount_record *record, struct silo_error *err)
{
	struct silo_error ignored;
	uint64_t id;

	/* Its server has died and it cannot be looked at: it is ours. */
	if (mounts_id (record->target, &id, &ignored) < 0 || id == record->id)
		return 0;
	return silo_fail (err, SILO_PRECONDITION,
			  "something else is mounted over %s: unmount that first", record->target);
}

/* A descriptor of the process that serves it; -1 when it has died, or there is none.  To be
 * asked while it is mounted: whose lock is held cannot have ended, so the number is its own. */
static int
umount_server (struct mount_record *record)
{
	struct silo_error busy;

	if (record->server <= 0)
		return -1;
	_cleanup_close_ int pidfd = pidfd_open (record->server, 0);
	if (mounts_lock (record, &busy) != SILO_UNAVAILABLE)
		return -1;
	return silo_steal_fd (&pidfd);
}

/* It notices, cleans up and ends. */
static int
umount_wait (const struct mount_record *record, int pidfd, struct silo_error *err)
{
	struct pollfd fds = { .fd = pidfd, .events = POLLIN };
	int n;

	do
		n = poll (&fds, 1, UMOUNT_WAIT_MS);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return silo_fail_sys (err, errno, "poll");
	if (n == 0)
		return silo_fail (err, SILO_TIMEOUT,
				  "process %d, which served %s, has not ended within %d seconds",
				  (int) record->server, record->target, UMOUNT_WAIT_MS / 1000);
	return 0;
}

static int
umount_record (struct mount_record *record, bool mounted, struct silo_error *err)
{
	_cleanup_close_ int pidfd = umount_server (record);

	if (mounted) {
		int r = umount_check (record, err);
		if (r < 0)
			return r;
		if (umount2 (record->target, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
			return silo_fail_sys (err, errno, "unmount %s", record->target);
	}
	return pidfd >= 0 ? umount_wait (record, pidfd, err) : 0;
}

static int
umount_run (struct core *core, const char *dir, struct silo_error *err)
{
	struct mount_record *record;
	char target[PATH_MAX];
	bool mounted;

	int r = mount_path (dir, target, err);
	if (r == 0)
		r = mounts_find (core, target, &record, &mounted, err);
	if (r < 0)
		return r;
	r = umount_record (record, mounted, err);
	if (r < 0) {
		mounts_free (record);
		return r;
	}
	return mounts_remove (record, err);
}

int
cmd_umount (struct cli *cli)
{
	static const struct option options[] = { { "help", no_argument, NULL, 'h' },
						 { NULL, 0, NULL, 0 } };
	struct silo_error err = { 0 };
	struct core *core;
	int c;

	optind = 0;
	while ((c = getopt_long (cli->argc, cli->argv, "h", options, NULL)) >= 0) {
		if (c == 'h')
			fputs (umount_help, stdout);
		return c == 'h' ? 0 : 2;
	}
	if (cli->argc - optind != 1) {
		fputs (umount_help, stderr);
		return 2;
	}

	int r = core_new (cli->config, 0, &core, &err);
	if (r < 0)
		return cli_fail (&err);
	r = umount_run (core, cli->argv[optind], &err);
	core_close (core);
	return r < 0 ? cli_fail (&err) : 0;
}
