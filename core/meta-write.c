/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meta-write.c - writes a tree as a metadata file: EROFS in composefs' layout
 * (docs/formats/metadata.md).  Two passes over the inodes: the first gives each
 * its place, the second writes front to back, hashing.  The same tree gives
 * the same bytes: inodes stand folder by folder from the root down, names and
 * xattrs are sorted, nothing of the clock or the machine gets in.
 */
#include "core.h"
#include "meta-format.h"
#include "tree.h"
#include <sys/stat.h>

/* One inode to write, in the order of the file.  There are many: what can be told from the node
 * is not kept. */
struct item {
	const struct tree_node *node; /* one of its names; for folders the one */
	uint32_t nid;                 /* offset in the file / META_SLOT */
	uint32_t first;               /* block of its data outside the inode */
	uint32_t xattrs;              /* bytes */
	uint8_t layout;               /* enum meta_layout */
	bool whiteouts;               /* the folder holds some */
};

struct layout {
	struct item *items;
	size_t n;
	struct tree_node **sorted;
	size_t cap_sorted;
	uint64_t data;   /* block behind the inodes: contents that are not inline */
	uint64_t blocks; /* of the whole file */
	struct silo_buf scratch;
};

/* A character device 0/0 would be a whiteout to the overlay that mounts this file.  Written
 * as overlayfs' other form of a whiteout, escaped, it reaches the container as one. */
static bool
is_whiteout (const struct tree_inode *inode)
{
	return S_ISCHR (inode->mode) && inode->rdev_major == 0 && inode->rdev_minor == 0;
}

static uint32_t
mode_written (const struct tree_inode *inode)
{
	return is_whiteout (inode) ? S_IFREG | (inode->mode & 07777u) : inode->mode;
}

static bool
has_object (const struct tree_inode *inode)
{
	return S_ISREG (inode->mode) && inode->size > 0;
}

/* -- folders ------------------------------------------------------------------ */

static int
bytes_compare (const char *a, size_t a_len, const char *b, size_t b_len)
{
	int c = memcmp (a, b, a_len < b_len ? a_len : b_len);
	return c ? c : (a_len > b_len) - (a_len < b_len);
}

static int
node_compare (const void *a, const void *b)
{
	const struct tree_node *const *x = a, *const *y = b;
	return bytes_compare ((*x)->name, (*x)->name_len, (*y)->name, (*y)->name_len);
}

/* Sort the children of a folder by name; they stay linked that way. */
static int
folder_sort (struct layout *layout, struct tree_node *dir, struct silo_error *err)
{
	size_t n = 0;
	for (const struct tree_node *c = dir->first; c; c = c->next)
		n++;
	if (n > layout->cap_sorted) {
		struct tree_node **sorted = reallocarray (layout->sorted, n, sizeof (*sorted));
		if (!sorted)
			return silo_fail_nomem (err);
		layout->sorted = sorted;
		layout->cap_sorted = n;
	}
	struct tree_node **sorted = layout->sorted;
	n = 0;
	for (struct tree_node *c = dir->first; c; c = c->next)
		sorted[n++] = c;
	if (n > 1)
		qsort (sorted, n, sizeof (*sorted), node_compare);
	for (size_t i = 0; i < n; i++) {
		sorted[i]->prev = i > 0 ? sorted[i - 1] : NULL;
		sorted[i]->next = i + 1 < n ? sorted[i + 1] : NULL;
	}
	dir->first = n > 0 ? sorted[0] : NULL;
	return 0;
}

/* The names of a sorted folder in order, "." and ".." among them. */
struct names {
	const struct tree_node *dir;
	const struct tree_node *child; /* the next one */
	unsigned dots;                 /* of the two, how many have been */
};

struct name {
	const char *text;
	size_t len;
	const struct tree_inode *inode;
};

static struct names
names_of (const struct tree_node *dir)
{
	return (struct names){ .dir = dir, .child = dir->first };
}

