/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seccomp.c - podman's own seccomp profile, made stricter.
 *
 * podman allows mount, unshare and the like and trusts in capabilities; a new
 * user namespace needs none.  Written once per start of the daemon; podman and
 * the runtime compile it for each container.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <jansson.h>
#include <linux/sched.h>
#include <sys/socket.h>
#include "podman.h"

/* Taken out of what the profile allows.  clone and socket come back with conditions. */
static const char *const refused[] = { "mount",
				       "umount",
				       "umount2",
				       "mount_setattr",
				       "move_mount",
				       "fsopen",
				       "fsconfig",
				       "fsmount",
				       "fspick",
				       "open_tree",
				       "pivot_root",
				       "unshare",
				       "setns",
				       "name_to_handle_at",
				       "add_key",
				       "request_key",
				       "keyctl",
				       "ptrace",
				       "process_vm_readv",
				       "process_vm_writev",
				       "pidfd_getfd",
				       "io_uring_setup",
				       "io_uring_enter",
				       "io_uring_register",
				       "clock_adjtime",
				       "clock_adjtime64",
				       "adjtimex",
				       "syslog" };
static const char *const conditional[] = { "clone", "clone3", "socket" };

static const uint64_t namespaces[] = { CLONE_NEWNS,   CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC,
				       CLONE_NEWUSER, CLONE_NEWPID,    CLONE_NEWNET };

static bool
is_one_of (const char *name, const char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (name && strcmp (name, list[i]) == 0)
			return true;
	return false;
}

/* Also from what a capability brings back: no container has more than the default ones. */
static void
drop_names (json_t *rules)
{
	json_t *rule, *name;
	size_t i, j;

	json_array_foreach (rules, i, rule)
	{
		json_t *names = json_object_get (rule, "names");
		for (j = 0; (name = json_array_get (names, j));) {
			const char *text = json_string_value (name);
			if (is_one_of (text, refused, sizeof (refused) / sizeof (refused[0])) ||
			    is_one_of (text, conditional,
				       sizeof (conditional) / sizeof (conditional[0])))
				json_array_remove (names, j);
			else
				j++;
		}
	}
	for (i = 0; (rule = json_array_get (rules, i));)
		if (json_array_size (json_object_get (rule, "names")) == 0)
			json_array_remove (rules, i);
		else
			i++;
}

static int
add_rule (json_t *rules, const char *name, const char *action, int sys, json_t *args)
{
	return json_array_append_new (
	    rules, json_pack ("{s:[s], s:s, s:o*, s:o*}", "names", name, "action", action,
			      "errnoRet", sys ? json_integer (sys) : NULL, "args", args));
}

static json_t *
argument (const char *op, uint64_t value, uint64_t value_two)
{
	return json_pack ("[{s:i, s:I, s:I, s:s}]", "index", 0, "value", (json_int_t) value,
			  "valueTwo", (json_int_t) value_two, "op", op);
}

static int
add_conditions (json_t *rules)
{
	static const char allow[] = "SCMP_ACT_ALLOW", fail[] = "SCMP_ACT_ERRNO";
	uint64_t all = 0;
	int bad = 0;

	for (size_t i = 0; i < sizeof (refused) / sizeof (refused[0]); i++)
		bad |= add_rule (rules, refused[i], fail, EPERM, NULL);
	/* The flags of clone3 are behind a pointer; C libraries use clone without it. */
	bad |= add_rule (rules, "clone3", fail, ENOSYS, NULL);
	for (size_t i = 0; i < sizeof (namespaces) / sizeof (namespaces[0]); i++) {
		all |= namespaces[i];
		bad |= add_rule (rules, "clone", fail, EPERM,
				 argument ("SCMP_CMP_MASKED_EQ", namespaces[i], namespaces[i]));
	}
	bad |= add_rule (rules, "clone", allow, 0, argument ("SCMP_CMP_MASKED_EQ", all, 0));
	/* Families from AF_ALG on: the kernel's crypto code, the hypervisor, raw devices. */
	bad |= add_rule (rules, "socket", allow, 0, argument ("SCMP_CMP_LT", AF_ALG, 0));
	bad |= add_rule (rules, "socket", fail, EAFNOSUPPORT, argument ("SCMP_CMP_GE", AF_ALG, 0));
	return bad;
}

int
seccomp_write (const struct podman *podman, struct silo_error *err)
{
	json_error_t why;
	char path[PATH_MAX];
	json_t *profile = json_load_file (podman->seccomp, 0, &why);
	if (!profile)
		return silo_fail (err, SILO_PRECONDITION,
				  "seccomp profile %s: %s (line %d); it comes with podman's "
				  "package containers-common",
				  podman->seccomp, why.text, why.line);

	json_t *rules = json_object_get (profile, "syscalls");
	int r = 0;
	if (!json_is_array (rules))
		r = silo_fail (err, SILO_PRECONDITION, "seccomp profile %s has no syscalls",
			       podman->seccomp);
	if (r == 0) {
		drop_names (rules);
		files_name (podman, "seccomp", ".json", path);
		if (add_conditions (rules))
			r = silo_fail_nomem (err);
		else if (json_dump_file (profile, path, JSON_COMPACT) < 0)
			r = silo_fail_sys (err, errno, "write %s", path);
	}
	json_decref (profile);
	return r;
}
