/* SPDX-License-Identifier: Apache-2.0 */
/*
 * storage.h - what the tests of the storage plugins share: a temporary folder
 * on a small disk of its own, an instance in it, simple tasks.
 */
#ifndef UNIT_STORAGE_H
#define UNIT_STORAGE_H

#include "core.h"
#include "tap.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define STATE_SIZE 256 /* room for the path of a test's folder */

struct store {
	struct core *core;
	struct silo_instance *instance;
};

/* An instance of a plugin in state folder `state`, started.  Options are "key=value". */
static inline int
store_open (struct store *store, const char *state, const char *plugin, const char *const *options,
	    struct silo_error *err)
{
	static const char *const none[] = { NULL };

	*store = (struct store){ 0 };
	int r = core_bare (state, &store->core, err);
	if (r < 0)
		tap_bail ("core_bare: %s", err->msg);
	r = wiring_add (store->core, SILO_KIND_STORAGE, plugin, options ? options : none,
			&store->instance, err);
	if (r >= 0)
		r = wiring_start (store->core, err);
	if (r < 0) {
		core_close (store->core);
		*store = (struct store){ 0 };
	}
	return r;
}

static inline void
store_close (struct store *store)
{
	core_close (store->core);
	*store = (struct store){ 0 };
}

static inline void
store_disk_remove (int status SILO_UNUSED, void *path)
{
	if (umount2 (path, MNT_DETACH) < 0 || rmdir (path) < 0)
		tap_note ("%s: %s", (char *) path, strerror (errno));
	free (path);
}

/* A folder of this test's, which is the root of a tmpfs of `size` in a mount namespace of its
 * own.  It is removed when the program exits, also by tap_bail. */
static inline void
store_disk (const char *size, char ret[STATE_SIZE])
{
	const char *tmp = getenv ("TMPDIR");
	char options[64], *copy;

	snprintf (ret, STATE_SIZE, "%s/silo-storage-XXXXXX", tmp ? tmp : "/tmp");
	snprintf (options, sizeof (options), "size=%s,mode=0700", size);
	if (!mkdtemp (ret))
		tap_bail ("%s: %s", ret, strerror (errno));
	if (unshare (CLONE_NEWNS) < 0 || mount (NULL, "/", NULL, MS_PRIVATE | MS_REC, NULL) < 0 ||
	    mount ("silo-test", ret, "tmpfs", 0, options) < 0) {
		int sys = errno;
		rmdir (ret);
		tap_skip_all ("mounting a tmpfs: %s", strerror (sys));
	}
	copy = strdup (ret);
	if (!copy || on_exit (store_disk_remove, copy) != 0)
		tap_bail ("out of memory");
}

static inline void
write_file (const char *path, const void *data, size_t len)
{
	_cleanup_close_ int fd = open (path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write (fd, data, len) != (ssize_t) len)
		tap_bail ("%s: %s", path, strerror (errno));
}

/* The whole file; *ret_len 0 when there is none.  free () it. */
static inline char *
read_file (const char *path, size_t *ret_len)
{
	_cleanup_close_ int fd = open (path, O_RDONLY | O_CLOEXEC);
	struct stat st = { 0 };
	if (fd >= 0 && fstat (fd, &st) < 0)
		tap_bail ("%s: %s", path, strerror (errno));
	char *data = malloc ((size_t) st.st_size + 1);
	if (!data || (fd >= 0 && read (fd, data, (size_t) st.st_size) != st.st_size))
		tap_bail ("%s: %s", path, strerror (errno));
	data[st.st_size] = '\0';
	*ret_len = (size_t) st.st_size;
	return data;
}

/* Add `n` tasks with args of `len` bytes; ids go to ret_ids when it is not NULL. */
static inline int
add_tasks (struct store *store, size_t n, size_t len, int64_t *ret_ids, struct silo_error *err)
{
	char *args = calloc (1, len + 1);
	struct silo_task *tasks = calloc (n, sizeof (*tasks));
	if (!args || !tasks)
		tap_bail ("out of memory");
	for (size_t i = 0; i < n; i++)
		tasks[i] = (struct silo_task){ .name = "unit",
					       .image = "python:3.11",
					       .python = "",
					       .source = "",
					       .args = { args, len },
					       .created = 1 };
	int r = instance_call (store->instance, storage, task_add, tasks, n, err);
	for (size_t i = 0; r >= 0 && ret_ids && i < n; i++)
		ret_ids[i] = tasks[i].id;
	free (tasks);
	free (args);
	return r;
}

static inline int
on_count (void *arg, const struct silo_record *record SILO_UNUSED)
{
	++*(int64_t *) arg;
	return 0;
}

/* How many tasks a list shows; negative: the error. */
static inline int64_t
count_tasks (struct store *store, struct silo_error *err)
{
	const struct silo_task_query query = { 0 };
	int64_t n = 0;
	int r = instance_call (store->instance, storage, task_list, &query, on_count, &n, err);
	return r < 0 ? r : n;
}

static inline int
get_task (struct store *store, int64_t id, struct silo_error *err)
{
	int64_t n = 0;
	return instance_call (store->instance, storage, task_get, id, on_count, &n, err);
}

static inline int
finish_task (struct store *store, int64_t id, struct silo_error *err)
{
	const struct silo_result result = { .value = { "value", 5 },
					    .type = "",
					    .message = "",
					    .traceback = "trace",
					    .timeline = "{}" };
	return instance_call (store->instance, storage, task_finish, id, 1, &result, 9, err);
}

/* The store must be refused with this code and a message that holds both texts. */
static inline void
check_refused (const char *state, const char *plugin, const char *const *options, int code,
	       const char *text, const char *what)
{
	struct silo_error err = { 0 };
	struct store store;
	int r = store_open (&store, state, plugin, options, &err);

	tap_ok (r == code && strstr (err.msg, text), "%s is refused: %s ... %s", what,
		silo_code_name (code), text);
	if (r != code || !strstr (err.msg, text))
		tap_note ("returned %s: %s", silo_code_name (r), err.msg);
	if (r >= 0)
		store_close (&store);
}

#endif
