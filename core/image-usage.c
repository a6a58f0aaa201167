/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image-usage.c - how much images take: which bytes an image has for itself,
 * which it shares, and what the store holds altogether.  Called by verbs; only
 * reads, beside imports and collections.
 */
#include "store.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

/* -- images --------------------------------------------------------------------------- */

/* One object of one metadata file. */
struct use {
	struct silo_digest object;
	int64_t size;
	size_t meta;
};

struct uses {
	struct use *item;
	size_t n, cap;
	size_t meta;   /* that is being read */
	int64_t files; /* in it */
	struct silo_error *err;
	int r;
};

static void
uses_free (struct uses *uses)
{
	free (uses->item);
}

void
images_usage_free (struct images_usage *usage)
{
	for (size_t i = 0; i < usage->n; i++)
		free (usage->item[i].record);
	free (usage->item);
	*usage = (struct images_usage){ 0 };
}

struct take {
	struct images_usage *to;
	struct silo_error *err;
	int r;
};

static int
take_image (void *arg, const struct silo_image *image)
{
	struct take *take = arg;
	struct images_usage *to = take->to;
	struct image_usage *item = reallocarray (to->item, to->n + 1, sizeof (*item));
	if (!item)
		return take->r = silo_fail_nomem (take->err);
	to->item = item;
	item[to->n] = (struct image_usage){ 0 };
	take->r = image_copy (image, &item[to->n].record, take->err);
	if (take->r == 0)
		to->n++;
	return take->r;
}

static int
take_object (void *arg, const struct silo_meta_inode *inode)
{
	struct uses *uses = arg;
	uses->files += S_ISREG (inode->mode);
	if (!inode->has_object)
		return 0;
	if (uses->n == uses->cap) {
		size_t cap = uses->cap ? uses->cap * 2 : 4096;
		struct use *item = reallocarray (uses->item, cap, sizeof (*item));
		if (!item)
			return uses->r = silo_fail_nomem (uses->err);
		uses->item = item;
		uses->cap = cap;
	}
	uses->item[uses->n++] = (struct use){ inode->object, (int64_t) inode->size, uses->meta };
	return 0;
}

/* The objects of an image whose tree no image before it has. */
static int
read_meta (struct core *core, struct image_usage *image, struct uses *uses, struct silo_error *err)
{
	struct silo_error why = { 0 };
	struct silo_meta *meta = NULL;
	char path[PATH_MAX];
	size_t before = uses->n;
	uses->meta = image->meta;
	uses->files = 0;
	uses->err = err;
	uses->r = 0;
	int r = image_meta_path (core, &image->record->image, path, sizeof (path), err);
	if (r < 0)
		return r;
	r = silo_meta_open (path, &meta, &why);
	if (r == 0)
		r = silo_meta_each (meta, take_object, uses, &why);
	silo_meta_close (meta);
	if (uses->r < 0)
		return uses->r;
	if (r < 0 && r != SILO_DATALOSS && r != SILO_NOTFOUND)
		return silo_fail (err, r, "%s", why.msg);
	image->damaged = r < 0;
	if (image->damaged)
		uses->n = before;
	else
		image->files = uses->files;
	return 0;
}

static int
read_metas (struct core *core, struct images_usage *usage, struct uses *uses,
	    struct silo_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < usage->n; i++) {
		struct image_usage *image = &usage->item[i];
		size_t first = 0;
		while (!silo_digest_equal (&usage->item[first].record->image.meta,
					   &image->record->image.meta))
			first++;
		image->meta = first;
		if (first == i) {
			r = read_meta (core, image, uses, err);
			continue;
		}
		image->damaged = usage->item[first].damaged;
		image->files = usage->item[first].files;
	}
	return r;
}

static int
compare_uses (const void *a, const void *b)
{
	const struct use *x = a, *y = b;
	int c = memcmp (&x->object, &y->object, sizeof (x->object));
	return c ? c : (x->meta > y->meta) - (x->meta < y->meta);
}

/* uses[0..n) are of one object, by tree: give it to each that has it. */
static void
count_object (struct images_usage *usage, const struct use *uses, size_t n)
{
	bool unique = uses[0].meta == uses[n - 1].meta;
	for (size_t i = 0; i < n; i++) {
		struct image_usage *image = &usage->item[uses[i].meta];
		if (i > 0 && uses[i].meta == uses[i - 1].meta)
			continue;
		*(unique ? &image->unique : &image->shared) += uses[i].size;
		*(unique ? &image->unique_objects : &image->shared_objects) += 1;
	}
}

/* Two names of one tree have nothing for themselves: it goes with the last. */
static void
count_names (struct images_usage *usage)
{
	for (size_t i = 0; i < usage->n; i++) {
		struct image_usage *image = &usage->item[i], *first = &usage->item[image->meta];
		if (first == image)
			continue;
		first->shared += first->unique;
		first->shared_objects += first->unique_objects;
		first->unique = first->unique_objects = 0;
		image->shared = first->shared;
		image->shared_objects = first->shared_objects;
	}
}

