/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.h - what keeps the store of images in order: pins (image-pin.c), the
 * collection of garbage (image-gc.c), removing (image-remove.c), counting
 * (image-usage.c) and checking (image-fsck.c).  Verbs call these; pins are
 * also taken on pool threads of the daemon.
 *
 * Locks: STATE/images/lock is held shared by an import and exclusively by what
 * removes.  A metadata file is locked shared by whoever has it mounted.
 */
#ifndef STORE_H
#define STORE_H

#include "digests.h"
#include "import.h"

/* -- image-pin.c ------------------------------------------------------------- */

/* Open the metadata file of an image and keep it, and so the objects that it names, from
 * being collected until *ret_fd is closed.  SILO_NOTFOUND: it has been collected. */
int image_pin (struct core *core, const struct silo_image *image, int *ret_fd,
	       struct silo_error *err);
/* The same for what the image's name says now, should it have been collected since `image` was
 * read.  *ret_now: the record that is pinned, NULL if it is `image` still; free () it. */
int image_pin_current (struct core *core, const struct silo_image *image, int *ret_fd,
		       struct image_copy **ret_now, struct silo_error *err);
/* Does nobody use this metadata file?  Then it is locked and *ret_fd is the lock, -1 otherwise.
 * Also -1 when it is gone. */
int image_unpinned (struct core *core, const struct image_folder *folder, const char *name,
		    int *ret_fd, struct silo_error *err);

/* -- image-gc.c ---------------------------------------------------------------- */

/* The digest in "HEX.erofs"; false for other names. */
bool image_file_parse (const char *name, struct silo_digest *ret);
/* Add the layers that a record lists. */
int image_layers (const struct silo_image *image, struct digests *to, struct silo_error *err);

/* -- image-usage.c ------------------------------------------------------------- */

struct image_usage {
	struct image_copy *record;
	size_t meta;            /* which metadata file: images with the same tree share one */
	bool damaged;           /* that file cannot be read, and the fields below are 0 */
	int64_t files;          /* regular files; names of the same file count once */
	int64_t unique, shared; /* bytes of its objects: no other image has them, another has */
	int64_t unique_objects, shared_objects;
};

struct images_usage {
	struct image_usage *item; /* by name */
	size_t n;
};

/* All images, and what each has for itself. */
int images_usage (struct core *core, struct images_usage *ret, struct silo_error *err);
void images_usage_free (struct images_usage *usage);

struct store_usage {
	int64_t objects, object_bytes;
	int64_t object_disk; /* bytes that they take on the disk; -1: unknown */
	int64_t metas, meta_bytes;
	int64_t layers, layer_bytes; /* layer records */
	int64_t database;            /* bytes of the storage plugin's files; -1: unknown */
};

int store_usage (struct core *core, struct store_usage *ret, struct silo_error *err);

/* -- image-remove.c ------------------------------------------------------------ */

/* Only the record, with STATE/images locked exclusively; image_collect takes the rest. */
int image_drop (struct core *core, const char *name, struct silo_error *err);

#endif
