/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layer-file.c - layer records: all entries of one layer, whose blob then need
 * not be fetched again.  Called by the threads that fill layers.  The format
 * is described in docs/formats/layer.md.  A record is never trusted: its
 * trailer is checked, every length is, and each entry goes through the same
 * checks as one that comes from an archive.
 */
#include "layers.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define LAYER_MAGIC    "silolyr1"
#define LAYER_HEAD     ((size_t) 8 + 32 + 8) /* magic, blob, number of entries */
#define LAYER_TAIL     ((size_t) 32)
#define LAYER_MAX_FILE ((int64_t) 4 << 30)

/* -- writing ---------------------------------------------------------------------- */

struct out {
	int fd;
	struct silo_hash *hash;
	struct silo_error *err;
	int r; /* the first error; nothing is written after it */
	size_t n;
	unsigned char buf[32768];
};

static void
out_flush (struct out *out)
{
	size_t done = 0;
	if (out->r == 0 && silo_hash_add (out->hash, out->buf, out->n) < 0)
		out->r = silo_fail (out->err, SILO_INTERNAL, "SHA-256 of a layer record");
	while (out->r == 0 && done < out->n) {
		ssize_t n = write (out->fd, out->buf + done, out->n - done);
		if (n < 0 && errno != EINTR)
			out->r = silo_fail_sys (out->err, errno, "writing a layer record");
		if (n > 0)
			done += (size_t) n;
	}
	out->n = 0;
}

static void
out_bytes (struct out *out, const void *data, size_t len)
{
	const unsigned char *from = data;
	while (len > 0) {
		size_t room = sizeof (out->buf) - out->n;
		size_t n = len < room ? len : room;
		memcpy (out->buf + out->n, from, n);
		out->n += n;
		from += n;
		len -= n;
		if (out->n == sizeof (out->buf))
			out_flush (out);
	}
}

/* Seven bits per byte, the lowest first; the top bit says that more follow. */
static void
out_number (struct out *out, uint64_t value)
{
	unsigned char bytes[10];
	size_t n = 0;
	for (; value >= 0x80; value >>= 7)
		bytes[n++] = (unsigned char) (value | 0x80);
	bytes[n++] = (unsigned char) value;
	out_bytes (out, bytes, n);
}

static void
out_fixed (struct out *out, uint64_t value)
{
	unsigned char bytes[8];
	for (size_t i = 0; i < sizeof (bytes); i++)
		bytes[i] = (unsigned char) (value >> 8 * i);
	out_bytes (out, bytes, sizeof (bytes));
}

/* With a NUL behind it that the length does not count. */
static void
out_text (struct out *out, const char *text)
{
	size_t len = strlen (text);
	out_number (out, len);
	out_bytes (out, text, len + 1);
}

static void
out_inode (struct out *out, const struct tree_entry *entry)
{
	static const struct tree_inode nothing = { 0 }; /* that a hard link says of its file */
	const struct tree_inode *inode = entry->inode ? entry->inode : &nothing;
	out_number (out, inode->mode & 07777);
	out_number (out, inode->uid);
	out_number (out, inode->gid);
	out_fixed (out, (uint64_t) inode->mtime);
	out_number (out, inode->mtime_nsec);
	out_number (out, inode->n_xattrs);
	for (uint32_t i = 0; i < inode->n_xattrs; i++) {
		out_text (out, inode->xattrs[i].name);
		out_number (out, inode->xattrs[i].len);
		out_bytes (out, inode->xattrs[i].value, inode->xattrs[i].len);
	}
	if (entry->type == SILO_ENTRY_CHAR || entry->type == SILO_ENTRY_BLOCK) {
		out_number (out, inode->rdev_major);
		out_number (out, inode->rdev_minor);
	}
	if (entry->type == SILO_ENTRY_SYMLINK)
		out_text (out, inode->target);
	if (entry->type != SILO_ENTRY_FILE)
		return;
	out_number (out, inode->size);
	if (inode->size > 0)
		out_bytes (out, inode->object.b, sizeof (inode->object.b));
}

static size_t
common_start (const char *a, const char *b)
{
	size_t n = 0;
	while (a[n] && a[n] == b[n])
		n++;
	return n;
}

