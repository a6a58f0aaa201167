/* SPDX-License-Identifier: Apache-2.0 */
/*
 * meta.c - tests of the metadata file: what meta-write.c writes, meta-read.c
 * reads back; the same tree gives the same bytes; damaged files give errors.
 * That kernel and erofs-utils accept it is tests/functional/test_images.py's.
 */
#include "core.h"
#include "tap.h"
#include "tree.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define MANY  3000
#define FLIPS 2500

struct place {
	char dir[64];
	char file[96];
};

/* -- a tree with one of everything ----------------------------------------------------- */

static void
give (struct tree_layer *layer, const struct silo_entry *entry)
{
	struct silo_error err;
	if (tree_layer_add (layer, entry, &err) < 0)
		tap_bail ("%s", err.msg);
	if (entry->type == SILO_ENTRY_FILE && entry->size > 0) {
		struct silo_digest digest;
		silo_digest_of (entry->path, strlen (entry->path), &digest, NULL);
		tree_layer_object (layer, &digest);
	}
}

#define GIVE(what, ...) give (layer, &(const struct silo_entry){ .type = what, __VA_ARGS__ })

static void
fill (struct tree_layer *layer, bool backwards)
{
	static char big[20000];
	const struct silo_xattr xattrs[] = {
		{ "user.a", { "value", 5 } },
		{ "security.capability", { "\1\0\0\2", 4 } },
		{ "trusted.overlay.redirect", { "/mine", 5 } },
		{ "system.posix_acl_access", { "\2\0\0\0", 4 } },
		{ "user.big", { big, sizeof (big) } },
		{ "user.empty", { NULL, 0 } },
	};
	char long_link[TREE_MAX_PATH + 1], name[300];
	memset (long_link, 'z', sizeof (long_link) - 1);
	long_link[sizeof (long_link) - 1] = '\0';
	GIVE (SILO_ENTRY_DIR, .path = ".", .mode = 0751, .mtime = 7);
	GIVE (SILO_ENTRY_FILE, .path = "file", .mode = 04755, .uid = 4000000000, .gid = 70000,
	      .mtime = -5, .mtime_nsec = 999999999, .size = (int64_t) 5 << 30);
	GIVE (SILO_ENTRY_FILE, .path = "empty", .mode = 0600, .xattrs = xattrs, .n_xattrs = 6);
	GIVE (SILO_ENTRY_FILE, .path = "attrs", .mode = 0600, .size = 1, .xattrs = xattrs,
	      .n_xattrs = 6);
	GIVE (SILO_ENTRY_FILE, .path = "huge", .size = TREE_MAX_FILE);
	GIVE (SILO_ENTRY_HARDLINK, .path = "d/other", .target = "file");
	GIVE (SILO_ENTRY_SYMLINK, .path = "link", .target = "d/other");
	GIVE (SILO_ENTRY_SYMLINK, .path = "long", .target = long_link);
	GIVE (SILO_ENTRY_SYMLINK, .path = "longx", .target = long_link, .xattrs = xattrs,
	      .n_xattrs = 1);
	GIVE (SILO_ENTRY_SYMLINK, .path = "d/up", .target = "../../../file");
	GIVE (SILO_ENTRY_SYMLINK, .path = "abs", .target = "/d/other");
	GIVE (SILO_ENTRY_SYMLINK, .path = "loop", .target = "loop");
	GIVE (SILO_ENTRY_CHAR, .path = "null", .mode = 0666, .rdev_major = 1, .rdev_minor = 3);
	GIVE (SILO_ENTRY_BLOCK, .path = "disk", .rdev_major = 4095, .rdev_minor = 1048575);
	GIVE (SILO_ENTRY_CHAR, .path = "d/white");
	GIVE (SILO_ENTRY_FIFO, .path = "pipe", .mode = 0620);
	GIVE (SILO_ENTRY_DIR, .path = "xdir", .mode = 0700, .xattrs = xattrs, .n_xattrs = 6);
	for (int i = 0; i < MANY; i++) {
		int n = backwards ? MANY - 1 - i : i;
		snprintf (name, sizeof (name), "many/name%d", n);
		GIVE (SILO_ENTRY_FILE, .path = name, .mode = 0644, .size = n % 3 ? 10 : 0);
	}
	memset (name, 'n', 255);
	name[255] = '\0';
	GIVE (SILO_ENTRY_FILE, .path = name, .mode = 0644);
	GIVE (SILO_ENTRY_FILE, .path = " before the dot", .mode = 0644);
}

