/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tree-layer.c - one layer of an image being imported: checks each entry that
 * a plugin hands over and keeps a copy until the layers are merged.  This is
 * where outside data enters, so every limit of tree.h is enforced here, with
 * an error that names the layer and the entry.  One thread per layer.
 */
#include "core.h"
#include "tree.h"
#include <sys/stat.h>

int
tree_layer_new (const char *name, struct tree_layer **ret, struct silo_error *err)
{
	struct tree_layer *layer = calloc (1, sizeof (*layer));
	if (!layer)
		return silo_fail_nomem (err);
	int r = util_strdup (name, &layer->name, err);
	if (r < 0) {
		free (layer);
		return r;
	}
	*ret = layer;
	return 0;
}

void
tree_layer_free (struct tree_layer *layer)
{
	if (!layer)
		return;
	arena_free (&layer->paths);
	arena_free (&layer->inodes);
	free (layer->entries);
	free (layer->name);
	free (layer);
}

/* "./a//b/" -> "a/b"; "..", and parts or paths that are too long, are refused. */
static int
path_clean (struct tree_layer *layer, const char *path, char **ret, struct silo_error *err)
{
	char clean[TREE_MAX_PATH + 1];
	size_t len = strnlen (path, TREE_MAX_PATH + 1);
	if (len > TREE_MAX_PATH)
		return silo_fail (err, SILO_INVALID,
				  "layer %s: path %.60s... is longer than %d bytes", layer->name,
				  path, TREE_MAX_PATH);
	size_t used = 0;
	for (const char *part = path; *part;) {
		size_t part_len = strcspn (part, "/");
		if (part_len == 2 && memcmp (part, "..", 2) == 0)
			return silo_fail (err, SILO_INVALID, "layer %s: path %s holds \"..\"",
					  layer->name, path);
		if (part_len > TREE_MAX_NAME)
			return silo_fail (
			    err, SILO_INVALID,
			    "layer %s: a name in path %.60s... is longer than %d bytes",
			    layer->name, path, TREE_MAX_NAME);
		if (part_len > 0 && !(part_len == 1 && *part == '.')) {
			if (used > 0)
				clean[used++] = '/';
			memcpy (clean + used, part, part_len);
			used += part_len;
		}
		part += part_len;
		part += *part == '/';
	}
	char *copy = arena_string (&layer->paths, clean, used);
	if (!copy)
		return silo_fail_nomem (err);
	*ret = copy;
	return 0;
}

static bool
xattr_storable (const char *name)
{
	static const char *const spaces[] = { "user.", "trusted.", "security." };
	for (size_t i = 0; i < ARRAY_SIZE (spaces); i++)
		if (strncmp (name, spaces[i], strlen (spaces[i])) == 0)
			return name[strlen (spaces[i])] != '\0';
	return strcmp (name, "system.posix_acl_access") == 0 ||
	       strcmp (name, "system.posix_acl_default") == 0;
}

static int
xattr_compare (const void *a, const void *b)
{
	const struct tree_xattr *x = a, *y = b;
	return strcmp (x->name, y->name);
}

/* Those that a file system would take, checked, the names still borrowed. */
static int
xattrs_check (const struct tree_layer *layer, const struct silo_entry *entry,
	      struct tree_xattr *list, uint32_t *ret_n, struct silo_error *err)
{
	size_t total = 0;
	uint32_t n = 0;
	for (size_t i = 0; i < entry->n_xattrs; i++) {
		const struct silo_xattr *from = &entry->xattrs[i];
		if (!xattr_storable (from->name))
			continue;
		size_t name_len = strlen (from->name);
		if (name_len > TREE_MAX_XATTR_NAME || from->value.len > TREE_MAX_XATTR_VALUE)
			return silo_fail (err, SILO_INVALID,
					  "layer %s: %s: extended attribute %.60s is too large",
					  layer->name, entry->path, from->name);
		total += name_len + from->value.len + 32;
		if (total > TREE_MAX_XATTRS)
			return silo_fail (
			    err, SILO_INVALID,
			    "layer %s: %s: more than %zu bytes of extended attributes", layer->name,
			    entry->path, TREE_MAX_XATTRS);
		list[n++] = (struct tree_xattr){ (char *) from->name, (void *) from->value.data,
						 from->value.len };
	}
	if (n > 1)
		qsort (list, n, sizeof (*list), xattr_compare);
	for (uint32_t i = 1; i < n; i++)
		if (strcmp (list[i - 1].name, list[i].name) == 0)
			return silo_fail (err, SILO_INVALID,
					  "layer %s: %s: extended attribute %s is given twice",
					  layer->name, entry->path, list[i].name);
	*ret_n = n;
	return 0;
}

