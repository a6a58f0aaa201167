/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd-doctor.c - silo doctor: what this machine can do and what it lacks.
 * Tries things rather than reading version numbers; changes nothing outside
 * the state folder's run/, and needs no daemon.
 */
#include "overlay.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>

enum verdict { VERDICT_OK, VERDICT_WARN, VERDICT_FAIL };

struct doctor {
	json_t *checks;
	bool json;
	int warnings, failures;
};

static void finding (struct doctor *doctor, enum verdict verdict, const char *name, const char *fmt,
		     ...) SILO_PRINTF (4, 5);

static void
finding (struct doctor *doctor, enum verdict verdict, const char *name, const char *fmt, ...)
{
	static const char *const words[] = { "ok", "warn", "FAIL" };
	char text[512];
	va_list ap;

	va_start (ap, fmt);
	vsnprintf (text, sizeof (text), fmt, ap);
	va_end (ap);
	doctor->warnings += verdict == VERDICT_WARN;
	doctor->failures += verdict == VERDICT_FAIL;
	json_array_append_new (doctor->checks,
			       json_pack ("{s:s, s:s, s:s}", "check", name, "verdict",
					  verdict == VERDICT_FAIL ? "fail" : words[verdict], "text",
					  text));
	if (!doctor->json)
		printf ("%-5s %-18s %s\n", words[verdict], name, text);
}

