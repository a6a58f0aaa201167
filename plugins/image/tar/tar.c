/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tar.c - a layer from its first block to its last: collects the headers of
 * each member, hands the entry and its bytes to the import, and sees to it that
 * what is not an entry stays within bounds (what is, the core bounds).  Runs on
 * the thread that called tar_read.
 */
#include "reader.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ZEROS ((size_t) 1 << 20) /* of a hole, handed over at once */
/* Headers that only belong to other headers, in a row. */
#define MAX_HEADERS 64
/* Bytes that are in no file: long headers, padding, what follows the end.  Real layers have
 * less than 2 KiB per entry, and up to 10 KiB at their end. */
#define MAX_WASTE       ((uint64_t) 64 << 20)
#define WASTE_PER_ENTRY ((uint64_t) 8 << 10)

/* -- errors --------------------------------------------------------------------------- */

/* What messages call the entry. */
static void
reader_show (struct reader *reader, const char *before, const char *path)
{
	snprintf (reader->shown, sizeof (reader->shown), "%s%.100s", before, path);
	for (char *at = reader->shown; *at; at++)
		if ((unsigned char) *at < ' ' || *at == 0x7f)
			*at = '?';
}

int
reader_refuse (struct reader *reader, struct silo_error *err, const char *fmt, ...)
{
	char what[160];
	va_list ap;
	va_start (ap, fmt);
	vsnprintf (what, sizeof (what), fmt, ap);
	va_end (ap);
	return silo_fail (err, SILO_INVALID, "layer %s: %s: %s", reader->name, reader->shown, what);
}

int
reader_cut_short (struct reader *reader, struct silo_error *err)
{
	return silo_fail (err, SILO_DATALOSS, "layer %s: %s: the tar is cut short", reader->name,
			  reader->shown);
}

int
reader_waste (struct reader *reader, uint64_t len, struct silo_error *err)
{
	reader->waste += len;
	if (reader->waste <= MAX_WASTE + reader->entries * WASTE_PER_ENTRY)
		return 0;
	return silo_fail (err, SILO_EXHAUSTED,
			  "layer %s: %s: the tar has more than %llu bytes that belong to no file",
			  reader->name, reader->shown,
			  (unsigned long long) (MAX_WASTE + reader->entries * WASTE_PER_ENTRY));
}

/* -- bytes ------------------------------------------------------------------------------ */

int
reader_fill (struct reader *reader, struct silo_error *err)
{
	if (reader->left > 0)
		return 0;
	if (silo_import_cancelled (reader->import))
		return silo_fail (err, SILO_CANCELLED, "stopped");
	return stream_next (reader->stream, &reader->at, &reader->left, err);
}

int
reader_bytes (struct reader *reader, void *to, size_t len, size_t *ret_len, struct silo_error *err)
{
	size_t got = 0;
	while (got < len) {
		int r = reader_fill (reader, err);
		if (r < 0)
			return r;
		if (reader->left == 0)
			break;
		size_t n = len - got < reader->left ? len - got : reader->left;
		memcpy ((char *) to + got, reader->at, n);
		got += n;
		reader->at += n;
		reader->left -= n;
	}
	*ret_len = got;
	return 0;
}

/* *ret_len < len: at the end. */
static int
reader_skip (struct reader *reader, int64_t len, int64_t *ret_len, struct silo_error *err)
{
	int64_t got = 0;
	while (got < len) {
		int r = reader_fill (reader, err);
		if (r < 0)
			return r;
		if (reader->left == 0)
			break;
		size_t n =
		    (uint64_t) (len - got) < reader->left ? (size_t) (len - got) : reader->left;
		r = reader_waste (reader, n, err);
		if (r < 0)
			return r;
		got += (int64_t) n;
		reader->at += n;
		reader->left -= n;
	}
	*ret_len = got;
	return 0;
}

