/* SPDX-License-Identifier: Apache-2.0 */
/*
 * storage.c - a storage plugin of the first Silo: it has one image, whose
 * record ends where its memory ends, so that a core which reads fields that
 * were added later does not survive.  abi.sh builds it with the first headers.
 */
#include <silo/silo.h>

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int
hand_over (silo_image_fn *fn, void *arg, struct silo_error *err)
{
	const struct silo_image image = { .name = "old:1",
					  .source = "dir:/old",
					  .source_id = "",
					  .config = "{}",
					  .python = "",
					  .python_version = "" };
	size_t page = (size_t) sysconf (_SC_PAGESIZE);
	char *memory =
	    mmap (NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED || mprotect (memory + page, page, PROT_NONE) < 0)
		return silo_fail (err, SILO_INTERNAL, "no memory");
	struct silo_image *last = (struct silo_image *) (memory + page - sizeof (image));
	memcpy (last, &image, sizeof (image));
	fn (arg, last);
	munmap (memory, 2 * page);
	return 0;
}

static int
image_list (void *self, silo_image_fn *fn, void *arg, struct silo_error *err)
{
	(void) self;
	return hand_over (fn, arg, err);
}

static int
image_get (void *self, const char *name, silo_image_fn *fn, void *arg, struct silo_error *err)
{
	(void) self;
	if (strcmp (name, "old:1") != 0)
		return silo_fail (err, SILO_NOTFOUND, "no image %.80s", name);
	return hand_over (fn, arg, err);
}

/* What nobody calls here. */
static int
task_add (void *self, struct silo_task *tasks, size_t n, struct silo_error *err)
{
	(void) self;
	(void) tasks;
	(void) n;
	return silo_fail (err, SILO_UNIMPLEMENTED, "no tasks");
}

static int
task_start (void *self, int64_t id, int32_t attempt, int64_t when, struct silo_error *err)
{
	(void) self;
	(void) id;
	(void) attempt;
	(void) when;
	return silo_fail (err, SILO_UNIMPLEMENTED, "no tasks");
}

static int
task_finish (void *self, int64_t id, int32_t attempt, const struct silo_result *result,
	     int64_t when, struct silo_error *err)
{
	(void) self;
	(void) id;
	(void) attempt;
	(void) result;
	(void) when;
	return silo_fail (err, SILO_UNIMPLEMENTED, "no tasks");
}

static int
task_get (void *self, int64_t id, silo_record_fn *fn, void *arg, struct silo_error *err)
{
	(void) self;
	(void) id;
	(void) fn;
	(void) arg;
	return silo_fail (err, SILO_NOTFOUND, "no tasks");
}

static int
task_list (void *self, const struct silo_task_query *query, silo_record_fn *fn, void *arg,
	   struct silo_error *err)
{
	(void) self;
	(void) query;
	(void) fn;
	(void) arg;
	(void) err;
	return 0;
}

static int
task_drop (void *self, int64_t id, struct silo_error *err)
{
	(void) self;
	(void) id;
	return silo_fail (err, SILO_NOTFOUND, "no tasks");
}

static int
image_put (void *self, const struct silo_image *image, struct silo_error *err)
{
	(void) self;
	(void) image;
	return silo_fail (err, SILO_UNIMPLEMENTED, "images cannot be added");
}

static int
image_drop (void *self, const char *name, struct silo_error *err)
{
	(void) self;
	return silo_fail (err, SILO_UNIMPLEMENTED, "image %.80s cannot be removed", name);
}

static int
thing_put (void *self, const struct silo_thing *thing, struct silo_error *err)
{
	(void) self;
	(void) thing;
	return silo_fail (err, SILO_UNIMPLEMENTED, "no things");
}

static int
thing_get (void *self, const char *kind, const char *name, silo_thing_fn *fn, void *arg,
	   struct silo_error *err)
{
	(void) self;
	(void) kind;
	(void) fn;
	(void) arg;
	return silo_fail (err, SILO_NOTFOUND, "no %.80s", name);
}

static int
thing_list (void *self, const char *kind, silo_thing_fn *fn, void *arg, struct silo_error *err)
{
	(void) self;
	(void) kind;
	(void) fn;
	(void) arg;
	(void) err;
	return 0;
}

static int
thing_drop (void *self, const char *kind, const char *name, struct silo_error *err)
{
	(void) self;
	(void) kind;
	return silo_fail (err, SILO_NOTFOUND, "no %.80s", name);
}

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

SILO_PLUGIN (ops, .name = "old", .version = "1", .summary = "one image that is there for ever");
