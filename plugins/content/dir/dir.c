/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dir.c - objects as files in a folder: PATH/ab/cdef..., mode 0444.  New ones
 * are written in one folder of this instance, PATH/staging/<random>, and then
 * renamed, so that an object is complete or absent and all of them are born in
 * one folder, which keeps ext4 from scattering them.  The folder is made with
 * the first object and locked as long as its owner lives; one that is not
 * locked was left by a process that died.  Any thread, any number of processes.
 */
#include <silo/silo.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define STAGING   "staging"
#define COPY_SIZE ((size_t) 256 << 10)

struct dir {
	const char *path;
	struct silo_host *host;
	int fd;
	pthread_mutex_t lock; /* the fields below */
	int staging;          /* this instance's folder, locked; -1: not needed yet */
	char staging_name[sizeof (STAGING) + 17];
	bool chmod; /* the umask takes bits of 0444 away */
	uint64_t n; /* stages so far */
};

struct stage {
	int fd;
	char name[17]; /* in the instance's folder */
};

static const struct silo_option dir_options[] = {
	{ .name = "path",
	  .type = SILO_PATH,
	  .offset = offsetof (struct dir, path),
	  .def = "objects",
	  .help = "folder that holds the objects" },
	{ .name = NULL },
};

/* "ab/cdef..." */
struct name {
	char text[SILO_DIGEST_HEX + 2];
};

static struct name
name_of (const struct silo_digest *digest)
{
	char hex[SILO_DIGEST_HEX + 1];
	struct name name;
	silo_digest_hex (digest, hex);
	snprintf (name.text, sizeof (name.text), "%.2s/%.62s", hex, hex + 2);
	return name;
}

static int
fail_object (const struct dir *dir, const struct name *name, int sys, struct silo_error *err)
{
	if (sys == ENOENT)
		return silo_fail (err, SILO_NOTFOUND, "no object %.2s%s", name->text,
				  name->text + 3);
	return silo_fail_sys (err, sys, "object %s/%s", dir->path, name->text);
}

static int
object_open (const struct dir *dir, const struct silo_digest *digest, int *ret_fd,
	     struct silo_error *err)
{
	const struct name name = name_of (digest);
	int fd = openat (dir->fd, name.text, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY);
	if (fd < 0)
		return fail_object (dir, &name, errno, err);
	*ret_fd = fd;
	return 0;
}

