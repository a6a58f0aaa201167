/* SPDX-License-Identifier: Apache-2.0 */
/*
 * named.c - storage/files' operations on image records and things: one file
 * each, replaced by rename.  Any thread; no lock is needed.
 */
#include <dirent.h>
#include <sys/stat.h>
#include "files.h"

static const char *const thing_parts[] = { "value" };

static const char *
text_of (const char *text)
{
	return text ? text : "";
}

/* -- what both kinds share ---------------------------------------------------------------- */

/* Does this record belong under the name of its file?  Long names are cut there, and an
 * operator may have renamed it. */
static int
check_name (const struct place *place, const struct record *record, const char *suffix,
	    const char **ret_name, struct silo_error *err)
{
	const char *name = json_string_value (json_object_get (record->head, "name"));
	char expected[NAME_SIZE];

	if (!name)
		return place_damaged (place, err, "has a head without a name");
	int r = name_encode (name, suffix, expected, err);
	if (r < 0)
		return r;
	if (strcmp (expected, place->name) != 0)
		return place_damaged (place, err, "holds the record of another name");
	if (ret_name)
		*ret_name = name;
	return 0;
}

struct entry {
	char *name; /* what the record says */
	char *file;
};

struct entries {
	struct entry *entry;
	size_t n, room;
};

static void
entries_free (struct entries *entries)
{
	for (size_t i = 0; i < entries->n; i++) {
		free (entries->entry[i].name);
		free (entries->entry[i].file);
	}
	free (entries->entry);
}

static int
entries_add (struct entries *entries, const char *name, const char *file, struct silo_error *err)
{
	if (entries->n == entries->room) {
		size_t room = entries->room ? 2 * entries->room : 16;
		struct entry *more = reallocarray (entries->entry, room, sizeof (*more));
		if (!more)
			return silo_fail_nomem (err);
		entries->entry = more;
		entries->room = room;
	}
	struct entry entry = { strdup (name), strdup (file) };
	if (!entry.name || !entry.file) {
		free (entry.name);
		free (entry.file);
		return silo_fail_nomem (err);
	}
	entries->entry[entries->n++] = entry;
	return 0;
}

static int
by_name (const void *a, const void *b)
{
	return strcmp (((const struct entry *) a)->name, ((const struct entry *) b)->name);
}

/* A record that cannot be read: 0 when the list goes on without it. */
static int
skip_bad (struct files *f, int r, const struct silo_error *why, struct silo_error *err)
{
	if (r == SILO_DATALOSS)
		silo_log (f->host, SILO_WARN, "%s; left out of a list", why->msg);
	/* NOTFOUND: dropped since its name was read. */
	if (r == SILO_DATALOSS || r == SILO_NOTFOUND)
		return 0;
	if (err)
		*err = *why;
	return r;
}

/* The names of all sound records in place->folder, in order.  Reads heads only. */
static int
list_names (const struct place *where, const char *suffix, struct entries *ret,
	    struct silo_error *err)
{
	int fd = openat (where->folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir (fd);
	struct dirent *entry;
	int r = 0;

	if (!dir) {
		cleanup_close (&fd);
		return silo_fail_sys (err, errno, "%s/%s", where->f->path, where->folder_name);
	}
	while (r >= 0 && (entry = readdir (dir))) {
		_cleanup_record_ struct record record = { 0 };
		struct silo_error why = { 0 };
		struct place place = *where;
		const char *name;
		if (!name_ends (entry->d_name, suffix))
			continue;
		place.name = entry->d_name;
		r = record_read (&place, NULL, 0, &record, &why);
		if (r >= 0)
			r = check_name (&place, &record, suffix, &name, &why);
		r = r < 0 ? skip_bad (where->f, r, &why, err)
			  : entries_add (ret, name, entry->d_name, err);
	}
	closedir (dir);
	if (r >= 0 && ret->n)
		qsort (ret->entry, ret->n, sizeof (ret->entry[0]), by_name);
	return r;
}

/* -- images --------------------------------------------------------------------------------- */

static struct place
image_place (struct files *f, const char *file)
{
	return (struct place){ f, f->images, "images", file, "image" };
}

int
image_put (void *self, const struct silo_image *image, struct silo_error *err)
{
	struct files *f = self;
	char hex[SILO_DIGEST_HEX + 1], temp[NAME_SIZE], name[NAME_SIZE];
	json_error_t json_error;

	int r = name_encode (text_of (image->name), ".image", name, err);
	if (r < 0)
		return r;
	silo_digest_hex (&image->meta, hex);
	json_t *head = json_pack_ex (
	    &json_error, 0, "{ss ss ss ss ss ss ss sI sI sI ss}", "name", text_of (image->name),
	    "meta", hex, "source", text_of (image->source), "source_id", text_of (image->source_id),
	    "config", text_of (image->config), "python", text_of (image->python), "python_version",
	    text_of (image->python_version), "inodes", (json_int_t) image->inodes, "size",
	    (json_int_t) image->size, "created", (json_int_t) image->created, "layers",
	    text_of (image->layers));
	r = record_write (f, "image", head, &json_error, NULL, 0, temp, err);
	if (r < 0)
		return r;
	return store_publish (f, temp, f->images, name, PUBLISH_REPLACE, err);
}

static int
read_image (const struct place *place, struct record *record, struct silo_image *image,
	    struct silo_error *err)
{
	json_int_t inodes, size, created;
	const char *hex;
	int r = record_read (place, NULL, 0, record, err);

