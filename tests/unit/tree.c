/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree.c - tests of core/tree*.c: what is refused at the door, how a layer is
 * built and how layers merge.  A tree is checked as text: one line per node.
 * That podman merges likewise is tests/functional/test_podman.py's.
 */
#include "core.h"
#include "tap.h"
#include "tree.h"

#include <sys/stat.h>

/* -- helpers ------------------------------------------------------------------------ */

static int
add (struct tree_layer *layer, enum silo_entry_type type, const char *path, const char *target,
     struct silo_error *err)
{
	const struct silo_entry entry = {
		.type = type,
		.path = path,
		.target = target,
		.mode = type == SILO_ENTRY_DIR ? 0700 : 0640,
		.rdev_major = 1,
		.rdev_minor = 3,
	};
	return tree_layer_add (layer, &entry, err);
}

static struct tree_layer *
layer_new (void)
{
	struct tree_layer *layer = NULL;
	struct silo_error err;
	if (tree_layer_new ("L", &layer, &err) < 0)
		tap_bail ("%s", err.msg);
	return layer;
}

/* "f a/b", "d a", "l a target", "h a target", "w a", "o a", "p a", separated by commas. */
static struct tree_layer *
layer_of (const char *text)
{
	static const char letters[] = " fdlhcbpwo"; /* in the order of enum silo_entry_type */
	struct tree_layer *layer = layer_new ();
	char *copy = strdup (text), *rest = copy;
	for (char *one; copy && (one = strsep (&rest, ","));) {
		char *path = one + 2, *target = strchr (path, ' ');
		struct silo_error err;
		if (target)
			*target++ = '\0';
		enum silo_entry_type type =
		    (enum silo_entry_type) (strchr (letters, *one) - letters);
		if (add (layer, type, path, target, &err) < 0)
			tap_bail ("%s: %s", one, err.msg);
	}
	free (copy);
	return layer;
}

struct lines {
	char *item[256];
	size_t n;
};

static int
line_compare (const void *a, const void *b)
{
	return strcmp (*(char *const *) a, *(char *const *) b);
}

static void
node_path (const struct tree_node *node, char *to, size_t size)
{
	char tail[1024] = "";
	for (; node->parent; node = node->parent) {
		char longer[1024];
		snprintf (longer, sizeof (longer), "%s%s%.900s", node->name, *tail ? "/" : "",
			  tail);
		memcpy (tail, longer, sizeof (tail));
	}
	snprintf (to, size, "%s", tail);
}

static void
node_line (const struct tree_node *node, struct lines *lines)
{
	char path[1024], line[1200];
	uint32_t type = node->inode->mode & S_IFMT;
	node_path (node, path, sizeof (path));
	snprintf (line, sizeof (line), "%c %s%s%s%s",
		  type == S_IFDIR   ? 'd'
		  : type == S_IFLNK ? 'l'
		  : type == S_IFREG ? 'f'
				    : '?',
		  path, type == S_IFDIR && (node->inode->mode & 0777) == 0755 ? "*" : "",
		  type == S_IFLNK ? " " : "", type == S_IFLNK ? node->inode->target : "");
	if (type != S_IFDIR && node->inode->links > 1)
		snprintf (line + strlen (line), 16, " x%u", node->inode->links);
	if (lines->n < ARRAY_SIZE (lines->item))
		lines->item[lines->n++] = strdup (line);
}

/* All nodes but the root, sorted; a folder that nobody listed has a star. */
static char *
tree_text (struct tree *tree)
{
	struct lines lines = { .n = 0 };
	for (const struct tree_node *n = tree_root (tree)->first; n;) {
		node_line (n, &lines);
		if (n->first) {
			n = n->first;
			continue;
		}
		while (n->parent && !n->next)
			n = n->parent;
		n = n->parent ? n->next : NULL;
	}
	qsort (lines.item, lines.n, sizeof (lines.item[0]), line_compare);
	struct silo_buf text = SILO_BUF (1 << 20);
	for (size_t i = 0; i < lines.n; i++) {
		silo_buf_addf (&text, NULL, "%s%s", i ? "," : "", lines.item[i]);
		free (lines.item[i]);
	}
	return text.data ? (char *) text.data : strdup ("");
}

