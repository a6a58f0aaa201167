/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd-image.c - `silo images` and `silo du`.  No daemon takes part: the verbs
 * open the storage and the content store themselves, and only read.
 */
#include "cli-print.h"
#include "cli-table.h"
#include "store.h"

#include <getopt.h>
#include <inttypes.h>
#include <sys/file.h>

/* -1: go on; else the exit status. */
static int
list_parse (struct cli *cli, const char *help, bool *ret_json)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	optind = 0;
	for (int c; (c = getopt_long (cli->argc, cli->argv, "h", options, NULL)) >= 0;) {
		if (c == 'h') {
			fputs (help, stdout);
			return 0;
		}
		if (c != 'j')
			return 2;
		*ret_json = true;
	}
	if (optind < cli->argc) {
		fputs (help, stderr);
		return 2;
	}
	return -1;
}

static size_t
count_layers (const char *layers)
{
	size_t n = *layers != '\0';
	for (const char *at = layers; *at; at++)
		n += *at == ' ';
	return n;
}

static json_t *
usage_json (const struct image_usage *usage)
{
	json_t *json = cli_image_json (&usage->record->image);
	json_t *more = json_pack (
	    "{s:I, s:I, s:I, s:I, s:I, s:b}", "unique", (json_int_t) usage->unique, "shared",
	    (json_int_t) usage->shared, "unique_objects", (json_int_t) usage->unique_objects,
	    "shared_objects", (json_int_t) usage->shared_objects, "regular_files",
	    (json_int_t) usage->files, "damaged", (int) usage->damaged);
	if (json_object_update (json, more) < 0) {
		json_decref (json);
		json = NULL;
	}
	json_decref (more);
	return json;
}

/* An array with an object for each image; NULL: no memory. */
static json_t *
images_json (const struct images_usage *usage)
{
	json_t *all = json_array ();
	for (size_t i = 0; i < usage->n; i++) {
		if (json_array_append_new (all, usage_json (&usage->item[i])) < 0) {
			json_decref (all);
			return NULL;
		}
	}
	return all;
}

/* -- silo images ------------------------------------------------------------------------- */

static const char images_help[] =
    "usage: silo images [--json]\n"
    "\n"
    "List the images that functions can run in.  UNIQUE is what no other image has and\n"
    "`silo rm` would free.  A narrow terminal gets the more important columns.\n"
    "\n"
    "  --json  print all that is known of them\n"
    "  --help\n";

static int
images_row (struct cli_table *table, const struct image_usage *usage, struct silo_error *err)
{
	const struct silo_image *image = &usage->record->image;
	const char *id = strchr (image->source_id, ':');
	size_t layers = count_layers (image->layers);
	char hex[SILO_DIGEST_HEX + 1];
	silo_digest_hex (&image->meta, hex);
	int r = cli_table_add (table, err, "%s", image->name);
	if (r == 0)
		r = cli_table_add (table, err, "%.12s", hex);
	if (r == 0)
		r = cli_table_add (table, err, "%s",
				   *image->python_version ? image->python_version : "-");
	if (r == 0)
		r = cli_table_add (table, err, "%s", cli_size (image->size).text);
	if (r == 0)
		r = cli_table_add (table, err, "%s",
				   usage->damaged ? "damaged" : cli_size (usage->unique).text);
	if (r == 0)
		r = cli_table_add (table, err, "%s", cli_size (usage->shared).text);
	if (r == 0)
		r = cli_table_add (table, err, "%" PRId64, usage->files);
	if (r == 0)
		r = layers > 0 ? cli_table_add (table, err, "%zu", layers)
			       : cli_table_add (table, err, "-");
	if (r == 0)
		r = cli_table_add (table, err, "%s", cli_age (image->created).text);
	if (r == 0)
		r = cli_table_add (table, err, "%.12s", id ? id + 1 : "-");
	return r;
}

static int
images_print (const struct images_usage *usage, struct silo_error *err)
{
	static const struct cli_column columns[] = {
		{ "NAME", false, 0 },   { "DIGEST", false, 5 }, { "PYTHON", false, 2 },
		{ "SIZE", true, 0 },    { "UNIQUE", true, 1 },  { "SHARED", true, 3 },
		{ "FILES", true, 2 },   { "LAYERS", true, 4 },  { "INDEXED", false, 1 },
		{ "SOURCE", false, 6 },
	};
	SILO_CLEANUP (cli_table_free)
	struct cli_table table = { .columns = columns, .n_columns = ARRAY_SIZE (columns) };
	for (size_t i = 0; i < usage->n; i++) {
		int r = images_row (&table, &usage->item[i], err);
		if (r < 0)
			return r;
	}
	cli_table_print (&table);
	return 0;
}

static int
images_read (struct core *core, struct images_usage *ret, struct silo_error *err)
{
	SILO_CLEANUP (image_folder_close) struct image_folder folder = { -1, -1 };
	/* So that nothing is collected between the list of them and their metadata. */
	int r = image_folder_open (core, LOCK_SH, &folder, err);
	return r < 0 ? r : images_usage (core, ret, err);
}

int
cmd_images (struct cli *cli)
{
	SILO_CLEANUP (images_usage_free) struct images_usage usage = { 0 };
	struct core *core = NULL;
	struct silo_error err = { 0 };
	bool as_json = false;
	int status = list_parse (cli, images_help, &as_json);
	if (status >= 0)
		return status;
	int r = core_open (cli->config, WIRE_OFFLINE, CORE_CREATE, &core, &err);
	if (r == 0)
		r = images_read (core, &usage, &err);
	if (r == 0 && !as_json)
		r = images_print (&usage, &err);
	core_close (core);
	if (r < 0)
		return cli_fail (&err);
	return as_json ? cli_json (images_json (&usage)) : 0;
}