/* What is left of the member.  Padding may be missing at the end of the blob. */
static int
member_skip (struct reader *reader, struct member *member, struct silo_error *err)
{
	int64_t got = 0;
	int r = reader_skip (reader, member->body, &got, err);
	if (r == 0 && got < member->body)
		r = reader_cut_short (reader, err);
	if (r == 0)
		r = reader_skip (reader, member->pad, &got, err);
	return r;
}

/* The body of a header that belongs to another one. */
static int
member_special (struct reader *reader, struct member *member, struct silo_buf *to,
		struct silo_error *err)
{
	size_t len = (size_t) member->body, got = 0;
	if (member->body > MAX_SPECIAL)
		return reader_refuse (reader, err, "a header of %lld bytes, at most %d are taken",
				      (long long) member->body, MAX_SPECIAL);
	to->len = 0;
	int r = reader_waste (reader, len, err);
	if (r == 0)
		r = silo_buf_reserve (to, len + 1, err);
	if (r == 0)
		r = reader_bytes (reader, to->data, len, &got, err);
	if (r == 0 && got < len)
		r = reader_cut_short (reader, err);
	if (r < 0)
		return r;
	to->data[len] = '\0';
	to->len = len;
	member->body = 0;
	return member_skip (reader, member, err);
}

/* -- a member's headers -------------------------------------------------------------------- */

/* Sizes in the archive follow from the type and the size that is known so far. */
static int
member_measure (struct reader *reader, struct member *member, struct silo_error *err)
{
	static const char header_only[] = "123456";
	if (member->type == '\0' && *member->path && member->path[strlen (member->path) - 1] == '/')
		member->type = '5'; /* as folders were written before they had a type */
	if (member->size < 0)
		return reader_refuse (reader, err, "its size is negative");
	member->body = member->type && strchr (header_only, member->type) ? 0 : member->size;
	member->pad = (unsigned) (-(uint64_t) member->body % BLOCK);
	return 0;
}

/* The next block that is a header; *ret_end: the archive ends here. */
static int
block_next (struct reader *reader, unsigned char *block, bool *ret_end, struct silo_error *err)
{
	size_t got = 0;
	*ret_end = true;
	int r = reader_bytes (reader, block, BLOCK, &got, err);
	if (r < 0 || got == 0)
		return r;
	if (got < BLOCK)
		return reader_cut_short (reader, err);
	if (!header_is_zero (block)) {
		*ret_end = false;
		return 0;
	}
	/* Two blocks of zeros are the end; the second may be missing. */
	r = reader_bytes (reader, block, BLOCK, &got, err);
	if (r < 0 || got == 0)
		return r;
	if (got < BLOCK)
		return reader_cut_short (reader, err);
	if (header_is_zero (block))
		return 0;
	return reader_refuse (reader, err, "one block of zeros, where two mean the end");
}

/* All headers are there. */
static int
member_merge (struct reader *reader, const unsigned char *block, struct member *member,
	      struct silo_error *err)
{
	pax_reset (&reader->pax);
	reader->n_parts = 0;
	reader_show (reader, "", member->path);
	int r = pax_apply (reader, member, err);
	if (r < 0)
		return r;
	if (reader->path.len > 0 && *reader->path.data)
		member->path = (const char *) reader->path.data;
	if (reader->target.len > 0 && *reader->target.data)
		member->target = (const char *) reader->target.data;
	reader_show (reader, "", member->path);
	r = member_measure (reader, member, err);
	if (r == 0)
		r = sparse_find (reader, block, member, err);
	if (r == 0)
		reader_show (reader, "", member->path);
	return r;
}

static int
header_next (struct reader *reader, unsigned char *block, struct member *ret, bool *ret_end,
	     struct silo_error *err)
{
	const char *why = NULL;
	int r = block_next (reader, block, ret_end, err);
	if (r < 0 || *ret_end)
		return r;
	if (!header_parse (block, ret, &why))
		return reader->entries ? reader_refuse (reader, err, "%s", why)
				       : silo_fail (err, SILO_INVALID, "layer %s: this is no tar",
						    reader->name);
	return member_measure (reader, ret, err);
}

