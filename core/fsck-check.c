/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fsck-check.c - looks at everything in the store: every object is read and
 * hashed, by as many threads as there are processors; every image's metadata
 * file and layer records are, and have what they name.  Called by a verb, with
 * STATE/images locked against whoever removes.  Nothing is changed.
 */
#include "fsck.h"
#include "layers.h"

#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/stat.h>

#define MAX_THREADS 64

/* -- the flaws -------------------------------------------------------------------------- */

void
fsck_free (struct fsck *fsck)
{
	for (size_t i = 0; i < fsck->n; i++) {
		struct fsck_flaw *flaw = &fsck->flaws[i];
		for (size_t h = 0; h < flaw->n_hurts; h++)
			for (size_t p = 0; p < FSCK_PATHS; p++)
				free (flaw->hurts[h].paths[p]);
		free (flaw->hurts);
	}
	for (size_t i = 0; i < fsck->n_images; i++) {
		free (fsck->images[i].record);
		free (fsck->images[i].why);
	}
	for (size_t i = 0; i < fsck->n_strays; i++)
		free (fsck->strays[i]);
	free (fsck->flaws);
	free (fsck->images);
	free (fsck->strays);
}

static int
add_flaw (struct fsck *fsck, enum fsck_kind kind, const struct silo_digest *digest,
	  struct fsck_flaw **ret, struct silo_error *err)
{
	if (fsck->n == fsck->cap) {
		size_t cap = fsck->cap ? fsck->cap * 2 : 16;
		struct fsck_flaw *flaws = reallocarray (fsck->flaws, cap, sizeof (*flaws));
		if (!flaws)
			return silo_fail_nomem (err);
		fsck->flaws = flaws;
		fsck->cap = cap;
	}
	*ret = &fsck->flaws[fsck->n++];
	**ret = (struct fsck_flaw){ .kind = kind, .digest = *digest };
	return 0;
}

static int
compare_flaws (const void *a, const void *b)
{
	const struct fsck_flaw *x = a, *y = b;
	bool x_object = x->kind <= FSCK_OBJECT_MISSING, y_object = y->kind <= FSCK_OBJECT_MISSING;
	if (x_object != y_object)
		return x_object ? -1 : 1;
	return memcmp (&x->digest, &y->digest, sizeof (x->digest));
}

static void
sort_flaws (struct fsck *fsck)
{
	if (fsck->n > 0)
		qsort (fsck->flaws, fsck->n, sizeof (*fsck->flaws), compare_flaws);
}

/* -- objects ----------------------------------------------------------------------------- */

struct stored {
	struct silo_digest digest;
	int64_t size;
	bool damaged;
};

struct hashing {
	struct fsck *fsck;
	struct silo_instance *content;
	struct stored *item; /* each is one thread's at a time */
	size_t n, cap;
	int64_t bytes;
	atomic_size_t next;
	pthread_mutex_t lock; /* the fields below, and calls of fsck->progress */
	int64_t done;
	struct silo_error first; /* what has ended it early */
};

static void
hashing_clear (struct hashing *hashing)
{
	free (hashing->item);
	pthread_mutex_destroy (&hashing->lock);
}

static int
take_stored (void *arg, const struct silo_digest *digest, int64_t size)
{
	struct hashing *hashing = arg;
	if (hashing->n == hashing->cap) {
		size_t cap = hashing->cap ? hashing->cap * 2 : 4096;
		struct stored *item = reallocarray (hashing->item, cap, sizeof (*item));
		if (!item)
			return silo_fail_nomem (&hashing->first);
		hashing->item = item;
		hashing->cap = cap;
	}
	hashing->item[hashing->n++] = (struct stored){ *digest, size, false };
	hashing->bytes += size;
	return 0;
}