static void
check_machine (struct doctor *doctor)
{
	struct rlimit files;
	struct utsname name;

	if (uname (&name) == 0)
		finding (doctor, VERDICT_OK, "kernel", "%s %s on %s", name.sysname, name.release,
			 name.machine);
	if (geteuid () == 0)
		finding (doctor, VERDICT_OK, "user", "root");
	else
		finding (doctor, VERDICT_WARN, "user",
			 "uid %u: mounting images and starting containers takes root", geteuid ());
	if (access ("/dev/fuse", R_OK | W_OK) == 0)
		finding (doctor, VERDICT_OK, "/dev/fuse", "can be opened");
	else
		finding (doctor, VERDICT_WARN, "/dev/fuse",
			 "%s: rootfs fuse will not work; load the fuse module", strerror (errno));
	if (getrlimit (RLIMIT_NOFILE, &files) == 0 && files.rlim_max < 4096)
		finding (doctor, VERDICT_WARN, "open files",
			 "at most %" PRIu64 ": raise the hard limit for many workers",
			 (uint64_t) files.rlim_max);
	else
		finding (doctor, VERDICT_OK, "open files", "at most %" PRIu64,
			 (uint64_t) files.rlim_max);
	if (access ("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0)
		finding (doctor, VERDICT_OK, "cgroups", "version 2");
	else if (access ("/sys/fs/cgroup/unified/cgroup.procs", F_OK) == 0)
		finding (doctor, VERDICT_OK, "cgroups",
			 "version 1 with an empty version 2 beside it (hybrid)");
	else if (access ("/sys/fs/cgroup/memory", F_OK) == 0)
		finding (doctor, VERDICT_OK, "cgroups", "version 1");
	else
		finding (doctor, VERDICT_FAIL, "cgroups", "none mounted at /sys/fs/cgroup");
}

static void
check_tool (struct doctor *doctor, const char *tool, const char *use)
{
	const char *const argv[] = { tool, "--version", NULL };
	_cleanup_buf_ struct silo_buf out = SILO_BUF (65536);
	struct silo_error err;

	if (silo_run (argv, NULL, 10000, &out, &err) < 0) {
		finding (doctor, VERDICT_WARN, tool, "%s: it is needed for %s", err.msg, use);
		return;
	}
	finding (doctor, VERDICT_OK, tool, "%.*s",
		 (int) strcspn (out.len ? (const char *) out.data : "", "\n"),
		 out.len ? (const char *) out.data : "");
}

static void
check_state (struct doctor *doctor, struct core *core)
{
	const char *state = core->settings->state;
	struct statvfs fs;
	char path[4096];

	if (strlen (state) + sizeof ("/run/bridge/bridge.sock") > 108)
		finding (doctor, VERDICT_FAIL, "state",
			 "%s is too long: sockets in it must fit 107 "
			 "characters",
			 state);
	else if (statvfs (state, &fs) == 0)
		finding (doctor, VERDICT_OK, "state", "%s, %" PRIu64 " MiB free", state,
			 (uint64_t) fs.f_bavail * fs.f_frsize >> 20);
	snprintf (path, sizeof (path), "%s/runner.py", core->settings->runner);
	if (access (path, R_OK) == 0)
		finding (doctor, VERDICT_OK, "runner", "%s", core->settings->runner);
	else
		finding (doctor, VERDICT_FAIL, "runner", "%s: %s", path, strerror (errno));
}

/* Which of the ways that overlay.c knows this kernel takes. */
static void
check_overlays (struct doctor *doctor, struct core *core)
{
	struct overlay_can can;
	struct silo_error err;
	char folder[4096];

	int r = silo_state_path (&core->host, "run/doctor", folder, sizeof (folder), &err);
	if (r == 0)
		r = files_mkdir (folder, &err);
	if (r == 0)
		r = overlay_probe (folder, &can, &err);
	files_remove (folder, NULL);
	if (r < 0)
		finding (doctor, VERDICT_WARN, "overlays", "%s", err.msg);
	else
		finding (doctor, VERDICT_OK, "overlays", "%s, %s",
			 can.detached ? "of detached mounts"
				      : "of mounts attached in a namespace for a moment (before "
					"Linux 6.15; slower to mount)",
			 can.data ? "with data-only layers"
				  : "without data-only layers (before Linux 6.5), which rootfs "
				    "erofs needs");
}

/* How many instances of a kind work; the first is what the daemon would use. */
static void
check_instances (struct doctor *doctor, struct core *core, struct instance_list *list)
{
	char scratch[4096], name[80];
	struct silo_error err;
	int working = 0;

	for (size_t i = 0; i < list->n; i++) {
		struct silo_instance *instance = list->item[i];
		int r =
		    silo_state_path (&core->host, "run/doctor", scratch, sizeof (scratch), &err);
		if (r == 0)
			r = files_mkdir (scratch, &err);
		if (r == 0 && instance->kind == SILO_KIND_ROOTFS)
			r = instance_call (instance, rootfs, probe, scratch, &err);
		else if (r == 0)
			r = instance_call (instance, container, probe, &err);
		files_remove (scratch, NULL);
		snprintf (name, sizeof (name), "%s", instance->host.name);
		if (r == 0)
			finding (doctor, VERDICT_OK, name, "works%s",
				 working == 0 ? "; the daemon uses it" : "");
		else
			finding (doctor, VERDICT_WARN, name, "%s", err.msg);
		working += r == 0;
	}
	if (!working)
		finding (doctor, VERDICT_FAIL,
			 list->n ? silo_kind_name (list->item[0]->kind) : "plugins",
			 "none works here: no container can be started");
}

static int
examine (struct cli *cli, struct doctor *doctor)
{
	struct silo_error err;
	struct core *core;

	check_machine (doctor);
	if (*FAULT_NOTE)
		finding (doctor, VERDICT_WARN, "build",
			 "silo " PACKAGE_VERSION FAULT_NOTE ": for tests, not for use");
	check_tool (doctor, "skopeo", "images from registries");
	if (geteuid () == 0 && namespace_enter (&err) < 0)
		finding (doctor, VERDICT_FAIL, "mount namespace", "%s", err.msg);
	if (core_open (cli->config, WIRE_ALL & ~WIRE (SILO_KIND_TRANSPORT), CORE_CREATE, &core,
		       &err) < 0) {
		finding (doctor, VERDICT_FAIL, "configuration", "%s", err.msg);
		return 1;
	}
	finding (doctor, VERDICT_OK, "configuration", "%s", core->config->path);
	check_state (doctor, core);
	check_overlays (doctor, core);
	check_instances (doctor, core, &core->wiring.rootfs);
	check_instances (doctor, core, &core->wiring.container);
	core_close (core);
	return doctor->failures ? 1 : 0;
}

int
cmd_doctor (struct cli *cli)
{
	static const struct option options[] = { { "help", no_argument, NULL, 'h' },
						 { "json", no_argument, NULL, 'j' },
						 { 0 } };
	struct doctor doctor = { 0 };
	struct silo_error err;

	for (int c; (c = getopt_long (cli->argc, cli->argv, "h", options, NULL)) != -1;) {
		if (c == 'h') {
			puts ("usage: silo doctor [--json]\n"
			      "\n"
			      "Try what the daemon needs on this machine and say what is missing.\n"
			      "Exit status 0: a daemon with this silo.ini would work; 1: it would "
			      "not.");
			return 0;
		}
		if (c != 'j')
			return 2;
		doctor.json = true;
	}
	if (cli_no_arguments (cli, &err) < 0)
		return cli_fail (&err);
	doctor.checks = json_array ();
	if (!doctor.checks)
		return 1;
	int status = examine (cli, &doctor);
	if (doctor.json)
		return cli_json (
			   json_pack ("{s:b, s:o}", "ok", status == 0, "checks", doctor.checks)) ||
		       status;
	json_decref (doctor.checks);
	printf ("%s: %d warnings, %d failures\n", status ? "not ready" : "ready", doctor.warnings,
		doctor.failures);
	return status;
}
