/* SPDX-License-Identifier: Apache-2.0 */
/*
 * silo/content.h - the content kind: objects, each one regular file's bytes
 * named by their SHA-256.  Objects never change.  Operations of every content
 * plugin may run on several threads, and in several processes, at once.
 *
 * Plugins that use a content store (rootfs, stacked content) get it as a
 * `struct silo_instance *` and call the silo_content_ functions below, which
 * fill in for optional operations that a plugin lacks.
 */
#ifndef SILO_CONTENT_H
#define SILO_CONTENT_H

#include <stdint.h>
#include <sys/types.h>
#include <silo/bytes.h>
#include <silo/plugin.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int silo_object_fn (void *arg, const struct silo_digest *digest, int64_t size);

struct silo_content_ops {
	/* required: its size, or SILO_NOTFOUND */
	int (*stat) (void *self, const struct silo_digest *digest, int64_t *ret_size,
		     struct silo_error *err);
	/* required: up to len bytes at offset; *ret_len is less only at the end */
	int (*read) (void *self, const struct silo_digest *digest, int64_t offset, void *to,
		     size_t len, size_t *ret_len, struct silo_error *err);
	/* required: store all bytes of the file behind `fd` (from offset 0) and say what
	 * they are called.  Storing what is there already succeeds and changes nothing. */
	int (*add) (void *self, int fd, struct silo_digest *ret_digest, int64_t *ret_size,
		    struct silo_error *err);
	/* required */
	int (*remove) (void *self, const struct silo_digest *digest, struct silo_error *err);
	/* required: every object, in any order; fn returns 0 to go on */
	int (*each) (void *self, silo_object_fn *fn, void *arg, struct silo_error *err);

	/* optional: a read-only descriptor, for stores on this machine */
	int (*open) (void *self, const struct silo_digest *digest, int *ret_fd,
		     struct silo_error *err);
	/* optional: the folder that holds object abcdef... as ab/cdef..., for kernel
	 * mounts; borrowed as long as the instance lives.  NULL: there is none */
	const char *(*folder) (void *self);
	/* optional, all three or none: write an object without copying it.  stage gives a
	 * writable empty file of the store (*ret_stage names it to commit or abort, which
	 * both close fd); commit publishes it under `digest`, which the caller has computed
	 * of exactly what it wrote.  A stage that is never committed disappears at the
	 * latest with the next start. */
	int (*stage) (void *self, int *ret_fd, void **ret_stage, struct silo_error *err);
	int (*commit) (void *self, void *stage, const struct silo_digest *digest,
		       struct silo_error *err);
	void (*abort) (void *self, void *stage);
	/* optional: return when everything committed so far would survive a power cut */
	int (*sync) (void *self, struct silo_error *err);
};

SILO_API int silo_content_stat (struct silo_instance *content, const struct silo_digest *digest,
				int64_t *ret_size, struct silo_error *err);
SILO_API int silo_content_read (struct silo_instance *content, const struct silo_digest *digest,
				int64_t offset, void *to, size_t len, size_t *ret_len,
				struct silo_error *err);
/* A plugin without `open`: the object is read into an anonymous file. */
SILO_API int silo_content_open (struct silo_instance *content, const struct silo_digest *digest,
				int *ret_fd, struct silo_error *err);
SILO_API int silo_content_add (struct silo_instance *content, int fd,
			       struct silo_digest *ret_digest, int64_t *ret_size,
			       struct silo_error *err);
SILO_API int silo_content_remove (struct silo_instance *content, const struct silo_digest *digest,
				  struct silo_error *err);
SILO_API int silo_content_each (struct silo_instance *content, silo_object_fn *fn, void *arg,
				struct silo_error *err);
/* NULL when the store has no such folder. */
SILO_API const char *silo_content_folder (struct silo_instance *content);
SILO_API int silo_content_sync (struct silo_instance *content, struct silo_error *err);

/* Write an object piece by piece; works with every plugin. */
struct silo_writer;
SILO_API int silo_writer_open (struct silo_instance *content, struct silo_writer **ret,
			       struct silo_error *err);
SILO_API int silo_writer_add (struct silo_writer *writer, const void *data, size_t len,
			      struct silo_error *err);
/* Publish (unless it is there already) and free the writer, also on failure. */
SILO_API int silo_writer_commit (struct silo_writer *writer, struct silo_digest *ret_digest,
				 int64_t *ret_size, struct silo_error *err);
/* Throw away and free; NULL is allowed. */
SILO_API void silo_writer_abort (struct silo_writer *writer);

#ifdef __cplusplus
}
#endif
#endif
