/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.c - can this machine do it?  Makes an image of one file and a folder
 * with its one object, mounts it the way real images are mounted, reads the
 * file through it and writes another.  Kernel versions say too little: what
 * counts is the configuration, the privileges and the file system below.
 */
#include "erofs.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK     4096
#define SUPER     1024                 /* offset of the superblock */
#define ROOT_NID  ((SUPER + 128) / 32) /* behind it */
#define FILE_NID  (ROOT_NID + 4)       /* behind the root and its three names */
#define FILE_TEXT "silo\n"

/* Layouts of an inode's data, with bit 0 set for the 64-byte form. */
#define FORMAT_INLINE (2 << 1 | 1)
#define FORMAT_CHUNKS (4 << 1 | 1)

static void
put16 (unsigned char *at, uint16_t v)
{
	v = htole16 (v);
	memcpy (at, &v, sizeof (v));
}

static void
put32 (unsigned char *at, uint32_t v)
{
	v = htole32 (v);
	memcpy (at, &v, sizeof (v));
}

static void
put64 (unsigned char *at, uint64_t v)
{
	v = htole64 (v);
	memcpy (at, &v, sizeof (v));
}

static void
put_inode (unsigned char *at, uint16_t format, uint16_t mode, uint64_t size, uint32_t nlink)
{
	put16 (at, format);
	put16 (at + 4, mode);
	put64 (at + 8, size);
	put32 (at + 44, nlink);
}

/* One of the names in the root folder; `n` counts them, `off` is where the next text goes. */
static void
put_name (unsigned char *dir, unsigned n, unsigned *off, const char *name, uint64_t nid,
	  unsigned type)
{
	size_t len = strlen (name);

	put64 (dir + n * 12, nid);
	put16 (dir + n * 12 + 8, (uint16_t) *off);
	dir[n * 12 + 10] = (unsigned char) type;
	memcpy (dir + *off, name, len);
	*off += (unsigned) len;
}

/* Returns the bytes taken, a multiple of 4.  Index 4 stands for "trusted.". */
static unsigned
put_xattr (unsigned char *at, const char *name, const char *value)
{
	size_t name_len = strlen (name), value_len = strlen (value);

	at[0] = (unsigned char) name_len;
	at[1] = 4;
	put16 (at + 2, (uint16_t) value_len);
	memcpy (at + 4, name, name_len);
	memcpy (at + 4 + name_len, value, value_len);
	return (unsigned) ((4 + name_len + value_len + 3) & ~(size_t) 3);
}

/* A root folder with one file, `probe`, whose bytes are the object /ob/ject. */
static void
probe_image (unsigned char *image)
{
	unsigned char *super = image + SUPER;
	unsigned char *root = image + ROOT_NID * 32, *file = image + FILE_NID * 32;

	memset (image, 0, BLOCK);
	put32 (super, 0xe0f5e1e2u); /* magic */
	super[12] = 12;             /* log2 of the block size */
	put16 (super + 14, ROOT_NID);
	put64 (super + 16, 2);   /* inodes */
	put32 (super + 36, 1);   /* blocks */
	put32 (super + 80, 0x4); /* files are lists of chunks */

	unsigned names = 3 * 12;
	put_name (root + 64, 0, &names, ".", ROOT_NID, 2);
	put_name (root + 64, 1, &names, "..", ROOT_NID, 2);
	put_name (root + 64, 2, &names, "probe", FILE_NID, 1);
	put_inode (root, FORMAT_INLINE, S_IFDIR | 0755, names, 2);

	unsigned xattrs = 12; /* after their header */
	xattrs += put_xattr (file + 64 + xattrs, "overlay.metacopy", "");
	xattrs += put_xattr (file + 64 + xattrs, "overlay.redirect", "/ob/ject");
	put_inode (file, FORMAT_CHUNKS, S_IFREG | 0644, strlen (FILE_TEXT), 1);
	put16 (file + 2, (uint16_t) (1 + (xattrs - 12) / 4));
	put32 (file + 64 + xattrs, 0xffffffffu); /* one chunk, a hole */
}

static int
probe_write (int dir, const char *name, const void *data, size_t len, struct silo_error *err)
{
	int fd = openat (dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0444);
	if (fd < 0)
		return silo_fail_sys (err, errno, "write %s", name);

	ssize_t n = write (fd, data, len);
	int sys = n < 0 ? errno : ENOSPC;
	close (fd);
	return n == (ssize_t) len ? 0 : silo_fail_sys (err, sys, "write %s", name);
}