/* Merge layers (NULL-terminated) and compare. */
static void
merges (const char *what, const char *want, const char *const *layers)
{
	struct tree *tree = NULL;
	struct silo_error err = { 0 };
	if (tree_new (&tree, &err) < 0)
		tap_bail ("%s", err.msg);
	int r = 0;
	for (size_t i = 0; r == 0 && layers[i]; i++) {
		struct tree_layer *layer = layer_of (layers[i]);
		r = tree_apply (tree, layer, &err);
		tree_layer_free (layer);
	}
	char *text = r < 0 ? strdup (err.msg) : tree_text (tree);
	tap_is_str (text, want, "%s", what);
	free (text);
	tree_free (tree);
}

#define MERGES(what, want, ...) merges (what, want, (const char *const[]){ __VA_ARGS__, NULL })

/* -- tests ----------------------------------------------------------------------------- */

static void
test_one_layer (void)
{
	MERGES ("paths are cleaned", "d a*,f a/b,f c", "f ./a//b,f /c");
	MERGES ("the root may be listed", "f a", "d .,f a");
	MERGES ("missing folders are made", "d a*,d a/b*,f a/b/c", "f a/b/c");
	MERGES ("a folder listed late keeps what is in it", "d a,f a/b", "f a/b,d a");
	MERGES ("of two the last one wins", "l a x", "f a,l a x");
	MERGES ("a file replaces a folder", "f a", "f a/b/c,f a");
	MERGES ("a folder replaces a file", "d a,f a/b", "f a,d a,f a/b");
	MERGES ("hard links share an inode", "d d*,f a x3,f b x3,f d/c x3", "f a,h b a,h d/c b");
	MERGES ("a replaced name leaves the other links", "f a,f b x2,f c x2",
		"f a,h b a,h c a,f a");
	MERGES ("a link to itself is nothing", "f a", "f a,h a a");
	MERGES ("a link that takes its folder's place", "f a", "f a/b,h a a/b");
	MERGES ("hard links to symlinks", "l a x x2,l b x x2", "l a x,h b a");
	MERGES ("a link to what is missing", "layer L: hard link b: its target a does not exist",
		"h b a,f a");
	MERGES ("a link to a folder", "layer L: hard link b: a is a folder", "d a,h b a");
	MERGES ("a link to a whiteout", "layer L: hard link b: its target a does not exist", "f a",
		"w a,h b a");
	MERGES ("a path through a file",
		"layer L: a/b: a part of this path is no folder in this layer", "f a,f a/b");
}

#define OUT  "out of the image, to no folder in this layer"
#define GONE "to no folder in this layer"

