/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree.h - an image's tree in memory, while it is being imported: layers of
 * entries (tree-layer.c), merged in order into nodes and inodes (tree.c), then
 * written as a metadata file (meta-write.c).  Nothing here touches a file
 * system or follows a symlink, so no entry can reach outside.  A layer is
 * filled by one thread; a tree belongs to one thread.
 */
#ifndef TREE_H
#define TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <silo/bytes.h>
#include <silo/image.h>

#define TREE_MAX_PATH        4095                 /* bytes of a path or symlink target */
#define TREE_MAX_NAME        255                  /* bytes between two slashes */
#define TREE_MAX_ENTRIES     (4u << 20)           /* entries of one layer, nodes of one tree */
#define TREE_MAX_LAYER_BYTES ((size_t) 1 << 30)   /* names, targets and xattrs of one layer */
#define TREE_MAX_XATTR_NAME  255                  /* as the kernel has it */
#define TREE_MAX_XATTR_VALUE 65535                /* EROFS counts them in 16 bits */
#define TREE_MAX_XATTRS      ((size_t) 128 << 10) /* bytes of all xattrs of one entry */
#define TREE_MAX_FILE        ((int64_t) 1 << 43)  /* one EROFS chunk of 2^31 blocks */

struct tree_xattr {
	char *name; /* full: "user.x" */
	void *value;
	size_t len;
};

struct tree_inode {
	uint32_t links; /* nodes that point here */
	uint32_t mode;  /* type and permissions, as st_mode */
	uint32_t uid, gid;
	int64_t mtime;
	uint32_t mtime_nsec;
	uint32_t rdev_major, rdev_minor;
	uint64_t size;             /* regular files */
	struct silo_digest object; /* regular files of size > 0 */
	char *target;              /* symlinks */
	struct tree_xattr *xattrs; /* sorted by name, no name twice */
	size_t n_xattrs;
	uint64_t nid; /* place in the metadata file; meta-write.c's, 0 before */
};

struct tree_node {
	struct tree_node *parent; /* NULL: the root */
	struct tree_node *first;  /* child; any order */
	struct tree_node *next, *prev;
	struct tree_node *hash_next;
	struct tree_inode *inode;
	size_t n_children;
	uint32_t layer; /* number of the layer that put it here */
	uint8_t name_len;
	char name[]; /* terminated */
};

struct tree_entry {
	enum silo_entry_type type;
	char *path;               /* clean: "a/b", "" is the root folder */
	char *target;             /* HARDLINK: clean path of an earlier entry */
	struct tree_inode *inode; /* NULL: HARDLINK, WHITEOUT, OPAQUE */
};

/* -- tree-layer.c ---------------------------------------------------------- */

struct tree_layer {
	char *name; /* for messages */
	struct tree_entry *entries;
	size_t n, cap;
	size_t bytes; /* counted against TREE_MAX_LAYER_BYTES */
};

int tree_layer_new (const char *name, struct tree_layer **ret, struct silo_error *err);
void tree_layer_free (struct tree_layer *layer);
/* Check and copy one entry.  Extended attributes that no file system would take ("foo.bar")
 * are left out. */
int tree_layer_add (struct tree_layer *layer, const struct silo_entry *entry,
		    struct silo_error *err);
/* The bytes of the FILE added last have arrived. */
void tree_layer_object (struct tree_layer *layer, const struct silo_digest *digest);
void tree_inode_free (struct tree_inode *inode);

/* -- tree.c ------------------------------------------------------------------ */

struct tree;

int tree_new (struct tree **ret, struct silo_error *err);
void tree_free (struct tree *tree);
/* Put a layer on top; takes the inodes out of it. */
int tree_apply (struct tree *tree, struct tree_layer *layer, struct silo_error *err);
struct tree_node *tree_root (struct tree *tree);
size_t tree_nodes (const struct tree *tree);

/* -- meta-write.c -------------------------------------------------------------- */

struct meta_info {
	struct silo_digest digest; /* of the file */
	int64_t inodes;
	int64_t bytes; /* of the distinct objects */
};

/* Write the metadata file of `tree` to `fd`, from its position on. */
int meta_write (struct tree *tree, int fd, struct meta_info *ret, struct silo_error *err);

#endif
