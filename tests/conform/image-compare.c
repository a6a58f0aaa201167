/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image-compare.c - compares a folder with an image, entry by entry and byte
 * by byte, through the reader of metadata files and the content store.
 */
#include "image.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include "tap.h"

#define MAX_NOTES 10

struct compare {
	struct silo_instance *content;
	struct silo_meta *meta;
	int root;
	int entries, different;
};

static void
differs (struct compare *compare, const char *path, const char *what)
{
	if (compare->different++ < MAX_NOTES)
		tap_note ("%s: %s differs", path, what);
}

static bool
same_bytes (struct compare *compare, int dir, const char *name, const struct silo_meta_inode *inode)
{
	struct silo_digest digest;
	char *data = malloc (inode->size + 1);
	int fd = openat (dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	int64_t stored = -1;
	bool same = data && fd >= 0 && read (fd, data, inode->size) == (ssize_t) inode->size &&
		    silo_digest_of (data, inode->size, &digest, NULL) == 0;
	if (same && inode->size > 0)
		same = inode->has_object && silo_digest_equal (&digest, &inode->object) &&
		       silo_content_stat (compare->content, &inode->object, &stored, NULL) == 0 &&
		       stored == (int64_t) inode->size;
	free (data);
	if (fd >= 0)
		close (fd);
	return same;
}

struct xattr_check {
	const char *path;
	size_t n;
	bool bad;
};

static int
check_xattr (void *arg, const char *name, struct silo_bytes value)
{
	struct xattr_check *check = arg;
	char got[4096];
	ssize_t n = lgetxattr (check->path, name, got, sizeof (got));
	check->n++;
	if (n != (ssize_t) value.len || memcmp (got, value.data, value.len) != 0)
		check->bad = true;
	return 0;
}

static bool
same_xattrs (struct compare *compare, int dir, const char *name, uint64_t ino)
{
	char path[NAME_MAX + 64], names[4096];
	snprintf (path, sizeof (path), "/proc/self/fd/%d/%s", dir, name);
	struct xattr_check check = { .path = path };
	ssize_t len = llistxattr (path, names, sizeof (names));
	size_t n = 0;
	for (ssize_t i = 0; i < len; i++)
		n += names[i] == '\0';
	return silo_meta_xattrs (compare->meta, ino, check_xattr, &check, NULL) == 0 &&
	       !check.bad && check.n == n;
}

static void
compare_entry (struct compare *compare, int dir, const char *name, uint64_t ino)
{
	struct silo_meta_inode i;
	struct silo_error err;
	struct silo_bytes target;
	struct stat st;
	char link[PATH_MAX];
	compare->entries++;
	if (silo_meta_stat (compare->meta, ino, &i, &err) < 0 ||
	    fstatat (dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		differs (compare, name, "being there");
		return;
	}
	if (i.mode != st.st_mode)
		differs (compare, name, "mode");
	if (i.uid != st.st_uid || i.gid != st.st_gid)
		differs (compare, name, "owner");
	if (i.mtime != st.st_mtim.tv_sec || i.mtime_nsec != st.st_mtim.tv_nsec)
		differs (compare, name, "time");
	if (!S_ISDIR (st.st_mode) && i.nlink != st.st_nlink)
		differs (compare, name, "number of links");
	if ((S_ISCHR (st.st_mode) || S_ISBLK (st.st_mode)) && i.rdev != st.st_rdev)
		differs (compare, name, "device");
	if (S_ISREG (st.st_mode) &&
	    (i.size != (uint64_t) st.st_size || !same_bytes (compare, dir, name, &i)))
		differs (compare, name, "contents");
	if (S_ISLNK (st.st_mode)) {
		ssize_t n = readlinkat (dir, name, link, sizeof (link));
		if (silo_meta_readlink (compare->meta, ino, &target, &err) < 0 ||
		    (ssize_t) target.len != n || memcmp (target.data, link, target.len) != 0)
			differs (compare, name, "target");
	}
	if (!same_xattrs (compare, dir, name, ino))
		differs (compare, name, "extended attributes");
}

struct names {
	struct compare *compare;
	int dir;
	int n; /* without "." and ".." */
};

static void compare_folder (struct compare *compare, int fd, uint64_t ino);

static int
compare_name (void *arg, const char *name, size_t len, uint64_t ino, uint32_t type,
	      uint64_t next SILO_UNUSED)
{
	struct names *names = arg;
	char text[NAME_MAX + 1];
	snprintf (text, sizeof (text), "%.*s", (int) len, name);
	if (strcmp (text, ".") == 0 || strcmp (text, "..") == 0)
		return 0;
	names->n++;
	compare_entry (names->compare, names->dir, text, ino);
	if (type != S_IFDIR)
		return 0;
	int fd = openat (names->dir, text, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0)
		compare_folder (names->compare, fd, ino);
	return 0;
}

/* Takes fd. */
static void
compare_folder (struct compare *compare, int fd, uint64_t ino)
{
	struct names names = { .compare = compare, .dir = fd };
	struct silo_error err = { 0 };
	if (silo_meta_readdir (compare->meta, ino, 0, compare_name, &names, &err) < 0)
		differs (compare, "a folder", err.msg);
	int n = 0, copy = dup (fd);
	_cleanup_closedir_ DIR *dir = copy >= 0 ? fdopendir (copy) : NULL;
	if (!dir)
		tap_bail ("folder: %s", strerror (errno));
	for (const struct dirent *e; (e = readdir (dir));)
		n += strcmp (e->d_name, ".") != 0 && strcmp (e->d_name, "..") != 0;
	if (n != names.n)
		differs (compare, "a folder", "number of names");
	close (fd);
}

void
image_compare (struct silo_instance *content, const char *meta, const char *tree)
{
	struct compare compare = { .content = content };
	struct silo_error err = { 0 };
	int fd = open (tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!tap_ok (fd >= 0 && silo_meta_open (meta, &compare.meta, &err) == 0,
		     "the metadata file is read"))
		tap_bail ("%s", err.msg);
	compare_entry (&compare, fd, ".", silo_meta_root (compare.meta));
	compare_folder (&compare, fd, silo_meta_root (compare.meta));
	tap_is_int (compare.different, 0, "%d entries are as in the source", compare.entries);
	silo_meta_close (compare.meta);
}