static void
test_symlinks (void)
{
	MERGES ("a path through a symlink", "d d,f d/b,l a d", "d d,l a d,f a/b");
	MERGES ("with folders to be made", "d d,d d/b*,f d/b/c,l a d", "d d,l a d,f a/b/c");
	MERGES ("up and over", "d d,d e*,f d/x,l e/a ../d", "d d,l e/a ../d,f e/a/x");
	MERGES ("through two", "d d,f d/x,l a d,l b a", "d d,l a d,l b a,f b/x");
	MERGES ("through one in the middle of another", "d d,d d/e,f d/e/x,l a d,l b a/e/.",
		"d d,d d/e,l a d,l b a/e/.,f b/x");
	MERGES ("a symlink itself is replaced", "d d,f a", "d d,l a d,f a");
	MERGES ("a folder replaces a symlink", "d a,d d,f a/x", "d d,l a d,d a,f a/x");
	MERGES ("a whiteout through a symlink", "d d,l a d", "f d/x", "d d,l a d,w a/x");
	MERGES ("an opaque folder through a symlink", "d d,l a d", "f d/x", "d d,l a d,o a");
	MERGES ("a hard link through a symlink", "d d,f d/x x2,f h x2,l a d",
		"d d,f d/x,l a d,h h a/x");
	MERGES ("one of a lower layer is not followed", "d a*,d d,f a/x", "d d,l a d", "f a/x");
	MERGES ("an absolute one", "layer L: a/b: the symlink a leads " OUT, "d d,l a /d,f a/b");
	MERGES ("one that climbs", "layer L: a/b: the symlink a leads " OUT, "d d,l a ../d,f a/b");
	MERGES ("one that climbs below", "layer L: d/a/b: the symlink a leads " OUT,
		"d d,l d/a ../../d,f d/a/b");
	MERGES ("for a hard link", "hard link h: layer L: a/b: the symlink a leads " OUT,
		"d d,l a /d,h h a/b");
	MERGES ("for a whiteout", "layer L: a/b: the symlink a leads " OUT, "l a /d,w a/b");
	MERGES ("to what is missing", "layer L: a/b: the symlink a leads " GONE, "l a d,f a/b");
	MERGES ("to what a lower layer has", "layer L: a/b: the symlink a leads " GONE, "d d",
		"l a d,f a/b");
	MERGES ("a loop", "layer L: a/x: the symlink a leads through too many others",
		"l a b,l b a,f a/x");
	MERGES ("a symlink that nobody follows may lead anywhere", "l a ../../../x",
		"l a ../../../x");
}

/* Symlinks that lead deeper and deeper. */
static void
test_depth (void)
{
	struct tree *tree = NULL;
	struct silo_error err = { 0 };
	struct tree_layer *layer = layer_new ();
	char deep[3000], path[3100];
	for (size_t i = 0; i < sizeof (deep); i++)
		deep[i] = i % 2 ? '/' : 'd';
	deep[sizeof (deep) - 1] = '\0';
	int r = tree_new (&tree, &err);
	if (r == 0)
		r = add (layer, SILO_ENTRY_FILE, deep, NULL, &err);
	deep[sizeof (deep) - 4] = '\0';
	if (r == 0)
		r = add (layer, SILO_ENTRY_SYMLINK, "s", deep, &err);
	snprintf (path, sizeof (path), "s/e/%s", deep);
	if (r == 0)
		r = add (layer, SILO_ENTRY_DIR, path, NULL, &err);
	if (r < 0)
		tap_bail ("%s", err.msg);
	tap_is_int (tree_apply (tree, layer, &err), SILO_INVALID, "folders deeper than any path");
	if (!tap_ok (strstr (err.msg, "too deep") != NULL, "and it says so"))
		tap_note ("%s", err.msg);
	tree_layer_free (layer);
	tree_free (tree);
}

static void
test_layers (void)
{
	MERGES ("a whiteout removes a file", "f b", "f a,f b", "w a");
	MERGES ("a whiteout removes a tree", "f x", "f a/b/c,f a/d,f x", "w a");
	MERGES ("of what is missing it removes nothing", "f a", "f a", "w b");
	MERGES ("but its folders are made", "d a*,d c*,d c/d*", "f a", "w b,w a/b,w c/d/e");
	MERGES ("it acts on lower layers only", "f a", "f a", "f a,w a");
	MERGES ("before and after", "f a", "f a/x", "w a,f a");
	MERGES ("on a folder of lower layers only", "d a,f a/new", "f a/old", "d a,f a/new,w a");
	MERGES ("and so when the folder is not listed", "d a*,f a/new", "f a/old", "w a,f a/new");
	MERGES ("a folder listed after it takes its place", "d a,f a/new,f a/old", "f a/old",
		"w a,d a,f a/new");
	MERGES ("a whiteout in a folder that is new", "d a,f a/x", "f b", "w b,d a,f a/x,w a/y");
	MERGES ("below another, and below a file", "f f", "f a/b,f f", "w a,w a/b,f f,w f/x");
	MERGES ("an opaque folder hides what is below", "d a*,f a/new", "f a/x,f a/y/z",
		"f a/new,o a");
	MERGES ("before or after what is in it", "d a,f a/n", "f a/x", "o a,f a/n,d a");
	MERGES ("the root cannot be opaque", "d c,f a,f b", "f a,d c", "f b,o .");
	MERGES ("opaque of a file is nothing", "f a", "f a/x", "f a,o a");
	MERGES ("it hides for links, too", "layer L: hard link b: its target a/x does not exist",
		"f a/x", "o a,h b a/x");
	MERGES ("a folder that nobody lists has new metadata", "d a*,f a/b,f a/c", "d a,f a/b",
		"f a/c");
	MERGES ("a folder over a folder keeps its children", "d a,f a/b", "f a/b", "d a");
	MERGES ("a file over a folder", "f a", "f a/b", "f a");
	MERGES ("a folder over a file", "d a*,f a/b", "f a", "f a/b");
	MERGES ("a folder over a symlink, which is not followed", "d a*,d d,f a/b", "d d,l a d",
		"f a/b");
	MERGES ("back and forth", "d a,f a/c", "f a", "f a/b", "l a x", "d a,f a/c");
	MERGES ("a hard link to a lower layer", "f a x2,f b x2", "f a", "h b a");
	MERGES ("its other name removed above", "f b", "f a", "h b a", "w a");
	MERGES ("a hard link to a folder's file below", "d d*,f b x2,f d/a x2", "f d/a", "h b d/a");
}

