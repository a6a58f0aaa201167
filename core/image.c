/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.c - images by name: index and find.  Called by the verbs and on pool
 * threads of the daemon.
 *
 * STATE/images/<digest>.erofs are the metadata files.  STATE/images/lock is
 * held shared while an image is indexed and exclusively while one is removed,
 * so that no object vanishes between "the store has it" and the record that
 * refers to it.  Several processes may index at the same time.
 */
#include "import.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/stat.h>

#define IMAGE_MAX_NAME 255

/* -- finding ------------------------------------------------------------------------ */

int
image_find (struct core *core, const char *name, struct image_copy **ret, struct silo_error *err)
{
	struct silo_error first = { 0 };
	int r = image_get (core, name, ret, &first);
	if (r != SILO_NOTFOUND)
		return r < 0 ? silo_fail (err, first.code, "%s", first.msg) : r;
	/* "python" finds "python:latest", as indexing "python" makes it. */
	_cleanup_free_ char *full = NULL;
	r = image_default_name (name, &full, err);
	if (r == 0 && strcmp (full, name) != 0)
		r = image_get (core, full, ret, err);
	else if (r == 0)
		r = SILO_NOTFOUND;
	if (r == SILO_NOTFOUND || r == SILO_INVALID)
		return silo_fail (err, SILO_NOTFOUND,
				  "image %.80s is not known here: `silo index %.80s` fetches it",
				  name, name);
	return r;
}

int
image_meta_path (struct core *core, const struct silo_image *image, char *ret, size_t size,
		 struct silo_error *err)
{
	char hex[SILO_DIGEST_HEX + 1], rel[SILO_DIGEST_HEX + 32];
	silo_digest_hex (&image->meta, hex);
	snprintf (rel, sizeof (rel), "images/%s.erofs", hex);
	return silo_state_path (&core->host, rel, ret, size, err);
}

/* -- the folder of metadata files --------------------------------------------------- */

void
image_folder_close (struct image_folder *folder)
{
	util_close (&folder->fd);
	util_close (&folder->lock);
}

static int
folder_lock (const struct image_folder *folder, int how)
{
	int r;
	while ((r = flock (folder->lock, how)) < 0 && errno == EINTR)
		;
	return r;
}