static int
xattrs_copy (struct tree_layer *layer, const struct silo_entry *entry, struct tree_inode *inode,
	     struct silo_error *err)
{
	if (entry->n_xattrs == 0)
		return 0;
	if (entry->n_xattrs > TREE_MAX_XATTRS)
		return silo_fail (err, SILO_INVALID, "layer %s: %s: %zu extended attributes",
				  layer->name, entry->path, entry->n_xattrs);
	_cleanup_free_ struct tree_xattr *list = calloc (entry->n_xattrs, sizeof (*list));
	uint32_t n = 0;
	int r = list ? xattrs_check (layer, entry, list, &n, err) : silo_fail_nomem (err);
	if (r < 0 || n == 0)
		return r;
	inode->xattrs = arena_take (&layer->inodes, n * sizeof (*list));
	if (!inode->xattrs)
		return silo_fail_nomem (err);
	for (uint32_t i = 0; i < n; i++) {
		list[i].name = arena_string (&layer->inodes, list[i].name, strlen (list[i].name));
		list[i].value = arena_string (&layer->inodes, list[i].value, list[i].len);
		if (!list[i].name || !list[i].value)
			return silo_fail_nomem (err);
		inode->xattrs[i] = list[i];
	}
	inode->n_xattrs = (uint16_t) n; /* TREE_MAX_XATTRS holds no more */
	return 0;
}

/* What the fields of an entry may be, whatever its type. */
static int
entry_check (const struct tree_layer *layer, const struct silo_entry *entry, struct silo_error *err)
{
	if (entry->type < SILO_ENTRY_FILE || entry->type > SILO_ENTRY_OPAQUE)
		return silo_fail (err, SILO_INVALID, "layer %s: %s: unknown entry type %d",
				  layer->name, entry->path, (int) entry->type);
	if (entry->mode & ~07777u)
		return silo_fail (err, SILO_INVALID, "layer %s: %s: mode %o is not within 07777",
				  layer->name, entry->path, entry->mode);
	if (entry->mtime_nsec >= 1000000000u)
		return silo_fail (err, SILO_INVALID, "layer %s: %s: time has %u nanoseconds",
				  layer->name, entry->path, entry->mtime_nsec);
	if (entry->type == SILO_ENTRY_FILE && (entry->size < 0 || entry->size > TREE_MAX_FILE))
		return silo_fail (err, SILO_INVALID, "layer %s: %s: size %lld is not possible",
				  layer->name, entry->path, (long long) entry->size);
	if ((entry->type == SILO_ENTRY_CHAR || entry->type == SILO_ENTRY_BLOCK) &&
	    (entry->rdev_major >= 1u << 12 || entry->rdev_minor >= 1u << 20))
		return silo_fail (err, SILO_INVALID, "layer %s: %s: device %u:%u is not possible",
				  layer->name, entry->path, entry->rdev_major, entry->rdev_minor);
	if (entry->type != SILO_ENTRY_SYMLINK && entry->type != SILO_ENTRY_HARDLINK)
		return 0;
	size_t len = entry->target ? strnlen (entry->target, TREE_MAX_PATH + 1) : 0;
	if (len == 0 || len > TREE_MAX_PATH)
		return silo_fail (err, SILO_INVALID,
				  "layer %s: %s: a link's target needs 1 to %d bytes", layer->name,
				  entry->path, TREE_MAX_PATH);
	return 0;
}

static uint32_t
entry_format (enum silo_entry_type type)
{
	switch (type) {
	case SILO_ENTRY_FILE:
		return S_IFREG;
	case SILO_ENTRY_DIR:
		return S_IFDIR;
	case SILO_ENTRY_SYMLINK:
		return S_IFLNK;
	case SILO_ENTRY_CHAR:
		return S_IFCHR;
	case SILO_ENTRY_BLOCK:
		return S_IFBLK;
	case SILO_ENTRY_FIFO:
		return S_IFIFO;
	case SILO_ENTRY_HARDLINK:
	case SILO_ENTRY_WHITEOUT:
	case SILO_ENTRY_OPAQUE:
		break;
	}
	return 0;
}

/* What a hard link says of its file.  One that says nothing at all is of a plugin that does
 * not know. */
static bool
link_says (const struct silo_entry *entry)
{
	return entry->mode || entry->uid || entry->gid || entry->mtime || entry->mtime_nsec ||
	       entry->n_xattrs > 0;
}

