/* SPDX-License-Identifier: Apache-2.0 */
/*
 * list.c - prints what the reader of layers makes of a tar, one JSON object per
 * entry and a last one with the result; tests/tar/cases.py compares it.  Takes
 * the place of core/import.c.
 *
 *     list [--chunk N] [--quiet] [--stop-after N] FILE
 */
#include "core.h"
#include "tar.h"

#include <fcntl.h>

struct silo_layer {
	struct silo_hash *hash; /* of the current file */
	json_t *entry;
	int64_t left, entries, bytes;
	int64_t stop_after; /* entries until somebody gives up; -1: never */
	bool quiet;
};

/* -- the import, as the reader sees it --------------------------------------------------- */

struct silo_import {
	const struct silo_layer *layer;
};

bool
silo_import_cancelled (struct silo_import *import)
{
	return import->layer->stop_after >= 0 &&
	       import->layer->entries >= import->layer->stop_after;
}

static void
entry_done (struct silo_layer *layer)
{
	struct silo_digest digest;
	char hex[SILO_DIGEST_HEX + 1];
	if (!layer->entry)
		return;
	if (layer->hash) {
		assert (silo_hash_end (layer->hash, &digest) == 0);
		silo_digest_hex (&digest, hex);
		json_object_set_new (layer->entry, "sha256", json_string (hex));
		silo_hash_free (layer->hash);
		layer->hash = NULL;
	}
	assert (json_dumpf (layer->entry, stdout, JSON_COMPACT | JSON_SORT_KEYS) == 0);
	putchar ('\n');
	json_decref (layer->entry);
	layer->entry = NULL;
}

/* Names are bytes: they go out in hex. */
static json_t *
bytes (const void *data, size_t len)
{
	char *hex = malloc (2 * len + 1);
	assert (hex);
	for (size_t i = 0; i < len; i++)
		snprintf (hex + 2 * i, 3, "%02x", ((const unsigned char *) data)[i]);
	json_t *text = json_stringn (hex, 2 * len);
	free (hex);
	return text;
}

static json_t *
entry_json (const struct silo_entry *entry)
{
	json_t *xattrs = json_object ();
	for (size_t i = 0; i < entry->n_xattrs; i++)
		json_object_set_new (
		    xattrs, entry->xattrs[i].name,
		    bytes (entry->xattrs[i].value.data, entry->xattrs[i].value.len));
	json_t *json =
	    json_pack ("{si so si sI sI sI sI sI sI sI so}", "type", (int) entry->type, "path",
		       bytes (entry->path, strlen (entry->path)), "mode", (int) entry->mode, "uid",
		       (json_int_t) entry->uid, "gid", (json_int_t) entry->gid, "mtime",
		       (json_int_t) entry->mtime, "nsec", (json_int_t) entry->mtime_nsec, "major",
		       (json_int_t) entry->rdev_major, "minor", (json_int_t) entry->rdev_minor,
		       "size", (json_int_t) entry->size, "xattrs", xattrs);
	assert (json);
	if (entry->target)
		json_object_set_new (json, "target", bytes (entry->target, strlen (entry->target)));
	return json;
}

int
silo_layer_entry (struct silo_layer *layer, const struct silo_entry *entry, struct silo_error *err)
{
	if (layer->left > 0)
		return silo_fail (err, SILO_INTERNAL, "%s before the last file's bytes",
				  entry->path);
	layer->entries++;
	layer->left = entry->size;
	if (layer->quiet)
		return 0;
	entry_done (layer);
	layer->entry = entry_json (entry);
	if (entry->type == SILO_ENTRY_FILE)
		assert ((layer->hash = silo_hash_new ()));
	return 0;
}

int
silo_layer_data (struct silo_layer *layer, const void *data, size_t len, struct silo_error *err)
{
	if ((int64_t) len > layer->left)
		return silo_fail (err, SILO_INTERNAL, "%zu bytes too many",
				  len - (size_t) layer->left);
	layer->left -= (int64_t) len;
	layer->bytes += (int64_t) len;
	return layer->hash ? silo_hash_add (layer->hash, data, len) : 0;
}

/* -- the blob ------------------------------------------------------------------------------ */

struct file {
	int fd;
	char *data;
	size_t chunk;
	bool ended;
};

static int
file_next (void *arg, const void **ret, size_t *ret_len, struct silo_error *err)
{
	struct file *file = arg;
	assert (!file->ended);
	ssize_t n = read (file->fd, file->data, file->chunk);
	if (n < 0)
		return silo_fail_sys (err, errno, "the source fails");
	file->ended = n == 0;
	*ret = file->data;
	*ret_len = (size_t) n;
	return 0;
}

/* What a reader that is stopped must not wait for. */
static void
file_stop (void *arg)
{
	(void) arg;
}

static int
option (const char *name, char **argv, int64_t *ret)
{
	if (strcmp (argv[0], name) != 0)
		return 0;
	*ret = strtoll (argv[1], NULL, 10);
	return 2;
}

int
main (int argc, char **argv)
{
	struct silo_layer layer = { .stop_after = -1 };
	struct silo_import import = { &layer };
	struct silo_error err = { 0 };
	int64_t chunk = 256 << 10;
	int i = 1;
	for (int n; i < argc - 1; i += n) {
		n = option ("--chunk", argv + i, &chunk) +
		    option ("--stop-after", argv + i, &layer.stop_after);
		if (n == 0 && strcmp (argv[i], "--quiet") == 0)
			n = layer.quiet = true;
		if (n == 0)
			break;
	}
	struct file file = {
		.fd = i == argc - 1 ? open (argv[i], O_RDONLY | O_CLOEXEC) : -1,
		.chunk = (size_t) chunk,
		.data = malloc ((size_t) chunk),
	};
	if (file.fd < 0 || !file.data) {
		fprintf (stderr, "usage: %s [--chunk N] [--quiet] [--stop-after N] FILE\n",
			 argv[0]);
		return 2;
	}
	const struct tar_source source = { .next = file_next, .stop = file_stop, .arg = &file };
	int64_t started = silo_monotonic ();
	int r = tar_read (&source, "L", &import, &layer, &err);
	int64_t ended = silo_monotonic ();
	if (r == 0) {
		assert (file.ended && layer.left == 0);
		entry_done (&layer);
	}
	printf ("{\"result\":%d,\"entries\":%lld,\"bytes\":%lld,\"ms\":%lld,\"error\":", r,
		(long long) layer.entries, (long long) layer.bytes,
		(long long) ((ended - started) / 1000000));
	json_t *message = json_stringn_nocheck (err.msg, strlen (err.msg));
	assert (json_dumpf (message, stdout, JSON_ENCODE_ANY | JSON_ENSURE_ASCII) == 0);
	puts ("}");
	json_decref (message);
	json_decref (layer.entry);
	silo_hash_free (layer.hash);
	free (file.data);
	close (file.fd);
	return r < 0;
}
