/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - silo-conform KIND PLUGIN [KEY=VALUE...]: load one plugin as the
 * daemon would and run its kind's suite on it; TAP on stdout.  Also reached as
 * `silo plugins test`.
 *
 * The suite runs in a process and a mount namespace of its own, so that a
 * plugin that crashes leaves neither mounts nor files behind: it is this
 * program again, as `silo-conform --in FOLDER ROLE KIND PLUGIN [KEY=VALUE...]`.
 */
#include "conform.h"
#include "tap.h"

#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

extern char **environ;

#define SUITE "suite" /* in place of a role */

static conform_fn *const suites[] = {
	[SILO_KIND_TRANSPORT] = conform_transport, [SILO_KIND_STORAGE] = conform_storage,
	[SILO_KIND_CONTENT] = conform_content,     [SILO_KIND_IMAGE] = conform_image,
	[SILO_KIND_ROOTFS] = conform_rootfs,       [SILO_KIND_CONTAINER] = conform_container,
};

struct silo_instance *
conform_add (struct conform *c, int kind, const char *plugin, const char *const *options)
{
	struct silo_instance *instance = NULL;
	struct silo_error err = { 0 };

	int r = wiring_add (c->core, kind, plugin, options, &instance, &err);
	if (r == 0)
		r = wiring_start (c->core, &err);
	if (r < 0)
		tap_bail ("%s %s: %s", silo_kind_name (kind), plugin, err.msg);
	return instance;
}

void
conform_reload (struct conform *c)
{
	struct silo_error err = { 0 };

	wiring_stop (c->core);
	if (wiring_start (c->core, &err) < 0)
		tap_bail ("starting again: %s", err.msg);
}

void
conform_mkdir (struct conform *c, const char *name, char *ret, size_t size)
{
	int n = snprintf (ret, size, "%s/%s", c->dir, name);

	if (n < 0 || (size_t) n >= size || mkdir (ret, 0700) < 0)
		tap_bail ("folder %s/%s: %s", c->dir, name, strerror (errno));
}

void
conform_spawn (struct conform *c, const char *role, struct silo_process *ret)
{
	const char *argv[64] = {
		"/proc/self/exe", "--in", c->dir, role, silo_kind_name (c->instance->kind),
		c->plugin
	};
	const struct silo_spawn spawn = { .argv = argv, .in = -1, .out = true };
	struct silo_error err = { 0 };

	for (size_t i = 0; c->options[i] && 6 + i < ARRAY_SIZE (argv) - 1; i++)
		argv[6 + i] = c->options[i];
	if (silo_spawn (&spawn, ret, &err) < 0)
		tap_bail ("another process: %s", err.msg);
}

/* The process that holds the plugin. */
static int
conform_run (const char *dir, const char *role, int kind, char **argv)
{
	char state[PATH_MAX];
	struct silo_error err = { 0 };
	struct conform c = { .dir = dir,
			     .plugin = argv[0],
			     .options = (const char *const *) argv + 1,
			     .role = strcmp (role, SUITE) == 0 ? NULL : role };

	prctl (PR_SET_PDEATHSIG, SIGKILL);
	/* Not being root is fine for plugins that do not mount. */
	if (namespace_enter (&err) < 0)
		tap_note ("without a mount namespace: %s", err.msg);
	if (c.role)
		snprintf (state, sizeof (state), "%.4000s/state", dir);
	else
		conform_mkdir (&c, "state", state, sizeof (state));
	if (core_bare (state, &c.core, &err) < 0)
		tap_bail ("%s", err.msg);
	c.instance = conform_add (&c, kind, c.plugin, c.options);
	tap_note ("%s %s: %s", silo_kind_name (kind), c.instance->plugin->head.name,
		  c.instance->plugin->path);
	int status = suites[kind](&c);
	core_close (c.core);
	return status;
}

/* Run ourselves again with the folder in front of the arguments, and see how it ends. */
static int
conform_supervise (const char *dir, char **argv, int argc)
{
	char *again[64] = { argv[0], (char *) "--in", (char *) dir, (char *) SUITE };
	int status;
	pid_t pid;

	for (int i = 1; i < argc; i++)
		again[i + 3] = argv[i];
	int failed = posix_spawn (&pid, "/proc/self/exe", NULL, NULL, again, environ);
	if (failed) {
		printf ("Bail out! starting the suite: %s\n", strerror (failed));
		return 99;
	}
	while (waitpid (pid, &status, 0) < 0) {
		if (errno != EINTR)
			return 99;
	}
	if (WIFEXITED (status))
		return WEXITSTATUS (status);
	printf ("Bail out! the plugin or its suite was ended by signal %d (%s)\n",
		WTERMSIG (status), strsignal (WTERMSIG (status)));
	return 99;
}

static int
conform_usage (const char *problem)
{
	fprintf (stderr,
		 "silo-conform: %s\n"
		 "usage: silo-conform KIND PLUGIN [KEY=VALUE...]\n"
		 "KIND is transport, storage, content, image, rootfs or container;\n"
		 "PLUGIN is a file (with a slash in its name) or an installed plugin's name.\n",
		 problem);
	return 2;
}

int
main (int argc, char **argv)
{
	bool inner = argc > 3 && strcmp (argv[1], "--in") == 0;
	char **words = inner ? argv + 4 : argv + 1;
	char dir[PATH_MAX];

	if (argc - (words - argv) < 2 || argc > 60)
		return conform_usage ("expected a kind and a plugin");
	int kind = kind_parse (words[0], strlen (words[0]));
	if (!kind)
		return conform_usage ("there is no such kind");
	if (inner)
		return conform_run (argv[2], argv[3], kind, words + 1);

	const char *tmp = getenv ("TMPDIR");
	snprintf (dir, sizeof (dir), "%.3000s/silo-conform-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	if (!mkdtemp (dir)) {
		printf ("Bail out! folder %s: %s\n", dir, strerror (errno));
		return 99;
	}
	int status = conform_supervise (dir, argv, argc);
	struct silo_error err = { 0 };
	if (files_remove (dir, &err) < 0) {
		fprintf (stderr, "silo-conform: %s\n", err.msg);
		status = status ? status : 99;
	}
	return status;
}
