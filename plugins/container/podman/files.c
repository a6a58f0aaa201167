/* SPDX-License-Identifier: Apache-2.0 */
/*
 * files.c - what podman reads: its settings and a container's environment; and
 * the working folder, which podman wants to find in the root.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <linux/openat2.h>
#include "podman.h"

#define ENV_MAX (1 << 20)

/* None of the host's settings.  The capabilities are those of Debian's; podman itself would
 * leave three more.  Locks are files below tmpdir, not in the shared memory that all podmans
 * of a machine use. */
static const char settings[] =
    "[containers]\n"
    "default_capabilities = [\"CHOWN\", \"DAC_OVERRIDE\", \"FOWNER\", \"FSETID\", \"KILL\","
    " \"NET_BIND_SERVICE\", \"SETFCAP\", \"SETGID\", \"SETPCAP\", \"SETUID\", \"SYS_CHROOT\"]\n"
    "[engine]\n"
    "lock_type = \"file\"\n"
    "hooks_dir = []\n";

void
files_name (const struct podman *podman, const char *id, const char *suffix, char ret[PATH_MAX])
{
	snprintf (ret, PATH_MAX, "%s/%s%s", podman->folder, id, suffix);
}

int
files_write (const char *path, int flags, const char *text, struct silo_error *err)
{
	_cleanup_close_ int fd =
	    open (path, O_WRONLY | O_CREAT | flags | O_NOFOLLOW | O_CLOEXEC, 0600);
	size_t len = strlen (text), done = 0;

	while (fd >= 0 && done < len) {
		ssize_t n = write (fd, text + done, len - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break;
		done += (size_t) n;
	}
	return fd < 0 || done < len ? silo_fail_sys (err, errno, "write %s", path) : 0;
}

int
files_settings (const struct podman *podman, struct silo_error *err)
{
	char storage[3 * PATH_MAX];

	snprintf (storage, sizeof (storage),
		  "[storage]\ndriver = \"vfs\"\ngraphroot = \"%s/root\"\n"
		  "runroot = \"%s\"\n",
		  podman->folder, podman->runroot);
	int r = files_write (strchr (podman->storage, '=') + 1, O_TRUNC, storage, err);
	if (r == 0)
		r = files_write (strchr (podman->settings, '=') + 1, O_TRUNC, settings, err);
	return r;
}

/* One variable a line, as it is.  podman takes "NAME" alone from its own environment and
 * expands a star at the end of a name: neither may come from an image. */
static int
add_variable (struct silo_buf *text, const char *variable, struct silo_error *err)
{
	size_t name = strcspn (variable, "=");

	if (name == 0 || variable[name] != '=' || strchr ("# \t", variable[0]) ||
	    variable[name - 1] == '*' || strpbrk (variable, "\r\n"))
		return silo_fail (err, SILO_INVALID,
				  "podman cannot pass on the environment variable %.*s",
				  (int) (name < 80 ? name : 80), variable);
	return silo_buf_addf (text, err, "%s\n", variable);
}

int
files_env (const struct podman *podman, const struct silo_container_spec *spec,
	   struct silo_error *err)
{
	char path[PATH_MAX];
	SILO_CLEANUP (silo_buf_free) struct silo_buf text = SILO_BUF (ENV_MAX);
	int r = silo_buf_add (&text, "", 0, err);

	for (size_t i = 0; r == 0 && spec->env[i]; i++)
		r = add_variable (&text, spec->env[i], err);
	files_name (podman, spec->id, ".env", path);
	return r < 0 ? r : files_write (path, O_EXCL, text.data ? (char *) text.data : "", err);
}

/* The folder `name` (a relative path) of the root, with links resolved inside it. */
static int
open_inside (int root, const char *name)
{
	struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
				.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS };
	return (int) syscall (SYS_openat2, root, name, &how, sizeof (how));
}

int
files_cwd (const struct silo_container_spec *spec, struct silo_error *err)
{
	char path[PATH_MAX];
	_cleanup_close_ int root = open (spec->rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (root < 0)
		return silo_fail_sys (err, errno, "root of container %s, %s", spec->id,
				      spec->rootfs);
	if (spec->cwd[0] != '/' || strlen (spec->cwd) >= sizeof (path))
		return silo_fail (err, SILO_INVALID, "working folder %.80s is not an absolute path",
				  spec->cwd);

	/* "/a/b/c": open "/", make a in it; open "/a", make b in it; ... */
	snprintf (path, sizeof (path), "%s", spec->cwd);
	for (char *slash = path; slash && slash[1]; slash = strchr (slash + 1, '/')) {
		char *end = strchr (slash + 1, '/');
		if (slash[1] == '/')
			continue;
		if (end)
			*end = '\0';
		int found = open_inside (root, path);
		if (found < 0 && errno == ENOENT) {
			*slash = '\0';
			_cleanup_close_ int parent = open_inside (root, *path ? path : "/");
			*slash = '/';
			if (parent < 0 ||
			    (mkdirat (parent, slash + 1, 0755) < 0 && errno != EEXIST))
				return silo_fail_sys (err, errno, "make the working folder %s",
						      path);
		}
		if (found >= 0)
			close (found);
		if (end)
			*end = '/';
	}
	return 0;
}
