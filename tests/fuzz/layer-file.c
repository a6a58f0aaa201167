/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layer-file.c - fuzz target: bytes as the record of a layer.  What is taken is
 * written and read again, and must give a good tree.
 *
 * Each input is read twice, the second time with the right digest at its end,
 * so that mutations get past it.
 */
#include "fuzz.h"
#include "check-tree.h"
#include "layers.h"

#include <sys/mman.h>

#define MAX  ((size_t) 16 << 10)
#define TAIL sizeof (struct silo_digest)

/* At most MAX bytes, since what is read is never less than what is written of it. */
static size_t
record_of (const struct tree_layer *layer, uint8_t to[MAX + 1])
{
	const struct silo_digest blob = { .b = { 0xb1, 0x0b } };
	int fd = memfd_create ("fuzz", MFD_CLOEXEC);
	if (fd < 0 || layer_file_write (layer, &blob, fd, NULL) < 0)
		abort ();
	ssize_t n = pread (fd, to, MAX + 1, 0);
	assert (n > 0 && n <= (ssize_t) MAX);
	close (fd);
	return (size_t) n;
}

/* Odd paths are cleaned when a record is read, so it is the second that equals the first. */
static void
check_again (const struct tree_layer *layer)
{
	static uint8_t first[MAX + 1], second[MAX + 1];
	struct tree_layer *again = NULL;
	size_t len = record_of (layer, first);
	int r = layer_file_read (first, len, &again, NULL);
	assert (r == 0);
	assert (record_of (again, second) == len && memcmp (first, second, len) == 0);
	tree_layer_free (again);
}

static void
read_record (const uint8_t *data, size_t size)
{
	struct tree_layer *layer = NULL;
	if (layer_file_read (data, size, &layer, NULL) < 0)
		return;
	check_again (layer);
	check_tree (layer);
	tree_layer_free (layer);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
	struct silo_digest digest;
	if (size > MAX)
		return 0;
	read_record (data, size);
	if (size < TAIL)
		return 0;
	uint8_t *copy = malloc (size);
	if (!copy || silo_digest_of (data, size - TAIL, &digest, NULL) < 0)
		abort ();
	memcpy (copy, data, size - TAIL);
	memcpy (copy + size - TAIL, digest.b, TAIL);
	read_record (copy, size);
	free (copy);
	return 0;
}

/* -- seeds ----------------------------------------------------------------------------- */

#define GIVE(what, ...) give (layer, &(const struct silo_entry){ .type = what, __VA_ARGS__ })

static void
give (struct tree_layer *layer, const struct silo_entry *entry)
{
	const struct silo_digest digest = { .b = { 0xab } };
	if (tree_layer_add (layer, entry, NULL) < 0)
		abort ();
	if (entry->type == SILO_ENTRY_FILE && entry->size > 0)
		tree_layer_object (layer, &digest);
}

static void
fill (struct tree_layer *layer)
{
	const struct silo_xattr xattrs[] = {
		{ "user.a", { "value", 5 } },
		{ "security.capability", { "\1\0\0\2", 4 } },
	};
	GIVE (SILO_ENTRY_DIR, .path = "./", .mode = 0751, .mtime = 7);
	GIVE (SILO_ENTRY_FILE, .path = "file", .mode = 04755, .mtime = -5, .size = 1 << 20);
	GIVE (SILO_ENTRY_FILE, .path = "empty", .mode = 0600, .xattrs = xattrs, .n_xattrs = 2);
	GIVE (SILO_ENTRY_HARDLINK, .path = "d/other", .target = "file");
	GIVE (SILO_ENTRY_SYMLINK, .path = "link", .target = "../d");
	GIVE (SILO_ENTRY_CHAR, .path = "null", .mode = 0666, .rdev_major = 1, .rdev_minor = 3);
	GIVE (SILO_ENTRY_BLOCK, .path = "disk", .uid = 70000, .gid = 4000000000);
	GIVE (SILO_ENTRY_FIFO, .path = "pipe", .mode = 0620, .mtime_nsec = 999999999);
	GIVE (SILO_ENTRY_WHITEOUT, .path = "gone");
	GIVE (SILO_ENTRY_OPAQUE, .path = "d");
}

static void
seeds (fuzz_seed_fn *fn, void *arg)
{
	static uint8_t data[MAX + 1];
	for (int full = 0; full < 2; full++) {
		struct tree_layer *layer = NULL;
		if (tree_layer_new ("L", &layer, NULL) < 0)
			abort ();
		if (full)
			fill (layer);
		fn (arg, full ? "full" : "empty", data, record_of (layer, data));
		tree_layer_free (layer);
	}
}

const struct fuzz_target fuzz_target = {
	.name = "layer-file",
	.max = MAX,
	.mutations = 15000,
	.seeds = seeds,
};
