/* SPDX-License-Identifier: Apache-2.0 */
/*
 * folder.c - dir:/path: a tree on this machine as an image of one layer.  Walks
 * with descriptors and never through symlinks, so a tree that changes under it
 * can give an error but not files from elsewhere.  Stays on the file system
 * that it starts on, so that a mounted /proc or /sys is only an empty folder.
 * One call is one walk with all its state on the stack: any thread.
 */
#include <silo/silo.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#define SCHEME     "dir:"
#define CHUNK      ((size_t) 256 << 10)
#define MAX_DEPTH  1000 /* folders open at once */
#define MAX_NAMES  (4u << 20)
#define MAX_XATTRS 4096

struct folder {
	struct silo_host *host;
};

/* A file with several names, as first met. */
struct linked {
	ino_t ino;
	struct timespec changed;
	char *path;
};

struct walk {
	struct silo_host *host;
	struct silo_import *import;
	struct silo_layer *layer;
	dev_t device;
	struct silo_buf path; /* of the entry at hand, relative */
	char *chunk;
	struct linked *linked; /* hash table by inode, open addressing */
	size_t n_linked, cap_linked;
	int64_t done;
};

static const char *
walk_path (const struct walk *walk)
{
	return walk->path.len > 0 ? (const char *) walk->path.data : ".";
}

static int
changed (struct silo_error *err)
{
	return silo_fail (err, SILO_ABORTED, "changed while it was read");
}

/* -- files with several names ------------------------------------------------------ */

static struct linked *
linked_slot (struct linked *table, size_t cap, ino_t ino)
{
	size_t i = (size_t) (ino * 0x9e3779b97f4a7c15u >> 20) & (cap - 1);
	while (table[i].path && table[i].ino != ino)
		i = (i + 1) & (cap - 1);
	return &table[i];
}

static int
linked_grow (struct walk *walk, struct silo_error *err)
{
	if (walk->n_linked * 2 < walk->cap_linked)
		return 0;
	size_t cap = walk->cap_linked ? walk->cap_linked * 2 : 256;
	struct linked *table = calloc (cap, sizeof (*table));
	if (!table)
		return silo_fail_nomem (err);
	for (size_t i = 0; i < walk->cap_linked; i++)
		if (walk->linked[i].path)
			*linked_slot (table, cap, walk->linked[i].ino) = walk->linked[i];
	free (walk->linked);
	walk->linked = table;
	walk->cap_linked = cap;
	return 0;
}

/* *ret: the first path of this inode; NULL: this is it. */
static int
linked_find (struct walk *walk, const struct stat *st, const char **ret, struct silo_error *err)
{
	*ret = NULL;
	if (S_ISDIR (st->st_mode) || st->st_nlink < 2)
		return 0;
	int r = linked_grow (walk, err);
	if (r < 0)
		return r;
	struct linked *slot = linked_slot (walk->linked, walk->cap_linked, st->st_ino);
	if (slot->path) {
		/* Another name for it may have been made or removed meanwhile, or its bytes have
		 * changed after they were read. */
		if (slot->changed.tv_sec != st->st_ctim.tv_sec ||
		    slot->changed.tv_nsec != st->st_ctim.tv_nsec)
			return changed (err);
		*ret = slot->path;
		return 0;
	}
	slot->path = strdup (walk_path (walk));
	if (!slot->path)
		return silo_fail_nomem (err);
	slot->ino = st->st_ino;
	slot->changed = st->st_ctim;
	walk->n_linked++;
	return 0;
}

/* -- extended attributes ------------------------------------------------------------- */

struct xattrs {
	struct silo_buf names;
	struct silo_buf values;
	struct silo_xattr *list;
	size_t n;
};

static void
xattrs_free (struct xattrs *xattrs)
{
	silo_buf_free (&xattrs->names);
	silo_buf_free (&xattrs->values);
	free (xattrs->list);
}

/* All kinds of files are reached without following links by a path below /proc/self/fd. */
static int
xattr_names (const char *file, struct silo_buf *names, struct silo_error *err)
{
	ssize_t n = llistxattr (file, NULL, 0);
	if (n <= 0) {
		if (n == 0 || errno == EOPNOTSUPP || errno == ENOSYS)
			return 0;
		if (errno == ENOENT)
			return changed (err);
		return silo_fail_sys (err, errno, "extended attributes");
	}
	int r = silo_buf_reserve (names, (size_t) n, err);
	if (r < 0)
		return r;
	n = llistxattr (file, (char *) names->data, (size_t) n);
	if (n < 0)
		return silo_fail_sys (err, errno, "extended attributes");
	names->len = (size_t) n;
	return 0;
}