static int
probe_fill (int dir, struct silo_error *err)
{
	static const char *const folders[] = { "objects", "objects/ob", "root", "scratch" };
	unsigned char image[BLOCK];

	for (size_t i = 0; i < sizeof (folders) / sizeof (folders[0]); i++) {
		if (mkdirat (dir, folders[i], 0700) < 0)
			return silo_fail_sys (err, errno, "folder %s", folders[i]);
	}
	probe_image (image);
	int r = probe_write (dir, "image", image, sizeof (image), err);
	if (r < 0)
		return r;
	return probe_write (dir, "objects/ob/ject", FILE_TEXT, strlen (FILE_TEXT), err);
}

/* The mounted root shows the file with the object's bytes, and can be written to. */
static int
probe_look (int dir, struct silo_error *err)
{
	char text[sizeof (FILE_TEXT)] = "";
	int fd = openat (dir, "root/probe", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return silo_fail_sys (err, errno, "a file of the mounted image");

	ssize_t n = read (fd, text, sizeof (text));
	int sys = errno;
	close (fd);
	if (n < 0)
		return silo_fail_sys (err, sys, "a file of the mounted image");
	if (n != (ssize_t) strlen (FILE_TEXT) || memcmp (text, FILE_TEXT, (size_t) n) != 0)
		return silo_fail (err, SILO_UNIMPLEMENTED,
				  "a file of the mounted image does not show its object's bytes");
	return probe_write (dir, "root/written", FILE_TEXT, strlen (FILE_TEXT), err);
}

/* Also what the overlay makes in a work folder on disk. */
static void
probe_clean (int dir)
{
	static const struct {
		const char *name;
		int flags;
	} made[] = {
		{ "scratch/work/work/incompat/volatile/dirty", 0 },
		{ "scratch/work/work/incompat/volatile", AT_REMOVEDIR },
		{ "scratch/work/work/incompat", AT_REMOVEDIR },
		{ "scratch/work/work", AT_REMOVEDIR },
		{ "scratch/work", AT_REMOVEDIR },
		{ "scratch/upper/written", 0 },
		{ "scratch/upper", AT_REMOVEDIR },
		{ "scratch", AT_REMOVEDIR },
		{ "root", AT_REMOVEDIR },
		{ "objects/ob/ject", 0 },
		{ "objects/ob", AT_REMOVEDIR },
		{ "objects", AT_REMOVEDIR },
		{ "image", 0 },
	};

	for (size_t i = 0; i < sizeof (made) / sizeof (made[0]); i++)
		unlinkat (dir, made[i].name, made[i].flags);
}

static int
probe_mount (struct erofs *self, int dir, const char *scratch, struct silo_error *err)
{
	char meta[PATH_MAX], objects[PATH_MAX], root[PATH_MAX], upper[PATH_MAX];

	/* A longer path than this could not hold what goes below it either. */
	if (strlen (scratch) > PATH_MAX - 64)
		return silo_fail (err, SILO_RANGE, "scratch folder %s: too long", scratch);
	snprintf (meta, sizeof (meta), "%s/image", scratch);
	snprintf (objects, sizeof (objects), "%s/objects", scratch);
	snprintf (root, sizeof (root), "%s/root", scratch);
	snprintf (upper, sizeof (upper), "%s/scratch", scratch);

	const struct silo_rootfs_spec spec = {
		.meta = meta,
		.target = root,
		.scratch = upper,
		.writable = true,
		.upper_size = 1 << 20,
	};
	struct mount *mount;
	int r = erofs_mount_folder (self, &spec, objects, &mount, err);
	if (r < 0)
		return r;
	r = probe_look (dir, err);
	int u = erofs_unmount (self, mount, r < 0 ? NULL : err);
	return r < 0 ? r : u;
}

int
probe_run (void *self, const char *scratch, struct silo_error *err)
{
	struct silo_error why = { 0 };
	int dir = open (scratch, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return silo_fail_sys (err, errno, "scratch folder %s", scratch);

	int r = probe_fill (dir, &why);
	if (r == 0)
		r = probe_mount (self, dir, scratch, &why);
	probe_clean (dir);
	close (dir);
	if (r < 0)
		return silo_fail (err, SILO_UNIMPLEMENTED, "%s", why.msg);
	return 0;
}
