/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.c - a trial container: an empty root with the host's programs bound
 * into it read-only, in which /bin/true has to run, with all limits set.  What
 * stops it (cgroups, seccomp, privileges) is in podman's own words.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>
#include "podman.h"

#define PROBE_MEMORY (64 << 20)
#define PROBE_PIDS   16

/* All that it says on stderr, in one line. */
static void
read_words (int fd, char *ret, size_t size)
{
	size_t len = 0;
	ssize_t n;
	char rest[512];

	while (len + 1 < size && (n = read (fd, ret + len, size - 1 - len)) > 0)
		len += (size_t) n;
	while (read (fd, rest, sizeof (rest)) > 0)
		;
	while (len > 0 && ret[len - 1] == '\n')
		len--;
	ret[len] = '\0';
	for (size_t i = 0; i < len; i++)
		if ((unsigned char) ret[i] < ' ')
			ret[i] = ' ';
}

static int
probe_run (struct podman *podman, const char *id, const char *root, struct silo_error *err)
{
	static const char *const folders[] = { "/bin", "/usr", "/lib", "/lib64", "/nix" };
	static const char *const argv[] = { "true", NULL };
	static const char *const env[] = { "PATH=/usr/bin:/bin:/run/current-system/sw/bin", NULL };
	struct silo_bind binds[sizeof (folders) / sizeof (folders[0])];
	size_t n = 0;
	for (size_t i = 0; i < sizeof (folders) / sizeof (folders[0]); i++)
		if (access (folders[i], X_OK) == 0)
			binds[n++] = (struct silo_bind){ folders[i], folders[i], false };

	const struct silo_container_spec spec = {
		.id = id,
		.rootfs = root,
		.argv = argv,
		.env = env,
		.cwd = "/",
		.hostname = "silo",
		.binds = binds,
		.n_binds = n,
		.memory = PROBE_MEMORY,
		.cpu = 1000,
		.pids = PROBE_PIDS,
	};
	struct silo_process process;
	struct silo_error why = { 0 };
	int r = podman_start (podman, &spec, &process, &why);
	if (r < 0)
		return silo_fail (err, SILO_UNIMPLEMENTED, "%s", why.msg);

	char words[160];
	int status = 0;
	read_words (process.err, words, sizeof (words));
	r = silo_process_wait (&process, &status, err);
	if (r == 0 && status != 0)
		return silo_fail (err, SILO_UNIMPLEMENTED,
				  "%s cannot run a container here (status %d): %s", podman->program,
				  status, words);
	return r;
}

int
podman_probe (void *self, struct silo_error *err)
{
	struct podman *podman = self;
	char id[32], root[PATH_MAX];

	snprintf (id, sizeof (id), "probe-%d", (int) getpid ());
	files_name (podman, id, ".root", root);
	if (mkdir (root, 0700) < 0 && errno != EEXIST)
		return silo_fail_sys (err, errno, "make %s", root);
	/* What podman leaves in the root goes with it. */
	if (mount ("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=1m") < 0) {
		int sys = errno;
		rmdir (root);
		return silo_fail (err, SILO_UNIMPLEMENTED, "cannot mount here: %s", strerror (sys));
	}

	int r = probe_run (podman, id, root, err);
	int removed = podman_remove (podman, id, r < 0 ? NULL : err);
	umount2 (root, MNT_DETACH);
	rmdir (root);
	return r < 0 ? r : removed;
}
