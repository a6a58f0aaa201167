/* SPDX-License-Identifier: Apache-2.0 */
/*
 * named.c - storage/sqlite's operations on image records and things.  Called
 * by the core, one thread at a time; each is a single statement.
 */
#include "sqlite.h"

int
image_put (void *self, const struct silo_image *image, struct silo_error *err)
{
	_cleanup_query_ struct query q = query_of (self, IMAGE_PUT);

	bind_text (&q, image->name);
	bind_digest (&q, &image->meta);
	bind_text (&q, image->source);
	bind_text (&q, image->source_id);
	bind_text (&q, image->config);
	bind_text (&q, image->python);
	bind_text (&q, image->python_version);
	bind_int (&q, image->inodes);
	bind_int (&q, image->size);
	bind_int (&q, image->created);
	bind_text (&q, image->layers);
	return query_run (&q, NULL, err);
}

/* IMAGE_COLUMNS */
static int
read_image (struct query *q, struct silo_image *image, struct silo_error *err)
{
	image->name = column_text (q);
	column_digest (q, &image->meta);
	image->source = column_text (q);
	image->source_id = column_text (q);
	image->config = column_text (q);
	image->python = column_text (q);
	image->python_version = column_text (q);
	image->inodes = column_int (q);
	image->size = column_int (q);
	image->created = column_int (q);
	image->layers = column_text (q);
	return query_check (q, err);
}

int
image_get (void *self, const char *name, silo_image_fn *fn, void *arg, struct silo_error *err)
{
	_cleanup_query_ struct query q = query_of (self, IMAGE_GET);
	struct silo_image image = { 0 };

	bind_text (&q, name);
	int r = query_step (&q, err);
	if (r < 0)
		return r;
	if (r == 0)
		return silo_fail (err, SILO_NOTFOUND, "image %s does not exist", name);
	r = read_image (&q, &image, err);
	if (r < 0)
		return r;
	fn (arg, &image);
	return 0;
}

int
image_list (void *self, silo_image_fn *fn, void *arg, struct silo_error *err)
{
	_cleanup_query_ struct query q = query_of (self, IMAGE_LIST);

	for (;;) {
		struct silo_image image = { 0 };
		int r = query_step (&q, err);
		if (r <= 0)
			return r;
		r = read_image (&q, &image, err);
		if (r < 0)
			return r;
		if (fn (arg, &image))
			return 0;
	}
}

int
image_drop (void *self, const char *name, struct silo_error *err)
{
	_cleanup_query_ struct query q = query_of (self, IMAGE_DROP);
	int changes = 0;

	bind_text (&q, name);
	int r = query_run (&q, &changes, err);
	if (r < 0)
		return r;
	if (changes == 0)
		return silo_fail (err, SILO_NOTFOUND, "image %s does not exist", name);
	return 0;
}

int
thing_put (void *self, const struct silo_thing *thing, struct silo_error *err)
{
	_cleanup_query_ struct query q = query_of (self, THING_PUT);

	bind_text (&q, thing->kind);
	bind_text (&q, thing->name);
	bind_int (&q, thing->created);
	bind_blob (&q, thing->value);
	return query_run (&q, NULL, err);
}

static int
read_thing (struct query *q, struct silo_thing *thing, struct silo_error *err)
{
	thing->kind = column_text (q);
	thing->name = column_text (q);
	thing->created = column_int (q);
	thing->value = column_blob (q);
	return query_check (q, err);
}

int
thing_get (void *self, const char *kind, const char *name, silo_thing_fn *fn, void *arg,
	   struct silo_error *err)
{
	_cleanup_query_ struct query q = query_of (self, THING_GET);
	struct silo_thing thing = { 0 };

	bind_text (&q, kind);
	bind_text (&q, name);
	int r = query_step (&q, err);
	if (r < 0)
		return r;
	if (r == 0)
		return silo_fail (err, SILO_NOTFOUND, "%s %s does not exist", kind, name);
	r = read_thing (&q, &thing, err);
	if (r < 0)
		return r;
	fn (arg, &thing);
	return 0;
}

int
thing_list (void *self, const char *kind, silo_thing_fn *fn, void *arg, struct silo_error *err)
{
	_cleanup_query_ struct query q = query_of (self, THING_LIST);

	bind_text (&q, kind);
	for (;;) {
		struct silo_thing thing = { 0 };
		int r = query_step (&q, err);
		if (r <= 0)
			return r;
		r = read_thing (&q, &thing, err);
		if (r < 0)
			return r;
		if (fn (arg, &thing))
			return 0;
	}
}

int
thing_drop (void *self, const char *kind, const char *name, struct silo_error *err)
{
	_cleanup_query_ struct query q = query_of (self, THING_DROP);
	int changes = 0;

	bind_text (&q, kind);
	bind_text (&q, name);
	int r = query_run (&q, &changes, err);
	if (r < 0)
		return r;
	if (changes == 0)
		return silo_fail (err, SILO_NOTFOUND, "%s %s does not exist", kind, name);
	return 0;
}
