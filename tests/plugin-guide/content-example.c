/* SPDX-License-Identifier: Apache-2.0 */
/* A content store in front of another one that takes no object above a size. */
#include <errno.h>
#include <sys/stat.h>
#include <silo/silo.h>

struct example {
	struct silo_instance *lower;
	int64_t max;
};

static const struct silo_option options[] = {
	{ .name = "lower",
	  .type = SILO_USE,
	  .offset = offsetof (struct example, lower),
	  .def = "dir",
	  .use_kind = SILO_KIND_CONTENT,
	  .help = "store that keeps the objects" },
	{ .name = "max",
	  .type = SILO_SIZE,
	  .offset = offsetof (struct example, max),
	  .def = "1G",
	  .help = "largest object that is taken" },
	{ .name = NULL },
};

static int
example_stat (void *self, const struct silo_digest *d, int64_t *ret, struct silo_error *err)
{
	return silo_content_stat (((struct example *) self)->lower, d, ret, err);
}

static int
example_read (void *self, const struct silo_digest *d, int64_t offset, void *to, size_t len,
	      size_t *ret, struct silo_error *err)
{
	return silo_content_read (((struct example *) self)->lower, d, offset, to, len, ret, err);
}

static int
example_add (void *self, int fd, struct silo_digest *ret, int64_t *size, struct silo_error *err)
{
	const struct example *e = self;
	struct stat st;

	if (fstat (fd, &st) < 0)
		return silo_fail_sys (err, errno, "size of a new object");
	if (st.st_size > e->max)
		return silo_fail (err, SILO_EXHAUSTED, "object is larger than `max` allows");
	return silo_content_add (e->lower, fd, ret, size, err);
}

static int
example_remove (void *self, const struct silo_digest *d, struct silo_error *err)
{
	return silo_content_remove (((struct example *) self)->lower, d, err);
}

static int
example_each (void *self, silo_object_fn *fn, void *arg, struct silo_error *err)
{
	return silo_content_each (((struct example *) self)->lower, fn, arg, err);
}

static const struct silo_content_ops ops = { .stat = example_stat,
					     .read = example_read,
					     .add = example_add,
					     .remove = example_remove,
					     .each = example_each };
SILO_PLUGIN (ops, .name = "example", .version = "1.0", .summary = "a store of small objects",
	     .options = options, .instance_size = sizeof (struct example));
