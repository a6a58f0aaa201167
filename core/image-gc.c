/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image-gc.c - mark and sweep.  Live are the metadata files that image records
 * name or that somebody has mounted, the layer records that image records
 * list, and the objects that those refer to; all else goes.  STATE/images/lock
 * is held exclusively, so nobody imports meanwhile.  Called by verbs, and by an
 * import that has failed.
 *
 * A crash leaves garbage and nothing else: what refers to objects is gone from
 * the disk before the first object is.
 */
#include "layers.h"
#include "store.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/stat.h>

struct gc {
	struct core *core;
	const struct image_folder *folder;
	bool dry_run;
	struct digests metas;   /* live metadata files: those that records name */
	struct digests pinned;  /* and those in use */
	struct digests layers;  /* live layer records */
	struct digests objects; /* live objects */
	struct digests dead;    /* objects to be removed */
	struct gc_report report;
	struct silo_error *err;
	int r; /* of a callback */
};

static void
gc_clear (struct gc *gc)
{
	digests_free (&gc->metas);
	digests_free (&gc->pinned);
	digests_free (&gc->layers);
	digests_free (&gc->objects);
	digests_free (&gc->dead);
}

bool
image_file_parse (const char *name, struct silo_digest *ret)
{
	char hex[SILO_DIGEST_HEX + 1] = { 0 };
	if (strlen (name) < SILO_DIGEST_HEX || strcmp (name + SILO_DIGEST_HEX, ".erofs") != 0)
		return false;
	memcpy (hex, name, SILO_DIGEST_HEX);
	return silo_digest_parse (hex, ret, NULL) == 0;
}

/* -- the roots ------------------------------------------------------------------------ */

int
image_layers (const struct silo_image *image, struct digests *to, struct silo_error *err)
{
	struct silo_digest layer;
	int r = 0;
	for (const char *at = image->layers ? image->layers : ""; r == 0 && *at;) {
		size_t len = strcspn (at, " ");
		char hex[SILO_DIGEST_HEX + 1] = { 0 };
		memcpy (hex, at, len < SILO_DIGEST_HEX ? len : SILO_DIGEST_HEX);
		if (len == SILO_DIGEST_HEX && silo_digest_parse (hex, &layer, NULL) == 0)
			r = digests_add (to, &layer, err);
		at += len + (at[len] == ' ');
	}
	return r;
}

static int
mark_image (void *arg, const struct silo_image *image)
{
	struct gc *gc = arg;
	gc->r = digests_add (&gc->metas, &image->meta, gc->err);
	if (gc->r == 0)
		gc->r = image_layers (image, &gc->layers, gc->err);
	return gc->r;
}

/* What image records name. */
static int
gc_mark_images (struct gc *gc, struct silo_error *err)
{
	gc->err = err;
	gc->r = 0;
	int r = image_each (gc->core, mark_image, gc, err);
	digests_sort (&gc->metas);
	digests_sort (&gc->layers);
	return r < 0 ? r : gc->r;
}

/* A name in a folder, fn's to remove; `st` is of it. */
typedef int gc_entry_fn (struct gc *gc, int dir, const char *name, const struct stat *st,
			 struct silo_error *err);

