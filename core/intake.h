/* SPDX-License-Identifier: Apache-2.0 */
/*
 * intake.h - threads that hash the files of an import and put them into the
 * content store, while the plugin's threads go on unpacking.
 */
#ifndef INTAKE_H
#define INTAKE_H

#include <stdatomic.h>
#include "core.h"
#include "tree.h"

struct intake;
struct intake_block;
struct intake_file;

/* The files of one layer, in order; embedded in the layer, used by the thread that fills it. */
struct feed {
	struct intake *intake;
	const char *layer;          /* its name, for messages; borrowed */
	struct intake_block *block; /* being filled with small files */
	struct intake_file *file;   /* being filled, when it is a large one */
	uint64_t size, got;         /* of the file at hand */
	size_t pending;             /* blocks and files not stored yet; behind the intake's lock */
	_Atomic int64_t hashed;     /* bytes */
	_Atomic int64_t stored;     /* of them, bytes that the content store did not have */
};

/* Threads start with the first file.  `cancelled` may be NULL. */
int intake_new (struct silo_instance *content, const volatile int *cancelled, struct intake **ret,
		struct silo_error *err);
/* Ends the threads without waiting for what is queued.  Feeds are cleared before. */
void intake_free (struct intake *intake);

void feed_init (struct feed *feed, struct intake *intake, const char *layer);
/* A file of `size` > 0 bytes begins.  Its digest is in the inode before feed_end
 * returns; inode and path stay where they are until then. */
int feed_file (struct feed *feed, struct tree_inode *inode, const char *path, uint64_t size,
	       struct silo_error *err);
/* Bytes of it, at most as many as are missing.  Waits when the threads are behind.  This and
 * feed_file may report an error of any earlier file, also of another feed. */
int feed_data (struct feed *feed, const void *data, size_t len, struct silo_error *err);
/* Wait until all files are stored. */
int feed_end (struct feed *feed, struct silo_error *err);
/* Throw away what is half filled. */
void feed_clear (struct feed *feed);

#endif