static void
refused (const char *what, const struct silo_entry *entry, int code, const char *says)
{
	struct tree_layer *layer = layer_new ();
	struct silo_error err = { 0 };
	int r = tree_layer_add (layer, entry, &err);
	tap_ok (r == code && err.code == code && strstr (err.msg, "layer L") &&
		    strstr (err.msg, says) && layer->n == 0,
		"refused: %s", what);
	if (r != code || !strstr (err.msg, says))
		tap_note ("%s: %s", silo_code_name (r), err.msg);
	tree_layer_free (layer);
}

#define FILE_ENTRY(...) (&(const struct silo_entry){ .type = SILO_ENTRY_FILE, __VA_ARGS__ })
#define LINK_ENTRY(...) (&(const struct silo_entry){ .type = SILO_ENTRY_SYMLINK, __VA_ARGS__ })

static void
test_refused (void)
{
	char part[TREE_MAX_NAME + 2], path[TREE_MAX_PATH + 2];
	memset (part, 'n', sizeof (part));
	part[sizeof (part) - 1] = '\0';
	for (size_t i = 0; i < sizeof (path); i++)
		path[i] = i % 2 ? '/' : 'p';
	path[sizeof (path) - 1] = '\0';
	refused ("a path that climbs", FILE_ENTRY (.path = "../etc/passwd"), SILO_INVALID, "..");
	refused ("in the middle", FILE_ENTRY (.path = "a/../../b"), SILO_INVALID, "..");
	refused ("at the end", FILE_ENTRY (.path = "a/.."), SILO_INVALID, "..");
	refused ("a long name", FILE_ENTRY (.path = part), SILO_INVALID, "255");
	refused ("a long path", FILE_ENTRY (.path = path), SILO_INVALID, "4095");
	refused ("no path", FILE_ENTRY (.path = ""), SILO_INVALID, "root");
	refused ("the root as a file", FILE_ENTRY (.path = "./"), SILO_INVALID, "root");
	refused ("a negative size", FILE_ENTRY (.path = "a", .size = -1), SILO_INVALID, "size");
	refused ("a huge size", FILE_ENTRY (.path = "a", .size = INT64_MAX), SILO_INVALID, "size");
	refused ("a strange mode", FILE_ENTRY (.path = "a", .mode = 0100644), SILO_INVALID, "mode");
	refused ("a strange time", FILE_ENTRY (.path = "a", .mtime_nsec = 1000000000), SILO_INVALID,
		 "nanoseconds");
	refused ("no target", LINK_ENTRY (.path = "a"), SILO_INVALID, "target");
	refused ("an empty target", LINK_ENTRY (.path = "a", .target = ""), SILO_INVALID, "target");
	refused ("a long target", LINK_ENTRY (.path = "a", .target = path), SILO_INVALID, "target");
	refused ("a hard link that climbs",
		 &(const struct silo_entry){
		     .type = SILO_ENTRY_HARDLINK, .path = "a", .target = "../../etc/shadow" },
		 SILO_INVALID, "..");
	refused ("a type that does not exist",
		 &(const struct silo_entry){ .type = (enum silo_entry_type) 99, .path = "a" },
		 SILO_INVALID, "type");
	refused (
	    "a device number",
	    &(const struct silo_entry){ .type = SILO_ENTRY_CHAR, .path = "a", .rdev_major = 4096 },
	    SILO_INVALID, "device");
}

