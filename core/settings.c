/* SPDX-License-Identifier: Apache-2.0 */
/*
 * settings.c - the [silo] section: which instances serve, limits, times.  The
 * table is of the same make as a plugin's, so that silo.ini, the manual and
 * `silo plugins --describe` come from one place.
 */
#include "core.h"

#include <limits.h>
#include <pwd.h>

#define HOUR (3600 * 1000LL)
#define ROW(type_, field_, def_, help_)                                                       \
	{                                                                                     \
		.name = #field_, .type = type_, .offset = offsetof (struct settings, field_), \
		.def = def_, .help = help_                                                    \
	}
#define RANGE(type_, field_, def_, min_, max_, help_)                                         \
	{                                                                                     \
		.name = #field_, .type = type_, .offset = offsetof (struct settings, field_), \
		.def = def_, .min = min_, .max = max_, .help = help_                          \
	}

const struct silo_option settings_table[] = {
	ROW (SILO_STRING, state, "",
	     "folder for all that Silo writes; relative: beside this file; empty: /var/lib/silo "
	     "for root, else ~/.local/state/silo"),
	ROW (SILO_LIST, transport, "grpc http", "instances that take calls"),
	ROW (SILO_STRING, storage, "sqlite", "instance that keeps tasks and image records"),
	ROW (SILO_STRING, content, "dir", "instance that keeps the bytes of files"),
	ROW (SILO_LIST, image, "debian oci folder",
	     "instances that import images, asked in this order"),
	ROW (SILO_LIST, rootfs, "erofs fuse",
	     "instances that mount images; the first that works on this machine is used"),
	ROW (SILO_LIST, container, "crun podman",
	     "instances that run containers; the first that works on this machine is used"),
	ROW (SILO_LIST, log, "info",
	     "error, warn, info or debug; also COMPONENT=LEVEL, as in rootfs.fuse=debug"),
	ROW (SILO_PATH, runner, "",
	     "folder with runner.py and cloudpickle, bound into containers; empty: the installed "
	     "one"),
	RANGE (SILO_INT, max_workers, "0", 0, 10000,
	       "containers at once; 0: twice the processors, at least 4"),
	RANGE (SILO_INT, max_queue, "10000", 1, 10000000,
	       "tasks that wait or run before new ones are refused"),
	RANGE (SILO_DURATION, scaledown_window, "60s", 0, 30 * 24 * HOUR,
	       "how long a worker stays after its last task"),
	RANGE (SILO_DURATION, timeout, "300s", 1, 30 * 24 * HOUR,
	       "how long one attempt at a task may run when the caller says nothing"),
	RANGE (SILO_DURATION, startup_timeout, "60s", 100, HOUR,
	       "from the start of a container to its runner's first request"),
	RANGE (SILO_DURATION, kill_grace, "10s", 0, HOUR, "between TERM and KILL"),
	RANGE (SILO_DURATION, drain, "30s", 0, 24 * HOUR,
	       "how long tasks may still run when the daemon is stopped"),
	RANGE (SILO_SIZE, output_limit, "1M", 0, 1LL << 30,
	       "bytes of each output stream that are kept with a task"),
	RANGE (SILO_SIZE, memory, "2G", 0, 1LL << 50, "memory of a container; 0: no limit"),
	RANGE (SILO_INT, cpu, "0", 0, 10000000,
	       "thousandths of a processor of a container; 0: no limit"),
	RANGE (SILO_INT, pids, "1024", 0, 1LL << 22,
	       "processes and threads of a container; 0: no limit"),
	RANGE (SILO_SIZE, upper_size, "1G", 0, 1LL << 50,
	       "bytes that a container may write to its root; 0: the rootfs plugin's default"),
	RANGE (SILO_SIZE, max_image_size, "256G", 1, 1LL << 50,
	       "bytes of all files of an image, counted layer by layer; a larger one is refused"),
	RANGE (SILO_INT, max_image_entries, "500000", 1, 4 << 20,
	       "entries of all layers of an image, each takes some 250 bytes of memory while it is "
	       "imported; an image with more is refused"),
	RANGE (SILO_INT, max_image_layers, "512", 1, 512,
	       "layers of an image; one with more is refused"),
	RANGE (SILO_SIZE, max_image_names, "192M", 1, 1LL << 36,
	       "bytes of the paths, links and attributes of an image's entries, which are held in "
	       "memory while it is imported; one with more is refused"),
	{ .name = NULL },
};