static struct meta_info
write_tree (struct tree *tree, const char *path)
{
	struct silo_error err;
	struct meta_info info = { 0 };
	int fd = open (path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || meta_write (tree, fd, &info, &err) < 0)
		tap_bail ("%s: %s", path, fd < 0 ? strerror (errno) : err.msg);
	close (fd);
	return info;
}

static struct meta_info
write_all (const char *path, bool backwards)
{
	struct tree *tree = NULL;
	struct tree_layer *layer = NULL;
	struct silo_error err;
	if (tree_new (&tree, &err) < 0 || tree_layer_new ("L", &layer, &err) < 0)
		tap_bail ("%s", err.msg);
	fill (layer, backwards);
	if (tree_apply (tree, layer, &err) < 0)
		tap_bail ("%s", err.msg);
	write_tree (tree, path); /* twice: the first leaves no trace in the tree */
	struct meta_info info = write_tree (tree, path);
	tree_layer_free (layer);
	tree_free (tree);
	return info;
}

/* -- reading it back -------------------------------------------------------------------- */

static struct silo_meta_inode
stat_of (const struct silo_meta *meta, const char *path)
{
	struct silo_meta_inode inode = { 0 };
	struct silo_error err = { 0 };
	uint64_t ino = 0;
	int r = silo_meta_resolve (meta, path, &ino, &err);
	if (r == 0)
		r = silo_meta_stat (meta, ino, &inode, &err);
	if (!tap_ok (r == 0, "%s is there", path))
		tap_note ("%s", err.msg);
	return inode;
}

static void
test_stat (const struct silo_meta *meta)
{
	struct silo_digest digest;
	struct silo_meta_inode i = stat_of (meta, "/file");
	silo_digest_of ("file", 4, &digest, NULL);
	tap_ok (i.mode == (S_IFREG | 04755) && i.uid == 4000000000 && i.gid == 70000 &&
		    i.mtime == -5 && i.mtime_nsec == 999999999 && i.size == (uint64_t) 5 << 30 &&
		    i.nlink == 2,
		"with all its fields");
	tap_ok (i.has_object && silo_digest_equal (&i.object, &digest), "and its object");
	tap_is_int ((int64_t) stat_of (meta, "/d/other").ino, (int64_t) i.ino, "same inode");
	tap_ok (!stat_of (meta, "/empty").has_object, "an empty file has no object");
	tap_is_int ((int64_t) stat_of (meta, "/huge").size, TREE_MAX_FILE, "the largest size");
	i = stat_of (meta, "/null");
	tap_ok (i.mode == (S_IFCHR | 0666) && i.rdev == makedev (1, 3), "a device");
	i = stat_of (meta, "/disk");
	tap_ok (S_ISBLK (i.mode) && i.rdev == makedev (4095, 1048575), "the highest device");
	tap_ok (S_ISFIFO (stat_of (meta, "/pipe").mode), "a fifo");
	i = stat_of (meta, "/");
	tap_ok (i.mode == (S_IFDIR | 0751) && i.mtime == 7 && i.ino == silo_meta_root (meta) &&
		    i.nlink == 2 + 3,
		"the root");
	tap_ok (S_ISREG (stat_of (meta, "/d/white").mode), "a device 0/0 is a regular file");
	stat_of (meta, "/ before the dot");
	stat_of (meta, "/many/name2999");
	stat_of (meta, "/many/name0");
}

static int
resolve (const struct silo_meta *meta, const char *path)
{
	uint64_t ino = 0;
	struct silo_error err;
	return silo_meta_resolve (meta, path, &ino, &err);
}

