/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crun.c - containers by crun, one program run per container.
 *
 * `crun run` is our child and stays as long as its container; its end is the
 * container's, with the same status.  Operations run on any number of pool
 * threads; nothing but the list of children changes after start.
 */
#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include "crun.h"

static bool
id_valid (const char *id)
{
	size_t len = strspn (id, "abcdefghijklmnopqrstuvwxyz0123456789-");
	return len > 0 && len <= CRUN_ID_MAX && id[len] == '\0';
}

/* The name of its cgroups. */
static void
id_group (const struct crun *crun, const char *id, char ret[CRUN_GROUP])
{
	snprintf (ret, CRUN_GROUP, "%s%s", crun->prefix, id);
}

/* A path below one of the two folders. */
static void
id_path (const char *folder, const char *id, char ret[PATH_MAX])
{
	snprintf (ret, PATH_MAX, "%s/%s", folder, id);
}

/* -- operations ---------------------------------------------------------------- */

static int
start_child (struct crun *crun, const struct silo_container_spec *spec, const char *bundle,
	     struct silo_process *ret, struct silo_error *err)
{
	const char *const argv[] = { crun->program, "--root",
				     crun->states,  "--cgroup-manager=cgroupfs",
				     "run",         "--bundle",
				     bundle,        spec->id,
				     NULL };
	/* crun needs nothing of the daemon's environment, and must not show it. */
	static const char *const env[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:"
					   "/usr/bin:/sbin:/bin",
					   NULL };
	/* A session of its own: Ctrl-C at the daemon is not for containers. */
	const struct silo_spawn spawn = {
		.argv = argv, .env = env, .in = -1, .out = true, .err = true, .session = true
	};
	struct silo_process process;

	int r = silo_spawn (&spawn, &process, err);
	if (r < 0)
		return r;
	r = silo_children_add (crun->children, spec->id, process.pidfd, err);
	if (r < 0) {
		int status;
		pidfd_send_signal (process.pidfd, SIGKILL, NULL, 0);
		silo_process_wait (&process, &status, NULL);
		return r;
	}
	*ret = process;
	return 0;
}

int
crun_start (void *self, const struct silo_container_spec *spec, struct silo_process *ret,
	    struct silo_error *err)
{
	struct crun *crun = self;
	char bundle[PATH_MAX];
	assert (crun->magic == CRUN_MAGIC);

	if (!id_valid (spec->id))
		return silo_fail (err, SILO_INVALID,
				  "container id \"%.80s\" is not 1 to %d of a-z, 0-9 and -",
				  spec->id, CRUN_ID_MAX);
	if (!spec->argv[0])
		return silo_fail (err, SILO_INVALID, "container %s has no program to run",
				  spec->id);
	if (access (spec->rootfs, X_OK) < 0)
		return silo_fail_sys (err, errno, "root of container %s, %s", spec->id,
				      spec->rootfs);

	id_path (crun->bundles, spec->id, bundle);
	int r = bundle_make (bundle, err);
	if (r < 0)
		return r;
	r = config_write (crun, spec, bundle, err);
	if (r == 0)
		r = start_child (crun, spec, bundle, ret, err);
	if (r < 0)
		crun_remove (crun, spec->id, NULL);
	return r;
}

static int
crun_kill (void *self, const char *id, int sig, struct silo_error *err)
{
	struct crun *crun = self;
	assert (crun->magic == CRUN_MAGIC);

	char group[CRUN_GROUP];
	pid_t pid;
	int first = -1;
	id_group (crun, id, group);
	int r = silo_cgroup_first (group, &pid, &first, err);
	if (r < 0) {
		/* Not there yet?  Then crun is still at work; without it, nothing will start. */
		if (r == SILO_NOTFOUND && sig == SIGKILL &&
		    silo_children_signal (crun->children, id, sig))
			return 0;
		return r;
	}
	r = pidfd_send_signal (first, sig, NULL, 0) < 0 ? -errno : 0;
	close (first);
	if (r == -ESRCH)
		return silo_fail (err, SILO_NOTFOUND, "container %s has ended", id);
	return r < 0 ? silo_fail_sys (err, -r, "send signal %d to container %s", sig, id) : 0;
}

