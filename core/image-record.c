/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image-record.c - image records as they come out of the storage: copied, by
 * name, all of them.  Plugins that were built when the record had fewer fields
 * are read here and nowhere else.  Called by verbs and on pool threads.
 */
#include "import.h"

int
image_copy (const struct silo_image *image, struct image_copy **ret, struct silo_error *err)
{
	const size_t texts[] = {
		offsetof (struct silo_image, name),
		offsetof (struct silo_image, source),
		offsetof (struct silo_image, source_id),
		offsetof (struct silo_image, config),
		offsetof (struct silo_image, python),
		offsetof (struct silo_image, python_version),
		offsetof (struct silo_image, layers),
	};
	size_t size = 0;
	for (size_t i = 0; i < ARRAY_SIZE (texts); i++) {
		const char *text = *(const char *const *) ((const char *) image + texts[i]);
		size += strlen (text ? text : "") + 1;
	}
	struct image_copy *copy = malloc (sizeof (*copy) + size);
	if (!copy)
		return silo_fail_nomem (err);
	copy->image = *image;
	char *at = copy->mem;
	for (size_t i = 0; i < ARRAY_SIZE (texts); i++) {
		const char **text = (const char **) ((char *) &copy->image + texts[i]);
		size_t len = strlen (*text ? *text : "") + 1;
		memcpy (at, *text ? *text : "", len);
		*text = at;
		at += len;
	}
	*ret = copy;
	return 0;
}

/* A record as today's structure, from a plugin of any age. */
struct grown {
	uint32_t records; /* of the plugin */
	silo_image_fn *fn;
	void *arg;
};

static int
grown_take (void *arg, const struct silo_image *image)
{
	const struct grown *grown = arg;
	struct silo_image today = { .layers = "" };
	if (grown->records >= 1)
		today = *image;
	else
		memcpy (&today, image, offsetof (struct silo_image, layers));
	return grown->fn (grown->arg, &today);
}

int
image_each (struct core *core, silo_image_fn *fn, void *arg, struct silo_error *err)
{
	struct silo_instance *storage = core->wiring.storage;
	if (!storage)
		return silo_fail (err, SILO_PRECONDITION, "there is no storage");
	struct grown grown = { storage->plugin->head.records, fn, arg };
	return instance_call (storage, storage, image_list, grown_take, &grown, err);
}

struct get {
	struct image_copy *copy;
	struct silo_error *err;
	int r;
};

static int
get_take (void *arg, const struct silo_image *image)
{
	struct get *get = arg;
	get->r = image_copy (image, &get->copy, get->err);
	return 1;
}

int
image_get (struct core *core, const char *name, struct image_copy **ret, struct silo_error *err)
{
	struct silo_instance *storage = core->wiring.storage;
	if (!storage)
		return silo_fail (err, SILO_PRECONDITION, "there is no storage");
	struct get get = { NULL, err, 0 };
	struct grown grown = { storage->plugin->head.records, get_take, &get };
	int r = instance_call (storage, storage, image_get, name, grown_take, &grown, err);
	if (r == 0)
		r = get.r;
	if (r == 0 && !get.copy)
		r = silo_fail (err, SILO_INTERNAL, "storage gave no record of image %s", name);
	if (r == 0)
		*ret = get.copy;
	return r;
}