static void
test_xattrs (void)
{
	static char large[TREE_MAX_XATTR_VALUE + 1];
	const struct silo_xattr good[] = { { "user.b", { "2", 1 } },
					   { "com.apple.x", { "?", 1 } },
					   { "user.a", { "1", 1 } },
					   { "user.", { "?", 1 } } };
	const struct silo_xattr twice[] = { { "user.a", { "1", 1 } }, { "user.a", { "2", 1 } } };
	const struct silo_xattr too_large[] = { { "user.a", { large, sizeof (large) } } };
	const struct silo_xattr too_much[] = { { "user.a", { large, 65000 } },
					       { "user.b", { large, 65000 } },
					       { "user.c", { large, 65000 } } };
	refused ("an xattr given twice", FILE_ENTRY (.path = "a", .xattrs = twice, .n_xattrs = 2),
		 SILO_INVALID, "twice");
	refused ("a large xattr", FILE_ENTRY (.path = "a", .xattrs = too_large, .n_xattrs = 1),
		 SILO_INVALID, "too large");
	refused ("many xattrs", FILE_ENTRY (.path = "a", .xattrs = too_much, .n_xattrs = 3),
		 SILO_INVALID, "more than");

	struct tree_layer *layer = layer_new ();
	struct silo_error err = { 0 };
	int r =
	    tree_layer_add (layer, FILE_ENTRY (.path = "a", .xattrs = good, .n_xattrs = 4), &err);
	tap_is_int (r, 0, "an entry with xattrs");
	const struct tree_inode *inode = layer->entries[0].inode;
	tap_is_int ((int64_t) inode->n_xattrs, 2, "those that can be stored are kept");
	tap_is_str (inode->xattrs[0].name, "user.a", "sorted");
	tree_layer_free (layer);
}

/* Paths through symlinks that lead through symlinks: each entry costs 40 times 2,000 parts. */
static void
test_long_ways (void)
{
	struct tree *tree = NULL;
	struct silo_error err = { 0 };
	struct tree_layer *layer = layer_new ();
	char target[TREE_MAX_PATH], name[32];
	int r = tree_new (&tree, &err);
	for (int i = 0; r == 0 && i < TREE_MAX_LINKS; i++) {
		size_t n = (size_t) snprintf (target, sizeof (target), i ? "s%d" : "d", i - 1);
		while (n + 6 < sizeof (target))
			n += (size_t) snprintf (target + n, sizeof (target) - n, "/../d");
		snprintf (name, sizeof (name), "s%d", i);
		r = i ? 0 : add (layer, SILO_ENTRY_DIR, "d", NULL, &err);
		if (r == 0)
			r = add (layer, SILO_ENTRY_SYMLINK, name, target, &err);
	}
	for (int i = 0; r == 0 && i < 200; i++) {
		snprintf (name, sizeof (name), "s%d/%d", TREE_MAX_LINKS - 1, i);
		r = add (layer, SILO_ENTRY_FILE, name, NULL, &err);
	}
	if (r < 0)
		tap_bail ("%s", err.msg);
	tap_is_int (tree_apply (tree, layer, &err), SILO_EXHAUSTED, "ways that are too long");
	tap_ok (strstr (err.msg, "layer L: s39/") != NULL, "are refused by name");
	tree_layer_free (layer);
	tree_free (tree);
}