static int
dir_stat (void *self, const struct silo_digest *digest, int64_t *ret_size, struct silo_error *err)
{
	const struct dir *dir = self;
	const struct name name = name_of (digest);
	struct stat st;
	if (fstatat (dir->fd, name.text, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return fail_object (dir, &name, errno, err);
	if (!S_ISREG (st.st_mode))
		return silo_fail (err, SILO_DATALOSS, "object %s/%s is no regular file", dir->path,
				  name.text);
	*ret_size = st.st_size;
	return 0;
}

static int
dir_open (void *self, const struct silo_digest *digest, int *ret_fd, struct silo_error *err)
{
	return object_open (self, digest, ret_fd, err);
}

static int
dir_read (void *self, const struct silo_digest *digest, int64_t offset, void *to, size_t len,
	  size_t *ret_len, struct silo_error *err)
{
	int fd = -1;
	size_t done = 0;
	if (offset < 0)
		return silo_fail (err, SILO_RANGE, "offset %" PRId64 " is negative", offset);
	int r = object_open (self, digest, &fd, err);
	if (r < 0)
		return r;
	while (done < len) {
		ssize_t n = pread (fd, (char *) to + done, len - done, offset + (off_t) done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			r = silo_fail_sys (err, errno, "read an object");
		if (n <= 0)
			break;
		done += (size_t) n;
	}
	close (fd);
	if (r == 0)
		*ret_len = done;
	return r;
}

/* -- writing ---------------------------------------------------------------------- */

/* Hold the lock of all of PATH/staging, for as long as a folder there is made or removed: one
 * that is new is not locked yet. */
static int
staging_lock (const struct dir *dir, struct silo_error *err)
{
	int fd = openat (dir->fd, STAGING, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	int r = -1;
	while (fd >= 0 && (r = flock (fd, LOCK_EX)) < 0 && errno == EINTR)
		;
	if (r == 0)
		return fd;
	r = silo_fail_sys (err, errno, "%s/" STAGING, dir->path);
	if (fd >= 0)
		close (fd);
	return r;
}

/* ext4 puts folders below one with this mark each where there is room, as it does for those of
 * /home, and else close to their parent.  There an import behind `silo rm` would pay for each
 * file that was removed lately: their inodes are not given out again for some minutes, but
 * looked at each time.  Other file systems know no such thing. */
static void
staging_spread (int all)
{
	int flags;
	if (ioctl (all, FS_IOC_GETFLAGS, &flags) < 0 || (flags & FS_TOPDIR_FL))
		return;
	flags |= FS_TOPDIR_FL;
	ioctl (all, FS_IOC_SETFLAGS, &flags);
}

static int
staging_open (struct dir *dir, struct silo_error *err)
{
	uint64_t random = 0;
	struct stat st;
	int r = silo_random (&random, sizeof (random), err);
	int all = r < 0 ? r : staging_lock (dir, err);
	if (all < 0)
		return all;
	staging_spread (all);
	snprintf (dir->staging_name, sizeof (dir->staging_name), STAGING "/%016" PRIx64, random);
	int fd = -1;
	/* Its mode tells the umask.  PATH/staging is closed to others. */
	if (mkdirat (dir->fd, dir->staging_name, 0777) == 0)
		fd = openat (dir->fd, dir->staging_name,
			     O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || flock (fd, LOCK_EX | LOCK_NB) < 0 || fstat (fd, &st) < 0) {
		r = silo_fail_sys (err, errno, "%s/%s", dir->path, dir->staging_name);
		if (fd >= 0)
			close (fd);
		unlinkat (dir->fd, dir->staging_name, AT_REMOVEDIR);
	} else {
		dir->chmod = (st.st_mode & 0444) != 0444;
		dir->staging = fd;
	}
	close (all);
	return r;
}

static int
stage_name (struct dir *dir, struct stage *stage, struct silo_error *err)
{
	int r = 0;
	pthread_mutex_lock (&dir->lock);
	if (dir->staging < 0)
		r = staging_open (dir, err);
	uint64_t n = dir->n++;
	pthread_mutex_unlock (&dir->lock);
	snprintf (stage->name, sizeof (stage->name), "%" PRIx64, n);
	return r;
}

static int
dir_stage (void *self, int *ret_fd, void **ret_stage, struct silo_error *err)
{
	struct dir *dir = self;
	struct stage *stage = calloc (1, sizeof (*stage));
	if (!stage)
		return silo_fail_nomem (err);
	stage->fd = -1;
	int r = stage_name (dir, stage, err);
	if (r == 0) {
		stage->fd = openat (dir->staging, stage->name,
				    O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0444);
		if (stage->fd < 0 || (dir->chmod && fchmod (stage->fd, 0444) < 0))
			r = silo_fail_sys (err, errno, "%s/%s/%s", dir->path, dir->staging_name,
					   stage->name);
	}
	if (r < 0) {
		if (stage->fd >= 0) {
			unlinkat (dir->staging, stage->name, 0);
			close (stage->fd);
		}
		free (stage);
		return r;
	}
	*ret_fd = stage->fd;
	*ret_stage = stage;
	return 0;
}

static void
dir_abort (void *self, void *arg)
{
	const struct dir *dir = self;
	struct stage *stage = arg;
	unlinkat (dir->staging, stage->name, 0);
	close (stage->fd);
	free (stage);
}

/* Is the object there, as long as the stage is?  A shorter one was cut by a power loss. */
static bool
is_there (const struct dir *dir, const struct name *name, int fd)
{
	struct stat there, ours;
	return fstatat (dir->fd, name->text, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	       fstat (fd, &ours) == 0 && S_ISREG (there.st_mode) && there.st_size == ours.st_size;
}

/* Most objects are new: whether one is there is asked by renaming without replacing. */
static int
stage_rename (const struct dir *dir, const struct stage *stage, const struct name *name)
{
	if (renameat2 (dir->staging, stage->name, dir->fd, name->text, RENAME_NOREPLACE) == 0)
		return 0;
	/* EINVAL: the file system cannot do that. */
	if (errno != EEXIST && errno != EINVAL)
		return -1;
	if (is_there (dir, name, stage->fd))
		return unlinkat (dir->staging, stage->name, 0);
	return renameat (dir->staging, stage->name, dir->fd, name->text);
}

static int
dir_commit (void *self, void *arg, const struct silo_digest *digest, struct silo_error *err)
{
	const struct dir *dir = self;
	struct stage *stage = arg;
	const struct name name = name_of (digest);
	const char folder[3] = { name.text[0], name.text[1] };
	int r = stage_rename (dir, stage, &name);
	if (r < 0 && errno == ENOENT && (mkdirat (dir->fd, folder, 0755) == 0 || errno == EEXIST))
		r = stage_rename (dir, stage, &name);
	if (r < 0) {
		r = silo_fail_sys (err, errno, "object %s/%s", dir->path, name.text);
		dir_abort (self, stage);
		return r;
	}
	close (stage->fd);
	free (stage);
	return 0;
}

static int
write_all (int fd, const char *data, size_t len, struct silo_error *err)
{
	while (len > 0) {
		ssize_t n = write (fd, data, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return silo_fail_sys (err, errno, "write an object");
		data += n;
		len -= (size_t) n;
	}
	return 0;
}

/* Copy everything of `from` to `to`, and say what it is. */
static int
copy_all (int from, int to, struct silo_digest *ret, int64_t *ret_size, struct silo_error *err)
{
	struct silo_hash *hash = silo_hash_new ();
	char *buf = malloc (COPY_SIZE);
	int64_t size = 0;
	int r = hash && buf ? 0 : silo_fail_nomem (err);
	while (r == 0) {
		ssize_t n = pread (from, buf, COPY_SIZE, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			r = silo_fail_sys (err, errno, "read the file to store");
		if (n <= 0)
			break;
		size += n;
		r = write_all (to, buf, (size_t) n, err);
		if (r == 0 && silo_hash_add (hash, buf, (size_t) n) < 0)
			r = silo_fail (err, SILO_INTERNAL, "SHA-256 of an object");
	}
	struct silo_digest digest;
	if (r == 0 && silo_hash_end (hash, &digest) < 0)
		r = silo_fail (err, SILO_INTERNAL, "SHA-256 of an object");
	silo_hash_free (hash);
	free (buf);
	if (r < 0)
		return r;
	*ret = digest;
	*ret_size = size;
	return 0;
}

static int
dir_add (void *self, int fd, struct silo_digest *ret_digest, int64_t *ret_size,
	 struct silo_error *err)
{
	struct silo_digest digest;
	void *stage = NULL;
	int64_t size = 0;
	int to = -1;
	int r = dir_stage (self, &to, &stage, err);
	if (r < 0)
		return r;
	r = copy_all (fd, to, &digest, &size, err);
	if (r < 0) {
		dir_abort (self, stage);
		return r;
	}
	r = dir_commit (self, stage, &digest, err);
	if (r < 0)
		return r;
	*ret_digest = digest;
	*ret_size = size;
	return 0;
}

static int
dir_sync (void *self, struct silo_error *err)
{
	const struct dir *dir = self;
	/* One for all: a thousand times cheaper than one per object. */
	if (syncfs (dir->fd) < 0)
		return silo_fail_sys (err, errno, "sync %s", dir->path);
	return 0;
}

static int
dir_remove (void *self, const struct silo_digest *digest, struct silo_error *err)
{
	const struct dir *dir = self;
	const struct name name = name_of (digest);
	if (unlinkat (dir->fd, name.text, 0) < 0)
		return fail_object (dir, &name, errno, err);
	return 0;
}

/* -- listing ------------------------------------------------------------------------ */

/* The folder `name`; NULL with errno. */
static DIR *
folder_open (const struct dir *dir, const char *name)
{
	int fd = openat (dir->fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return NULL;
	DIR *folder = fdopendir (fd);
	if (!folder) {
		int sys = errno;
		close (fd);
		errno = sys;
	}
	return folder;
}

/* The objects of one of the 256 folders.  1: fn has stopped. */
static int
each_in (const struct dir *dir, const char *name, silo_object_fn *fn, void *arg,
	 struct silo_error *err)
{
	DIR *folder = folder_open (dir, name);
	if (!folder && errno == ENOENT)
		return 0;
	if (!folder)
		return silo_fail_sys (err, errno, "%s/%s", dir->path, name);
	int r = 0;
	while (r == 0) {
		errno = 0;
		const struct dirent *entry = readdir (folder);
		if (!entry) {
			if (errno)
				r = silo_fail_sys (err, errno, "%s/%s", dir->path, name);
			break;
		}
		char hex[SILO_DIGEST_HEX + 1];
		struct silo_digest digest;
		struct stat st;
		int n = snprintf (hex, sizeof (hex), "%s%s", name, entry->d_name);
		/* Not one of ours, or removed since. */
		if (n != SILO_DIGEST_HEX || silo_digest_parse (hex, &digest, NULL) < 0 ||
		    fstatat (dirfd (folder), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		    !S_ISREG (st.st_mode))
			continue;
		r = fn (arg, &digest, st.st_size) != 0;
	}
	closedir (folder);
	return r;
}

static int
dir_each (void *self, silo_object_fn *fn, void *arg, struct silo_error *err)
{
	for (unsigned i = 0; i < 256; i++) {
		char name[3];
		snprintf (name, sizeof (name), "%02x", i);
		int r = each_in (self, name, fn, arg, err);
		if (r != 0)
			return r < 0 ? r : 0;
	}
	return 0;
}

static const char *
dir_folder (void *self)
{
	const struct dir *dir = self;
	return dir->path;
}

/* -- life ----------------------------------------------------------------------------- */

/* Remove a folder of stages, when nobody holds it. */
static void
clean_one (const struct dir *dir, int all, const char *name)
{
	int fd = openat (all, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 && errno == ENOTDIR)
		unlinkat (all, name, 0); /* nobody writes files beside the folders */
	if (fd < 0 || flock (fd, LOCK_EX | LOCK_NB) < 0) {
		if (fd >= 0)
			close (fd);
		return;
	}
	DIR *folder = fdopendir (fd);
	if (!folder) {
		close (fd);
		return;
	}
	int n = 0;
	for (const struct dirent *entry; (entry = readdir (folder));)
		if (strcmp (entry->d_name, ".") != 0 && strcmp (entry->d_name, "..") != 0)
			n += unlinkat (fd, entry->d_name, 0) == 0;
	unlinkat (all, name, AT_REMOVEDIR);
	closedir (folder);
	if (n > 0)
		silo_log (dir->host, SILO_DEBUG, "removed %d unfinished objects", n);
}

/* Remove the stages that no living process holds. */
static void
clean_staging (const struct dir *dir)
{
	int all = staging_lock (dir, NULL);
	DIR *folder = all >= 0 ? fdopendir (all) : NULL;
	if (!folder) {
		if (all >= 0)
			close (all);
		return;
	}
	for (const struct dirent *entry; (entry = readdir (folder));)
		if (entry->d_name[0] != '.')
			clean_one (dir, all, entry->d_name);
	closedir (folder);
}

static int
dir_init (void *self, struct silo_host *host, struct silo_error *err)
{
	struct dir *dir = self;
	if (*dir->path == '\0')
		return silo_fail (err, SILO_INVALID, "path: expected a folder");
	dir->host = host;
	dir->fd = dir->staging = -1;
	pthread_mutex_init (&dir->lock, NULL);
	return 0;
}

/* Make the folder and what is missing above it. */
static int
make_folder (const char *path, struct silo_error *err)
{
	char *copy = strdup (path);
	if (!copy)
		return silo_fail_nomem (err);
	int r = 0;
	for (char *p = copy + 1; r == 0; p++) {
		if (*p != '/' && *p != '\0')
			continue;
		char end = *p;
		*p = '\0';
		if (mkdir (copy, 0755) < 0 && errno != EEXIST)
			r = silo_fail_sys (err, errno, "folder %s", copy);
		*p = end;
		if (end == '\0')
			break;
	}
	free (copy);
	return r;
}

static int
dir_start (void *self, struct silo_error *err)
{
	struct dir *dir = self;
	int r = make_folder (dir->path, err);
	if (r < 0)
		return r;
	dir->fd = open (dir->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir->fd < 0 || (mkdirat (dir->fd, STAGING, 0700) < 0 && errno != EEXIST)) {
		r = silo_fail_sys (err, errno, "folder %s", dir->path);
		if (dir->fd >= 0)
			close (dir->fd);
		dir->fd = -1;
		return r;
	}
	clean_staging (dir);
	return 0;
}

static void
dir_stop (void *self)
{
	struct dir *dir = self;
	if (dir->staging >= 0) {
		unlinkat (dir->fd, dir->staging_name, AT_REMOVEDIR);
		close (dir->staging);
	}
	if (dir->fd >= 0)
		close (dir->fd);
	dir->fd = dir->staging = -1;
}

static void
dir_destroy (void *self)
{
	struct dir *dir = self;
	pthread_mutex_destroy (&dir->lock);
}

static const struct silo_content_ops dir_ops = {
	.stat = dir_stat,
	.read = dir_read,
	.add = dir_add,
	.remove = dir_remove,
	.each = dir_each,
	.open = dir_open,
	.folder = dir_folder,
	.stage = dir_stage,
	.commit = dir_commit,
	.abort = dir_abort,
	.sync = dir_sync,
};

SILO_PLUGIN (dir_ops, .name = "dir", .version = "1.0", .summary = "objects as files in a folder",
	     .flags = SILO_PARALLEL, .options = dir_options, .instance_size = sizeof (struct dir),
	     .init = dir_init, .start = dir_start, .stop = dir_stop, .destroy = dir_destroy);
