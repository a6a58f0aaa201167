/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layer.c - unpacks layers: blob -> SHA-256 -> gzip or zstd -> tar -> entries.
 * Threads of its own, as many as there are processors, take one layer after
 * the other; each fills its own struct silo_layer.  A wrong digest shows only
 * at a layer's end: what was delivered by then is thrown away with the import.
 */
#include "oci.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <locale.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK       ((size_t) 256 << 10)
#define MAX_XATTRS  4096
#define MAX_THREADS 8

/* All layers of one import. */
struct unpack {
	const struct blobs *blobs;
	const struct manifest *manifest;
	struct silo_import *import;
	struct silo_layer *layers[OCI_MAX_LAYERS];
	int64_t total; /* bytes of all blobs */
	_Atomic int64_t done;
	_Atomic size_t next;  /* layer that nobody has taken */
	_Atomic bool failed;  /* the others need not go on */
	pthread_mutex_t lock; /* error */
	struct silo_error error;
};

/* One layer, read by one thread. */
struct reader {
	struct unpack *unpack;
	const struct blob *blob;
	struct silo_layer *layer;
	struct archive *archive;
	struct silo_hash *hash;
	int fd;
	int64_t read;
	char *chunk;
	struct silo_xattr *xattrs;
	size_t cap_xattrs;
};

/* -- bytes of the blob -------------------------------------------------------------- */

static bool
reader_stopped (const struct reader *reader)
{
	return atomic_load (&reader->unpack->failed) ||
	       silo_import_cancelled (reader->unpack->import);
}

/* The next bytes, counted and hashed; -1 with errno. */
static ssize_t
reader_read (struct reader *reader)
{
	struct unpack *unpack = reader->unpack;
	ssize_t n;
	if (reader_stopped (reader)) {
		errno = ECANCELED;
		return -1;
	}
	while ((n = read (reader->fd, reader->chunk, CHUNK)) < 0 && errno == EINTR)
		;
	if (n <= 0)
		return n;
	if (silo_hash_add (reader->hash, reader->chunk, (size_t) n) < 0) {
		errno = EIO;
		return -1;
	}
	reader->read += n;
	int64_t done = atomic_fetch_add (&unpack->done, n) + n;
	silo_import_progress (unpack->import, "unpacking", done, unpack->total);
	return n;
}

static la_ssize_t
archive_wants (struct archive *archive, void *arg, const void **ret)
{
	struct reader *reader = arg;
	ssize_t n = reader_read (reader);
	if (n < 0)
		archive_set_error (archive, errno, "read: %s", strerror (errno));
	*ret = reader->chunk;
	return n;
}

static int
reader_fail (struct reader *reader, struct silo_error *err)
{
	if (silo_import_cancelled (reader->unpack->import))
		return silo_fail (err, SILO_CANCELLED, "stopped");
	const char *why = archive_error_string (reader->archive);
	return silo_fail (err, SILO_DATALOSS, "layer %s: damaged archive: %.120s",
			  reader->blob->name, why ? why : "no details");
}

/* Read what follows the archive, too: the digest is of the whole blob. */
static int
reader_verify (struct reader *reader, struct silo_error *err)
{
	struct silo_digest digest;
	ssize_t n;
	while ((n = reader_read (reader)) > 0)
		;
	if (n < 0)
		return silo_fail_sys (err, errno, "layer %s: read", reader->blob->name);
	if (silo_hash_end (reader->hash, &digest) < 0)
		return silo_fail (err, SILO_INTERNAL, "layer %s: SHA-256", reader->blob->name);
	if (!silo_digest_equal (&digest, &reader->blob->digest))
		return silo_fail (err, SILO_DATALOSS, "layer %s: its bytes do not have this digest",
				  reader->blob->name);
	return 0;
}

/* -- entries -------------------------------------------------------------------------- */

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
					  reader->blob->name);
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
				  reader->blob->name, entry->path, n);
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
		return silo_fail (err, SILO_INVALID, "layer %s: %.100s hides nothing",
				  reader->blob->name, path);
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
				  reader->blob->name);
	int r = give_whiteout (reader, path, err);
	if (r != 0)
		return r < 0 ? r : 0;
	struct silo_entry entry = { .type = entry_type (from), .path = path };
	if (!entry.type) {
		if (archive_entry_filetype (from) == AE_IFSOCK)
			return 0; /* nobody listens on it */
		return silo_fail (err, SILO_INVALID, "layer %s: %.100s is of an unknown type",
				  reader->blob->name, path);
	}
	int64_t uid = archive_entry_uid (from), gid = archive_entry_gid (from);
	dev_t major = archive_entry_rdevmajor (from), minor = archive_entry_rdevminor (from);
	if (uid < 0 || uid > UINT32_MAX || gid < 0 || gid > UINT32_MAX || major > UINT32_MAX ||
	    minor > UINT32_MAX)
		return silo_fail (err, SILO_INVALID,
				  "layer %s: %.100s: owner or device number is out of range",
				  reader->blob->name, path);
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

