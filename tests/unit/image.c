/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.c - tests of core/image.c, import.c and image-python.c: names made from
 * references, what an image plugin may do wrong, and which Python is found.
 */
#include "import.h"
#include "tap.h"

#include <fcntl.h>

/* -- names -------------------------------------------------------------------------- */

static void
test_names (void)
{
	static const struct {
		const char *reference, *name;
	} good[] = {
		{ "python", "python:latest" },
		{ "python:3.11", "python:3.11" },
		{ "library/python:3.11", "python:3.11" },
		{ "docker://python:3.11", "python:3.11" },
		{ "docker.io/library/python", "python:latest" },
		{ "docker://host:5000/a/python:3.11", "a/python:3.11" },
		{ "docker://host:5000/a/python", "a/python:latest" },
		{ "localhost/x", "x:latest" },
		{ "user/x", "user/x:latest" },
		{ "ghcr.io/a/b@sha256:00", "a/b@sha256:00" },
		{ "dir:/x/tree", "tree:latest" },
		{ "dir:/x/tree/", "tree:latest" },
		{ "oci:/x/layout:3.11", "layout:3.11" },
		{ "oci:/x/layout", "layout:latest" },
		{ "oci-archive:/x/image.tar:1", "image:1" },
		{ "docker-archive:/x/image.tar", "image:latest" },
	};
	static const char *const bad[] = { "", "dir:/", "dir:/x/.", "a b", "oci::x" };
	for (size_t i = 0; i < ARRAY_SIZE (good); i++) {
		_cleanup_free_ char *name = NULL;
		struct silo_error err = { 0 };
		if (image_default_name (good[i].reference, &name, &err) < 0)
			tap_note ("%s", err.msg);
		tap_is_str (name, good[i].name, "%s", good[i].reference);
	}
	for (size_t i = 0; i < ARRAY_SIZE (bad); i++) {
		_cleanup_free_ char *name = NULL;
		struct silo_error err = { 0 };
		int r = image_default_name (bad[i], &name, &err);
		tap_ok (r == SILO_INVALID && err.code == r && !name, "\"%s\" gives no name",
			bad[i]);
	}
}

static void
test_copy (void)
{
	const struct silo_image image = { .name = "n", .config = "{}", .inodes = 3 };
	struct image_copy *copy = NULL;
	struct silo_error err;
	tap_is_int (image_copy (&image, &copy, &err), 0, "a record is copied");
	tap_ok (strcmp (copy->image.name, "n") == 0 && strcmp (copy->image.config, "{}") == 0 &&
		    copy->image.inodes == 3 && strcmp (copy->image.source, "") == 0,
		"what was not set is empty text");
	free (copy);
}

/* -- an import ------------------------------------------------------------------------- */

struct place {
	char dir[64];
	struct core *core;
	struct silo_import *import;
	struct silo_layer *layer;
};

static void
import_begin (struct place *place)
{
	struct silo_error err;
	if (import_new (place->core, NULL, &place->import, &err) < 0 ||
	    silo_import_layer (place->import, "L", &place->layer, &err) < 0)
		tap_bail ("%s", err.msg);
}

static int
give (struct place *place, enum silo_entry_type type, const char *path, const char *target,
      int64_t size, struct silo_error *err)
{
	const struct silo_entry entry = {
		.type = type, .path = path, .target = target, .mode = 0755, .size = size
	};
	return silo_layer_entry (place->layer, &entry, err);
}

