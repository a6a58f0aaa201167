/* SPDX-License-Identifier: Apache-2.0 */
/*
 * import.c - tests of core/import.c and intake.c: bytes of files are hashed
 * once and stored whatever their size, from many threads; errors of the
 * threads that store, cancelling, limits, progress.
 */
#include "import.h"
#include "tap.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <sys/stat.h>

struct place {
	char dir[64];
	struct core *core;
	struct silo_instance *content;
};

static void
place_open (struct place *place)
{
	struct silo_error err = { 0 };
	const char *tmp = getenv ("TMPDIR");
	snprintf (place->dir, sizeof (place->dir), "%.40s/silo-import-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp (place->dir) || core_bare (place->dir, &place->core, &err) < 0 ||
	    wiring_add (place->core, SILO_KIND_CONTENT, "dir", NULL, &place->content, &err) < 0 ||
	    wiring_start (place->core, &err) < 0)
		tap_bail ("%s: %s", place->dir, err.msg);
}

static void
place_close (struct place *place)
{
	struct silo_error err = { 0 };
	core_close (place->core);
	if (files_remove (place->dir, &err) < 0)
		tap_bail ("%s", err.msg);
}

static struct silo_import *
begin (struct place *place, const struct import_progress *progress)
{
	struct silo_import *import = NULL;
	struct silo_error err = { 0 };
	if (import_new (place->core, progress, &import, &err) < 0)
		tap_bail ("%s", err.msg);
	return import;
}

static struct silo_layer *
layer (struct silo_import *import, const char *name)
{
	struct silo_layer *ret = NULL;
	struct silo_error err = { 0 };
	if (silo_import_layer (import, name, &ret, &err) < 0)
		tap_bail ("%s", err.msg);
	return ret;
}

/* Bytes that follow from a number. */
static unsigned char *
bytes_of (uint64_t seed, size_t len)
{
	unsigned char *data = malloc (len + 1);
	uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
	if (!data)
		tap_bail ("no memory");
	for (size_t i = 0; i < len; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		data[i] = (unsigned char) state;
	}
	return data;
}

/* One file, its bytes in pieces of `piece`. */
static int
give (struct silo_layer *layer, const char *path, const void *data, size_t len, size_t piece,
      struct silo_error *err)
{
	const struct silo_entry entry = {
		.type = SILO_ENTRY_FILE, .path = path, .mode = 0644, .size = (int64_t) len
	};
	int r = silo_layer_entry (layer, &entry, err);
	for (size_t done = 0; r == 0 && done < len; done += piece)
		r = silo_layer_data (layer, (const char *) data + done,
				     len - done < piece ? len - done : piece, err);
	return r;
}

