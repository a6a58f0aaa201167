/* SPDX-License-Identifier: Apache-2.0 */
/*
 * files.h - the parts of storage/files: files.c is the plugin and its life,
 * folder.c the store's folders, locks, names and the last id, record.c the
 * format of one file, task.c and named.c are the operations.
 *
 * SILO_PARALLEL: readers take no lock, because files appear and change by
 * rename and link only.  Writers take turns, in this process by `mutex` and
 * between processes by flock on the file `lock`.
 */
#ifndef STORAGE_FILES_H
#define STORAGE_FILES_H

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <jansson.h>
#include <silo/host.h>
#include <silo/log.h>
#include <silo/storage.h>

struct files {
	/* options */
	const char *path;
	bool fsync;

	struct silo_host *host;
	/* descriptors of the store's folders and of `lock`; fixed between start and stop */
	int root, tasks, images, things, temp, lock;
	pthread_mutex_t mutex;   /* of writers; taken before the flock */
	_Atomic int64_t last_id; /* some id that was given; `last` may know a higher one */
};

static inline void
cleanup_close (int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		close (*fd);
		errno = saved;
	}
}

static inline void
cleanup_json (json_t **json)
{
	json_decref (*json);
}

#define _cleanup_close_ SILO_CLEANUP (cleanup_close)
#define _cleanup_json_  SILO_CLEANUP (cleanup_json)

/* -- folder.c ---------------------------------------------------------------- */

/* Open the store and make it if there is none; remove what a killed process left. */
int store_open (struct files *f, struct silo_error *err);
void store_close (struct files *f);

/* The writers' turn; ends when the variable that holds it leaves scope. */
int store_lock (struct files *f, struct files **ret_held, struct silo_error *err);
void store_unlock (struct files **held);
#define _cleanup_unlock_ SILO_CLEANUP (store_unlock)

/* The highest id given so far. */
int last_read (struct files *f, int64_t *ret, struct silo_error *err);
int last_write (struct files *f, int64_t last, struct silo_error *err); /* locked */

/* Room for a file's name. */
#define NAME_SIZE 256

/* A name for a temporary file, new each time. */
int temp_name (char ret[NAME_SIZE], struct silo_error *err);

enum publish {
	PUBLISH_REPLACE, /* in place of what is there */
	PUBLISH_FIRST,   /* SILO_EXISTS when something is there */
};
/* Move temp/`temp` to `folder`/`name`; on failure it is removed. */
int store_publish (struct files *f, const char *temp, int folder, const char *name,
		   enum publish how, struct silo_error *err);

/* A file name for any text: percent-encoded, and cut and completed by a digest when long. */
int name_encode (const char *text, const char *suffix, char ret[NAME_SIZE], struct silo_error *err);
/* Does `name` end in `suffix`? */
bool name_ends (const char *name, const char *suffix);

/* -- record.c ------------------------------------------------------------------ */

#define MAX_PARTS 5

/* Bytes that follow the head, by name. */
struct part {
	const char *name;
	struct silo_bytes bytes;
};

/* What is read back: a JSON object, whose texts live as long as it does, and the parts that
 * were asked for, in that order, each followed by a NUL that is not counted. */
struct record {
	json_t *head;
	struct silo_bytes parts[MAX_PARTS];
	char *data;
};

/* Where a file is: for opening it, and for naming it in messages. */
struct place {
	struct files *f;
	int folder;
	const char *folder_name; /* below the store */
	const char *name;
	const char *type; /* "task", "run" ... */
};

/* Write a temporary file; takes the reference to `head`, which may be NULL after a failed
 * json_pack_ex that `json_error` tells about. */
int record_write (struct files *f, const char *type, json_t *head, const json_error_t *json_error,
		  const struct part *parts, size_t n_parts, char ret_temp[NAME_SIZE],
		  struct silo_error *err);
/* SILO_NOTFOUND when there is no such file, SILO_DATALOSS when it is not what it should be. */
int record_read (const struct place *place, const char *const *parts, size_t n_parts,
		 struct record *ret, struct silo_error *err);
void record_free (struct record *record);
#define _cleanup_record_ SILO_CLEANUP (record_free)
/* SILO_DATALOSS, naming the file. */
int place_damaged (const struct place *place, struct silo_error *err, const char *what);

/* -- task.c ------------------------------------------------------------------ */

int task_add (void *self, struct silo_task *tasks, size_t n, struct silo_error *err);
int task_start (void *self, int64_t id, int32_t attempt, int64_t when, struct silo_error *err);
int task_finish (void *self, int64_t id, int32_t attempt, const struct silo_result *result,
		 int64_t when, struct silo_error *err);
int task_get (void *self, int64_t id, silo_record_fn *fn, void *arg, struct silo_error *err);
int task_list (void *self, const struct silo_task_query *query, silo_record_fn *fn, void *arg,
	       struct silo_error *err);
int task_drop (void *self, int64_t id, struct silo_error *err);
/* End a drop that a killed process had begun: `name` is a file in temp/. */
void task_drop_finish (struct files *f, const char *name);

/* -- named.c ----------------------------------------------------------------- */

int image_put (void *self, const struct silo_image *image, struct silo_error *err);
int image_get (void *self, const char *name, silo_image_fn *fn, void *arg, struct silo_error *err);
int image_list (void *self, silo_image_fn *fn, void *arg, struct silo_error *err);
int image_drop (void *self, const char *name, struct silo_error *err);
int thing_put (void *self, const struct silo_thing *thing, struct silo_error *err);
int thing_get (void *self, const char *kind, const char *name, silo_thing_fn *fn, void *arg,
	       struct silo_error *err);
int thing_list (void *self, const char *kind, silo_thing_fn *fn, void *arg, struct silo_error *err);
int thing_drop (void *self, const char *kind, const char *name, struct silo_error *err);

#endif