/* What a hard link's header says counts for the file, as when it is unpacked. */
static void
test_link_metadata (void)
{
	const struct silo_xattr one[] = { { "user.b", { "1", 1 } }, { "user.a", { "1", 1 } } };
	const struct silo_xattr two[] = { { "user.c", { "2", 1 } }, { "user.b", { "22", 2 } } };
	const struct silo_entry entries[] = {
		{ .type = SILO_ENTRY_FILE,
		  .path = "f",
		  .mode = 0600,
		  .xattrs = one,
		  .n_xattrs = 2 },
		{ .type = SILO_ENTRY_HARDLINK,
		  .path = "h",
		  .target = "f",
		  .mode = 04711,
		  .uid = 7,
		  .gid = 8,
		  .mtime = -9,
		  .mtime_nsec = 10,
		  .xattrs = two,
		  .n_xattrs = 2 },
		{ .type = SILO_ENTRY_HARDLINK, .path = "i", .target = "f" },
		{ .type = SILO_ENTRY_SYMLINK, .path = "l", .target = "f", .mtime = 5 },
		{ .type = SILO_ENTRY_HARDLINK, .path = "m", .target = "l", .uid = 9, .mtime = 6 },
	};
	struct tree *tree = NULL;
	struct tree_layer *layer = layer_new ();
	struct silo_error err = { 0 };
	int r = tree_new (&tree, &err);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE (entries); i++)
		r = tree_layer_add (layer, &entries[i], &err);
	if (r == 0)
		r = tree_apply (tree, layer, &err);
	if (r < 0)
		tap_bail ("%s", err.msg);
	const struct tree_inode *f = tree_child (tree, tree_root (tree), "i", 1)->inode;
	tap_ok (f->mode == (S_IFREG | 04711) && f->uid == 7 && f->gid == 8 && f->mtime == -9 &&
		    f->mtime_nsec == 10 && f->links == 3,
		"a hard link's metadata; of one that says nothing none");
	tap_ok (f->n_xattrs == 3 && strcmp (f->xattrs[0].name, "user.a") == 0 &&
		    f->xattrs[1].len == 2 && strcmp (f->xattrs[2].name, "user.c") == 0,
		"xattrs of both");
	const struct tree_inode *l = tree_child (tree, tree_root (tree), "m", 1)->inode;
	tap_ok (l->mode == (S_IFLNK | 0777) && l->uid == 9 && l->mtime == 5,
		"of a symlink only the owner");
	tree_layer_free (layer);
	tree_free (tree);
}

/* 50,000 names in a folder, and paths as deep as they may be, take no quadratic time. */
static void
test_large (void)
{
	struct tree *tree = NULL;
	struct silo_error err = { 0 };
	struct tree_layer *layer = layer_new ();
	char path[TREE_MAX_PATH + 1];
	int r = tree_new (&tree, &err);
	for (int i = 0; r == 0 && i < 50000; i++) {
		snprintf (path, sizeof (path), "many/%d", i);
		r = add (layer, SILO_ENTRY_FILE, path, NULL, &err);
	}
	for (size_t i = 0; i < sizeof (path); i++)
		path[i] = i % 2 ? '/' : 'p';
	path[sizeof (path) - 1] = '\0';
	if (r == 0)
		r = add (layer, SILO_ENTRY_FILE, path, NULL, &err);
	if (r == 0)
		r = tree_apply (tree, layer, &err);
	tap_is_int (r, 0, "a large layer");
	tap_is_int ((int64_t) tree_nodes (tree), 1 + 50001 + 2048, "has all its nodes");
	tree_layer_free (layer);
	layer = layer_of ("w p,o many");
	tap_is_int (tree_apply (tree, layer, &err), 0, "and is hidden");
	tap_is_int ((int64_t) tree_nodes (tree), 2, "down to its folder");
	tree_layer_free (layer);
	tree_free (tree);
}

int
main (void)
{
	test_one_layer ();
	test_symlinks ();
	test_depth ();
	test_long_ways ();
	test_layers ();
	test_link_metadata ();
	test_refused ();
	test_xattrs ();
	test_large ();
	return tap_done ();
}
