/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.c - can this machine do it?  Serves a file system of an empty root
 * folder, mounts it below an overlay the way real images are, and writes a
 * file there.
 */
#include "fuse.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static void
probe_getattr (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	const struct stat st = {
		.st_ino = ino,
		.st_mode = S_IFDIR | 0755,
		.st_nlink = 2,
		.st_uid = geteuid (),
		.st_gid = getegid (),
	};
	(void) fi;

	fuse_reply_attr (req, &st, 1.0);
}

static void
probe_lookup (fuse_req_t req, fuse_ino_t parent, const char *name)
{
	(void) parent;
	(void) name;
	fuse_reply_err (req, ENOENT);
}

static const struct fuse_lowlevel_ops probe_ops = {
	.init = serve_init,
	.getattr = probe_getattr,
	.lookup = probe_lookup,
};

static int
probe_mounted (const struct silo_overlay *overlay, struct silo_error *err)
{
	char path[PATH_MAX];

	int r = silo_overlay_mount (overlay, err);
	if (r < 0)
		return r;

	snprintf (path, sizeof (path), "%s/written", overlay->target);
	int fd = open (path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		r = silo_fail_sys (err, errno, "write to the mounted root");
	else
		close (fd);
	if (umount2 (overlay->target, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && r == 0)
		r = silo_fail_sys (err, errno, "unmount %s", overlay->target);
	return r;
}

static int
probe_share (struct fuse *self, const char *target, struct silo_error *err)
{
	struct share *share;

	int r = share_new (self, "(probe)", &share, err);
	if (r < 0)
		return r;
	r = share_start (share, &probe_ops, 1, err);
	if (r == 0) {
		const struct silo_overlay overlay = {
			.lower = share->fd,
			.upper = SILO_UPPER_TMPFS,
			.upper_size = 1 << 20,
			.target = target,
		};
		r = probe_mounted (&overlay, err);
	}
	share_free (share);
	return r;
}

int
probe_run (void *self, const char *scratch, struct silo_error *err)
{
	struct silo_error why = { 0 };
	char root[PATH_MAX];

	/* A longer path than this could not hold what goes below it either. */
	if (strlen (scratch) > PATH_MAX - 64)
		return silo_fail (err, SILO_RANGE, "scratch folder %s: too long", scratch);
	snprintf (root, sizeof (root), "%s/root", scratch);
	if (mkdir (root, 0700) < 0)
		return silo_fail_sys (err, errno, "folder %s", root);
	int r = probe_share (self, root, &why);
	rmdir (root);
	if (r < 0)
		return silo_fail (err, SILO_UNIMPLEMENTED, "%s", why.msg);
	return 0;
}
