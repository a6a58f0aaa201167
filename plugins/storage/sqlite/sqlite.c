/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sqlite.c - storage/sqlite: tasks, results, images and things as tables of
 * one SQLite database, which an operator can open with the sqlite3 program
 * while Silo runs.  This file is the plugin's descriptor and its life; called
 * by the core, one thread at a time.
 */
#include <stddef.h>
#include "sqlite.h"

static int
sqlite_init (void *self, struct silo_host *host, struct silo_error *err)
{
	struct sqlite *s = self;

	s->host = host;
	if (!s->path[0])
		return silo_fail (err, SILO_INVALID, "path is empty, expected the name of a file");
	return 0;
}

static void
sqlite_stop (void *self)
{
	struct sqlite *s = self;

	statement_finalize_all (s);
	int rc = sqlite3_close (s->db);
	assert (rc == SQLITE_OK); /* else a statement was not finalized */
	s->db = NULL;
}

static int
sqlite_start (void *self, struct silo_error *err)
{
	struct sqlite *s = self;
	int r = schema_open (s, &s->db, err);
	if (r < 0)
		return r;
	r = statement_prepare_all (s, err);
	if (r < 0)
		sqlite_stop (s);
	return r;
}

static const struct silo_option options[] = {
	{ .name = "path",
	  .type = SILO_PATH,
	  .offset = offsetof (struct sqlite, path),
	  .def = "silo.db",
	  .help = "the database file; made when it is not there" },
	{ .name = "synchronous",
	  .type = SILO_CHOICE,
	  .offset = offsetof (struct sqlite, synchronous),
	  .def = "normal",
	  .choices = "normal full",
	  .help = "normal: a power cut may take the last tasks; full: nothing, but each write "
		  "waits for the disk" },
	{ .name = "busy",
	  .type = SILO_DURATION,
	  .offset = offsetof (struct sqlite, busy),
	  .def = "60s",
	  .min = 100,
	  .max = 3600 * 1000,
	  .help = "how long to wait while another process writes" },
	{ .name = "check",
	  .type = SILO_BOOL,
	  .offset = offsetof (struct sqlite, check),
	  .def = "yes",
	  .help = "read the whole database at start and refuse a damaged one" },
	{ .name = NULL },
};

static const struct silo_storage_ops ops = {
	.task_add = task_add,
	.task_start = task_start,
	.task_finish = task_finish,
	.task_get = task_get,
	.task_list = task_list,
	.task_drop = task_drop,
	.image_put = image_put,
	.image_get = image_get,
	.image_list = image_list,
	.image_drop = image_drop,
	.thing_put = thing_put,
	.thing_get = thing_get,
	.thing_list = thing_list,
	.thing_drop = thing_drop,
};

SILO_PLUGIN (ops, .name = "sqlite", .version = "1.0",
	     .summary = "tasks, images and things in an SQLite database", .options = options,
	     .instance_size = sizeof (struct sqlite), .init = sqlite_init, .start = sqlite_start,
	     .stop = sqlite_stop);
