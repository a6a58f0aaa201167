/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree-apply.c - puts a layer on top of a tree, so that it looks as podman's
 * overlay mount of the layers would: the layer is first built as a tree of its
 * own, whiteouts and opaque folders included, then merged.  A path may lead
 * through relative symlinks of the same layer, as it does when a layer is
 * unpacked; nothing ever leads out of the tree.  One thread owns a tree.
 */
#include "core.h"
#include "tree.h"
#include <sys/stat.h>

/* What an entry may cost, in parts of paths, and what a layer may on top of that: a layer whose
 * paths all lead through long symlinks would take hours. */
#define STEPS_ENTRY 64u
#define STEPS_LAYER (4u << 20)

struct apply {
	struct tree *tree;
	const struct tree_layer *layer;
	struct tree_node *own; /* root of the layer's own tree */
	size_t whiteouts;      /* nodes that are or were one */
	uint64_t steps;        /* taken */
};

static int
steps_take (struct apply *apply, uint64_t n, const char *path, struct silo_error *err)
{
	apply->steps += n;
	if (apply->steps <= STEPS_LAYER + (uint64_t) STEPS_ENTRY * apply->layer->n)
		return 0;
	return silo_fail (err, SILO_EXHAUSTED,
			  "layer %s: %.80s: the layer's paths lead through too many folders",
			  apply->layer->name, path);
}

/* -- a path's way through the layer's own tree -------------------------------- */

struct way {
	const char *full; /* for messages */
	const char *at;
	size_t left;                  /* bytes at `at` */
	size_t target;                /* how many of them come from symlinks */
	const struct tree_node *link; /* the last symlink that was followed */
	int links;
	char *text; /* what `at` points into, once there was a symlink */
};

static void
way_free (struct way *way)
{
	free (way->text);
}

struct part {
	const char *name;
	size_t len;
	bool target; /* of a symlink: it must be there, ".." is fine */
};

/* "." and nothing between slashes are left out. */
static bool
way_next (struct way *way, struct part *ret)
{
	while (way->left > 0) {
		const char *slash = memchr (way->at, '/', way->left);
		size_t len = slash ? (size_t) (slash - way->at) : way->left;
		size_t taken = len + (slash != NULL);
		*ret = (struct part){ way->at, len, way->target > 0 };
		way->at += taken;
		way->left -= taken;
		way->target -= taken < way->target ? taken : way->target;
		if (len > 0 && !(len == 1 && *ret->name == '.'))
			return true;
	}
	return false;
}

static int
way_fail (const struct apply *apply, const struct way *way, const char *what,
	  struct silo_error *err)
{
	return silo_fail (err, SILO_INVALID, "layer %s: %.80s: the symlink %.40s leads %s",
			  apply->layer->name, way->full, way->link->name, what);
}

/* Put a symlink's target in front of what is left. */
static int
way_follow (const struct apply *apply, struct way *way, const struct tree_node *link,
	    struct silo_error *err)
{
	const char *target = link->inode->target;
	size_t len = strlen (target);
	way->link = link;
	if (*target == '/')
		return way_fail (apply, way, "out of the image, to no folder in this layer", err);
	if (++way->links > TREE_MAX_LINKS)
		return way_fail (apply, way, "through too many others", err);
	char *text = malloc (len + 1 + way->left + 1);
	if (!text)
		return silo_fail_nomem (err);
	memcpy (text, target, len);
	text[len] = '/';
	memcpy (text + len + 1, way->at, way->left);
	way->at = text;
	way->left += len + 1;
	way->target += len + 1;
	free (way->text);
	way->text = text;
	return 0;
}

static int
folder_make (struct apply *apply, struct tree_node *parent, const struct part *part,
	     struct tree_node **child, struct silo_error *err)
{
	struct tree_inode *inode = arena_zero (&apply->tree->memory, TREE_INODE_SIZE);
	if (!inode)
		return silo_fail_nomem (err);
	/* As podman makes it, but for the time: there it is that of unpacking. */
	inode->mode = S_IFDIR | 0755;
	if (!*child)
		return tree_add (apply->tree, parent, part->name, part->len, inode, child, err);
	/* In the place of a whiteout, which goes on hiding what is below. */
	tree_set_inode (*child, inode);
	(*child)->opaque = true;
	return 0;
}

