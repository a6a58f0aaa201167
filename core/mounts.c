/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mounts.c - the records of `silo mount` below STATE/mounts; see mounts.h.
 * Used by verbs, on their one thread.
 */
#include "mounts.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/stat.h>

/* A record is a page or two: paths and names. */
#define RECORD_MAX 65536

int
mounts_id (const char *path, uint64_t *ret, struct silo_error *err)
{
	struct statx stx;

	if (statx (AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC,
		   STATX_MNT_ID, &stx) < 0)
		return silo_fail_sys (err, errno, "%s", path);
	*ret = stx.stx_mnt_id;
	return 0;
}

/* -- where we are -- */

static int
mounts_here (char **ret_boot, uint64_t *ret_ns, struct silo_error *err)
{
	_cleanup_fclose_ FILE *file = fopen ("/proc/sys/kernel/random/boot_id", "re");
	char boot[64] = "";
	struct stat st;

	if (!file || !fgets (boot, sizeof (boot), file))
		return silo_fail_sys (err, errno, "/proc/sys/kernel/random/boot_id");
	if (stat ("/proc/self/ns/mnt", &st) < 0)
		return silo_fail_sys (err, errno, "/proc/self/ns/mnt");
	boot[strcspn (boot, "\n")] = '\0';
	int r = util_strdup (boot, ret_boot, err);
	if (r < 0)
		return r;
	*ret_ns = st.st_ino;
	return 0;
}