/* Does the object have the bytes that its name says?  SILO_NOTFOUND: it is not there. */
static int
object_check (struct silo_instance *content, const struct silo_digest *digest, bool *ret_damaged,
	      struct silo_error *err)
{
	struct silo_error why = { 0 };
	struct silo_digest found;
	_cleanup_close_ int fd = -1;
	int r = silo_content_open (content, digest, &fd, &why);
	if (r == SILO_NOTFOUND)
		return silo_fail (err, r, "%s", why.msg);
	if (r == 0)
		r = files_digest (fd, &found, &why);
	if (r == SILO_EXHAUSTED || r == SILO_DENIED) /* that is not the object's fault */
		return silo_fail (err, r, "%s", why.msg);
	/* What cannot be read is of no more use than what is wrong. */
	*ret_damaged = r < 0 || !silo_digest_equal (&found, digest);
	return 0;
}

static void *
hashing_run (void *arg)
{
	struct hashing *hashing = arg;
	struct fsck *fsck = hashing->fsck;
	for (size_t i; (i = atomic_fetch_add (&hashing->next, 1)) < hashing->n;) {
		struct stored *stored = &hashing->item[i];
		struct silo_error err = { 0 };
		int r = object_check (hashing->content, &stored->digest, &stored->damaged, &err);
		scope_lock (&hashing->lock);
		/* Gone: whoever needs it will be told to have lost it. */
		if (r < 0 && r != SILO_NOTFOUND) {
			hashing->first = err;
			atomic_store (&hashing->next, hashing->n);
		}
		hashing->done += stored->size;
		if (fsck->progress)
			fsck->progress (fsck->arg, "checking objects", hashing->done,
					hashing->bytes);
	}
	return NULL;
}

static int
hash_all (struct hashing *hashing, struct silo_error *err)
{
	long cpus = sysconf (_SC_NPROCESSORS_ONLN);
	size_t wanted = cpus < 1 ? 1 : cpus > MAX_THREADS ? MAX_THREADS : (size_t) cpus;
	pthread_t threads[MAX_THREADS];
	size_t n = 0;
	/* This thread is one of them, and if need be the only one. */
	while (n + 1 < wanted && pthread_create (&threads[n], NULL, hashing_run, hashing) == 0)
		n++;
	hashing_run (hashing);
	for (size_t i = 0; i < n; i++)
		pthread_join (threads[i], NULL);
	return hashing->first.code ? silo_fail (err, hashing->first.code, "%s", hashing->first.msg)
				   : 0;
}

static int
check_objects (struct fsck *fsck, struct digests *ret_there, struct silo_error *err)
{
	SILO_CLEANUP (hashing_clear)
	struct hashing hashing = {
		.fsck = fsck,
		.content = fsck->core->wiring.content,
		.lock = PTHREAD_MUTEX_INITIALIZER,
	};
	int r = silo_content_each (hashing.content, take_stored, &hashing, err);
	if (r == 0 && hashing.first.code)
		r = silo_fail (err, hashing.first.code, "%s", hashing.first.msg);
	if (r == 0)
		r = hash_all (&hashing, err);
	fsck->objects = (int64_t) hashing.n;
	fsck->bytes = hashing.bytes;
	for (size_t i = 0; r == 0 && i < hashing.n; i++) {
		struct fsck_flaw *flaw;
		r = digests_add (ret_there, &hashing.item[i].digest, err);
		if (r == 0 && hashing.item[i].damaged)
			r = add_flaw (fsck, FSCK_OBJECT_DAMAGED, &hashing.item[i].digest, &flaw,
				      err);
	}
	digests_sort (ret_there);
	sort_flaws (fsck);
	return r;
}

/* -- metadata files -------------------------------------------------------------------------- */

struct needs {
	struct fsck *fsck;
	const struct digests *there;
	struct digests missing;
	bool hurt; /* by a damaged object */
	struct silo_error *err;
	int r;
};

static void
needs_clear (struct needs *needs)
{
	digests_free (&needs->missing);
}

static int
need_object (void *arg, const struct silo_meta_inode *inode)
{
	struct needs *needs = arg;
	int64_t size;
	if (!inode->has_object)
		return 0;
	if (digests_have (needs->there, &inode->object)) {
		needs->hurt = needs->hurt || fsck_find (needs->fsck, &inode->object);
		return 0;
	}
	/* It may have come since the objects were listed. */
	if (silo_content_stat (needs->fsck->core->wiring.content, &inode->object, &size, NULL) < 0)
		needs->r = digests_add (&needs->missing, &inode->object, needs->err);
	return needs->r;
}

