/* SPDX-License-Identifier: Apache-2.0 */
/*
 * content-test.c - a plugin for tests of the core: objects in memory, no
 * optional operation, and options by which it fails or does damage on purpose.
 * Each step of its life is a line in the file `trace`.
 */
#include <silo/silo.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <unistd.h>

enum { FAIL_NONE, FAIL_INIT, FAIL_START, FAIL_MUTE };

struct object {
	struct object *next;
	struct silo_digest digest;
	size_t size;
	char data[];
};

struct test {
	struct silo_instance *upper;
	const char *trace;
	int64_t fail;
	bool cut; /* pretend that every object is empty when it is read */
	struct silo_host *host;
	pthread_mutex_t lock; /* protects objects */
	struct object *objects;
};

static const struct silo_option options[] = {
	{ .name = "upper",
	  .type = SILO_USE,
	  .offset = offsetof (struct test, upper),
	  .def = "",
	  .use_kind = SILO_KIND_CONTENT,
	  .help = "a store that has to be started first" },
	{ .name = "trace",
	  .type = SILO_PATH,
	  .offset = offsetof (struct test, trace),
	  .def = "",
	  .help = "file that its life is written to" },
	{ .name = "fail",
	  .type = SILO_CHOICE,
	  .offset = offsetof (struct test, fail),
	  .def = "none",
	  .choices = "none init start mute",
	  .help = "what fails" },
	{ .name = "cut",
	  .type = SILO_BOOL,
	  .offset = offsetof (struct test, cut),
	  .def = "no",
	  .help = "deliver no bytes" },
	{ .name = NULL },
};

static void
test_trace (const struct test *t, const char *what)
{
	char line[100];

	if (!t->trace[0])
		return;
	int n = snprintf (line, sizeof (line), "%s %s\n", what, silo_host_name (t->host));
	int fd = open (t->trace, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0 || write (fd, line, (size_t) n) != n)
		abort ();
	close (fd);
}

static int
test_init (void *self, struct silo_host *host, struct silo_error *err)
{
	struct test *t = self;

	t->host = host;
	test_trace (t, "init");
	if (t->fail == FAIL_INIT)
		return silo_fail (err, SILO_PRECONDITION, "told to fail");
	pthread_mutex_init (&t->lock, NULL);
	return 0;
}

static int
test_start (void *self, struct silo_error *err)
{
	struct test *t = self;

	test_trace (t, "start");
	if (t->fail == FAIL_START)
		return silo_fail (err, SILO_UNAVAILABLE, "told to fail");
	return t->fail == FAIL_MUTE ? SILO_INTERNAL : 0;
}

static void
test_stop (void *self)
{
	test_trace (self, "stop");
}

static void
test_destroy (void *self)
{
	struct test *t = self;

	test_trace (t, "destroy");
	while (t->objects) {
		struct object *o = t->objects;
		t->objects = o->next;
		free (o);
	}
	pthread_mutex_destroy (&t->lock);
}

static struct object **
test_find (struct test *t, const struct silo_digest *digest)
{
	struct object **o = &t->objects;

	while (*o && !silo_digest_equal (&(*o)->digest, digest))
		o = &(*o)->next;
	return o;
}

static int
test_stat (void *self, const struct silo_digest *digest, int64_t *ret_size, struct silo_error *err)
{
	struct test *t = self;
	int r = 0;

	pthread_mutex_lock (&t->lock);
	const struct object *o = *test_find (t, digest);
	if (o)
		*ret_size = (int64_t) o->size;
	else
		r = silo_fail (err, SILO_NOTFOUND, "no such object");
	pthread_mutex_unlock (&t->lock);
	return r;
}

static int
test_read (void *self, const struct silo_digest *digest, int64_t offset, void *to, size_t len,
	   size_t *ret_len, struct silo_error *err)
{
	struct test *t = self;
	size_t from = (size_t) offset;
	int r = 0;

	pthread_mutex_lock (&t->lock);
	const struct object *o = *test_find (t, digest);
	if (o) {
		size_t left = t->cut || from > o->size ? 0 : o->size - from;
		*ret_len = len < left ? len : left;
		memcpy (to, o->data + from, *ret_len);
	} else {
		r = silo_fail (err, SILO_NOTFOUND, "no such object");
	}
	pthread_mutex_unlock (&t->lock);
	return r;
}

static int
test_add (void *self, int fd, struct silo_digest *ret_digest, int64_t *ret_size,
	  struct silo_error *err)
{
	struct test *t = self;

	off_t size = lseek (fd, 0, SEEK_END);
	if (size < 0)
		return silo_fail_sys (err, errno, "size of an object");
	struct object *o = calloc (1, sizeof (*o) + (size_t) size);
	if (!o)
		return silo_fail_nomem (err);
	o->size = (size_t) size;
	if (pread (fd, o->data, o->size, 0) != size) {
		free (o);
		return silo_fail (err, SILO_INTERNAL, "reading an object");
	}
	int r = silo_digest_of (o->data, o->size, &o->digest, err);
	if (r < 0) {
		free (o);
		return r;
	}
	*ret_digest = o->digest;
	*ret_size = size;

	pthread_mutex_lock (&t->lock);
	if (*test_find (t, &o->digest)) {
		free (o);
	} else {
		o->next = t->objects;
		t->objects = o;
	}
	pthread_mutex_unlock (&t->lock);
	return 0;
}

static int
test_remove (void *self, const struct silo_digest *digest, struct silo_error *err)
{
	struct test *t = self;

	pthread_mutex_lock (&t->lock);
	struct object **o = test_find (t, digest);
	struct object *gone = *o;
	if (gone)
		*o = gone->next;
	pthread_mutex_unlock (&t->lock);
	if (!gone)
		return silo_fail (err, SILO_NOTFOUND, "no such object");
	free (gone);
	return 0;
}

static int
test_each (void *self, silo_object_fn *fn, void *arg, struct silo_error *err)
{
	struct test *t = self;
	int r = 0;

	(void) err;
	pthread_mutex_lock (&t->lock);
	for (const struct object *o = t->objects; o && r == 0; o = o->next)
		r = fn (arg, &o->digest, (int64_t) o->size);
	pthread_mutex_unlock (&t->lock);
	return 0;
}

static const struct silo_content_ops ops = {
	.stat = test_stat,
	.read = test_read,
	.add = test_add,
	.remove = test_remove,
	.each = test_each,
};

SILO_PLUGIN (ops, .name = "test", .version = "1.0", .summary = "objects in memory, for tests",
	     .options = options, .instance_size = sizeof (struct test), .init = test_init,
	     .start = test_start, .stop = test_stop, .destroy = test_destroy);
