/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.c - which rootfs and which container instance does this machine run?
 * Each is asked in the order of silo.ini and tries itself; the first that works
 * is remembered in the core.  Called once, before the first task or by a verb,
 * on a thread that may block.
 */
#include "core.h"

#include <limits.h>

/* An empty folder below STATE/run. */
static int
probe_folder (struct core *core, char ret[PATH_MAX], struct silo_error *err)
{
	int r = silo_state_path (&core->host, "run", ret, PATH_MAX, err);
	if (r == 0)
		r = files_mkdir (ret, err);
	if (r == 0)
		r = silo_state_path (&core->host, "run/probe-XXXXXX", ret, PATH_MAX, err);
	if (r < 0)
		return r;
	if (!mkdtemp (ret))
		return silo_fail_sys (err, errno, "folder %s", ret);
	return 0;
}

static int
probe_one_rootfs (struct core *core, struct silo_instance *instance, struct silo_error *err)
{
	char scratch[PATH_MAX];
	struct silo_error ignored;

	int r = probe_folder (core, scratch, err);
	if (r < 0)
		return r;
	r = instance_call (instance, rootfs, probe, scratch, err);
	/* Empty now.  What cannot be removed goes with STATE/run at the next start. */
	files_remove (scratch, &ignored);
	return r;
}

static int
probe_one_container (struct core *core, struct silo_instance *instance, struct silo_error *err)
{
	(void) core;
	return instance_call (instance, container, probe, err);
}

typedef int probe_one_fn (struct core *core, struct silo_instance *instance,
			  struct silo_error *err);

/* " <name>: <why not>;" for each, in one message. */
static int
probe_list (struct core *core, const struct instance_list *list, const char *kind,
	    probe_one_fn *one, struct silo_instance **ret, struct silo_error *err)
{
	char reasons[sizeof (err->msg)] = "";
	size_t used = 0;

	for (size_t i = 0; i < list->n; i++) {
		struct silo_instance *instance = list->item[i];
		struct silo_error why = { 0 };
		if (one (core, instance, &why) == 0) {
			silo_log (&core->host, SILO_DEBUG, "%s.%s works here", kind,
				  instance->name);
			*ret = instance;
			return 0;
		}
		silo_log (&core->host, SILO_DEBUG, "%s.%s does not work here: %s", kind,
			  instance->name, why.msg);
		int n = snprintf (reasons + used, sizeof (reasons) - used, "%s%s: %s",
				  used ? "; " : "", instance->name, why.msg);
		if (n > 0)
			used += (size_t) n;
		if (used >= sizeof (reasons))
			used = sizeof (reasons) - 1;
	}
	if (list->n == 0)
		return silo_fail (err, SILO_PRECONDITION, "[silo] %s names no plugin", kind);
	return silo_fail (err, SILO_UNIMPLEMENTED, "no %s plugin works here: %s", kind, reasons);
}

int
probe_rootfs (struct core *core, struct silo_instance **ret, struct silo_error *err)
{
	if (!core->rootfs) {
		int r = probe_list (core, &core->wiring.rootfs, "rootfs", probe_one_rootfs,
				    &core->rootfs, err);
		if (r < 0)
			return r;
	}
	*ret = core->rootfs;
	return 0;
}

int
probe_container (struct core *core, struct silo_instance **ret, struct silo_error *err)
{
	if (!core->container) {
		int r = probe_list (core, &core->wiring.container, "container", probe_one_container,
				    &core->container, err);
		if (r < 0)
			return r;
	}
	*ret = core->container;
	return 0;
}