/* SILO_DATALOSS: it is damaged; SILO_NOTFOUND. */
static int
meta_check (struct core *core, const struct silo_image *image, struct silo_meta **ret,
	    struct silo_error *err)
{
	char path[PATH_MAX];
	struct silo_digest found;
	int r = image_meta_path (core, image, path, sizeof (path), err);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = open (path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return silo_fail_sys (err, errno, "%s", path);
	struct silo_error why = { 0 };
	r = files_digest (fd, &found, &why);
	if (r == SILO_EXHAUSTED)
		return silo_fail (err, r, "%s", why.msg);
	if (r < 0 || !silo_digest_equal (&found, &image->meta))
		return silo_fail (err, SILO_DATALOSS, "%s is damaged", path);
	return silo_meta_open (path, ret, err);
}

static int
add_missing (struct fsck *fsck, struct digests *missing, struct silo_error *err)
{
	size_t n = 0;
	int r = 0;
	digests_sort (missing);
	/* An image before it may miss the same. */
	for (size_t i = 0; i < missing->n; i++)
		if (!fsck_find (fsck, &missing->item[i]))
			missing->item[n++] = missing->item[i];
	for (size_t i = 0; r == 0 && i < n; i++) {
		struct fsck_flaw *flaw;
		r = add_flaw (fsck, FSCK_OBJECT_MISSING, &missing->item[i], &flaw, err);
	}
	sort_flaws (fsck);
	return r;
}

/* The objects of a sound metadata file. */
static int
check_needs (struct fsck *fsck, size_t image, const struct silo_meta *meta,
	     const struct digests *there, struct silo_error *err)
{
	SILO_CLEANUP (needs_clear)
	struct needs needs = { .fsck = fsck, .there = there, .err = err };
	int r = silo_meta_each (meta, need_object, &needs, err);
	if (r == 0)
		r = needs.r;
	needs.hurt = needs.hurt || needs.missing.n > 0;
	if (r == 0)
		r = add_missing (fsck, &needs.missing, err);
	return r == 0 && needs.hurt ? fsck_find_paths (fsck, image, meta, err) : r;
}

static int
check_image (struct fsck *fsck, size_t i, const struct digests *there, struct silo_error *err)
{
	const struct silo_image *image = &fsck->images[i].record->image;
	struct silo_error why = { 0 };
	struct silo_meta *meta = NULL;
	struct fsck_hurt *hurt;
	struct fsck_flaw *flaw;
	int r = meta_check (fsck->core, image, &meta, &why);
	if (r == 0) {
		r = check_needs (fsck, i, meta, there, err);
		silo_meta_close (meta);
		return r;
	}
	if (r != SILO_DATALOSS && r != SILO_NOTFOUND)
		return silo_fail (err, r, "%s", why.msg);
	r = add_flaw (fsck, r == SILO_NOTFOUND ? FSCK_META_MISSING : FSCK_META_DAMAGED,
		      &image->meta, &flaw, err);
	return r < 0 ? r : fsck_add_hurt (flaw, i, &hurt, err);
}

static int
check_images (struct fsck *fsck, const struct digests *there, struct silo_error *err)
{
	SILO_CLEANUP (digests_free) struct digests metas = { 0 };
	int r = 0;
	for (size_t i = 0; r == 0 && i < fsck->n_images; i++) {
		if (fsck->progress)
			fsck->progress (fsck->arg, "checking images", 0, 0);
		r = check_image (fsck, i, there, err);
		if (r == 0)
			r = digests_add (&metas, &fsck->images[i].record->image.meta, err);
	}
	digests_sort (&metas);
	fsck->metas = (int64_t) metas.n;
	return r;
}

/* -- layer records ----------------------------------------------------------------------------- */

static int
layers_listed (const struct fsck *fsck, struct digests *ret, struct silo_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < fsck->n_images; i++)
		r = image_layers (&fsck->images[i].record->image, ret, err);
	digests_sort (ret);
	return r;
}