enum how {
	LOOK,
	HIDE, /* make missing folders, but whiteouts stay */
	MAKE  /* make folders of these, too */
};

/* From *node into its folder `part`.  1: done; 0: there is none and none can be made. */
static int
folder_step (struct apply *apply, struct way *way, const struct part *part, enum how how,
	     struct tree_node **node, struct silo_error *err)
{
	if (part->target && part->len == 2 && memcmp (part->name, "..", 2) == 0) {
		if (!(*node)->parent)
			return way_fail (apply, way, "out of the image, to no folder in this layer",
					 err);
		*node = (*node)->parent;
		return 1;
	}
	struct tree_node *child = NULL;
	if (part->len <= TREE_MAX_NAME)
		child = tree_child (apply->tree, *node, part->name, part->len);
	if (!child || !child->inode) {
		if (part->target)
			return way_fail (apply, way, "to no folder in this layer", err);
		if (how == LOOK || (child && how == HIDE))
			return 0;
		int r = folder_make (apply, *node, part, &child, err);
		if (r < 0)
			return r;
	}
	if (S_ISLNK (child->inode->mode)) {
		int r = way_follow (apply, way, child, err);
		return r < 0 ? r : 1;
	}
	if (!S_ISDIR (child->inode->mode))
		return 0;
	*node = child;
	return 1;
}

/* Symlinks could put folders deeper than any path reaches. */
static int
depth_check (struct apply *apply, const struct way *way, const struct tree_node *node,
	     struct silo_error *err)
{
	size_t bytes = 0;
	for (const struct tree_node *n = node; n->parent; n = n->parent)
		bytes += n->name_len + 1u;
	int r = steps_take (apply, bytes, way->full, err);
	if (r < 0)
		return r;
	if (bytes + TREE_MAX_NAME <= TREE_MAX_PATH)
		return 0;
	return way_fail (apply, way, "too deep into the image", err);
}

/* The folder at the first `len` bytes of `path`, in the layer's own tree.  1: here it is; 0: there is none, and something else in its place if it
 * was to be made. */
static int
folder_at (struct apply *apply, const char *path, size_t len, enum how how, struct tree_node **ret,
	   struct silo_error *err)
{
	SILO_CLEANUP (way_free) struct way way = { .full = path, .at = path, .left = len };
	struct tree_node *node = apply->own;
	struct part part;
	int r = 1;
	while (r > 0 && way_next (&way, &part)) {
		r = steps_take (apply, 1, path, err);
		if (r == 0)
			r = folder_step (apply, &way, &part, how, &node, err);
	}
	if (r <= 0)
		return r;
	*ret = node;
	r = way.links > 0 ? depth_check (apply, &way, node, err) : 0;
	return r < 0 ? r : 1;
}

static int
parent_at (struct apply *apply, const char *path, enum how how, struct tree_node **ret,
	   const char **ret_name, struct silo_error *err)
{
	const char *slash = strrchr (path, '/');
	*ret_name = slash ? slash + 1 : path;
	return folder_at (apply, path, slash ? (size_t) (slash - path) : 0, how, ret, err);
}

/* -- entries into the layer's own tree ------------------------------------------ */

static int
inode_place (struct apply *apply, const char *path, struct tree_inode *inode,
	     struct silo_error *err)
{
	struct tree_node *parent = NULL;
	const char *name = NULL;
	if (*path == '\0') {
		tree_set_inode (apply->own, inode);
		return 0;
	}
	int r = parent_at (apply, path, MAKE, &parent, &name, err);
	if (r == 0)
		return silo_fail (
		    err, SILO_INVALID,
		    "layer %s: %.100s: a part of this path is no folder in this layer",
		    apply->layer->name, path);
	if (r < 0)
		return r;
	struct tree_node *old = tree_child (apply->tree, parent, name, strlen (name));
	/* A folder in the place of a whiteout shows what is below it again: so does podman. */
	if (old && (!old->inode || (S_ISDIR (old->inode->mode) && S_ISDIR (inode->mode)))) {
		tree_set_inode (old, inode);
		return 0;
	}
	if (old)
		tree_remove (apply->tree, old);
	return tree_add (apply->tree, parent, name, strlen (name), inode, &old, err);
}

