/* SPDX-License-Identifier: Apache-2.0 */
/*
 * old-kernel.c - old-kernel 6.8|6.1 PROGRAM [ARGUMENT...]: run a program as if
 * on an older kernel, as far as mounting overlays and EROFS goes.  A seccomp
 * filter hands the calls in question to a second process, which looks at what
 * they ask for and refuses what that kernel would have refused:
 *
 *     6.8   layers by descriptor, layers and bind mounts of mounts that are
 *           not attached to the caller's mount namespace, EROFS from a file
 *     6.1   data-only layers as well
 *
 * For tests only.  The second process ends with the last one it serves.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define FD_PATH "/proc/self/fd/"

/* Roles of the second process. */
#define DETACH "--detach"
#define SERVE  "--serve"

static void
die (const char *what)
{
	fprintf (stderr, "old-kernel: %s: %s\n", what, strerror (errno));
	exit (99);
}

/* -- what the caller sees -- */

/* The number behind the first "mnt_id:" of a descriptor of the thread; -1: none. */
static long
mount_of (pid_t tid, long fd)
{
	char path[64], line[256];
	long id = -1;

	snprintf (path, sizeof (path), "/proc/%d/fdinfo/%ld", (int) tid, fd);
	FILE *file = fopen (path, "re");
	while (file && id < 0 && fgets (line, sizeof (line), file)) {
		if (strncmp (line, "mnt_id:", 7) == 0)
			id = strtol (line + 7, NULL, 10);
	}
	if (file)
		fclose (file);
	return id;
}

/* Is a descriptor's mount attached to the thread's mount namespace? */
static bool
attached (pid_t tid, long fd)
{
	char path[64], *line = NULL;
	long id = mount_of (tid, fd);
	bool found = false;
	size_t size = 0;

	snprintf (path, sizeof (path), "/proc/%d/mountinfo", (int) tid);
	FILE *file = fopen (path, "re");
	while (file && !found && getline (&line, &size, file) > 0)
		found = strtol (line, NULL, 10) == id;
	free (line);
	if (file)
		fclose (file);
	return found;
}