/* Undo the \ooo of mountinfo in place. */
static void
mounts_unescape (char *text)
{
	char *to = text;

	for (const char *from = text; *from; to++) {
		if (from[0] == '\\' && from[1] && from[2] && from[3]) {
			*to = (char) ((from[1] - '0') * 64 + (from[2] - '0') * 8 + from[3] - '0');
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
}

/* Is mount number `id` on `target` in this mount namespace? */
static int
mounts_mounted (uint64_t id, const char *target, bool *ret, struct silo_error *err)
{
	_cleanup_fclose_ FILE *table = fopen ("/proc/self/mountinfo", "re");
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	bool found = false;

	if (!table)
		return silo_fail_sys (err, errno, "/proc/self/mountinfo");
	while (!found && getline (&line, &size, table) > 0) {
		unsigned long long number;
		int from = -1, to = -1;
		if (sscanf (line, "%llu %*d %*s %*s %n%*s%n", &number, &from, &to) != 1 || to < 0 ||
		    number != id)
			continue;
		line[to] = '\0';
		mounts_unescape (line + from);
		found = strcmp (line + from, target) == 0;
	}
	*ret = found;
	return 0;
}

/* -- records on disk -- */

void
mounts_free (struct mount_record *record)
{
	if (!record)
		return;
	util_close (&record->lock_fd);
	free (record->folder);
	free (record->target);
	free (record->image);
	free (record->rootfs);
	free (record->boot);
	free (record);
}

static int
record_new (const char *folder, struct mount_record **ret, struct silo_error *err)
{
	struct mount_record *record = calloc (1, sizeof (*record));

	if (!record)
		return silo_fail_nomem (err);
	record->lock_fd = -1;
	record->folder = strdup (folder);
	if (!record->folder) {
		free (record);
		return silo_fail_nomem (err);
	}
	*ret = record;
	return 0;
}

static int
record_path (const struct mount_record *record, const char *name, char ret[PATH_MAX],
	     struct silo_error *err)
{
	if (snprintf (ret, PATH_MAX, "%s/%s", record->folder, name) >= PATH_MAX)
		return silo_fail (err, SILO_RANGE, "path %s/%s is too long", record->folder, name);
	return 0;
}

static int
record_write (const struct mount_record *record, struct silo_error *err)
{
	char path[PATH_MAX], temp[PATH_MAX];

	int r = record_path (record, "record", path, err);
	if (r == 0)
		r = record_path (record, "record.new", temp, err);
	if (r < 0)
		return r;

	_cleanup_json_ json_t *json = json_pack (
	    "{s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "target", record->target, "image", record->image,
	    "rootfs", record->rootfs, "boot", record->boot, "namespace", (json_int_t) record->ns,
	    "mount", (json_int_t) record->id, "server", (json_int_t) record->server);
	if (!json)
		return silo_fail (err, SILO_INVALID, "%s: paths and names have to be UTF-8",
				  record->target);
	if (json_dump_file (json, temp, JSON_INDENT (2)) < 0)
		return silo_fail (err, SILO_INTERNAL, "%s cannot be written", temp);
	if (rename (temp, path) < 0)
		return silo_fail_sys (err, errno, "%s", path);
	return 0;
}

static int
record_parse (const char *path, const char *text, size_t len, struct mount_record *record,
	      struct silo_error *err)
{
	_cleanup_json_ json_t *json = json_loadb (text, len, 0, NULL);
	const char *target, *image, *rootfs, *boot;
	json_int_t ns, id, server;

	if (!json || json_unpack (json, "{s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "target", &target,
				  "image", &image, "rootfs", &rootfs, "boot", &boot, "namespace",
				  &ns, "mount", &id, "server", &server) < 0)
		return silo_fail (err, SILO_DATALOSS, "%s is not a record of `silo mount`", path);
	record->ns = (uint64_t) ns;
	record->id = (uint64_t) id;
	record->server = (pid_t) server;
	int r = util_strdup (target, &record->target, err);
	if (r == 0)
		r = util_strdup (image, &record->image, err);
	if (r == 0)
		r = util_strdup (rootfs, &record->rootfs, err);
	if (r == 0)
		r = util_strdup (boot, &record->boot, err);
	return r;
}

/* SILO_NOTFOUND: the folder has no record, its mount was never completed. */
static int
record_read (struct mount_record *record, struct silo_error *err)
{
	char path[PATH_MAX];
	int r = record_path (record, "record", path, err);
	if (r < 0)
		return r;

	_cleanup_fclose_ FILE *file = fopen (path, "re");
	_cleanup_free_ char *text = malloc (RECORD_MAX);
	if (!file)
		return silo_fail_sys (err, errno, "%s", path);
	if (!text)
		return silo_fail_nomem (err);
	size_t n = fread (text, 1, RECORD_MAX, file);
	return record_parse (path, text, n, record, err);
}

/* -- locks -- */

static int
lock_folder (const char *path, int flags, int *ret_fd, struct silo_error *err)
{
	_cleanup_close_ int fd = open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return silo_fail_sys (err, errno, "%s", path);
	while (flock (fd, LOCK_EX | flags) < 0) {
		if (errno == EWOULDBLOCK)
			return silo_fail (err, SILO_UNAVAILABLE, "%s is locked", path);
		if (errno != EINTR)
			return silo_fail_sys (err, errno, "lock of %s", path);
	}
	*ret_fd = silo_steal_fd (&fd);
	return 0;
}

int
mounts_lock (struct mount_record *record, struct silo_error *err)
{
	if (record->lock_fd >= 0)
		return 0;
	return lock_folder (record->folder, LOCK_NB, &record->lock_fd, err);
}

int
mounts_remove (struct mount_record *record, struct silo_error *err)
{
	int r = files_remove (record->folder, err);

	mounts_free (record);
	return r;
}

/* -- all of them -- */

/* Return 0 to go on; the record is the callback's to free. */
typedef int mounts_each_fn (void *arg, struct mount_record *record, struct silo_error *err);

static int
mounts_each (const char *all, mounts_each_fn *fn, void *arg, struct silo_error *err)
{
	_cleanup_closedir_ DIR *dir = opendir (all);
	char folder[PATH_MAX];
	int r = 0;

	if (!dir)
		return errno == ENOENT ? 0 : silo_fail_sys (err, errno, "%s", all);
	for (struct dirent *entry; r == 0 && (entry = readdir (dir));) {
		struct mount_record *record;
		if (entry->d_name[0] == '.')
			continue;
		if (snprintf (folder, sizeof (folder), "%s/%s", all, entry->d_name) >=
		    (int) sizeof (folder))
			return silo_fail (err, SILO_RANGE, "path below %s is too long", all);
		r = record_new (folder, &record, err);
		if (r == 0)
			r = fn (arg, record, err);
	}
	return r;
}

struct mounts_search {
	char *boot;
	uint64_t ns;
	const char *target;
	struct mount_record *found;
	bool mounted;
};

/* Nothing of it is left, as far as can be seen from this mount namespace: made before the
 * last boot, or mounted here and gone, or never completed. */
static bool
mounts_stale (const struct mounts_search *here, struct mount_record *record)
{
	struct silo_error err = { 0 };
	bool mounted;

	if (mounts_lock (record, &err) < 0)
		return false;
	int r = record_read (record, &err);
	if (r < 0)
		return r == SILO_NOTFOUND || r == SILO_DATALOSS;
	if (strcmp (record->boot, here->boot) != 0)
		return true;
	if (record->ns != here->ns)
		return false;
	return mounts_mounted (record->id, record->target, &mounted, &err) == 0 && !mounted;
}

static int
mounts_clean_one (void *arg, struct mount_record *record, struct silo_error *err)
{
	struct silo_error ignored;
	(void) err;

	/* What cannot be removed now is tried again next time. */
	if (mounts_stale (arg, record))
		mounts_remove (record, &ignored);
	else
		mounts_free (record);
	return 0;
}

static int
mounts_make (const char *all, const struct mounts_search *here, const char *image,
	     const char *rootfs, struct mount_record **ret, struct silo_error *err)
{
	char folder[PATH_MAX], scratch[PATH_MAX];
	struct mount_record *record;

	if (snprintf (folder, sizeof (folder), "%s/XXXXXX", all) >= (int) sizeof (folder))
		return silo_fail (err, SILO_RANGE, "path below %s is too long", all);
	if (!mkdtemp (folder))
		return silo_fail_sys (err, errno, "folder %s", folder);

	int r = record_new (folder, &record, err);
	if (r < 0) {
		rmdir (folder);
		return r;
	}
	r = mounts_lock (record, err);
	if (r == 0)
		r = record_path (record, "scratch", scratch, err);
	if (r == 0 && mkdir (scratch, 0700) < 0)
		r = silo_fail_sys (err, errno, "folder %s", scratch);
	if (r == 0)
		r = util_strdup (here->target, &record->target, err);
	if (r == 0)
		r = util_strdup (image, &record->image, err);
	if (r == 0)
		r = util_strdup (rootfs, &record->rootfs, err);
	if (r == 0)
		r = util_strdup (here->boot, &record->boot, err);
	if (r < 0) {
		mounts_remove (record, NULL);
		return r;
	}
	record->ns = here->ns;
	*ret = record;
	return 0;
}

int
mounts_new (struct core *core, const char *target, const char *image, const char *rootfs,
	    struct mount_record **ret, struct silo_error *err)
{
	struct mounts_search here = { .target = target };
	_cleanup_close_ int lock = -1;
	char all[PATH_MAX];

	int r = silo_state_path (&core->host, "mounts", all, sizeof (all), err);
	if (r == 0)
		r = files_mkdir (all, err);
	if (r == 0)
		r = lock_folder (all, 0, &lock, err);
	if (r == 0)
		r = mounts_here (&here.boot, &here.ns, err);
	if (r < 0)
		return r;
	r = mounts_each (all, mounts_clean_one, &here, err);
	if (r == 0)
		r = mounts_make (all, &here, image, rootfs, ret, err);
	free (here.boot);
	return r;
}

int
mounts_commit (struct mount_record *record, bool served, struct silo_error *err)
{
	record->server = served ? getpid () : 0;
	int r = mounts_id (record->target, &record->id, err);
	if (r < 0)
		return r;
	return record_write (record, err);
}

static int
mounts_match (void *arg, struct mount_record *record, struct silo_error *err)
{
	struct mounts_search *search = arg;
	struct silo_error why = { 0 };
	bool mounted = false;

	int r = record_read (record, &why);
	if (r < 0 || strcmp (record->target, search->target) != 0 ||
	    strcmp (record->boot, search->boot) != 0 || record->ns != search->ns) {
		mounts_free (record);
		return 0;
	}
	r = mounts_mounted (record->id, record->target, &mounted, err);
	/* One that is there is better than one that has gone. */
	if (r < 0 || (search->found && !mounted)) {
		mounts_free (record);
		return r;
	}
	mounts_free (search->found);
	search->found = record;
	search->mounted = mounted;
	return mounted;
}

int
mounts_find (struct core *core, const char *target, struct mount_record **ret, bool *ret_mounted,
	     struct silo_error *err)
{
	struct mounts_search search = { .target = target };
	char all[PATH_MAX];

	int r = silo_state_path (&core->host, "mounts", all, sizeof (all), err);
	if (r == 0)
		r = mounts_here (&search.boot, &search.ns, err);
	if (r < 0)
		return r;
	r = mounts_each (all, mounts_match, &search, err);
	free (search.boot);
	if (r < 0) {
		mounts_free (search.found);
		return r;
	}
	if (!search.found)
		return silo_fail (err, SILO_NOTFOUND,
				  "%s was not mounted by `silo mount` with state folder %s", target,
				  silo_state (&core->host));
	*ret = search.found;
	*ret_mounted = search.mounted;
	return 0;
}

static int
mounts_live (void *arg, struct mount_record *record, struct silo_error *err)
{
	struct mounts_search *search = arg;
	(void) err;

	search->mounted = !mounts_stale (search, record);
	mounts_free (record);
	return search->mounted;
}

int
mounts_left (struct core *core, bool *ret, struct silo_error *err)
{
	struct mounts_search search = { 0 };
	char all[PATH_MAX];

	int r = silo_state_path (&core->host, "mounts", all, sizeof (all), err);
	if (r == 0)
		r = mounts_here (&search.boot, &search.ns, err);
	if (r < 0)
		return r;
	r = mounts_each (all, mounts_live, &search, err);
	free (search.boot);
	if (r < 0)
		return r;
	*ret = search.mounted;
	return 0;
}
