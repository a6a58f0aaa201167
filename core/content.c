/* SPDX-License-Identifier: Apache-2.0 */
/*
 * content.c - what every user of a content store calls: the operations of the
 * instance, with something in place of those that are optional.  Any thread;
 * a writer belongs to one thread at a time.
 */
#include "core.h"

#include <fcntl.h>
#include <sys/mman.h>

#define CONTENT_CHUNK ((size_t) 1 << 18)

int
silo_content_stat (struct silo_instance *content, const struct silo_digest *digest,
		   int64_t *ret_size, struct silo_error *err)
{
	return instance_call (content, content, stat, digest, ret_size, err);
}

int
silo_content_read (struct silo_instance *content, const struct silo_digest *digest, int64_t offset,
		   void *to, size_t len, size_t *ret_len, struct silo_error *err)
{
	return instance_call (content, content, read, digest, offset, to, len, ret_len, err);
}

int
silo_content_add (struct silo_instance *content, int fd, struct silo_digest *ret_digest,
		  int64_t *ret_size, struct silo_error *err)
{
	return instance_call (content, content, add, fd, ret_digest, ret_size, err);
}

int
silo_content_remove (struct silo_instance *content, const struct silo_digest *digest,
		     struct silo_error *err)
{
	return instance_call (content, content, remove, digest, err);
}

int
silo_content_each (struct silo_instance *content, silo_object_fn *fn, void *arg,
		   struct silo_error *err)
{
	return instance_call (content, content, each, fn, arg, err);
}

const char *
silo_content_folder (struct silo_instance *content)
{
	if (!instance_ops (content, content)->folder)
		return NULL;
	struct silo_instance *i = content;
	instance_enter (i);
	const char *folder = instance_ops (i, content)->folder (i->self);
	instance_leave (i);
	return folder;
}

int
silo_content_sync (struct silo_instance *content, struct silo_error *err)
{
	if (!instance_ops (content, content)->sync)
		return 0;
	return instance_call (content, content, sync, err);
}

/* -- anonymous files, for stores that hand out no descriptors ------------------- */

static int
content_write (struct silo_instance *content, int fd, const void *data, size_t len,
	       struct silo_error *err)
{
	const char *p = data;

	while (len > 0) {
		ssize_t n = write (fd, p, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int sys = errno;
			const char *folder = silo_content_folder (content);
			return silo_fail_sys (err, sys, "writing an object to %s",
					      folder ? folder : silo_state (&content->host));
		}
		p += n;
		len -= (size_t) n;
	}
	return 0;
}

/* A file below the state folder that has no name: objects may be larger than memory. */
static int
content_temp (struct silo_instance *content, int *ret_fd, struct silo_error *err)
{
	const char *state = silo_state (&content->host);

	int fd = open (state, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT))
		fd = memfd_create ("silo-object", MFD_CLOEXEC);
	if (fd < 0)
		return silo_fail_sys (err, errno, "temporary file in %s", state);
	*ret_fd = fd;
	return 0;
}

static int
content_copy (struct silo_instance *content, const struct silo_digest *digest, int fd,
	      struct silo_error *err)
{
	_cleanup_free_ char *chunk = malloc (CONTENT_CHUNK);
	int64_t size, offset = 0;

	if (!chunk)
		return silo_fail_nomem (err);
	int r = silo_content_stat (content, digest, &size, err);
	while (r == 0 && offset < size) {
		size_t n = 0;
		r = silo_content_read (content, digest, offset, chunk, CONTENT_CHUNK, &n, err);
		if (r == 0 && n == 0)
			return silo_fail (err, SILO_DATALOSS,
					  "an object ends after %lld of %lld bytes",
					  (long long) offset, (long long) size);
		if (r == 0)
			r = content_write (content, fd, chunk, n, err);
		offset += (int64_t) n;
	}
	return r;
}

/* A read-only descriptor of the file that `fd` can write. */
static int
content_reopen (int fd, int *ret_fd, struct silo_error *err)
{
	char path[64];

	snprintf (path, sizeof (path), "/proc/self/fd/%d", fd);
	int again = open (path, O_RDONLY | O_CLOEXEC);
	if (again < 0)
		return silo_fail_sys (err, errno, "%s", path);
	*ret_fd = again;
	return 0;
}

int
silo_content_open (struct silo_instance *content, const struct silo_digest *digest, int *ret_fd,
		   struct silo_error *err)
{
	if (instance_ops (content, content)->open)
		return instance_call (content, content, open, digest, ret_fd, err);

	_cleanup_close_ int fd = -1;
	int r = content_temp (content, &fd, err);
	if (r == 0)
		r = content_copy (content, digest, fd, err);
	if (r == 0)
		r = content_reopen (fd, ret_fd, err);
	return r;
}

/* -- writing piece by piece ------------------------------------------------------- */

#define WRITER_MAGIC 0x3317e500u

struct silo_writer {
	uint32_t magic;
	struct silo_instance *content;
	struct silo_hash *hash; /* NULL: the digest is known before */
	int64_t size;
	int fd;      /* of the store's stage, or of a temporary file */
	void *stage; /* the store's; it closes fd */
	bool staged;
};

static int
writer_begin (struct silo_instance *content, struct silo_writer *writer, struct silo_error *err)
{
	*writer = (struct silo_writer){ .magic = WRITER_MAGIC, .content = content, .fd = -1 };
	if (!instance_ops (content, content)->stage)
		return content_temp (content, &writer->fd, err);
	int r = instance_call (content, content, stage, &writer->fd, &writer->stage, err);
	writer->staged = r == 0;
	return r;
}

