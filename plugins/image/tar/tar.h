/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tar.h - layers as image plugins find them: a tar, plain or compressed by gzip
 * or zstd, read from wherever it comes and handed to the import entry by entry.
 * No plugin itself: compiled into those of this kind that read tars.
 */
#ifndef TAR_H
#define TAR_H

#include <silo/silo.h>

#include <stddef.h>

/* Where the bytes of a blob come from.  tar_read calls `next` from one thread at a time, but not
 * always from that of its caller; after tar_read has returned nobody calls it any more. */
struct tar_source {
	/* The next bytes, which stay where they are until the next call; *ret_len == 0 at the
	 * blob's end, after which it is not called again.  Blocks as long as it must.  An error
	 * is that of tar_read, as it is. */
	int (*next) (void *arg, const void **ret, size_t *ret_len, struct silo_error *err);
	/* Optional.  The tar has turned out to be bad while `next` may be waiting: it shall
	 * return soon, whatever it returns.  Called at most once, by any thread. */
	void (*stop) (void *arg);
	void *arg;
};

/* Read the blob to its end (its digest is of the whole of it) and hand what is in it to the
 * layer; silo_layer_end is left to the caller, who compares digests first.  `name` is the
 * layer's, for messages.  Blocks; asks silo_import_cancelled, also while files are large.
 * After an error the source is somewhere in the blob: who wants to know whether a bad tar is one
 * that was damaged on its way reads on. */
int tar_read (const struct tar_source *source, const char *name, struct silo_import *import,
	      struct silo_layer *layer, struct silo_error *err);

#endif
