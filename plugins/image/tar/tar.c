/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tar.c - from a layer's tar to entries of the import.  Runs on the thread that
 * called tar_read.
 */
#include "tar.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#define MAX_XATTRS 4096

struct reader {
	const struct tar_source *source;
	const char *name;
	struct silo_import *import;
	struct silo_layer *layer;
	struct archive *archive;
	struct silo_error failed; /* of the source */
	struct silo_xattr *xattrs;
	size_t cap_xattrs;
};

static bool
reader_stopped (const struct reader *reader)
{
	return silo_import_cancelled (reader->import);
}

static la_ssize_t
archive_wants (struct archive *archive, void *arg, const void **ret)
{
	struct reader *reader = arg;
	size_t len = 0;
	if (reader->source->next (reader->source->arg, ret, &len, &reader->failed) == 0)
		return (la_ssize_t) len;
	archive_set_error (archive, EIO, "read");
	return -1;
}

static int
reader_fail (struct reader *reader, struct silo_error *err)
{
	if (reader->failed.code)
		return silo_fail (err, reader->failed.code, "%s", reader->failed.msg);
	if (reader_stopped (reader))
		return silo_fail (err, SILO_CANCELLED, "stopped");
	const char *why = archive_error_string (reader->archive);
	return silo_fail (err, SILO_DATALOSS, "layer %s: damaged archive: %.120s", reader->name,
			  why ? why : "no details");
}

static int
zeros (struct reader *reader, int64_t len, struct silo_error *err)
{
	static const char nothing[65536];
	while (len > 0) {
		size_t n = len < (int64_t) sizeof (nothing) ? (size_t) len : sizeof (nothing);
		int r = silo_layer_data (reader->layer, nothing, n, err);
		if (r < 0)
			return r;
		len -= (int64_t) n;
		if (reader_stopped (reader))
			return silo_fail (err, SILO_CANCELLED, "stopped");
	}
	return 0;
}

/* The file's bytes; what a sparse file leaves out is zeros. */
static int
give_bytes (struct reader *reader, int64_t size, struct silo_error *err)
{
	int64_t at = 0;
	for (;;) {
		const void *data = NULL;
		size_t len = 0;
		la_int64_t offset = 0;
		int got = archive_read_data_block (reader->archive, &data, &len, &offset);
		if (got == ARCHIVE_EOF)
			break;
		if (got < ARCHIVE_WARN)
			return reader_fail (reader, err);
		if (offset < at || offset > size || (int64_t) len > size - offset)
			return silo_fail (err, SILO_DATALOSS, "layer %s: a file's parts overlap",
					  reader->name);
		int r = zeros (reader, offset - at, err);
		if (r == 0 && len > 0)
			r = silo_layer_data (reader->layer, data, len, err);
		if (r < 0)
			return r;
		at = offset + (int64_t) len;
	}
	return zeros (reader, size - at, err);
}

static int
take_xattrs (struct reader *reader, struct archive_entry *from, struct silo_entry *entry,
	     struct silo_error *err)
{
	int n = archive_entry_xattr_reset (from);
	if (n <= 0)
		return 0;
	if (n > MAX_XATTRS)
		return silo_fail (err, SILO_INVALID, "layer %s: %.100s has %d extended attributes",
				  reader->name, entry->path, n);
	if ((size_t) n > reader->cap_xattrs) {
		struct silo_xattr *more =
		    reallocarray (reader->xattrs, (size_t) n, sizeof (*reader->xattrs));
		if (!more)
			return silo_fail_nomem (err);
		reader->xattrs = more;
		reader->cap_xattrs = (size_t) n;
	}
	size_t used = 0;
	for (int i = 0; i < n; i++) {
		const char *name = NULL;
		const void *value = NULL;
		size_t len = 0;
		if (archive_entry_xattr_next (from, &name, &value, &len) != ARCHIVE_OK || !name)
			break;
		/* Archives of bsdtar have each twice, in two encodings. */
		bool twice = false;
		for (size_t k = 0; k < used && !twice; k++)
			twice = strcmp (reader->xattrs[k].name, name) == 0;
		if (!twice)
			reader->xattrs[used++] = (struct silo_xattr){ name, { value, len } };
	}
	entry->xattrs = reader->xattrs;
	entry->n_xattrs = used;
	return 0;
}

/* 0: not a kind of file that images have. */
static enum silo_entry_type
entry_type (struct archive_entry *from)
{
	if (archive_entry_hardlink (from))
		return SILO_ENTRY_HARDLINK;
	switch (archive_entry_filetype (from)) {
	case AE_IFREG:
		return SILO_ENTRY_FILE;
	case AE_IFDIR:
		return SILO_ENTRY_DIR;
	case AE_IFLNK:
		return SILO_ENTRY_SYMLINK;
	case AE_IFCHR:
		return SILO_ENTRY_CHAR;
	case AE_IFBLK:
		return SILO_ENTRY_BLOCK;
	case AE_IFIFO:
		return SILO_ENTRY_FIFO;
	default:
		return 0;
	}
}

/* ".wh.name" and ".wh..wh..opq" say what to hide of the layers below.
 * 1: it was one of them. */
