/* SPDX-License-Identifier: Apache-2.0 */
/*
 * silo/storage.h - the storage kind: tasks, image records, and things
 * (everything else that has a kind, a name and a value).
 *
 * What an operation acknowledges has survived `kill -9` of the daemon.  Several
 * processes may use one store at the same time (the daemon and `silo index`).
 * get and list hand borrowed records to a callback, which must not call the
 * store again; it returns 0 to go on, anything else to stop (the operation
 * then still succeeds).
 */
#ifndef SILO_STORAGE_H
#define SILO_STORAGE_H

#include <silo/plugin.h>
#include <silo/task.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A name that points to one immutable image. */
struct silo_image {
	const char *name;           /* "python:3.11" */
	struct silo_digest meta;    /* SHA-256 of the metadata file, STATE/images/<hex>.erofs */
	const char *source;         /* the reference it was made from */
	const char *source_id;      /* what `identify` said of it: "sha256:..." */
	const char *config;         /* OCI image config's "config" object as JSON; "{}" if none */
	const char *python;         /* its interpreter, "/usr/local/bin/python3.11"; "" if none */
	const char *python_version; /* "3.11"; "" if none */
	int64_t inodes;             /* entries in the tree */
	int64_t size;               /* bytes of its distinct objects */
	int64_t created;            /* when it was indexed */
	/* Digests of its layers' blobs in hex, from the lowest up, a space between two; "" for
	 * an image whose layers have no immutable names.  NULL is read as "". */
	const char *layers;
};

struct silo_thing {
	const char *kind; /* "code", "function" ... */
	const char *name;
	struct silo_bytes value;
	int64_t created;
};

typedef int silo_record_fn (void *arg, const struct silo_record *record);
typedef int silo_image_fn (void *arg, const struct silo_image *image);
typedef int silo_thing_fn (void *arg, const struct silo_thing *thing);

/* Which tasks: all conditions hold together, newest (highest id) first. */
struct silo_task_query {
	bool unfinished; /* only those without a result */
	int64_t before;  /* only ids below it; 0: all */
	int64_t limit;   /* at most so many; 0: all */
};

struct silo_storage_ops {
	/* tasks -- required.
	 * add stores n tasks at once, all or none, and sets each one's id: greater
	 * than every id given before, also before a restart. */
	int (*task_add) (void *self, struct silo_task *tasks, size_t n, struct silo_error *err);
	/* Attempt number `attempt` begins: state RUNNING, started = when.  SILO_NOTFOUND,
	 * SILO_EXISTS when it has a result, or SILO_ABORTED when a newer attempt has started. */
	int (*task_start) (void *self, int64_t id, int32_t attempt, int64_t when,
			   struct silo_error *err);
	/* Its one result: state DONE, finished = when.  SILO_EXISTS when it has one already,
	 * SILO_ABORTED when a newer attempt than `attempt` has started. */
	int (*task_finish) (void *self, int64_t id, int32_t attempt,
			    const struct silo_result *result, int64_t when, struct silo_error *err);
	/* With its result, if any.  SILO_NOTFOUND. */
	int (*task_get) (void *self, int64_t id, silo_record_fn *fn, void *arg,
			 struct silo_error *err);
	/* Records in a list leave args, kwargs, source and the result's value, exception, out
	 * and err empty. */
	int (*task_list) (void *self, const struct silo_task_query *query, silo_record_fn *fn,
			  void *arg, struct silo_error *err);
	/* With its result.  This and the other drops: SILO_NOTFOUND. */
	int (*task_drop) (void *self, int64_t id, struct silo_error *err);

	/* images -- required.  put replaces the record of that name in one step. */
	int (*image_put) (void *self, const struct silo_image *image, struct silo_error *err);
	int (*image_get) (void *self, const char *name, silo_image_fn *fn, void *arg,
			  struct silo_error *err);
	/* By name. */
	int (*image_list) (void *self, silo_image_fn *fn, void *arg, struct silo_error *err);
	int (*image_drop) (void *self, const char *name, struct silo_error *err);

	/* things -- required.  put replaces. */
	int (*thing_put) (void *self, const struct silo_thing *thing, struct silo_error *err);
	int (*thing_get) (void *self, const char *kind, const char *name, silo_thing_fn *fn,
			  void *arg, struct silo_error *err);
	/* By name, values included. */
	int (*thing_list) (void *self, const char *kind, silo_thing_fn *fn, void *arg,
			   struct silo_error *err);
	int (*thing_drop) (void *self, const char *kind, const char *name, struct silo_error *err);
};

#ifdef __cplusplus
}
#endif
#endif