static void
test_resolve (const struct silo_meta *meta)
{
	uint64_t file = stat_of (meta, "file").ino;
	tap_is_int ((int64_t) stat_of (meta, "/link").ino, (int64_t) file, "through a link");
	tap_is_int ((int64_t) stat_of (meta, "/abs").ino, (int64_t) file, "an absolute link");
	tap_is_int ((int64_t) stat_of (meta, "/d/up").ino, (int64_t) file,
		    "a link that climbs above the root stays in the image");
	tap_is_int ((int64_t) stat_of (meta, "/../..//d/./../file").ino, (int64_t) file, "dots");
	tap_is_int (resolve (meta, "/loop"), SILO_INVALID, "a loop ends");
	tap_is_int (resolve (meta, "/nothing"), SILO_NOTFOUND, "a missing name");
	tap_is_int (resolve (meta, "/many/name3000"), SILO_NOTFOUND, "one past the last");
	tap_is_int (resolve (meta, "/long"), SILO_INVALID, "a link to a name that is too long");
}

static int
count_xattr (void *arg, const char *name, struct silo_bytes value)
{
	int *seen = arg;
	if (strcmp (name, "user.a") == 0 && value.len == 5 && memcmp (value.data, "value", 5) == 0)
		*seen |= 1;
	else if (strcmp (name, "trusted.overlay.redirect") == 0 && value.len == 5)
		*seen |= 2;
	else if (strcmp (name, "system.posix_acl_access") == 0 && value.len == 4)
		*seen |= 4;
	else if (strcmp (name, "user.big") == 0 && value.len == 20000)
		*seen |= 8;
	else if (strcmp (name, "security.capability") == 0 || strcmp (name, "user.empty") == 0)
		*seen += 16;
	else
		*seen |= 128;
	return 0;
}

static void
test_xattrs (const struct silo_meta *meta)
{
	static const char *const with[] = { "/attrs", "/empty", "/xdir" };
	for (size_t i = 0; i < ARRAY_SIZE (with); i++) {
		int seen = 0;
		struct silo_error err;
		silo_meta_xattrs (meta, stat_of (meta, with[i]).ino, count_xattr, &seen, &err);
		tap_is_int (seen, 15 + 32, "%s has its own six xattrs and no others", with[i]);
	}
	int seen = 0;
	silo_meta_xattrs (meta, stat_of (meta, "/file").ino, count_xattr, &seen, NULL);
	tap_is_int (seen, 0, "those of the format are hidden");
}

struct listing {
	const struct silo_meta *meta;
	uint64_t next;
	int n;
	int limit;
	char last[256];
	bool sorted;
};

static int
list_one (void *arg, const char *name, size_t len, uint64_t ino, uint32_t type, uint64_t next)
{
	struct listing *listing = arg;
	struct silo_meta_inode inode;
	char text[256];
	snprintf (text, sizeof (text), "%.*s", (int) len, name);
	if (strcmp (listing->last, text) >= 0 ||
	    silo_meta_stat (listing->meta, ino, &inode, NULL) < 0 || (inode.mode & S_IFMT) != type)
		listing->sorted = false;
	memcpy (listing->last, text, sizeof (text));
	listing->next = next;
	return ++listing->n == listing->limit;
}

static void
test_readdir (const struct silo_meta *meta)
{
	struct listing all = { .meta = meta, .sorted = true };
	struct silo_error err = { 0 };
	uint64_t many = stat_of (meta, "/many").ino;
	tap_is_int (silo_meta_readdir (meta, many, 0, list_one, &all, &err), 0, "a large folder");
	tap_is_int (all.n, MANY + 2, "has all its names");
	tap_ok (all.sorted, "in order, with the right types");
	struct listing parts = { .meta = meta, .sorted = true };
	for (int i = 0; i < MANY && parts.n < MANY + 2; i++) {
		parts.limit = parts.n + 7;
		silo_meta_readdir (meta, many, parts.next, list_one, &parts, &err);
	}
	tap_ok (parts.n == MANY + 2 && parts.sorted, "the same in parts");
	int before = parts.n;
	silo_meta_readdir (meta, many, parts.next, list_one, &parts, &err);
	tap_is_int (parts.n, before, "nothing after the end");
	tap_is_int (silo_meta_readdir (meta, stat_of (meta, "/file").ino, 0, list_one, &all, &err),
		    SILO_INVALID, "a file is no folder");
}

