/* SPDX-License-Identifier: Apache-2.0 */
/*
 * storage-names.c - the part of the storage suite about image records and
 * things: put, get, list by name, drop, and names of every sort.
 */
#include "storage.h"
#include "tap.h"

/* Every one is a different name, also where they look alike. */
static const char *const odd_names[] = {
	"a",
	"A",
	"",
	".",
	"..",
	"../../etc/passwd",
	"/",
	"a/b",
	"a%2Fb",
	"a%2fb",
	"%",
	"%25",
	"-",
	"-rf",
	"python:3.11",
	"with space",
	" leading",
	"trailing ",
	"tab\tnewline\n",
	"'single' \"double\" `back`",
	"semi; DROP TABLE images; --",
	"back\\slash",
	"a?b*c[d]",
	"\x01\x1f\x7f",
	"\xc3\xa4",                     /* a with diaeresis, one character */
	"a\xcc\x88",                    /* the same from two */
	"\xe2\x82\xac\xf0\x9f\x90\x8d", /* euro, snake */
	"a.image",
	"a.thing",
	"a~b",
	".hidden",
};

#define N_ODD ARRAY_SIZE (odd_names)

/* 300 bytes that differ from others of them only at the end, or only in the middle. */
static void
long_name (char ret[301], char middle, char last)
{
	memset (ret, 'x', 300);
	ret[1] = '/';
	ret[150] = middle;
	ret[299] = last;
	ret[300] = '\0';
}

/* -- images ------------------------------------------------------------------------------- */

static struct silo_image
sample_image (const char *name)
{
	return (struct silo_image){
		.name = name,
		.meta = { { 9, 8, 7 } },
		.source = "docker://localhost:5000/python:3.11",
		.source_id = "sha256:0123",
		.config = "{\"Env\":[\"PATH=/bin\"]}",
		.python = "/usr/local/bin/python3.11",
		.python_version = "3.11",
		.inodes = 12345,
		.size = 1ll << 40,
		.created = 1700000000987654321,
		.layers = "0123456789abcdef fedcba9876543210",
	};
}

struct expected_image {
	const struct silo_image *image;
	int calls;
};

static int
on_image (void *arg, const struct silo_image *got)
{
	struct expected_image *expected = arg;
	const struct silo_image *want = expected->image;

	expected->calls++;
	tap_is_str (got->name, want->name, "name");
	tap_ok (silo_digest_equal (&got->meta, &want->meta), "meta");
	tap_is_str (got->source, want->source, "source");
	tap_is_str (got->source_id, want->source_id, "source_id");
	tap_is_str (got->config, want->config, "config");
	tap_is_str (got->python, want->python, "python");
	tap_is_str (got->python_version, want->python_version, "python_version");
	tap_is_int (got->inodes, want->inodes, "inodes");
	tap_is_int (got->size, want->size, "size");
	tap_is_int (got->created, want->created, "created");
	tap_is_str (got->layers, want->layers ? want->layers : "", "layers");
	return 1; /* "stop": get succeeds all the same */
}

static void
put_image (struct conform *c, const struct silo_image *image)
{
	struct silo_error err = storage_untouched;
	int r = instance_call (c->instance, storage, image_put, image, &err);
	storage_ok (r, &err, "image_put");
}

static void
check_image (struct conform *c, const struct silo_image *image)
{
	struct expected_image expected = { .image = image };
	struct silo_error err = storage_untouched;
	int r =
	    instance_call (c->instance, storage, image_get, image->name, on_image, &expected, &err);
	storage_ok (r, &err, "image_get");
	tap_is_int (expected.calls, 1, "image_get calls back once");
}

/* -- things ------------------------------------------------------------------------------- */

struct expected_thing {
	const struct silo_thing *thing;
	int calls;
};

static int
on_thing (void *arg, const struct silo_thing *got)
{
	struct expected_thing *expected = arg;
	const struct silo_thing *want = expected->thing;

	expected->calls++;
	tap_is_str (got->kind, want->kind, "kind");
	tap_is_str (got->name, want->name, "name");
	tap_is_mem (got->value.data, got->value.len, want->value.data, want->value.len, "value");
	tap_is_int (got->created, want->created, "created");
	return 1;
}

static void
put_thing (struct conform *c, const struct silo_thing *thing)
{
	struct silo_error err = storage_untouched;
	int r = instance_call (c->instance, storage, thing_put, thing, &err);
	storage_ok (r, &err, "thing_put");
}

static void
check_thing (struct conform *c, const struct silo_thing *thing)
{
	struct expected_thing expected = { .thing = thing };
	struct silo_error err = storage_untouched;
	int r = instance_call (c->instance, storage, thing_get, thing->kind, thing->name, on_thing,
			       &expected, &err);
	storage_ok (r, &err, "thing_get");
	tap_is_int (expected.calls, 1, "thing_get calls back once");
}

