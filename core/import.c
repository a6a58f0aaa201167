/* SPDX-License-Identifier: Apache-2.0 */
/*
 * import.c - one image on its way in: the functions that image plugins call.
 * Bytes of files are hashed as they arrive and stored under their digest;
 * entries wait in their layer until import_finish merges the layers.  Layers
 * are filled by one thread each; what they share is behind import->lock.
 */
#include "import.h"

#define IMPORT_MAX_LAYERS 512
#define IMPORT_MAX_CONFIG ((size_t) 4 << 20)
/* Files up to here are held in memory until their digest is known, and not written at all
 * when the store has them. */
#define IMPORT_SMALL ((size_t) 1 << 20)

struct silo_layer {
	struct silo_import *import;
	struct tree_layer *tree;
	struct silo_buf small;      /* bytes of the current file, while it is small */
	struct silo_writer *writer; /* of the current file, when it is not */
	bool filling;               /* a file's bytes are expected */
	int64_t size, got;          /* of it */
	bool ended;
};

struct silo_import {
	struct core *core;
	struct silo_instance *content;
	const struct import_progress *progress;
	pthread_mutex_t lock; /* the fields below, and calls of progress->fn */
	struct silo_layer *layers[IMPORT_MAX_LAYERS];
	size_t n;
	char *config; /* NULL: none given */
};

int
import_new (struct core *core, const struct import_progress *progress, struct silo_import **ret,
	    struct silo_error *err)
{
	if (!core->wiring.content)
		return silo_fail (err, SILO_PRECONDITION, "there is no content store");
	struct silo_import *import = calloc (1, sizeof (*import));
	if (!import)
		return silo_fail_nomem (err);
	import->core = core;
	import->content = core->wiring.content;
	import->progress = progress;
	pthread_mutex_init (&import->lock, NULL);
	*ret = import;
	return 0;
}

static void
layer_free (struct silo_layer *layer)
{
	if (!layer)
		return;
	silo_writer_abort (layer->writer);
	silo_buf_free (&layer->small);
	tree_layer_free (layer->tree);
	free (layer);
}

void
import_free (struct silo_import *import)
{
	if (!import)
		return;
	for (size_t i = 0; i < import->n; i++)
		layer_free (import->layers[i]);
	free (import->config);
	pthread_mutex_destroy (&import->lock);
	free (import);
}

const char *
import_config (const struct silo_import *import)
{
	return import->config ? import->config : "{}";
}

int
silo_import_config (struct silo_import *import, const char *json, size_t len,
		    struct silo_error *err)
{
	if (len > IMPORT_MAX_CONFIG)
		return silo_fail (err, SILO_INVALID,
				  "the image's config has %zu bytes, at most "
				  "%zu are accepted",
				  len, IMPORT_MAX_CONFIG);
	json_error_t bad;
	_cleanup_json_ json_t *config = json_loadb (json, len, JSON_REJECT_DUPLICATES, &bad);
	if (!config)
		return silo_fail (err, SILO_INVALID, "the image's config is no JSON: %s", bad.text);
	if (!json_is_object (config))
		return silo_fail (err, SILO_INVALID, "the image's config is no JSON object");
	char *text = json_dumps (config, JSON_COMPACT | JSON_SORT_KEYS);
	if (!text)
		return silo_fail_nomem (err);
	scope_lock (&import->lock);
	free (import->config);
	import->config = text;
	return 0;
}

int
silo_import_layer (struct silo_import *import, const char *name, struct silo_layer **ret,
		   struct silo_error *err)
{
	struct silo_layer *layer = calloc (1, sizeof (*layer));
	if (!layer)
		return silo_fail_nomem (err);
	layer->import = import;
	layer->small = (struct silo_buf) SILO_BUF (IMPORT_SMALL);
	int r = tree_layer_new (name, &layer->tree, err);
	if (r < 0) {
		layer_free (layer);
		return r;
	}
	scope_lock (&import->lock);
	if (import->n == IMPORT_MAX_LAYERS) {
		layer_free (layer);
		return silo_fail (err, SILO_EXHAUSTED, "the image has more than %d layers",
				  IMPORT_MAX_LAYERS);
	}
	import->layers[import->n++] = layer;
	*ret = layer;
	return 0;
}

int
silo_import_layer_blob (struct silo_import *import, const char *name,
			const struct silo_digest *blob, int64_t size, struct silo_layer **ret,
			struct silo_error *err)
{
	(void) blob;
	(void) size;
	return silo_import_layer (import, name, ret, err);
}

int
silo_layer_begin (struct silo_layer *layer, bool *ret_known, struct silo_error *err)
{
	(void) layer;
	(void) err;
	*ret_known = false;
	return 0;
}

void
silo_layer_fetched (struct silo_layer *layer, int64_t bytes)
{
	(void) layer;
	(void) bytes;
}

/* -- files ------------------------------------------------------------------------ */

static const char *
layer_path (const struct silo_layer *layer)
{
	return layer->tree->entries[layer->tree->n - 1].path;
}

static int
write_small (struct silo_layer *layer, struct silo_digest *ret, struct silo_error *err)
{
	struct silo_writer *writer = NULL;
	int64_t size = 0;
	int r = silo_writer_open (layer->import->content, &writer, err);
	if (r < 0)
		return r;
	r = silo_writer_add (writer, layer->small.data, layer->small.len, err);
	if (r < 0) {
		silo_writer_abort (writer);
		return r;
	}
	return silo_writer_commit (writer, ret, &size, err);
}

