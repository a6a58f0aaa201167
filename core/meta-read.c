/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meta-read.c - <silo/meta.h>: reads a metadata file through a mapping.  Every
 * number of the file is checked against the file's length before it is used,
 * and every loop ends after as many turns as the file has bytes at the latest.
 * Nothing changes after silo_meta_open, so any thread may read.
 */
#include "core.h"
#include "meta-format.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define META_MAX_LINKS 40   /* symlinks in one path, as the kernel has it */
#define META_MAX_PATH  4096 /* bytes of a path to resolve, its NUL included */

struct silo_meta {
	char *path; /* for messages */
	const unsigned char *base;
	uint64_t size;
	uint64_t root;
	uint64_t inodes;
};

/* An inode whose fixed part lies within the file. */
struct view {
	uint64_t ino;
	uint64_t offset;
	const unsigned char *raw;
	enum meta_layout layout;
	uint32_t mode;
	uint64_t size;
	uint64_t xattrs; /* bytes, within the file */
	uint64_t after;  /* offset of what follows them */
};

static int
damaged (const struct silo_meta *meta, uint64_t ino, const char *what, struct silo_error *err)
{
	return silo_fail (err, SILO_DATALOSS, "metadata %s: inode %llu: %s", meta->path,
			  (unsigned long long) ino, what);
}

static const unsigned char *
bytes_at (const struct silo_meta *meta, uint64_t offset, uint64_t len)
{
	if (offset > meta->size || len > meta->size - offset)
		return NULL;
	return meta->base + offset;
}

/* -- inodes ------------------------------------------------------------------- */

static bool
layout_fits (uint32_t mode, uint32_t layout)
{
	if (layout == META_CHUNKS)
		return S_ISREG (mode);
	if (layout == META_INLINE)
		return S_ISDIR (mode) || S_ISLNK (mode);
	return layout == META_PLAIN;
}

static int
view_open (const struct silo_meta *meta, uint64_t ino, struct view *ret, struct silo_error *err)
{
	if (ino > meta->size / META_SLOT)
		return damaged (meta, ino, "past the end of the file", err);
	struct view view = { .ino = ino, .offset = ino * META_SLOT };
	view.raw = bytes_at (meta, view.offset, META_INODE_SIZE);
	if (!view.raw || view.offset < META_SUPER + META_SUPER_SIZE)
		return damaged (meta, ino, "not within the file", err);
	uint32_t format = get16 (view.raw + INODE_FORMAT);
	uint32_t count = get16 (view.raw + INODE_XATTR_COUNT);
	view.mode = get16 (view.raw + INODE_MODE);
	view.size = get64 (view.raw + INODE_SIZE);
	if (!(format & META_EXTENDED) || !layout_fits (view.mode, format >> 1))
		return damaged (meta, ino, "unknown layout", err);
	view.layout = (enum meta_layout) (format >> 1);
	if (view.size > INT64_MAX)
		return damaged (meta, ino, "impossible size", err);
	if (count > 0)
		view.xattrs = META_XATTR_HEADER + (count - 1) * UINT64_C (4);
	view.after = view.offset + META_INODE_SIZE + view.xattrs;
	if (!bytes_at (meta, view.offset + META_INODE_SIZE, view.xattrs))
		return damaged (meta, ino, "extended attributes past the end of the file", err);
	*ret = view;
	return 0;
}

/* Block `block` of a folder's or symlink's contents; at most META_BLOCK bytes. */
static int
view_block (const struct silo_meta *meta, const struct view *view, uint64_t block,
	    struct silo_bytes *ret, struct silo_error *err)
{
	uint64_t done = block * META_BLOCK;
	assert (done < view->size);
	uint64_t len = view->size - done < META_BLOCK ? view->size - done : META_BLOCK;
	uint64_t at = (get32 (view->raw + INODE_U) + block) * META_BLOCK;
	if (view->layout == META_INLINE && len < META_BLOCK)
		at = view->after;
	const unsigned char *data = bytes_at (meta, at, len);
	if (!data)
		return damaged (meta, view->ino, "contents past the end of the file", err);
	*ret = (struct silo_bytes){ data, (size_t) len };
	return 0;
}

