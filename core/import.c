/* SPDX-License-Identifier: Apache-2.0 */
/*
 * import.c - one image on its way in: the functions that image plugins call.
 * Entries wait in their layer until import_finish merges the layers; the bytes
 * of files go to the threads of intake.c.  A layer that is complete is put on
 * record (layer-file.c), and one that is on record is not imported again.
 * Layers are filled by one thread each; what they share is behind
 * import->lock, or atomic.
 */
#include "import.h"
#include "intake.h"
#include "layers.h"

#define IMPORT_MAX_LAYERS 512
#define IMPORT_MAX_CONFIG ((size_t) 4 << 20)

struct silo_layer {
	struct silo_import *import;
	char *name;
	struct tree_layer *tree; /* NULL: merged */
	struct feed feed;        /* bytes of its files */
	bool filling;            /* a file's bytes are expected */
	int64_t size, got;       /* of it */
	bool ended;

	bool has_blob;
	struct silo_digest blob;
	int64_t blob_size; /* -1: unknown */
	struct layer_lock lock;

	_Atomic int state; /* of struct import_layer */
	_Atomic int64_t fetched;
	int64_t known; /* bytes of files, when it was known; behind import->lock */
};

struct silo_import {
	struct core *core;
	struct silo_instance *content;
	const struct import_progress *progress;
	struct intake *intake;
	_Atomic int64_t entries, bytes; /* of all layers; bytes of files */
	_Atomic int64_t names;          /* bytes of paths, targets and attributes of all layers */

	pthread_mutex_t lock; /* the fields below, and calls of progress->fn */
	struct silo_layer *layers[IMPORT_MAX_LAYERS];
	size_t n;
	int folder;   /* STATE/layers; -1: not needed yet */
	char *config; /* NULL: none given */
	struct import_status status;
	char stage[64];
	struct import_layer shown[IMPORT_MAX_LAYERS];
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
	import->folder = -1;
	import->status = (struct import_status){ .stage = "fetching", .layers = import->shown };
	int r = intake_new (import->content, progress ? progress->cancelled : NULL, &import->intake,
			    err);
	if (r < 0) {
		free (import);
		return r;
	}
	pthread_mutex_init (&import->lock, NULL);
	*ret = import;
	return 0;
}

static void
layer_free (struct silo_layer *layer)
{
	if (!layer)
		return;
	layer_unlock (&layer->lock);
	tree_layer_free (layer->tree);
	free (layer->name);
	free (layer);
}

