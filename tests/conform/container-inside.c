/* SPDX-License-Identifier: Apache-2.0 */
/*
 * container-inside.c - what a container is given and what it may do: output,
 * environment, user, mounts, binds, network, descriptors, privileges.
 */
#include "container.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>

static const char *
said (const struct box *box)
{
	return box->out.data ? (const char *) box->out.data : "";
}

static const char *
complained (const struct box *box)
{
	return box->text.data ? (const char *) box->text.data : "";
}

static void
test_output (struct run *run)
{
	struct box box;

	run_is (run, "exit 0", 0, "", "status 0");
	run_is (run, "exit 255", 255, "", "status 255");
	box_init (&box, run, "echo out; echo err >&2; exit 3");
	tap_is_int (box_run (&box, run), 3, "status 3");
	tap_is_str (said (&box), "out\n", "stdout");
	tap_is_str (complained (&box), "err\n", "stderr");
	box_free (&box);
	run_is (run, "wc -c; readlink /proc/self/fd/0", 0, "0\n/dev/null\n", "stdin is empty");
	box_init (&box, run, "head -c 1000000 /dev/zero | tr '\\0' x");
	tap_is_int (box_run (&box, run), 0, "a megabyte of output");
	tap_is_int ((int64_t) box.out.len, 1000000, "arrives whole");
	box_free (&box);
}

static void
test_program (struct run *run)
{
	static const char *const env[] = { "ONE=1",          "HOME=/home", "HOSTNAME=me",
					   "TWO=two  words", "EMPTY=",     BOX_PATH,
					   "QUOTE=\"\\$x'",  NULL };
	static const char sorted[] =
	    "EMPTY=\0HOME=/home\0HOSTNAME=me\0ONE=1\0" BOX_PATH "\0QUOTE=\"\\$x'\0TWO=two  words";
	struct box box;

	box_init (&box, run, "");
	box_argv (&box, (const char *const[]){ "python3", "-c", "print (6 * 7)", NULL });
	tap_is_int (box_run (&box, run), 0, "a program from PATH");
	tap_is_str (said (&box), "42\n", "runs");
	box_free (&box);

	box_init (&box, run, "");
	box_argv (&box, (const char *const[]){ "/bin/echo", "a b", "$HOME", "\"'\\", NULL });
	box_run (&box, run);
	tap_is_str (said (&box), "a b $HOME \"'\\\n", "arguments arrive as they are");
	box_free (&box);

	box_init (&box, run, "");
	box.spec.env = env;
	setenv ("SILO_HOST_SECRET", "x", 1);
	box_argv (&box, (const char *const[]){ "sort", "-z", "/proc/self/environ", NULL });
	tap_is_int (box_run (&box, run), 0, "environment");
	tap_is_mem (box.out.data, box.out.len, sorted, sizeof (sorted),
		    "is exactly what was asked for");
	unsetenv ("SILO_HOST_SECRET");
	box_free (&box);
}

static void
test_place (struct run *run)
{
	struct box box;

	box_init (&box, run, "pwd; hostname; id -u; id -g; id -G; echo $$");
	box.spec.cwd = "/made/for/it";
	box.spec.hostname = "some-name";
	tap_is_int (box_run (&box, run), 0, "folder, host name, user");
	tap_is_str (said (&box), "/made/for/it\nsome-name\n0\n0\n0\n1\n", "as asked for");
	box_free (&box);

	box_init (&box, run,
		  "id -u; id -g; id -G; grep CapEff /proc/self/status | cut -f2; "
		  "cat /etc/shadow");
	box.spec.uid = 1234;
	box.spec.gid = 2345;
	tap_ok (box_run (&box, run) != 0, "an ordinary user cannot read /etc/shadow");
	tap_is_str (said (&box), "1234\n2345\n2345\n0000000000000000\n", "and has no capability");
	box_free (&box);
}