static int
folder_open (const struct silo_meta *meta, uint64_t ino, struct view *ret, struct silo_error *err)
{
	struct view view;
	int r = view_open (meta, ino, &view, err);
	if (r < 0)
		return r;
	if (!S_ISDIR (view.mode))
		return silo_fail (err, SILO_INVALID, "metadata %s: inode %llu is no folder",
				  meta->path, (unsigned long long) ino);
	if (view.size > meta->size)
		return damaged (meta, ino, "folder larger than the file", err);
	*ret = view;
	return 0;
}

/* -- folders -------------------------------------------------------------------- */

/* One block of names. */
struct names {
	const unsigned char *data;
	size_t len;
	size_t n;
};

struct found {
	const char *name;
	size_t len;
	uint64_t ino;
	uint32_t type;
};

static int
names_open (const struct silo_meta *meta, const struct view *folder, uint64_t block,
	    struct names *ret, struct silo_error *err)
{
	struct silo_bytes bytes;
	int r = view_block (meta, folder, block, &bytes, err);
	if (r < 0)
		return r;
	size_t first =
	    bytes.len >= META_DIRENT ? get16 ((const unsigned char *) bytes.data + DIRENT_NAME) : 0;
	if (first < META_DIRENT || first >= bytes.len || first % META_DIRENT != 0)
		return damaged (meta, folder->ino, "damaged folder", err);
	*ret = (struct names){ bytes.data, bytes.len, first / META_DIRENT };
	return 0;
}

static uint32_t
dirent_mode (unsigned char type)
{
	static const uint32_t modes[] = { 0,       S_IFREG, S_IFDIR,  S_IFCHR,
					  S_IFBLK, S_IFIFO, S_IFSOCK, S_IFLNK };
	return type < ARRAY_SIZE (modes) ? modes[type] : 0;
}

static int
names_get (const struct silo_meta *meta, const struct view *folder, const struct names *names,
	   size_t i, struct found *ret, struct silo_error *err)
{
	const unsigned char *dirent = names->data + i * META_DIRENT;
	size_t at = get16 (dirent + DIRENT_NAME), end = names->len;
	if (i + 1 < names->n)
		end = get16 (dirent + META_DIRENT + DIRENT_NAME);
	if (at < names->n * META_DIRENT || at >= end || end > names->len)
		return damaged (meta, folder->ino, "damaged folder", err);
	/* The last name of a block ends with the block or at a NUL. */
	size_t len = strnlen ((const char *) names->data + at, end - at);
	uint32_t type = dirent_mode (dirent[DIRENT_TYPE]);
	if (len == 0 || len > 255 || type == 0 || memchr (names->data + at, '/', len))
		return damaged (meta, folder->ino, "damaged folder", err);
	*ret = (struct found){ (const char *) names->data + at, len, get64 (dirent), type };
	return 0;
}

static int
bytes_compare (const char *a, size_t a_len, const char *b, size_t b_len)
{
	int c = memcmp (a, b, a_len < b_len ? a_len : b_len);
	return c ? c : (a_len > b_len) - (a_len < b_len);
}

/* The last block whose first name is not after `name`. */
static int
block_find (const struct silo_meta *meta, const struct view *folder, const char *name, size_t len,
	    struct names *ret, struct silo_error *err)
{
	uint64_t low = 0, high = (folder->size + META_BLOCK - 1) / META_BLOCK;
	while (high - low > 1) {
		uint64_t middle = low + (high - low) / 2;
		struct names names;
		struct found found;
		int r = names_open (meta, folder, middle, &names, err);
		if (r == 0)
			r = names_get (meta, folder, &names, 0, &found, err);
		if (r < 0)
			return r;
		if (bytes_compare (found.name, found.len, name, len) <= 0)
			low = middle;
		else
			high = middle;
	}
	return names_open (meta, folder, low, ret, err);
}

