/* SPDX-License-Identifier: Apache-2.0 */
/*
 * object.c - descriptors of objects.  Reads come by inode, without an open
 * before them, so the most recently used objects are kept open: a hash table
 * by digest, and a list in order of use.  Shared by all images of an instance;
 * any thread.
 */
#include "fuse.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct object {
	struct object *hash_next;
	struct object *newer, *older;
	struct silo_instance *content;
	struct silo_digest digest;
	int fd;
	bool named;
	size_t users;
};

struct objects {
	pthread_mutex_t lock; /* protects everything below, and all objects but their fd */
	size_t capacity, n;   /* more than capacity are open only while they are all in use */
	size_t n_buckets;
	struct object **buckets;
	struct object *newest, *oldest;
};

int
objects_new (size_t capacity, struct objects **ret, struct silo_error *err)
{
	struct objects *objects = calloc (1, sizeof (*objects));
	if (!objects)
		return silo_fail_nomem (err);
	objects->capacity = capacity;
	objects->n_buckets = capacity * 2;
	objects->buckets = calloc (objects->n_buckets, sizeof (struct object *));
	if (!objects->buckets) {
		free (objects);
		return silo_fail_nomem (err);
	}
	pthread_mutex_init (&objects->lock, NULL);
	*ret = objects;
	return 0;
}

/* SHA-256 is as good a hash as any. */
static struct object **
objects_bucket (struct objects *objects, const struct silo_digest *digest)
{
	uint64_t hash;

	memcpy (&hash, digest->b, sizeof (hash));
	return &objects->buckets[hash % objects->n_buckets];
}

static void
objects_age_remove (struct objects *objects, struct object *object)
{
	*(object->newer ? &object->newer->older : &objects->newest) = object->older;
	*(object->older ? &object->older->newer : &objects->oldest) = object->newer;
	object->newer = object->older = NULL;
}

static void
objects_age_add (struct objects *objects, struct object *object)
{
	object->older = objects->newest;
	*(objects->newest ? &objects->newest->newer : &objects->oldest) = object;
	objects->newest = object;
}

static struct object *
objects_find (struct objects *objects, struct silo_instance *content,
	      const struct silo_digest *digest)
{
	struct object *object = *objects_bucket (objects, digest);

	while (object && (object->content != content ||
			  memcmp (object->digest.b, digest->b, sizeof (digest->b)) != 0))
		object = object->hash_next;
	if (!object)
		return NULL;
	objects_age_remove (objects, object);
	objects_age_add (objects, object);
	object->users++;
	return object;
}

static void
objects_drop (struct objects *objects, struct object *object)
{
	struct object **at = objects_bucket (objects, &object->digest);

	while (*at != object)
		at = &(*at)->hash_next;
	*at = object->hash_next;
	objects_age_remove (objects, object);
	objects->n--;
	close (object->fd);
	free (object);
}

/* Close what has not been used for longest, down to capacity. */
static void
objects_trim (struct objects *objects, size_t capacity)
{
	struct object *object = objects->oldest;

	while (object && objects->n > capacity) {
		struct object *newer = object->newer;
		if (object->users == 0)
			objects_drop (objects, object);
		object = newer;
	}
}

void
objects_close (struct objects *objects)
{
	pthread_mutex_lock (&objects->lock);
	objects_trim (objects, 0);
	pthread_mutex_unlock (&objects->lock);
}

void
objects_free (struct objects *objects)
{
	if (!objects)
		return;
	objects_trim (objects, 0);
	assert (objects->n == 0);
	pthread_mutex_destroy (&objects->lock);
	free (objects->buckets);
	free (objects);
}

/* Without the lock: a store may have to fetch it first. */
static int
object_open (struct silo_instance *content, const struct silo_meta_inode *inode, int *ret_fd,
	     bool *ret_named, struct silo_error *err)
{
	char hex[SILO_DIGEST_HEX + 1];
	struct stat st;
	int fd;

	int r = silo_content_open (content, &inode->object, &fd, err);
	if (r < 0)
		return r;
	silo_digest_hex (&inode->object, hex);
	if (fstat (fd, &st) < 0)
		r = silo_fail_sys (err, errno, "object %s", hex);
	else if (st.st_size < 0 || (uint64_t) st.st_size != inode->size)
		r = silo_fail (err, SILO_DATALOSS, "object %s has %lld bytes, the image says %llu",
			       hex, (long long) st.st_size, (unsigned long long) inode->size);
	if (r < 0) {
		close (fd);
		return r;
	}
	*ret_fd = fd;
	*ret_named = st.st_nlink > 0;
	return 0;
}

/* Two threads may have opened the same object: the second one's descriptor goes. */
static struct object *
objects_insert (struct objects *objects, struct object *fresh)
{
	pthread_mutex_lock (&objects->lock);
	struct object *object = objects_find (objects, fresh->content, &fresh->digest);
	if (!object) {
		struct object **bucket = objects_bucket (objects, &fresh->digest);
		fresh->hash_next = *bucket;
		*bucket = fresh;
		objects_age_add (objects, fresh);
		objects->n++;
		objects_trim (objects, objects->capacity);
	}
	pthread_mutex_unlock (&objects->lock);
	if (!object)
		return fresh;
	close (fresh->fd);
	free (fresh);
	return object;
}

int
object_get (struct objects *objects, struct silo_instance *content,
	    const struct silo_meta_inode *inode, struct object **ret, struct silo_error *err)
{
	pthread_mutex_lock (&objects->lock);
	struct object *object = objects_find (objects, content, &inode->object);
	pthread_mutex_unlock (&objects->lock);
	if (object) {
		*ret = object;
		return 0;
	}

	object = calloc (1, sizeof (*object));
	if (!object)
		return silo_fail_nomem (err);
	object->content = content;
	object->digest = inode->object;
	object->users = 1;
	int r = object_open (content, inode, &object->fd, &object->named, err);
	if (r < 0) {
		free (object);
		return r;
	}
	*ret = objects_insert (objects, object);
	return 0;
}

int
object_fd (const struct object *object)
{
	return object->fd;
}

bool
object_named (const struct object *object)
{
	return object->named;
}

void
object_put (struct objects *objects, struct object *object)
{
	pthread_mutex_lock (&objects->lock);
	assert (object->users > 0);
	object->users--;
	objects_trim (objects, objects->capacity);
	pthread_mutex_unlock (&objects->lock);
}