static int
gc_each (struct gc *gc, int at, const char *path, gc_entry_fn *fn, struct silo_error *err)
{
	int fd = openat (at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return errno == ENOENT ? 0 : silo_fail_sys (err, errno, "%s", path);
	_cleanup_closedir_ DIR *dir = fdopendir (fd);
	if (!dir) {
		int sys = errno;
		close (fd);
		return silo_fail_sys (err, sys, "%s", path);
	}
	int r = 0;
	while (r == 0) {
		struct stat st;
		errno = 0;
		const struct dirent *entry = readdir (dir);
		if (!entry)
			return errno ? silo_fail_sys (err, errno, "%s", path) : 0;
		if (strcmp (entry->d_name, ".") != 0 && strcmp (entry->d_name, "..") != 0 &&
		    fstatat (fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			r = fn (gc, fd, entry->d_name, &st, err);
	}
	return r;
}

/* -- what refers to objects ------------------------------------------------------------- */

static int
gc_unlink (struct gc *gc, int dir, const char *name, const char *fault, struct silo_error *err)
{
	if (gc->dry_run)
		return 0;
	int r = fault_at (fault, err);
	if (r == 0 && unlinkat (dir, name, 0) < 0 && errno != ENOENT)
		r = silo_fail_sys (err, errno, "removing %s", name);
	return r;
}

static int
sweep_meta (struct gc *gc, int dir, const char *name, const struct stat *st,
	    const struct silo_digest *digest, struct silo_error *err)
{
	_cleanup_close_ int lock = -1;
	int r = image_unpinned (gc->core, gc->folder, name, &lock, err);
	if (r < 0)
		return r;
	if (lock < 0) {
		gc->report.in_use++;
		return digests_add (&gc->pinned, digest, err);
	}
	/* Locked as it is, nobody can begin to use it before it is gone. */
	r = gc_unlink (gc, dir, name, "gc-meta", err);
	if (r < 0)
		return r;
	gc->report.metas++;
	gc->report.meta_bytes += st->st_size;
	return 0;
}

/* STATE/images */
static int
sweep_image_file (struct gc *gc, int dir, const char *name, const struct stat *st,
		  struct silo_error *err)
{
	struct silo_digest digest;
	if (!S_ISREG (st->st_mode))
		return 0;
	if (image_file_parse (name, &digest))
		return digests_have (&gc->metas, &digest)
			   ? 0
			   : sweep_meta (gc, dir, name, st, &digest, err);
	if (strncmp (name, "new-", 4) != 0)
		return 0;
	int r = gc_unlink (gc, dir, name, "gc-new", err);
	if (r < 0)
		return r;
	gc->report.temps++;
	gc->report.temp_bytes += st->st_size;
	return 0;
}

/* STATE/layers: records, and locks and unfinished ones of imports that have ended. */
static int
sweep_layer_file (struct gc *gc, int dir, const char *name, const struct stat *st,
		  struct silo_error *err)
{
	struct silo_digest digest;
	bool record = silo_digest_parse (name, &digest, NULL) == 0;
	if ((!S_ISREG (st->st_mode) && !S_ISFIFO (st->st_mode)) ||
	    (record && digests_have (&gc->layers, &digest)))
		return 0;
	int r = gc_unlink (gc, dir, name, "gc-layer", err);
	if (r < 0 || st->st_size == 0) /* a lock, nothing to speak of */
		return r;
	*(record ? &gc->report.layers : &gc->report.temps) += 1;
	*(record ? &gc->report.layer_bytes : &gc->report.temp_bytes) += st->st_size;
	return 0;
}

/* Nothing that refers to an object may come back after a power cut when the object is gone:
 * neither a record that was dropped nor the files removed just now. */
static int
gc_settle (struct gc *gc, const char *fault, struct silo_error *err)
{
	if (gc->dry_run)
		return 0;
	int r = fault_at (fault, err);
	if (r == 0 && syncfs (gc->folder->fd) < 0)
		r = silo_fail_sys (err, errno, "sync of the state folder");
	return r;
}

static int
sweep_files (struct gc *gc, struct silo_error *err)
{
	char layers[PATH_MAX];
	int r = silo_state_path (&gc->core->host, "layers", layers, sizeof (layers), err);
	if (r == 0)
		r = gc_settle (gc, "gc-begin", err);
	if (r == 0)
		r = gc_each (gc, gc->folder->fd, ".", sweep_image_file, err);
	if (r == 0)
		r = gc_each (gc, AT_FDCWD, layers, sweep_layer_file, err);
	if (r == 0)
		r = gc_settle (gc, "gc-settle", err);
	digests_sort (&gc->pinned);
	return r;
}

/* -- objects ------------------------------------------------------------------------------ */

static int
mark_object (void *arg, const struct silo_meta_inode *inode)
{
	struct gc *gc = arg;
	if (inode->has_object)
		gc->r = digests_add (&gc->objects, &inode->object, gc->err);
	return gc->r;
}

static int
mark_meta (struct gc *gc, const struct silo_digest *digest, struct silo_error *err)
{
	const struct silo_image image = { .meta = *digest };
	struct silo_meta *meta = NULL;
	char path[PATH_MAX];
	gc->err = err;
	gc->r = 0;
	int r = image_meta_path (gc->core, &image, path, sizeof (path), err);
	if (r == 0)
		r = silo_meta_open (path, &meta, err);
	if (r == 0)
		r = silo_meta_each (meta, mark_object, gc, err);
	silo_meta_close (meta);
	if (r < 0)
		return silo_wrap (err, "no object is removed; `silo fsck` heals what can be");
	return gc->r;
}

static int
mark_all (struct gc *gc, const struct digests *metas, struct silo_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < metas->n; i++)
		r = mark_meta (gc, &metas->item[i], err);
	return r;
}

static int
gc_mark_metas (struct gc *gc, struct silo_error *err)
{
	return mark_all (gc, &gc->metas, err);
}

static int
gc_mark_pinned (struct gc *gc, struct silo_error *err)
{
	return mark_all (gc, &gc->pinned, err);
}

static int
mark_layer (struct gc *gc, const struct tree_layer *layer, struct silo_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < layer->n; i++) {
		const struct tree_inode *inode = layer->entries[i].inode;
		if (inode && S_ISREG (inode->mode) && inode->size > 0)
			r = digests_add (&gc->objects, &inode->object, err);
	}
	return r;
}

/* A record that cannot be read is of no use: what it may have needed goes, and who next wants
 * the layer fetches it again. */
static int
gc_mark_layers (struct gc *gc, struct silo_error *err)
{
	char path[PATH_MAX];
	int r = silo_state_path (&gc->core->host, "layers", path, sizeof (path), err);
	if (r < 0)
		return r;
	_cleanup_close_ int folder = open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder < 0)
		return errno == ENOENT ? 0 : silo_fail_sys (err, errno, "%s", path);
	for (size_t i = 0; r == 0 && i < gc->layers.n; i++) {
		struct silo_error why = { 0 };
		struct tree_layer *layer = NULL;
		r = layer_load (folder, NULL, &gc->layers.item[i], &layer, &why);
		if (r == SILO_NOTFOUND || r == SILO_DATALOSS)
			r = 0;
		else if (r < 0)
			r = silo_fail (err, r, "%s", why.msg);
		else
			r = mark_layer (gc, layer, err);
		tree_layer_free (layer);
	}
	return r;
}