int
silo_meta_lookup (const struct silo_meta *meta, uint64_t dir, const char *name, size_t name_len,
		  uint64_t *ret_ino, struct silo_error *err)
{
	struct view folder;
	struct names names = { 0 };
	int r = folder_open (meta, dir, &folder, err);
	if (r == 0 && folder.size > 0)
		r = block_find (meta, &folder, name, name_len, &names, err);
	if (r < 0)
		return r;
	size_t low = 0, high = names.n;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		struct found found;
		r = names_get (meta, &folder, &names, middle, &found, err);
		if (r < 0)
			return r;
		int c = bytes_compare (found.name, found.len, name, name_len);
		if (c == 0) {
			*ret_ino = found.ino;
			return 0;
		}
		if (c < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return silo_fail (err, SILO_NOTFOUND, "no %.*s in this folder",
			  (int) (name_len < 100 ? name_len : 100), name);
}

/* Positions: block << 9 | entry; a block has at most 4096 / 13 entries. */
int
silo_meta_readdir (const struct silo_meta *meta, uint64_t dir, uint64_t from,
		   silo_meta_dirent_fn *fn, void *arg, struct silo_error *err)
{
	struct view folder;
	int r = folder_open (meta, dir, &folder, err);
	if (r < 0)
		return r;
	uint64_t blocks = (folder.size + META_BLOCK - 1) / META_BLOCK;
	size_t first = from & 511;
	for (uint64_t block = from >> 9; block < blocks; block++, first = 0) {
		struct names names;
		r = names_open (meta, &folder, block, &names, err);
		for (size_t i = first; r == 0 && i < names.n; i++) {
			struct found found;
			r = names_get (meta, &folder, &names, i, &found, err);
			if (r == 0 && fn (arg, found.name, found.len, found.ino, found.type,
					  (block << 9) + i + 1) != 0)
				return 0;
		}
		if (r < 0)
			return r;
	}
	return 0;
}

/* -- extended attributes -------------------------------------------------------- */

struct attribute {
	int index;
	const char *name; /* without the prefix of the index */
	size_t name_len;
	struct silo_bytes value;
};

/* Is the first one at *at; moves *at behind it.  1: there is one, 0: the end. */
static int
attribute_next (const struct silo_meta *meta, const struct view *view, uint64_t *at,
		struct attribute *ret, struct silo_error *err)
{
	if (view->xattrs == 0 || *at == view->xattrs)
		return 0;
	const unsigned char *all = view->raw + META_INODE_SIZE;
	if (*at == 0) {
		if (all[4] != 0) /* attributes shared between inodes; never written */
			return damaged (meta, view->ino, "shared extended attributes", err);
		*at = META_XATTR_HEADER;
		if (*at == view->xattrs)
			return 0;
	}
	if (view->xattrs - *at < META_XATTR_ENTRY)
		return damaged (meta, view->ino, "damaged extended attributes", err);
	const unsigned char *entry = all + *at;
	uint64_t name_len = entry[0], value_len = get16 (entry + 2);
	uint64_t len = round_up (META_XATTR_ENTRY + name_len + value_len, 4);
	if (len > view->xattrs - *at)
		return damaged (meta, view->ino, "damaged extended attributes", err);
	*at += len;
	*ret = (struct attribute){ entry[1],
				   (const char *) entry + META_XATTR_ENTRY,
				   name_len,
				   { entry + META_XATTR_ENTRY + name_len, value_len } };
	return 1;
}

static bool
attribute_starts (const struct attribute *attribute, const char *with)
{
	size_t len = strlen (with);
	return attribute->index == XATTR_TRUSTED && attribute->name_len >= len &&
	       memcmp (attribute->name, with, len) == 0;
}

static int
object_find (const struct silo_meta *meta, const struct view *view, struct silo_digest *ret,
	     struct silo_error *err)
{
	static const char redirect[] = "overlay.redirect";
	uint64_t at = 0;
	struct attribute attribute;
	int r;
	while ((r = attribute_next (meta, view, &at, &attribute, err)) > 0) {
		const char *path = attribute.value.data;
		if (!attribute_starts (&attribute, redirect) ||
		    attribute.name_len != strlen (redirect))
			continue;
		if (attribute.value.len != SILO_DIGEST_HEX + 2 || path[0] != '/' || path[3] != '/')
			break;
		char hex[SILO_DIGEST_HEX + 1] = { path[1], path[2] };
		memcpy (hex + 2, path + 4, SILO_DIGEST_HEX - 2);
		if (silo_digest_parse (hex, ret, NULL) < 0)
			break;
		return 0;
	}
	return r < 0 ? r : damaged (meta, view->ino, "a file without an object", err);
}

int
silo_meta_xattrs (const struct silo_meta *meta, uint64_t ino, silo_meta_xattr_fn *fn, void *arg,
		  struct silo_error *err)
{
	static const char *const prefixes[] = {
		[XATTR_USER] = "user.",
		[XATTR_ACL_ACCESS] = "system.posix_acl_access",
		[XATTR_ACL_DEFAULT] = "system.posix_acl_default",
		[XATTR_TRUSTED] = "trusted.",
		[XATTR_SECURITY] = "security.",
	};
	static const char own[] = "overlay.";
	struct view view;
	int r = view_open (meta, ino, &view, err);
	if (r < 0)
		return r;
	uint64_t at = 0;
	struct attribute attribute;
	while ((r = attribute_next (meta, &view, &at, &attribute, err)) > 0) {
		if (attribute_starts (&attribute, own)) {
			/* "overlay.x" is the format's own, "overlay.overlay.x" the image's. */
			attribute.name += strlen (own);
			attribute.name_len -= strlen (own);
			if (!attribute_starts (&attribute, own))
				continue;
		}
		size_t index = (size_t) attribute.index;
		if (index >= ARRAY_SIZE (prefixes) || !prefixes[index] ||
		    memchr (attribute.name, '\0', attribute.name_len))
			return damaged (meta, ino, "damaged extended attributes", err);
		char name[32 + UINT8_MAX + 1];
		snprintf (name, sizeof (name), "%s%.*s", prefixes[index], (int) attribute.name_len,
			  attribute.name);
		if (fn (arg, name, attribute.value) != 0)
			return 0;
	}
	return r;
}

/* -- stat, readlink, each ---------------------------------------------------------- */

static bool
type_known (uint32_t mode)
{
	return S_ISREG (mode) || S_ISDIR (mode) || S_ISLNK (mode) || S_ISCHR (mode) ||
	       S_ISBLK (mode) || S_ISFIFO (mode);
}

int
silo_meta_stat (const struct silo_meta *meta, uint64_t ino, struct silo_meta_inode *ret,
		struct silo_error *err)
{
	struct view view;
	int r = view_open (meta, ino, &view, err);
	if (r < 0)
		return r;
	if (!type_known (view.mode))
		return damaged (meta, ino, "unknown type", err);
	struct silo_meta_inode inode = {
		.ino = ino,
		.mode = view.mode,
		.uid = get32 (view.raw + INODE_UID),
		.gid = get32 (view.raw + INODE_GID),
		.nlink = get32 (view.raw + INODE_NLINK),
		.size = view.size,
		.mtime = (int64_t) get64 (view.raw + INODE_MTIME),
		.mtime_nsec = get32 (view.raw + INODE_MTIME_NSEC),
	};
	if (inode.mtime_nsec >= 1000000000u)
		return damaged (meta, ino, "impossible time", err);
	if (S_ISCHR (view.mode) || S_ISBLK (view.mode)) {
		uint32_t u = get32 (view.raw + INODE_U);
		inode.rdev = makedev (u >> 8 & 0xfff, (u & 0xff) | (u >> 12 & 0xfff00));
	}
	if (S_ISREG (view.mode) && view.size > 0) {
		inode.has_object = true;
		r = object_find (meta, &view, &inode.object, err);
		if (r < 0)
			return r;
	}
	*ret = inode;
	return 0;
}

int
silo_meta_readlink (const struct silo_meta *meta, uint64_t ino, struct silo_bytes *ret,
		    struct silo_error *err)
{
	struct view view;
	int r = view_open (meta, ino, &view, err);
	if (r < 0)
		return r;
	if (!S_ISLNK (view.mode))
		return silo_fail (err, SILO_INVALID, "metadata %s: inode %llu is no symlink",
				  meta->path, (unsigned long long) ino);
	if (view.size == 0 || view.size >= META_MAX_PATH)
		return damaged (meta, ino, "impossible symlink", err);
	struct silo_bytes target;
	r = view_block (meta, &view, 0, &target, err);
	if (r == 0 && memchr (target.data, '\0', target.len))
		r = damaged (meta, ino, "impossible symlink", err);
	if (r == 0)
		*ret = target;
	return r;
}

/* A bit for each place that an inode may have. */
struct seen {
	unsigned char *bits;
	uint64_t places;
	uint64_t *folders; /* to be read */
	size_t n, cap;
	bool nomem;
};

static int
seen_add (void *arg, const char *name SILO_UNUSED, size_t name_len SILO_UNUSED, uint64_t ino,
	  uint32_t type, uint64_t next SILO_UNUSED)
{
	struct seen *seen = arg;
	/* One that is past the end is left for silo_meta_stat to report. */
	uint64_t place = ino < seen->places ? ino : seen->places;
	if (seen->bits[place / 8] & 1u << place % 8)
		return 0;
	seen->bits[place / 8] |= (unsigned char) (1u << place % 8);
	if (type != S_IFDIR || place == seen->places)
		return 0;
	if (seen->n == seen->cap) {
		size_t cap = seen->cap ? seen->cap * 2 : 256;
		uint64_t *folders = reallocarray (seen->folders, cap, sizeof (*folders));
		if (!folders) {
			seen->nomem = true;
			return 1;
		}
		seen->folders = folders;
		seen->cap = cap;
	}
	seen->folders[seen->n++] = ino;
	return 0;
}

static int
each_seen (const struct silo_meta *meta, const struct seen *seen, silo_meta_inode_fn *fn, void *arg,
	   struct silo_error *err)
{
	for (uint64_t ino = 0; ino <= seen->places; ino++) {
		if (!(seen->bits[ino / 8] & 1u << ino % 8))
			continue;
		struct silo_meta_inode inode;
		int r = silo_meta_stat (meta, ino, &inode, err);
		if (r < 0)
			return r;
		if (fn (arg, &inode) != 0)
			return 0;
	}
	return 0;
}

int
silo_meta_each (const struct silo_meta *meta, silo_meta_inode_fn *fn, void *arg,
		struct silo_error *err)
{
	struct seen seen = { .places = meta->size / META_SLOT };
	seen.bits = calloc (1, seen.places / 8 + 1);
	if (!seen.bits)
		return silo_fail_nomem (err);
	seen_add (&seen, NULL, 0, meta->root, S_IFDIR, 0);
	int r = 0;
	while (r == 0 && seen.n > 0 && !seen.nomem)
		r = silo_meta_readdir (meta, seen.folders[--seen.n], 0, seen_add, &seen, err);
	if (r == 0 && seen.nomem)
		r = silo_fail_nomem (err);
	if (r == 0)
		r = each_seen (meta, &seen, fn, arg, err);
	free (seen.folders);
	free (seen.bits);
	return r;
}

/* -- paths --------------------------------------------------------------------------- */

/* Put a symlink's target in front of what is left of the path. */
static int
path_insert (const struct silo_meta *meta, uint64_t link, char path[META_MAX_PATH], size_t *at,
	     struct silo_error *err)
{
	struct silo_bytes target;
	int r = silo_meta_readlink (meta, link, &target, err);
	if (r < 0)
		return r;
	size_t rest = strlen (path + *at);
	if (target.len + 1 + rest + 1 > META_MAX_PATH)
		return silo_fail (err, SILO_INVALID, "a path of more than %d bytes", META_MAX_PATH);
	memmove (path + META_MAX_PATH - rest - 1, path + *at, rest + 1);
	*at = META_MAX_PATH - rest - 1 - target.len - 1;
	memcpy (path + *at, target.data, target.len);
	path[*at + target.len] = '/';
	return 0;
}

int
silo_meta_resolve (const struct silo_meta *meta, const char *path, uint64_t *ret_ino,
		   struct silo_error *err)
{
	char left[META_MAX_PATH];
	size_t at = 0, len = strlen (path);
	if (len >= sizeof (left))
		return silo_fail (err, SILO_INVALID, "a path of more than %d bytes", META_MAX_PATH);
	memcpy (left, path, len + 1);
	uint64_t ino = meta->root;
	int links = 0;
	while (left[at]) {
		size_t part = strcspn (left + at, "/");
		uint64_t child = 0;
		struct view view;
		int r = 0;
		if (part > 0)
			r = silo_meta_lookup (meta, ino, left + at, part, &child, err);
		if (part > 0 && r == 0)
			r = view_open (meta, child, &view, err);
		if (r < 0)
			return r;
		at += part;
		at += left[at] == '/';
		if (part == 0)
			continue;
		if (!S_ISLNK (view.mode)) {
			ino = child;
			continue;
		}
		if (++links > META_MAX_LINKS)
			return silo_fail (err, SILO_INVALID, "%.100s: too many symlinks", path);
		r = path_insert (meta, child, left, &at, err);
		if (r < 0)
			return r;
		if (left[at] == '/')
			ino = meta->root;
	}
	*ret_ino = ino;
	return 0;
}

/* -- open and close -------------------------------------------------------------------- */

static int
super_check (struct silo_meta *meta, struct silo_error *err)
{
	const unsigned char *super = bytes_at (meta, META_SUPER, META_SUPER_SIZE);
	if (!super || get32 (super + SUPER_MAGIC) != META_MAGIC)
		return silo_fail (err, SILO_DATALOSS, "%s is no metadata file", meta->path);
	if (super[SUPER_BLOCK_BITS] != META_BLOCK_BITS || super[SUPER_DIR_BITS] != 0 ||
	    get32 (super + SUPER_META_BLOCK) != 0 ||
	    (get32 (super + SUPER_INCOMPAT) & ~META_INCOMPAT_CHUNKS) != 0)
		return silo_fail (err, SILO_DATALOSS, "metadata %s: a kind of EROFS not made by us",
				  meta->path);
	if (get32 (super + SUPER_BLOCKS) * META_BLOCK != meta->size)
		return silo_fail (err, SILO_DATALOSS,
				  "metadata %s: has %llu bytes, should have %llu", meta->path,
				  (unsigned long long) meta->size,
				  (unsigned long long) (get32 (super + SUPER_BLOCKS) * META_BLOCK));
	meta->root = get16 (super + SUPER_ROOT);
	meta->inodes = get64 (super + SUPER_INODES);
	if (meta->inodes > meta->size / META_SLOT)
		return silo_fail (err, SILO_DATALOSS, "metadata %s: impossible number of inodes",
				  meta->path);
	struct view root;
	return folder_open (meta, meta->root, &root, err);
}

int
silo_meta_open (const char *path, struct silo_meta **ret, struct silo_error *err)
{
	_cleanup_close_ int fd = open (path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat (fd, &st) < 0)
		return silo_fail_sys (err, errno, "metadata %s", path);
	if (!S_ISREG (st.st_mode) || st.st_size < META_SUPER + META_SUPER_SIZE)
		return silo_fail (err, SILO_DATALOSS, "%s is no metadata file", path);
	struct silo_meta *meta = calloc (1, sizeof (*meta));
	if (!meta)
		return silo_fail_nomem (err);
	meta->size = (uint64_t) st.st_size;
	int r = util_strdup (path, &meta->path, err);
	if (r == 0) {
		void *base = mmap (NULL, meta->size, PROT_READ, MAP_SHARED, fd, 0);
		if (base == MAP_FAILED)
			r = silo_fail_sys (err, errno, "metadata %s", path);
		else
			meta->base = base;
	}
	if (r == 0)
		r = super_check (meta, err);
	if (r < 0) {
		silo_meta_close (meta);
		return r;
	}
	*ret = meta;
	return 0;
}

void
silo_meta_close (struct silo_meta *meta)
{
	if (!meta)
		return;
	if (meta->base)
		munmap ((void *) meta->base, meta->size);
	free (meta->path);
	free (meta);
}

uint64_t
silo_meta_root (const struct silo_meta *meta)
{
	return meta->root;
}

uint64_t
silo_meta_inodes (const struct silo_meta *meta)
{
	return meta->inodes;
}