void
import_free (struct silo_import *import)
{
	if (!import)
		return;
	for (size_t i = 0; import->intake && i < import->n; i++)
		feed_clear (&import->layers[i]->feed);
	/* Its threads look at the layers' inodes. */
	intake_free (import->intake);
	for (size_t i = 0; i < import->n; i++)
		layer_free (import->layers[i]);
	util_close (&import->folder);
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

/* -- progress ------------------------------------------------------------------------ */

/* Called with the lock held. */
static void
progress_show (struct silo_import *import)
{
	for (size_t i = 0; i < import->n; i++) {
		const struct silo_layer *layer = import->layers[i];
		struct import_layer *shown = &import->shown[i];
		shown->name = layer->name;
		shown->state = atomic_load (&layer->state);
		shown->fetched = atomic_load (&layer->fetched);
		shown->size = layer->blob_size;
		shown->hashed = atomic_load (&layer->feed.hashed) + layer->known;
		shown->stored = atomic_load (&layer->feed.stored);
	}
	import->status.n = import->n;
	import->progress->fn (import->progress->arg, &import->status);
}

/* Every change is told, also of a few bytes: nobody knows whether another one follows. */
static void
progress_tell (struct silo_import *import)
{
	if (!import->progress || !import->progress->fn)
		return;
	scope_lock (&import->lock);
	progress_show (import);
}

void
silo_import_progress (struct silo_import *import, const char *stage, int64_t done, int64_t total)
{
	if (!import->progress || !import->progress->fn)
		return;
	scope_lock (&import->lock);
	snprintf (import->stage, sizeof (import->stage), "%s", stage);
	import->status.stage = import->stage;
	import->status.done = done;
	import->status.total = total;
	progress_show (import);
}

/* -- layers ----------------------------------------------------------------------------- */

static int
layer_register (struct silo_import *import, struct silo_layer *layer, struct silo_error *err)
{
	int64_t max = import->core->settings->max_image_layers;
	if (max > IMPORT_MAX_LAYERS)
		max = IMPORT_MAX_LAYERS;
	scope_lock (&import->lock);
	if ((int64_t) import->n >= max)
		return silo_fail (err, SILO_EXHAUSTED,
				  "layer %s: the image has more than %lld layers: [silo] "
				  "max_image_layers allows no more",
				  layer->name, (long long) max);
	import->layers[import->n++] = layer;
	return 0;
}

int
silo_import_layer_blob (struct silo_import *import, const char *name,
			const struct silo_digest *blob, int64_t size, struct silo_layer **ret,
			struct silo_error *err)
{
	struct silo_layer *layer = calloc (1, sizeof (*layer));
	if (!layer)
		return silo_fail_nomem (err);
	layer->import = import;
	layer->lock.fd = -1;
	layer->blob_size = size;
	layer->has_blob = blob && !silo_digest_empty (blob);
	if (layer->has_blob)
		layer->blob = *blob;
	int r = util_strdup (name, &layer->name, err);
	if (r == 0)
		r = tree_layer_new (name, &layer->tree, err);
	if (r == 0) {
		feed_init (&layer->feed, import->intake, layer->name);
		r = layer_register (import, layer, err);
	}
	if (r < 0) {
		layer_free (layer);
		return r;
	}
	progress_tell (import);
	*ret = layer;
	return 0;
}

int
silo_import_layer (struct silo_import *import, const char *name, struct silo_layer **ret,
		   struct silo_error *err)
{
	return silo_import_layer_blob (import, name, NULL, -1, ret, err);
}

/* What the limits say of one more entry. */
static int
entry_allowed (struct silo_layer *layer, const char *path, int64_t size, struct silo_error *err)
{
	struct silo_import *import = layer->import;
	const struct settings *settings = import->core->settings;
	int64_t entries = atomic_fetch_add_explicit (&import->entries, 1, memory_order_relaxed);
	if (entries >= settings->max_image_entries)
		return silo_fail (err, SILO_EXHAUSTED,
				  "layer %s: %.100s: the image has more than %lld entries: [silo] "
				  "max_image_entries allows no more",
				  layer->name, path, (long long) settings->max_image_entries);
	/* Counted only when allowed, so that it is the layer with too much that fails. */
	int64_t bytes = atomic_load_explicit (&import->bytes, memory_order_relaxed);
	do {
		if (size > settings->max_image_size - bytes)
			return silo_fail (err, SILO_EXHAUSTED,
					  "layer %s: %.100s: the image has more than %lld bytes: "
					  "[silo] max_image_size allows no more",
					  layer->name, path, (long long) settings->max_image_size);
	} while (!atomic_compare_exchange_weak_explicit (
	    &import->bytes, &bytes, bytes + size, memory_order_relaxed, memory_order_relaxed));
	return 0;
}

/* The same of what it takes in memory. */
static int
names_allowed (struct silo_layer *layer, const char *path, size_t bytes, struct silo_error *err)
{
	struct silo_import *import = layer->import;
	int64_t max = import->core->settings->max_image_names;
	int64_t names =
	    (int64_t) bytes +
	    atomic_fetch_add_explicit (&import->names, (int64_t) bytes, memory_order_relaxed);
	if (names <= max)
		return 0;
	return silo_fail (err, SILO_EXHAUSTED,
			  "layer %s: %.100s: the image has more than %lld bytes of names and "
			  "attributes: [silo] max_image_names allows no more",
			  layer->name, path, (long long) max);
}

/* Take the entries that are on record for those of the layer. */
static int
layer_take (struct silo_layer *layer, struct tree_layer *known, struct silo_error *err)
{
	int64_t total = 0;
	int r = 0;
	for (size_t i = 0; r == 0 && i < known->n; i++) {
		const struct tree_entry *entry = &known->entries[i];
		int64_t size = entry->type == SILO_ENTRY_FILE ? (int64_t) entry->inode->size : 0;
		r = entry_allowed (layer, entry->path, size, err);
		total += size;
	}
	if (r == 0)
		r = names_allowed (layer, known->n > 0 ? known->entries[known->n - 1].path : "",
				   known->bytes, err);
	if (r < 0) {
		tree_layer_free (known);
		return r;
	}
	free (known->name);
	known->name = silo_steal (&layer->tree->name);
	tree_layer_free (layer->tree);
	layer->tree = known;
	layer->ended = true;
	scope_lock (&layer->import->lock);
	layer->known = total;
	return 0;
}

static int
folder_open (struct silo_import *import, int *ret, struct silo_error *err)
{
	scope_lock (&import->lock);
	if (import->folder < 0) {
		int r = layer_folder_open (import->core, &import->folder, err);
		if (r < 0)
			return r;
	}
	*ret = import->folder;
	return 0;
}

/* *ret: its entries; NULL when it is not known.  What cannot be read counts as unknown, what
 * could be read on another day does not. */
static int
layer_find (struct silo_layer *layer, int folder, struct tree_layer **ret, struct silo_error *err)
{
	struct silo_import *import = layer->import;
	struct silo_error why = { 0 };
	int r = layer_load (folder, import->content, &layer->blob, ret, &why);
	if (r == 0)
		return 0;
	if (r != SILO_NOTFOUND && r != SILO_DATALOSS)
		return silo_fail (err, r, "layer %s: %s", layer->name, why.msg);
	if (why.sys != ENOENT)
		silo_log (&import->core->host, SILO_DEBUG, "layer %s is fetched again: %s",
			  layer->name, why.msg);
	*ret = NULL;
	return 0;
}

/* The same, in turn with others who want this blob: then it is known, or the lock is held. */
static int
layer_find_alone (struct silo_layer *layer, int stop_fd, struct tree_layer **ret,
		  struct silo_error *err)
{
	const int stop_fds[] = { silo_import_cancel_fd (layer->import), stop_fd };
	int folder = -1;
	int r = folder_open (layer->import, &folder, err);
	if (r == 0)
		r = layer_find (layer, folder, ret, err);
	if (r < 0 || *ret)
		return r;
	r = layer_lock (folder, &layer->blob, stop_fds, &layer->lock, err);
	/* Who had the lock may have imported it meanwhile. */
	if (r == 0)
		r = layer_find (layer, folder, ret, err);
	if (r < 0 || *ret)
		layer_unlock (&layer->lock);
	return r;
}

int
silo_layer_begin (struct silo_layer *layer, int stop_fd, bool *ret_known, struct silo_error *err)
{
	struct tree_layer *known = NULL;
	int r = 0;
	if (silo_import_cancelled (layer->import))
		return silo_fail (err, SILO_CANCELLED, "stopped");
	if (layer->has_blob)
		r = layer_find_alone (layer, stop_fd, &known, err);
	if (r == 0 && known)
		r = layer_take (layer, known, err);
	if (r < 0)
		return r;
	atomic_store (&layer->state, known ? LAYER_KNOWN : LAYER_RUNS);
	progress_tell (layer->import);
	*ret_known = known != NULL;
	return 0;
}

void
silo_layer_fetched (struct silo_layer *layer, int64_t bytes)
{
	atomic_fetch_add_explicit (&layer->fetched, bytes, memory_order_relaxed);
	progress_tell (layer->import);
}

/* -- entries and bytes -------------------------------------------------------------------- */

static const char *
layer_path (const struct silo_layer *layer)
{
	return layer->tree->entries[layer->tree->n - 1].path;
}

static int
file_complete (const struct silo_layer *layer, struct silo_error *err)
{
	if (!layer->filling)
		return 0;
	return silo_fail (err, SILO_INVALID, "layer %s: %s: %lld of %lld bytes arrived",
			  layer->name, layer_path (layer), (long long) layer->got,
			  (long long) layer->size);
}

static int
file_begin (struct silo_layer *layer, int64_t size, struct silo_error *err)
{
	struct tree_inode *inode = layer->tree->entries[layer->tree->n - 1].inode;
	layer->filling = true;
	layer->size = size;
	layer->got = 0;
	return feed_file (&layer->feed, inode, layer_path (layer), (uint64_t) size, err);
}

int
silo_layer_entry (struct silo_layer *layer, const struct silo_entry *entry, struct silo_error *err)
{
	if (layer->ended)
		return silo_fail (err, SILO_PRECONDITION, "layer %s has ended", layer->name);
	size_t names = layer->tree->bytes;
	int r = file_complete (layer, err);
	if (r == 0)
		r = tree_layer_add (layer->tree, entry, err);
	if (r == 0)
		r = names_allowed (layer, layer_path (layer), layer->tree->bytes - names, err);
	if (r < 0)
		return r;
	bool file = entry->type == SILO_ENTRY_FILE && entry->size > 0;
	r = entry_allowed (layer, layer_path (layer), file ? entry->size : 0, err);
	if (r == 0 && file)
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
				  "layer %s: %zu bytes that belong to no file", layer->name, len);
	if (len > (uint64_t) (layer->size - layer->got))
		return silo_fail (err, SILO_INVALID, "layer %s: %s: more than its %lld bytes",
				  layer->name, layer_path (layer), (long long) layer->size);
	int r = feed_data (&layer->feed, data, len, err);
	if (r < 0)
		return r;
	layer->got += (int64_t) len;
	layer->filling = layer->got < layer->size;
	return 0;
}

