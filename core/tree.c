/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree.c - merges the layers of an image into one tree, the way an overlay
 * mount of them would look: whiteouts and opaque folders hide what is below,
 * a folder over a folder keeps its children, everything else replaces what was
 * there.  Whiteouts act on lower layers only, wherever in the layer they stand.
 * Symlinks are never followed.  One thread owns a tree.
 */
#include "core.h"
#include "tree.h"
#include <sys/stat.h>

struct tree {
	struct tree_node *root;
	size_t n;       /* nodes, the root included */
	uint32_t layer; /* number of the layer being applied, from 1 */
	struct tree_node **buckets;
	size_t n_buckets; /* a power of two */
};

/* FNV-1a over the name, starting at the folder. */
static size_t
name_hash (const struct tree_node *parent, const char *name, size_t len)
{
	uint64_t h = 0xcbf29ce484222325u ^ ((uintptr_t) parent >> 4);
	for (size_t i = 0; i < len; i++)
		h = (h ^ (unsigned char) name[i]) * 0x100000001b3u;
	return (size_t) (h ^ (h >> 32));
}

static struct tree_node *
child_find (const struct tree *tree, const struct tree_node *parent, const char *name, size_t len)
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

static void
inode_unref (struct tree_inode *inode)
{
	if (inode && --inode->links == 0)
		tree_inode_free (inode);
}

/* Make a child; takes one link of the inode, also on failure. */
static int
child_add (struct tree *tree, struct tree_node *parent, const char *name, size_t len,
	   struct tree_inode *inode, struct tree_node **ret, struct silo_error *err)
{
	int r = 0;
	struct tree_node *node = NULL;
	if (tree->n >= TREE_MAX_ENTRIES)
		r = silo_fail (err, SILO_EXHAUSTED, "the image has more than %u entries",
			       TREE_MAX_ENTRIES);
	else
		r = buckets_grow (tree, err);
	if (r == 0) {
		node = calloc (1, sizeof (*node) + len + 1);
		if (!node)
			r = silo_fail_nomem (err);
	}
	if (r < 0) {
		inode_unref (inode);
		return r;
	}
	assert (len <= TREE_MAX_NAME);
	memcpy (node->name, name, len);
	node->name_len = (uint8_t) len;
	node->parent = parent;
	node->inode = inode;
	node->layer = tree->layer;
	node->next = parent->first;
	if (node->next)
		node->next->prev = node;
	parent->first = node;
	parent->n_children++;
	bucket_add (tree, node);
	tree->n++;
	*ret = node;
	return 0;
}

static void
leaf_remove (struct tree *tree, struct tree_node *node)
{
	assert (!node->first && node->parent);
	bucket_remove (tree, node);
	if (node->prev)
		node->prev->next = node->next;
	else
		node->parent->first = node->next;
	if (node->next)
		node->next->prev = node->prev;
	node->parent->n_children--;
	tree->n--;
	inode_unref (node->inode);
	free (node);
}

/* Everything below `top`.  A loop, since a path may be 2,000 folders deep. */
static void
children_remove (struct tree *tree, struct tree_node *top)
{
	struct tree_node *node = top;
	while (top->first) {
		while (node->first)
			node = node->first;
		struct tree_node *parent = node->parent;
		leaf_remove (tree, node);
		node = parent;
	}
}

static void
node_remove (struct tree *tree, struct tree_node *node)
{
	children_remove (tree, node);
	leaf_remove (tree, node);
}

int
tree_new (struct tree **ret, struct silo_error *err)
{
	struct tree *tree = calloc (1, sizeof (*tree));
	if (tree) {
		tree->n = 1;
		tree->n_buckets = 1024;
		tree->buckets = calloc (tree->n_buckets, sizeof (struct tree_node *));
		tree->root = calloc (1, sizeof (*tree->root) + 1);
	}
	if (tree && tree->root)
		tree->root->inode = calloc (1, sizeof (*tree->root->inode));
	if (!tree || !tree->buckets || !tree->root || !tree->root->inode) {
		tree_free (tree);
		return silo_fail_nomem (err);
	}
	tree->root->inode->mode = S_IFDIR | 0755;
	tree->root->inode->links = 1;
	*ret = tree;
	return 0;
}