static void
out_entries (struct out *out, const struct tree_layer *layer)
{
	const char *last = "";
	for (size_t i = 0; i < layer->n && out->r == 0; i++) {
		const struct tree_entry *entry = &layer->entries[i];
		size_t same = common_start (last, entry->path);
		size_t rest = strlen (entry->path + same);
		out_number (out, (uint64_t) entry->type);
		out_number (out, same);
		out_number (out, rest);
		out_bytes (out, entry->path + same, rest);
		if (entry->type == SILO_ENTRY_HARDLINK)
			out_text (out, entry->target);
		if (entry->inode || entry->type == SILO_ENTRY_HARDLINK)
			out_inode (out, entry);
		last = entry->path;
	}
}

int
layer_file_write (const struct tree_layer *layer, const struct silo_digest *blob, int fd,
		  struct silo_error *err)
{
	struct silo_digest tail;
	struct out *out = malloc (sizeof (*out));
	if (!out)
		return silo_fail_nomem (err);
	out->fd = fd;
	out->err = err;
	out->r = 0;
	out->n = 0;
	out->hash = silo_hash_new ();
	if (out->hash) {
		out_bytes (out, LAYER_MAGIC, 8);
		out_bytes (out, blob->b, sizeof (blob->b));
		out_fixed (out, layer->n);
		out_entries (out, layer);
		out_flush (out);
		if (out->r == 0 && silo_hash_end (out->hash, &tail) < 0)
			out->r = silo_fail (err, SILO_INTERNAL, "SHA-256 of a layer record");
		if (out->r == 0)
			out_bytes (out, tail.b, sizeof (tail.b));
		out_flush (out);
	} else {
		out->r = silo_fail_nomem (err);
	}
	int r = out->r;
	silo_hash_free (out->hash);
	free (out);
	return r;
}

/* -- reading ------------------------------------------------------------------------ */

struct in {
	const unsigned char *at, *end;
	bool bad; /* it ended too early, or holds what cannot be */
	/* the entry at hand */
	char path[TREE_MAX_PATH + 1];
	size_t path_len;
	struct silo_xattr *xattrs;
	size_t cap_xattrs;
	struct silo_digest object;
};

static const void *
in_bytes (struct in *in, uint64_t len)
{
	if (in->bad || len > (uint64_t) (in->end - in->at)) {
		in->bad = true;
		return NULL;
	}
	const void *at = in->at;
	in->at += len;
	return at;
}

static uint64_t
in_number (struct in *in)
{
	uint64_t value = 0;
	for (unsigned shift = 0; shift < 64; shift += 7) {
		const unsigned char *byte = in_bytes (in, 1);
		if (!byte)
			return 0;
		if (shift == 63 && *byte > 1)
			break;
		value |= (uint64_t) (*byte & 0x7f) << shift;
		if (*byte < 0x80)
			return value;
	}
	in->bad = true;
	return 0;
}

static uint32_t
in_number32 (struct in *in)
{
	uint64_t value = in_number (in);
	if (value > UINT32_MAX)
		in->bad = true;
	return (uint32_t) value;
}

static uint64_t
in_fixed (struct in *in)
{
	const unsigned char *bytes = in_bytes (in, 8);
	uint64_t value = 0;
	for (unsigned i = 0; bytes && i < 8; i++)
		value |= (uint64_t) bytes[i] << 8 * i;
	return value;
}

/* Stays in the record: it ends with a NUL there. */
static const char *
in_text (struct in *in)
{
	uint64_t len = in_number (in);
	const char *text = in_bytes (in, len < UINT32_MAX ? len + 1 : UINT64_MAX);
	if (!text || strnlen (text, (size_t) len + 1) != len) {
		in->bad = true;
		return NULL;
	}
	return text;
}

static int
in_xattrs (struct in *in, struct silo_entry *entry, struct silo_error *err)
{
	uint64_t n = in_number (in);
	/* Each takes three bytes at least. */
	if (n > (uint64_t) (in->end - in->at) / 3)
		in->bad = true;
	if (in->bad || n == 0)
		return 0;
	if (n > in->cap_xattrs) {
		struct silo_xattr *xattrs = reallocarray (in->xattrs, n, sizeof (*xattrs));
		if (!xattrs)
			return silo_fail_nomem (err);
		in->xattrs = xattrs;
		in->cap_xattrs = n;
	}
	for (uint64_t i = 0; i < n && !in->bad; i++) {
		in->xattrs[i].name = in_text (in);
		uint64_t len = in_number (in);
		in->xattrs[i].value = (struct silo_bytes){ in_bytes (in, len), len };
	}
	entry->xattrs = in->xattrs;
	entry->n_xattrs = n;
	return 0;
}

