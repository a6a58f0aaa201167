/* SPDX-License-Identifier: Apache-2.0 */
/*
 * erofs.c - rootfs by the kernel alone: the image's metadata file is an EROFS
 * file system whose files redirect, through an overlay's data-only layer, to
 * the objects in the content store's folder.  Native speed, no process in the
 * data path, and the page cache is shared by all containers.  Operations run
 * on any number of threads.
 */
#include "erofs.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

struct mount {
	struct mount *next;
	struct image *image;
	char target[];
};

static void
mount_link (struct erofs *self, struct mount *mount)
{
	pthread_mutex_lock (&self->lock);
	mount->next = self->mounts;
	self->mounts = mount;
	pthread_mutex_unlock (&self->lock);
}

static void
mount_unlink (struct erofs *self, struct mount *mount)
{
	pthread_mutex_lock (&self->lock);
	struct mount **at = &self->mounts;
	while (*at && *at != mount)
		at = &(*at)->next;
	assert (*at == mount);
	*at = mount->next;
	pthread_mutex_unlock (&self->lock);
}

int
erofs_mount_folder (struct erofs *self, const struct silo_rootfs_spec *spec, const char *objects,
		    struct mount **ret, struct silo_error *err)
{
	size_t len = strlen (spec->target) + 1;
	struct mount *mount = calloc (1, sizeof (*mount) + len);
	if (!mount)
		return silo_fail_nomem (err);
	memcpy (mount->target, spec->target, len);

	int r = image_get (self, spec->meta, &mount->image, err);
	if (r < 0) {
		free (mount);
		return r;
	}

	const struct silo_overlay overlay = {
		.lower = mount->image->fd,
		.data = objects,
		.upper = spec->writable ? (enum silo_upper) (self->upper + 1) : SILO_UPPER_NONE,
		.upper_size = spec->upper_size > 0 ? spec->upper_size : self->upper_size,
		.scratch = spec->scratch,
		.target = spec->target,
	};
	r = silo_overlay_mount (&overlay, err);
	if (r < 0) {
		image_put (self, mount->image);
		free (mount);
		return r;
	}
	mount_link (self, mount);
	*ret = mount;
	return 0;
}

int
erofs_mount (void *self_, const struct silo_rootfs_spec *spec, void **ret_mount,
	     struct silo_error *err)
{
	struct erofs *self = self_;
	assert (self->magic == EROFS_MAGIC);

	const char *objects = silo_content_folder (spec->content);
	if (!objects)
		return silo_fail (err, SILO_PRECONDITION,
				  "rootfs/erofs needs a content store with a local folder of "
				  "objects, and this one has none: use rootfs = fuse, or "
				  "content = dir");

	struct mount *mount;
	int r = erofs_mount_folder (self, spec, objects, &mount, err);
	if (r < 0)
		return r;
	*ret_mount = mount;
	return 0;
}

int
erofs_unmount (void *self_, void *mount_, struct silo_error *err)
{
	struct erofs *self = self_;
	struct mount *mount = mount_;
	int r = 0;
	assert (self->magic == EROFS_MAGIC);

	mount_unlink (self, mount);
	/* EINVAL: not mounted any more, somebody else has done it. */
	if (umount2 (mount->target, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL &&
	    errno != ENOENT)
		r = silo_fail_sys (err, errno, "unmount %s", mount->target);
	image_put (self, mount->image);
	free (mount);
	return r;
}

static int
erofs_init (void *self_, struct silo_host *host, struct silo_error *err)
{
	struct erofs *self = self_;

	int r = pthread_mutex_init (&self->lock, NULL);
	if (r != 0)
		return silo_fail_sys (err, r, "mutex");
	self->magic = EROFS_MAGIC;
	self->host = host;
	return 0;
}

/* Mounts that are left belong to others now (`silo mount` ends, its mount stays): only what
 * we remember of them goes. */
static void
erofs_stop (void *self_)
{
	struct erofs *self = self_;

	while (self->mounts) {
		struct mount *mount = self->mounts;
		self->mounts = mount->next;
		image_put (self, mount->image);
		free (mount);
	}
	assert (!self->images);
}

static void
erofs_destroy (void *self_)
{
	struct erofs *self = self_;

	pthread_mutex_destroy (&self->lock);
	self->magic = 0;
}

static const struct silo_option options[] = {
	{ .name = "upper",
	  .type = SILO_CHOICE,
	  .offset = offsetof (struct erofs, upper),
	  .def = "tmpfs",
	  .choices = "tmpfs disk",
	  .help = "where a container's writes go: memory, or the state folder (no size limit)" },
	{ .name = "upper_size",
	  .type = SILO_SIZE,
	  .offset = offsetof (struct erofs, upper_size),
	  .def = "1G",
	  .min = 1 << 20,
	  .max = INT64_MAX,
	  .help = "bytes that may be written to a root in memory when the caller sets no limit" },
	{ .name = "backing",
	  .type = SILO_CHOICE,
	  .offset = offsetof (struct erofs, backing),
	  .def = "auto",
	  .choices = "auto file loop",
	  .help =
	      "mount image files directly, by a loop device, or directly where the kernel can" },
	{ .name = NULL },
};

static const struct silo_rootfs_ops ops = {
	.probe = probe_run,
	.mount = erofs_mount,
	.unmount = erofs_unmount,
};

SILO_PLUGIN (ops, .name = "erofs", .version = "1.0",
	     .summary = "images mounted by the kernel: EROFS metadata over the object folder",
	     .flags = SILO_PARALLEL, .options = options, .instance_size = sizeof (struct erofs),
	     .init = erofs_init, .stop = erofs_stop, .destroy = erofs_destroy);
