/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.c - one EROFS mount per image, attached nowhere, shared by all mounts
 * of the image and dropped with the last.  The list is protected by
 * erofs->lock, which is held while a new image is mounted: a second container
 * of the same image waits for that mount instead of making its own.
 */
#include "erofs.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_STEP (1u << 20)

/* Bring the whole file into the page cache, and keep it there if we may.  EROFS reads an
 * image file page by page, which is slow when cold, and on ext4 runs into a kernel warning
 * (ext4_check_map_extents_env) that pages already in memory avoid. */
static int
image_preload (struct image *image, int file, uint64_t size, struct silo_error *err)
{
	char *buf = malloc (READ_STEP);
	if (!buf)
		return silo_fail_nomem (err);
	for (uint64_t at = 0; at < size;) {
		ssize_t n = pread (file, buf, READ_STEP, (off_t) at);
		if (n <= 0) {
			int sys = n < 0 ? errno : EIO;
			free (buf);
			return silo_fail_sys (err, sys, "read metadata file %s", image->path);
		}
		at += (uint64_t) n;
	}
	free (buf);

	void *map = mmap (NULL, size, PROT_READ, MAP_SHARED, file, 0);
	if (map == MAP_FAILED)
		return 0;
	if (mlock (map, size) < 0) {
		munmap (map, size);
		return 0;
	}
	image->map = map;
	image->len = size;
	return 0;
}

static int
image_mount_source (const char *source, int *ret_fd, struct silo_error *err)
{
	char option[48];

	snprintf (option, sizeof (option), "source=%s", source);
	const char *const options[] = { option, "ro", NULL };
	return silo_fs_mount ("erofs", options, ret_fd, err);
}

/* The kernel calls a damaged superblock an invalid argument.  Otherwise it is not the file's
 * fault. */
static int
image_refused (const struct image *image, const struct silo_error *why, struct silo_error *err)
{
	if (why->sys == EINVAL || why->sys == EUCLEAN)
		return silo_fail (err, SILO_DATALOSS, "metadata file %s: %s", image->path,
				  why->msg);
	return silo_fail_sys (err, why->sys, "mount erofs");
}

static int
image_mount (struct erofs *self, struct image *image, int file, struct silo_error *err)
{
	struct silo_error why = { 0 };
	char source[32];
	int device, r;

	if (self->backing != BACKING_LOOP) {
		snprintf (source, sizeof (source), "/proc/self/fd/%d", file);
		r = image_mount_source (source, &image->fd, &why);
		if (r == 0)
			return 0;
		/* Older kernels mount block devices only, and say so. */
		if (self->backing == BACKING_FILE || why.sys != ENOTBLK)
			return image_refused (image, &why, err);
	}
	r = loop_attach (file, &device, source, err);
	if (r < 0)
		return r;
	r = image_mount_source (source, &image->fd, &why);
	close (device);
	return r < 0 ? image_refused (image, &why, err) : 0;
}

static void
image_free (struct image *image)
{
	if (!image)
		return;
	if (image->fd >= 0)
		close (image->fd);
	if (image->map)
		munmap (image->map, image->len);
	free (image->path);
	free (image);
}

static int
image_new (struct erofs *self, const char *path, int file, const struct stat *st,
	   struct image **ret, struct silo_error *err)
{
	struct image *image = calloc (1, sizeof (*image));
	if (!image)
		return silo_fail_nomem (err);
	image->fd = -1;
	image->dev = st->st_dev;
	image->ino = st->st_ino;
	image->path = strdup (path);

	int r = image->path ? 0 : silo_fail_nomem (err);
	if (r == 0)
		r = image_preload (image, file, (uint64_t) st->st_size, err);
	if (r == 0)
		r = image_mount (self, image, file, err);
	if (r < 0) {
		image_free (image);
		return r;
	}
	*ret = image;
	return 0;
}

/* Under the lock. */
static int
image_find (struct erofs *self, const char *path, int file, const struct stat *st,
	    struct image **ret, struct silo_error *err)
{
	for (struct image *image = self->images; image; image = image->next) {
		if (image->dev == st->st_dev && image->ino == st->st_ino &&
		    strcmp (image->path, path) == 0) {
			*ret = image;
			return 0;
		}
	}

	int r = image_new (self, path, file, st, ret, err);
	if (r < 0)
		return r;
	(*ret)->next = self->images;
	self->images = *ret;
	return 0;
}

int
image_get (struct erofs *self, const char *path, struct image **ret, struct silo_error *err)
{
	struct image *image = NULL;
	struct stat st;
	int file = open (path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (file < 0)
		return silo_fail_sys (err, errno, "metadata file %s", path);

	int r = 0;
	if (fstat (file, &st) < 0)
		r = silo_fail_sys (err, errno, "metadata file %s", path);
	else if (!S_ISREG (st.st_mode) || st.st_size < 4096)
		r = silo_fail (err, SILO_DATALOSS,
			       "metadata file %s: expected an EROFS image of at least one block",
			       path);
	if (r == 0) {
		pthread_mutex_lock (&self->lock);
		r = image_find (self, path, file, &st, &image, err);
		if (r == 0)
			image->users++;
		pthread_mutex_unlock (&self->lock);
	}
	close (file);
	if (r < 0)
		return r;
	*ret = image;
	return 0;
}

void
image_put (struct erofs *self, struct image *image)
{
	pthread_mutex_lock (&self->lock);
	assert (image->users > 0);
	if (--image->users > 0) {
		pthread_mutex_unlock (&self->lock);
		return;
	}
	struct image **at = &self->images;
	while (*at && *at != image)
		at = &(*at)->next;
	assert (*at == image);
	*at = image->next;
	pthread_mutex_unlock (&self->lock);
	image_free (image);
}