static void
test_readlink (const struct silo_meta *meta)
{
	static const char *const names[] = { "long", "longx" };
	for (size_t i = 0; i < ARRAY_SIZE (names); i++) {
		struct silo_bytes target = { 0 };
		uint64_t ino = 0;
		int r = silo_meta_lookup (meta, silo_meta_root (meta), names[i], strlen (names[i]),
					  &ino, NULL);
		if (r == 0)
			r = silo_meta_readlink (meta, ino, &target, NULL);
		bool good = r == 0 && target.len == TREE_MAX_PATH;
		for (size_t k = 0; good && k < target.len; k++)
			good = ((const char *) target.data)[k] == 'z';
		tap_ok (good, "the longest link, %s", names[i]);
	}
}

struct count {
	int64_t n;
	uint64_t last;
	bool rising;
};

static int
count_inode (void *arg, const struct silo_meta_inode *inode)
{
	struct count *count = arg;
	if (inode->ino <= count->last)
		count->rising = false;
	count->last = inode->ino;
	count->n++;
	return 0;
}

static void
test_each (const struct silo_meta *meta, const struct meta_info *info)
{
	struct count count = { .rising = true };
	struct silo_error err = { 0 };
	tap_is_int (silo_meta_each (meta, count_inode, &count, &err), 0, "every inode");
	tap_is_int (count.n, info->inodes, "once");
	tap_ok (count.rising, "in the order of the file");
	tap_is_int ((int64_t) silo_meta_inodes (meta), info->inodes, "as many as it says");
	tap_is_int (info->bytes, ((int64_t) 5 << 30) + TREE_MAX_FILE + 1 + 2000 * 10,
		    "bytes of the distinct objects");
}

/* -- damage --------------------------------------------------------------------------------- */

static int
ignore_xattr (void *arg, const char *name, struct silo_bytes value)
{
	size_t *sum = arg;
	*sum += strlen (name);
	for (size_t i = 0; i < value.len; i++)
		*sum += ((const unsigned char *) value.data)[i];
	return 0;
}

struct visit {
	const struct silo_meta *meta;
	size_t sum;
};

static int
visit_name (void *arg, const char *name, size_t len, uint64_t ino, uint32_t type SILO_UNUSED,
	    uint64_t next SILO_UNUSED)
{
	struct visit *visit = arg;
	uint64_t found = 0;
	for (size_t i = 0; i < len; i++)
		visit->sum += (unsigned char) name[i];
	if (visit->sum % 16 == 0)
		silo_meta_lookup (visit->meta, silo_meta_root (visit->meta), name, len, &found,
				  NULL);
	if (visit->sum % 16 == 1)
		silo_meta_xattrs (visit->meta, ino, ignore_xattr, &visit->sum, NULL);
	return 0;
}

static int
visit_inode (void *arg, const struct silo_meta_inode *inode)
{
	struct visit *visit = arg;
	struct silo_bytes target;
	silo_meta_xattrs (visit->meta, inode->ino, ignore_xattr, &visit->sum, NULL);
	if (S_ISDIR (inode->mode))
		silo_meta_readdir (visit->meta, inode->ino, 0, visit_name, visit, NULL);
	if (S_ISLNK (inode->mode) &&
	    silo_meta_readlink (visit->meta, inode->ino, &target, NULL) == 0)
		for (size_t i = 0; i < target.len; i++)
			visit->sum += ((const unsigned char *) target.data)[i];
	return 0;
}

/* Look at everything; what counts is that it returns. */
static size_t
walk (const char *path)
{
	struct silo_meta *meta = NULL;
	struct silo_error err = { 0 };
	uint64_t ino = 0;
	if (silo_meta_open (path, &meta, &err) < 0)
		return 0;
	struct visit visit = { .meta = meta, .sum = 1 };
	silo_meta_each (meta, visit_inode, &visit, &err);
	silo_meta_resolve (meta, "/link/../abs", &ino, &err);
	silo_meta_resolve (meta, "/many/name77", &ino, &err);
	for (uint64_t i = 0; i < 200; i++)
		silo_meta_stat (meta, i * 31, &(struct silo_meta_inode){ 0 }, &err);
	silo_meta_stat (meta, UINT64_MAX, &(struct silo_meta_inode){ 0 }, &err);
	silo_meta_stat (meta, UINT64_MAX / 32, &(struct silo_meta_inode){ 0 }, &err);
	silo_meta_close (meta);
	return visit.sum;
}