static int
in_inode (struct in *in, struct silo_entry *entry, struct silo_error *err)
{
	entry->mode = in_number32 (in);
	entry->uid = in_number32 (in);
	entry->gid = in_number32 (in);
	entry->mtime = (int64_t) in_fixed (in);
	entry->mtime_nsec = in_number32 (in);
	int r = in_xattrs (in, entry, err);
	if (r < 0)
		return r;
	if (entry->type == SILO_ENTRY_CHAR || entry->type == SILO_ENTRY_BLOCK) {
		entry->rdev_major = in_number32 (in);
		entry->rdev_minor = in_number32 (in);
	}
	if (entry->type == SILO_ENTRY_SYMLINK)
		entry->target = in_text (in);
	if (entry->type != SILO_ENTRY_FILE)
		return 0;
	uint64_t size = in_number (in);
	if (size > (uint64_t) TREE_MAX_FILE)
		in->bad = true;
	entry->size = (int64_t) size;
	const void *object = size > 0 ? in_bytes (in, sizeof (in->object.b)) : NULL;
	if (object)
		memcpy (in->object.b, object, sizeof (in->object.b));
	return 0;
}

static void
in_path (struct in *in)
{
	uint64_t same = in_number (in), rest = in_number (in);
	if (same > in->path_len || rest > TREE_MAX_PATH - same)
		in->bad = true;
	const char *more = in_bytes (in, rest);
	if (!more || memchr (more, '\0', (size_t) rest)) {
		in->bad = true;
		return;
	}
	memcpy (in->path + same, more, (size_t) rest);
	in->path_len = (size_t) (same + rest);
	in->path[in->path_len] = '\0';
}

static int
in_entry (struct in *in, struct tree_layer *layer, struct silo_error *err)
{
	uint64_t type = in_number (in);
	if (type < SILO_ENTRY_FILE || type > SILO_ENTRY_OPAQUE)
		in->bad = true;
	struct silo_entry entry = { .type = in->bad ? SILO_ENTRY_FILE : (enum silo_entry_type) type,
				    .path = in->path };
	int r = 0;
	in_path (in);
	if (entry.type == SILO_ENTRY_HARDLINK)
		entry.target = in_text (in);
	if (entry.type != SILO_ENTRY_WHITEOUT && entry.type != SILO_ENTRY_OPAQUE)
		r = in_inode (in, &entry, err);
	if (r == 0 && in->bad)
		return silo_fail (err, SILO_DATALOSS, "layer record: entry %zu is damaged",
				  layer->n);
	if (r == 0)
		r = tree_layer_add (layer, &entry, err);
	if (r == 0 && entry.type == SILO_ENTRY_FILE && entry.size > 0)
		tree_layer_object (layer, &in->object);
	return r;
}

static int
in_entries (struct in *in, struct tree_layer *layer, struct silo_error *err)
{
	uint64_t n = in_fixed (in);
	for (uint64_t i = 0; i < n; i++) {
		int r = in_entry (in, layer, err);
		if (r == SILO_EXHAUSTED)
			return r;
		if (r < 0)
			return err ? err->code = SILO_DATALOSS : SILO_DATALOSS;
	}
	if (in->at != in->end)
		return silo_fail (err, SILO_DATALOSS, "layer record: %zu bytes too many",
				  (size_t) (in->end - in->at));
	return 0;
}

int
layer_file_read (const void *data, size_t len, struct tree_layer **ret, struct silo_error *err)
{
	const unsigned char *bytes = data;
	struct silo_digest tail;
	if (len < LAYER_HEAD + LAYER_TAIL || memcmp (bytes, LAYER_MAGIC, 8) != 0)
		return silo_fail (err, SILO_DATALOSS, "this is no layer record");
	int r = silo_digest_of (bytes, len - LAYER_TAIL, &tail, err);
	if (r < 0)
		return r;
	if (memcmp (tail.b, bytes + len - LAYER_TAIL, LAYER_TAIL) != 0)
		return silo_fail (err, SILO_DATALOSS, "layer record: its SHA-256 is another");

	struct in *in = calloc (1, sizeof (*in));
	if (!in)
		return silo_fail_nomem (err);
	struct tree_layer *layer = NULL;
	in->at = bytes + 8 + 32;
	in->end = bytes + len - LAYER_TAIL;
	r = tree_layer_new ("record", &layer, err);
	if (r == 0)
		r = in_entries (in, layer, err);
	free (in->xattrs);
	free (in);
	if (r < 0) {
		tree_layer_free (layer);
		return r;
	}
	*ret = layer;
	return 0;
}

