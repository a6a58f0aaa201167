/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuse.c - rootfs by a FUSE server in this process: the whole tree comes from
 * the image's metadata file, bytes from any content store.  A container gets
 * an overlay with an upper of its own over the image's one FUSE mount, or a
 * read-only bind of it.  Operations run on any number of threads.
 */
#include "fuse.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

struct mount {
	struct mount *next;
	struct share *share;
	uint64_t id; /* the kernel's number of it */
	bool gone;   /* unmounted from outside, as `wait` has seen */
	char target[];
};

static void
mount_link (struct fuse *self, struct mount *mount)
{
	pthread_mutex_lock (&self->lock);
	mount->next = self->mounts;
	self->mounts = mount;
	pthread_mutex_unlock (&self->lock);
}

static void
mount_unlink (struct fuse *self, struct mount *mount)
{
	pthread_mutex_lock (&self->lock);
	struct mount **at = &self->mounts;
	while (*at && *at != mount)
		at = &(*at)->next;
	assert (*at == mount);
	*at = mount->next;
	pthread_mutex_unlock (&self->lock);
}

static int
mount_attach (const struct fuse *self, const struct silo_rootfs_spec *spec, struct mount *mount,
	      struct silo_error *err)
{
	const struct silo_overlay overlay = {
		.lower = mount->share->fd,
		.upper = spec->writable ? (enum silo_upper) (self->upper + 1) : SILO_UPPER_NONE,
		.upper_size = spec->upper_size > 0 ? spec->upper_size : self->upper_size,
		.scratch = spec->scratch,
		.target = spec->target,
	};

	int r = silo_overlay_mount (&overlay, err);
	if (r < 0)
		return r;
	r = watch_id (spec->target, &mount->id, err);
	if (r < 0)
		umount2 (spec->target, MNT_DETACH | UMOUNT_NOFOLLOW);
	return r;
}

static int
fuse_mount (void *self_, const struct silo_rootfs_spec *spec, void **ret_mount,
	    struct silo_error *err)
{
	struct fuse *self = self_;
	size_t len = strlen (spec->target) + 1;
	assert (self->magic == FUSE_MAGIC);

	struct mount *mount = calloc (1, sizeof (*mount) + len);
	if (!mount)
		return silo_fail_nomem (err);
	memcpy (mount->target, spec->target, len);

	int r = share_get (self, spec->meta, spec->content, &mount->share, err);
	if (r < 0) {
		free (mount);
		return r;
	}
	r = mount_attach (self, spec, mount, err);
	if (r < 0) {
		share_put (mount->share);
		free (mount);
		return r;
	}
	mount_link (self, mount);
	*ret_mount = mount;
	return 0;
}

static int
fuse_unmount (void *self_, void *mount_, struct silo_error *err)
{
	struct fuse *self = self_;
	struct mount *mount = mount_;
	int r = 0;
	assert (self->magic == FUSE_MAGIC);

	mount_unlink (self, mount);
	/* EINVAL: not mounted any more, somebody else has done it. */
	if (!mount->gone && umount2 (mount->target, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 &&
	    errno != EINVAL && errno != ENOENT)
		r = silo_fail_sys (err, errno, "unmount %s", mount->target);
	share_put (mount->share);
	free (mount);
	return r;
}

static int
fuse_wait (void *self_, void *mount_, struct silo_error *err)
{
	struct fuse *self = self_;
	struct mount *mount = mount_;
	assert (self->magic == FUSE_MAGIC);

	return watch_wait (mount->id, mount->share->done, &mount->gone, err);
}

static int
fuse_init (void *self_, struct silo_host *host, struct silo_error *err)
{
	struct fuse *self = self_;

	int r = pthread_mutex_init (&self->lock, NULL);
	if (r != 0)
		return silo_fail_sys (err, r, "mutex");
	self->magic = FUSE_MAGIC;
	self->host = host;
	return 0;
}

static int
fuse_start (void *self_, struct silo_error *err)
{
	struct fuse *self = self_;

	return objects_new ((size_t) self->open_files, &self->objects, err);
}

/* Nobody will serve these any more: unlike a mount that the kernel does alone, they end. */
static void
fuse_stop (void *self_)
{
	struct fuse *self = self_;

	while (self->mounts)
		fuse_unmount (self, self->mounts, NULL);
	assert (!self->shares);
	objects_free (self->objects);
	self->objects = NULL;
}

static void
fuse_destroy (void *self_)
{
	struct fuse *self = self_;

	pthread_mutex_destroy (&self->lock);
	self->magic = 0;
}

static const struct silo_option options[] = {
	{ .name = "upper",
	  .type = SILO_CHOICE,
	  .offset = offsetof (struct fuse, upper),
	  .def = "tmpfs",
	  .choices = "tmpfs disk",
	  .help = "where a container's writes go: memory, or the state folder (no size limit)" },
	{ .name = "upper_size",
	  .type = SILO_SIZE,
	  .offset = offsetof (struct fuse, upper_size),
	  .def = "1G",
	  .min = 1 << 20,
	  .max = INT64_MAX,
	  .help = "bytes that may be written to a root in memory when the caller sets no limit" },
	{ .name = "threads",
	  .type = SILO_INT,
	  .offset = offsetof (struct fuse, threads),
	  .def = "1",
	  .min = 1,
	  .max = 64,
	  .help = "threads per image; more help when objects come from another machine" },
	{ .name = "open_files",
	  .type = SILO_INT,
	  .offset = offsetof (struct fuse, open_files),
	  .def = "256",
	  .min = 1,
	  .max = 65536,
	  .help = "objects kept open, of all images together" },
	{ .name = "passthrough",
	  .type = SILO_CHOICE,
	  .offset = offsetof (struct fuse, passthrough),
	  .def = "auto",
	  .choices = "auto yes no",
	  .help =
	      "the kernel reads objects itself where it can: of files from 128 KiB, all, none" },
	{ .name = NULL },
};

static const struct silo_rootfs_ops ops = {
	.probe = probe_run,
	.mount = fuse_mount,
	.unmount = fuse_unmount,
	.wait = fuse_wait,
};

SILO_PLUGIN (ops, .name = "fuse", .version = "1.0",
	     .summary = "images served by this process through FUSE, from any content store",
	     .flags = SILO_PARALLEL, .options = options, .instance_size = sizeof (struct fuse),
	     .init = fuse_init, .start = fuse_start, .stop = fuse_stop, .destroy = fuse_destroy);