/* One that is not there is no flaw, nor one that lacks an object: the blob is fetched again when
 * it is wanted. */
static int
layer_check (int folder, const struct silo_digest *blob, bool *ret_damaged, struct silo_error *err)
{
	struct silo_error why = { 0 };
	struct tree_layer *layer = NULL;
	int r = layer_load (folder, NULL, blob, &layer, &why);
	tree_layer_free (layer);
	*ret_damaged = r == SILO_DATALOSS;
	return r == 0 || r == SILO_NOTFOUND || *ret_damaged ? 0 : silo_fail (err, r, "%s", why.msg);
}

static int
check_layers (struct fsck *fsck, struct silo_error *err)
{
	SILO_CLEANUP (digests_free) struct digests layers = { 0 };
	_cleanup_close_ int folder = -1;
	int r = layers_listed (fsck, &layers, err);
	if (r == 0)
		r = layer_folder_open (fsck->core, &folder, err);
	for (size_t i = 0; r == 0 && i < layers.n; i++) {
		struct fsck_flaw *flaw;
		bool damaged = false;
		r = layer_check (folder, &layers.item[i], &damaged, err);
		if (r == 0 && damaged)
			r = add_flaw (fsck, FSCK_LAYER_DAMAGED, &layers.item[i], &flaw, err);
	}
	fsck->layers = (int64_t) layers.n;
	return r;
}

/* -- what does not belong here ----------------------------------------------------------------- */

static int
add_stray (struct fsck *fsck, const char *folder, const char *name, struct silo_error *err)
{
	char **strays = reallocarray (fsck->strays, fsck->n_strays + 1, sizeof (*strays));
	if (!strays)
		return silo_fail_nomem (err);
	fsck->strays = strays;
	if (asprintf (&strays[fsck->n_strays], "%s/%s", folder, name) < 0)
		return silo_fail_nomem (err);
	fsck->n_strays++;
	return 0;
}

/* Is something of this name and type at home in a folder? */
typedef bool belongs_fn (const char *name, mode_t mode, const char *arg);

static bool
image_belongs (const char *name, mode_t mode, const char *arg SILO_UNUSED)
{
	struct silo_digest digest;
	return S_ISREG (mode) && (image_file_parse (name, &digest) || strcmp (name, "lock") == 0 ||
				  strcmp (name, "unclean") == 0 || strncmp (name, "new-", 4) == 0);
}

static bool
layer_belongs (const char *name, mode_t mode, const char *arg SILO_UNUSED)
{
	struct silo_digest digest;
	if (S_ISREG (mode))
		return silo_digest_parse (name, &digest, NULL) == 0 ||
		       strncmp (name, "new-", 4) == 0;
	return S_ISFIFO (mode) && strlen (name) == SILO_DIGEST_HEX + strlen (".lock");
}

/* In a folder of objects, whose name is `arg`. */
static bool
object_belongs (const char *name, mode_t mode, const char *arg)
{
	char hex[SILO_DIGEST_HEX + 1];
	struct silo_digest digest;
	return S_ISREG (mode) && strlen (name) == SILO_DIGEST_HEX - 2 &&
	       snprintf (hex, sizeof (hex), "%.2s%.62s", arg, name) == SILO_DIGEST_HEX &&
	       silo_digest_parse (hex, &digest, NULL) == 0;
}

