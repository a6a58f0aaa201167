/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image-remove.c - `silo rm`: the record, the metadata file, and the objects
 * that no other image uses.  STATE/images/lock is held exclusively, so nobody
 * indexes meanwhile.  The record goes first: a crash leaves files that nothing
 * refers to, never a record without its files.
 */
#include "import.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>

struct digests {
	struct silo_digest *item;
	size_t n, cap;
};

static void
digests_free (struct digests *digests)
{
	free (digests->item);
}

static int
digest_compare (const void *a, const void *b)
{
	return memcmp (a, b, sizeof (struct silo_digest));
}

static int
digests_add (struct digests *digests, const struct silo_digest *digest, struct silo_error *err)
{
	if (digests->n == digests->cap) {
		size_t cap = digests->cap ? digests->cap * 2 : 1024;
		struct silo_digest *item = reallocarray (digests->item, cap, sizeof (*item));
		if (!item)
			return silo_fail_nomem (err);
		digests->item = item;
		digests->cap = cap;
	}
	digests->item[digests->n++] = *digest;
	return 0;
}

/* Sort, and drop what stands there twice. */
static void
digests_sort (struct digests *digests)
{
	if (digests->n == 0)
		return;
	qsort (digests->item, digests->n, sizeof (*digests->item), digest_compare);
	size_t kept = 1;
	for (size_t i = 1; i < digests->n; i++)
		if (!silo_digest_equal (&digests->item[i], &digests->item[kept - 1]))
			digests->item[kept++] = digests->item[i];
	digests->n = kept;
}

static bool
digests_have (const struct digests *digests, const struct silo_digest *digest)
{
	return digests->n > 0 &&
	       bsearch (digest, digests->item, digests->n, sizeof (*digests->item), digest_compare);
}

struct take {
	struct digests *to;
	struct silo_error *err;
	int r;
};

static int
take_object (void *arg, const struct silo_meta_inode *inode)
{
	struct take *take = arg;
	if (inode->has_object)
		take->r = digests_add (take->to, &inode->object, take->err);
	return take->r;
}

static int
take_image (void *arg, const struct silo_image *image)
{
	struct take *take = arg;
	take->r = digests_add (take->to, &image->meta, take->err);
	return take->r;
}

/* Add the objects of one metadata file. */
static int
objects_of (struct core *core, const struct silo_digest *meta_digest, struct digests *to,
	    struct silo_error *err)
{
	const struct silo_image image = { .meta = *meta_digest };
	struct take take = { to, err, 0 };
	struct silo_meta *meta = NULL;
	char path[PATH_MAX];
	int r = image_meta_path (core, &image, path, sizeof (path), err);
	if (r == 0)
		r = silo_meta_open (path, &meta, err);
	if (r < 0)
		return r;
	r = silo_meta_each (meta, take_object, &take, err);
	silo_meta_close (meta);
	return r < 0 ? r : take.r;
}

/* A daemon may have workers that read the objects of images whose record is gone. */
static bool
daemon_runs (struct core *core)
{
	char path[PATH_MAX];
	if (core->lock_fd >= 0)
		return true;
	if (silo_state_path (&core->host, "lock", path, sizeof (path), NULL) < 0)
		return true;
	_cleanup_close_ int fd = open (path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 ? flock (fd, LOCK_SH | LOCK_NB) < 0 : errno != ENOENT;
}

/* Remove from the store what `gone` refers to and none of `left` does. */
static int
objects_remove (struct core *core, const struct silo_digest *gone, const struct digests *left,
		struct silo_error *err)
{
	SILO_CLEANUP (digests_free) struct digests used = { 0 };
	SILO_CLEANUP (digests_free) struct digests old = { 0 };
	int r = objects_of (core, gone, &old, err);
	for (size_t i = 0; r == 0 && i < left->n; i++)
		r = objects_of (core, &left->item[i], &used, err);
	if (r < 0)
		return r;
	digests_sort (&used);
	digests_sort (&old);
	for (size_t i = 0; i < old.n; i++) {
		struct silo_error said = { 0 };
		if (digests_have (&used, &old.item[i]))
			continue;
		r = silo_content_remove (core->wiring.content, &old.item[i], &said);
		if (r < 0 && r != SILO_NOTFOUND)
			return silo_fail (err, r, "%s", said.msg);
	}
	return 0;
}

/* Metadata files that records refer to, each once. */
static int
metas_left (struct core *core, struct digests *to, struct silo_error *err)
{
	struct take take = { to, err, 0 };
	int r = instance_call (core->wiring.storage, storage, image_list, take_image, &take, err);
	if (r == 0)
		r = take.r;
	digests_sort (to);
	return r;
}

static int
files_of_image_remove (struct core *core, const struct image_folder *folder,
		       const struct silo_image *image, struct silo_error *err)
{
	SILO_CLEANUP (digests_free) struct digests left = { 0 };
	struct silo_error why = { 0 };
	char hex[SILO_DIGEST_HEX + 1], name[SILO_DIGEST_HEX + 8];
	int r = metas_left (core, &left, err);
	if (r < 0 || digests_have (&left, &image->meta))
		return r;
	/* Too many objects is a waste, one too few a broken image: in doubt they stay. */
	if (daemon_runs (core))
		silo_log (&core->host, SILO_WARN,
			  "image %s: its objects are kept while the daemon runs", image->name);
	else if (objects_remove (core, &image->meta, &left, &why) < 0)
		silo_log (&core->host, SILO_WARN, "image %s: its objects are kept: %s", image->name,
			  why.msg);
	silo_digest_hex (&image->meta, hex);
	snprintf (name, sizeof (name), "%s.erofs", hex);
	if (unlinkat (folder->fd, name, 0) < 0 && errno != ENOENT)
		return silo_fail_sys (err, errno, "images/%s", name);
	return 0;
}

int
image_remove (struct core *core, const char *name, struct silo_error *err)
{
	SILO_CLEANUP (image_folder_close) struct image_folder folder = { -1, -1 };
	_cleanup_free_ struct image_copy *copy = NULL;
	int r = image_folder_open (core, LOCK_EX, &folder, err);
	if (r == 0)
		r = image_find (core, name, &copy, err);
	if (r == SILO_NOTFOUND)
		return silo_fail (err, SILO_NOTFOUND, "image %.100s is not known here", name);
	if (r == 0)
		r = instance_call (core->wiring.storage, storage, image_drop, copy->image.name,
				   err);
	return r < 0 ? r : files_of_image_remove (core, &folder, &copy->image, err);
}