/* Write the metadata file and open it. */
static int
import_end (struct place *place, struct silo_meta **ret, struct silo_error *err)
{
	char path[96];
	struct meta_info info;
	snprintf (path, sizeof (path), "%s/meta", place->dir);
	int fd = open (path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int r = import_finish (place->import, fd, &info, err);
	close (fd);
	if (r == 0)
		r = silo_meta_open (path, ret, err);
	import_free (place->import);
	place->import = NULL;
	return r;
}

static void
wrong (int r, const struct silo_error *err, int code, const char *says, const char *what)
{
	if (!tap_ok (r == code && err->code == code && strstr (err->msg, says), "%s", what))
		tap_note ("%s: %s", silo_code_name (r), err->msg);
}

static void
test_plugin_mistakes (struct place *place)
{
	struct silo_error err = { 0 };
	struct silo_meta *meta = NULL;
	import_begin (place);
	wrong (silo_layer_data (place->layer, "x", 1, &err), &err, SILO_PRECONDITION, "no file",
	       "bytes before any file");
	tap_is_int (give (place, SILO_ENTRY_FILE, "a", NULL, 3, &err), 0, "a file of 3 bytes");
	tap_is_int (silo_layer_data (place->layer, "12", 2, &err), 0, "two of them");
	wrong (give (place, SILO_ENTRY_FILE, "b", NULL, 0, &err), &err, SILO_INVALID,
	       "a: 2 of 3 bytes", "the next file too early");
	wrong (silo_layer_end (place->layer, &err), &err, SILO_INVALID, "2 of 3",
	       "the end too early");
	wrong (silo_layer_data (place->layer, "34", 2, &err), &err, SILO_INVALID, "more than",
	       "too many bytes");
	wrong (import_end (place, &meta, &err), &err, SILO_INTERNAL, "did not end",
	       "a layer that did not end");

	import_begin (place);
	wrong (silo_import_config (place->import, "{", 1, &err), &err, SILO_INVALID, "JSON",
	       "a config that is no JSON");
	wrong (silo_import_config (place->import, "[]", 2, &err), &err, SILO_INVALID, "object",
	       "a config that is no object");
	tap_is_int (silo_import_config (place->import, "{\"b\": 1, \"a\": 2}", 16, &err), 0,
		    "a config");
	tap_is_str (import_config (place->import), "{\"a\":2,\"b\":1}", "is kept in one form");
	tap_is_int (silo_layer_end (place->layer, &err), 0, "the end");
	wrong (give (place, SILO_ENTRY_FILE, "b", NULL, 0, &err), &err, SILO_PRECONDITION, "ended",
	       "a file after the end");
	tap_is_int (import_end (place, &meta, &err), 0, "an empty layer is an image");
	silo_meta_close (meta);
	for (int64_t size = 1; size <= 2 << 20; size += (2 << 20) - 1) {
		import_begin (place);
		give (place, SILO_ENTRY_FILE, "half", NULL, size + 1, &err);
		for (int64_t i = 0; i < size; i += 65536) {
			static const char zeros[65536];
			int64_t n = size - i < 65536 ? size - i : 65536;
			silo_layer_data (place->layer, zeros, (size_t) n, &err);
		}
		import_free (place->import);
	}
	place->import = NULL;
	tap_ok (true, "an import that is given up in the middle of a file");
}

/* -- Python ------------------------------------------------------------------------------- */

/* "f path" is a program, "l path target" a symlink; separated by commas. */
static void
python (struct place *place, const char *tree, const char *config, const char *path,
	const char *version, const char *what)
{
	struct silo_error err = { 0 };
	struct silo_meta *meta = NULL;
	struct image_python found;
	char *copy = strdup (tree), *rest = copy;
	import_begin (place);
	for (char *one; copy && *tree && (one = strsep (&rest, ","));) {
		char *target = strchr (one + 2, ' ');
		int r;
		if (target) {
			*target++ = '\0';
			r = give (place, SILO_ENTRY_SYMLINK, one + 2, target, 0, &err);
		} else {
			r = give (place, SILO_ENTRY_FILE, one + 2, NULL, 1, &err);
			if (r == 0)
				r = silo_layer_data (place->layer, "x", 1, &err);
		}
		if (r < 0)
			tap_bail ("%s: %s", one, err.msg);
	}
	free (copy);
	int r = silo_layer_end (place->layer, &err);
	if (r == 0)
		r = import_end (place, &meta, &err);
	if (r == 0)
		r = image_python (meta, config, &found, &err);
	silo_meta_close (meta);
	if (r < 0)
		tap_note ("%s", err.msg);
	tap_is_str (r < 0 ? NULL : found.path, path, "%s", what);
	tap_is_str (r < 0 ? NULL : found.version, version, "its version");
}

static void
test_python (struct place *place)
{
	python (place, "", "{}", "", "", "an empty image has none");
	python (place, "f usr/bin/python3.11,l usr/bin/python3 python3.11", "{}",
		"/usr/bin/python3.11", "3.11", "Debian's");
	python (place, "f usr/bin/python3.11,l usr/bin/python3 python3.11,l bin usr/bin",
		"{\"Env\": [\"X=1\", \"PATH=/nowhere:/bin\"]}", "/bin/python3.11", "3.11",
		"through a link that is a folder");
	python (place,
		"f usr/bin/python3.11,l usr/bin/python3 python3.11,f usr/local/bin/python3.12,"
		"l usr/local/bin/python3 python3.12",
		"{\"Env\": [\"PATH=/usr/local/bin:/usr/bin\"]}", "/usr/local/bin/python3.12",
		"3.12", "the first of PATH");
	python (place,
		"f usr/bin/python3.11,l usr/bin/python3 python3.11,l opt/venv/bin/python "
		"/usr/bin/python3,l opt/venv/bin/python3 python",
		"{\"Env\": [\"PATH=/opt/venv/bin:/usr/bin\"]}", "/opt/venv/bin/python3", "3.11",
		"a virtual environment stays one");
	python (place, "f opt/conda/bin/python3.10,l opt/conda/bin/python3 python3.10", "{}",
		"/opt/conda/bin/python3.10", "3.10", "conda's, without PATH");
	python (place, "f usr/bin/python3.9,f usr/bin/python3.10,f usr/bin/python3.10-config", "{}",
		"/usr/bin/python3.10", "3.10", "no python3: the highest");
	python (place, "f usr/bin/python3,f usr/lib/python3.8/os.py", "{}", "/usr/bin/python3",
		"3.8", "a file called python3, named by its library");
	python (place, "l usr/bin/python3 python3.11,l usr/bin/python3.11 python3", "{}", "", "",
		"links in a circle");
	python (place, "l usr/bin/python3 ../../../../usr/bin/python3.11", "{}", "", "",
		"a link to nothing");
	python (place, "f usr/bin/python3.11,l usr/bin/python3 ../../../../usr/bin/python3.11",
		"{}", "/usr/bin/python3.11", "3.11", "a link that climbs above the root");
	python (place, "f usr/bin/python2.7,l usr/bin/python python2.7", "{}", "", "",
		"Python 2 is none");
}

int
main (void)
{
	struct place place = { .import = NULL };
	struct silo_instance *content = NULL;
	struct silo_error err = { 0 };
	const char *tmp = getenv ("TMPDIR");
	snprintf (place.dir, sizeof (place.dir), "%.40s/silo-image-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp (place.dir))
		tap_bail ("%s: %s", place.dir, strerror (errno));
	test_names ();
	test_copy ();
	if (core_bare (place.dir, &place.core, &err) < 0 ||
	    wiring_add (place.core, SILO_KIND_CONTENT, "dir", NULL, &content, &err) < 0 ||
	    wiring_start (place.core, &err) < 0)
		tap_bail ("%s", err.msg);
	test_plugin_mistakes (&place);
	test_python (&place);
	core_close (place.core);
	if (files_remove (place.dir, &err) < 0)
		tap_bail ("%s", err.msg);
	return tap_done ();
}