/* Everything up to the bytes of the next entry. */
static int
member_next (struct reader *reader, struct member *ret, bool *ret_end, struct silo_error *err)
{
	unsigned char block[BLOCK];
	char before[sizeof (reader->shown)];
	bool pending = false;
	snprintf (before, sizeof (before), "%.100s", reader->shown);
	reader_show (reader, reader->entries ? "after " : "", before);
	reader->special.len = reader->path.len = reader->target.len = 0;
	for (int i = 0; i < MAX_HEADERS; i++) {
		int r = header_next (reader, block, ret, ret_end, err);
		if (r == 0 && *ret_end && pending)
			r = reader_cut_short (reader, err);
		if (r < 0 || *ret_end)
			return r;
		pending = true;
		switch (ret->type) {
		case 'x':
			r = member_special (reader, ret, &reader->special, err);
			break;
		case 'L':
			r = member_special (reader, ret, &reader->path, err);
			break;
		case 'K':
			r = member_special (reader, ret, &reader->target, err);
			break;
		case 'g':
			r = member_skip (reader, ret, err);
			break;
		default:
			return member_merge (reader, block, ret, err);
		}
		if (r < 0)
			return r;
	}
	return reader_refuse (reader, err, "more than %d headers for one entry", MAX_HEADERS);
}

/* -- entries ---------------------------------------------------------------------------------- */

static int
give_zeros (struct reader *reader, int64_t len, struct silo_error *err)
{
	if (len > 0 && !reader->zeros && !(reader->zeros = calloc (1, ZEROS)))
		return silo_fail_nomem (err);
	int r = 0;
	while (r == 0 && len > 0) {
		size_t n = (uint64_t) len < ZEROS ? (size_t) len : ZEROS;
		r = silo_layer_data (reader->layer, reader->zeros, n, err);
		len -= (int64_t) n;
		if (r == 0 && silo_import_cancelled (reader->import))
			r = silo_fail (err, SILO_CANCELLED, "stopped");
	}
	return r;
}

static int
give_bytes (struct reader *reader, struct member *member, int64_t len, struct silo_error *err)
{
	while (len > 0) {
		int r = reader_fill (reader, err);
		if (r < 0)
			return r;
		if (reader->left == 0)
			return reader_cut_short (reader, err);
		size_t n = (uint64_t) len < reader->left ? (size_t) len : reader->left;
		r = silo_layer_data (reader->layer, reader->at, n, err);
		if (r < 0)
			return r;
		reader->at += n;
		reader->left -= n;
		member->body -= (int64_t) n;
		len -= (int64_t) n;
	}
	return 0;
}

static int
give_file (struct reader *reader, struct member *member, struct silo_error *err)
{
	if (!member->sparse)
		return give_bytes (reader, member, member->body, err);
	int64_t at = 0;
	int r = 0;
	for (size_t i = 0; r == 0 && i < reader->n_parts; i++) {
		const struct part *part = &reader->parts[i];
		r = give_zeros (reader, part->offset - at, err);
		if (r == 0)
			r = give_bytes (reader, member, part->len, err);
		at = part->offset + part->len;
	}
	return r < 0 ? r : give_zeros (reader, member->size - at, err);
}

