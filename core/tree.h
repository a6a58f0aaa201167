/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree.h - an image's tree in memory, while it is being imported: layers of
 * entries (tree-layer.c), each built into nodes of its own and merged into the
 * tree below it (tree-apply.c, on tree.c's nodes), then written as a metadata
 * file (meta-write.c).  Nothing here touches a file system.  A layer is filled
 * by one thread; a tree belongs to one thread.
 */
#ifndef TREE_H
#define TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <silo/bytes.h>
#include <silo/image.h>
#include "arena.h"

#define TREE_MAX_PATH        4095                 /* bytes of a path or symlink target */
#define TREE_MAX_NAME        255                  /* bytes between two slashes */
#define TREE_MAX_ENTRIES     (4u << 20)           /* entries of one layer, nodes of one tree */
#define TREE_MAX_LAYER_BYTES ((size_t) 1 << 30)   /* names, targets and xattrs of one layer */
#define TREE_MAX_XATTR_NAME  255                  /* as the kernel has it */
#define TREE_MAX_XATTR_VALUE 65535                /* EROFS counts them in 16 bits */
#define TREE_MAX_XATTRS      ((size_t) 128 << 10) /* bytes of all xattrs of one entry */
#define TREE_MAX_FILE        ((int64_t) 1 << 43)  /* one EROFS chunk of 2^31 blocks */

#define TREE_MAX_LINKS 40 /* symlinks on the way to an entry */

struct tree_xattr {
	char *name; /* full: "user.x" */
	void *value;
	size_t len;
};

/* Never moves while its layer, then its tree, lives: threads that store a file's bytes fill in
 * `object` at any time before the layer is applied. */
struct tree_inode {
	uint32_t links;  /* nodes that point here */
	uint32_t number; /* place among the inodes to be written; meta-write.c's, 0 before */
	uint32_t uid, gid;
	uint32_t mtime_nsec;
	uint16_t mode; /* type and permissions, as st_mode */
	uint16_t n_xattrs;
	int64_t mtime;
	union {
		uint64_t size; /* regular files */
		struct {       /* devices */
			uint32_t rdev_major, rdev_minor;
		};
	};
	struct tree_xattr *xattrs;         /* sorted by name, no name twice */
	union {                            /* allocated as far as it is needed */
		char *target;              /* symlinks */
		struct silo_digest object; /* regular files of size > 0 */
	};
};
#define TREE_INODE_SIZE offsetof (struct tree_inode, object) /* of what is neither */

struct tree_node {
	struct tree_node *parent; /* NULL: the root */
	struct tree_node *first;  /* child; any order */
	struct tree_node *next, *prev;
	struct tree_node *hash_next;
	struct tree_inode *inode; /* NULL: a whiteout, as long as its layer is built */
	bool opaque;              /* a layer's folder that hides what is below it */
	uint8_t name_len;
	char name[]; /* terminated */
};

struct tree_entry {
	enum silo_entry_type type;
	char *path;   /* clean: "a/b", "" is the root folder */
	char *target; /* HARDLINK: clean path of an earlier entry */
	/* NULL: WHITEOUT, OPAQUE.  HARDLINK: what it says of the file that it links to (mode
	 * without type, owner, time, xattrs); NULL: nothing. */
	struct tree_inode *inode;
};

/* -- tree-layer.c ---------------------------------------------------------- */

struct tree_layer {
	char *name; /* for messages */
	struct tree_entry *entries;
	size_t n, cap;
	size_t bytes;        /* counted against TREE_MAX_LAYER_BYTES */
	struct arena paths;  /* of the entries, in their order */
	struct arena inodes; /* with their targets and xattrs */
};

int tree_layer_new (const char *name, struct tree_layer **ret, struct silo_error *err);
void tree_layer_free (struct tree_layer *layer);
/* Check and copy one entry.  Extended attributes that no file system would take ("foo.bar")
 * are left out. */
int tree_layer_add (struct tree_layer *layer, const struct silo_entry *entry,
		    struct silo_error *err);
/* The bytes of the FILE added last have arrived. */
void tree_layer_object (struct tree_layer *layer, const struct silo_digest *digest);

/* -- tree.c ------------------------------------------------------------------ */

struct tree {
	struct tree_node *root;
	size_t n; /* nodes, the root included */
	struct tree_node **buckets;
	size_t n_buckets;    /* a power of two */
	struct arena memory; /* nodes and inodes, also those that are in no tree any more */
};

int tree_new (struct tree **ret, struct silo_error *err);
void tree_free (struct tree *tree);
struct tree_node *tree_root (struct tree *tree);
size_t tree_nodes (const struct tree *tree);

/* For tree-apply.c.  The nodes of a layer are in the same table, below a root of their own. */
struct tree_node *tree_child (const struct tree *tree, const struct tree_node *parent,
			      const char *name, size_t len);
/* Make a child of `parent`; NULL: a root of its own.  The node is one more link of `inode`,
 * which may be NULL. */
int tree_add (struct tree *tree, struct tree_node *parent, const char *name, size_t len,
	      struct tree_inode *inode, struct tree_node **ret, struct silo_error *err);
/* Point a node to another inode. */
void tree_set_inode (struct tree_node *node, struct tree_inode *inode);
void tree_remove (struct tree *tree, struct tree_node *node);
void tree_move (struct tree *tree, struct tree_node *node, struct tree_node *parent);
/* The node after `node` of a walk that meets folders before what is in them; NULL: `top` has
 * been walked. */
struct tree_node *tree_next (const struct tree_node *top, struct tree_node *node);
static inline bool
tree_is_folder (const struct tree_node *node)
{
	return node->inode && (node->inode->mode & 0170000) == 0040000;
}

/* -- tree-apply.c -------------------------------------------------------------- */

/* Put a layer on top and use it up: it can only be freed afterwards. */
int tree_apply (struct tree *tree, struct tree_layer *layer, struct silo_error *err);

/* -- meta-write.c -------------------------------------------------------------- */

struct meta_info {
	struct silo_digest digest; /* of the file */
	int64_t inodes;
	int64_t bytes; /* of the distinct objects */
};

/* Write the metadata file of `tree` to `fd`, from its position on. */
int meta_write (struct tree *tree, int fd, struct meta_info *ret, struct silo_error *err);

#endif