/* Free what the writer holds; a stage has been taken by the store. */
static void
writer_end (struct silo_writer *writer)
{
	if (!writer->staged && writer->fd >= 0)
		close (writer->fd);
	silo_hash_free (writer->hash);
	writer->magic = 0;
}

/* Throw away what was written, and free. */
static void
writer_drop (struct silo_writer *writer)
{
	if (writer->staged) {
		struct silo_instance *i = writer->content;
		instance_enter (i);
		instance_ops (i, content)->abort (i->self, writer->stage);
		instance_leave (i);
	}
	writer_end (writer);
}

/* What the store is given has to be what was hashed; if the store counts differently the
 * temporary file was damaged on the way. */
static int
writer_add_file (struct silo_writer *writer, const struct silo_digest *digest,
		 struct silo_error *err)
{
	struct silo_digest stored;
	int64_t size;

	int r = silo_content_add (writer->content, writer->fd, &stored, &size, err);
	if (r == 0 && (!silo_digest_equal (&stored, digest) || size != writer->size))
		return silo_fail (err, SILO_DATALOSS, "%s stored other bytes than were written",
				  writer->content->host.name);
	return r;
}

/* Publish what was written, and free, also on failure. */
static int
writer_publish (struct silo_writer *writer, const struct silo_digest *digest,
		struct silo_error *err)
{
	struct silo_instance *content = writer->content;
	int r = fault_at ("object-staged", err);
	if (r < 0) {
		writer_drop (writer);
		return r;
	}
	if (writer->staged)
		r = instance_call (content, content, commit, writer->stage, digest, err);
	else
		r = writer_add_file (writer, digest, err);
	writer_end (writer);
	return r < 0 ? r : fault_at ("object-stored", err);
}

/* Is the object there, whole?  A shorter one was cut by a power loss: it is removed. */
static int
content_has (struct silo_instance *content, const struct silo_digest *digest, int64_t size,
	     bool *ret, struct silo_error *err)
{
	struct silo_error said = { 0 };
	int64_t there = -1;
	int r = silo_content_stat (content, digest, &there, &said);
	if (r < 0 && r != SILO_NOTFOUND)
		return silo_fail (err, r, "%s", said.msg);
	*ret = r == 0 && there == size;
	if (r == 0 && there != size)
		r = silo_content_remove (content, digest, &said);
	return r == SILO_NOTFOUND || r == 0 ? 0 : silo_fail (err, r, "%s", said.msg);
}

int
silo_writer_open (struct silo_instance *content, struct silo_writer **ret, struct silo_error *err)
{
	struct silo_writer *writer = malloc (sizeof (*writer));
	if (!writer)
		return silo_fail_nomem (err);
	int r = writer_begin (content, writer, err);
	if (r == 0) {
		writer->hash = silo_hash_new ();
		if (writer->hash) {
			*ret = writer;
			return 0;
		}
		writer_drop (writer);
		r = silo_fail_nomem (err);
	}
	free (writer);
	return r;
}

int
silo_writer_add (struct silo_writer *writer, const void *data, size_t len, struct silo_error *err)
{
	assert (writer->magic == WRITER_MAGIC);
	int r = silo_hash_add (writer->hash, data, len);
	if (r < 0)
		return silo_fail (err, r, "hashing an object");
	r = content_write (writer->content, writer->fd, data, len, err);
	if (r == 0)
		writer->size += (int64_t) len;
	return r;
}

int
content_commit (struct silo_writer *writer, struct silo_digest *ret_digest, int64_t *ret_size,
		bool *ret_new, struct silo_error *err)
{
	assert (writer->magic == WRITER_MAGIC);
	struct silo_digest digest;
	int64_t size = writer->size;
	bool there = false;

	int r = silo_hash_end (writer->hash, &digest);
	if (r < 0)
		r = silo_fail (err, r, "hashing an object");
	else
		r = content_has (writer->content, &digest, size, &there, err);
	if (r < 0 || there) {
		silo_writer_abort (writer);
	} else {
		r = writer_publish (writer, &digest, err);
		free (writer);
	}
	if (r < 0)
		return r;
	*ret_digest = digest;
	*ret_size = size;
	*ret_new = !there;
	return 0;
}

int
silo_writer_commit (struct silo_writer *writer, struct silo_digest *ret_digest, int64_t *ret_size,
		    struct silo_error *err)
{
	bool is_new;
	return content_commit (writer, ret_digest, ret_size, &is_new, err);
}

void
silo_writer_abort (struct silo_writer *writer)
{
	if (!writer)
		return;
	assert (writer->magic == WRITER_MAGIC);
	writer_drop (writer);
	free (writer);
}

/* -- bytes whose digest is known -------------------------------------------------------- */

int
content_put (struct silo_instance *content, const struct silo_digest *digest,
	     const struct silo_bytes *parts, size_t n_parts, bool *ret_new, struct silo_error *err)
{
	struct silo_writer writer;
	int64_t size = 0;
	bool there = false;
	for (size_t i = 0; i < n_parts; i++)
		size += (int64_t) parts[i].len;
	int r = content_has (content, digest, size, &there, err);
	if (r == 0 && !there)
		r = writer_begin (content, &writer, err);
	if (r < 0 || there) {
		if (r == 0)
			*ret_new = false;
		return r;
	}
	for (size_t i = 0; r == 0 && i < n_parts; i++)
		r = content_write (content, writer.fd, parts[i].data, parts[i].len, err);
	if (r < 0) {
		writer_drop (&writer);
		return r;
	}
	writer.size = size;
	r = writer_publish (&writer, digest, err);
	if (r == 0)
		*ret_new = true;
	return r;
}