/* ".wh.NAME" and ".wh..wh..opq" say what to hide of the layers below.  1: it was one. */
static int
give_whiteout (struct reader *reader, const char *path, struct silo_error *err)
{
	static const char mark[] = ".wh.", opaque[] = ".wh..wh..opq";
	size_t len = strlen (path);
	while (len > 0 && path[len - 1] == '/')
		len--;
	size_t start = len;
	while (start > 0 && path[start - 1] != '/')
		start--;
	if (strncmp (path + start, mark, strlen (mark)) != 0)
		return 0;
	char *full = strndup (path, len);
	if (!full)
		return silo_fail_nomem (err);
	struct silo_entry entry = { .type = SILO_ENTRY_WHITEOUT, .path = full };
	char *name = full + start;
	int r = 0;
	if (strcmp (name, opaque) == 0) {
		entry.type = SILO_ENTRY_OPAQUE;
		memcpy (name, ".", 2);
	} else {
		memmove (name, name + strlen (mark), strlen (name + strlen (mark)) + 1);
		if (*name == '\0' || strcmp (name, ".") == 0 || strcmp (name, "..") == 0)
			r = reader_refuse (reader, err, "hides nothing");
	}
	if (r == 0)
		r = silo_layer_entry (reader->layer, &entry, err);
	free (full);
	return r < 0 ? r : 1;
}

/* 0: not a kind of file that images have. */
static enum silo_entry_type
entry_type (char type)
{
	switch (type) {
	case '\0':
	case '0':
	case '7': /* to be stored in one piece, where disks had such files */
	case 'S':
		return SILO_ENTRY_FILE;
	case '1':
		return SILO_ENTRY_HARDLINK;
	case '2':
		return SILO_ENTRY_SYMLINK;
	case '3':
		return SILO_ENTRY_CHAR;
	case '4':
		return SILO_ENTRY_BLOCK;
	case '5':
		return SILO_ENTRY_DIR;
	case '6':
		return SILO_ENTRY_FIFO;
	default:
		return 0;
	}
}

static int
entry_numbers (struct reader *reader, const struct member *member, struct silo_entry *entry,
	       struct silo_error *err)
{
	if (member->uid < 0 || member->uid > UINT32_MAX || member->gid < 0 ||
	    member->gid > UINT32_MAX)
		return reader_refuse (reader, err, "its owner %lld:%lld is out of range",
				      (long long) member->uid, (long long) member->gid);
	entry->uid = (uint32_t) member->uid;
	entry->gid = (uint32_t) member->gid;
	if (entry->type != SILO_ENTRY_CHAR && entry->type != SILO_ENTRY_BLOCK)
		return 0;
	if (member->major < 0 || member->major > UINT32_MAX || member->minor < 0 ||
	    member->minor > UINT32_MAX)
		return reader_refuse (reader, err, "its device number %lld:%lld is out of range",
				      (long long) member->major, (long long) member->minor);
	entry->rdev_major = (uint32_t) member->major;
	entry->rdev_minor = (uint32_t) member->minor;
	return 0;
}

/* The root folder's own entry says nothing: podman takes neither mode nor owner from it. */
static bool
is_root (const char *path)
{
	while (*path == '/' || (*path == '.' && (path[1] == '/' || path[1] == '\0')))
		path++;
	return *path == '\0';
}

/* In a layer, what overlayfs keeps on files is a mark for the mount, not contents: podman unpacks
 * it, and the mount acts on it and hides it.  Only that for an opaque folder is obeyed.  A pax
 * record without a value is as good as none.
 * Leaves both out; true: the folder is opaque. */
static bool
entry_marks (struct silo_entry *entry, struct silo_xattr *xattrs)
{
	static const char marks[] = "trusted.overlay.", nested[] = "trusted.overlay.overlay.";
	bool hides = false;
	size_t used = 0;
	for (size_t i = 0; i < entry->n_xattrs; i++) {
		struct silo_xattr xattr = xattrs[i];
		if (xattr.value.len == 0)
			continue;
		if (strncmp (xattr.name, nested, strlen (nested)) == 0) {
			/* The mount takes one "overlay." off what a mount within has left; the
			 * name is in the header's own buffer. */
			xattr.name = memcpy ((char *) xattr.name + strlen ("overlay."), "trusted.",
					     strlen ("trusted."));
			xattrs[used++] = xattr;
		} else if (strncmp (xattr.name, marks, strlen (marks)) != 0) {
			xattrs[used++] = xattr;
		} else if (strcmp (xattr.name + strlen (marks), "opaque") == 0) {
			hides = xattr.value.len == 1 && memcmp (xattr.value.data, "y", 1) == 0;
		}
	}
	entry->n_xattrs = used;
	return hides && entry->type == SILO_ENTRY_DIR;
}