static int
state_default (char **ret, struct silo_error *err)
{
	char buf[4096];
	struct passwd pw, *found = NULL;

	if (geteuid () == 0)
		return util_strdup ("/var/lib/silo", ret, err);
	const char *home = secure_getenv ("HOME");
	if (!home || home[0] != '/') {
		getpwuid_r (geteuid (), &pw, buf, sizeof (buf), &found);
		home = found ? found->pw_dir : NULL;
	}
	if (!home || home[0] != '/')
		return silo_fail (err, SILO_INVALID,
				  "[silo] state: expected a folder, because user %d has no home to "
				  "keep it in",
				  (int) geteuid ());
	if (asprintf (ret, "%s/.local/state/silo", home) < 0)
		return silo_fail_nomem (err);
	return 0;
}

/* Relative ones start at the folder of silo.ini: a folder with both is a whole instance. */
static int
state_beside (const char *ini, const char *state, char **ret, struct silo_error *err)
{
	char folder[PATH_MAX], real[PATH_MAX];
	const char *slash = strrchr (ini, '/');
	size_t len = slash ? (size_t) (slash - ini) : 1;

	if (len >= sizeof (folder))
		return silo_fail_sys (err, ENAMETOOLONG, "%s", ini);
	memcpy (folder, slash ? ini : ".", len);
	folder[len] = 0;
	if (!realpath (len ? folder : "/", real))
		return silo_fail (err, SILO_INVALID, "[silo] state: folder of %s: %s", ini,
				  strerror (errno));
	bool here = strcmp (state, ".") == 0;
	if (asprintf (ret, "%s%s%s", real, here ? "" : "/", here ? "" : state) < 0)
		return silo_fail_nomem (err);
	return 0;
}

static int
state_resolve (const struct config *config, const char **state, struct silo_error *err)
{
	char *absolute;
	int r;

	if ((*state)[0] == '/')
		return 0;
	if ((*state)[0] == 0)
		r = state_default (&absolute, err);
	else
		r = state_beside (config->path, *state, &absolute, err);
	if (r < 0)
		return r;
	free ((char *) *state);
	*state = absolute;
	return 0;
}

/* Paths could not be completed before the state folder was known. */
static int
settings_resolve (const struct config *config, struct settings *settings, struct silo_error *err)
{
	char *runner;

	int r = state_resolve (config, &settings->state, err);
	if (r < 0 || settings->runner[0] == '/')
		return r;
	if (!settings->runner[0])
		r = util_strdup (SILO_RUNNER_DIR, &runner, err);
	else if (asprintf (&runner, "%s/%s", settings->state, settings->runner) < 0)
		r = silo_fail_nomem (err);
	if (r < 0)
		return r;
	free ((char *) settings->runner);
	settings->runner = runner;
	return 0;
}

int
settings_load (const struct config *config, struct settings **ret, struct silo_error *err)
{
	const struct config_section *section = config_find (config, "silo");
	struct option_scope scope = { .config = config };
	struct settings *settings = calloc (1, sizeof (*settings));
	if (!settings)
		return silo_fail_nomem (err);

	int r = options_fill (&scope, "silo", section, settings_table, sizeof (settings_table[0]),
			      settings, err);
	if (r == 0)
		r = settings_resolve (config, settings, err);
	if (r < 0) {
		settings_free (settings);
		return r;
	}
	*ret = settings;
	return 0;
}

void
settings_free (struct settings *settings)
{
	if (!settings)
		return;
	options_free (settings_table, sizeof (settings_table[0]), settings);
	free (settings);
}