/* What a path of lower layers is while this layer is on top of them. */
static struct tree_node *
below_find (const struct apply *apply, const char *path)
{
	const struct tree *tree = apply->tree;
	struct tree_node *own = apply->own, *node = tree->root;
	while (node && *path) {
		size_t len = strcspn (path, "/");
		own = own ? tree_child (tree, own, path, len) : NULL;
		if (own && (!tree_is_folder (own) || own->opaque))
			return NULL;
		node = tree_child (tree, node, path, len);
		path += len;
		path += *path == '/';
	}
	return node;
}

static int
link_target (struct apply *apply, const struct tree_entry *entry, struct tree_node **ret,
	     struct silo_error *err)
{
	struct tree_node *parent = NULL, *found = NULL;
	const char *name = NULL;
	int r = parent_at (apply, entry->target, LOOK, &parent, &name, err);
	if (r < 0)
		return silo_wrap (err, "hard link %.80s", entry->path);
	if (r > 0)
		found = *name ? tree_child (apply->tree, parent, name, strlen (name)) : apply->own;
	if (!found)
		found = below_find (apply, entry->target);
	if (!found || (!found->inode && found != apply->own))
		return silo_fail (err, SILO_INVALID,
				  "layer %s: hard link %.80s: its target %.80s does not exist",
				  apply->layer->name, entry->path, entry->target);
	if (!found->inode || S_ISDIR (found->inode->mode))
		return silo_fail (err, SILO_INVALID, "layer %s: hard link %.80s: %.80s is a folder",
				  apply->layer->name, entry->path, entry->target);
	*ret = found;
	return 0;
}

/* Both lists are sorted; of the same name `from` wins. */
static uint32_t
xattrs_union (const struct tree_inode *to, const struct tree_inode *from, struct tree_xattr *all)
{
	uint32_t n = 0, i = 0, k = 0;
	while (i < to->n_xattrs || k < from->n_xattrs) {
		int c = i == to->n_xattrs ? 1 : -1;
		if (i < to->n_xattrs && k < from->n_xattrs)
			c = strcmp (to->xattrs[i].name, from->xattrs[k].name);
		all[n++] = c < 0 ? to->xattrs[i] : from->xattrs[k];
		i += c <= 0;
		k += c >= 0;
	}
	return n;
}

static int
xattrs_join (struct apply *apply, struct tree_inode *to, const struct tree_entry *entry,
	     struct silo_error *err)
{
	uint32_t most = (uint32_t) to->n_xattrs + entry->inode->n_xattrs;
	/* The old list stays in the arena: who joins large ones pays for it. */
	int r = steps_take (apply, 16u * (uint64_t) most, entry->path, err);
	if (r < 0)
		return r;
	struct tree_xattr *all = arena_take (&apply->tree->memory, most * sizeof (*all));
	if (!all)
		return silo_fail_nomem (err);
	uint32_t n = xattrs_union (to, entry->inode, all);
	size_t bytes = 0;
	for (uint32_t i = 0; i < n; i++)
		bytes += strlen (all[i].name) + all[i].len + 32;
	if (bytes > TREE_MAX_XATTRS)
		return silo_fail (err, SILO_INVALID,
				  "layer %s: %.80s: more than %zu bytes of extended attributes",
				  apply->layer->name, entry->path, TREE_MAX_XATTRS);
	to->xattrs = all;
	to->n_xattrs = (uint16_t) n;
	return 0;
}

/* A hard link's own header counts for the file, as when it is unpacked. */
static int
link_update (struct apply *apply, struct tree_inode *inode, const struct tree_entry *entry,
	     struct silo_error *err)
{
	const struct tree_inode *says = entry->inode;
	inode->uid = says->uid;
	inode->gid = says->gid;
	if (!S_ISLNK (inode->mode)) {
		inode->mode = (uint16_t) ((inode->mode & S_IFMT) | (says->mode & 07777));
		inode->mtime = says->mtime;
		inode->mtime_nsec = says->mtime_nsec;
	}
	return says->n_xattrs > 0 ? xattrs_join (apply, inode, entry, err) : 0;
}