static uint64_t
next_random (uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void
test_damage (const struct place *place, const char *good)
{
	char path[96];
	snprintf (path, sizeof (path), "%s/damaged", place->dir);
	int from = open (good, O_RDONLY | O_CLOEXEC);
	int fd = open (path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct stat st;
	if (from < 0 || fd < 0 || fstat (from, &st) < 0)
		tap_bail ("%s: %s", path, strerror (errno));
	unsigned char *bytes = malloc ((size_t) st.st_size);
	if (!bytes || pread (from, bytes, (size_t) st.st_size, 0) != st.st_size ||
	    pwrite (fd, bytes, (size_t) st.st_size, 0) != st.st_size)
		tap_bail ("%s: %s", path, strerror (errno));
	size_t whole = walk (path), different = 0;
	tap_ok (whole > 1, "the undamaged copy is read");
	uint64_t random = 88172645463325252u;
	for (int i = 0; i < FLIPS; i++) {
		/* Mostly where the superblock and the first inodes are, all the same bytes
		 * matter to the reader there; several at a time now and then. */
		off_t range = i % 4 ? 16384 : st.st_size, at[4];
		int n = i % 5 ? 1 : 4;
		for (int k = 0; k < n; k++) {
			unsigned char byte = (unsigned char) next_random (&random);
			at[k] = 1024 + (off_t) (next_random (&random) % (uint64_t) (range - 1024));
			if (pwrite (fd, &byte, 1, at[k]) != 1)
				tap_bail ("%s", strerror (errno));
		}
		different += walk (path) != whole;
		for (int k = 0; k < n; k++)
			if (pwrite (fd, bytes + at[k], 1, at[k]) != 1)
				tap_bail ("%s", strerror (errno));
	}
	tap_ok (different > FLIPS / 10, "%d damaged files are survived, %zu show it", FLIPS,
		different);
	different = 0;
	for (off_t size = st.st_size - 1; size > 0; size -= 1 + size / 60)
		if (ftruncate (fd, size) == 0)
			different += walk (path) != 0;
	tap_is_int ((int64_t) different, 0, "a cut file is refused");
	free (bytes);
	close (from);
	close (fd);
}

int
main (void)
{
	struct place place;
	struct silo_meta *meta = NULL;
	struct silo_error err = { 0 };
	const char *tmp = getenv ("TMPDIR");
	char again[96];
	snprintf (place.dir, sizeof (place.dir), "%.40s/silo-meta-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp (place.dir))
		tap_bail ("%s: %s", place.dir, strerror (errno));
	snprintf (place.file, sizeof (place.file), "%s/meta", place.dir);
	snprintf (again, sizeof (again), "%s/again", place.dir);

	struct meta_info info = write_all (place.file, false);
	struct meta_info other = write_all (again, true);
	tap_ok (silo_digest_equal (&info.digest, &other.digest),
		"the same tree, given in another order, is the same file");
	if (silo_meta_open (place.file, &meta, &err) < 0)
		tap_bail ("%s", err.msg);
	test_stat (meta);
	test_resolve (meta);
	test_xattrs (meta);
	test_readdir (meta);
	test_readlink (meta);
	test_each (meta, &info);
	silo_meta_close (meta);
	test_damage (&place, place.file);
	tap_is_int (silo_meta_open ("/dev/null", &meta, &err), SILO_DATALOSS, "not a file");
	tap_is_int (silo_meta_open ("/nowhere/x", &meta, &err), SILO_NOTFOUND, "no such file");
	if (files_remove (place.dir, &err) < 0)
		tap_bail ("%s", err.msg);
	return tap_done ();
}
