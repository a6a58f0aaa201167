/* SPDX-License-Identifier: Apache-2.0 */
/*
 * import.h - between image.c, which decides what is indexed under which name,
 * and import.c, which receives an image's layers; and the search for Python.
 */
#ifndef IMPORT_H
#define IMPORT_H

#include "core.h"
#include "tree.h"

/* -- import.c ---------------------------------------------------------------- */

int import_new (struct core *core, const struct import_progress *progress, struct silo_import **ret,
		struct silo_error *err);
void import_free (struct silo_import *import);
/* The digests of its layers as struct silo_image has them; before import_finish. */
int import_layers (struct silo_import *import, struct silo_buf *to, struct silo_error *err);
/* All layers have arrived: make the objects safe and write the metadata file to `fd`. */
int import_finish (struct silo_import *import, int fd, struct meta_info *ret,
		   struct silo_error *err);
/* The image's config as JSON; "{}" if none.  Borrowed. */
const char *import_config (const struct silo_import *import);

/* -- image-record.c ------------------------------------------------------------- */

/* The record of exactly this name; SILO_NOTFOUND. */
int image_get (struct core *core, const char *name, struct image_copy **ret,
	       struct silo_error *err);
/* All records, by name, borrowed; fn returns 0 to go on and must not call the storage. */
int image_each (struct core *core, silo_image_fn *fn, void *arg, struct silo_error *err);

/* -- image.c ------------------------------------------------------------------- */

/* STATE/images, open and locked. */
struct image_folder {
	int fd;
	int lock;
};
/* With LOCK_NB as well: SILO_UNAVAILABLE when somebody else is there. */
int image_folder_open (struct core *core, int how /* LOCK_SH, LOCK_EX */, struct image_folder *ret,
		       struct silo_error *err);
void image_folder_close (struct image_folder *folder);

/* -- image-gc.c ---------------------------------------------------------------- */

/* What a collection has removed, or would. */
struct gc_report {
	int64_t objects, object_bytes;
	int64_t metas, meta_bytes;   /* metadata files */
	int64_t layers, layer_bytes; /* layer records */
	int64_t temps, temp_bytes;   /* what imports that have ended left unfinished */
	int64_t in_use;              /* metadata files that stay only because they are mounted */
};
/* Remove what no image record and no mount needs: metadata files, layer records, objects,
 * leftovers.  `locked`: STATE/images, locked exclusively, or shared with `dry_run`, which then
 * counts what imports under way have not named yet; NULL: locked here.  Whoever imported and
 * failed may call it when nobody else imports. */
int image_collect (struct core *core, const struct image_folder *locked, bool dry_run,
		   struct gc_report *ret, struct silo_error *err);

/* -- image-python.c ------------------------------------------------------------ */

/* The interpreter that `python3` would start in this image: its path and "3.N"; both "" if
 * there is none.  Found by looking at names; nothing is run. */
struct image_python {
	char path[256];
	char version[16];
};
int image_python (const struct silo_meta *meta, const char *config, struct image_python *ret,
		  struct silo_error *err);

#endif
