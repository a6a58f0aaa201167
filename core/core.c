/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core.c - the whole: configuration, state folder and plugin instances, opened
 * and closed together.  Used by the daemon and by the verbs that do without it.
 */
#include "core.h"

#include <limits.h>
#include <sys/stat.h>

static int
state_check (const char *path, unsigned flags, struct silo_error *err)
{
	struct stat st;

	if (stat (path, &st) < 0) {
		if (errno != ENOENT)
			return silo_fail_sys (err, errno, "state folder %s", path);
		if (!(flags & CORE_CREATE))
			return silo_fail (err, SILO_NOTFOUND,
					  "there is no state folder %s: `silo serve` and `silo "
					  "index` make it",
					  path);
		return files_mkdir (path, err);
	}
	if (!S_ISDIR (st.st_mode))
		return silo_fail (err, SILO_INVALID, "[silo] state: %s is not a folder", path);
	if (access (path, R_OK | W_OK | X_OK) < 0)
		return silo_fail_sys (err, errno, "state folder %s", path);
	return 0;
}

static int
core_make (struct config *config, struct core **ret, struct silo_error *err)
{
	struct core *core = calloc (1, sizeof (*core));
	if (!core) {
		config_free (config);
		return silo_fail_nomem (err);
	}
	core->config = config;
	core->lock_fd = -1;
	core->host = (struct silo_host){ core, "core", SILO_INFO };

	int r = settings_load (config, &core->settings, err);
	if (r == 0)
		r = log_check (config, core->settings, err);
	if (r < 0) {
		core_close (core);
		return r;
	}
	core->host.level = log_level_for (core->settings, "core");
	*ret = core;
	return 0;
}

int
core_new (const char *config_path, unsigned flags, struct core **ret, struct silo_error *err)
{
	struct config *config;
	struct core *core;

	int r = config_load (config_path, &config, err);
	if (r < 0)
		return r;
	r = core_make (config, &core, err);
	if (r < 0)
		return r;
	if (!(flags & CORE_NO_STATE))
		r = state_check (core->settings->state, flags, err);
	if (r < 0) {
		core_close (core);
		return r;
	}
	*ret = core;
	return 0;
}

int
core_bare (const char *state, struct core **ret, struct silo_error *err)
{
	_cleanup_buf_ struct silo_buf text = SILO_BUF (PATH_MAX + 64);
	struct config *config;

	int r = silo_buf_addf (&text, err, "[silo]\nstate = %s\n", state);
	if (r == 0)
		r = config_parse ("(built in)", (const char *) text.data, &config, err);
	if (r == 0)
		r = core_make (config, ret, err);
	return r;
}

int
core_open (const char *config_path, unsigned kinds, unsigned flags, struct core **ret,
	   struct silo_error *err)
{
	struct core *core;

	int r = core_new (config_path, flags, &core, err);
	if (r < 0)
		return r;
	r = wiring_load (core, kinds, err);
	if (r == 0)
		r = wiring_start (core, err);
	if (r < 0) {
		core_close (core);
		return r;
	}
	*ret = core;
	return 0;
}

void
core_close (struct core *core)
{
	if (!core)
		return;
	wiring_stop (core);
	wiring_free (core);
	settings_free (core->settings);
	config_free (core->config);
	free (core->bridge);
	if (core->lock_fd >= 0)
		close (core->lock_fd);
	free (core);
}