static void
test_isolation (struct run *run)
{
	static const char *const spaces[] = { "pid", "mnt", "ipc", "uts", "net" };
	struct box box;

	run_is (run,
		"tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; cat /proc/net/route | wc -l",
		0, "lo\n1\n", "no network but its own loopback, no route");
	/* 3 is the folder that ls reads. */
	run_is (run, "exec ls /proc/self/fd", 0, "0\n1\n2\n3\n", "no descriptor but 0, 1 and 2");
	run_is (run, "for i in 1 2; do readlink /proc/self/fd/$i | cut -c 1-6; done", 0,
		"pipe:[\npipe:[\n", "output goes to pipes, not to files of the host");

	box_init (&box, run, "cd /proc/self/ns; readlink pid mnt ipc uts net");
	box_run (&box, run);
	for (size_t i = 0; i < ARRAY_SIZE (spaces); i++) {
		char path[64], ours[64] = "", inside[64];
		snprintf (path, sizeof (path), "/proc/self/ns/%s", spaces[i]);
		ssize_t n = readlink (path, ours, sizeof (ours) - 1);
		snprintf (inside, sizeof (inside), "%s:[", spaces[i]);
		tap_ok (n > 0 && strstr (said (&box), inside) && !strstr (said (&box), ours),
			"%s namespace of its own", spaces[i]);
	}
	box_free (&box);

	/* The descriptors of a careless host. */
	int fd = open ("/etc/passwd", O_RDONLY); /* not close-on-exec */
	run_is (run, "exec ls /proc/self/fd", 0, "0\n1\n2\n3\n", "not even one that leaks");
	close (fd);
}

static void
test_privileges (struct run *run)
{
	run_is (run, "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status | tr -d '\\t'", 0,
		"CapInh:0000000000000000\nCapPrm:00000000800405fb\nCapEff:00000000800405fb\n"
		"CapBnd:00000000800405fb\nCapAmb:0000000000000000\nNoNewPrivs:1\nSeccomp:2\n",
		"capabilities, no new privileges, seccomp");

	/* Raw system calls of x86-64 and of aarch64; each must be refused even where root's
	 * capabilities are not what stops it (a new user namespace needs none). */
	run_is (run,
		"python3 -c \"\n"
		"import ctypes, errno, os, platform\n"
		"libc = ctypes.CDLL (None, use_errno = True)\n"
		"x86 = platform.machine () == 'x86_64'\n"
		"def call (name, nr, *args):\n"
		"    libc.syscall (ctypes.c_long (nr[0] if x86 else nr[1]),\n"
		"                  *[ctypes.c_long (a) for a in args])\n"
		"    print (name, errno.errorcode.get (ctypes.get_errno ()))\n"
		"call ('mount', (165, 40), 0, 0, 0, 0, 0)\n"
		"call ('umount', (166, 39), 0, 0)\n"
		"call ('unshare-mnt', (272, 97), 0x20000)\n"
		"call ('unshare-user', (272, 97), 0x10000000)\n"
		"call ('clone-user', (56, 220), 0x10000000 | 17, 0, 0, 0, 0)\n"
		"call ('clone3', (435, 435), 0, 0)\n"
		"call ('setns', (308, 268), 0, 0)\n"
		"call ('pivot_root', (155, 41), 0, 0)\n"
		"call ('fsopen', (430, 430), 0, 0)\n"
		"call ('open_by_handle', (304, 265), 0, 0, 0)\n"
		"call ('bpf', (321, 280), 0, 0, 0)\n"
		"call ('perf', (298, 241), 0, 0, 0, 0, 0)\n"
		"call ('userfaultfd', (323, 282), 0)\n"
		"call ('io_uring', (425, 425), 1, 0)\n"
		"call ('keyctl', (250, 219), 0, 0)\n"
		"call ('ptrace', (101, 117), 0, 0, 0, 0)\n"
		"call ('module', (175, 105), 0, 0, 0)\n"
		"call ('kexec', (246, 104), 0, 0, 0, 0)\n"
		"call ('reboot', (169, 142), 0, 0, 0)\n"
		"call ('sethostname', (170, 161), 0, 0)\n"
		"\"",
		0,
		"mount EPERM\numount EPERM\nunshare-mnt EPERM\nunshare-user EPERM\n"
		"clone-user EPERM\nclone3 ENOSYS\nsetns EPERM\npivot_root EPERM\nfsopen EPERM\n"
		"open_by_handle EPERM\nbpf EPERM\nperf EPERM\nuserfaultfd EPERM\n"
		"io_uring EPERM\nkeyctl EPERM\nptrace EPERM\nmodule EPERM\nkexec EPERM\n"
		"reboot EPERM\nsethostname EPERM\n",
		"system calls that are refused");
	run_is (run,
		"python3 -c 'import socket; socket.socket (40, 1)' 2>&1 | tail -n 1 | cut -c 1-18",
		0, "OSError: [Errno 97\n", "no socket to the hypervisor");
	run_is (run, "mknod /tmp/disk b 8 0 2>/dev/null || echo no; find /dev -type b", 0, "no\n",
		"no block device");
	run_is (run,
		"python3 -c 'import threading, subprocess, multiprocessing as m\n"
		"t = threading.Thread (target = print, args = (1,)); t.start (); t.join ()\n"
		"print (subprocess.check_output ([\"echo\", \"2\"], text = True), end = \"\")\n"
		"p = m.Pool (2); print (p.map (abs, [-3, 4]))'",
		0, "1\n2\n[3, 4]\n", "threads, processes and semaphores work");
}