/* -- the folder ----------------------------------------------------------------------- */

int
layer_folder_open (struct core *core, int *ret_fd, struct silo_error *err)
{
	char path[PATH_MAX];
	int r = silo_state_path (&core->host, "layers", path, sizeof (path), err);
	if (r == 0)
		r = files_mkdir (path, err);
	if (r < 0)
		return r;
	int fd = open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return silo_fail_sys (err, errno, "%s", path);
	*ret_fd = fd;
	return 0;
}

/* Has the store all objects, each as long as it should be? */
static int
objects_there (struct silo_instance *content, const struct tree_layer *layer,
	       struct silo_error *err)
{
	for (size_t i = 0; i < layer->n; i++) {
		const struct tree_inode *inode = layer->entries[i].inode;
		int64_t size = -1;
		if (layer->entries[i].type != SILO_ENTRY_FILE || inode->size == 0)
			continue;
		int r = silo_content_stat (content, &inode->object, &size, err);
		if (r == 0 && size != (int64_t) inode->size)
			r = silo_fail (err, SILO_NOTFOUND, "%s: its object has %lld bytes",
				       layer->entries[i].path, (long long) size);
		if (r < 0)
			return r;
	}
	return 0;
}

static int
record_map (int folder, const char *name, void **ret, size_t *ret_len, struct silo_error *err)
{
	struct stat st;
	_cleanup_close_ int fd =
	    openat (folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return silo_fail_sys (err, errno, "layers/%s", name);
	if (fstat (fd, &st) < 0)
		return silo_fail_sys (err, errno, "layers/%s", name);
	if (!S_ISREG (st.st_mode) || st.st_size == 0 || st.st_size > LAYER_MAX_FILE)
		return silo_fail (err, SILO_DATALOSS, "layers/%s is no layer record", name);
	void *data = mmap (NULL, (size_t) st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (data == MAP_FAILED)
		return silo_fail_sys (err, errno, "layers/%s", name);
	*ret = data;
	*ret_len = (size_t) st.st_size;
	return 0;
}

int
layer_load (int folder, struct silo_instance *content, const struct silo_digest *blob,
	    struct tree_layer **ret, struct silo_error *err)
{
	char name[SILO_DIGEST_HEX + 1];
	struct tree_layer *layer = NULL;
	void *data = NULL;
	size_t len = 0;
	silo_digest_hex (blob, name);
	int r = record_map (folder, name, &data, &len, err);
	if (r < 0)
		return r;
	r = layer_file_read (data, len, &layer, err);
	if (r == 0 && memcmp ((const char *) data + 8, blob->b, sizeof (blob->b)) != 0)
		r = silo_fail (err, SILO_DATALOSS, "layers/%s is of another blob", name);
	munmap (data, len);
	if (r == 0 && content)
		r = objects_there (content, layer, err);
	if (r < 0) {
		tree_layer_free (layer);
		return r;
	}
	*ret = layer;
	return 0;
}

int
layer_save (int folder, const struct silo_digest *blob, const struct tree_layer *layer,
	    struct silo_error *err)
{
	char name[SILO_DIGEST_HEX + 1], temp[32];
	uint64_t random = 0;
	int r = silo_random (&random, sizeof (random), err);
	if (r < 0)
		return r;
	silo_digest_hex (blob, name);
	snprintf (temp, sizeof (temp), "new-%016llx", (unsigned long long) random);
	_cleanup_close_ int fd =
	    openat (folder, temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return silo_fail_sys (err, errno, "layers/%s", temp);
	r = layer_file_write (layer, blob, fd, err);
	if (r == 0)
		r = fault_at ("layer-written", err);
	if (r == 0 && renameat (folder, temp, folder, name) < 0)
		r = silo_fail_sys (err, errno, "layers/%s", name);
	if (r < 0) {
		unlinkat (folder, temp, 0);
		return r;
	}
	return fault_at ("layer-renamed", err);
}