/* An entry that hides what lower layers have at the same path. */
static int
give_hidden (struct reader *reader, enum silo_entry_type type, const char *path,
	     struct silo_error *err)
{
	const struct silo_entry entry = { .type = type, .path = path };
	return silo_layer_entry (reader->layer, &entry, err);
}

static int
member_give (struct reader *reader, struct member *member, struct silo_error *err)
{
	if (is_root (member->path) && *member->path)
		return 0;
	int r = give_whiteout (reader, member->path, err);
	if (r != 0)
		return r < 0 ? r : 0;
	struct silo_entry entry = {
		.type = entry_type (member->type),
		.path = member->path,
		.mode = (uint32_t) (member->mode & 07777),
		.mtime = member->mtime,
		.mtime_nsec = member->mtime_nsec,
		.xattrs = reader->pax.xattrs,
		.n_xattrs = reader->pax.n_xattrs,
	};
	if (!entry.type || (member->sparse && entry.type != SILO_ENTRY_FILE))
		return reader_refuse (reader, err, "type '%c' is none that images have",
				      member->type > ' ' && member->type < 0x7f ? member->type
										: '?');
	r = entry_numbers (reader, member, &entry, err);
	if (r < 0)
		return r;
	if (entry.type == SILO_ENTRY_HARDLINK || entry.type == SILO_ENTRY_SYMLINK)
		entry.target = member->target;
	if (entry.type == SILO_ENTRY_FILE)
		entry.size = member->size;
	/* A device 0/0 is overlayfs' own form of a whiteout. */
	if (entry.type == SILO_ENTRY_CHAR && entry.rdev_major == 0 && entry.rdev_minor == 0)
		return give_hidden (reader, SILO_ENTRY_WHITEOUT, entry.path, err);
	if (entry_marks (&entry, reader->pax.xattrs))
		r = give_hidden (reader, SILO_ENTRY_OPAQUE, entry.path, err);
	if (r == 0)
		r = silo_layer_entry (reader->layer, &entry, err);
	if (r == 0 && entry.size > 0)
		r = give_file (reader, member, err);
	return r;
}

/* -- a layer -------------------------------------------------------------------------------------- */

static int
reader_run (struct reader *reader, struct silo_error *err)
{
	struct member member;
	int64_t rest = 0;
	bool end = false;
	int r = 0;
	while (r == 0 && !end) {
		r = member_next (reader, &member, &end, err);
		if (r < 0 || end)
			break;
		reader->entries++;
		r = member_give (reader, &member, err);
		if (r == 0)
			r = member_skip (reader, &member, err);
	}
	/* The digest is of the whole blob. */
	return r < 0 ? r : reader_skip (reader, INT64_MAX, &rest, err);
}

int
tar_read (const struct tar_source *source, const char *name, struct silo_import *import,
	  struct silo_layer *layer, struct silo_error *err)
{
	struct reader reader = {
		.name = name,
		.import = import,
		.layer = layer,
		.shown = "its first entry",
		.special = SILO_BUF (MAX_SPECIAL + 1),
		.path = SILO_BUF (MAX_SPECIAL + 1),
		.target = SILO_BUF (MAX_SPECIAL + 1),
	};
	int r = stream_open (source, name, &reader.stream, err);
	if (r == 0)
		r = reader_run (&reader, err);
	stream_close (reader.stream);
	silo_buf_free (&reader.special);
	silo_buf_free (&reader.path);
	silo_buf_free (&reader.target);
	free (reader.pax.xattrs);
	free (reader.parts);
	free (reader.zeros);
	return r;
}