/* Files that an import which was killed has left. */
static void
folder_clean (const struct image_folder *folder)
{
	int copy = openat (folder->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_closedir_ DIR *dir = copy >= 0 ? fdopendir (copy) : NULL;
	if (!dir)
		return;
	for (struct dirent *entry; (entry = readdir (dir));)
		if (strncmp (entry->d_name, "new-", 4) == 0)
			unlinkat (folder->fd, entry->d_name, 0);
}

int
image_folder_open (struct core *core, int how, struct image_folder *ret, struct silo_error *err)
{
	char path[PATH_MAX];
	SILO_CLEANUP (image_folder_close) struct image_folder folder = { -1, -1 };
	int r = silo_state_path (&core->host, "images", path, sizeof (path), err);
	if (r == 0)
		r = files_mkdir (path, err);
	if (r < 0)
		return r;
	folder.fd = open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (folder.fd >= 0)
		folder.lock =
		    openat (folder.fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (folder.lock < 0)
		return silo_fail_sys (err, errno, "%s", path);
	/* When nobody else works here, what looks unfinished is.  Who locks it exclusively
	 * collects. */
	if (!(how & LOCK_EX) && folder_lock (&folder, LOCK_EX | LOCK_NB) == 0)
		folder_clean (&folder);
	if (folder_lock (&folder, how) < 0)
		return errno == EWOULDBLOCK
			   ? silo_fail (err, SILO_UNAVAILABLE,
					"an image is being imported or removed just now")
			   : silo_fail_sys (err, errno, "locking %s/lock", path);
	*ret = folder;
	folder = (struct image_folder){ -1, -1 };
	return 0;
}

/* -- names -------------------------------------------------------------------------- */

static int
name_check (const char *name, struct silo_error *err)
{
	size_t len = strlen (name);
	if (len == 0 || len > IMAGE_MAX_NAME)
		return silo_fail (err, SILO_INVALID, "an image's name needs 1 to %d characters",
				  IMAGE_MAX_NAME);
	if (*name == ':')
		return silo_fail (err, SILO_INVALID, "\"%.60s\" is only a tag, not a name", name);
	for (size_t i = 0; i < len; i++)
		if ((unsigned char) name[i] <= ' ' || name[i] == 0x7f)
			return silo_fail (err, SILO_INVALID,
					  "an image's name has no spaces or control characters");
	return 0;
}

/* "dir:/x/tree" names a file or folder; returns what follows the colon. */
static const char *
local_path (const char *reference)
{
	static const char *const local[] = { "dir:", "oci:", "oci-archive:", "docker-archive:" };
	for (size_t i = 0; i < ARRAY_SIZE (local); i++)
		if (strncmp (reference, local[i], strlen (local[i])) == 0)
			return reference + strlen (local[i]);
	return NULL;
}

int
image_reference_here (const char *reference, char **ret, struct silo_error *err)
{
	const char *path = local_path (reference);
	if (!path || *path == '/' || *path == '\0')
		return util_strdup (reference, ret, err);
	_cleanup_free_ char *folder = getcwd (NULL, 0);
	if (!folder)
		return silo_fail_sys (err, errno, "%.100s: the folder that this is relative to",
				      reference);
	while (strncmp (path, "./", 2) == 0)
		path += 2;
	char *full = NULL;
	bool itself = strcmp (path, ".") == 0;
	if (asprintf (&full, "%.*s%s%s%s", (int) strcspn (reference, ":") + 1, reference, folder,
		      itself ? "" : "/", itself ? "" : path) < 0)
		return silo_fail_nomem (err);
	*ret = full;
	return 0;
}

static int
name_of_path (const char *path, struct silo_buf *to, struct silo_error *err)
{
	size_t len = strlen (path);
	while (len > 1 && path[len - 1] == '/')
		len--;
	size_t start = len;
	while (start > 0 && path[start - 1] != '/')
		start--;
	const char *base = path + start;
	const char *colon = memchr (base, ':', len - start);
	size_t stem = colon ? (size_t) (colon - base) : len - start;
	if (stem > 4 && memcmp (base + stem - 4, ".tar", 4) == 0)
		stem -= 4;
	if (stem == 0 || (stem == 1 && (*base == '.' || *base == '/')))
		return silo_fail (err, SILO_INVALID, "%.100s: give the image a name with --name",
				  path);
	size_t tag = colon ? len - start - (size_t) (colon + 1 - base) : 0;
	if (tag == 0)
		return silo_buf_addf (to, err, "%.*s:latest", (int) stem, base);
	return silo_buf_addf (to, err, "%.*s:%.*s", (int) stem, base, (int) tag, colon + 1);
}

/* What follows "docker://", or "containers-storage:" and the store's place in brackets. */
static const char *
skip_scheme (const char *reference)
{
	static const char storage[] = "containers-storage:";
	const char *scheme = strstr (reference, "://");
	if (strncmp (reference, storage, strlen (storage)) != 0)
		return scheme ? scheme + 3 : reference;
	const char *rest = reference + strlen (storage);
	const char *end = *rest == '[' ? strchr (rest, ']') : NULL;
	return end ? end + 1 : rest;
}

/* Does "host:5000/x" or "docker.io/x" start with a registry, as Docker decides it? */
static const char *
skip_registry (const char *reference)
{
	size_t len = strcspn (reference, "/");
	if (reference[len] == '\0')
		return reference;
	bool host = memchr (reference, '.', len) || memchr (reference, ':', len) ||
		    (len == strlen ("localhost") && memcmp (reference, "localhost", len) == 0);
	return host ? reference + len + 1 : reference;
}

int
image_default_name (const char *reference, char **ret, struct silo_error *err)
{
	_cleanup_buf_ struct silo_buf name = SILO_BUF (4096);
	const char *path = local_path (reference);
	int r;
	if (path) {
		r = name_of_path (path, &name, err);
	} else {
		const char *rest = skip_registry (skip_scheme (reference));
		if (strncmp (rest, "library/", 8) == 0)
			rest += 8;
		const char *last = strrchr (rest, '/');
		bool tagged = strpbrk (last ? last : rest, ":@");
		r = silo_buf_addf (&name, err, "%s%s", rest, tagged ? "" : ":latest");
	}
	if (r == 0)
		r = name_check ((const char *) name.data, err);
	return r == 0 ? util_strdup ((const char *) name.data, ret, err) : r;
}

/* -- index ---------------------------------------------------------------------------- */

/* One `silo index`. */
struct index {
	struct core *core;
	const struct silo_image_source *source;
	const struct silo_image *same; /* only this is to be brought back; NULL: anything */
	struct image_folder folder;
	struct silo_instance *instance; /* whose reference it is */
	struct silo_buf id;             /* "" when only an import can tell */
	struct silo_buf layers;         /* digests, as the record has them */
	char *name;
	struct silo_image image; /* strings borrowed */
};

/* A tag that has moved, or is gone, says nothing of the contents that it once had. */
static int
identify_same (struct index *index, struct silo_error *err)
{
	index->id.len = 0;
	return silo_buf_addf (&index->id, err, "%s", index->same->source_id);
}

static int
identify (struct index *index, struct silo_error *err)
{
	const struct instance_list *all = &index->core->wiring.image;
	for (size_t i = 0; i < all->n; i++) {
		struct silo_error said = { 0 };
		index->id.len = 0;
		int r = silo_buf_add (&index->id, "", 0, err);
		if (r == 0)
			r = instance_call (all->item[i], image, identify, index->source, &index->id,
					   &said);
		if (r == SILO_UNIMPLEMENTED)
			continue;
		index->instance = all->item[i];
		if (index->same && *index->same->source_id)
			return identify_same (index, err);
		return r < 0 ? silo_fail (err, r, "%s", said.msg) : 0;
	}
	return silo_fail (err, SILO_INVALID,
			  "%.150s: no image plugin of [silo] image knows this kind of reference",
			  index->source->reference);
}

static const char *
index_id (const struct index *index)
{
	return index->id.len > 0 ? (const char *) index->id.data : "";
}

/* Is its metadata file there, and what the record says? */
static bool
meta_plausible (struct core *core, const struct silo_image *image)
{
	char path[PATH_MAX];
	struct silo_meta *meta = NULL;
	struct silo_meta_inode root;
	if (image_meta_path (core, image, path, sizeof (path), NULL) < 0 ||
	    silo_meta_open (path, &meta, NULL) < 0)
		return false;
	bool good = silo_meta_inodes (meta) == (uint64_t) image->inodes &&
		    silo_meta_stat (meta, silo_meta_root (meta), &root, NULL) == 0;
	silo_meta_close (meta);
	return good;
}

struct same {
	const char *id, *name;
	struct image_copy *copy;
	struct silo_error *err;
	int r;
};

/* The record of this id; the one of this name if there are several. */
static int
same_take (void *arg, const struct silo_image *image)
{
	struct same *same = arg;
	bool named = strcmp (image->name, same->name) == 0;
	if (strcmp (image->source_id ? image->source_id : "", same->id) != 0 ||
	    (same->copy && !named))
		return 0;
	free (silo_steal (&same->copy));
	same->r = image_copy (image, &same->copy, same->err);
	return same->r < 0 || named;
}

/* Is the same image recorded and complete?  If under another name only, it gets this one, too.
 * *ret is NULL when it is not known. */
static int
find_known (struct index *index, struct image_copy **ret, struct silo_error *err)
{
	struct silo_instance *storage = index->core->wiring.storage;
	struct same same = { .id = index_id (index), .name = index->name, .err = err };
	*ret = NULL;
	if (!storage)
		return silo_fail (err, SILO_PRECONDITION, "there is no storage");
	if (index->id.len == 0)
		return 0;
	int r = image_each (index->core, same_take, &same, err);
	_cleanup_free_ struct image_copy *old = same.copy;
	if (r == 0)
		r = same.r;
	if (r < 0 || !old || !meta_plausible (index->core, &old->image))
		return r;
	if (strcmp (old->image.name, index->name) == 0) {
		*ret = silo_steal (&old);
		return 0;
	}
	struct silo_image image = old->image;
	_cleanup_free_ struct image_copy *copy = NULL;
	image.name = index->name;
	image.source = index->source->reference;
	image.created = silo_now ();
	r = image_copy (&image, &copy, err);
	if (r == 0)
		r = instance_call (storage, storage, image_put, &image, err);
	if (r == 0)
		*ret = silo_steal (&copy);
	return r;
}

/* Is the metadata file of this name there and sound? */
static bool
is_published (const struct image_folder *folder, const char *name, const struct silo_digest *digest)
{
	struct silo_digest there;
	_cleanup_close_ int fd = openat (folder->fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return fd >= 0 && files_digest (fd, &there, NULL) == 0 &&
	       silo_digest_equal (&there, digest);
}

/* Give the finished file behind `fd`, called `temp`, its name.  One that is there and sound
 * stays: whoever has it mounted has pinned that very file. */
static int
publish (const struct image_folder *folder, int fd, const char *temp,
	 const struct silo_digest *digest, struct silo_error *err)
{
	char hex[SILO_DIGEST_HEX + 1], name[SILO_DIGEST_HEX + 8];
	silo_digest_hex (digest, hex);
	snprintf (name, sizeof (name), "%s.erofs", hex);
	if (is_published (folder, name, digest)) {
		unlinkat (folder->fd, temp, 0);
		return 0;
	}
	if (fchmod (fd, 0444) < 0 || fsync (fd) < 0 ||
	    renameat (folder->fd, temp, folder->fd, name) < 0 || fsync (folder->fd) < 0)
		return silo_fail_sys (err, errno, "metadata file %s", name);
	return fault_at ("meta-renamed", err);
}

static int
find_python (struct index *index, const char *config, struct image_python *ret,
	     struct silo_error *err)
{
	char path[PATH_MAX];
	struct silo_meta *meta = NULL;
	int r = image_meta_path (index->core, &index->image, path, sizeof (path), err);
	if (r == 0)
		r = silo_meta_open (path, &meta, err);
	if (r == 0)
		r = image_python (meta, config, ret, err);
	silo_meta_close (meta);
	return r;
}

static int
store_record (struct index *index, struct silo_import *import, const struct meta_info *info,
	      struct image_copy **ret, bool *ret_known, struct silo_error *err)
{
	const char *config = import_config (import);
	struct image_python python = { 0 };
	struct silo_image *image = &index->image;
	*image = (struct silo_image){
		.name = index->name,
		.meta = info->digest,
		.source = index->source->reference,
		.source_id = index_id (index),
		.config = config,
		.inodes = info->inodes,
		.size = info->bytes,
		.created = silo_now (),
		.layers = (const char *) index->layers.data,
	};
	int r = find_python (index, config, &python, err);
	if (r < 0)
		return r;
	image->python = python.path;
	image->python_version = python.version;

	_cleanup_free_ struct image_copy *old = NULL;
	bool known = image_get (index->core, index->name, &old, NULL) == 0 &&
		     silo_digest_equal (&old->image.meta, &image->meta) &&
		     strcmp (old->image.config, config) == 0;
	_cleanup_free_ struct image_copy *copy = NULL;
	r = image_copy (image, &copy, err);
	if (r == 0 && silo_import_cancelled (import))
		r = silo_fail (err, SILO_CANCELLED, "stopped");
	if (r == 0)
		r = fault_at ("record", err);
	if (r == 0)
		r = instance_call (index->core->wiring.storage, storage, image_put, image, err);
	if (r < 0)
		return r;
	(void) fault_at ("recorded", NULL); /* too late for an error */
	*ret = silo_steal (&copy);
	*ret_known = known;
	return 0;
}

static int
import_run (struct index *index, struct silo_import *import, struct image_copy **ret,
	    bool *ret_known, struct silo_error *err)
{
	char temp[40];
	struct meta_info info;
	uint64_t random = 0;
	int r = instance_call (index->instance, image, import, index->source, import, err);
	if (r == 0 && silo_import_cancelled (import))
		r = silo_fail (err, SILO_CANCELLED, "stopped");
	if (r == 0)
		r = import_layers (import, &index->layers, err);
	if (r == 0)
		r = silo_random (&random, sizeof (random), err);
	if (r < 0)
		return r;
	snprintf (temp, sizeof (temp), "new-%016llx", (unsigned long long) random);
	_cleanup_close_ int fd =
	    openat (index->folder.fd, temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return silo_fail_sys (err, errno, "temporary metadata file");
	r = import_finish (import, fd, &info, err);
	if (r == 0 && index->same && !silo_digest_equal (&info.digest, &index->same->meta))
		r = silo_fail (err, SILO_PRECONDITION, "%.150s has other contents now",
			       index->source->reference);
	if (r == 0)
		r = fault_at ("meta-written", err);
	if (r == 0)
		r = publish (&index->folder, fd, temp, &info.digest, err);
	if (r < 0) {
		unlinkat (index->folder.fd, temp, 0);
		return r;
	}
	*ret_known = true;
	return index->same ? image_copy (index->same, ret, err)
			   : store_record (index, import, &info, ret, ret_known, err);
}

static void
index_clear (struct index *index)
{
	image_folder_close (&index->folder);
	silo_buf_free (&index->id);
	silo_buf_free (&index->layers);
	free (index->name);
}

static int
index_open (struct index *index, const struct index_request *request, struct silo_error *err)
{
	const char *name = request->name;
	int r = name ? name_check (name, err) : 0;
	if (r == 0)
		r = name ? util_strdup (name, &index->name, err)
			 : image_default_name (index->source->reference, &index->name, err);
	if (r == 0)
		r = image_folder_open (index->core, LOCK_SH, &index->folder, err);
	return r < 0 ? r : identify (index, err);
}

/* STATE/images/unclean: an import has failed while others were at work. */
static bool
unclean_get (const struct index *index)
{
	return faccessat (index->folder.fd, "unclean", F_OK, 0) == 0;
}

static void
unclean_set (const struct index *index)
{
	util_close (&(int){ openat (index->folder.fd, "unclean",
				    O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) });
}

/* An import that failed leaves no trace: what it brought belongs to nobody, and goes as soon as
 * nobody else imports. */
static void
index_settle (struct index *index, bool failed)
{
	struct image_folder alone = { -1, -1 };
	struct silo_error why = { 0 };
	if (!failed && !unclean_get (index))
		return;
	unclean_set (index);
	image_folder_close (&index->folder);
	index->folder = alone;
	int r = image_folder_open (index->core, LOCK_EX | LOCK_NB, &alone, &why);
	if (r == 0) {
		r = image_collect (index->core, &alone, false, NULL, &why);
		if (r == 0)
			unlinkat (alone.fd, "unclean", 0);
		image_folder_close (&alone);
	}
	if (r < 0)
		silo_log (&index->core->host, SILO_DEBUG,
			  "what was imported in vain stays for now: %s", why.msg);
}

static int
index_run (struct core *core, const struct index_request *request, const struct silo_image *same,
	   struct image_copy **ret, bool *ret_known, struct silo_error *err)
{
	struct silo_image_source source = *request->source;
	SILO_CLEANUP (index_clear)
	struct index index = {
		.core = core,
		.source = &source,
		.same = same,
		.folder = { -1, -1 },
		.id = SILO_BUF (4096),
		.layers = SILO_BUF (64 << 10),
	};
	struct silo_import *import = NULL;
	struct image_copy *known = NULL;
	source.cancel_fd = request->progress ? request->progress->cancel_fd : -1;
	int r = index_open (&index, request, err);
	if (r == 0 && !request->again)
		r = find_known (&index, &known, err);
	if (r < 0)
		return r;
	if (known) {
		*ret = known;
		*ret_known = true;
		return 0;
	}
	source.id = index_id (&index);
	r = import_new (core, request->progress, &import, err);
	if (r == 0)
		r = import_run (&index, import, ret, ret_known, err);
	import_free (import);
	index_settle (&index, r < 0);
	/* The request was a good one: what is wrong is what it led to. */
	if (r == SILO_INVALID)
		r = err ? err->code = SILO_DATALOSS : SILO_DATALOSS;
	return r;
}

int
image_index (struct core *core, const struct index_request *request, struct image_copy **ret,
	     bool *ret_known, struct silo_error *err)
{
	return index_run (core, request, NULL, ret, ret_known, err);
}

int
image_refetch (struct core *core, const struct silo_image *image,
	       const struct silo_image_source *source, const struct import_progress *progress,
	       struct silo_error *err)
{
	const struct index_request request = { source, image->name, true, progress };
	_cleanup_free_ struct image_copy *copy = NULL;
	bool known;
	return index_run (core, &request, image, &copy, &known, err);
}
