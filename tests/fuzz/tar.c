/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tar.c - fuzz target: bytes as a layer, plain or compressed.  What the reader
 * of layers takes goes through the real checks of entries, is merged into a
 * tree and written as a metadata file, which must then be a good one.
 *
 * Each input is read twice, the second time with right checksums in its tar
 * headers, so that mutations get past them.  Takes the place of core/import.c.
 */
#include "fuzz.h"
#include "check-tree.h"
#include "tar.h"

#define MAX       ((size_t) 64 << 10)
#define MAX_BYTES ((int64_t) 4 << 20) /* of the files of one layer */
#define BLOCK     512
#define MAGIC     257 /* offset of "ustar" in a header */
#define CHECKSUM  148

/* -- the import, as the reader sees it -------------------------------------------------- */

struct silo_layer {
	struct tree_layer *tree;
	int64_t left; /* of the current file */
	int64_t bytes;
};

bool
silo_import_cancelled (struct silo_import *import SILO_UNUSED)
{
	return false;
}

int
silo_import_cancel_fd (struct silo_import *import SILO_UNUSED)
{
	return -1;
}

int
silo_layer_entry (struct silo_layer *layer, const struct silo_entry *entry, struct silo_error *err)
{
	const struct silo_digest digest = { .b = { 0xab } };
	if (layer->left > 0)
		return silo_fail (err, SILO_INVALID, "a file is not complete");
	int r = tree_layer_add (layer->tree, entry, err);
	if (r < 0 || entry->type != SILO_ENTRY_FILE || entry->size == 0)
		return r;
	if (entry->size > MAX_BYTES - layer->bytes)
		return silo_fail (err, SILO_EXHAUSTED, "too many bytes");
	layer->bytes += entry->size;
	layer->left = entry->size;
	tree_layer_object (layer->tree, &digest);
	return 0;
}

int
silo_layer_data (struct silo_layer *layer, const void *data, size_t len, struct silo_error *err)
{
	unsigned sum = 0;
	for (size_t i = 0; i < len; i++)
		sum += ((const unsigned char *) data)[i];
	if ((int64_t) len > layer->left)
		return silo_fail (err, SILO_INVALID, "too many bytes, sum %u", sum);
	layer->left -= (int64_t) len;
	return 0;
}

/* -- reading --------------------------------------------------------------------------- */

struct source {
	const uint8_t *data;
	size_t size, at;
};

static int
source_next (void *arg, const void **ret, size_t *ret_len, struct silo_error *err SILO_UNUSED)
{
	struct source *source = arg;
	size_t len = source->size - source->at;
	if (len > 1000)
		len = 1000; /* headers and bytes come in pieces */
	*ret = source->data + source->at;
	*ret_len = len;
	source->at += len;
	return 0;
}

static void
read_layer (const uint8_t *data, size_t size)
{
	struct silo_layer layer = { 0 };
	struct source bytes = { data, size, 0 };
	const struct tar_source source = { .next = source_next, .arg = &bytes };
	if (tree_layer_new ("sha256:0123456789ab", &layer.tree, NULL) < 0)
		abort ();
	if (tar_read (&source, "sha256:0123456789ab", NULL, &layer, NULL) == 0) {
		assert (bytes.at == size);
		if (layer.left == 0)
			check_tree (layer.tree);
	}
	tree_layer_free (layer.tree);
}

static void
repair_checksums (uint8_t *data, size_t size)
{
	for (size_t at = 0; at + BLOCK <= size; at += BLOCK) {
		uint8_t *header = data + at;
		char text[8];
		unsigned sum = 0;
		if (memcmp (header + MAGIC, "ustar", 5) != 0)
			continue;
		memset (header + CHECKSUM, ' ', 8);
		for (size_t i = 0; i < BLOCK; i++)
			sum += header[i];
		snprintf (text, sizeof (text), "%06o", sum);
		memcpy (header + CHECKSUM, text, 7);
	}
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
	read_layer (data, size);
	uint8_t *copy = malloc (size ? size : 1);
	if (!copy)
		abort ();
	memcpy (copy, data, size);
	repair_checksums (copy, size);
	read_layer (copy, size);
	free (copy);
	return 0;
}

const struct fuzz_target fuzz_target = {
	.name = "tar",
	.max = MAX,
	.mutations = 1500,
};