int
silo_layer_end (struct silo_layer *layer, struct silo_error *err)
{
	int folder = -1;
	if (layer->ended)
		return 0;
	int r = file_complete (layer, err);
	if (r == 0)
		r = feed_end (&layer->feed, err);
	if (r == 0 && layer->has_blob)
		r = folder_open (layer->import, &folder, err);
	if (r == 0 && layer->has_blob)
		r = layer_save (folder, &layer->blob, layer->tree, err);
	if (r < 0)
		return r;
	layer_unlock (&layer->lock);
	layer->ended = true;
	atomic_store (&layer->state, LAYER_DONE);
	progress_tell (layer->import);
	return 0;
}

bool
silo_import_cancelled (struct silo_import *import)
{
	return import->progress && import->progress->cancelled &&
	       __atomic_load_n (import->progress->cancelled, __ATOMIC_RELAXED);
}

int
silo_import_cancel_fd (struct silo_import *import)
{
	return import->progress ? import->progress->cancel_fd : -1;
}

/* -- the end --------------------------------------------------------------------------- */

int
import_layers (struct silo_import *import, struct silo_buf *to, struct silo_error *err)
{
	int r = silo_buf_add (to, "", 0, err);
	for (size_t i = 0; r == 0 && i < import->n; i++) {
		char hex[SILO_DIGEST_HEX + 1];
		if (!import->layers[i]->has_blob) {
			to->len = 0;
			to->data[0] = '\0';
			return 0;
		}
		silo_digest_hex (&import->layers[i]->blob, hex);
		r = silo_buf_addf (to, err, "%s%s", i > 0 ? " " : "", hex);
	}
	return r;
}