void
tree_free (struct tree *tree)
{
	if (!tree)
		return;
	if (tree->root) {
		children_remove (tree, tree->root);
		inode_unref (tree->root->inode);
	}
	free (tree->root);
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

static struct tree_node *
path_find (const struct tree *tree, const char *path)
{
	struct tree_node *node = tree->root;
	while (node && *path) {
		size_t len = strcspn (path, "/");
		node = child_find (tree, node, path, len);
		path += len;
		path += *path == '/';
	}
	return node;
}

/* The folder that a path stops at without its last part, made when nobody listed it. */
static int
parent_get (struct tree *tree, const struct tree_layer *layer, const char *path,
	    struct tree_node **ret, const char **ret_name, struct silo_error *err)
{
	struct tree_node *node = tree->root;
	const char *full = path;
	for (const char *slash; (slash = strchr (path, '/')); path = slash + 1) {
		size_t len = (size_t) (slash - path);
		struct tree_node *child = child_find (tree, node, path, len);
		if (child && !S_ISDIR (child->inode->mode)) {
			/* An overlay of the layers would show a folder here.  Within one
			 * layer the archive contradicts itself. */
			if (child->layer == tree->layer)
				return silo_fail (err, SILO_INVALID,
						  "layer %s: %s: %s is no folder in this layer",
						  layer->name, full, child->name);
			node_remove (tree, child);
			child = NULL;
		}
		if (!child) {
			struct tree_inode *inode = calloc (1, sizeof (*inode));
			if (!inode)
				return silo_fail_nomem (err);
			inode->mode = S_IFDIR | 0755;
			inode->links = 1;
			int r = child_add (tree, node, path, len, inode, &child, err);
			if (r < 0)
				return r;
		}
		node = child;
	}
	*ret = node;
	*ret_name = path;
	return 0;
}

/* Put an inode at a path; takes one link of it, also on failure. */
static int
inode_place (struct tree *tree, const struct tree_layer *layer, const char *path,
	     struct tree_inode *inode, struct silo_error *err)
{
	struct tree_node *parent = NULL;
	const char *name = NULL;
	int r = parent_get (tree, layer, path, &parent, &name, err);
	if (r < 0) {
		inode_unref (inode);
		return r;
	}
	size_t len = strlen (name);
	struct tree_node *old = len > 0 ? child_find (tree, parent, name, len) : tree->root;
	if (old && S_ISDIR (old->inode->mode) && S_ISDIR (inode->mode)) {
		inode_unref (old->inode);
		old->inode = inode;
		old->layer = tree->layer;
		return 0;
	}
	assert (old != tree->root); /* tree_layer_add lets only folders be the root */
	if (old)
		node_remove (tree, old);
	struct tree_node *node = NULL;
	return child_add (tree, parent, name, len, inode, &node, err);
}

static int
link_place (struct tree *tree, const struct tree_layer *layer, const struct tree_entry *entry,
	    struct silo_error *err)
{
	struct tree_node *target = path_find (tree, entry->target);
	if (!target)
		return silo_fail (err, SILO_INVALID,
				  "layer %s: hard link %s: its target %s does not exist",
				  layer->name, entry->path, entry->target);
	if (S_ISDIR (target->inode->mode))
		return silo_fail (err, SILO_INVALID, "layer %s: hard link %s: %s is a folder",
				  layer->name, entry->path, entry->target);
	if (strcmp (entry->path, entry->target) == 0)
		return 0;
	target->inode->links++;
	return inode_place (tree, layer, entry->path, target->inode, err);
}

int
tree_apply (struct tree *tree, struct tree_layer *layer, struct silo_error *err)
{
	tree->layer++;
	for (size_t i = 0; i < layer->n; i++) {
		const struct tree_entry *entry = &layer->entries[i];
		if (entry->type != SILO_ENTRY_WHITEOUT && entry->type != SILO_ENTRY_OPAQUE)
			continue;
		struct tree_node *node = path_find (tree, entry->path);
		if (node && entry->type == SILO_ENTRY_OPAQUE)
			children_remove (tree, node);
		else if (node)
			node_remove (tree, node);
	}
	for (size_t i = 0; i < layer->n; i++) {
		struct tree_entry *entry = &layer->entries[i];
		int r = 0;
		if (entry->type == SILO_ENTRY_HARDLINK) {
			r = link_place (tree, layer, entry, err);
		} else if (entry->inode) {
			struct tree_inode *inode = silo_steal (&entry->inode);
			inode->links = 1;
			r = inode_place (tree, layer, entry->path, inode, err);
		}
		if (r < 0)
			return r;
	}
	return 0;
}