static int
store_small (struct silo_layer *layer, struct silo_digest *ret, struct silo_error *err)
{
	struct silo_instance *content = layer->import->content;
	struct silo_digest digest;
	struct silo_error none = { 0 };
	int64_t size = -1;
	int r = silo_digest_of (layer->small.data, layer->small.len, &digest, err);
	if (r < 0)
		return r;
	int there = silo_content_stat (content, &digest, &size, &none);
	if (there == 0 && size == layer->size) {
		*ret = digest;
		return 0;
	}
	/* One of another size is what a power cut left before it was synced. */
	if (there == 0)
		r = silo_content_remove (content, &digest, err);
	else if (there != SILO_NOTFOUND)
		return silo_fail (err, there, "%s", none.msg);
	return r < 0 ? r : write_small (layer, ret, err);
}

static int
file_end (struct silo_layer *layer, struct silo_error *err)
{
	struct silo_digest digest;
	int64_t size = layer->size;
	int r = 0;
	if (layer->writer)
		r = silo_writer_commit (silo_steal (&layer->writer), &digest, &size, err);
	else
		r = store_small (layer, &digest, err);
	if (r < 0)
		return silo_wrap (err, "layer %s: %s", layer->tree->name, layer_path (layer));
	assert (size == layer->size);
	tree_layer_object (layer->tree, &digest);
	layer->filling = false;
	return 0;
}

static int
file_begin (struct silo_layer *layer, int64_t size, struct silo_error *err)
{
	layer->filling = true;
	layer->size = size;
	layer->got = 0;
	layer->small.len = 0;
	if (size <= (int64_t) IMPORT_SMALL)
		return 0;
	return silo_writer_open (layer->import->content, &layer->writer, err);
}

static int
file_complete (const struct silo_layer *layer, struct silo_error *err)
{
	if (!layer->filling)
		return 0;
	return silo_fail (err, SILO_INVALID, "layer %s: %s: %lld of %lld bytes arrived",
			  layer->tree->name, layer_path (layer), (long long) layer->got,
			  (long long) layer->size);
}

int
silo_layer_entry (struct silo_layer *layer, const struct silo_entry *entry, struct silo_error *err)
{
	if (layer->ended)
		return silo_fail (err, SILO_PRECONDITION, "layer %s has ended", layer->tree->name);
	int r = file_complete (layer, err);
	if (r == 0)
		r = tree_layer_add (layer->tree, entry, err);
	if (r == 0 && entry->type == SILO_ENTRY_FILE && entry->size > 0)
		r = file_begin (layer, entry->size, err);
	return r;
}

int
silo_layer_data (struct silo_layer *layer, const void *data, size_t len, struct silo_error *err)
{
	if (len == 0)
		return 0;
	if (!layer->filling)
		return silo_fail (err, SILO_PRECONDITION,
				  "layer %s: %zu bytes that belong to no file", layer->tree->name,
				  len);
	if (len > (uint64_t) (layer->size - layer->got))
		return silo_fail (err, SILO_INVALID, "layer %s: %s: more than its %lld bytes",
				  layer->tree->name, layer_path (layer), (long long) layer->size);
	int r = layer->writer ? silo_writer_add (layer->writer, data, len, err)
			      : silo_buf_add (&layer->small, data, len, err);
	if (r < 0)
		return silo_wrap (err, "layer %s: %s", layer->tree->name, layer_path (layer));
	layer->got += (int64_t) len;
	return layer->got == layer->size ? file_end (layer, err) : 0;
}

int
silo_layer_end (struct silo_layer *layer, struct silo_error *err)
{
	int r = file_complete (layer, err);
	if (r < 0)
		return r;
	silo_buf_free (&layer->small);
	layer->ended = true;
	return 0;
}

/* -- progress ------------------------------------------------------------------------ */

void
silo_import_progress (struct silo_import *import, const char *stage, int64_t done, int64_t total)
{
	if (!import->progress || !import->progress->fn)
		return;
	scope_lock (&import->lock);
	const struct import_status status = { .stage = stage, .done = done, .total = total };
	import->progress->fn (import->progress->arg, &status);
}

bool
silo_import_cancelled (struct silo_import *import)
{
	return import->progress && import->progress->cancelled && *import->progress->cancelled;
}

int
silo_import_cancel_fd (struct silo_import *import)
{
	return import->progress ? import->progress->cancel_fd : -1;
}

/* -- the end --------------------------------------------------------------------------- */

static int
layers_merge (struct silo_import *import, struct tree *tree, struct silo_error *err)
{
	for (size_t i = 0; i < import->n; i++) {
		struct silo_layer *layer = import->layers[i];
		if (!layer->ended)
			return silo_fail (err, SILO_INTERNAL, "layer %s did not end",
					  layer->tree->name);
		int r = tree_apply (tree, layer->tree, err);
		if (r < 0)
			return r;
		/* Its inodes are the tree's now; the rest need not wait for the end. */
		layer_free (layer);
		import->layers[i] = NULL;
	}
	return 0;
}

int
import_finish (struct silo_import *import, int fd, struct meta_info *ret, struct silo_error *err)
{
	struct tree *tree = NULL;
	int r = tree_new (&tree, err);
	if (r < 0)
		return r;
	silo_import_progress (import, "merging layers", 0, 0);
	r = layers_merge (import, tree, err);
	if (r == 0 && silo_import_cancelled (import))
		r = silo_fail (err, SILO_CANCELLED, "stopped");
	if (r == 0)
		silo_import_progress (import, "writing to disk", 0, 0);
	if (r == 0)
		r = silo_content_sync (import->content, err);
	if (r == 0)
		r = meta_write (tree, fd, ret, err);
	tree_free (tree);
	return r;
}
