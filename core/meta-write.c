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

struct name {
	const char *text;
	size_t len;
	const struct tree_inode *inode;
};

/* One inode to write, in the order of the file. */
struct item {
	struct tree_inode *inode;
	const struct tree_node *node; /* one of its names; for folders the one */
	struct name *names;           /* of a folder, sorted, "." and ".." included */
	size_t n_names;
	uint32_t n_folders; /* in the folder */
	bool whiteouts;     /* the folder holds some */
	enum meta_layout layout;
	uint64_t size;   /* i_size */
	uint64_t offset; /* in the file */
	size_t xattrs;   /* bytes of its xattrs */
	uint64_t blocks; /* of data outside the inode */
	uint64_t first;  /* of these blocks */
};

struct layout {
	struct item *items;
	size_t n, cap;
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

static int
name_compare (const void *a, const void *b)
{
	const struct name *x = a, *y = b;
	int c = memcmp (x->text, y->text, x->len < y->len ? x->len : y->len);
	return c ? c : (x->len > y->len) - (x->len < y->len);
}

static int
item_names (struct item *item, struct silo_error *err)
{
	const struct tree_node *dir = item->node;
	size_t n = dir->n_children + 2, i = 0;
	item->names = calloc (n, sizeof (*item->names));
	if (!item->names)
		return silo_fail_nomem (err);
	item->names[i++] = (struct name){ ".", 1, dir->inode };
	item->names[i++] = (struct name){ "..", 2, dir->parent ? dir->parent->inode : dir->inode };
	for (const struct tree_node *c = dir->first; c; c = c->next) {
		item->names[i++] = (struct name){ c->name, c->name_len, c->inode };
		item->n_folders += S_ISDIR (c->inode->mode);
		item->whiteouts |= is_whiteout (c->inode);
	}
	assert (i == n);
	item->n_names = n;
	qsort (item->names, n, sizeof (*item->names), name_compare);
	return 0;
}

/* How many names from `from` on fit into one block, and the bytes that they take. */
static size_t
names_in_block (const struct item *item, size_t from, uint64_t *ret_bytes)
{
	uint64_t bytes = 0;
	size_t n = 0;
	while (from + n < item->n_names &&
	       bytes + META_DIRENT + item->names[from + n].len <= META_BLOCK) {
		bytes += META_DIRENT + item->names[from + n].len;
		n++;
	}
	assert (n > 0);
	*ret_bytes = bytes;
	return n;
}

static uint64_t
folder_size (const struct item *item)
{
	uint64_t full = 0, bytes = 0;
	for (size_t i = 0; i < item->n_names;) {
		i += names_in_block (item, i, &bytes);
		if (i < item->n_names)
			full++;
	}
	return full * META_BLOCK + bytes;
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
	const struct tree_inode *inode = item->inode;
	to->len = 0;
	int r = silo_buf_add (to, header, sizeof (header), err);
	if (r == 0 && has_object (inode))
		r = xattr_put_object (to, &inode->object, err);
	if (r == 0 && is_whiteout (inode))
		r = xattr_put (to, XATTR_TRUSTED, "overlay.overlay.", "whiteout", NULL, 0, err);
	if (r == 0 && item->whiteouts)
		r = xattr_put (to, XATTR_TRUSTED, "overlay.overlay.", "opaque", "x", 1, err);
	for (size_t i = 0; r == 0 && i < inode->n_xattrs; i++)
		if (!item->whiteouts || strcmp (inode->xattrs[i].name, "trusted.overlay.opaque"))
			r = xattr_put_own (to, &inode->xattrs[i], err);
	if (r == 0 && to->len == sizeof (header))
		to->len = 0;
	return r;
}

/* -- first pass: a place for each inode ---------------------------------------- */

static int
layout_add (struct layout *layout, const struct tree_node *node, struct silo_error *err)
{
	if (layout->n == layout->cap) {
		size_t cap = layout->cap ? layout->cap * 2 : 1024;
		struct item *items = reallocarray (layout->items, cap, sizeof (*items));
		if (!items)
			return silo_fail_nomem (err);
		layout->items = items;
		layout->cap = cap;
	}
	layout->items[layout->n++] = (struct item){ .inode = node->inode, .node = node };
	/* Any number but 0 marks it as listed; place_items puts the real one. */
	node->inode->nid = UINT64_MAX;
	return 0;
}

static void
nids_clear (const struct tree_node *top)
{
	/* In the order of a walk that goes down first, without a stack. */
	for (const struct tree_node *n = top; n;) {
		n->inode->nid = 0;
		if (n->first) {
			n = n->first;
			continue;
		}
		while (n != top && !n->next)
			n = n->parent;
		n = n == top ? NULL : n->next;
	}
}

/* List every inode once: the root, then the inodes of each folder together. */
static int
list_items (struct layout *layout, struct tree *tree, struct silo_error *err)
{
	nids_clear (tree_root (tree));
	int r = layout_add (layout, tree_root (tree), err);
	for (size_t i = 0; r == 0 && i < layout->n; i++) {
		if (!S_ISDIR (layout->items[i].inode->mode))
			continue;
		r = item_names (&layout->items[i], err);
		const struct tree_node *dir = layout->items[i].node;
		for (size_t k = 0; r == 0 && k < layout->items[i].n_names; k++) {
			const struct name *name = &layout->items[i].names[k];
			if (name->inode->nid != 0)
				continue; /* ".", "..", or another name of a listed file */
			const struct tree_node *child =
			    container_of (name->text, struct tree_node, name);
			assert (child->parent == dir);
			r = layout_add (layout, child, err);
		}
	}
	return r;
}

/* Fill in layout, size and the bytes at the inode; the caller adds the place. */
static void
item_shape (struct item *item, uint64_t *ret_bytes, uint64_t *ret_together)
{
	const struct tree_inode *inode = item->inode;
	uint64_t head = META_INODE_SIZE + item->xattrs;
	item->layout = META_PLAIN;
	*ret_bytes = head;
	*ret_together = 0;
	if (has_object (inode)) {
		item->layout = META_CHUNKS;
		item->size = inode->size;
		*ret_bytes = head + 4;
		return;
	}
	if (S_ISDIR (inode->mode))
		item->size = folder_size (item);
	else if (S_ISLNK (inode->mode))
		item->size = strlen (inode->target);
	uint64_t tail = item->size % META_BLOCK;
	item->blocks = item->size / META_BLOCK;
	if (tail == 0)
		return;
	if (head + tail <= META_BLOCK) {
		item->layout = META_INLINE;
		*ret_bytes = head + tail;
		*ret_together = head + tail; /* may not cross into the next block */
	} else {
		item->blocks++;
	}
}

static int
place_items (struct layout *layout, struct silo_error *err)
{
	uint64_t at = META_SUPER + META_SUPER_SIZE;
	for (size_t i = 0; i < layout->n; i++) {
		struct item *item = &layout->items[i];
		int r = item_xattrs (item, &layout->scratch, err);
		if (r < 0)
			return r;
		item->xattrs = layout->scratch.len;
		uint64_t bytes = 0, together = 0;
		item_shape (item, &bytes, &together);
		at = round_up (at, META_SLOT);
		if (at % META_BLOCK + together > META_BLOCK)
			at = round_up (at, META_BLOCK);
		item->offset = at;
		item->inode->nid = at / META_SLOT;
		at += bytes;
	}
	uint64_t block = round_up (at, META_BLOCK) / META_BLOCK;
	for (size_t i = 0; i < layout->n; i++) {
		layout->items[i].first = block;
		block += layout->items[i].blocks;
	}
	if (block >= META_HOLE)
		return silo_fail (err, SILO_EXHAUSTED, "the metadata would need 16 TiB");
	layout->blocks = block;
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
	put16 (super + SUPER_ROOT, (uint16_t) layout->items[0].inode->nid);
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
item_u (const struct item *item)
{
	const struct tree_inode *inode = item->inode;
	if (item->layout == META_CHUNKS)
		return chunk_bits (item->size);
	if (S_ISCHR (mode_written (inode)) || S_ISBLK (inode->mode))
		return (inode->rdev_minor & 0xff) | inode->rdev_major << 8 |
		       (inode->rdev_minor & ~0xffu) << 12;
	return item->blocks > 0 ? (uint32_t) item->first : 0;
}

static uint32_t
item_links (const struct item *item)
{
	return S_ISDIR (item->inode->mode) ? 2 + item->n_folders : item->inode->links;
}

static int
write_inode (const struct item *item, uint32_t number, struct out *out, struct silo_error *err)
{
	const struct tree_inode *inode = item->inode;
	unsigned char raw[META_INODE_SIZE] = { 0 };
	put16 (raw + INODE_FORMAT, (uint16_t) (META_EXTENDED | (uint32_t) item->layout << 1));
	if (item->xattrs > 0)
		put16 (raw + INODE_XATTR_COUNT,
		       (uint16_t) ((item->xattrs - META_XATTR_HEADER) / 4 + 1));
	put16 (raw + INODE_MODE, (uint16_t) mode_written (inode));
	put64 (raw + INODE_SIZE, item->size);
	put32 (raw + INODE_U, item_u (item));
	put32 (raw + INODE_INO, number);
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

/* Block number `block` of a folder into `to`; returns its bytes. */
static size_t
folder_block (const struct item *item, size_t *from, unsigned char to[META_BLOCK])
{
	uint64_t bytes = 0;
	size_t n = names_in_block (item, *from, &bytes);
	size_t name_at = n * META_DIRENT;
	memset (to, 0, META_BLOCK);
	for (size_t i = 0; i < n; i++) {
		const struct name *name = &item->names[*from + i];
		unsigned char *dirent = to + i * META_DIRENT;
		put64 (dirent, name->inode->nid);
		put16 (dirent + DIRENT_NAME, (uint16_t) name_at);
		dirent[DIRENT_TYPE] = dirent_type (mode_written (name->inode));
		memcpy (to + name_at, name->text, name->len);
		name_at += name->len;
	}
	assert (name_at == bytes);
	*from += n;
	return name_at;
}

/* The contents of a folder or symlink: what is inline with the inode, or what is not. */
static int
write_contents (const struct item *item, bool inline_part, struct out *out, struct silo_error *err)
{
	uint64_t full = item->layout == META_INLINE ? item->size / META_BLOCK : item->blocks;
	if (S_ISLNK (item->inode->mode)) {
		if (inline_part != (item->layout == META_INLINE))
			return 0;
		return out_put (out, item->inode->target, item->size, err);
	}
	if (!S_ISDIR (item->inode->mode))
		return 0;
	size_t from = 0;
	for (uint64_t i = 0; from < item->n_names; i++) {
		unsigned char block[META_BLOCK];
		size_t bytes = folder_block (item, &from, block);
		if (inline_part != (i >= full))
			continue;
		int r = out_put (out, block, inline_part ? bytes : META_BLOCK, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int
write_items (struct layout *layout, struct out *out, struct silo_error *err)
{
	unsigned char hole[4];
	put32 (hole, META_HOLE);
	int r = write_super (layout, out, err);
	for (size_t i = 0; r == 0 && i < layout->n; i++) {
		const struct item *item = &layout->items[i];
		r = out_pad (out, item->offset, err);
		if (r == 0)
			r = write_inode (item, (uint32_t) (i + 1), out, err);
		if (r == 0)
			r = item_xattrs (item, &layout->scratch, err);
		if (r == 0)
			r = out_put (out, layout->scratch.data, item->xattrs, err);
		if (r == 0 && item->layout == META_CHUNKS)
			r = out_put (out, hole, sizeof (hole), err);
		if (r == 0 && item->layout == META_INLINE)
			r = write_contents (item, true, out, err);
	}
	for (size_t i = 0; r == 0 && i < layout->n; i++) {
		const struct item *item = &layout->items[i];
		if (item->blocks == 0)
			continue;
		r = out_pad (out, item->first * META_BLOCK, err);
		if (r == 0)
			r = write_contents (item, false, out, err);
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
		if (has_object (layout->items[i].inode))
			files[n++] = layout->items[i].inode;
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
	for (size_t i = 0; i < layout->n; i++)
		free (layout->items[i].names);
	free (layout->items);
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
