/* SPDX-License-Identifier: Apache-2.0 */
/*
 * silo/meta.h - read an image's metadata file: the whole tree without the
 * bytes of its files.  The format is EROFS in composefs' layout, described in
 * docs/formats/metadata.md.  The reader checks every offset: a damaged or
 * hostile file gives SILO_DATALOSS, never a bad access.  A `struct silo_meta`
 * is immutable; any number of threads may use it.
 */
#ifndef SILO_META_H
#define SILO_META_H

#include <stdbool.h>
#include <stdint.h>
#include <silo/bytes.h>

#ifdef __cplusplus
extern "C" {
#endif

struct silo_meta;

/* An inode: `ino` is the EROFS nid, the same in every mount of the file. */
struct silo_meta_inode {
	uint64_t ino;
	uint32_t mode; /* type and permissions, as st_mode */
	uint32_t uid, gid;
	uint32_t nlink;
	uint64_t rdev; /* makedev (), devices only */
	uint64_t size; /* regular files: bytes; symlinks: length of the target */
	int64_t mtime;
	uint32_t mtime_nsec;
	bool has_object;           /* a regular file with bytes: `object` names them */
	struct silo_digest object; /* else all zero */
};

SILO_API int silo_meta_open (const char *path, struct silo_meta **ret, struct silo_error *err);
SILO_API void silo_meta_close (struct silo_meta *meta);
SILO_API uint64_t silo_meta_root (const struct silo_meta *meta);
SILO_API uint64_t silo_meta_inodes (const struct silo_meta *meta); /* how many */

SILO_API int silo_meta_stat (const struct silo_meta *meta, uint64_t ino,
			     struct silo_meta_inode *ret, struct silo_error *err);
/* SILO_NOTFOUND when the folder has no such name. */
SILO_API int silo_meta_lookup (const struct silo_meta *meta, uint64_t dir, const char *name,
			       size_t name_len, uint64_t *ret_ino, struct silo_error *err);

/* Entries of a folder from position `from` (0 is the start) on, "." and ".."
 * included.  `next` is the position after the entry.  fn returns 0 to go on. */
typedef int silo_meta_dirent_fn (void *arg, const char *name, size_t name_len, uint64_t ino,
				 uint32_t type /* S_IFREG ... */, uint64_t next);
SILO_API int silo_meta_readdir (const struct silo_meta *meta, uint64_t dir, uint64_t from,
				silo_meta_dirent_fn *fn, void *arg, struct silo_error *err);
/* Borrowed; not terminated. */
SILO_API int silo_meta_readlink (const struct silo_meta *meta, uint64_t ino, struct silo_bytes *ret,
				 struct silo_error *err);
/* The image's own extended attributes, full names ("security.capability"); those that the
 * format itself needs are hidden.  `name` is terminated. */
typedef int silo_meta_xattr_fn (void *arg, const char *name, struct silo_bytes value);
SILO_API int silo_meta_xattrs (const struct silo_meta *meta, uint64_t ino, silo_meta_xattr_fn *fn,
			       void *arg, struct silo_error *err);
/* Every inode once, in the order of the file. */
typedef int silo_meta_inode_fn (void *arg, const struct silo_meta_inode *inode);
SILO_API int silo_meta_each (const struct silo_meta *meta, silo_meta_inode_fn *fn, void *arg,
			     struct silo_error *err);

/* Resolve an absolute path within the image, following symlinks but never
 * leaving the image. */
SILO_API int silo_meta_resolve (const struct silo_meta *meta, const char *path, uint64_t *ret_ino,
				struct silo_error *err);

#ifdef __cplusplus
}
#endif
#endif