int
crun_remove (void *self, const char *id, struct silo_error *err)
{
	struct crun *crun = self;
	char state[PATH_MAX], bundle[PATH_MAX], group[CRUN_GROUP];
	assert (crun->magic == CRUN_MAGIC);

	if (!id_valid (id))
		return 0; /* there cannot be such a container */
	id_path (crun->states, id, state);
	id_path (crun->bundles, id, bundle);

	id_group (crun, id, group);

	/* crun first, so that it starts nothing and cleans nothing up any more. */
	int r = silo_children_end (crun->children, id, err);
	if (r == 0)
		r = orphan_end (group, bundle, err);
	if (r == 0)
		r = silo_cgroup_kill (group, err);
	if (r == 0)
		r = silo_cgroup_remove (group, err);
	if (r == 0)
		r = bundle_delete (state, err);
	/* Last, so that list () knows the container as long as anything of it is left. */
	if (r == 0)
		r = bundle_delete (bundle, err);
	return r;
}

/* -- list ---------------------------------------------------------------------- */

/* The same container may be known by its cgroups, by crun and by its bundle: each is told
 * once. */
struct names {
	char (*item)[CRUN_ID_MAX + 1];
	size_t n;
	struct silo_error *err;
};

static int
names_add (void *arg, const char *id)
{
	struct names *names = arg;

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
crun_list (void *self, silo_container_fn *fn, void *arg, struct silo_error *err)
{
	struct crun *crun = self;
	struct names names = { .err = err };
	assert (crun->magic == CRUN_MAGIC);

	int r = bundle_list (crun->bundles, names_add, &names, err);
	if (r == 0)
		r = bundle_list (crun->states, names_add, &names, err);
	if (r == 0)
		r = silo_cgroup_list (crun->prefix, names_add, &names, err);
	for (size_t i = 0; r == 0 && i < names.n; i++)
		if (id_valid (names.item[i]))
			r = fn (arg, names.item[i]);
	free (names.item);
	return r;
}

/* -- the instance -------------------------------------------------------------- */

static int
crun_init (void *self, struct silo_host *host, struct silo_error *err)
{
	struct crun *crun = self;

	crun->magic = CRUN_MAGIC;
	crun->host = host;
	return silo_children_new (&crun->children, err);
}

static int
crun_open (void *self, struct silo_error *err)
{
	struct crun *crun = self;
	const char *state = silo_state (crun->host);
	char run[CRUN_PATH], hex[SILO_DIGEST_HEX + 1];
	struct silo_digest digest;

	int r = silo_digest_of (state, strlen (state), &digest, err);
	if (r == 0)
		r = silo_state_path (crun->host, "run", run, sizeof (run), err);
	if (r == 0)
		r = silo_state_path (crun->host, "run/crun", crun->bundles, sizeof (crun->bundles),
				     err);
	if (r == 0)
		r = silo_state_path (crun->host, "run/crun-state", crun->states,
				     sizeof (crun->states), err);
	if (r < 0)
		return r;
	silo_digest_hex (&digest, hex);
	snprintf (crun->prefix, sizeof (crun->prefix), "silo-%.12s-", hex);

	const char *const folders[] = { run, crun->bundles, crun->states };
	for (size_t i = 0; i < sizeof (folders) / sizeof (folders[0]); i++)
		if (mkdir (folders[i], 0700) < 0 && errno != EEXIST)
			return silo_fail_sys (err, errno, "make %s", folders[i]);
	return 0;
}

static void
crun_destroy (void *self)
{
	struct crun *crun = self;

	silo_children_free (crun->children);
}

static const struct silo_option options[] = {
	{ .name = "program",
	  .type = SILO_STRING,
	  .offset = offsetof (struct crun, program),
	  .def = "crun",
	  .help = "crun, or what takes its arguments: a name in PATH or an absolute path" },
	{ .name = "seccomp",
	  .type = SILO_BOOL,
	  .offset = offsetof (struct crun, seccomp),
	  .def = "true",
	  .help = "refuse system calls that containers do not need; off is for debugging only" },
	{ .name = NULL },
};

static const struct silo_container_ops ops = {
	.probe = crun_probe,
	.start = crun_start,
	.kill = crun_kill,
	.remove = crun_remove,
	.list = crun_list,
};

SILO_PLUGIN (ops, .name = "crun", .version = "1.0", .summary = "containers by crun",
	     .flags = SILO_PARALLEL, .options = options, .instance_size = sizeof (struct crun),
	     .init = crun_init, .start = crun_open, .destroy = crun_destroy);