static int
xattr_value (const char *file, const char *name, struct silo_buf *values, size_t *ret_len,
	     struct silo_error *err)
{
	ssize_t n = lgetxattr (file, name, NULL, 0);
	int r = n < 0 ? 0 : silo_buf_reserve (values, (size_t) n, err);
	if (r < 0)
		return r;
	if (n > 0)
		n = lgetxattr (file, name, values->data + values->len, (size_t) n);
	if (n < 0)
		return silo_fail_sys (err, errno, "extended attribute %.60s", name);
	values->len += (size_t) n;
	*ret_len = (size_t) n;
	return 0;
}

static int
xattrs_read (int parent, const char *name, struct xattrs *to, struct silo_error *err)
{
	char file[NAME_MAX + 48];
	snprintf (file, sizeof (file), "/proc/self/fd/%d/%s", parent, name);
	int r = xattr_names (file, &to->names, err);
	if (r < 0 || to->names.len == 0)
		return r;
	size_t count = 0;
	for (size_t i = 0; i < to->names.len; i++)
		count += to->names.data[i] == '\0';
	if (count > MAX_XATTRS)
		return silo_fail (err, SILO_INVALID, "%zu extended attributes", count);
	to->list = calloc (count, sizeof (*to->list));
	if (!to->list)
		return silo_fail_nomem (err);
	const char *at = (const char *) to->names.data;
	for (size_t i = 0; i < count; i++, at += strlen (at) + 1) {
		to->list[i].name = at;
		r = xattr_value (file, at, &to->values, &to->list[i].value.len, err);
		if (r < 0)
			return r;
	}
	/* The buffer has stopped moving. */
	const unsigned char *value = to->values.data;
	for (size_t i = 0; i < count; i++) {
		to->list[i].value.data = value;
		value += to->list[i].value.len;
	}
	to->n = count;
	return 0;
}

/* -- entries --------------------------------------------------------------------------- */