/* -- silo du ------------------------------------------------------------------------------- */

static const char du_help[] =
    "usage: silo du [--json]\n"
    "\n"
    "What takes how much room: each image, then all objects, metadata files, layer\n"
    "records, what `silo gc` would free, and the database.  Files of an import that\n"
    "is under way count as what gc would free until it ends.\n"
    "\n"
    "  --json  print the numbers, in bytes\n"
    "  --help\n";

struct du {
	struct images_usage images;
	struct store_usage store;
	struct gc_report garbage;
	bool unknown; /* what is garbage, because of: */
	struct silo_error why;
};

static void
du_clear (struct du *du)
{
	images_usage_free (&du->images);
}

static int64_t
du_garbage (const struct du *du)
{
	const struct gc_report *report = &du->garbage;
	return report->object_bytes + report->meta_bytes + report->layer_bytes + report->temp_bytes;
}

static int
du_read (struct core *core, struct du *du, struct silo_error *err)
{
	SILO_CLEANUP (image_folder_close) struct image_folder folder = { -1, -1 };
	int r = image_folder_open (core, LOCK_SH, &folder, err);
	if (r == 0)
		r = images_usage (core, &du->images, err);
	if (r == 0)
		r = store_usage (core, &du->store, err);
	/* A damaged image is no reason to say nothing of the others. */
	if (r == 0)
		du->unknown = image_collect (core, &folder, true, &du->garbage, &du->why) < 0;
	return r;
}

static json_t *
du_json (const struct du *du)
{
	const struct store_usage *store = &du->store;
	json_t *garbage = du->unknown ? json_null () : json_integer (du_garbage (du));
	return json_pack ("{s:o, s:{s:I, s:I, s:I}, s:{s:I, s:I}, s:{s:I, s:I}, s:o, s:I}",
			  "images", images_json (&du->images), "objects", "count",
			  (json_int_t) store->objects, "bytes", (json_int_t) store->object_bytes,
			  "disk", (json_int_t) store->object_disk, "metadata_files", "count",
			  (json_int_t) store->metas, "bytes", (json_int_t) store->meta_bytes,
			  "layer_records", "count", (json_int_t) store->layers, "bytes",
			  (json_int_t) store->layer_bytes, "unreferenced", garbage, "database",
			  (json_int_t) store->database);
}

static int
du_print_images (const struct images_usage *usage, struct silo_error *err)
{
	static const struct cli_column columns[] = {
		{ "IMAGE", false, 0 },
		{ "UNIQUE", true, 0 },
		{ "SHARED", true, 0 },
		{ "TOTAL", true, 0 },
	};
	SILO_CLEANUP (cli_table_free)
	struct cli_table table = { .columns = columns, .n_columns = ARRAY_SIZE (columns) };
	for (size_t i = 0; i < usage->n; i++) {
		const struct image_usage *image = &usage->item[i];
		int r = cli_table_add (&table, err, "%s", image->record->image.name);
		if (r == 0)
			r = cli_table_add (&table, err, "%s",
					   image->damaged ? "damaged"
							  : cli_size (image->unique).text);
		if (r == 0)
			r = cli_table_add (&table, err, "%s", cli_size (image->shared).text);
		if (r == 0)
			r = cli_table_add (&table, err, "%s",
					   cli_size (image->unique + image->shared).text);
		if (r < 0)
			return r;
	}
	cli_table_print (&table);
	return 0;
}

static void
du_print_store (const struct du *du)
{
	const struct store_usage *store = &du->store;
	printf ("\n%-15s %9s in %" PRId64 " files", "objects", cli_size (store->object_bytes).text,
		store->objects);
	if (store->object_disk >= 0)
		printf (", %s on the disk", cli_size (store->object_disk).text);
	printf ("\n%-15s %9s in %" PRId64 " files\n", "metadata", cli_size (store->meta_bytes).text,
		store->metas);
	printf ("%-15s %9s in %" PRId64 " files\n", "layer records",
		cli_size (store->layer_bytes).text, store->layers);
	if (store->database >= 0)
		printf ("%-15s %9s\n", "database", cli_size (store->database).text);
	if (du->unknown)
		printf ("%-15s %9s, %s\n", "unreferenced", "unknown", du->why.msg);
	else
		printf ("%-15s %9s, which `silo gc` frees\n", "unreferenced",
			cli_size (du_garbage (du)).text);
}

int
cmd_du (struct cli *cli)
{
	SILO_CLEANUP (du_clear) struct du du = { 0 };
	struct core *core = NULL;
	struct silo_error err = { 0 };
	bool as_json = false;
	int status = list_parse (cli, du_help, &as_json);
	if (status >= 0)
		return status;
	int r = core_open (cli->config, WIRE_OFFLINE, CORE_CREATE, &core, &err);
	if (r == 0)
		r = du_read (core, &du, &err);
	if (r == 0 && !as_json)
		r = du_print_images (&du.images, &err);
	core_close (core);
	if (r < 0)
		return cli_fail (&err);
	if (as_json)
		return cli_json (du_json (&du));
	du_print_store (&du);
	return 0;
}
