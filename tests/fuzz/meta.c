/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meta.c - fuzz target: bytes as a metadata file, opened and walked in all the
 * ways that <silo/meta.h> has.
 */
#include "fuzz.h"
#include "core.h"
#include "tree.h"

#include <sys/mman.h>
#include <sys/stat.h>

#define MAX ((size_t) 64 << 10)

/* -- reading ------------------------------------------------------------------------ */

static int
look_xattr (void *arg, const char *name, struct silo_bytes value)
{
	unsigned *sum = arg;
	*sum += (unsigned) strlen (name);
	for (size_t i = 0; i < value.len; i++)
		*sum += ((const unsigned char *) value.data)[i];
	return 0;
}

struct walk {
	const struct silo_meta *meta;
	uint64_t folder;
	unsigned sum;
	unsigned looked_up;
};

static int
look_dirent (void *arg, const char *name, size_t name_len, uint64_t ino SILO_UNUSED,
	     uint32_t type SILO_UNUSED, uint64_t next)
{
	struct walk *walk = arg;
	uint64_t found = 0;
	for (size_t i = 0; i < name_len; i++)
		walk->sum += (unsigned char) name[i];
	/* Enough of them to see every path through the search, not all of them: folders of a
	 * hostile file overlap. */
	if (walk->looked_up++ < 64)
		silo_meta_lookup (walk->meta, walk->folder, name, name_len, &found, NULL);
	return next == 0;
}

static int
look_inode (void *arg, const struct silo_meta_inode *inode)
{
	struct walk *walk = arg;
	const struct silo_meta *meta = walk->meta;
	struct silo_bytes target;
	uint64_t found = 0;
	silo_meta_xattrs (meta, inode->ino, look_xattr, &walk->sum, NULL);
	if (S_ISLNK (inode->mode) && silo_meta_readlink (meta, inode->ino, &target, NULL) == 0)
		look_xattr (&walk->sum, "", target);
	if (!S_ISDIR (inode->mode))
		return 0;
	walk->folder = inode->ino;
	walk->looked_up = 0;
	silo_meta_readdir (meta, inode->ino, 0, look_dirent, walk, NULL);
	silo_meta_readdir (meta, inode->ino, 3, look_dirent, walk, NULL);
	silo_meta_lookup (meta, inode->ino, "no such name", 12, &found, NULL);
	return 0;
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
	static const char *const paths[] = { "/", "/link/up/../file", "/d/loop", "/abs/x",
					     "//./d/../.." };
	char path[64];
	struct silo_meta *meta = NULL;
	int fd = memfd_create ("fuzz", MFD_CLOEXEC);
	if (fd < 0 || write (fd, data, size) != (ssize_t) size)
		abort ();
	snprintf (path, sizeof (path), "/proc/self/fd/%d", fd);
	if (silo_meta_open (path, &meta, NULL) == 0) {
		struct walk walk = { .meta = meta };
		silo_meta_each (meta, look_inode, &walk, NULL);
		/* Also what no folder names. */
		for (uint64_t ino = 0; ino <= size / 32 + 1; ino++) {
			struct silo_meta_inode inode;
			if (silo_meta_stat (meta, ino, &inode, NULL) == 0 && !S_ISDIR (inode.mode))
				look_inode (&walk, &inode);
		}
		for (size_t i = 0; i < ARRAY_SIZE (paths); i++) {
			uint64_t ino = 0;
			silo_meta_resolve (meta, paths[i], &ino, NULL);
		}
	}
	silo_meta_close (meta);
	close (fd);
	return 0;
}

/* -- seeds ----------------------------------------------------------------------------- */

#define GIVE(what, ...) give (layer, &(const struct silo_entry){ .type = what, __VA_ARGS__ })

static void
give (struct tree_layer *layer, const struct silo_entry *entry)
{
	struct silo_digest digest = { .b = { 0xab } };
	if (tree_layer_add (layer, entry, NULL) < 0)
		abort ();
	if (entry->type == SILO_ENTRY_FILE && entry->size > 0)
		tree_layer_object (layer, &digest);
}

static void
fill_small (struct tree_layer *layer)
{
	const struct silo_xattr xattrs[] = {
		{ "user.a", { "value", 5 } },
		{ "security.capability", { "\1\0\0\2", 4 } },
		{ "trusted.overlay.redirect", { "/mine", 5 } },
		{ "system.posix_acl_access", { "\2\0\0\0", 4 } },
	};
	GIVE (SILO_ENTRY_DIR, .path = ".", .mode = 0751, .mtime = 7);
	GIVE (SILO_ENTRY_FILE, .path = "file", .mode = 04755, .mtime = -5, .size = 1 << 20);
	GIVE (SILO_ENTRY_FILE, .path = "empty", .mode = 0600, .xattrs = xattrs, .n_xattrs = 4);
	GIVE (SILO_ENTRY_HARDLINK, .path = "d/other", .target = "file");
	GIVE (SILO_ENTRY_SYMLINK, .path = "link", .target = "d");
	GIVE (SILO_ENTRY_SYMLINK, .path = "d/up", .target = "../../../d");
	GIVE (SILO_ENTRY_SYMLINK, .path = "d/loop", .target = "/d/loop");
	GIVE (SILO_ENTRY_SYMLINK, .path = "abs", .target = "/d/other");
	GIVE (SILO_ENTRY_CHAR, .path = "null", .mode = 0666, .rdev_major = 1, .rdev_minor = 3);
	GIVE (SILO_ENTRY_FIFO, .path = "pipe", .mode = 0620);
}

/* A folder of several blocks. */
static void
fill_wide (struct tree_layer *layer)
{
	for (int i = 0; i < 500; i++) {
		char name[64];
		snprintf (name, sizeof (name), "many/a rather long name, number %d", i);
		GIVE (SILO_ENTRY_FILE, .path = name, .mode = 0644, .size = i % 3);
	}
}

static void
seed (fuzz_seed_fn *fn, void *arg, const char *name, void (*fill) (struct tree_layer *layer))
{
	static unsigned char data[MAX];
	struct tree *tree = NULL;
	struct tree_layer *layer = NULL;
	struct meta_info info;
	int fd = memfd_create ("seed", MFD_CLOEXEC);
	if (fd < 0 || tree_new (&tree, NULL) < 0 || tree_layer_new ("L", &layer, NULL) < 0)
		abort ();
	fill (layer);
	if (tree_apply (tree, layer, NULL) < 0 || meta_write (tree, fd, &info, NULL) < 0)
		abort ();
	ssize_t n = pread (fd, data, sizeof (data), 0);
	if (n <= 0)
		abort ();
	fn (arg, name, data, (size_t) n);
	tree_layer_free (layer);
	tree_free (tree);
	close (fd);
}

static void
seeds (fuzz_seed_fn *fn, void *arg)
{
	seed (fn, arg, "small", fill_small);
	seed (fn, arg, "wide", fill_wide);
}

const struct fuzz_target fuzz_target = {
	.name = "meta",
	.max = MAX,
	.mutations = 5000,
	.seeds = seeds,
};