static bool
same_file (const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_mode == b->st_mode &&
	       a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
	       a->st_mtim.tv_nsec == b->st_mtim.tv_nsec && a->st_ctim.tv_sec == b->st_ctim.tv_sec &&
	       a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/* It was there a moment ago, and what it was: gone, or a symlink that is not followed. */
static int
open_failed (struct silo_error *err)
{
	if (errno == ENOENT || errno == ELOOP || errno == ENOTDIR || errno == ENXIO)
		return changed (err);
	return silo_fail_sys (err, errno, "open");
}

static int
copy_bytes (struct walk *walk, int fd, int64_t size, struct silo_error *err)
{
	for (int64_t at = 0; at < size;) {
		if (silo_import_cancelled (walk->import))
			return silo_fail (err, SILO_CANCELLED, "stopped");
		size_t want = size - at < (int64_t) CHUNK ? (size_t) (size - at) : CHUNK;
		ssize_t n = pread (fd, walk->chunk, want, at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return silo_fail_sys (err, errno, "read");
		if (n == 0)
			return changed (err);
		int r = silo_layer_data (walk->layer, walk->chunk, (size_t) n, err);
		if (r < 0)
			return r;
		at += n;
		walk->done += n;
	}
	return 0;
}

static int
give_file (struct walk *walk, int parent, const char *name, const struct stat *st,
	   const struct silo_entry *entry, struct silo_error *err)
{
	struct stat now;
	int fd = openat (parent, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return open_failed (err);
	int r = fstat (fd, &now) < 0 ? silo_fail_sys (err, errno, "stat") : 0;
	if (r == 0 && !same_file (st, &now))
		r = changed (err);
	if (r == 0)
		r = silo_layer_entry (walk->layer, entry, err);
	if (r == 0)
		r = copy_bytes (walk, fd, st->st_size, err);
	/* Bytes that were written meanwhile have moved one of the times. */
	if (r == 0 && (fstat (fd, &now) < 0 || !same_file (st, &now)))
		r = changed (err);
	close (fd);
	silo_import_progress (walk->import, "reading files", walk->done, 0);
	return r;
}

static int
give_symlink (struct walk *walk, int parent, const char *name, struct silo_entry *entry,
	      struct silo_error *err)
{
	char target[PATH_MAX + 1];
	ssize_t n = readlinkat (parent, name, target, sizeof (target));
	if (n < 0)
		return silo_fail_sys (err, errno, "read the symlink");
	if (n == (ssize_t) sizeof (target))
		return silo_fail (err, SILO_INVALID, "symlink longer than %d bytes", PATH_MAX);
	target[n] = '\0';
	entry->target = target;
	return silo_layer_entry (walk->layer, entry, err);
}

static enum silo_entry_type
entry_type (mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return SILO_ENTRY_FILE;
	case S_IFDIR:
		return SILO_ENTRY_DIR;
	case S_IFLNK:
		return SILO_ENTRY_SYMLINK;
	case S_IFCHR:
		return SILO_ENTRY_CHAR;
	case S_IFBLK:
		return SILO_ENTRY_BLOCK;
	default:
		return SILO_ENTRY_FIFO;
	}
}

static int
give_entry (struct walk *walk, int parent, const char *name, const struct stat *st,
	    struct silo_error *err)
{
	struct silo_entry entry = {
		.type = entry_type (st->st_mode),
		.path = walk_path (walk),
		.mode = st->st_mode & 07777,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.mtime = st->st_mtim.tv_sec,
		.mtime_nsec = (uint32_t) st->st_mtim.tv_nsec,
	};
	const char *first = NULL;
	int r = linked_find (walk, st, &first, err);
	if (r < 0)
		return r;
	if (first) {
		const struct silo_entry link = {
			.type = SILO_ENTRY_HARDLINK,
			.path = entry.path,
			.target = first,
		};
		return silo_layer_entry (walk->layer, &link, err);
	}
	SILO_CLEANUP (xattrs_free)
	struct xattrs xattrs = { .names = SILO_BUF (65536), .values = SILO_BUF (1 << 20) };
	r = xattrs_read (parent, name, &xattrs, err);
	if (r < 0)
		return r;
	entry.xattrs = xattrs.list;
	entry.n_xattrs = xattrs.n;
	if (S_ISREG (st->st_mode)) {
		entry.size = st->st_size;
		return give_file (walk, parent, name, st, &entry, err);
	}
	if (S_ISLNK (st->st_mode))
		return give_symlink (walk, parent, name, &entry, err);
	if (S_ISCHR (st->st_mode) || S_ISBLK (st->st_mode)) {
		entry.rdev_major = major (st->st_rdev);
		entry.rdev_minor = minor (st->st_rdev);
	}
	return silo_layer_entry (walk->layer, &entry, err);
}

/* -- the walk ---------------------------------------------------------------------------- */

/* The names of a folder, sorted: the same tree is read in the same order. */
struct names {
	char **item;
	size_t n, cap;
};

static void
names_free (struct names *names)
{
	for (size_t i = 0; i < names->n; i++)
		free (names->item[i]);
	free (names->item);
}

static int
name_compare (const void *a, const void *b)
{
	return strcmp (*(char *const *) a, *(char *const *) b);
}

static int
names_add (struct names *names, const char *name, struct silo_error *err)
{
	if (names->n == MAX_NAMES)
		return silo_fail (err, SILO_EXHAUSTED, "more than %u entries", MAX_NAMES);
	if (names->n == names->cap) {
		size_t cap = names->cap ? names->cap * 2 : 64;
		char **item = reallocarray (names->item, cap, sizeof (*item));
		if (!item)
			return silo_fail_nomem (err);
		names->item = item;
		names->cap = cap;
	}
	names->item[names->n] = strdup (name);
	if (!names->item[names->n])
		return silo_fail_nomem (err);
	names->n++;
	return 0;
}

static int
names_read (int fd, struct names *names, struct silo_error *err)
{
	int copy = openat (fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = copy >= 0 ? fdopendir (copy) : NULL;
	if (!dir) {
		int sys = errno;
		if (copy >= 0)
			close (copy);
		return silo_fail_sys (err, sys, "open");
	}
	int r = 0;
	while (r == 0) {
		errno = 0;
		const struct dirent *entry = readdir (dir);
		if (!entry) {
			if (errno)
				r = silo_fail_sys (err, errno, "list");
			break;
		}
		if (strcmp (entry->d_name, ".") != 0 && strcmp (entry->d_name, "..") != 0)
			r = names_add (names, entry->d_name, err);
	}
	closedir (dir);
	if (r == 0 && names->n > 1)
		qsort (names->item, names->n, sizeof (*names->item), name_compare);
	return r;
}

static int walk_folder (struct walk *walk, int fd, int depth, struct silo_error *err);

static int
walk_below (struct walk *walk, int parent, const char *name, const struct stat *st, int depth,
	    struct silo_error *err)
{
	struct stat now;
	int fd = openat (parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return open_failed (err);
	int r = 0;
	if (fstat (fd, &now) < 0 || now.st_ino != st->st_ino || now.st_dev != st->st_dev)
		r = changed (err);
	else
		r = walk_folder (walk, fd, depth + 1, err);
	/* Names that came or went meanwhile have moved its times. */
	if (r == 0 && (fstat (fd, &now) < 0 || !same_file (st, &now)))
		r = changed (err);
	close (fd);
	return r;
}

static int
walk_name (struct walk *walk, int fd, const char *name, int depth, struct silo_error *err)
{
	struct stat st;
	if (silo_import_cancelled (walk->import))
		return silo_fail (err, SILO_CANCELLED, "stopped");
	if (fstatat (fd, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
		return errno == ENOENT ? changed (err) : silo_fail_sys (err, errno, "stat");
	if (S_ISSOCK (st.st_mode)) {
		silo_log (walk->host, SILO_INFO, "%s: a socket, left out", walk_path (walk));
		return 0;
	}
	if (st.st_dev != walk->device && !S_ISDIR (st.st_mode)) {
		silo_log (walk->host, SILO_INFO, "%s: a mount, left out", walk_path (walk));
		return 0;
	}
	int r = give_entry (walk, fd, name, &st, err);
	if (r < 0 || !S_ISDIR (st.st_mode))
		return r;
	if (st.st_dev != walk->device) {
		silo_log (walk->host, SILO_INFO, "%s: another file system, its contents left out",
			  walk_path (walk));
		return 0;
	}
	return walk_below (walk, fd, name, &st, depth, err);
}

static int
walk_folder (struct walk *walk, int fd, int depth, struct silo_error *err)
{
	if (depth > MAX_DEPTH)
		return silo_fail (err, SILO_INVALID, "more than %d folders deep", MAX_DEPTH);
	struct names names = { 0 };
	size_t len = walk->path.len;
	int r = names_read (fd, &names, err);
	for (size_t i = 0; r == 0 && i < names.n; i++) {
		walk->path.len = len;
		r = silo_buf_addf (&walk->path, err, "%s%s", len > 0 ? "/" : "", names.item[i]);
		if (r == 0)
			r = walk_name (walk, fd, names.item[i], depth, err);
	}
	if (r == 0) {
		walk->path.len = len;
		if (walk->path.data)
			walk->path.data[len] = '\0';
	}
	names_free (&names);
	return r;
}

static void
walk_free (struct walk *walk)
{
	for (size_t i = 0; i < walk->cap_linked; i++)
		free (walk->linked[i].path);
	free (walk->linked);
	free (walk->chunk);
	silo_buf_free (&walk->path);
}

/* -- the plugin ---------------------------------------------------------------------------- */

static int
folder_identify (void *self, const struct silo_image_source *source, struct silo_buf *ret_id,
		 struct silo_error *err)
{
	(void) self;
	(void) ret_id; /* to know what is in a folder is to read it all */
	struct stat st;
	if (strncmp (source->reference, SCHEME, strlen (SCHEME)) != 0)
		return silo_fail (err, SILO_UNIMPLEMENTED, "%.100s is no " SCHEME "/path",
				  source->reference);
	const char *path = source->reference + strlen (SCHEME);
	if (*path != '/')
		return silo_fail (err, SILO_INVALID,
				  "%.150s: expected an absolute path, " SCHEME "/path",
				  source->reference);
	if (stat (path, &st) < 0)
		return silo_fail_sys (err, errno, "%.150s", path);
	if (!S_ISDIR (st.st_mode))
		return silo_fail (err, SILO_INVALID, "%.150s is no folder", path);
	return 0;
}

static int
folder_import (void *self, const struct silo_image_source *source, struct silo_import *import,
	       struct silo_error *err)
{
	struct folder *folder = self;
	const char *path = source->reference + strlen (SCHEME);
	SILO_CLEANUP (walk_free)
	struct walk walk = {
		.host = folder->host,
		.import = import,
		.path = SILO_BUF (PATH_MAX),
		.chunk = malloc (CHUNK),
	};
	struct stat st, now;
	if (!walk.chunk)
		return silo_fail_nomem (err);
	int r = silo_import_layer (import, path, &walk.layer, err);
	if (r < 0)
		return r;
	/* The path itself is the user's: its symlinks may be followed. */
	int fd = open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstat (fd, &st) < 0) {
		r = silo_fail_sys (err, errno, "%.150s", path);
	} else {
		walk.device = st.st_dev;
		r = give_entry (&walk, fd, ".", &st, err);
		if (r == 0)
			r = walk_folder (&walk, fd, 0, err);
		if (r == 0 && (fstat (fd, &now) < 0 || !same_file (&st, &now)))
			r = changed (err);
		if (r == 0)
			r = silo_layer_end (walk.layer, err);
		else if (r != SILO_CANCELLED)
			r = silo_wrap (err, "%.100s/%s", path, walk_path (&walk));
	}
	if (fd >= 0)
		close (fd);
	return r;
}

static int
folder_init (void *self, struct silo_host *host, struct silo_error *err)
{
	(void) err;
	struct folder *folder = self;
	folder->host = host;
	return 0;
}

static const struct silo_image_ops folder_ops = {
	.identify = folder_identify,
	.import = folder_import,
};

SILO_PLUGIN (folder_ops, .name = "folder", .version = "1.0",
	     .summary = "dir:/path, a tree on this machine", .flags = SILO_PARALLEL,
	     .instance_size = sizeof (struct folder), .init = folder_init);