/* -- lists of names ------------------------------------------------------------------------- */

struct names {
	char previous[512];
	size_t n;
	size_t stop_after; /* 0: never */
	bool sorted;
	bool values; /* every thing's value was its name */
};

static int
on_name (struct names *names, const char *name)
{
	if (names->n && strcmp (names->previous, name) >= 0)
		names->sorted = false;
	snprintf (names->previous, sizeof (names->previous), "%s", name);
	names->n++;
	return names->stop_after && names->n >= names->stop_after;
}

static int
on_image_name (void *arg, const struct silo_image *image)
{
	return on_name (arg, image->name);
}

static int
on_thing_name (void *arg, const struct silo_thing *thing)
{
	struct names *names = arg;

	size_t len = strlen (thing->name);

	if (thing->value.len != len || (len && memcmp (thing->value.data, thing->name, len) != 0))
		names->values = false;
	return on_name (names, thing->name);
}

/* How many there are; -1 on failure. */
static int64_t
list_images (struct conform *c, struct names *names)
{
	struct silo_error err = storage_untouched;

	names->n = 0;
	names->sorted = names->values = true;
	int r = instance_call (c->instance, storage, image_list, on_image_name, names, &err);
	return storage_ok (r, &err, "image_list") ? (int64_t) names->n : -1;
}

static int64_t
list_things (struct conform *c, const char *kind, struct names *names)
{
	struct silo_error err = storage_untouched;

	names->n = 0;
	names->sorted = names->values = true;
	int r = instance_call (c->instance, storage, thing_list, kind, on_thing_name, names, &err);
	return storage_ok (r, &err, "thing_list") ? (int64_t) names->n : -1;
}

/* -- the groups ------------------------------------------------------------------------------ */

static void
test_images (struct conform *c)
{
	struct silo_image image = sample_image ("python:3.11");
	struct silo_image bare = { .name = "bare",
				   .source = "",
				   .source_id = "",
				   .config = "{}",
				   .python = "",
				   .python_version = "" };
	struct names names = { .stop_after = 0 };
	struct silo_error err = storage_untouched;

	tap_is_int (list_images (c, &names), 0, "an empty store has no images");
	int r =
	    instance_call (c->instance, storage, image_get, "python:3.11", on_image, NULL, &err);
	storage_fails (r, &err, SILO_NOTFOUND, "image_get");
	put_image (c, &image);
	put_image (c, &bare);
	check_image (c, &image);
	check_image (c, &bare);
	image = sample_image ("python:3.11");
	image.meta.b[31] = 1;
	image.source = "dir:/x";
	image.config = "{}";
	image.layers = ""; /* as much as NULL, which `bare` has */
	image.size = 0;
	put_image (c, &image);
	check_image (c, &image);
	check_image (c, &bare);
	tap_is_int (list_images (c, &names), 2, "image_put replaces the record of that name");
	conform_reload (c);
	check_image (c, &image);

	err = storage_untouched;
	r = instance_call (c->instance, storage, image_drop, "python:3.11", &err);
	storage_ok (r, &err, "image_drop");
	r = instance_call (c->instance, storage, image_drop, "python:3.11", &err);
	storage_fails (r, &err, SILO_NOTFOUND, "a second image_drop");
	err = storage_untouched;
	r = instance_call (c->instance, storage, image_get, "python:3.11", on_image, NULL, &err);
	storage_fails (r, &err, SILO_NOTFOUND, "image_get");
	check_image (c, &bare);
	err = storage_untouched;
	r = instance_call (c->instance, storage, image_drop, "bare", &err);
	storage_ok (r, &err, "image_drop");
}

static void
test_image_names (struct conform *c)
{
	char longs[3][301];
	struct names names = { .stop_after = 0 };
	struct silo_error err = storage_untouched;

	long_name (longs[0], 'm', '1');
	long_name (longs[1], 'm', '2');
	long_name (longs[2], '\n', '1');
	for (size_t i = 0; i < N_ODD + 3; i++) {
		struct silo_image image =
		    sample_image (i < N_ODD ? odd_names[i] : longs[i - N_ODD]);
		image.inodes = (int64_t) i;
		put_image (c, &image);
	}
	conform_reload (c);
	for (size_t i = 0; i < N_ODD + 3; i++) {
		struct silo_image image =
		    sample_image (i < N_ODD ? odd_names[i] : longs[i - N_ODD]);
		image.inodes = (int64_t) i;
		check_image (c, &image);
	}
	tap_is_int (list_images (c, &names), (int64_t) N_ODD + 3, "all names are different");
	tap_ok (names.sorted, "image_list is by name");
	names.stop_after = 2;
	tap_is_int (list_images (c, &names), 2, "a callback stops image_list");
	names.stop_after = 0;
	for (size_t i = 0; i < N_ODD + 3; i++) {
		const char *name = i < N_ODD ? odd_names[i] : longs[i - N_ODD];
		storage_ok (instance_call (c->instance, storage, image_drop, name, &err), &err,
			    "image_drop");
	}
	tap_is_int (list_images (c, &names), 0, "all are dropped");
}