/* -- a layer ---------------------------------------------------------------------------- */

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
	int r = reader_verify (reader, err);
	return r < 0 ? r : silo_layer_end (reader->layer, err);
}

/* What a damaged layer looks like from inside says little: when its digest is wrong, that is
 * what is wrong. */
static int
reader_diagnose (struct reader *reader, int r, struct silo_error *err)
{
	struct silo_error why = { 0 };
	if (r == SILO_CANCELLED || r == SILO_EXHAUSTED ||
	    reader_verify (reader, &why) != SILO_DATALOSS)
		return r;
	return silo_fail (err, why.code, "%s", why.msg);
}

static int
layer_read (struct unpack *unpack, size_t i, struct silo_error *err)
{
	struct reader reader = {
		.unpack = unpack,
		.blob = &unpack->manifest->layers[i],
		.layer = unpack->layers[i],
		.archive = archive_read_new (),
		.hash = silo_hash_new (),
		.fd = -1,
		.chunk = malloc (CHUNK),
	};
	int r = reader.archive && reader.hash && reader.chunk ? 0 : silo_fail_nomem (err);
	if (r == 0) {
		r = blob_open (unpack->blobs, reader.blob, &reader.fd, err);
		if (r < 0)
			silo_wrap (err, "layer %s", reader.blob->name);
	}
	if (r == 0) {
		r = reader_run (&reader, err);
		if (r < 0)
			r = reader_diagnose (&reader, r, err);
	}
	if (reader.archive)
		archive_read_free (reader.archive);
	silo_hash_free (reader.hash);
	if (reader.fd >= 0)
		close (reader.fd);
	free (reader.chunk);
	free (reader.xattrs);
	return r;
}

static void *
unpack_thread (void *arg)
{
	struct unpack *unpack = arg;
	/* Names are bytes.  In a UTF-8 locale libarchive would normalise them, and two files
	 * could become one. */
	locale_t bytes = newlocale (LC_ALL_MASK, "C", NULL);
	locale_t old = bytes ? uselocale (bytes) : NULL;
	size_t i;
	while (!atomic_load (&unpack->failed) &&
	       (i = atomic_fetch_add (&unpack->next, 1)) < unpack->manifest->n) {
		struct silo_error err = { 0 };
		int r = bytes ? layer_read (unpack, i, &err) : silo_fail_nomem (&err);
		if (r == 0)
			continue;
		pthread_mutex_lock (&unpack->lock);
		if (!atomic_exchange (&unpack->failed, true))
			unpack->error = err;
		pthread_mutex_unlock (&unpack->lock);
	}
	if (bytes) {
		uselocale (old);
		freelocale (bytes);
	}
	return NULL;
}

static size_t
thread_count (size_t layers)
{
	long cpus = sysconf (_SC_NPROCESSORS_ONLN);
	size_t n = cpus > 0 ? (size_t) cpus : 1;
	n = n < MAX_THREADS ? n : MAX_THREADS;
	return n < layers ? n : layers;
}

static int
unpack_run (struct unpack *unpack, struct silo_error *err)
{
	pthread_t threads[MAX_THREADS];
	size_t want = thread_count (unpack->manifest->n), n = 0;
	/* This thread is one of them, so it goes on even if no other can be had. */
	while (n + 1 < want && pthread_create (&threads[n], NULL, unpack_thread, unpack) == 0)
		n++;
	unpack_thread (unpack);
	for (size_t i = 0; i < n; i++)
		pthread_join (threads[i], NULL);
	if (atomic_load (&unpack->failed))
		return silo_fail (err, unpack->error.code, "%s", unpack->error.msg);
	return 0;
}

int
layers_read (const struct blobs *blobs, const struct manifest *manifest, struct silo_import *import,
	     struct silo_error *err)
{
	struct unpack *unpack = calloc (1, sizeof (*unpack));
	if (!unpack)
		return silo_fail_nomem (err);
	unpack->blobs = blobs;
	unpack->manifest = manifest;
	unpack->import = import;
	pthread_mutex_init (&unpack->lock, NULL);
	int r = 0;
	for (size_t i = 0; r == 0 && i < manifest->n; i++) {
		if (__builtin_add_overflow (unpack->total, manifest->layers[i].size,
					    &unpack->total))
			r = silo_fail (err, SILO_INVALID, "layer %s: impossible size",
				       manifest->layers[i].name);
		if (r == 0)
			r = silo_import_layer (import, manifest->layers[i].name, &unpack->layers[i],
					       err);
	}
	if (r == 0)
		r = unpack_run (unpack, err);
	pthread_mutex_destroy (&unpack->lock);
	free (unpack);
	return r;
}
