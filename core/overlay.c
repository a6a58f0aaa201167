/* SPDX-License-Identifier: Apache-2.0 */
/*
 * overlay.c - mounts for rootfs plugins, with the file-descriptor mount API: a
 * file system mounted at no path, and a container's private view of a shared
 * read-only tree (an overlay with a tmpfs or disk upper).  Everything is built
 * detached and attached to its target last, so that a failure half way leaves
 * nothing.  Where the kernel refuses layers that are attached nowhere, the same
 * is done in a mount namespace for a moment (overlay-space.c).  Any thread; no
 * state: a refused first try costs a few system calls, remembering would save
 * nothing that counts beside the second.
 */
#include "overlay.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>

/* How a thread names its process' descriptor to the kernel: short, and without any of the
 * characters that overlay's options give a meaning to. */
#define FD_PATH "/proc/self/fd/%d"

/* One try to make what is then attached to the target. */
struct attempt {
	const struct silo_overlay *overlay;
	int lower;
	bool attached; /* to the namespace of this thread: layers can be named by path */
	int fd;        /* the result; -1: none yet */
};

#define OVERLAY_ATTR (MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOATIME)

/* What the kernel wrote about the last failure into the context's log, or "". */
static void
overlay_log (int fs, char *ret, size_t size)
{
	char line[256];
	ssize_t n;

	ret[0] = '\0';
	/* One message per read; the last one that is an error says most. */
	for (int i = 0; i < 16 && (n = read (fs, line, sizeof (line) - 1)) > 0; i++) {
		line[n] = '\0';
		line[strcspn (line, "\n")] = '\0';
		if (line[0] == 'e' && n > 2)
			snprintf (ret, size, " (%.120s)", line + 2);
	}
}

static int
overlay_fail (int fs, int sys, struct silo_error *err, const char *type, const char *what)
{
	char log[128];

	overlay_log (fs, log, sizeof (log));
	return silo_fail_sys (err, sys, "mount %s: %s%s", type, what, log);
}

/* One "key=value" or "flag". */
static int
overlay_option (int fs, const char *type, const char *option, struct silo_error *err)
{
	const char *equals = strchr (option, '=');
	char key[32];
	int r;

	if (!equals) {
		r = fsconfig (fs, FSCONFIG_SET_FLAG, option, NULL, 0);
	} else {
		snprintf (key, sizeof (key), "%.*s", (int) (equals - option), option);
		r = fsconfig (fs, FSCONFIG_SET_STRING, key, equals + 1, 0);
	}
	return r < 0 ? overlay_fail (fs, errno, err, type, option) : 0;
}

