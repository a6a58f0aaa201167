/* SPDX-License-Identifier: Apache-2.0 */
/*
 * files.c - storage/files: each task, result, image and thing is a file of its
 * own in a folder, in the format of docs/formats/storage.md.  For machines
 * without SQLite, and for reading and repairing with nothing but a shell.
 * This file is the plugin's descriptor and its life.
 */
#include <stddef.h>
#include "files.h"

static int
files_init (void *self, struct silo_host *host, struct silo_error *err)
{
	struct files *f = self;

	if (!f->path[0])
		return silo_fail (err, SILO_INVALID,
				  "path is empty, expected the name of a folder");
	f->host = host;
	f->root = f->tasks = f->images = f->things = f->temp = f->lock = -1;
	int sys = pthread_mutex_init (&f->mutex, NULL);
	return sys ? silo_fail_sys (err, sys, "mutex") : 0;
}

static void
files_destroy (void *self)
{
	struct files *f = self;
	pthread_mutex_destroy (&f->mutex);
}

static int
files_start (void *self, struct silo_error *err)
{
	return store_open (self, err);
}

static void
files_stop (void *self)
{
	store_close (self);
}

static const struct silo_option options[] = {
	{ .name = "path",
	  .type = SILO_PATH,
	  .offset = offsetof (struct files, path),
	  .def = "store",
	  .help = "the folder; made when it is not there" },
	{ .name = "fsync",
	  .type = SILO_BOOL,
	  .offset = offsetof (struct files, fsync),
	  .def = "no",
	  .help = "wait for the disk at each write, so that a power cut takes nothing; a killed "
		  "daemon loses nothing either way" },
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

SILO_PLUGIN (ops, .name = "files", .version = "1.0",
	     .summary = "tasks, images and things as files in a folder", .flags = SILO_PARALLEL,
	     .options = options, .instance_size = sizeof (struct files), .init = files_init,
	     .start = files_start, .stop = files_stop, .destroy = files_destroy);
