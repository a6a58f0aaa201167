/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meta-format.h - the bytes of a metadata file: the subset of EROFS that
 * meta-write.c writes and meta-read.c accepts (docs/formats/metadata.md).  All
 * numbers are little-endian and are stored by the put functions below, so that
 * no struct of the host's layout reaches the file.
 */
#ifndef META_FORMAT_H
#define META_FORMAT_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define META_BLOCK_BITS 12
#define META_BLOCK      ((uint64_t) 1 << META_BLOCK_BITS)
#define META_SLOT       32 /* inodes start at multiples; their number is offset / 32 */
#define META_SUPER      1024
#define META_SUPER_SIZE 128
#define META_MAGIC      0xe0f5e1e2u

/* Offsets in the superblock. */
enum {
	SUPER_MAGIC = 0,
	SUPER_COMPAT = 8,
	SUPER_BLOCK_BITS = 12,
	SUPER_ROOT = 14,
	SUPER_INODES = 16,
	SUPER_BLOCKS = 36,
	SUPER_META_BLOCK = 40,
	SUPER_INCOMPAT = 80,
	SUPER_DIR_BITS = 90,
};
#define META_COMPAT_MTIME    0x2u /* times are of last modification */
#define META_INCOMPAT_CHUNKS 0x4u /* files in chunks */

/* Offsets in an extended inode. */
#define META_INODE_SIZE 64
enum {
	INODE_FORMAT = 0,
	INODE_XATTR_COUNT = 2,
	INODE_MODE = 4,
	INODE_SIZE = 8,
	INODE_U = 16, /* first block, device number or chunk format */
	INODE_INO = 20,
	INODE_UID = 24,
	INODE_GID = 28,
	INODE_MTIME = 32,
	INODE_MTIME_NSEC = 40,
	INODE_NLINK = 44,
};
#define META_EXTENDED 1u /* bit 0 of the format; the layout follows */
enum meta_layout { META_PLAIN = 0, META_INLINE = 2, META_CHUNKS = 4 };

#define META_CHUNK_MAX_BITS 31
#define META_HOLE           0xffffffffu

/* Extended attributes: a header, then entries of 4 bytes + name + value, padded to 4. */
#define META_XATTR_HEADER 12
#define META_XATTR_ENTRY  4
enum {
	XATTR_USER = 1,
	XATTR_ACL_ACCESS = 2,
	XATTR_ACL_DEFAULT = 3,
	XATTR_TRUSTED = 4,
	XATTR_SECURITY = 6,
};

/* An entry of a folder: inode (8), offset of the name (2), type (1), zero (1). */
#define META_DIRENT 12
enum {
	DIRENT_NAME = 8,
	DIRENT_TYPE = 10,
};

static inline void
put16 (unsigned char *at, uint16_t value)
{
	value = htole16 (value);
	memcpy (at, &value, sizeof (value));
}

static inline void
put32 (unsigned char *at, uint32_t value)
{
	value = htole32 (value);
	memcpy (at, &value, sizeof (value));
}

static inline void
put64 (unsigned char *at, uint64_t value)
{
	value = htole64 (value);
	memcpy (at, &value, sizeof (value));
}

static inline uint16_t
get16 (const unsigned char *at)
{
	uint16_t value;
	memcpy (&value, at, sizeof (value));
	return le16toh (value);
}

static inline uint32_t
get32 (const unsigned char *at)
{
	uint32_t value;
	memcpy (&value, at, sizeof (value));
	return le32toh (value);
}

static inline uint64_t
get64 (const unsigned char *at)
{
	uint64_t value;
	memcpy (&value, at, sizeof (value));
	return le64toh (value);
}

static inline uint64_t
round_up (uint64_t value, uint64_t to)
{
	return (value + to - 1) / to * to;
}

#endif