static bool
names_next (struct names *names, struct name *ret)
{
	const struct tree_node *child = names->child, *dir = names->dir;
	if (names->dots < 2 &&
	    (!child || bytes_compare ("..", names->dots + 1, child->name, child->name_len) < 0)) {
		const struct tree_node *up = names->dots == 1 && dir->parent ? dir->parent : dir;
		names->dots++;
		*ret = (struct name){ "..", names->dots, up->inode };
		return true;
	}
	if (!child)
		return false;
	names->child = child->next;
	*ret = (struct name){ child->name, child->name_len, child->inode };
	return true;
}

/* How many of the names fit into one block, and the bytes that they take; moves on behind
 * them. */
static size_t
names_in_block (struct names *names, uint64_t *ret_bytes)
{
	uint64_t bytes = 0;
	size_t n = 0;
	struct name name;
	for (struct names ahead = *names; names_next (&ahead, &name); *names = ahead) {
		if (bytes + META_DIRENT + name.len > META_BLOCK)
			break;
		bytes += META_DIRENT + name.len;
		n++;
	}
	*ret_bytes = bytes;
	return n;
}

static uint64_t
folder_size (const struct tree_node *dir)
{
	uint64_t size = 0, bytes = 0;
	for (struct names names = names_of (dir); names_in_block (&names, &bytes) > 0;)
		size = round_up (size, META_BLOCK) + bytes;
	return size;
}

/* -- extended attributes ------------------------------------------------------ */

static int
xattr_put (struct silo_buf *to, int index, const char *prefix, const char *name, const void *value,
	   size_t len, struct silo_error *err)
{
	static const unsigned char zeros[4] = { 0 };
	size_t name_len = strlen (prefix) + strlen (name);
	if (name_len > UINT8_MAX || len > UINT16_MAX)
		return silo_fail (err, SILO_INVALID, "extended attribute %.60s is too large", name);
	unsigned char head[META_XATTR_ENTRY] = { (unsigned char) name_len, (unsigned char) index };
	put16 (head + 2, (uint16_t) len);
	size_t pad = (size_t) round_up (to->len + sizeof (head) + name_len + len, 4) -
		     (to->len + sizeof (head) + name_len + len);
	int r = silo_buf_add (to, head, sizeof (head), err);
	if (r == 0)
		r = silo_buf_add (to, prefix, strlen (prefix), err);
	if (r == 0)
		r = silo_buf_add (to, name, strlen (name), err);
	if (r == 0 && len > 0)
		r = silo_buf_add (to, value, len, err);
	return r == 0 ? silo_buf_add (to, zeros, pad, err) : r;
}

static int
xattr_put_own (struct silo_buf *to, const struct tree_xattr *xattr, struct silo_error *err)
{
	static const struct {
		const char *prefix;
		int index;
	} spaces[] = {
		{ "user.", XATTR_USER },
		{ "system.posix_acl_access", XATTR_ACL_ACCESS },
		{ "system.posix_acl_default", XATTR_ACL_DEFAULT },
		{ "trusted.", XATTR_TRUSTED },
		{ "security.", XATTR_SECURITY },
	};
	for (size_t i = 0; i < ARRAY_SIZE (spaces); i++) {
		size_t len = strlen (spaces[i].prefix);
		if (strncmp (xattr->name, spaces[i].prefix, len) != 0)
			continue;
		const char *rest = xattr->name + len;
		/* The overlay that mounts this file takes one "overlay." off again. */
		bool escape = spaces[i].index == XATTR_TRUSTED &&
			      strncmp (rest, "overlay.", strlen ("overlay.")) == 0;
		return xattr_put (to, spaces[i].index, escape ? "overlay." : "", rest, xattr->value,
				  xattr->len, err);
	}
	assert (!"tree_layer_add keeps only these");
	return 0;
}

static int
xattr_put_object (struct silo_buf *to, const struct silo_digest *object, struct silo_error *err)
{
	char hex[SILO_DIGEST_HEX + 1], path[SILO_DIGEST_HEX + 3];
	silo_digest_hex (object, hex);
	int n = snprintf (path, sizeof (path), "/%.2s/%s", hex, hex + 2);
	assert (n == (int) sizeof (path) - 1);
	int r = xattr_put (to, XATTR_TRUSTED, "overlay.", "metacopy", NULL, 0, err);
	if (r < 0)
		return r;
	return xattr_put (to, XATTR_TRUSTED, "overlay.", "redirect", path, (size_t) n, err);
}

