/* SPDX-License-Identifier: Apache-2.0 */
/*
 * erofs.h - the map of this plugin: erofs.c (options, mounts), image.c (one
 * EROFS mount per image, shared), loop.c (kernels that mount block devices
 * only), probe.c (a tiny image, really mounted).
 */
#ifndef EROFS_H
#define EROFS_H

#include <pthread.h>
#include <sys/types.h>
#include <silo/content.h>
#include <silo/host.h>
#include <silo/log.h>
#include <silo/rootfs.h>

/* How an image file becomes a mount: option `backing`. */
enum backing { BACKING_AUTO = 0, BACKING_FILE = 1, BACKING_LOOP = 2 };

/* One image's EROFS mount, attached nowhere, shared by all of its containers. */
struct image {
	struct image *next;
	char *path;
	dev_t dev; /* of the file: a path may come to name another file */
	ino_t ino;
	int fd;     /* root of the mount */
	void *map;  /* the file, locked into memory; NULL: not possible here */
	size_t len; /* of map */
	size_t users;
};

struct mount;

#define EROFS_MAGIC 0xe20f5001u

struct erofs {
	/* options */
	int64_t upper; /* enum silo_upper - 1 */
	int64_t upper_size;
	int64_t backing; /* enum backing */

	uint32_t magic;
	struct silo_host *host;
	pthread_mutex_t lock; /* protects the lists and image->users */
	struct image *images;
	struct mount *mounts; /* for stop: those that nobody unmounted */
};

/* -- image.c -- */

int image_get (struct erofs *self, const char *path, struct image **ret, struct silo_error *err);
void image_put (struct erofs *self, struct image *image);

/* -- loop.c -- */

/* A read-only loop device over the file, which vanishes with its last user.  Keep *ret_fd
 * open until it is mounted. */
int loop_attach (int file, int *ret_fd, char ret_path[32], struct silo_error *err);

/* -- probe.c -- */

int probe_run (void *self, const char *scratch, struct silo_error *err);

/* -- erofs.c -- */

int erofs_mount (void *self, const struct silo_rootfs_spec *spec, void **ret_mount,
		 struct silo_error *err);
int erofs_unmount (void *self, void *mount, struct silo_error *err);
/* The same, of objects in a plain folder. */
int erofs_mount_folder (struct erofs *self, const struct silo_rootfs_spec *spec,
			const char *objects, struct mount **ret, struct silo_error *err);

#endif
