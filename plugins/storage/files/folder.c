/* SPDX-License-Identifier: Apache-2.0 */
/*
 * folder.c - the store of storage/files as a whole: making and opening it, the
 * writers' lock, the last id that was given, file names.
 *
 *     format   "silo store 1": what this folder is
 *     last     a link to the highest task id given so far; tasks above it do not exist
 *     lock     locked by the process that writes
 *     temp/    files being written; locked (shared) by every process that uses the store
 *     tasks/   ID.task, and ID.run while it runs, or ID.result when it has ended
 *     images/  NAME.image
 *     things/  KIND/NAME.thing
 */
#include <ctype.h>
#include <dirent.h>
#include <sys/file.h>
#include <sys/stat.h>
#include "files.h"

#define FORMAT "silo store 1\n"

static const char *const members[] = {
	"format", "last", "lock", "temp", "tasks", "images", "things",
};

/* Read a small file below the store.  *ret is terminated. */
static int
read_small (struct files *f, const char *name, char *ret, size_t size, struct silo_error *err)
{
	_cleanup_close_ int fd = openat (f->root, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return silo_fail_sys (err, errno, "%s/%s", f->path, name);
	ssize_t n = read (fd, ret, size - 1);
	if (n < 0)
		return silo_fail_sys (err, errno, "%s/%s", f->path, name);
	ret[n] = '\0';
	return 0;
}

/* Replace a small file below the store. */
static int
write_small (struct files *f, const char *name, const char *text, struct silo_error *err)
{
	char temp[NAME_SIZE];
	int r = temp_name (temp, err);
	if (r < 0)
		return r;
	_cleanup_close_ int fd =
	    openat (f->temp, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return silo_fail_sys (err, errno, "%s/temp/%s", f->path, temp);
	ssize_t len = (ssize_t) strlen (text), n = write (fd, text, (size_t) len);
	int sys = n == len ? 0 : n < 0 ? errno : ENOSPC;
	if (sys == 0 && f->fsync && fsync (fd) < 0)
		sys = errno;
	if (sys == 0)
		return store_publish (f, temp, f->root, name, PUBLISH_REPLACE, err);
	unlinkat (f->temp, temp, 0);
	return silo_fail_sys (err, sys, "%s/%s", f->path, name);
}

/* -- making and opening --------------------------------------------------------------- */

static int
open_folder (struct files *f, const char *name, int *ret, struct silo_error *err)
{
	if (mkdirat (f->root, name, 0700) < 0 && errno != EEXIST)
		return silo_fail_sys (err, errno, "%s/%s", f->path, name);
	int fd = openat (f->root, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return silo_fail_sys (err, errno, "%s/%s", f->path, name);
	*ret = fd;
	return 0;
}

static bool
is_member (const char *name)
{
	for (size_t i = 0; i < sizeof (members) / sizeof (members[0]); i++)
		if (strcmp (name, members[i]) == 0)
			return true;
	return false;
}

/* The first entry of a folder that is not ours: 1 and its name, or 0.  `ours`: the store's
 * own members do not count. */
static int
find_other (struct files *f, int folder, bool ours, char ret[NAME_SIZE], struct silo_error *err)
{
	int fd = openat (folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir (fd);
	struct dirent *entry;
	int found = 0;

	if (!dir) {
		cleanup_close (&fd);
		return silo_fail_sys (err, errno, "%s", f->path);
	}
	while (!found && (entry = readdir (dir))) {
		if (strcmp (entry->d_name, ".") == 0 || strcmp (entry->d_name, "..") == 0 ||
		    (ours && is_member (entry->d_name)))
			continue;
		snprintf (ret, NAME_SIZE, "%s", entry->d_name);
		found = 1;
	}
	closedir (dir);
	return found;
}

/* 1: this is a store; 0: a folder in which one can be made; else it is refused. */
static int
check_format (struct files *f, struct silo_error *err)
{
	char text[sizeof (FORMAT) + 32], other[NAME_SIZE];
	struct silo_error why;
	int r = read_small (f, "format", text, sizeof (text), &why);

	if (r >= 0 && strcmp (text, FORMAT) == 0)
		return 1;
	if (r >= 0 && strncmp (text, FORMAT, strlen ("silo store ")) == 0)
		return silo_fail (err, SILO_PRECONDITION,
				  "%s was made by another version of Silo: use that one", f->path);
	if (r >= 0)
		return silo_fail (
		    err, SILO_DATALOSS,
		    "%s/format is damaged: if this is a store, write the line \"%.*s\" "
		    "into it",
		    f->path, (int) strlen (FORMAT) - 1, FORMAT);
	if (r != SILO_NOTFOUND) {
		if (err)
			*err = why;
		return r;
	}
	r = find_other (f, f->root, true, other, err);
	if (r > 0)
		return silo_fail (err, SILO_INVALID,
				  "%s is not a store, it holds %s: let path = name an empty folder",
				  f->path, other);
	return r;
}

/* With the lock held: complete a new store, of which a killed process may have made a part.
 * `format` comes last. */
static int
make_store (struct files *f, struct silo_error *err)
{
	char other[NAME_SIZE];
	int r = find_other (f, f->tasks, false, other, err);

	if (r > 0)
		return silo_fail (
		    err, SILO_DATALOSS,
		    "%s/format is gone but there are tasks: put it back from a backup", f->path);
	if (r >= 0)
		r = last_write (f, 0, err);
	if (r >= 0)
		r = write_small (f, "format", FORMAT, err);
	return r;
}

/* Remove what a killed process left in temp/, unless another one uses the store: that is
 * known from a lock which all users share.  Turning it into a shared one may let another
 * process in between, but we have written nothing yet. */
static int
clean_temp (struct files *f, struct silo_error *err)
{
	if (flock (f->temp, LOCK_EX | LOCK_NB) == 0) {
		int fd = openat (f->temp, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		DIR *dir = fd < 0 ? NULL : fdopendir (fd);
		struct dirent *entry;
		if (!dir) {
			cleanup_close (&fd);
			return silo_fail_sys (err, errno, "%s/temp", f->path);
		}
		while ((entry = readdir (dir))) {
			if (entry->d_name[0] == '.')
				continue;
			task_drop_finish (f, entry->d_name);
			unlinkat (f->temp, entry->d_name, 0);
		}
		closedir (dir);
	}
	while (flock (f->temp, LOCK_SH) < 0)
		if (errno != EINTR)
			return silo_fail_sys (err, errno, "%s/temp", f->path);
	return 0;
}

static int
open_members (struct files *f, struct silo_error *err)
{
	_cleanup_unlock_ struct files *held = NULL;
	int r = open_folder (f, "temp", &f->temp, err);

	if (r >= 0)
		r = open_folder (f, "tasks", &f->tasks, err);
	if (r >= 0)
		r = open_folder (f, "images", &f->images, err);
	if (r >= 0)
		r = open_folder (f, "things", &f->things, err);
	if (r < 0)
		return r;
	f->lock = openat (f->root, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (f->lock < 0)
		return silo_fail_sys (err, errno, "%s/lock", f->path);
	r = clean_temp (f, err);
	if (r >= 0)
		r = store_lock (f, &held, err);
	if (r >= 0)
		r = check_format (f, err);
	return r == 0 ? make_store (f, err) : r;
}

int
store_open (struct files *f, struct silo_error *err)
{
	int64_t last;

	if (mkdir (f->path, 0700) < 0 && errno != EEXIST)
		return silo_fail_sys (err, errno, "%s", f->path);
	f->root = open (f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (f->root < 0)
		return silo_fail_sys (err, errno, "%s", f->path);
	int r = check_format (f, err);
	if (r >= 0)
		r = open_members (f, err);
	if (r >= 0)
		r = last_read (f, &last, err);
	if (r < 0)
		store_close (f);
	return r < 0 ? r : 0;
}

void
store_close (struct files *f)
{
	int *const fds[] = { &f->root, &f->tasks, &f->images, &f->things, &f->temp, &f->lock };

	for (size_t i = 0; i < sizeof (fds) / sizeof (fds[0]); i++) {
		cleanup_close (fds[i]);
		*fds[i] = -1;
	}
}

/* -- writers -------------------------------------------------------------------------- */

int
store_lock (struct files *f, struct files **ret_held, struct silo_error *err)
{
	pthread_mutex_lock (&f->mutex);
	while (flock (f->lock, LOCK_EX) < 0) {
		if (errno == EINTR)
			continue;
		int r = silo_fail_sys (err, errno, "%s/lock", f->path);
		pthread_mutex_unlock (&f->mutex);
		return r;
	}
	*ret_held = f;
	return 0;
}

void
store_unlock (struct files **held)
{
	if (!*held)
		return;
	int r = flock ((*held)->lock, LOCK_UN);
	assert (r == 0);
	pthread_mutex_unlock (&(*held)->mutex);
}

/* `last` is a symbolic link, whose target is the number: it is read and replaced in one step like
 * a file, but has no contents, which a file system would write out at each rename. */
int
last_read (struct files *f, int64_t *ret, struct silo_error *err)
{
	char text[32], again[32];
	ssize_t n = readlinkat (f->root, "last", text, sizeof (text) - 1);

	if (n < 0 && errno != ENOENT && errno != EINVAL)
		return silo_fail_sys (err, errno, "%s/last", f->path);
	text[n < 0 ? 0 : n] = '\0';
	long long last = strtoll (text, NULL, 10);
	snprintf (again, sizeof (again), "%lld", last);
	if (last < 0 || strcmp (text, again) != 0)
		return silo_fail (err, SILO_DATALOSS,
				  "%s/last is gone or damaged: make it a symbolic link to a number "
				  "not below the highest in tasks/ (ln -sfn NUMBER last)",
				  f->path);
	atomic_store (&f->last_id, last);
	*ret = last;
	return 0;
}

int
last_write (struct files *f, int64_t last, struct silo_error *err)
{
	char text[32], temp[NAME_SIZE];

	int r = temp_name (temp, err);
	if (r < 0)
		return r;
	snprintf (text, sizeof (text), "%lld", (long long) last);
	if (symlinkat (text, f->temp, temp) < 0)
		return silo_fail_sys (err, errno, "%s/temp/%s", f->path, temp);
	r = store_publish (f, temp, f->root, "last", PUBLISH_REPLACE, err);
	if (r >= 0)
		atomic_store (&f->last_id, last);
	return r;
}

int
temp_name (char ret[NAME_SIZE], struct silo_error *err)
{
	uint64_t random;
	int r = silo_random (&random, sizeof (random), err);
	if (r >= 0)
		snprintf (ret, NAME_SIZE, "new-%016llx", (unsigned long long) random);
	return r;
}

int
store_publish (struct files *f, const char *temp, int folder, const char *name, enum publish how,
	       struct silo_error *err)
{
	int sys = 0;

	if (how == PUBLISH_REPLACE) {
		if (renameat (f->temp, temp, folder, name) < 0)
			sys = errno;
	} else if (linkat (f->temp, temp, folder, name, 0) < 0) {
		sys = errno;
	}
	/* Also after a link: it has two names then. */
	if (sys || how == PUBLISH_FIRST)
		unlinkat (f->temp, temp, 0);
	if (sys == 0 && f->fsync && fsync (folder) < 0)
		sys = errno;
	return sys ? silo_fail_sys (err, sys, "%s: %s", f->path, name) : 0;
}

/* -- names ------------------------------------------------------------------------------ */

#define ENCODED_MAX  180 /* a longer one is cut ... */
#define ENCODED_KEPT 100 /* ... to this, and a digest is added */

int
name_encode (const char *text, const char *suffix, char ret[NAME_SIZE], struct silo_error *err)
{
	char encoded[ENCODED_MAX + 4];
	size_t n = 0;

	for (const char *p = text; *p && n <= ENCODED_MAX; p++) {
		bool plain = isascii (*p) &&
			     (isalnum (*p) || *p == '_' || *p == '-' || (*p == '.' && p > text));
		if (plain)
			encoded[n++] = *p;
		else
			n += (size_t) snprintf (encoded + n, sizeof (encoded) - n, "%%%02X",
						(unsigned char) *p);
	}
	if (n <= ENCODED_MAX) {
		/* A lone % stands for the empty text. */
		snprintf (ret, NAME_SIZE, "%.*s%s", n ? (int) n : 1, n ? encoded : "%", suffix);
		return 0;
	}
	struct silo_digest digest;
	char hex[SILO_DIGEST_HEX + 1];
	int r = silo_digest_of (text, strlen (text), &digest, err);
	if (r < 0)
		return r;
	silo_digest_hex (&digest, hex);
	snprintf (ret, NAME_SIZE, "%.*s~%s%s", ENCODED_KEPT, encoded, hex, suffix);
	return 0;
}

bool
name_ends (const char *name, const char *suffix)
{
	size_t n = strlen (name), m = strlen (suffix);
	return n > m && strcmp (name + n - m, suffix) == 0;
}