static void
test_things (struct conform *c)
{
	const size_t mega = 1u << 20;
	unsigned char *large = malloc (mega);
	struct names names = { .stop_after = 0 };
	struct silo_error err = storage_untouched;

	if (!large)
		tap_bail ("out of memory");
	for (size_t i = 0; i < mega; i++)
		large[i] = (unsigned char) (i * 7 >> 1);
	struct silo_thing code = { "code", "same", { large, mega }, 1700000000111111111 };
	struct silo_thing function = { "function", "same", { "a\0b\xff", 4 }, 2 };
	struct silo_thing empty = { "function", "empty", { NULL, 0 }, 0 };

	tap_is_int (list_things (c, "code", &names), 0, "a kind that was never used is empty");
	int r =
	    instance_call (c->instance, storage, thing_get, "code", "same", on_thing, NULL, &err);
	storage_fails (r, &err, SILO_NOTFOUND, "thing_get");
	err = storage_untouched;
	r = instance_call (c->instance, storage, thing_drop, "code", "same", &err);
	storage_fails (r, &err, SILO_NOTFOUND, "thing_drop");
	put_thing (c, &code);
	put_thing (c, &function);
	put_thing (c, &empty);
	check_thing (c, &code);
	check_thing (c, &function);
	check_thing (c, &empty);
	function.value = (struct silo_bytes){ "new", 3 };
	function.created = 3;
	put_thing (c, &function);
	conform_reload (c);
	check_thing (c, &function);
	check_thing (c, &code);
	tap_is_int (list_things (c, "code", &names), 1, "kinds are apart");
	tap_is_int (list_things (c, "function", &names), 2, "thing_put replaces");

	err = storage_untouched;
	r = instance_call (c->instance, storage, thing_drop, "function", "same", &err);
	storage_ok (r, &err, "thing_drop");
	r = instance_call (c->instance, storage, thing_get, "function", "same", on_thing, NULL,
			   &err);
	storage_fails (r, &err, SILO_NOTFOUND, "thing_get");
	check_thing (c, &code);
	check_thing (c, &empty);
	err = storage_untouched;
	r = instance_call (c->instance, storage, thing_drop, "function", "empty", &err);
	storage_ok (r, &err, "thing_drop");
	r = instance_call (c->instance, storage, thing_drop, "code", "same", &err);
	storage_ok (r, &err, "thing_drop");
	free (large);
}

/* Odd names as names, and as kinds. */
static void
test_thing_names (struct conform *c)
{
	struct names names = { .stop_after = 0 };
	struct silo_error err = storage_untouched;

	for (size_t i = 0; i < N_ODD; i++) {
		const char *name = odd_names[i];
		struct silo_thing thing = { "odd", name, { name, strlen (name) }, 1 };
		put_thing (c, &thing);
		thing.kind = name;
		put_thing (c, &thing);
	}
	for (size_t i = 0; i < N_ODD; i++) {
		const char *name = odd_names[i];
		struct silo_thing thing = { name, name, { name, strlen (name) }, 1 };
		check_thing (c, &thing);
		tap_is_int (list_things (c, name, &names), 1, "one of this kind");
		storage_ok (instance_call (c->instance, storage, thing_drop, name, name, &err),
			    &err, "thing_drop");
	}
	tap_is_int (list_things (c, "odd", &names), N_ODD, "all names are different");
	tap_ok (names.sorted, "thing_list is by name");
	tap_ok (names.values, "thing_list includes values");
	names.stop_after = 3;
	tap_is_int (list_things (c, "odd", &names), 3, "a callback stops thing_list");
	names.stop_after = 0;
	for (size_t i = 0; i < N_ODD; i++)
		storage_ok (
		    instance_call (c->instance, storage, thing_drop, "odd", odd_names[i], &err),
		    &err, "thing_drop");
	tap_is_int (list_things (c, "odd", &names), 0, "all are dropped");
}

void
storage_test_names (struct conform *c)
{
	test_images (c);
	test_image_names (c);
	test_things (c);
	test_thing_names (c);
}