int
images_usage (struct core *core, struct images_usage *ret, struct silo_error *err)
{
	SILO_CLEANUP (images_usage_free) struct images_usage usage = { 0 };
	SILO_CLEANUP (uses_free) struct uses uses = { 0 };
	struct take take = { &usage, err, 0 };
	int r = image_each (core, take_image, &take, err);
	if (r == 0)
		r = take.r;
	if (r == 0)
		r = read_metas (core, &usage, &uses, err);
	if (r < 0)
		return r;
	if (uses.n > 0)
		qsort (uses.item, uses.n, sizeof (*uses.item), compare_uses);
	for (size_t from = 0, to; from < uses.n; from = to) {
		for (to = from + 1; to < uses.n; to++)
			if (!silo_digest_equal (&uses.item[to].object, &uses.item[from].object))
				break;
		count_object (&usage, &uses.item[from], to - from);
	}
	count_names (&usage);
	*ret = usage;
	usage = (struct images_usage){ 0 };
	return 0;
}

/* -- the whole store ---------------------------------------------------------------------- */

struct count {
	struct store_usage *usage;
	int folder; /* of the objects; -1: there is none */
};

static int
count_stored (void *arg, const struct silo_digest *digest, int64_t size)
{
	struct count *count = arg;
	char hex[SILO_DIGEST_HEX + 1], name[SILO_DIGEST_HEX + 2];
	struct stat st;
	count->usage->objects++;
	count->usage->object_bytes += size;
	silo_digest_hex (digest, hex);
	snprintf (name, sizeof (name), "%.2s/%s", hex, hex + 2);
	if (count->folder >= 0 && fstatat (count->folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		count->usage->object_disk += (int64_t) st.st_blocks * 512;
	return 0;
}

static int
count_objects (struct core *core, struct store_usage *usage, struct silo_error *err)
{
	const char *path = silo_content_folder (core->wiring.content);
	_cleanup_close_ int folder = path ? open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	struct count count = { usage, folder };
	usage->object_disk = folder >= 0 ? 0 : -1;
	return silo_content_each (core->wiring.content, count_stored, &count, err);
}

/* Is a file of this name to be counted? */
typedef bool name_fn (const char *name, const char *arg);

static bool
is_meta (const char *name, const char *arg SILO_UNUSED)
{
	struct silo_digest digest;
	return image_file_parse (name, &digest);
}

static bool
is_layer (const char *name, const char *arg SILO_UNUSED)
{
	struct silo_digest digest;
	return silo_digest_parse (name, &digest, NULL) == 0;
}

/* "silo.db-wal" belongs to "silo.db". */
static bool
is_beside (const char *name, const char *arg)
{
	return strncmp (name, arg, strlen (arg)) == 0;
}

struct counted {
	int64_t n, bytes;
};

#define COUNT_DEPTH 16

/* Regular files in the folder `name` that `fn` wants; without one, all, down to COUNT_DEPTH.
 * What vanishes meanwhile does not count. */
static void
count_files (int at, const char *name, name_fn *fn, const char *arg, int depth, struct counted *ret)
{
	int fd = openat (at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	_cleanup_closedir_ DIR *dir = fd >= 0 ? fdopendir (fd) : NULL;
	if (!dir) {
		util_close (&fd);
		return;
	}
	for (struct dirent *entry; (entry = readdir (dir));) {
		struct stat st;
		if (strcmp (entry->d_name, ".") == 0 || strcmp (entry->d_name, "..") == 0 ||
		    fstatat (fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		if (S_ISDIR (st.st_mode) && !fn && depth < COUNT_DEPTH)
			count_files (fd, entry->d_name, NULL, NULL, depth + 1, ret);
		if (!S_ISREG (st.st_mode) || (fn && !fn (entry->d_name, arg)))
			continue;
		ret->n++;
		ret->bytes += st.st_size;
	}
}

/* What a storage keeps is at its options of type path, and beside them. */
static int64_t
count_database (struct silo_instance *storage)
{
	const struct silo_plugin *head = &storage->plugin->head;
	struct counted counted = { 0 };
	struct silo_option option;
	for (size_t i = 0; options_row (head->options, head->option_size, i, &option); i++) {
		char folder[PATH_MAX];
		if (option.type != SILO_PATH)
			continue;
		const char *path = *(const char **) ((char *) storage->self + option.offset);
		const char *slash = path ? strrchr (path, '/') : NULL;
		if (!slash || snprintf (folder, sizeof (folder), "%.*s", (int) (slash - path + 1),
					path) >= (int) sizeof (folder))
			continue;
		count_files (AT_FDCWD, folder, is_beside, slash + 1, 0, &counted);
		count_files (AT_FDCWD, path, NULL, NULL, 0, &counted);
	}
	return counted.n > 0 ? counted.bytes : -1;
}

int
store_usage (struct core *core, struct store_usage *ret, struct silo_error *err)
{
	struct store_usage usage = { 0 };
	struct counted metas = { 0 }, layers = { 0 };
	char path[PATH_MAX], layer_path[PATH_MAX];
	int r = silo_state_path (&core->host, "images", path, sizeof (path), err);
	if (r == 0)
		r = silo_state_path (&core->host, "layers", layer_path, sizeof (layer_path), err);
	if (r == 0)
		r = count_objects (core, &usage, err);
	if (r < 0)
		return r;
	count_files (AT_FDCWD, path, is_meta, NULL, 0, &metas);
	count_files (AT_FDCWD, layer_path, is_layer, NULL, 0, &layers);
	usage.metas = metas.n;
	usage.meta_bytes = metas.bytes;
	usage.layers = layers.n;
	usage.layer_bytes = layers.bytes;
	usage.database = count_database (core->wiring.storage);
	*ret = usage;
	return 0;
}