static void
test_files (struct run *run)
{
	struct box box;

	run_is (run,
		"for f in /tmp /dev/shm; do echo x >$f/file && cat $f/file; "
		"stat -f -c %T $f; stat -c %a $f; done",
		0, "x\ntmpfs\n1777\nx\ntmpfs\n1777\n", "/tmp and /dev/shm");
	run_is (run, "echo x >/root/file && cat /root/file", 0, "x\n", "the root can be written");
	run_is (run,
		"for f in /sys/kernel/x /proc/sys/kernel/hostname /proc/sysrq-trigger; do "
		"echo x 2>/dev/null >$f && echo wrote $f; done; head -c 1 /proc/kcore 2>/dev/null "
		"| wc -c",
		0, "0\n", "/sys, /proc/sys and memory are closed");
	run_is (run,
		"for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; "
		"done; test -e /dev/mqueue -a -e /dev/pts/ptmx && echo yes",
		0, "yes\n", "the usual devices");

	box_init (&box, run,
		  "pwd; echo x 2>/dev/null >/root/file || echo no; echo y >/tmp/file && echo tmp");
	box.spec.readonly = true;
	tap_is_int (box_run (&box, run), 0, "a read-only root");
	tap_is_str (said (&box), "/\nno\ntmp\n", "cannot be written, /tmp can");
	box_free (&box);
}

static void
write_file (const char *path, const char *text)
{
	_cleanup_fclose_ FILE *f = fopen (path, "we");
	if (!f || fputs (text, f) == EOF)
		tap_bail ("%s: %s", path, strerror (errno));
}

static void
test_binds (struct run *run)
{
	char folder[PATH_MAX], file[PATH_MAX + 8], script[1024];
	struct box box;

	conform_mkdir (run->c, "bind", folder, sizeof (folder));
	snprintf (file, sizeof (file), "%s/hello", folder);
	write_file (file, "hello\n");
	const struct silo_bind binds[] = { { folder, "/.silo/folder", false },
					   { file, "/.silo/file", false },
					   { folder, "/.silo/open", true } };

	snprintf (script, sizeof (script),
		  "cat /.silo/folder/hello /.silo/file; "
		  "for f in folder/new file open/new; do echo x 2>/dev/null >/.silo/$f || "
		  "echo no $f; done; "
		  "grep -cE ' /.silo/(folder|file) ro,.*nosuid,nodev|"
		  " /.silo/(folder|file) ro,nosuid,nodev' /proc/self/mountinfo");
	for (int readonly = 0; readonly < 2; readonly++) {
		box_init (&box, run, script);
		box.spec.binds = binds;
		box.spec.n_binds = ARRAY_SIZE (binds);
		box.spec.readonly = readonly;
		tap_is_int (box_run (&box, run), 0, "binds below a %s root",
			    readonly ? "read-only" : "writable");
		tap_is_str (said (&box), "hello\nhello\nno folder/new\nno file\n2\n",
			    "read-only unless asked for otherwise");
		if (*complained (&box))
			tap_note ("%s", complained (&box));
		box_free (&box);
	}
	snprintf (file, sizeof (file), "%s/new", folder);
	tap_ok (access (file, F_OK) == 0, "the writable one was written");
}

/* A root that nothing can be made in. */
static void
test_mounted_readonly (struct run *run)
{
	char root[PATH_MAX];
	struct box box;
	const struct silo_bind binds[] = { { "/etc", "/.silo/etc", false } };

	conform_mkdir (run->c, "readonly", root, sizeof (root));
	if (mount (run->root, root, NULL, MS_BIND, NULL) < 0 ||
	    mount (NULL, root, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) < 0)
		tap_bail ("bind mount: %s", strerror (errno));
	box_init (
	    &box, run,
	    "test -f /.silo/etc/passwd && echo there; echo x 2>/dev/null >/root/x || echo no");
	box.spec.rootfs = root;
	box.spec.readonly = true;
	box.spec.binds = binds;
	box.spec.n_binds = 1;
	tap_is_int (box_run (&box, run), 0, "a root that is mounted read-only");
	tap_is_str (said (&box), "there\nno\n", "takes binds below /.silo");
	if (*complained (&box))
		tap_note ("%s", complained (&box));
	box_free (&box);
	umount2 (root, MNT_DETACH);
}

void
test_inside (struct run *run)
{
	test_output (run);
	test_program (run);
	test_place (run);
	test_isolation (run);
	test_privileges (run);
	test_files (run);
	test_binds (run);
	test_mounted_readonly (run);
}