/* Text in the caller's memory, cut to the buffer. */
static void
text_of (pid_t tid, uint64_t address, char *ret, size_t size)
{
	char path[64];

	ret[0] = '\0';
	snprintf (path, sizeof (path), "/proc/%d/mem", (int) tid);
	int fd = open (path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	ssize_t n = pread (fd, ret, size - 1, (off_t) address);
	ret[n > 0 ? n : 0] = '\0';
	close (fd);
}

/* -- what that kernel says -- */

/* All descriptors that a layer option names by path. */
static bool
layers_attached (pid_t tid, const char *value)
{
	for (const char *at = value; (at = strstr (at, FD_PATH)); at += strlen (FD_PATH)) {
		if (!attached (tid, strtol (at + strlen (FD_PATH), NULL, 10)))
			return false;
	}
	return true;
}

/* 0: let the call go on; else the errno. */
static int
judge_fsconfig (const struct seccomp_notif *call, bool data_only)
{
	pid_t tid = (pid_t) call->pid;
	char key[32], value[256];

	if (call->data.args[1] == FSCONFIG_SET_FD)
		return EINVAL;
	if (call->data.args[1] != FSCONFIG_SET_STRING)
		return 0;
	text_of (tid, call->data.args[2], key, sizeof (key));
	text_of (tid, call->data.args[3], value, sizeof (value));
	if (strcmp (key, "source") == 0 && strncmp (value, FD_PATH, strlen (FD_PATH)) == 0)
		return ENOTBLK;
	if (strcmp (key, "lowerdir") != 0 && strcmp (key, "upperdir") != 0 &&
	    strcmp (key, "workdir") != 0)
		return 0;
	if (strstr (value, "::") && !data_only)
		return EINVAL;
	return layers_attached (tid, value) ? 0 : EINVAL;
}

static int
judge (const struct seccomp_notif *call, bool data_only)
{
	if (call->data.nr == SYS_fsconfig)
		return judge_fsconfig (call, data_only);
	bool clone = call->data.args[2] & OPEN_TREE_CLONE;
	bool by_fd = call->data.args[2] & AT_EMPTY_PATH;
	return clone && by_fd && !attached ((pid_t) call->pid, (int) call->data.args[0]) ? EINVAL
											 : 0;
}

static void
serve (int listener, bool data_only)
{
	struct pollfd fds = { .fd = listener, .events = POLLIN };

	for (;;) {
		struct seccomp_notif call = { 0 };
		/* POLLHUP: nobody is left. */
		if (poll (&fds, 1, -1) < 0 || (fds.revents & POLLIN) == 0)
			return;
		if (ioctl (listener, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0)
			continue; /* the caller has died meanwhile */
		int sys = judge (&call, data_only);
		struct seccomp_notif_resp answer = { .id = call.id, .error = -sys };
		if (sys == 0)
			answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		ioctl (listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
}

/* -- starting -- */

static void
send_fd (int to, int fd)
{
	char byte = 0, control[CMSG_SPACE (sizeof (int))] = { 0 };
	struct iovec part = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = { .msg_iov = &part,
			      .msg_iovlen = 1,
			      .msg_control = control,
			      .msg_controllen = sizeof (control) };
	struct cmsghdr *head = CMSG_FIRSTHDR (&msg);

	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN (sizeof (int));
	memcpy (CMSG_DATA (head), &fd, sizeof (int));
	if (sendmsg (to, &msg, 0) != 1)
		die ("sendmsg");
}

/* -1: nothing has come. */
static int
receive_fd (int from)
{
	char byte, control[CMSG_SPACE (sizeof (int))] = { 0 };
	struct iovec part = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = { .msg_iov = &part,
			      .msg_iovlen = 1,
			      .msg_control = control,
			      .msg_controllen = sizeof (control) };
	int fd = -1;

	if (recvmsg (from, &msg, MSG_CMSG_CLOEXEC) != 1 || !CMSG_FIRSTHDR (&msg))
		return -1;
	memcpy (&fd, CMSG_DATA (CMSG_FIRSTHDR (&msg)), sizeof (int));
	return fd;
}

/* Run ourselves again in another role, with the socket as stdin; its pid. */
static pid_t
again (int socket, const char *role, const char *version)
{
	char *argv[] = { (char *) "old-kernel", (char *) role, (char *) version, NULL };
	posix_spawn_file_actions_t actions;
	pid_t pid = -1;

	posix_spawn_file_actions_init (&actions);
	if (posix_spawn_file_actions_adddup2 (&actions, socket, STDIN_FILENO) != 0 ||
	    posix_spawn (&pid, "/proc/self/exe", &actions, NULL, argv, environ) != 0)
		die ("posix_spawn");
	posix_spawn_file_actions_destroy (&actions);
	return pid;
}

/* Its role: keeps nobody's output open, and ends with those it serves. */
static int
server (const char *version)
{
	int null = open ("/dev/null", O_RDWR | O_CLOEXEC);
	int listener = receive_fd (STDIN_FILENO);

	if (null < 0 || listener < 0)
		return 1;
	for (int fd = 0; fd < 3; fd++)
		dup2 (null, fd);
	setsid ();
	serve (listener, strcmp (version, "6.8") == 0);
	return 0;
}

static int
install (void)
{
	struct sock_filter filter[] = {
		BPF_STMT (BPF_LD | BPF_W | BPF_ABS, offsetof (struct seccomp_data, nr)),
		BPF_JUMP (BPF_JMP | BPF_JEQ | BPF_K, SYS_fsconfig, 1, 0),
		BPF_JUMP (BPF_JMP | BPF_JEQ | BPF_K, SYS_open_tree, 0, 1),
		BPF_STMT (BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT (BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = { .len = sizeof (filter) / sizeof (filter[0]),
					    .filter = filter };

	return (int) syscall (SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			      SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

int
main (int argc, char **argv)
{
	int sockets[2];

	if (argc == 3 && strcmp (argv[1], SERVE) == 0)
		return server (argv[2]);
	/* In between, so that the one that serves is no child of the program under test, which
	 * replaces this one and knows nothing of it. */
	if (argc == 3 && strcmp (argv[1], DETACH) == 0)
		return again (STDIN_FILENO, SERVE, argv[2]) < 0;
	if (argc < 3 || (strcmp (argv[1], "6.8") != 0 && strcmp (argv[1], "6.1") != 0)) {
		fputs ("usage: old-kernel 6.8|6.1 PROGRAM [ARGUMENT...]\n", stderr);
		return 2;
	}
	if (geteuid () != 0) {
		puts ("1..0 # SKIP a filter without no_new_privs takes root");
		return 77;
	}
	if (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0)
		die ("socketpair");
	waitpid (again (sockets[1], DETACH, argv[1]), NULL, 0);
	int listener = install ();
	if (listener < 0)
		die ("seccomp");
	send_fd (sockets[0], listener);
	close (listener);
	close (sockets[0]);
	close (sockets[1]);
	execvp (argv[2], argv + 2);
	die (argv[2]);
}