static int
check_names (struct fsck *fsck, const char *folder, belongs_fn *fn, const char *arg,
	     struct silo_error *err)
{
	_cleanup_closedir_ DIR *dir = opendir (folder);
	int r = 0;
	if (!dir)
		return errno == ENOENT || errno == ENOTDIR
			   ? 0
			   : silo_fail_sys (err, errno, "%s", folder);
	for (struct dirent *entry; r == 0 && (entry = readdir (dir));) {
		struct stat st;
		if (strcmp (entry->d_name, ".") != 0 && strcmp (entry->d_name, "..") != 0 &&
		    fstatat (dirfd (dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    !fn (entry->d_name, st.st_mode, arg))
			r = add_stray (fsck, folder, entry->d_name, err);
	}
	return r;
}

static int
check_strays (struct fsck *fsck, struct silo_error *err)
{
	const char *objects = silo_content_folder (fsck->core->wiring.content);
	char path[PATH_MAX];
	int r = silo_state_path (&fsck->core->host, "images", path, sizeof (path), err);
	if (r == 0)
		r = check_names (fsck, path, image_belongs, NULL, err);
	if (r == 0)
		r = silo_state_path (&fsck->core->host, "layers", path, sizeof (path), err);
	if (r == 0)
		r = check_names (fsck, path, layer_belongs, NULL, err);
	/* What else is beside these folders is the content store's own affair. */
	for (unsigned i = 0; r == 0 && objects && i < 256; i++) {
		char name[3];
		snprintf (name, sizeof (name), "%02x", i);
		if (snprintf (path, sizeof (path), "%s/%s", objects, name) < (int) sizeof (path))
			r = check_names (fsck, path, object_belongs, name, err);
	}
	return r;
}

/* -- all of it ----------------------------------------------------------------------------------- */

struct take {
	struct fsck *fsck;
	struct silo_error *err;
	int r;
};

static int
take_image (void *arg, const struct silo_image *image)
{
	struct take *take = arg;
	struct fsck *fsck = take->fsck;
	struct fsck_image *images =
	    reallocarray (fsck->images, fsck->n_images + 1, sizeof (*images));
	if (!images)
		return take->r = silo_fail_nomem (take->err);
	fsck->images = images;
	images[fsck->n_images] = (struct fsck_image){ 0 };
	take->r = image_copy (image, &images[fsck->n_images].record, take->err);
	fsck->n_images += take->r == 0;
	return take->r;
}

int
fsck_check (struct fsck *fsck, struct silo_error *err)
{
	SILO_CLEANUP (image_folder_close) struct image_folder folder = { -1, -1 };
	SILO_CLEANUP (digests_free) struct digests there = { 0 };
	struct take take = { fsck, err, 0 };
	if (!fsck->core->wiring.content)
		return silo_fail (err, SILO_PRECONDITION, "there is no content store");
	int r = image_folder_open (fsck->core, LOCK_SH, &folder, err);
	if (r == 0)
		r = image_each (fsck->core, take_image, &take, err);
	if (r == 0)
		r = take.r;
	if (r == 0)
		r = check_objects (fsck, &there, err);
	if (r == 0)
		r = check_images (fsck, &there, err);
	if (r == 0)
		r = check_layers (fsck, err);
	return r == 0 ? check_strays (fsck, err) : r;
}

int
fsck_check_again (struct fsck *fsck, struct fsck_flaw *flaw, struct silo_error *err)
{
	struct silo_error why = { 0 };
	bool damaged = false;
	int r;
	if (flaw->kind == FSCK_LAYER_DAMAGED) {
		_cleanup_close_ int folder = -1;
		r = layer_folder_open (fsck->core, &folder, err);
		if (r == 0)
			r = layer_check (folder, &flaw->digest, &damaged, err);
		flaw->healed = r == 0 && !damaged;
		return r;
	}
	if (flaw->kind == FSCK_META_DAMAGED || flaw->kind == FSCK_META_MISSING) {
		const struct silo_image image = { .name = "", .meta = flaw->digest };
		struct silo_meta *meta = NULL;
		flaw->healed = meta_check (fsck->core, &image, &meta, &why) == 0;
		silo_meta_close (meta);
		return 0;
	}
	r = object_check (fsck->core->wiring.content, &flaw->digest, &damaged, &why);
	if (r < 0 && r != SILO_NOTFOUND)
		return silo_fail (err, r, "%s", why.msg);
	/* One that nobody needs is better gone. */
	flaw->healed = r == SILO_NOTFOUND ? flaw->n_hurts == 0 : !damaged;
	return 0;
}