/* All xattrs of an inode as they stand in the file; nothing when there are none. */
static int
item_xattrs (const struct item *item, struct silo_buf *to, struct silo_error *err)
{
	static const unsigned char header[META_XATTR_HEADER] = { 0 };
	const struct tree_inode *inode = item->node->inode;
	to->len = 0;
	int r = silo_buf_add (to, header, sizeof (header), err);
	if (r == 0 && has_object (inode))
		r = xattr_put_object (to, &inode->object, err);
	if (r == 0 && is_whiteout (inode))
		r = xattr_put (to, XATTR_TRUSTED, "overlay.overlay.", "whiteout", NULL, 0, err);
	if (r == 0 && item->whiteouts)
		r = xattr_put (to, XATTR_TRUSTED, "overlay.overlay.", "opaque", "x", 1, err);
	for (uint32_t i = 0; r == 0 && i < inode->n_xattrs; i++)
		if (!item->whiteouts || strcmp (inode->xattrs[i].name, "trusted.overlay.opaque"))
			r = xattr_put_own (to, &inode->xattrs[i], err);
	if (r == 0 && to->len == sizeof (header))
		to->len = 0;
	return r;
}

/* -- first pass: a place for each inode ---------------------------------------- */

/* List an inode, if this is the first of its names. */
static void
layout_add (struct layout *layout, const struct tree_node *node)
{
	if (node->inode->number != 0)
		return;
	layout->items[layout->n++] = (struct item){ .node = node };
	node->inode->number = (uint32_t) layout->n;
}

static int
list_folder (struct layout *layout, size_t i, struct silo_error *err)
{
	/* Nodes are the tree's, but nobody else looks at their order. */
	int r = folder_sort (layout, (struct tree_node *) layout->items[i].node, err);
	if (r < 0)
		return r;
	for (const struct tree_node *c = layout->items[i].node->first; c; c = c->next) {
		layout->items[i].whiteouts |= is_whiteout (c->inode);
		layout_add (layout, c);
	}
	return 0;
}

/* List every inode once: the root, then the inodes of each folder together. */
static int
list_items (struct layout *layout, struct tree *tree, struct silo_error *err)
{
	struct tree_node *root = tree_root (tree);
	for (struct tree_node *n = root; n; n = tree_next (root, n))
		n->inode->number = 0;
	layout->items = calloc (tree_nodes (tree), sizeof (*layout->items));
	if (!layout->items)
		return silo_fail_nomem (err);
	layout_add (layout, root);
	int r = 0;
	for (size_t i = 0; r == 0 && i < layout->n; i++)
		if (S_ISDIR (layout->items[i].node->inode->mode))
			r = list_folder (layout, i, err);
	return r;
}

static uint64_t
item_size (const struct item *item)
{
	const struct tree_inode *inode = item->node->inode;
	if (has_object (inode))
		return inode->size;
	if (S_ISDIR (inode->mode))
		return folder_size (item->node);
	return S_ISLNK (inode->mode) ? strlen (inode->target) : 0;
}

/* Of data outside the inode. */
static uint64_t
item_blocks (const struct item *item, uint64_t size)
{
	if (item->layout == META_CHUNKS)
		return 0;
	return (item->layout == META_INLINE ? size : round_up (size, META_BLOCK)) / META_BLOCK;
}

/* Choose the layout; the bytes at the inode, and whether they may not cross into the next
 * block. */
static uint64_t
item_shape (struct item *item, uint64_t size, bool *ret_together)
{
	uint64_t head = META_INODE_SIZE + item->xattrs, tail = size % META_BLOCK;
	*ret_together = false;
	item->layout = META_PLAIN;
	if (has_object (item->node->inode)) {
		item->layout = META_CHUNKS;
		return head + 4;
	}
	if (tail == 0 || head + tail > META_BLOCK)
		return head;
	item->layout = META_INLINE;
	*ret_together = true;
	return head + tail;
}

