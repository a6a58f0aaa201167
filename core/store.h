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

/* -- image-remove.c ------------------------------------------------------------ */

/* Only the record, with STATE/images locked exclusively; image_collect takes the rest. */
int image_drop (struct core *core, const char *name, struct silo_error *err);

#endif
