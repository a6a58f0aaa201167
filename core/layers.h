/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layers.h - STATE/layers: what the layers consist of whose blobs have been
 * imported (layer-file.c), and who is importing which just now (layer-lock.c).
 * Called by the threads that fill layers.
 */
#ifndef LAYERS_H
#define LAYERS_H

#include "core.h"
#include "tree.h"

/* -- layer-file.c: STATE/layers/HEX, docs/formats/layer.md ---------------------- */

/* The folder, made if need be. */
int layer_folder_open (struct core *core, int *ret_fd, struct silo_error *err);
/* The entries of a record that has been read into memory; anything wrong: SILO_DATALOSS. */
int layer_file_read (const void *data, size_t len, struct tree_layer **ret, struct silo_error *err);
/* Write a record to `fd`, from its position on. */
int layer_file_write (const struct tree_layer *layer, const struct silo_digest *blob, int fd,
		      struct silo_error *err);
/* SILO_NOTFOUND: there is none, or the store lacks an object of it; `content` NULL: it is not
 * asked. */
int layer_load (int folder, struct silo_instance *content, const struct silo_digest *blob,
		struct tree_layer **ret, struct silo_error *err);
/* All files of the layer are stored; the record is complete or absent, also after a crash. */
int layer_save (int folder, const struct silo_digest *blob, const struct tree_layer *layer,
		struct silo_error *err);

/* -- layer-lock.c: STATE/layers/HEX.lock ------------------------------------------ */

struct layer_lock {
	int folder; /* borrowed */
	int fd;     /* -1: not held */
	char name[SILO_DIGEST_HEX + 6];
};
/* Wait until nobody else imports this blob.  SILO_CANCELLED when one of `stop_fds` (-1: none)
 * becomes readable.  Who holds one waits for no other. */
int layer_lock (int folder, const struct silo_digest *blob, const int stop_fds[2],
		struct layer_lock *ret, struct silo_error *err);
/* Harmless when it is not held. */
void layer_unlock (struct layer_lock *lock);

#endif
