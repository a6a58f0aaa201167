/* SPDX-License-Identifier: Apache-2.0 */
/*
 * podman.c - containers by podman, one `podman run` per container.
 *
 * `podman run` is our child and stays as long as its container; conmon and the
 * runtime behind it are podman's.  What containers there are, podman's storage
 * below the state folder and the cgroups say.  Operations run
 * on any number of pool threads.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include "podman.h"

#define TOOL_MS    60000 /* for a podman command that should take a tenth of a second */
#define STARTER_MS 5000  /* that `podman run` may take to be gone after SIGKILL */
#define LIST_MAX   (4 << 20)

static bool
id_valid (const char *id)
{
	size_t len = strspn (id, "abcdefghijklmnopqrstuvwxyz0123456789-");
	return len > 0 && len <= PODMAN_ID_MAX && id[len] == '\0';
}

/* Of the container for podman, and of its cgroups. */
static void
id_name (const struct podman *podman, const char *id, char ret[PODMAN_NAME])
{
	snprintf (ret, PODMAN_NAME, "%s%s", podman->prefix, id);
}

/* podman's environment: no setting of the host, nothing of the daemon's. */
#define PODMAN_ENV(podman)                                                                     \
	{                                                                                      \
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", \
		    (podman)->settings, (podman)->storage, NULL                                \
	}

/* -- start --------------------------------------------------------------------- */

static int
start_check (const struct silo_container_spec *spec, struct silo_error *err)
{
	if (!id_valid (spec->id))
		return silo_fail (err, SILO_INVALID,
				  "container id \"%.80s\" is not 1 to %d of a-z, 0-9 and -",
				  spec->id, PODMAN_ID_MAX);
	if (!spec->argv[0])
		return silo_fail (err, SILO_INVALID, "container %s has no program to run",
				  spec->id);
	return 0;
}

int
podman_start (void *self, const struct silo_container_spec *spec, struct silo_process *ret,
	      struct silo_error *err)
{
	struct podman *podman = self;
	SILO_CLEANUP (args_free) struct args args = { NULL, 0, false };
	assert (podman->magic == PODMAN_MAGIC);

	int r = start_check (spec, err);
	if (r < 0)
		return r;
	if (podman->profile.code < 0)
		return silo_fail (err, podman->profile.code, "%s", podman->profile.msg);
	r = files_cwd (spec, err);
	if (r == 0)
		r = args_run (&args, podman, spec, err);
	if (r == 0)
		r = files_env (podman, spec, err);
	if (r < 0)
		return r;

	const char *const env[] = PODMAN_ENV (podman);
	/* A session of its own: Ctrl-C at the daemon is not for containers. */
	const struct silo_spawn spawn = { .argv = (const char *const *) args.item,
					  .env = env,
					  .in = -1,
					  .out = true,
					  .err = true,
					  .session = true };
	struct silo_process process = { .pidfd = -1 };
	r = silo_spawn (&spawn, &process, err);
	if (r == 0)
		r = silo_children_add (podman->children, spec->id, process.pidfd, err);
	if (r < 0) {
		int status;
		if (process.pidfd >= 0) {
			pidfd_send_signal (process.pidfd, SIGKILL, NULL, 0);
			silo_process_wait (&process, &status, NULL);
		}
		podman_remove (podman, spec->id, NULL);
		return r;
	}
	*ret = process;
	return 0;
}

static int
podman_kill (void *self, const char *id, int sig, struct silo_error *err)
{
	struct podman *podman = self;
	char name[PODMAN_NAME];
	pid_t pid;
	int first = -1;
	assert (podman->magic == PODMAN_MAGIC);

	id_name (podman, id, name);
	int r = silo_cgroup_first (name, &pid, &first, err);
	/* Not there yet?  Then podman is still at work; without it, nothing will start. */
	if (r == SILO_NOTFOUND && sig == SIGKILL &&
	    silo_children_signal (podman->children, id, sig))
		return 0;
	if (r < 0)
		return r;
	int sys = pidfd_send_signal (first, sig, NULL, 0) < 0 ? errno : 0;
	close (first);
	if (sys == ESRCH)
		return silo_fail (err, SILO_NOTFOUND, "container %s has ended", id);
	return sys ? silo_fail_sys (err, sys, "send signal %d to container %s", sig, id) : 0;
}

/* -- remove -------------------------------------------------------------------- */

/* Was this process started with "--name NAME", by us? */
static bool
is_starter (const char *pid, const char *name)
{
	char path[300], text[32768];
	struct stat st;
	snprintf (path, sizeof (path), "/proc/%s/cmdline", pid);
	_cleanup_close_ int fd = open (path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat (fd, &st) < 0 || st.st_uid != geteuid ())
		return false;
	ssize_t n = read (fd, text, sizeof (text) - 1);
	if (n <= 0)
		return false;
	text[n] = '\0';

	bool next = false;
	for (const char *word = text; word < text + n; word += strlen (word) + 1) {
		if (next && strcmp (word, name) == 0)
			return true;
		next = strcmp (word, "--name") == 0;
	}
	return false;
}

/* End a `podman run` that an earlier daemon has left, so that it creates nothing any more. */
static int
end_orphan (const char *name, struct silo_error *err)
{
	DIR *dir = opendir ("/proc");
	int r = 0;

	if (!dir)
		return silo_fail_sys (err, errno, "read /proc");
	for (struct dirent *entry; r == 0 && (entry = readdir (dir));) {
		long pid = strtol (entry->d_name, NULL, 10);
		if (pid <= 1 || !is_starter (entry->d_name, name))
			continue;
		_cleanup_close_ int fd = pidfd_open ((pid_t) pid, 0);
		/* Again: the number may be another's by now. */
		if (fd < 0 || !is_starter (entry->d_name, name))
			continue;
		pidfd_send_signal (fd, SIGKILL, NULL, 0);
		struct pollfd end = { .fd = fd, .events = POLLIN };
		if (poll (&end, 1, STARTER_MS) == 0)
			r = silo_fail (err, SILO_UNAVAILABLE,
				       "podman run %s does not end after SIGKILL", name);
	}
	closedir (dir);
	return r;
}

static int
tool_rm (const struct podman *podman, const char *name, struct silo_error *err)
{
	SILO_CLEANUP (args_free) struct args args = { NULL, 0, false };
	const char *const env[] = PODMAN_ENV (podman);

	args_common (&args, podman);
	args_add (&args, "rm");
	args_add (&args, "--force");
	args_add (&args, "--ignore");
	args_add (&args, "--time=0");
	args_add (&args, "--");
	args_add (&args, "%s", name);
	if (args.failed)
		return silo_fail_nomem (err);
	return silo_run ((const char *const *) args.item, env, TOOL_MS, NULL, err);
}

int
podman_remove (void *self, const char *id, struct silo_error *err)
{
	struct podman *podman = self;
	char name[PODMAN_NAME], path[PATH_MAX];
	assert (podman->magic == PODMAN_MAGIC);

	if (!id_valid (id))
		return 0; /* there cannot be such a container */
	id_name (podman, id, name);
	int r = silo_children_end (podman->children, id, err);
	if (r == 0)
		r = end_orphan (name, err);
	/* With everything alive podman removes its container best.  What it leaves, conmon and
	 * the command that conmon runs after its container, is in the cgroup; if it could not,
	 * it can when those are gone. */
	bool removed = r == 0 && tool_rm (podman, name, NULL) == 0;
	if (r == 0)
		r = silo_cgroup_kill (name, err);
	if (r == 0 && !removed)
		r = tool_rm (podman, name, err);
	if (r == 0)
		r = silo_cgroup_remove (name, err);
	files_name (podman, id, ".env", path);
	if (r == 0 && unlink (path) < 0 && errno != ENOENT)
		r = silo_fail_sys (err, errno, "remove %s", path);
	return r;
}

/* -- list ---------------------------------------------------------------------- */

/* The same container may be known to podman and by its cgroups: each is told once. */
struct names {
	char (*item)[PODMAN_ID_MAX + 1];
	size_t n;
	struct silo_error *err;
};

static int
names_add (void *arg, const char *id)
{
	struct names *names = arg;

	if (!id_valid (id))
		return 0;
	for (size_t i = 0; i < names->n; i++)
		if (strcmp (names->item[i], id) == 0)
			return 0;
	void *item = realloc (names->item, (names->n + 1) * sizeof (names->item[0]));
	if (!item)
		return silo_fail_nomem (names->err);
	names->item = item;
	snprintf (names->item[names->n++], sizeof (names->item[0]), "%s", id);
	return 0;
}

static int
tool_list (const struct podman *podman, struct names *names, struct silo_error *err)
{
	SILO_CLEANUP (args_free) struct args args = { NULL, 0, false };
	SILO_CLEANUP (silo_buf_free) struct silo_buf out = SILO_BUF (LIST_MAX);
	const char *const env[] = PODMAN_ENV (podman);
	size_t prefix = strlen (podman->prefix);

	args_common (&args, podman);
	args_add (&args, "ps");
	args_add (&args, "--all");
	args_add (&args, "--format={{.Names}}");
	if (args.failed)
		return silo_fail_nomem (err);
	int r = silo_run ((const char *const *) args.item, env, TOOL_MS, &out, err);
	if (r < 0 || !out.data)
		return r;

	char *rest = (char *) out.data;
	for (char *line; r == 0 && (line = strsep (&rest, "\n"));)
		if (strncmp (line, podman->prefix, prefix) == 0)
			r = names_add (names, line + prefix);
	return r;
}

static int
podman_list (void *self, silo_container_fn *fn, void *arg, struct silo_error *err)
{
	struct podman *podman = self;
	struct names names = { .err = err };
	assert (podman->magic == PODMAN_MAGIC);

	int r = tool_list (podman, &names, err);
	if (r == 0)
		r = silo_cgroup_list (podman->prefix, names_add, &names, err);
	for (size_t i = 0; r == 0 && i < names.n; i++)
		r = fn (arg, names.item[i]);
	free (names.item);
	return r;
}

/* -- the instance -------------------------------------------------------------- */

static int
podman_init (void *self, struct silo_host *host, struct silo_error *err)
{
	struct podman *podman = self;

	podman->magic = PODMAN_MAGIC;
	podman->host = host;
	return silo_children_new (&podman->children, err);
}

static void
podman_destroy (void *self)
{
	struct podman *podman = self;

	silo_children_free (podman->children);
}

/* podman refuses a long runroot, because its sockets are below; a link stands in for it. */
static int
podman_runroot (struct podman *podman, struct silo_error *err)
{
	char target[PATH_MAX], old[PATH_MAX];

	int n = snprintf (target, sizeof (target), "%s/runroot", podman->folder);
	if (n <= PODMAN_RUN) {
		memcpy (podman->runroot, target, (size_t) n + 1);
		return 0;
	}
	if (mkdir (target, 0700) < 0 && errno != EEXIST)
		return silo_fail_sys (err, errno, "make %s", target);
	uid_t uid = geteuid ();
	if (uid == 0)
		snprintf (podman->runroot, sizeof (podman->runroot), "/run/%srun", podman->prefix);
	else
		snprintf (podman->runroot, sizeof (podman->runroot), "/run/user/%u/%srun",
			  (unsigned) uid, podman->prefix);
	if (symlink (target, podman->runroot) == 0)
		return 0;
	if (errno != EEXIST)
		return silo_fail_sys (err, errno, "link %s to %s", podman->runroot, target);
	/* Left by a daemon on this state folder that was killed. */
	ssize_t len = readlink (podman->runroot, old, sizeof (old));
	if (len == n && memcmp (old, target, (size_t) n) == 0)
		return 0;
	return silo_fail (err, SILO_EXISTS, "%s is in the way: expected a link to %s",
			  podman->runroot, target);
}

static void
podman_end (void *self)
{
	struct podman *podman = self;

	if (strncmp (podman->runroot, podman->folder, strlen (podman->folder)) != 0)
		unlink (podman->runroot);
}

static int
podman_open (void *self, struct silo_error *err)
{
	struct podman *podman = self;
	const char *state = silo_state (podman->host);
	char run[PODMAN_PATH], hex[SILO_DIGEST_HEX + 1];
	struct silo_digest digest;

	int r = silo_digest_of (state, strlen (state), &digest, err);
	if (r == 0)
		r = silo_state_path (podman->host, "run", run, sizeof (run), err);
	if (r == 0)
		r = silo_state_path (podman->host, "run/podman", podman->folder,
				     sizeof (podman->folder), err);
	if (r < 0)
		return r;
	silo_digest_hex (&digest, hex);
	snprintf (podman->prefix, sizeof (podman->prefix), "silo-%.12s-", hex);
	snprintf (podman->settings, sizeof (podman->settings), "CONTAINERS_CONF=%s/containers.conf",
		  podman->folder);
	snprintf (podman->storage, sizeof (podman->storage),
		  "CONTAINERS_STORAGE_CONF=%s/storage.conf", podman->folder);
	if ((mkdir (run, 0700) < 0 && errno != EEXIST) ||
	    (mkdir (podman->folder, 0700) < 0 && errno != EEXIST))
		return silo_fail_sys (err, errno, "make %s", podman->folder);
	r = podman_runroot (podman, err);
	if (r == 0)
		r = files_settings (podman, err);
	if (r < 0)
		return r;
	/* Without the profile nothing can be started, but another container plugin can. */
	podman->profile = (struct silo_error){ 0 };
	if (podman->seccomp[0])
		seccomp_write (podman, &podman->profile);
	return 0;
}

static const struct silo_option options[] = {
	{ .name = "program",
	  .type = SILO_STRING,
	  .offset = offsetof (struct podman, program),
	  .def = "podman",
	  .help = "podman: a name in PATH or an absolute path" },
	{ .name = "runtime",
	  .type = SILO_STRING,
	  .offset = offsetof (struct podman, runtime),
	  .def = "crun",
	  .help = "OCI runtime that podman uses" },
	{ .name = "seccomp",
	  .type = SILO_PATH,
	  .offset = offsetof (struct podman, seccomp),
	  .def = "/usr/share/containers/seccomp.json",
	  .help = "seccomp profile to start from; empty: podman's default as it is" },
	{ .name = NULL },
};

static const struct silo_container_ops ops = {
	.probe = podman_probe,
	.start = podman_start,
	.kill = podman_kill,
	.remove = podman_remove,
	.list = podman_list,
};

SILO_PLUGIN (ops, .name = "podman", .version = "1.0", .summary = "containers by podman",
	     .flags = SILO_PARALLEL, .options = options, .instance_size = sizeof (struct podman),
	     .init = podman_init, .start = podman_open, .stop = podman_end,
	     .destroy = podman_destroy);