static int
place_items (struct layout *layout, struct silo_error *err)
{
	uint64_t at = META_SUPER + META_SUPER_SIZE, blocks = 0;
	for (size_t i = 0; i < layout->n; i++) {
		struct item *item = &layout->items[i];
		int r = item_xattrs (item, &layout->scratch, err);
		if (r < 0)
			return r;
		item->xattrs = (uint32_t) layout->scratch.len;
		bool together = false;
		uint64_t size = item_size (item), bytes = item_shape (item, size, &together);
		at = round_up (at, META_SLOT);
		if (together && at % META_BLOCK + bytes > META_BLOCK)
			at = round_up (at, META_BLOCK);
		item->nid = (uint32_t) (at / META_SLOT);
		at += bytes;
		/* Counted from the first block behind the inodes, which is not known yet. */
		item->first = (uint32_t) blocks;
		blocks += item_blocks (item, size);
		if (blocks >= META_HOLE || at / META_SLOT > UINT32_MAX)
			break;
	}
	layout->data = round_up (at, META_BLOCK) / META_BLOCK;
	layout->blocks = layout->data + blocks;
	if (layout->blocks >= META_HOLE || at / META_SLOT > UINT32_MAX)
		return silo_fail (err, SILO_EXHAUSTED, "the metadata would need 128 GiB");
	return 0;
}

/* -- second pass: write front to back -------------------------------------------- */

struct out {
	int fd;
	struct silo_hash *hash;
	uint64_t at; /* bytes written and waiting */
	size_t used;
	unsigned char *wait;
};

#define OUT_SIZE ((size_t) 256 << 10)

