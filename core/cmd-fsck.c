/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd-fsck.c - `silo fsck`.  No daemon takes part, and none is in the way.
 */
#include "cli-print.h"
#include "fsck.h"

#include <getopt.h>
#include <inttypes.h>

static const char fsck_help[] =
    "usage: silo fsck [--dry-run] [--json] [--tls-verify=false]\n"
    "\n"
    "Read everything in the store and compare it with its digest.  What is damaged or\n"
    "missing is named, with the images and files that it hurts, then fetched again from\n"
    "where the images came from, if that has the same contents still.\n"
    "\n"
    "  --dry-run           change nothing\n"
    "  --json              print what was found\n"
    "  --tls-verify=false  plain HTTP and unknown certificates are fine\n"
    "  --help\n"
    "\n"
    "The exit status is 0 when all is well, or was healed, and 1 when something is bad\n"
    "still.\n";

struct fsck_args {
	bool dry_run, json, tls_verify;
};

/* -1: go on; else the exit status. */
static int
fsck_parse (struct cli *cli, struct fsck_args *args)
{
	static const struct option options[] = {
		{ "dry-run", no_argument, NULL, 'n' },
		{ "json", no_argument, NULL, 'j' },
		{ "tls-verify", optional_argument, NULL, 't' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct silo_error err = { 0 };
	*args = (struct fsck_args){ .tls_verify = true };
	optind = 0; /* begin anew: the program has parsed its own arguments */
	for (int c; (c = getopt_long (cli->argc, cli->argv, "h", options, NULL)) >= 0;) {
		switch (c) {
		case 'n':
			args->dry_run = true;
			break;
		case 'j':
			args->json = true;
			break;
		case 't':
			args->tls_verify = !optarg || strcmp (optarg, "true") == 0;
			if (optarg && !args->tls_verify && strcmp (optarg, "false") != 0) {
				silo_fail (&err, SILO_INVALID,
					   "--tls-verify=%.40s: expected true or false", optarg);
				return cli_fail (&err);
			}
			break;
		case 'h':
			fputs (fsck_help, stdout);
			return 0;
		default:
			return 2;
		}
	}
	return cli_no_arguments (cli, &err) < 0 ? cli_fail (&err) : -1;
}

/* -- progress ----------------------------------------------------------------------------- */

struct fsck_shown {
	bool terminal;
	int64_t when; /* silo_monotonic () */
};

static void
show (void *arg, const char *stage, int64_t done, int64_t total)
{
	struct fsck_shown *shown = arg;
	int64_t now = silo_monotonic ();
	if (!shown->terminal || now - shown->when < 100000000)
		return;
	shown->when = now;
	fprintf (stderr, "\r\033[K%s", stage);
	if (total > 0)
		fprintf (stderr, ", %s of %s", cli_size (done).text, cli_size (total).text);
	fflush (stderr);
}

static void
show_nothing (const struct fsck_shown *shown)
{
	if (shown->when)
		fputs ("\r\033[K", stderr);
}

/* -- what was found ---------------------------------------------------------------------------- */

static const char *
kind_name (enum fsck_kind kind)
{
	static const char *const names[] = {
		[FSCK_OBJECT_DAMAGED] = "object damaged",
		[FSCK_OBJECT_MISSING] = "object missing",
		[FSCK_META_DAMAGED] = "metadata file damaged",
		[FSCK_META_MISSING] = "metadata file missing",
		[FSCK_LAYER_DAMAGED] = "layer record damaged",
	};
	return names[kind];
}

static size_t
count_bad (const struct fsck *fsck)
{
	size_t n = 0;
	for (size_t i = 0; i < fsck->n; i++)
		n += !fsck->flaws[i].healed;
	return n;
}

static void
print_hurt (const struct fsck *fsck, const struct fsck_hurt *hurt)
{
	printf ("    image %s", fsck->images[hurt->image].record->image.name);
	int64_t named = 0;
	for (; named < FSCK_PATHS && hurt->paths[named]; named++)
		printf ("%s%s", named ? ", " : ": ", hurt->paths[named]);
	if (hurt->n_paths > named)
		printf (" and %" PRId64 " more", hurt->n_paths - named);
	putchar ('\n');
}

static void
print_flaw (const struct fsck *fsck, const struct fsck_flaw *flaw, bool dry_run)
{
	char hex[SILO_DIGEST_HEX + 1];
	silo_digest_hex (&flaw->digest, hex);
	printf ("%s: %s%s\n", kind_name (flaw->kind), hex,
		dry_run         ? ""
		: flaw->healed  ? ", healed"
		: flaw->n_hurts ? ", not healed"
				: "");
	for (size_t i = 0; i < flaw->n_hurts; i++)
		print_hurt (fsck, &flaw->hurts[i]);
	if (flaw->n_hurts == 0 && flaw->kind == FSCK_OBJECT_DAMAGED)
		puts ("    no image has it");
}

static void
fsck_print (const struct fsck *fsck, bool dry_run)
{
	size_t bad = count_bad (fsck);
	for (size_t i = 0; i < fsck->n; i++)
		print_flaw (fsck, &fsck->flaws[i], dry_run);
	for (size_t i = 0; i < fsck->n_strays; i++)
		printf ("unexpected: %s\n", fsck->strays[i]);
	for (size_t i = 0; i < fsck->n_images; i++)
		if (fsck->images[i].why)
			printf ("image %s: %s\n", fsck->images[i].record->image.name,
				fsck->images[i].why);
	printf ("%" PRId64 " objects (%s), %" PRId64 " metadata files, %" PRId64
		" layer records of %zu images: ",
		fsck->objects, cli_size (fsck->bytes).text, fsck->metas, fsck->layers,
		fsck->n_images);
	if (fsck->n == 0)
		puts ("all is well");
	else if (dry_run)
		printf ("%zu bad\n", bad);
	else
		printf ("%zu healed, %zu bad\n", fsck->n - bad, bad);
}

static json_t *
hurt_json (const struct fsck *fsck, const struct fsck_hurt *hurt)
{
	json_t *paths = json_array ();
	for (size_t i = 0; i < FSCK_PATHS && hurt->paths[i]; i++)
		json_array_append_new (paths, json_string (hurt->paths[i]));
	return json_pack ("{s:s, s:o, s:I}", "name", fsck->images[hurt->image].record->image.name,
			  "paths", paths, "path_count", (json_int_t) hurt->n_paths);
}

static json_t *
flaw_json (const struct fsck *fsck, const struct fsck_flaw *flaw)
{
	char hex[SILO_DIGEST_HEX + 1];
	json_t *images = json_array ();
	silo_digest_hex (&flaw->digest, hex);
	for (size_t i = 0; i < flaw->n_hurts; i++)
		json_array_append_new (images, hurt_json (fsck, &flaw->hurts[i]));
	return json_pack ("{s:s, s:s, s:o, s:b}", "kind", kind_name (flaw->kind), "digest", hex,
			  "images", images, "healed", (int) flaw->healed);
}

static json_t *
fsck_json (const struct fsck *fsck)
{
	json_t *flaws = json_array (), *strays = json_array (), *failures = json_array ();
	for (size_t i = 0; i < fsck->n; i++)
		json_array_append_new (flaws, flaw_json (fsck, &fsck->flaws[i]));
	for (size_t i = 0; i < fsck->n_strays; i++)
		json_array_append_new (strays, json_string (fsck->strays[i]));
	for (size_t i = 0; i < fsck->n_images; i++)
		if (fsck->images[i].why)
			json_array_append_new (failures,
					       json_pack ("{s:s, s:s}", "image",
							  fsck->images[i].record->image.name,
							  "message", fsck->images[i].why));
	return json_pack ("{s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:I}", "objects",
			  (json_int_t) fsck->objects, "bytes", (json_int_t) fsck->bytes,
			  "metadata_files", (json_int_t) fsck->metas, "layer_records",
			  (json_int_t) fsck->layers, "images", (json_int_t) fsck->n_images, "flaws",
			  flaws, "unexpected", strays, "failures", failures, "bad",
			  (json_int_t) count_bad (fsck));
}

/* -- the verb ------------------------------------------------------------------------------------ */

int
cmd_fsck (struct cli *cli)
{
	struct fsck_args args;
	struct silo_error err = { 0 };
	struct fsck_shown shown = { .terminal = isatty (STDERR_FILENO) };
	int status = fsck_parse (cli, &args);
	if (status >= 0)
		return status;
	SILO_CLEANUP (fsck_free) struct fsck fsck = { .progress = show, .arg = &shown };
	int r = core_open (cli->config, WIRE_OFFLINE, CORE_CREATE, &fsck.core, &err);
	if (r == 0)
		r = fsck_check (&fsck, &err);
	if (r == 0 && !args.dry_run)
		r = fsck_heal (&fsck, args.tls_verify, &err);
	core_close (fsck.core);
	show_nothing (&shown);
	if (r < 0)
		return cli_fail (&err);
	if (!args.json)
		fsck_print (&fsck, args.dry_run);
	else if (cli_json (fsck_json (&fsck)) != 0)
		return 1;
	return count_bad (&fsck) > 0;
}