	if (r >= 0)
		r = check_name (place, record, ".image", &image->name, err);
	if (r < 0)
		return r;
	/* Records of before there were layers have none. */
	image->layers = "";
	if (json_unpack (record->head, "{ss ss ss ss ss ss sI sI sI s?s}", "meta", &hex, "source",
			 &image->source, "source_id", &image->source_id, "config", &image->config,
			 "python", &image->python, "python_version", &image->python_version,
			 "inodes", &inodes, "size", &size, "created", &created, "layers",
			 &image->layers) < 0 ||
	    silo_digest_parse (hex, &image->meta, NULL) < 0)
		return place_damaged (place, err, "has a head that lacks something");
	image->inodes = inodes;
	image->size = size;
	image->created = created;
	return 0;
}

int
image_get (void *self, const char *name, silo_image_fn *fn, void *arg, struct silo_error *err)
{
	struct files *f = self;
	_cleanup_record_ struct record record = { 0 };
	struct silo_image image = { 0 };
	char file[NAME_SIZE];

	int r = name_encode (name, ".image", file, err);
	if (r < 0)
		return r;
	const struct place place = image_place (f, file);
	r = read_image (&place, &record, &image, err);
	if (r == SILO_NOTFOUND)
		return silo_fail (err, r, "image %s does not exist", name);
	if (r < 0)
		return r;
	fn (arg, &image);
	return 0;
}

int
image_list (void *self, silo_image_fn *fn, void *arg, struct silo_error *err)
{
	struct files *f = self;
	SILO_CLEANUP (entries_free) struct entries entries = { 0 };
	struct place place = image_place (f, NULL);
	int r = list_names (&place, ".image", &entries, err);

	for (size_t i = 0; i < entries.n && r >= 0; i++) {
		_cleanup_record_ struct record record = { 0 };
		struct silo_image image = { 0 };
		struct silo_error why = { 0 };
		place.name = entries.entry[i].file;
		r = read_image (&place, &record, &image, &why);
		if (r < 0)
			r = skip_bad (f, r, &why, err);
		else if (fn (arg, &image))
			return 0;
	}
	return r;
}

int
image_drop (void *self, const char *name, struct silo_error *err)
{
	struct files *f = self;
	char file[NAME_SIZE];

	int r = name_encode (name, ".image", file, err);
	if (r < 0)
		return r;
	if (unlinkat (f->images, file, 0) < 0)
		return errno == ENOENT
			   ? silo_fail (err, SILO_NOTFOUND, "image %s does not exist", name)
			   : silo_fail_sys (err, errno, "%s/images/%s", f->path, file);
	if (f->fsync && fsync (f->images) < 0)
		return silo_fail_sys (err, errno, "%s/images", f->path);
	return 0;
}

/* -- things --------------------------------------------------------------------------------- */

/* The folder of a kind, below things/. */
struct kind {
	int fd;
	char path[sizeof ("things/") + NAME_SIZE]; /* below the store, for messages */
};

static void
kind_close (struct kind *kind)
{
	cleanup_close (&kind->fd);
}

#define _cleanup_kind_ SILO_CLEANUP (kind_close)

/* SILO_NOTFOUND when there is none, unless it is to be made. */
static int
kind_open (struct files *f, const char *name, bool make, struct kind *ret, struct silo_error *err)
{
	char file[NAME_SIZE];
	int r = name_encode (name, "", file, err);

	if (r < 0)
		return r;
	if (make && mkdirat (f->things, file, 0700) < 0 && errno != EEXIST)
		return silo_fail_sys (err, errno, "%s/things/%s", f->path, file);
	if (make && f->fsync && fsync (f->things) < 0)
		return silo_fail_sys (err, errno, "%s/things", f->path);
	int fd = openat (f->things, file, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return silo_fail_sys (err, errno, "%s/things/%s", f->path, file);
	ret->fd = fd;
	snprintf (ret->path, sizeof (ret->path), "things/%s", file);
	return 0;
}

static int
no_thing (const char *kind, const char *name, struct silo_error *err)
{
	return silo_fail (err, SILO_NOTFOUND, "%s %s does not exist", kind, name);
}

int
thing_put (void *self, const struct silo_thing *thing, struct silo_error *err)
{
	struct files *f = self;
	_cleanup_kind_ struct kind kind = { -1, "" };
	const struct part parts[] = { { thing_parts[0], thing->value } };
	char name[NAME_SIZE], temp[NAME_SIZE];
	json_error_t json_error;

	int r = name_encode (text_of (thing->name), ".thing", name, err);
	if (r >= 0)
		r = kind_open (f, text_of (thing->kind), true, &kind, err);
	if (r < 0)
		return r;
	json_t *head =
	    json_pack_ex (&json_error, 0, "{ss ss sI}", "kind", text_of (thing->kind), "name",
			  text_of (thing->name), "created", (json_int_t) thing->created);
	r = record_write (f, "thing", head, &json_error, parts, 1, temp, err);
	if (r < 0)
		return r;
	return store_publish (f, temp, kind.fd, name, PUBLISH_REPLACE, err);
}

static int
read_thing (const struct place *place, struct record *record, struct silo_thing *thing,
	    struct silo_error *err)
{
	json_int_t created;
	int r = record_read (place, thing_parts, 1, record, err);

	if (r >= 0)
		r = check_name (place, record, ".thing", &thing->name, err);
	if (r < 0)
		return r;
	if (json_unpack (record->head, "{ss sI}", "kind", &thing->kind, "created", &created) < 0)
		return place_damaged (place, err, "has a head that lacks something");
	thing->value = record->parts[0];
	thing->created = created;
	return 0;
}

int
thing_get (void *self, const char *kind_name, const char *name, silo_thing_fn *fn, void *arg,
	   struct silo_error *err)
{
	struct files *f = self;
	_cleanup_kind_ struct kind kind = { -1, "" };
	_cleanup_record_ struct record record = { 0 };
	struct silo_thing thing = { 0 };
	char file[NAME_SIZE];

	int r = name_encode (name, ".thing", file, err);
	if (r >= 0)
		r = kind_open (f, kind_name, false, &kind, err);
	if (r >= 0) {
		const struct place place = { f, kind.fd, kind.path, file, "thing" };
		r = read_thing (&place, &record, &thing, err);
	}
	if (r == SILO_NOTFOUND)
		return no_thing (kind_name, name, err);
	if (r < 0)
		return r;
	fn (arg, &thing);
	return 0;
}

int
thing_list (void *self, const char *kind_name, silo_thing_fn *fn, void *arg, struct silo_error *err)
{
	struct files *f = self;
	_cleanup_kind_ struct kind kind = { -1, "" };
	SILO_CLEANUP (entries_free) struct entries entries = { 0 };
	struct silo_error why = { 0 };

	int r = kind_open (f, kind_name, false, &kind, &why);
	if (r < 0)
		return skip_bad (f, r, &why, err); /* no folder: no things */
	struct place place = { f, kind.fd, kind.path, NULL, "thing" };
	r = list_names (&place, ".thing", &entries, err);
	for (size_t i = 0; i < entries.n && r >= 0; i++) {
		_cleanup_record_ struct record record = { 0 };
		struct silo_thing thing = { 0 };
		place.name = entries.entry[i].file;
		r = read_thing (&place, &record, &thing, &why);
		if (r < 0)
			r = skip_bad (f, r, &why, err);
		else if (fn (arg, &thing))
			return 0;
	}
	return r;
}

int
thing_drop (void *self, const char *kind_name, const char *name, struct silo_error *err)
{
	struct files *f = self;
	_cleanup_kind_ struct kind kind = { -1, "" };
	struct silo_error why = { 0 };
	char file[NAME_SIZE];

	int r = name_encode (name, ".thing", file, err);
	if (r < 0)
		return r;
	r = kind_open (f, kind_name, false, &kind, &why);
	if (r < 0) {
		if (r == SILO_NOTFOUND)
			return no_thing (kind_name, name, err);
		if (err)
			*err = why;
		return r;
	}
	if (unlinkat (kind.fd, file, 0) < 0)
		return errno == ENOENT
			   ? no_thing (kind_name, name, err)
			   : silo_fail_sys (err, errno, "%s/%s/%s", f->path, kind.path, file);
	if (f->fsync && fsync (kind.fd) < 0)
		return silo_fail_sys (err, errno, "%s/%s", f->path, kind.path);
	return 0;
}