static int
inode_new (struct tree_layer *layer, const struct silo_entry *entry, struct tree_inode **ret,
	   struct silo_error *err)
{
	size_t size = TREE_INODE_SIZE;
	if (entry->type == SILO_ENTRY_FILE)
		size = sizeof (struct tree_inode);
	else if (entry->type == SILO_ENTRY_SYMLINK)
		size += sizeof (char *);
	struct tree_inode *inode = arena_zero (&layer->inodes, size);
	if (!inode)
		return silo_fail_nomem (err);
	/* Symlinks have no permissions of their own; Linux always shows these. */
	uint32_t mode = entry->type == SILO_ENTRY_SYMLINK ? 0777 : entry->mode;
	inode->mode = (uint16_t) (entry_format (entry->type) | mode);
	inode->uid = entry->uid;
	inode->gid = entry->gid;
	inode->mtime = entry->mtime;
	inode->mtime_nsec = entry->mtime_nsec;
	if (entry->type == SILO_ENTRY_CHAR || entry->type == SILO_ENTRY_BLOCK) {
		inode->rdev_major = entry->rdev_major;
		inode->rdev_minor = entry->rdev_minor;
	}
	if (entry->type == SILO_ENTRY_FILE)
		inode->size = (uint64_t) entry->size;
	if (entry->type == SILO_ENTRY_SYMLINK) {
		inode->target =
		    arena_string (&layer->inodes, entry->target, strlen (entry->target));
		if (!inode->target)
			return silo_fail_nomem (err);
	}
	*ret = inode;
	return xattrs_copy (layer, entry, inode, err);
}

static int
entry_copy (struct tree_layer *layer, const struct silo_entry *entry, struct tree_entry *to,
	    struct silo_error *err)
{
	to->type = entry->type;
	int r = path_clean (layer, entry->path, &to->path, err);
	if (r < 0)
		return r;
	if (*to->path == '\0' && entry->type != SILO_ENTRY_DIR && entry->type != SILO_ENTRY_OPAQUE)
		return silo_fail (err, SILO_INVALID,
				  "layer %s: the root folder may only be a folder", layer->name);
	if (entry->type == SILO_ENTRY_HARDLINK) {
		r = path_clean (layer, entry->target, &to->target, err);
		return r < 0 || !link_says (entry) ? r : inode_new (layer, entry, &to->inode, err);
	}
	return entry_format (entry->type) ? inode_new (layer, entry, &to->inode, err) : 0;
}

static int
layer_room (struct tree_layer *layer, struct silo_error *err)
{
	if (layer->n < layer->cap)
		return 0;
	size_t cap = layer->cap ? layer->cap * 2 : 256;
	struct tree_entry *entries = reallocarray (layer->entries, cap, sizeof (*entries));
	if (!entries)
		return silo_fail_nomem (err);
	layer->entries = entries;
	layer->cap = cap;
	return 0;
}

static size_t
entry_bytes (const struct tree_entry *entry)
{
	size_t bytes = sizeof (*entry) + strlen (entry->path) + 1;
	if (entry->target)
		bytes += strlen (entry->target) + 1;
	if (!entry->inode)
		return bytes;
	bytes += sizeof (*entry->inode);
	if (entry->type == SILO_ENTRY_SYMLINK)
		bytes += strlen (entry->inode->target) + 1;
	for (uint32_t i = 0; i < entry->inode->n_xattrs; i++)
		bytes += sizeof (struct tree_xattr) + strlen (entry->inode->xattrs[i].name) + 1 +
			 entry->inode->xattrs[i].len;
	return bytes;
}

int
tree_layer_add (struct tree_layer *layer, const struct silo_entry *entry, struct silo_error *err)
{
	if (layer->n >= TREE_MAX_ENTRIES)
		return silo_fail (err, SILO_EXHAUSTED, "layer %s: more than %u entries",
				  layer->name, TREE_MAX_ENTRIES);
	int r = entry_check (layer, entry, err);
	if (r == 0)
		r = layer_room (layer, err);
	if (r < 0)
		return r;
	struct tree_entry copy = { 0 };
	r = entry_copy (layer, entry, &copy, err);
	if (r == 0 && layer->bytes + entry_bytes (&copy) > TREE_MAX_LAYER_BYTES)
		r = silo_fail (err, SILO_EXHAUSTED,
			       "layer %s: more than %zu bytes of names and attributes", layer->name,
			       TREE_MAX_LAYER_BYTES);
	if (r < 0)
		return r;
	layer->bytes += entry_bytes (&copy);
	layer->entries[layer->n++] = copy;
	return 0;
}

void
tree_layer_object (struct tree_layer *layer, const struct silo_digest *digest)
{
	assert (layer->n > 0);
	struct tree_entry *last = &layer->entries[layer->n - 1];
	assert (last->type == SILO_ENTRY_FILE && last->inode);
	last->inode->object = *digest;
}