static struct silo_meta *
finish (struct place *place, struct silo_import *import)
{
	char path[96];
	struct meta_info info;
	struct silo_meta *meta = NULL;
	struct silo_error err = { 0 };
	snprintf (path, sizeof (path), "%s/meta", place->dir);
	int fd = open (path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (import_finish (import, fd, &info, &err) < 0 || silo_meta_open (path, &meta, &err) < 0)
		tap_bail ("%s", err.msg);
	close (fd);
	import_free (import);
	return meta;
}

static bool
stored (struct place *place, struct silo_meta *meta, const char *path, const void *data, size_t len)
{
	struct silo_meta_inode inode;
	struct silo_digest want;
	struct silo_error err;
	uint64_t ino = 0;
	size_t n = 0;
	char *got = malloc (len + 10);
	silo_digest_of (data, len, &want, NULL);
	bool good = got && silo_meta_resolve (meta, path, &ino, &err) == 0 &&
		    silo_meta_stat (meta, ino, &inode, &err) == 0 && inode.size == len &&
		    inode.has_object == (len > 0);
	if (good && len > 0)
		good = silo_digest_equal (&inode.object, &want) &&
		       silo_content_read (place->content, &want, 0, got, len + 10, &n, &err) == 0 &&
		       n == len && memcmp (got, data, len) == 0;
	free (got);
	return good;
}

/* -- what people see --------------------------------------------------------------------- */

struct seen {
	atomic_int inside;
	int calls, together; /* how often two threads were inside */
	int64_t hashed, stored, fetched;
	int states[4]; /* of the first layer, how often */
	char stage[64];
};

static void
see (void *arg, const struct import_status *status)
{
	struct seen *seen = arg;
	seen->together += atomic_fetch_add (&seen->inside, 1) != 0;
	seen->calls++;
	seen->hashed = seen->stored = seen->fetched = 0;
	for (size_t i = 0; i < status->n; i++) {
		seen->hashed += status->layers[i].hashed;
		seen->stored += status->layers[i].stored;
		seen->fetched += status->layers[i].fetched;
	}
	if (status->n > 0)
		seen->states[status->layers[0].state]++;
	snprintf (seen->stage, sizeof (seen->stage), "%s", status->stage);
	atomic_fetch_sub (&seen->inside, 1);
}

/* -- files of all sizes -------------------------------------------------------------------- */

static void
test_sizes (struct place *place)
{
	/* The borders between what shares a block, what is held, and what is streamed. */
	static const size_t sizes[] = { 0,       1,       2,           4096,        262143,
					262144,  262145,  (1 << 20),   4194303,     4194304,
					4194305, 9000000, 262144 * 15, 262144 * 16, 3 };
	const size_t pieces[] = { 7919, 65536, 1 << 24 };
	int64_t total = 0;
	for (size_t i = 0; i < ARRAY_SIZE (sizes); i++)
		total += (int64_t) sizes[i];
	for (size_t round = 0; round < ARRAY_SIZE (pieces); round++) {
		struct seen seen = { 0 };
		const struct import_progress progress = { see, &seen, NULL, -1 };
		struct silo_error err = { 0 };
		struct silo_import *import = begin (place, &progress);
		struct silo_layer *l = layer (import, "L");
		int bad = 0;
		char path[32];
		for (size_t i = 0; i < ARRAY_SIZE (sizes); i++) {
			unsigned char *data = bytes_of (i, sizes[i]);
			snprintf (path, sizeof (path), "f%zu", i);
			bad += give (l, path, data, sizes[i], pieces[round], &err) < 0;
			free (data);
		}
		bad += silo_layer_end (l, &err) < 0;
		tap_is_int (bad, 0, "files of all sizes, in pieces of %zu", pieces[round]);
		tap_is_int (seen.hashed, total, "each byte is hashed once");
		tap_is_int (seen.stored, round ? 0 : total,
			    round ? "nothing of it is new" : "all of it is new");
		struct silo_meta *meta = finish (place, import);
		for (size_t i = 0; i < ARRAY_SIZE (sizes); i++) {
			unsigned char *data = bytes_of (i, sizes[i]);
			snprintf (path, sizeof (path), "/f%zu", i);
			bad += !stored (place, meta, path, data, sizes[i]);
			free (data);
		}
		tap_is_int (bad, 0, "each has its bytes");
		silo_meta_close (meta);
	}
}

/* -- several layers ------------------------------------------------------------------------- */

enum { LAYERS = 6, FILES = 400 };

struct filler {
	pthread_t thread;
	struct silo_layer *layer;
	unsigned number;
	int r;
	struct silo_error err;
};

/* Every third file is the same in all layers, every fiftieth is a large one. */
static unsigned char *
file_of (unsigned number, unsigned i, size_t *ret_len)
{
	*ret_len = i % 50 == 49 ? 700000 + i : 1 + i * 37;
	return bytes_of (i % 3 ? 1000 * (number + 1) + i : i, *ret_len);
}

static void *
fill (void *arg)
{
	struct filler *filler = arg;
	bool known = true;
	filler->r = silo_layer_begin (filler->layer, -1, &known, &filler->err);
	for (unsigned i = 0; filler->r == 0 && !known && i < FILES; i++) {
		char path[32];
		size_t len;
		unsigned char *data = file_of (filler->number, i, &len);
		snprintf (path, sizeof (path), "l%u-%u", filler->number, i);
		filler->r = give (filler->layer, path, data, len, 30000, &filler->err);
		silo_layer_fetched (filler->layer, (int64_t) len);
		free (data);
	}
	if (filler->r == 0)
		filler->r = silo_layer_end (filler->layer, &filler->err);
	return NULL;
}

static void
test_threads (struct place *place)
{
	struct seen seen = { 0 };
	const struct import_progress progress = { see, &seen, NULL, -1 };
	struct silo_import *import = begin (place, &progress);
	struct filler fillers[LAYERS];
	int bad = 0;
	for (unsigned i = 0; i < LAYERS; i++) {
		fillers[i] = (struct filler){ .layer = layer (import, "L"), .number = i };
		if (pthread_create (&fillers[i].thread, NULL, fill, &fillers[i]) != 0)
			tap_bail ("thread");
	}
	for (unsigned i = 0; i < LAYERS; i++) {
		pthread_join (fillers[i].thread, NULL);
		if (fillers[i].r < 0)
			tap_note ("%s", fillers[i].err.msg);
		bad += fillers[i].r < 0;
	}
	tap_is_int (bad, 0, "%d layers at once", LAYERS);
	tap_is_int (seen.together, 0, "progress is told by one thread at a time");
	tap_is_int (seen.fetched, seen.hashed, "its numbers are complete at the end");
	tap_ok (seen.states[LAYER_WAITS] > 0 && seen.states[LAYER_RUNS] > 0 &&
		    seen.states[LAYER_DONE] > 0 && seen.states[LAYER_KNOWN] == 0,
		"a layer waits, runs, is done");
	struct silo_meta *meta = finish (place, import);
	for (unsigned n = 0; n < LAYERS; n++)
		for (unsigned i = 0; i < FILES; i++) {
			char path[32];
			size_t len;
			unsigned char *data = file_of (n, i, &len);
			snprintf (path, sizeof (path), "/l%u-%u", n, i);
			bad += !stored (place, meta, path, data, len);
			free (data);
		}
	tap_is_int (bad, 0, "%d files have their bytes", LAYERS * FILES);
	silo_meta_close (meta);
	tap_is_str (seen.stage, "writing to disk", "the last stage");
}

static void
test_news (struct place *place)
{
	struct seen seen = { 0 };
	const struct import_progress progress = { see, &seen, NULL, -1 };
	struct silo_import *import = begin (place, &progress);
	struct silo_layer *l = layer (import, "L");
	int before = seen.calls;
	/* Each one: nobody knows which is the last before a registry hangs. */
	for (int i = 0; i < 1000; i++)
		silo_layer_fetched (l, 1);
	tap_is_int (seen.calls - before, 1000, "a thousand pieces of news are told");
	tap_is_int (seen.fetched, 1000, "the last one, too");
	import_free (import);
}

/* -- errors ------------------------------------------------------------------------------------ */

static bool
says (int r, const struct silo_error *err, int code, const char *text, const char *what)
{
	bool good = r == code && err->code == code && strstr (err->msg, text);
	if (!tap_ok (good, "%s", what))
		tap_note ("%s: %s", silo_code_name (r), err->msg);
	return good;
}

/* The folder in objects/staging; NULL if there is none. */
static bool
staging_of (struct place *place, char *ret, size_t size)
{
	char path[128];
	bool found = false;
	snprintf (path, sizeof (path), "%s/objects/staging", place->dir);
	DIR *dir = opendir (path);
	for (const struct dirent *e; dir && (e = readdir (dir));)
		if (e->d_name[0] != '.') {
			snprintf (ret, size, "%s/%s", path, e->d_name);
			found = true;
		}
	if (dir)
		closedir (dir);
	return found;
}

static void
test_store_fails (void)
{
	struct place place;
	char folder[512];
	place_open (&place);
	struct silo_error err = { 0 };
	struct silo_import *import = begin (&place, NULL);
	struct silo_layer *a = layer (import, "A"), *b = layer (import, "B");
	int r = give (a, "first", "1", 1, 1, &err);
	if (r == 0)
		r = silo_layer_end (a, &err);
	if (r < 0 || !staging_of (&place, folder, sizeof (folder)) || rmdir (folder) < 0)
		tap_bail ("%s %s", err.msg, strerror (errno));
	tap_is_int (give (b, "some/file", "2", 1, 1, &err), 0, "a small file is taken unseen");
	says (silo_layer_end (b, &err), &err, SILO_NOTFOUND, "layer B: some/file: ",
	      "the end of its layer says that it could not be stored, and where it stands");
	struct silo_layer *c = layer (import, "C");
	unsigned char *data = bytes_of (1, 1 << 20);
	r = 0;
	for (int i = 0; r == 0 && i < 1000; i++)
		r = give (c, "other", data, 1 << 20, 1 << 16, &err);
	free (data);
	says (r, &err, SILO_NOTFOUND,
	      "layer B: some/file: ", "another layer is told before all of it has come");
	import_free (import);
	place_close (&place);
}

static void
test_cancel (void)
{
	struct place place;
	char folder[512], *data = calloc (1, 1 << 20);
	volatile int cancelled = 0;
	const struct import_progress progress = { NULL, NULL, &cancelled, -1 };
	place_open (&place);
	struct silo_error err = { 0 };
	struct silo_import *import = begin (&place, &progress);
	struct silo_layer *l = layer (import, "L");
	int r = 0;
	if (!data)
		tap_bail ("no memory");
	for (int i = 0; r == 0 && i < 1000; i++) {
		char path[32];
		snprintf (path, sizeof (path), "f%d", i);
		memcpy (data, &i, sizeof (i));
		r = give (l, path, data, 1 << 20, 1 << 20, &err);
		if (i == 20)
			__atomic_store_n (&cancelled, 1, __ATOMIC_RELAXED);
	}
	free (data);
	says (r, &err, SILO_CANCELLED, "stopped", "files are not taken any more");
	bool known;
	says (silo_layer_begin (layer (import, "M"), -1, &known, &err), &err, SILO_CANCELLED,
	      "stopped", "nor is a layer begun");
	import_free (import);
	core_close (place.core);
	tap_ok (!staging_of (&place, folder, sizeof (folder)), "no stage is left");
	files_remove (place.dir, &err);
}

static int
add (struct silo_layer *layer, enum silo_entry_type type, const char *path, int64_t size,
     struct silo_error *err)
{
	const struct silo_entry entry = { .type = type, .path = path, .mode = 0755, .size = size };
	return silo_layer_entry (layer, &entry, err);
}

static void
test_limits (struct place *place)
{
	struct settings *settings = place->core->settings;
	const struct settings saved = *settings;
	struct silo_error err = { 0 };
	struct silo_layer *l = NULL;
	settings->max_image_layers = 2;
	settings->max_image_entries = 3;
	settings->max_image_size = 100;
	struct silo_import *import = begin (place, NULL);
	struct silo_layer *a = layer (import, "A"), *b = layer (import, "B");
	says (silo_import_layer (import, "C", &l, &err), &err, SILO_EXHAUSTED,
	      "layer C: the image has more than 2 layers: [silo] max_image_layers",
	      "one layer too many");
	tap_is_int (give (a, "x", "12345", 5, 5, &err), 0, "a file");
	says (add (b, SILO_ENTRY_FILE, "y", 96, &err), &err, SILO_EXHAUSTED,
	      "layer B: y: the image has more than 100 bytes: [silo] max_image_size",
	      "one byte too many, seen in the header");
	import_free (import);
	import = begin (place, NULL);
	a = layer (import, "A");
	b = layer (import, "B");
	for (int i = 0; i < 3; i++)
		tap_is_int (add (i ? a : b, SILO_ENTRY_DIR, "d", 0, &err), 0, "an entry");
	says (add (b, SILO_ENTRY_DIR, "d/e", 0, &err), &err, SILO_EXHAUSTED,
	      "layer B: d/e: the image has more than 3 entries: [silo] max_image_entries",
	      "one entry too many");
	import_free (import);
	settings->max_image_names = 1000;
	import = begin (place, NULL);
	a = layer (import, "A");
	char path[1001];
	memset (path, 'n', sizeof (path) - 1);
	for (size_t i = 200; i < sizeof (path); i += 200)
		path[i - 1] = '/';
	path[sizeof (path) - 1] = '\0';
	says (add (a, SILO_ENTRY_DIR, path, 0, &err), &err, SILO_EXHAUSTED,
	      "[silo] max_image_names", "too many bytes of names");
	import_free (import);
	*settings = saved;
}

int
main (void)
{
	struct place place;
	place_open (&place);
	test_sizes (&place);
	test_threads (&place);
	test_news (&place);
	test_limits (&place);
	place_close (&place);
	test_store_fails ();
	test_cancel ();
	return tap_done ();
}
