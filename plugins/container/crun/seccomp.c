/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seccomp.c - system calls that no container may make.
 *
 * A list of what is refused, not of what is allowed: crun compiles the profile
 * at every start, which is free for this one and doubles the time of a start
 * for the 370 names of an allowlist (README.md).  Only calls of the machine's
 * own architecture are let through: others end the process.
 */
#include <errno.h>
#include <stddef.h>
#include <jansson.h>
#include <linux/sched.h>
#include <sys/socket.h>
#include "crun.h"

/* Names that the kernel or libseccomp does not know are skipped by crun. */
static const char *const refused[] = {
	/* other namespaces, other mounts */
	"mount", "umount", "umount2", "mount_setattr", "move_mount", "fsopen", "fsconfig",
	"fsmount", "fspick", "open_tree", "open_tree_attr", "pivot_root", "unshare", "setns",
	"open_by_handle_at", "name_to_handle_at", "quotactl", "quotactl_fd", "fanotify_init",
	/* the kernel's own state */
	"init_module", "finit_module", "delete_module", "create_module", "query_module",
	"get_kernel_syms", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff",
	"sethostname", "setdomainname", "settimeofday", "clock_settime", "clock_adjtime",
	"adjtimex", "syslog", "acct", "nfsservctl", "vhangup", "_sysctl", "sysfs", "uselib",
	"ustat", "lookup_dcookie", "iopl", "ioperm", "vm86", "vm86old",
	/* large interfaces with a history, of use to few programs */
	"bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter",
	"io_uring_register", "vmsplice", "move_pages", "migrate_pages",
	/* keys belong to a user, not to a container */
	"add_key", "request_key", "keyctl",
	/* other processes' memory */
	"ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd"
};

static const uint64_t namespaces[] = { CLONE_NEWNS,   CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC,
				       CLONE_NEWUSER, CLONE_NEWPID,    CLONE_NEWNET };

/* Address families that reach past a network namespace, or into the kernel's crypto code. */
static const int families[] = { AF_VSOCK, AF_ALG };

static json_t *
seccomp_rule (json_t *names, int sys, json_t *args)
{
	return json_pack ("{s:o, s:s, s:i, s:o*}", "names", names, "action", "SCMP_ACT_ERRNO",
			  "errnoRet", sys, "args", args);
}

static json_t *
seccomp_arg (const char *op, uint64_t value, uint64_t value_two)
{
	return json_pack ("[{s:i, s:I, s:I, s:s}]", "index", 0, "value", (json_int_t) value,
			  "valueTwo", (json_int_t) value_two, "op", op);
}

struct json_t *
seccomp_new (void)
{
	json_t *rules = json_array (), *names = json_array ();
	int bad = !rules || !names;

	for (size_t i = 0; i < sizeof (refused) / sizeof (refused[0]); i++)
		bad |= json_array_append_new (names, json_string (refused[i]));
	bad |= json_array_append_new (rules, seccomp_rule (names, EPERM, NULL));

	/* Its flags are behind a pointer, where no filter can look; C libraries use clone
	 * when there is no clone3. */
	bad |=
	    json_array_append_new (rules, seccomp_rule (json_pack ("[s]", "clone3"), ENOSYS, NULL));
#if defined(__s390__) || defined(__CRIS__)
#error "the flags are the second argument of clone here"
#endif
	for (size_t i = 0; i < sizeof (namespaces) / sizeof (namespaces[0]); i++)
		bad |= json_array_append_new (
		    rules, seccomp_rule (
			       json_pack ("[s]", "clone"), EPERM,
			       seccomp_arg ("SCMP_CMP_MASKED_EQ", namespaces[i], namespaces[i])));
	for (size_t i = 0; i < sizeof (families) / sizeof (families[0]); i++)
		bad |= json_array_append_new (
		    rules, seccomp_rule (json_pack ("[s]", "socket"), EAFNOSUPPORT,
					 seccomp_arg ("SCMP_CMP_EQ", (uint64_t) families[i], 0)));
	if (bad) {
		json_decref (rules);
		return NULL;
	}
	return json_pack ("{s:s, s:o}", "defaultAction", "SCMP_ACT_ALLOW", "syscalls", rules);
}