static int
layers_merge (struct silo_import *import, struct tree *tree, struct silo_error *err)
{
	for (size_t i = 0; i < import->n; i++) {
		struct silo_layer *layer = import->layers[i];
		if (!layer->ended)
			return silo_fail (err, SILO_INTERNAL, "layer %s did not end", layer->name);
		int r = tree_apply (tree, layer->tree, err);
		if (r < 0)
			return r;
		/* Its inodes are the tree's now; the rest need not wait for the end. */
		tree_layer_free (silo_steal (&layer->tree));
	}
	return 0;
}

int
import_finish (struct silo_import *import, int fd, struct meta_info *ret, struct silo_error *err)
{
	struct tree *tree = NULL;
	for (size_t i = 0; i < import->n; i++)
		if (!import->layers[i]->ended)
			return silo_fail (err, SILO_INTERNAL, "layer %s did not end",
					  import->layers[i]->name);
	/* The tree may need the memory. */
	intake_free (silo_steal (&import->intake));
	int r = tree_new (&tree, err);
	if (r < 0)
		return r;
	silo_import_progress (import, "merging layers", 0, 0);
	r = layers_merge (import, tree, err);
	if (r == 0 && silo_import_cancelled (import))
		r = silo_fail (err, SILO_CANCELLED, "stopped");
	if (r == 0) {
		silo_import_progress (import, "writing to disk", 0, 0);
		r = fault_at ("sync", err);
	}
	if (r == 0)
		r = silo_content_sync (import->content, err);
	if (r == 0)
		r = fault_at ("synced", err);
	if (r == 0)
		r = meta_write (tree, fd, ret, err);
	tree_free (tree);
	return r;
}
