/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd-store.c - `silo rm` and `silo gc`: what makes the store smaller.  No
 * daemon takes part, and none is in the way: what its workers use stays.
 */
#include "cli-print.h"
#include "store.h"

#include <getopt.h>
#include <inttypes.h>
#include <sys/file.h>

struct store_args {
	bool dry_run;
	bool json;
};

/* -1: go on; else the exit status. */
static int
store_parse (struct cli *cli, const struct option *options, const char *help,
	     struct store_args *args)
{
	optind = 0; /* begin anew: the program has parsed its own arguments */
	for (int c; (c = getopt_long (cli->argc, cli->argv, "h", options, NULL)) >= 0;) {
		switch (c) {
		case 'n':
			args->dry_run = true;
			break;
		case 'j':
			args->json = true;
			break;
		case 'h':
			fputs (help, stdout);
			return 0;
		default:
			return 2;
		}
	}
	return -1;
}

/* Lock STATE/images exclusively; say so if that takes a while. */
static int
store_lock (struct core *core, struct image_folder *ret, struct silo_error *err)
{
	struct silo_error busy = { 0 };
	int r = image_folder_open (core, LOCK_EX | LOCK_NB, ret, &busy);
	if (r != SILO_UNAVAILABLE)
		return r < 0 ? silo_fail (err, r, "%s", busy.msg) : 0;
	if (isatty (STDERR_FILENO))
		fputs ("waiting for an import, or whoever else uses the store\n", stderr);
	return image_folder_open (core, LOCK_EX, ret, err);
}

static int64_t
report_bytes (const struct gc_report *report)
{
	return report->object_bytes + report->meta_bytes + report->layer_bytes + report->temp_bytes;
}

static json_t *
report_json (const struct gc_report *report)
{
	return json_pack (
	    "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "bytes",
	    (json_int_t) report_bytes (report), "objects", (json_int_t) report->objects,
	    "object_bytes", (json_int_t) report->object_bytes, "metadata_files",
	    (json_int_t) report->metas, "metadata_bytes", (json_int_t) report->meta_bytes,
	    "layer_records", (json_int_t) report->layers, "layer_bytes",
	    (json_int_t) report->layer_bytes, "leftovers", (json_int_t) report->temps,
	    "leftover_bytes", (json_int_t) report->temp_bytes, "in_use",
	    (json_int_t) report->in_use);
}

static void
report_part (int64_t n, const char *one, const char *many, bool *first)
{
	if (n == 0)
		return;
	printf ("%s%" PRId64 " %s", *first ? ": " : ", ", n, n == 1 ? one : many);
	*first = false;
}

/* "freed 12.3 MB: 120 objects, 1 metadata file" */
static void
report_print (const struct gc_report *report, const char *verb)
{
	bool first = true;
	if (report->in_use > 0)
		printf ("%" PRId64 " removed %s still in use: `silo gc` later\n", report->in_use,
			report->in_use == 1 ? "image is" : "images are");
	if (report->objects + report->metas + report->layers + report->temps == 0) {
		puts ("nothing to free");
		return;
	}
	printf ("%s %s", verb, cli_size (report_bytes (report)).text);
	report_part (report->objects, "object", "objects", &first);
	report_part (report->metas, "metadata file", "metadata files", &first);
	report_part (report->layers, "layer record", "layer records", &first);
	report_part (report->temps, "leftover of an import", "leftovers of imports", &first);
	putchar ('\n');
}

/* -- silo rm ------------------------------------------------------------------------------- */

static const char rm_help[] =
    "usage: silo rm NAME... [--json]\n"
    "\n"
    "Remove images, and the files that no other image has.  Those that a worker or\n"
    "`silo mount` still uses stay until `silo gc` is run after that.\n"
    "\n"
    "  --json  print what was removed, and how much that has freed\n"
    "  --help\n";

/* Drop the records of all names, then collect once. */
static int
rm_run (struct core *core, struct cli *cli, int first, const struct store_args *args)
{
	SILO_CLEANUP (image_folder_close) struct image_folder folder = { -1, -1 };
	_cleanup_json_ json_t *removed = json_array ();
	struct gc_report report = { 0 };
	struct silo_error err = { 0 };
	int status = 0;
	if (store_lock (core, &folder, &err) < 0)
		return cli_fail (&err);
	for (int i = first; i < cli->argc; i++) {
		if (image_drop (core, cli->argv[i], &err) < 0)
			status = cli_fail (&err);
		else
			json_array_append_new (removed, json_string (cli->argv[i]));
	}
	if (json_array_size (removed) > 0 &&
	    image_collect (core, &folder, false, &report, &err) < 0) {
		silo_wrap (&err, "the images are removed, but not their files");
		return cli_fail (&err);
	}
	if (args->json) {
		json_t *json = report_json (&report);
		if (!json || json_object_set (json, "removed", removed) < 0)
			status = 1;
		return cli_json (json) ? 1 : status;
	}
	if (json_array_size (removed) > 0)
		report_print (&report, "freed");
	return status;
}

int
cmd_rm (struct cli *cli)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct store_args args = { 0 };
	struct core *core = NULL;
	struct silo_error err = { 0 };
	int status = store_parse (cli, options, rm_help, &args);
	if (status >= 0)
		return status;
	int first = optind;
	if (first == cli->argc) {
		fputs (rm_help, stderr);
		return 2;
	}
	if (core_open (cli->config, WIRE_OFFLINE, CORE_CREATE, &core, &err) < 0)
		return cli_fail (&err);
	status = rm_run (core, cli, first, &args);
	core_close (core);
	return status;
}

/* -- silo gc ------------------------------------------------------------------------------- */

static const char gc_help[] =
    "usage: silo gc [--dry-run] [--json]\n"
    "\n"
    "Remove what no image needs: files of images that were removed or replaced, and\n"
    "what an import that was killed has left.  What workers and mounts use stays.\n"
    "Waits for imports that are under way.\n"
    "\n"
    "  --dry-run  only say what would be removed\n"
    "  --json     print the numbers\n"
    "  --help\n";

static int
gc_run_verb (struct core *core, const struct store_args *args)
{
	SILO_CLEANUP (image_folder_close) struct image_folder folder = { -1, -1 };
	struct gc_report report = { 0 };
	struct silo_error err = { 0 };
	int r = store_lock (core, &folder, &err);
	if (r == 0)
		r = image_collect (core, &folder, args->dry_run, &report, &err);
	if (r < 0)
		return cli_fail (&err);
	if (args->json) {
		json_t *json = report_json (&report);
		if (json)
			json_object_set_new (json, "dry_run", json_boolean (args->dry_run));
		return cli_json (json);
	}
	report_print (&report, args->dry_run ? "would free" : "freed");
	return 0;
}

int
cmd_gc (struct cli *cli)
{
	static const struct option options[] = {
		{ "dry-run", no_argument, NULL, 'n' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct store_args args = { 0 };
	struct core *core = NULL;
	struct silo_error err = { 0 };
	int status = store_parse (cli, options, gc_help, &args);
	if (status >= 0)
		return status;
	int r = cli_no_arguments (cli, &err);
	if (r == 0)
		r = core_open (cli->config, WIRE_OFFLINE, CORE_CREATE, &core, &err);
	if (r < 0)
		return cli_fail (&err);
	status = gc_run_verb (core, &args);
	core_close (core);
	return status;
}
