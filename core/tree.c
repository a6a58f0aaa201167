/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree.c - nodes: names in folders, found by one hash table, pointing to
 * inodes.  Knows nothing of layers, which tree-apply.c builds and merges with
 * this.  Memory comes from the tree's arena and is given back all at once.
 * One thread owns a tree.
 */
#include "core.h"
#include "tree.h"
#include <sys/stat.h>

/* FNV-1a over the name, starting at the folder. */
static size_t
name_hash (const struct tree_node *parent, const char *name, size_t len)
{
	uint64_t h = 0xcbf29ce484222325u ^ ((uintptr_t) parent >> 4);
	for (size_t i = 0; i < len; i++)
		h = (h ^ (unsigned char) name[i]) * 0x100000001b3u;
	return (size_t) (h ^ (h >> 32));
}

struct tree_node *
tree_child (const struct tree *tree, const struct tree_node *parent, const char *name, size_t len)
{
	size_t slot = name_hash (parent, name, len) & (tree->n_buckets - 1);
	for (struct tree_node *n = tree->buckets[slot]; n; n = n->hash_next)
		if (n->parent == parent && n->name_len == len && memcmp (n->name, name, len) == 0)
			return n;
	return NULL;
}

static void
bucket_add (struct tree *tree, struct tree_node *node)
{
	size_t slot = name_hash (node->parent, node->name, node->name_len) & (tree->n_buckets - 1);
	node->hash_next = tree->buckets[slot];
	tree->buckets[slot] = node;
}

static void
bucket_remove (struct tree *tree, struct tree_node *node)
{
	size_t slot = name_hash (node->parent, node->name, node->name_len) & (tree->n_buckets - 1);
	struct tree_node **at = &tree->buckets[slot];
	while (*at != node)
		at = &(*at)->hash_next;
	*at = node->hash_next;
}

static int
buckets_grow (struct tree *tree, struct silo_error *err)
{
	if (tree->n < tree->n_buckets)
		return 0;
	size_t old_n = tree->n_buckets;
	struct tree_node **old = tree->buckets;
	struct tree_node **buckets = calloc (old_n * 2, sizeof (struct tree_node *));
	if (!buckets)
		return silo_fail_nomem (err);
	tree->buckets = buckets;
	tree->n_buckets = old_n * 2;
	for (size_t i = 0; i < old_n; i++)
		for (struct tree_node *n = old[i], *next; n; n = next) {
			next = n->hash_next;
			bucket_add (tree, n);
		}
	free (old);
	return 0;
}

void
tree_set_inode (struct tree_node *node, struct tree_inode *inode)
{
	if (node->inode)
		node->inode->links--;
	node->inode = inode;
	if (inode)
		inode->links++;
}

static void
list_add (struct tree_node *node, struct tree_node *parent)
{
	node->parent = parent;
	node->prev = NULL;
	node->next = parent->first;
	if (node->next)
		node->next->prev = node;
	parent->first = node;
}

static void
list_remove (struct tree_node *node)
{
	if (node->prev)
		node->prev->next = node->next;
	else
		node->parent->first = node->next;
	if (node->next)
		node->next->prev = node->prev;
}

int
tree_add (struct tree *tree, struct tree_node *parent, const char *name, size_t len,
	  struct tree_inode *inode, struct tree_node **ret, struct silo_error *err)
{
	assert (len <= TREE_MAX_NAME);
	if (tree->n >= TREE_MAX_ENTRIES)
		return silo_fail (err, SILO_EXHAUSTED, "the image has more than %u entries",
				  TREE_MAX_ENTRIES);
	int r = buckets_grow (tree, err);
	if (r < 0)
		return r;
	struct tree_node *node = arena_take (&tree->memory, sizeof (*node) + len + 1);
	if (!node)
		return silo_fail_nomem (err);
	*node = (struct tree_node){ .name_len = (uint8_t) len };
	memcpy (node->name, name, len);
	node->name[len] = '\0';
	tree_set_inode (node, inode);
	if (parent) {
		list_add (node, parent);
		bucket_add (tree, node);
		tree->n++;
	}
	*ret = node;
	return 0;
}

static void
leaf_remove (struct tree *tree, struct tree_node *node)
{
	assert (!node->first && node->parent);
	bucket_remove (tree, node);
	list_remove (node);
	tree->n--;
	tree_set_inode (node, NULL);
}

/* A loop, since folders may be 2,000 deep. */
void
tree_remove (struct tree *tree, struct tree_node *top)
{
	struct tree_node *node = top;
	while (top->first) {
		while (node->first)
			node = node->first;
		struct tree_node *parent = node->parent;
		leaf_remove (tree, node);
		node = parent;
	}
	leaf_remove (tree, top);
}

void
tree_move (struct tree *tree, struct tree_node *node, struct tree_node *parent)
{
	bucket_remove (tree, node);
	list_remove (node);
	list_add (node, parent);
	bucket_add (tree, node);
}

struct tree_node *
tree_next (const struct tree_node *top, struct tree_node *node)
{
	if (node->first)
		return node->first;
	while (node != top && !node->next)
		node = node->parent;
	return node == top ? NULL : node->next;
}

int
tree_new (struct tree **ret, struct silo_error *err)
{
	struct tree *tree = calloc (1, sizeof (*tree));
	if (!tree)
		return silo_fail_nomem (err);
	tree->n_buckets = 1024;
	tree->buckets = calloc (tree->n_buckets, sizeof (struct tree_node *));
	struct tree_inode *inode = arena_zero (&tree->memory, TREE_INODE_SIZE);
	int r = tree->buckets && inode ? 0 : silo_fail_nomem (err);
	if (r == 0)
		r = tree_add (tree, NULL, "", 0, inode, &tree->root, err);
	if (r < 0) {
		tree_free (tree);
		return r;
	}
	/* What podman shows when no layer says anything of the root. */
	inode->mode = S_IFDIR | 0555;
	tree->n = 1;
	*ret = tree;
	return 0;
}

void
tree_free (struct tree *tree)
{
	if (!tree)
		return;
	arena_free (&tree->memory);
	free (tree->buckets);
	free (tree);
}

struct tree_node *
tree_root (struct tree *tree)
{
	return tree->root;
}

size_t
tree_nodes (const struct tree *tree)
{
	return tree->n;
}
