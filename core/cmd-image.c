/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd-image.c - `silo images`.  No daemon takes part: the verb opens the storage
 * and the content store itself.
 */
#include "cli-print.h"

#include <getopt.h>
#include <inttypes.h>
#include <time.h>

/* -- silo images ------------------------------------------------------------------------- */

static const char images_help[] = "usage: silo images [--json]\n"
				  "\n"
				  "List the images that functions can run in.\n"
				  "\n"
				  "  --json  print their records\n"
				  "  --help\n";

/* -1: go on; else the exit status. */
static int
images_parse (struct cli *cli, bool *ret_json)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	optind = 0;
	for (int c; (c = getopt_long (cli->argc, cli->argv, "h", options, NULL)) >= 0;) {
		if (c == 'h') {
			fputs (images_help, stdout);
			return 0;
		}
		if (c != 'j')
			return 2;
		*ret_json = true;
	}
	if (optind < cli->argc) {
		fputs (images_help, stderr);
		return 2;
	}
	return -1;
}

static int
images_row (void *arg, const struct silo_image *image)
{
	(void) arg;
	char hex[SILO_DIGEST_HEX + 1], when[32] = "";
	time_t seconds = (time_t) (image->created / 1000000000);
	struct tm tm;
	silo_digest_hex (&image->meta, hex);
	if (localtime_r (&seconds, &tm))
		strftime (when, sizeof (when), "%Y-%m-%d %H:%M", &tm);
	printf ("%-32s  %.12s  %-6s  %9s  %8" PRId64 "  %s\n", image->name, hex,
		*image->python_version ? image->python_version : "-", cli_size (image->size).text,
		image->inodes, when);
	return 0;
}

static int
images_add (void *arg, const struct silo_image *image)
{
	json_t *json = cli_image_json (image);
	return !json || json_array_append_new (arg, json) < 0;
}

int
cmd_images (struct cli *cli)
{
	struct core *core = NULL;
	struct silo_error err = { 0 };
	bool as_json = false;
	int status = images_parse (cli, &as_json);
	if (status >= 0)
		return status;
	int r = core_open (cli->config, WIRE_OFFLINE, CORE_CREATE, &core, &err);
	if (r < 0)
		return cli_fail (&err);
	_cleanup_json_ json_t *all = json_array ();
	struct silo_instance *storage = core->wiring.storage;
	if (!as_json)
		printf ("%-32s  %-12s  %-6s  %9s  %8s  %s\n", "NAME", "DIGEST", "PYTHON", "SIZE",
			"ENTRIES", "INDEXED");
	r = instance_call (storage, storage, image_list, as_json ? images_add : images_row, all,
			   &err);
	status = r < 0 ? cli_fail (&err) : as_json ? cli_json (silo_steal (&all)) : 0;
	core_close (core);
	return status;
}