/* Everything that may need an object has a line here. */
static int (*const gc_marks[]) (struct gc *gc, struct silo_error *err) = {
	gc_mark_metas,
	gc_mark_pinned,
	gc_mark_layers,
};

static int
find_dead (void *arg, const struct silo_digest *digest, int64_t size)
{
	struct gc *gc = arg;
	if (digests_have (&gc->objects, digest))
		return 0;
	gc->r = digests_add (&gc->dead, digest, gc->err);
	gc->report.objects++;
	gc->report.object_bytes += size;
	return gc->r;
}

static int
remove_dead (struct gc *gc, struct silo_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < gc->dead.n; i++) {
		struct silo_error why = { 0 };
		r = fault_at ("gc-object", err);
		if (r < 0)
			return r;
		r = silo_content_remove (gc->core->wiring.content, &gc->dead.item[i], &why);
		if (r < 0 && r != SILO_NOTFOUND)
			return silo_fail (err, r, "%s", why.msg);
		r = 0;
	}
	return r;
}

static int
sweep_objects (struct gc *gc, struct silo_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE (gc_marks); i++)
		r = gc_marks[i](gc, err);
	if (r < 0)
		return r;
	digests_sort (&gc->objects);
	gc->err = err;
	gc->r = 0;
	r = silo_content_each (gc->core->wiring.content, find_dead, gc, err);
	if (r == 0)
		r = gc->r;
	return r < 0 || gc->dry_run ? r : remove_dead (gc, err);
}

/* -- leftovers ------------------------------------------------------------------------------ */

/* STATE/tmp: each import has locked its own. */
static int
sweep_temp (struct gc *gc, int dir, const char *name, const struct stat *st, struct silo_error *err)
{
	char tmp[PATH_MAX], path[PATH_MAX];
	_cleanup_close_ int lock =
	    openat (dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if ((!S_ISDIR (st->st_mode) && !S_ISREG (st->st_mode)) || lock < 0 ||
	    flock (lock, LOCK_EX | LOCK_NB) < 0)
		return 0;
	int r = silo_state_path (&gc->core->host, "tmp", tmp, sizeof (tmp), err);
	if (r < 0 || snprintf (path, sizeof (path), "%s/%s", tmp, name) >= (int) sizeof (path))
		return r;
	if (!gc->dry_run)
		r = fault_at ("gc-temp", err);
	if (r == 0 && !gc->dry_run)
		r = files_remove (path, err);
	if (r < 0)
		return r;
	gc->report.temps++;
	gc->report.temp_bytes += S_ISREG (st->st_mode) ? st->st_size : 0;
	return 0;
}

/* -- all of it ------------------------------------------------------------------------------- */

static int
gc_run (struct gc *gc, struct silo_error *err)
{
	char tmp[PATH_MAX];
	int r = silo_state_path (&gc->core->host, "tmp", tmp, sizeof (tmp), err);
	if (r == 0)
		r = gc_mark_images (gc, err);
	if (r == 0)
		r = sweep_files (gc, err);
	if (r == 0)
		r = sweep_objects (gc, err);
	if (r == 0)
		r = gc_each (gc, AT_FDCWD, tmp, sweep_temp, err);
	return r;
}

int
image_collect (struct core *core, const struct image_folder *locked, bool dry_run,
	       struct gc_report *ret, struct silo_error *err)
{
	SILO_CLEANUP (image_folder_close) struct image_folder own = { -1, -1 };
	SILO_CLEANUP (gc_clear)
	struct gc gc = { .core = core, .folder = locked, .dry_run = dry_run };
	if (!core->wiring.storage || !core->wiring.content)
		return silo_fail (err, SILO_PRECONDITION, "there is no storage or no content");
	if (!locked) {
		int r = image_folder_open (core, LOCK_EX, &own, err);
		if (r < 0)
			return r;
		gc.folder = &own;
	}
	int r = gc_run (&gc, err);
	if (r < 0)
		return r;
	if (!dry_run)
		unlinkat (gc.folder->fd, "unclean", 0); /* of an import that had failed */
	if (ret)
		*ret = gc.report;
	return r;
}
