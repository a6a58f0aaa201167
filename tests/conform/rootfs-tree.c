/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rootfs-tree.c - a tree with everything in it that file systems and archives
 * get wrong, and its comparison, entry by entry and byte by byte, with what a
 * mount shows.  Runs as root.
 */
#include "rootfs.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include "tap.h"

#define MANY       3000
#define NOTES_MAX  10
#define XATTRS_MAX 65536

/* -- making it -- */

static void
must (bool ok, const char *what)
{
	if (!ok)
		tap_bail ("making the tree: %s: %s", what, strerror (errno));
}

/* A file of `size` bytes that differ from those of other files. */
static void
make_file (int root, const char *name, size_t size, mode_t mode)
{
	_cleanup_free_ char *data = malloc (size + 1);
	_cleanup_close_ int fd =
	    openat (root, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	uint32_t seed = (uint32_t) size;

	must (data && fd >= 0, name);
	for (const char *p = name; *p; p++)
		seed = seed * 31 + (unsigned char) *p;
	for (size_t i = 0; i < size; i++) {
		seed = seed * 1664525 + 1013904223;
		data[i] = (char) (seed >> 24);
	}
	must (write (fd, data, size) == (ssize_t) size, name);
	must (fchmod (fd, mode) == 0, name);
}

static void
make_times (int root, const char *name, int64_t sec, long nsec)
{
	const struct timespec times[2] = { { 1, 0 }, { sec, nsec } };

	must (utimensat (root, name, times, AT_SYMLINK_NOFOLLOW) == 0, name);
}

static void
make_odd_names (int root)
{
	static const char *const names[] = {
		"odd/with space", "odd/new\nline", "odd/-dash",    "odd/back\\slash",
		"odd/\xc3\xa9",   "odd/\xff\xfe",  "odd/...",      "odd/\"quotes\"'",
		"odd/trailing ",  "odd/*?[a]",     "odd/\x01\x7f", "odd/.wh.not-a-whiteout-here",
	};
	char longest[4 + NAME_MAX + 1] = "odd/";

	must (mkdirat (root, "odd", 0755) == 0, "odd");
	/* The last one is not made: archives give that name a meaning of its own. */
	for (size_t i = 0; i + 1 < ARRAY_SIZE (names); i++)
		make_file (root, names[i], i, 0644);
	memset (longest + 4, 'n', NAME_MAX);
	longest[4 + NAME_MAX] = '\0';
	make_file (root, longest, 10, 0644);
}

static void
make_modes (int root)
{
	must (mkdirat (root, "modes", 0755) == 0, "modes");
	make_file (root, "modes/setuid", 100, 04755);
	make_file (root, "modes/setgid", 100, 02755);
	make_file (root, "modes/both", 100, 06711);
	make_file (root, "modes/none", 100, 0);
	must (mkdirat (root, "modes/sticky", 0) == 0, "sticky");
	must (fchmodat (root, "modes/sticky", 01777, 0) == 0, "sticky");
	must (mkdirat (root, "modes/closed", 0) == 0, "closed");
	must (mkdirat (root, "modes/empty", 0755) == 0, "empty");
	make_file (root, "modes/owned", 100, 0640);
	must (fchownat (root, "modes/owned", 1000, 4000000000u, 0) == 0, "owned");
	must (symlinkat ("owned", root, "modes/owned-link") == 0, "owned-link");
	must (fchownat (root, "modes/owned-link", 12, 34, AT_SYMLINK_NOFOLLOW) == 0, "owned-link");
	must (mkfifoat (root, "modes/fifo", 0622) == 0, "fifo");
	must (mknodat (root, "modes/null", S_IFCHR | 0666, makedev (1, 3)) == 0, "null");
	must (mknodat (root, "modes/disk", S_IFBLK | 0660, makedev (259, 70000)) == 0, "disk");
}

static void
make_links (int root)
{
	char target[1025];

	must (mkdirat (root, "links", 0755) == 0, "links");
	make_file (root, "links/one", 5000, 0644);
	must (linkat (root, "links/one", root, "links/two", 0) == 0, "two");
	must (linkat (root, "links/one", root, "modes/three", 0) == 0, "three");
	must (symlinkat ("one", root, "links/relative") == 0, "relative");
	must (symlinkat ("/links/one", root, "links/absolute") == 0, "absolute");
	must (symlinkat ("../../../../etc/passwd", root, "links/above") == 0, "above");
	must (symlinkat ("nowhere", root, "links/dangling") == 0, "dangling");
	must (symlinkat ("loop", root, "links/loop") == 0, "loop");
	memset (target, 't', sizeof (target) - 1);
	target[sizeof (target) - 1] = '\0';
	must (symlinkat (target, root, "links/long") == 0, "long");
}

static void
make_xattrs (int root)
{
	/* cap_net_raw+ep, as setcap writes it. */
	static const unsigned char caps[20] = { 1, 0, 0, 2, 0, 0x20 };
	char large[2000];
	must (mkdirat (root, "xattrs", 0755) == 0, "xattrs");
	make_file (root, "xattrs/file", 123, 0755);
	make_file (root, "xattrs/nothing", 0, 0644);

	memset (large, 'x', sizeof (large));
	_cleanup_close_ int file = openat (root, "xattrs/file", O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int empty = openat (root, "xattrs/nothing", O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int dir = openat (root, "xattrs", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	must (fsetxattr (file, "security.capability", caps, sizeof (caps), 0) == 0, "caps");
	must (fsetxattr (file, "user.text", "value", 5, 0) == 0, "user.text");
	must (fsetxattr (file, "user.empty", "", 0, 0) == 0, "user.empty");
	must (fsetxattr (file, "user.binary", "a\0b\xff", 4, 0) == 0, "user.binary");
	must (fsetxattr (file, "user.large", large, sizeof (large), 0) == 0, "user.large");
	must (fsetxattr (file, "trusted.secret", "1", 1, 0) == 0, "trusted.secret");
	must (fsetxattr (empty, "user.of-nothing", "1", 1, 0) == 0, "user.of-nothing");
	must (fsetxattr (dir, "user.folder", "1", 1, 0) == 0, "user.folder");
}

static void
make_sizes (int root)
{
	static const size_t sizes[] = { 0, 1, 511, 512, 513, 4095, 4096, 4097, 65536, 131073 };
	char name[32];

	must (mkdirat (root, "sizes", 0755) == 0, "sizes");
	for (size_t i = 0; i < ARRAY_SIZE (sizes); i++) {
		snprintf (name, sizeof (name), "sizes/%zu", sizes[i]);
		make_file (root, name, sizes[i], 0644);
	}
	make_file (root, TREE_LARGE, TREE_LARGE_SIZE, 0644);
	_cleanup_close_ int sparse =
	    openat (root, "sizes/sparse", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	must (sparse >= 0 && ftruncate (sparse, 3 << 20) == 0, "sparse");
	must (pwrite (sparse, "end", 3, (3 << 20) - 100) == 3, "sparse");
}

static void
make_times_all (int root)
{
	static const struct {
		const char *name;
		int64_t sec;
		long nsec;
	} times[] = {
		{ "sizes/1", 0, 0 },
		{ "sizes/511", 1, 999999999 },
		{ "sizes/512", -1, 1 },
		{ "sizes/513", -2000000000, 500000000 },
		{ "sizes/4096", 2147483647, 0 },
		{ "sizes/4097", 4000000000, 123456789 },
		{ "links/dangling", 5, 6 },
		{ "modes/fifo", 7, 8 },
		{ "modes/sticky", 9, 10 },
		{ "odd", 1000000000, 1 },
		{ ".", 1111111111, 222222222 },
	};

	for (size_t i = 0; i < ARRAY_SIZE (times); i++)
		make_times (root, times[i].name, times[i].sec, times[i].nsec);
}

void
tree_make (const char *path)
{
	_cleanup_close_ int root = open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char name[512] = "deep";

	must (root >= 0, path);
	must (mkdirat (root, "plain", 0755) == 0, "plain");
	make_file (root, TREE_ALONE, 7777, 0644);
	make_odd_names (root);
	make_modes (root);
	make_links (root);
	make_xattrs (root);
	make_sizes (root);

	must (mkdirat (root, name, 0755) == 0, name);
	for (int i = 0; i < 60; i++) {
		snprintf (name + strlen (name), sizeof (name) - strlen (name), "/d%d", i);
		must (mkdirat (root, name, 0755) == 0, name);
	}
	must (mkdirat (root, "many", 0755) == 0, "many");
	for (int i = 0; i < MANY; i++) {
		snprintf (name, sizeof (name), "many/%d-%.*s", i * 7919 % MANY, i % 40,
			  "a name that is longer or shorter than its neighbour");
		make_file (root, name, (size_t) (i % 5) * 100, 0644);
	}
	must (fchown (root, 7, 8) == 0 && fchmod (root, 0751) == 0, "root");
	make_times_all (root);
}

/* -- comparing it -- */

ssize_t
tree_read (const char *path, char **ret)
{
	_cleanup_close_ int fd = open (path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;

	if (fd < 0 || fstat (fd, &st) < 0)
		return -errno;
	_cleanup_free_ char *data = malloc ((size_t) st.st_size + 1);
	if (!data)
		return -ENOMEM;
	ssize_t done = 0, n;
	/* One byte more than it says: it must end there. */
	while ((n = read (fd, data + done, (size_t) (st.st_size + 1 - done))) > 0)
		done += n;
	if (n < 0)
		return -errno;
	*ret = silo_steal (&data);
	return done;
}

int
tree_write (const char *path, const char *text)
{
	_cleanup_close_ int fd = open (path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

	if (fd < 0 || write (fd, text, strlen (text)) != (ssize_t) strlen (text))
		return -errno;
	return 0;
}

struct comparison {
	int wrong;
};

static void SILO_PRINTF (2, 3) differ (struct comparison *cmp, const char *fmt, ...)
{
	char text[512];
	va_list args;

	if (cmp->wrong++ >= NOTES_MAX)
		return;
	va_start (args, fmt);
	vsnprintf (text, sizeof (text), fmt, args);
	va_end (args);
	tap_note ("  %s", text);
}

static void
compare_stat (struct comparison *cmp, const char *path, const struct stat *a, const struct stat *b)
{
	bool dir = S_ISDIR (a->st_mode);

	if (a->st_mode != b->st_mode)
		differ (cmp, "%s: mode %o, not %o", path, b->st_mode, a->st_mode);
	if (a->st_uid != b->st_uid || a->st_gid != b->st_gid)
		differ (cmp, "%s: owner %u:%u, not %u:%u", path, b->st_uid, b->st_gid, a->st_uid,
			a->st_gid);
	if (a->st_mtim.tv_sec != b->st_mtim.tv_sec || a->st_mtim.tv_nsec != b->st_mtim.tv_nsec)
		differ (cmp, "%s: mtime %lld.%09ld, not %lld.%09ld", path,
			(long long) b->st_mtim.tv_sec, b->st_mtim.tv_nsec,
			(long long) a->st_mtim.tv_sec, a->st_mtim.tv_nsec);
	/* Those of folders mean something else in every file system. */
	if (!dir && a->st_size != b->st_size)
		differ (cmp, "%s: size %lld, not %lld", path, (long long) b->st_size,
			(long long) a->st_size);
	if (!dir && a->st_nlink != b->st_nlink)
		differ (cmp, "%s: %lu links, not %lu", path, b->st_nlink, a->st_nlink);
	if ((S_ISCHR (a->st_mode) || S_ISBLK (a->st_mode)) && a->st_rdev != b->st_rdev)
		differ (cmp, "%s: device %lx, not %lx", path, b->st_rdev, a->st_rdev);
}

/* All of one file's attributes in one text, in order of name. */
static int
xattr_order (const void *a, const void *b)
{
	return strcmp (*(char *const *) a, *(char *const *) b);
}

static int
xattr_text (const char *path, struct silo_buf *ret, struct silo_error *err)
{
	_cleanup_free_ char *names = malloc (XATTRS_MAX), *value = malloc (XATTRS_MAX);
	char *list[64];
	size_t n = 0;
	ssize_t len = llistxattr (path, names, XATTRS_MAX);

	if (len < 0)
		return silo_fail_sys (err, errno, "listxattr");
	for (char *p = names; p < names + len && n < ARRAY_SIZE (list); p += strlen (p) + 1)
		list[n++] = p;
	qsort (list, n, sizeof (list[0]), xattr_order);
	for (size_t i = 0; i < n; i++) {
		ssize_t got = lgetxattr (path, list[i], value, XATTRS_MAX);
		if (got < 0)
			return silo_fail_sys (err, errno, "getxattr %s", list[i]);
		int r = silo_buf_addf (ret, err, "%s=%zd:", list[i], got);
		if (r == 0)
			r = silo_buf_add (ret, value, (size_t) got, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static void
compare_xattrs (struct comparison *cmp, const char *want, const char *got)
{
	_cleanup_buf_ struct silo_buf a = SILO_BUF (1 << 20), b = SILO_BUF (1 << 20);
	struct silo_error err = { 0 };

	if (xattr_text (want, &a, &err) < 0 || xattr_text (got, &b, &err) < 0)
		differ (cmp, "%s: %s", got, err.msg);
	else if (a.len != b.len || (a.len && memcmp (a.data, b.data, a.len) != 0))
		differ (cmp, "%s: attributes %.100s, not %.100s", got,
			b.len ? (char *) b.data : "none", a.len ? (char *) a.data : "none");
}

static void
compare_bytes (struct comparison *cmp, const char *want, const char *got)
{
	_cleanup_free_ char *a = NULL, *b = NULL;
	ssize_t a_len = tree_read (want, &a), b_len = tree_read (got, &b);

	if (a_len < 0 || b_len < 0)
		differ (cmp, "%s: %s", got, strerror ((int) (a_len < 0 ? -a_len : -b_len)));
	else if (a_len != b_len || memcmp (a, b, (size_t) a_len) != 0)
		differ (cmp, "%s: %zd bytes that are not the %zd of the source", got, b_len, a_len);
}

static void
compare_link (struct comparison *cmp, const char *want, const char *got)
{
	char a[PATH_MAX] = "", b[PATH_MAX] = "";
	ssize_t a_len = readlink (want, a, sizeof (a)), b_len = readlink (got, b, sizeof (b));

	if (a_len < 0 || a_len != b_len || memcmp (a, b, (size_t) a_len) != 0)
		differ (cmp, "%s: symlink of %zd bytes %.40s, not %.40s", got, b_len, b, a);
}

static int
name_order (const struct dirent **a, const struct dirent **b)
{
	return strcmp ((*a)->d_name, (*b)->d_name);
}

static void
names_free (struct dirent **names, int n)
{
	for (int i = 0; i < n; i++)
		free (names[i]);
	free (names);
}

static void compare_entry (struct comparison *cmp, const char *want, const char *got, int depth);

static void
compare_folder (struct comparison *cmp, const char *want, const char *got, int depth)
{
	struct dirent **a = NULL, **b = NULL;
	char a_path[PATH_MAX], b_path[PATH_MAX];
	int n = scandir (want, &a, NULL, name_order), m = scandir (got, &b, NULL, name_order);

	if (n != m)
		differ (cmp, "%s: %d names, not %d", got, m, n);
	for (int i = 0; n == m && i < n; i++) {
		const char *name = a[i]->d_name;
		if (strcmp (name, b[i]->d_name) != 0) {
			differ (cmp, "%s: name \"%s\", not \"%s\"", got, b[i]->d_name, name);
			break;
		}
		if (a[i]->d_type != b[i]->d_type)
			differ (cmp, "%s/%s: listed as type %d, not %d", got, name, b[i]->d_type,
				a[i]->d_type);
		if (strcmp (name, ".") == 0 || strcmp (name, "..") == 0)
			continue;
		snprintf (a_path, sizeof (a_path), "%s/%s", want, name);
		snprintf (b_path, sizeof (b_path), "%s/%s", got, name);
		compare_entry (cmp, a_path, b_path, depth + 1);
	}
	names_free (a, n);
	names_free (b, m);
}

static void
compare_entry (struct comparison *cmp, const char *want, const char *got, int depth)
{
	struct stat a, b;

	if (lstat (want, &a) < 0 || lstat (got, &b) < 0) {
		differ (cmp, "%s: %s", got, strerror (errno));
		return;
	}
	compare_stat (cmp, got, &a, &b);
	if ((a.st_mode & S_IFMT) != (b.st_mode & S_IFMT))
		return;
	compare_xattrs (cmp, want, got);
	if (S_ISREG (a.st_mode))
		compare_bytes (cmp, want, got);
	else if (S_ISLNK (a.st_mode))
		compare_link (cmp, want, got);
	else if (S_ISDIR (a.st_mode) && depth < 100)
		compare_folder (cmp, want, got, depth);
}

int
tree_compare (const char *want, const char *got)
{
	struct comparison cmp = { 0 };

	compare_entry (&cmp, want, got, 0);
	return cmp.wrong;
}

void
tree_find (const char *root, char *ret, size_t size)
{
	static const char script[] =
	    "cd \"$1\" && find . \\( -type d -printf '%p %y %m %U %G %T@\\0' \\) -o "
	    "-printf '%p %y %m %U %G %T@ %s %n %l\\0' | LC_ALL=C sort -z | sha256sum";
	const char *const argv[] = { "sh", "-c", script, "sh", root, NULL };
	_cleanup_buf_ struct silo_buf out = SILO_BUF (4096);
	struct silo_error err = { 0 };

	if (silo_run (argv, NULL, 60000, &out, &err) < 0)
		snprintf (ret, size, "%s: %s", root, err.msg);
	else
		snprintf (ret, size, "%s", out.len ? (char *) out.data : "");
}

/* -- what is left behind -- */

static int
count_entries (const char *folder)
{
	_cleanup_closedir_ DIR *dir = opendir (folder);
	int n = 0;

	while (dir && readdir (dir))
		n++;
	return n;
}

void
holdings_take (struct holdings *ret)
{
	_cleanup_fclose_ FILE *table = fopen ("/proc/self/mountinfo", "re");
	_cleanup_free_ char *line = NULL;
	size_t size = 0;

	*ret = (struct holdings){ 0 };
	while (table && getline (&line, &size, table) > 0)
		ret->mounts++;
	ret->fds = count_entries ("/proc/self/fd");
	ret->threads = count_entries ("/proc/self/task");
}

void
holdings_same (const struct holdings *before, const char *after_what)
{
	struct holdings now;

	holdings_take (&now);
	tap_is_int (now.mounts, before->mounts, "%s: no mount is left", after_what);
	tap_is_int (now.fds, before->fds, "%s: no descriptor is left", after_what);
	tap_is_int (now.threads, before->threads, "%s: no thread is left", after_what);
}
