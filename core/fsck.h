/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fsck.h - `silo fsck`: finding what is wrong with the store (fsck-check.c) and
 * whom it hurts (fsck-paths.c), and getting it again (fsck-heal.c).
 */
#ifndef FSCK_H
#define FSCK_H

#include "store.h"

enum fsck_kind {
	FSCK_OBJECT_DAMAGED,
	FSCK_OBJECT_MISSING,
	FSCK_META_DAMAGED,
	FSCK_META_MISSING,
	FSCK_LAYER_DAMAGED, /* no harm done: its blob would be fetched again */
};

#define FSCK_PATHS 2 /* of an object, named for each image */

/* An image that a flaw hurts. */
struct fsck_hurt {
	size_t image;            /* in struct fsck */
	char *paths[FSCK_PATHS]; /* where the object is in it, made fit for a terminal */
	int64_t n_paths;         /* all of them */
};

struct fsck_flaw {
	enum fsck_kind kind;
	struct silo_digest digest;
	struct fsck_hurt *hurts;
	size_t n_hurts;
	bool healed;
};

struct fsck_image {
	struct image_copy *record;
	char *why; /* it could not be healed; NULL: it was not tried, or was */
};

struct fsck {
	struct core *core;
	/* For people who wait; called by one thread at a time. */
	void (*progress) (void *arg, const char *stage, int64_t done, int64_t total);
	void *arg;

	struct fsck_image *images; /* by name */
	size_t n_images;
	struct fsck_flaw *flaws;
	size_t n, cap;
	char **strays; /* paths of files that do not belong into the store */
	size_t n_strays;
	int64_t objects, bytes, metas, layers; /* that were looked at */
};

void fsck_free (struct fsck *fsck);

/* -- fsck-check.c -------------------------------------------------------------- */

/* Look at everything; `fsck` has only its first fields set.  Waits for whoever removes. */
int fsck_check (struct fsck *fsck, struct silo_error *err);
/* Is this flaw still there? */
int fsck_check_again (struct fsck *fsck, struct fsck_flaw *flaw, struct silo_error *err);

/* -- fsck-paths.c -------------------------------------------------------------- */

/* Name the paths of flawed objects in an image, whose metadata file is sound. */
int fsck_find_paths (struct fsck *fsck, size_t image, const struct silo_meta *meta,
		     struct silo_error *err);
/* The flaw of an object; NULL: it has none. */
struct fsck_flaw *fsck_find (struct fsck *fsck, const struct silo_digest *object);
/* Note that a flaw hurts an image; again is the same. */
int fsck_add_hurt (struct fsck_flaw *flaw, size_t image, struct fsck_hurt **ret,
		   struct silo_error *err);

/* -- fsck-heal.c --------------------------------------------------------------- */

/* Remove what is damaged, get it again from the images' sources, and check that it is whole. */
int fsck_heal (struct fsck *fsck, bool tls_verify, struct silo_error *err);

#endif