static int
out_flush (struct out *out, struct silo_error *err)
{
	if (silo_hash_add (out->hash, out->wait, out->used) < 0)
		return silo_fail (err, SILO_INTERNAL, "SHA-256 of the metadata file");
	for (size_t done = 0; done < out->used;) {
		ssize_t n = write (out->fd, out->wait + done, out->used - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return silo_fail_sys (err, errno, "write the metadata file");
		done += (size_t) n;
	}
	out->used = 0;
	return 0;
}

/* `data` NULL: zeros. */
static int
out_put (struct out *out, const void *data, size_t len, struct silo_error *err)
{
	for (size_t done = 0; done < len;) {
		size_t n = len - done < OUT_SIZE - out->used ? len - done : OUT_SIZE - out->used;
		if (data)
			memcpy (out->wait + out->used, (const char *) data + done, n);
		else
			memset (out->wait + out->used, 0, n);
		out->used += n;
		out->at += n;
		done += n;
		if (out->used < OUT_SIZE)
			continue;
		int r = out_flush (out, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int
out_pad (struct out *out, uint64_t to, struct silo_error *err)
{
	assert (to >= out->at && to - out->at < META_BLOCK);
	return out_put (out, NULL, (size_t) (to - out->at), err);
}

static int
write_super (const struct layout *layout, struct out *out, struct silo_error *err)
{
	unsigned char super[META_SUPER_SIZE] = { 0 };
	put32 (super + SUPER_MAGIC, META_MAGIC);
	put32 (super + SUPER_COMPAT, META_COMPAT_MTIME);
	super[SUPER_BLOCK_BITS] = META_BLOCK_BITS;
	put16 (super + SUPER_ROOT, (uint16_t) layout->items[0].nid);
	put64 (super + SUPER_INODES, layout->n);
	put32 (super + SUPER_BLOCKS, (uint32_t) layout->blocks);
	put32 (super + SUPER_INCOMPAT, META_INCOMPAT_CHUNKS);
	int r = out_put (out, NULL, META_SUPER, err);
	return r < 0 ? r : out_put (out, super, sizeof (super), err);
}

/* The smallest chunk that holds the whole file, as a power of two of blocks. */
static uint32_t
chunk_bits (uint64_t size)
{
	uint32_t bits = 0;
	while (META_BLOCK << bits < size)
		bits++;
	assert (bits <= META_CHUNK_MAX_BITS);
	return bits;
}

static uint32_t
item_u (const struct layout *layout, const struct item *item, uint64_t size)
{
	const struct tree_inode *inode = item->node->inode;
	if (item->layout == META_CHUNKS)
		return chunk_bits (size);
	if (S_ISCHR (mode_written (inode)) || S_ISBLK (inode->mode))
		return (inode->rdev_minor & 0xff) | inode->rdev_major << 8 |
		       (inode->rdev_minor & ~0xffu) << 12;
	return item_blocks (item, size) > 0 ? (uint32_t) layout->data + item->first : 0;
}

static uint32_t
item_links (const struct item *item)
{
	const struct tree_node *node = item->node;
	if (!S_ISDIR (node->inode->mode))
		return node->inode->links;
	uint32_t links = 2;
	for (const struct tree_node *c = node->first; c; c = c->next)
		links += S_ISDIR (c->inode->mode);
	return links;
}

static int
write_inode (const struct layout *layout, const struct item *item, struct out *out,
	     struct silo_error *err)
{
	const struct tree_inode *inode = item->node->inode;
	uint64_t size = item_size (item);
	unsigned char raw[META_INODE_SIZE] = { 0 };
	put16 (raw + INODE_FORMAT, (uint16_t) (META_EXTENDED | (uint32_t) item->layout << 1));
	if (item->xattrs > 0)
		put16 (raw + INODE_XATTR_COUNT,
		       (uint16_t) ((item->xattrs - META_XATTR_HEADER) / 4 + 1));
	put16 (raw + INODE_MODE, (uint16_t) mode_written (inode));
	put64 (raw + INODE_SIZE, size);
	put32 (raw + INODE_U, item_u (layout, item, size));
	put32 (raw + INODE_INO, inode->number);
	put32 (raw + INODE_UID, inode->uid);
	put32 (raw + INODE_GID, inode->gid);
	put64 (raw + INODE_MTIME, (uint64_t) inode->mtime);
	put32 (raw + INODE_MTIME_NSEC, inode->mtime_nsec);
	put32 (raw + INODE_NLINK, item_links (item));
	return out_put (out, raw, sizeof (raw), err);
}

static unsigned char
dirent_type (uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return 1;
	case S_IFDIR:
		return 2;
	case S_IFCHR:
		return 3;
	case S_IFBLK:
		return 4;
	case S_IFIFO:
		return 5;
	case S_IFLNK:
		return 7;
	default:
		return 0;
	}
}

/* The next block of a folder into `to`; returns its bytes, 0: there is none. */
static size_t
folder_block (const struct layout *layout, struct names *names, unsigned char to[META_BLOCK])
{
	uint64_t bytes = 0;
	struct names from = *names;
	size_t n = names_in_block (names, &bytes), name_at = n * META_DIRENT;
	memset (to, 0, META_BLOCK);
	for (size_t i = 0; i < n; i++) {
		struct name name;
		names_next (&from, &name);
		unsigned char *dirent = to + i * META_DIRENT;
		put64 (dirent, layout->items[name.inode->number - 1].nid);
		put16 (dirent + DIRENT_NAME, (uint16_t) name_at);
		dirent[DIRENT_TYPE] = dirent_type (mode_written (name.inode));
		memcpy (to + name_at, name.text, name.len);
		name_at += name.len;
	}
	assert (name_at == bytes);
	return name_at;
}

/* The contents of a folder or symlink: what is inline with the inode, or what is not. */
static int
write_contents (const struct layout *layout, const struct item *item, bool inline_part,
		struct out *out, struct silo_error *err)
{
	const struct tree_inode *inode = item->node->inode;
	uint64_t size = item_size (item), full = item_blocks (item, size);
	if (S_ISLNK (inode->mode)) {
		if (inline_part != (item->layout == META_INLINE))
			return 0;
		return out_put (out, inode->target, size, err);
	}
	if (!S_ISDIR (inode->mode))
		return 0;
	struct names names = names_of (item->node);
	unsigned char block[META_BLOCK];
	size_t bytes;
	for (uint64_t i = 0; (bytes = folder_block (layout, &names, block)) > 0; i++) {
		if (inline_part != (i >= full))
			continue;
		int r = out_put (out, block, inline_part ? bytes : META_BLOCK, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* An inode, its attributes and what is inline with it. */
static int
write_item (struct layout *layout, const struct item *item, struct out *out, struct silo_error *err)
{
	unsigned char hole[4];
	put32 (hole, META_HOLE);
	int r = out_pad (out, item->nid * (uint64_t) META_SLOT, err);
	if (r == 0)
		r = write_inode (layout, item, out, err);
	if (r == 0)
		r = item_xattrs (item, &layout->scratch, err);
	if (r == 0)
		r = out_put (out, layout->scratch.data, item->xattrs, err);
	if (r == 0 && item->layout == META_CHUNKS)
		r = out_put (out, hole, sizeof (hole), err);
	if (r == 0 && item->layout == META_INLINE)
		r = write_contents (layout, item, true, out, err);
	return r;
}

static int
write_items (struct layout *layout, struct out *out, struct silo_error *err)
{
	int r = write_super (layout, out, err);
	for (size_t i = 0; r == 0 && i < layout->n; i++)
		r = write_item (layout, &layout->items[i], out, err);
	for (size_t i = 0; r == 0 && i < layout->n; i++) {
		const struct item *item = &layout->items[i];
		if (item_blocks (item, item_size (item)) == 0)
			continue;
		r = out_pad (out, (layout->data + item->first) * META_BLOCK, err);
		if (r == 0)
			r = write_contents (layout, item, false, out, err);
	}
	if (r == 0)
		r = out_pad (out, layout->blocks * META_BLOCK, err);
	return r == 0 ? out_flush (out, err) : r;
}

static int
digest_compare (const void *a, const void *b)
{
	const struct tree_inode *const *x = a, *const *y = b;
	return memcmp ((*x)->object.b, (*y)->object.b, sizeof ((*x)->object.b));
}

static int
count_bytes (const struct layout *layout, int64_t *ret, struct silo_error *err)
{
	_cleanup_free_ const struct tree_inode **files = calloc (layout->n, sizeof (*files));
	if (!files)
		return silo_fail_nomem (err);
	size_t n = 0;
	for (size_t i = 0; i < layout->n; i++)
		if (has_object (layout->items[i].node->inode))
			files[n++] = layout->items[i].node->inode;
	qsort (files, n, sizeof (*files), digest_compare);
	int64_t bytes = 0;
	for (size_t i = 0; i < n; i++)
		if (i == 0 || digest_compare (&files[i - 1], &files[i]) != 0)
			bytes += (int64_t) files[i]->size;
	*ret = bytes;
	return 0;
}

static void
layout_free (struct layout *layout)
{
	free (layout->items);
	free (layout->sorted);
	silo_buf_free (&layout->scratch);
}

int
meta_write (struct tree *tree, int fd, struct meta_info *ret, struct silo_error *err)
{
	SILO_CLEANUP (layout_free)
	struct layout layout = { .scratch = SILO_BUF ((UINT16_MAX + 2u) * 4u) };
	struct out out = { .fd = fd, .hash = silo_hash_new (), .wait = malloc (OUT_SIZE) };
	struct meta_info info = { 0 };
	int r = out.hash && out.wait ? 0 : silo_fail_nomem (err);
	if (r == 0)
		r = list_items (&layout, tree, err);
	if (r == 0)
		r = place_items (&layout, err);
	if (r == 0)
		r = count_bytes (&layout, &info.bytes, err);
	if (r == 0)
		r = write_items (&layout, &out, err);
	if (r == 0 && silo_hash_end (out.hash, &info.digest) < 0)
		r = silo_fail (err, SILO_INTERNAL, "SHA-256 of the metadata file");
	silo_hash_free (out.hash);
	free (out.wait);
	if (r < 0)
		return r;
	info.inodes = (int64_t) layout.n;
	*ret = info;
	return 0;
}