static int
overlay_finish (int fs, const char *type, unsigned attr, int *ret_fd, struct silo_error *err)
{
	if (fsconfig (fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return overlay_fail (fs, errno, err, type, "create");

	int fd = fsmount (fs, FSMOUNT_CLOEXEC, attr);
	if (fd < 0)
		return overlay_fail (fs, errno, err, type, "fsmount");
	*ret_fd = fd;
	return 0;
}

static int
overlay_open (const char *type, int *ret_fs, struct silo_error *err)
{
	int fs = fsopen (type, FSOPEN_CLOEXEC);

	if (fs < 0)
		return silo_fail_sys (err, errno, "mount %s: fsopen", type);
	*ret_fs = fs;
	return 0;
}

int
silo_fs_mount (const char *type, const char *const *options, int *ret_fd, struct silo_error *err)
{
	_cleanup_close_ int fs = -1;
	int r = overlay_open (type, &fs, err);

	for (size_t i = 0; r == 0 && options[i]; i++)
		r = overlay_option (fs, type, options[i], err);
	if (r < 0)
		return r;
	return overlay_finish (fs, type, OVERLAY_ATTR, ret_fd, err);
}

/* Kernels before Linux 6.13 know layers by path only. */
static int
overlay_layer (int fs, const struct attempt *attempt, const char *key, int fd,
	       struct silo_error *err)
{
	char path[32];
	int r;

	snprintf (path, sizeof (path), FD_PATH, fd);
	if (attempt->attached)
		r = fsconfig (fs, FSCONFIG_SET_STRING, key, path, 0);
	else
		r = fsconfig (fs, FSCONFIG_SET_FD, key, NULL, fd);
	return r < 0 ? overlay_fail (fs, errno, err, "overlay", key) : 0;
}

/* The root of an overlay looks as its upper folder does: make that one look like the
 * lower root. */
static int
overlay_copy_xattrs (int from, int to, struct silo_error *err)
{
	char names[4096], value[4096];
	ssize_t n = flistxattr (from, names, sizeof (names));

	if (n < 0 && errno == EOPNOTSUPP)
		return 0;
	if (n < 0)
		return silo_fail_sys (err, errno, "attributes of the image's root folder");
	for (const char *name = names; name < names + n; name += strlen (name) + 1) {
		if (strncmp (name, "trusted.overlay.", 16) == 0)
			continue;
		ssize_t len = fgetxattr (from, name, value, sizeof (value));
		if (len < 0 ||
		    (fsetxattr (to, name, value, (size_t) len, 0) < 0 && errno != EOPNOTSUPP))
			return silo_fail_sys (err, errno, "attribute %s of the image's root folder",
					      name);
	}
	return 0;
}

static int
overlay_copy_root (int lower, int upper, struct silo_error *err)
{
	_cleanup_close_ int from = openat (lower, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;

	if (from < 0 || fstat (from, &st) < 0)
		return silo_fail_sys (err, errno, "the image's root folder");

	int r = overlay_copy_xattrs (from, upper, err);
	if (r < 0)
		return r;
	const struct timespec times[2] = { st.st_atim, st.st_mtim };
	if (fchown (upper, st.st_uid, st.st_gid) < 0 || fchmod (upper, st.st_mode & 07777) < 0 ||
	    futimens (upper, times) < 0)
		return silo_fail_sys (err, errno, "owner and mode of the upper root folder");
	return 0;
}

/* The folder that will hold "upper" and "work": a fresh tmpfs, or `scratch`. */
static int
overlay_base (const struct attempt *attempt, int *ret_base, struct silo_error *err)
{
	const struct silo_overlay *overlay = attempt->overlay;

	if (overlay->upper == SILO_UPPER_DISK) {
		int fd = open (overlay->scratch, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return silo_fail_sys (err, errno, "scratch folder %s", overlay->scratch);
		*ret_base = fd;
		return 0;
	}

	char size[40], inodes[40];
	/* An empty file costs kernel memory that `size` does not count. */
	int64_t n_inodes = 1024 + overlay->upper_size / 4096;
	snprintf (size, sizeof (size), "size=%lld", (long long) overlay->upper_size);
	snprintf (inodes, sizeof (inodes), "nr_inodes=%lld", (long long) n_inodes);
	const char *const options[] = { "source=silo", "mode=0700", size, inodes, NULL };
	_cleanup_close_ int fd = -1;
	int r = silo_fs_mount ("tmpfs", options, &fd, err);
	if (r == 0 && attempt->attached)
		r = overlay_attach (fd, overlay->target, err);
	if (r < 0)
		return r;
	*ret_base = silo_steal_fd (&fd);
	return 0;
}

/* A first try that the kernel (Linux 6.13, 6.14) refused late has left its folders in
 * `scratch`, marked as never to be mounted again; nothing was written to them. */
static void
overlay_unmark (int base)
{
	static const char *const marks[] = { "work/work/incompat/volatile/dirty",
					     "work/work/incompat/volatile",
					     "work/work/incompat",
					     "work/work",
					     "work",
					     "upper" };

	for (size_t i = 0; i < ARRAY_SIZE (marks); i++)
		unlinkat (base, marks[i], i == 0 ? 0 : AT_REMOVEDIR);
}

static int
overlay_subdir (int base, const char *name, int *ret_fd, struct silo_error *err)
{
	if (mkdirat (base, name, 0700) < 0)
		return silo_fail_sys (err, errno, "folder %s of the upper layer", name);

	int fd = openat (base, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return silo_fail_sys (err, errno, "folder %s of the upper layer", name);
	*ret_fd = fd;
	return 0;
}

static int
overlay_add_upper (int fs, const struct attempt *attempt, int base, struct silo_error *err)
{
	_cleanup_close_ int upper = -1, work = -1;

	if (attempt->attached)
		overlay_unmark (base);
	int r = overlay_subdir (base, "upper", &upper, err);

	if (r == 0)
		r = overlay_subdir (base, "work", &work, err);
	if (r == 0)
		r = overlay_copy_root (attempt->lower, upper, err);
	if (r == 0)
		r = overlay_layer (fs, attempt, "upperdir", upper, err);
	if (r == 0)
		r = overlay_layer (fs, attempt, "workdir", work, err);
	/* What is written dies with the mount: there is nothing to make durable. */
	if (r == 0 && attempt->overlay->upper == SILO_UPPER_DISK)
		r = overlay_option (fs, "overlay", "volatile", err);
	return r;
}

/* The read-only layers.  "lowerdir+" and "datadir+" are from Linux 6.7, "a::b" is from 6.5, and
 * before that there are no data-only layers. */
static int
overlay_add_lower (int fs, const struct attempt *attempt, struct silo_error *err)
{
	char paths[96];

	if (!attempt->overlay->data && attempt->attached)
		return overlay_layer (fs, attempt, "lowerdir", attempt->lower, err);
	if (!attempt->overlay->data)
		return overlay_layer (fs, attempt, "lowerdir+", attempt->lower, err);

	_cleanup_close_ int data =
	    open (attempt->overlay->data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (data < 0)
		return silo_fail_sys (err, errno, "objects folder %s", attempt->overlay->data);
	/* Redirects to data are followed only with metacopy. */
	int r = overlay_option (fs, "overlay", "metacopy=on", err);
	if (r < 0)
		return r;
	if (!attempt->attached) {
		r = overlay_layer (fs, attempt, "lowerdir+", attempt->lower, err);
		return r < 0 ? r : overlay_layer (fs, attempt, "datadir+", data, err);
	}
	snprintf (paths, sizeof (paths), FD_PATH "::" FD_PATH, attempt->lower, data);
	if (fsconfig (fs, FSCONFIG_SET_STRING, "lowerdir", paths, 0) < 0)
		return overlay_fail (fs, errno, err, "overlay", "lower and data-only layer");
	return 0;
}

/* Build the overlay, attached nowhere yet. */
static int
overlay_build (struct attempt *attempt, struct silo_error *err)
{
	bool readonly = attempt->overlay->upper == SILO_UPPER_NONE;
	_cleanup_close_ int fs = -1;
	_cleanup_close_ int base = -1; /* a detached tmpfs dies with it: open until fsmount */
	int r = overlay_open ("overlay", &fs, err);

	if (r == 0)
		r = overlay_option (fs, "overlay", "source=silo", err);
	if (r == 0)
		r = overlay_option (fs, "overlay", "redirect_dir=on", err);
	if (r == 0)
		r = overlay_add_lower (fs, attempt, err);
	/* Else lower files seem to be on another device than their folders ("tar
	 * --one-file-system" leaves them out), and folders have other numbers than readdir says. */
	if (r == 0 && !readonly)
		r = overlay_option (fs, "overlay", "xino=on", err);
	if (r == 0 && !readonly)
		r = overlay_base (attempt, &base, err);
	if (r == 0 && !readonly)
		r = overlay_add_upper (fs, attempt, base, err);
	if (r == 0 && readonly)
		r = overlay_option (fs, "overlay", "ro", err);
	if (r < 0)
		return r;
	return overlay_finish (fs, "overlay", OVERLAY_ATTR | (readonly ? MOUNT_ATTR_RDONLY : 0),
			       &attempt->fd, err);
}

static int
overlay_copy (int lower, int *ret_fd, struct silo_error *err)
{
	int fd = open_tree (lower, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);

	if (fd < 0)
		return silo_fail_sys (err, errno, "bind mount of the image");
	*ret_fd = fd;
	return 0;
}

/* A tree that is complete by itself needs no overlay to be seen read-only. */
static int
overlay_bind (struct attempt *attempt, struct silo_error *err)
{
	struct mount_attr attr = { .attr_set = OVERLAY_ATTR | MOUNT_ATTR_RDONLY,
				   .attr_clr = MOUNT_ATTR__ATIME };
	_cleanup_close_ int fd = -1;

	int r = overlay_copy (attempt->lower, &fd, err);
	if (r < 0)
		return r;
	if (mount_setattr (fd, "", AT_EMPTY_PATH, &attr, sizeof (attr)) < 0)
		return silo_fail_sys (err, errno, "read-only bind mount of the image");
	attempt->fd = silo_steal_fd (&fd);
	return 0;
}

static int
overlay_try (struct attempt *attempt, struct silo_error *err)
{
	if (attempt->overlay->upper == SILO_UPPER_NONE && !attempt->overlay->data)
		return overlay_bind (attempt, err);
	return overlay_build (attempt, err);
}

/* On the thread that has a mount namespace of its own. */
static int
overlay_try_attached (void *arg, struct silo_error *err)
{
	struct attempt *attempt = arg;
	const struct silo_overlay *overlay = attempt->overlay;
	_cleanup_close_ int lower = attempt->lower;
	int r;

	if (lower >= 0)
		r = overlay_attach (lower, overlay->target, err);
	else
		r = overlay_borrow (overlay->lower, overlay->target, &lower, err);
	attempt->lower = lower;
	return r < 0 ? r : overlay_try (attempt, err);
}

/* What goes on the target, and whether it took the second way. */
static int
overlay_make (const struct silo_overlay *overlay, bool *ret_attached, int *ret_fd,
	      struct silo_error *err)
{
	struct attempt attempt = { .overlay = overlay, .lower = overlay->lower, .fd = -1 };
	struct silo_error why = { 0 };

	int r = overlay_try (&attempt, &why);
	/* EINVAL is what older kernels say to all of it: keys and kinds of values that they do
	 * not know, and mounts that are attached nowhere. */
	if (r < 0 && why.sys == EINVAL) {
		attempt.attached = true;
		attempt.lower = -1;
		/* A plain folder can be copied here, and not in another namespace. */
		overlay_copy (overlay->lower, &attempt.lower, NULL);
		memset (&why, 0, sizeof (why));
		r = overlay_space (overlay_try_attached, &attempt, &why);
	}
	if (r < 0) {
		if (err)
			*err = why;
		return r;
	}
	*ret_attached = attempt.attached;
	*ret_fd = attempt.fd;
	return 0;
}

int
silo_overlay_mount (const struct silo_overlay *overlay, struct silo_error *err)
{
	_cleanup_close_ int fd = -1;
	bool attached;

	int r = overlay_make (overlay, &attached, &fd, err);
	return r < 0 ? r : overlay_attach (fd, overlay->target, err);
}

/* An overlay of empty folders, which goes at once. */
static int
overlay_probe_one (const struct silo_overlay *overlay, bool *ret_attached, struct silo_error *err)
{
	_cleanup_close_ int fd = -1;

	return overlay_make (overlay, ret_attached, &fd, err);
}

int
overlay_probe (const char *folder, struct overlay_can *ret, struct silo_error *err)
{
	static const char *const options[] = { "source=silo", NULL };
	char target[PATH_MAX], data[PATH_MAX];
	_cleanup_close_ int lower = -1;
	struct silo_error ignored;
	bool attached, again;

	if (snprintf (target, sizeof (target), "%s/target", folder) >= PATH_MAX ||
	    snprintf (data, sizeof (data), "%s/data", folder) >= PATH_MAX)
		return silo_fail (err, SILO_RANGE, "folder %s: too long", folder);
	if (mkdir (target, 0700) < 0 || mkdir (data, 0700) < 0)
		return silo_fail_sys (err, errno, "folders below %s", folder);
	int r = silo_fs_mount ("tmpfs", options, &lower, err);
	if (r < 0)
		return r;
	struct silo_overlay overlay = {
		.lower = lower, .upper = SILO_UPPER_TMPFS, .upper_size = 1 << 20, .target = target
	};
	r = overlay_probe_one (&overlay, &attached, err);
	if (r < 0)
		return r;
	overlay.data = data;
	*ret = (struct overlay_can){ .detached = !attached,
				     .data = overlay_probe_one (&overlay, &again, &ignored) == 0 };
	return 0;
}