static int
give_whiteout (struct reader *reader, const char *path, struct silo_error *err)
{
	static const char mark[] = ".wh.", own[] = ".wh..wh.", opaque[] = ".wh..wh..opq";
	const char *slash = strrchr (path, '/');
	const char *name = slash ? slash + 1 : path;
	if (strncmp (name, mark, strlen (mark)) != 0)
		return 0;
	struct silo_entry entry = { .type = SILO_ENTRY_WHITEOUT };
	const char *hidden = name + strlen (mark);
	if (strcmp (name, opaque) == 0) {
		entry.type = SILO_ENTRY_OPAQUE;
		hidden = ".";
	} else if (strncmp (name, own, strlen (own)) == 0) {
		return 1; /* what aufs kept for itself */
	}
	if (*hidden == '\0' || strcmp (hidden, "..") == 0)
		return silo_fail (err, SILO_INVALID, "layer %s: %.100s hides nothing", reader->name,
				  path);
	size_t prefix = (size_t) (name - path), len = strlen (hidden);
	char *full = malloc (prefix + len + 1);
	if (!full)
		return silo_fail_nomem (err);
	memcpy (full, path, prefix);
	memcpy (full + prefix, hidden, len + 1);
	entry.path = full;
	int r = silo_layer_entry (reader->layer, &entry, err);
	free (full);
	return r < 0 ? r : 1;
}

static int
give_entry (struct reader *reader, struct archive_entry *from, struct silo_error *err)
{
	const char *path = archive_entry_pathname (from);
	if (!path)
		return silo_fail (err, SILO_INVALID, "layer %s: an entry without a name",
				  reader->name);
	int r = give_whiteout (reader, path, err);
	if (r != 0)
		return r < 0 ? r : 0;
	struct silo_entry entry = { .type = entry_type (from), .path = path };
	if (!entry.type) {
		if (archive_entry_filetype (from) == AE_IFSOCK)
			return 0; /* nobody listens on it */
		return silo_fail (err, SILO_INVALID, "layer %s: %.100s is of an unknown type",
				  reader->name, path);
	}
	int64_t uid = archive_entry_uid (from), gid = archive_entry_gid (from);
	dev_t major = archive_entry_rdevmajor (from), minor = archive_entry_rdevminor (from);
	if (uid < 0 || uid > UINT32_MAX || gid < 0 || gid > UINT32_MAX || major > UINT32_MAX ||
	    minor > UINT32_MAX)
		return silo_fail (err, SILO_INVALID,
				  "layer %s: %.100s: owner or device number is out of range",
				  reader->name, path);
	entry.target = entry.type == SILO_ENTRY_HARDLINK ? archive_entry_hardlink (from)
							 : archive_entry_symlink (from);
	entry.mode = archive_entry_perm (from) & 07777;
	entry.uid = (uint32_t) uid;
	entry.gid = (uint32_t) gid;
	entry.mtime = archive_entry_mtime (from);
	entry.mtime_nsec = (uint32_t) archive_entry_mtime_nsec (from);
	entry.rdev_major = (uint32_t) major;
	entry.rdev_minor = (uint32_t) minor;
	if (entry.type == SILO_ENTRY_FILE)
		entry.size = archive_entry_size (from);
	r = take_xattrs (reader, from, &entry, err);
	if (r == 0)
		r = silo_layer_entry (reader->layer, &entry, err);
	if (r == 0 && entry.size > 0)
		r = give_bytes (reader, entry.size, err);
	return r;
}

static int
reader_run (struct reader *reader, struct silo_error *err)
{
	struct archive *archive = reader->archive;
	archive_read_support_format_tar (archive);
	archive_read_support_format_empty (archive);
	archive_read_support_filter_gzip (archive);
	archive_read_support_filter_zstd (archive);
	if (archive_read_open2 (archive, reader, NULL, archive_wants, NULL, NULL) != ARCHIVE_OK)
		return reader_fail (reader, err);
	for (;;) {
		struct archive_entry *entry = NULL;
		int got = archive_read_next_header (archive, &entry);
		if (got == ARCHIVE_EOF)
			break;
		/* Warnings are of names that are not in the C locale's character set; they
		 * come as the bytes that the archive has, which is what is wanted. */
		if (got < ARCHIVE_WARN)
			return reader_fail (reader, err);
		int r = give_entry (reader, entry, err);
		if (r < 0)
			return r;
	}
	size_t len = 1;
	int r = 0;
	while (r == 0 && len > 0) {
		const void *rest = NULL;
		r = reader->source->next (reader->source->arg, &rest, &len, err);
	}
	return r;
}

int
tar_read (const struct tar_source *source, const char *name, struct silo_import *import,
	  struct silo_layer *layer, struct silo_error *err)
{
	/* Names are bytes.  In a UTF-8 locale libarchive would normalise them, and two files
	 * could become one. */
	locale_t bytes = newlocale (LC_ALL_MASK, "C", NULL);
	if (!bytes)
		return silo_fail_nomem (err);
	locale_t old = uselocale (bytes);
	struct reader reader = {
		.source = source,
		.name = name,
		.import = import,
		.layer = layer,
		.archive = archive_read_new (),
	};
	int r = reader.archive ? reader_run (&reader, err) : silo_fail_nomem (err);
	if (reader.archive)
		archive_read_free (reader.archive);
	free (reader.xattrs);
	uselocale (old);
	freelocale (bytes);
	return r;
}