static int
link_place (struct apply *apply, const struct tree_entry *entry, struct silo_error *err)
{
	struct tree_node *target = NULL;
	int r = link_target (apply, entry, &target, err);
	if (r == 0 && entry->inode)
		r = link_update (apply, target->inode, entry, err);
	if (r < 0 || strcmp (entry->path, entry->target) == 0)
		return r;
	return inode_place (apply, entry->path, target->inode, err);
}

static int
whiteout_place (struct apply *apply, const char *path, struct silo_error *err)
{
	struct tree_node *parent = NULL, *node = NULL;
	const char *name = NULL;
	int r = parent_at (apply, path, HIDE, &parent, &name, err);
	if (r <= 0)
		return r; /* it hides nothing below what is no folder */
	apply->whiteouts++;
	node = tree_child (apply->tree, parent, name, strlen (name));
	if (!node)
		return tree_add (apply->tree, parent, name, strlen (name), NULL, &node, err);
	/* It acts on lower layers only, wherever in its own it stands. */
	node->opaque |= tree_is_folder (node);
	return 0;
}

static int
opaque_place (struct apply *apply, const char *path, struct silo_error *err)
{
	struct tree_node *node = NULL;
	int r = folder_at (apply, path, strlen (path), HIDE, &node, err);
	/* Overlayfs looks for the mark on everything but the layers' roots. */
	if (r > 0 && node != apply->own)
		node->opaque = true;
	return r < 0 ? r : 0;
}

static int
layer_build (struct apply *apply, struct tree_layer *layer, struct silo_error *err)
{
	int r = tree_add (apply->tree, NULL, "", 0, NULL, &apply->own, err);
	for (size_t i = 0; r == 0 && i < layer->n; i++) {
		const struct tree_entry *entry = &layer->entries[i];
		if (entry->type == SILO_ENTRY_WHITEOUT)
			r = whiteout_place (apply, entry->path, err);
		else if (entry->type == SILO_ENTRY_OPAQUE)
			r = opaque_place (apply, entry->path, err);
		else if (entry->type == SILO_ENTRY_HARDLINK)
			r = link_place (apply, entry, err);
		else
			r = inode_place (apply, entry->path, entry->inode, err);
		arena_trim (&layer->paths, entry->path);
	}
	return r;
}

/* -- merging ---------------------------------------------------------------------- */

static void
whiteouts_strip (struct tree *tree, struct tree_node *top)
{
	for (struct tree_node *node = top, *next; node; node = next) {
		next = tree_next (top, node);
		if (!node->inode)
			tree_remove (tree, node);
	}
}

/* One name of the layer into folder `to`.  True: `node` is a folder to be merged with *ret_into,
 * and its children are still its own. */
static bool
node_merge (struct apply *apply, struct tree_node *node, struct tree_node *to,
	    struct tree_node **ret_into)
{
	struct tree *tree = apply->tree;
	struct tree_node *below = tree_child (tree, to, node->name, node->name_len);
	if (below && tree_is_folder (below) && tree_is_folder (node) && !node->opaque) {
		tree_set_inode (below, node->inode);
		*ret_into = below;
		return true;
	}
	if (below)
		tree_remove (tree, below);
	if (!node->inode) {
		tree_remove (tree, node);
		return false;
	}
	tree_move (tree, node, to);
	if (apply->whiteouts > 0)
		whiteouts_strip (tree, node);
	return false;
}

/* Every folder that both have, each once, without recursion: the way back up is in the nodes. */
static void
layer_merge (struct apply *apply)
{
	struct tree_node *from = apply->own, *into = apply->tree->root;
	if (from->inode)
		tree_set_inode (into, from->inode);
	while (from) {
		struct tree_node *deeper = NULL;
		if (!from->first) {
			/* All of it has moved. */
			struct tree_node *up = from->parent;
			if (up)
				tree_remove (apply->tree, from);
			from = up;
			into = into->parent;
		} else if (node_merge (apply, from->first, into, &deeper)) {
			from = from->first;
			into = deeper;
		}
	}
}

int
tree_apply (struct tree *tree, struct tree_layer *layer, struct silo_error *err)
{
	struct apply apply = { .tree = tree, .layer = layer };
	int r = layer_build (&apply, layer, err);
	/* The nodes point to these inodes, also after an error. */
	arena_join (&tree->memory, &layer->inodes);
	if (r == 0)
		layer_merge (&apply);
	return r;
}
