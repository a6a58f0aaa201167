/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli.c - the program's front: global options, verbs, and `silo-<verb>` from
 * PATH for those that it does not have, as git does.
 */
#include "core.h"

#include <getopt.h>

static const struct {
	const char *name;
	cli_fn *fn;
	const char *help;
} verbs[] = {
	{ "serve", cmd_serve, "run the daemon" },
	{ "index", cmd_index, "make an image from a registry, a folder or an archive" },
	{ "images", cmd_images, "list images" },
	{ "rm", cmd_rm, "remove images" },
	{ "gc", cmd_gc, "remove what no image needs" },
	{ "du", cmd_du, "how much room images take" },
	{ "fsck", cmd_fsck, "check everything stored, and get again what is damaged" },
	{ "mount", cmd_mount, "mount an image on a folder" },
	{ "umount", cmd_umount, "unmount it" },
	{ "ps", cmd_ps, "list tasks and workers" },
	{ "logs", cmd_logs, "output, result and timeline of a task" },
	{ "cancel", cmd_cancel, "stop tasks" },
	{ "status", cmd_status, "is the daemon ready, and what does it do" },
	{ "plugins", cmd_plugins, "list, describe and test plugins" },
	{ "check", cmd_check, "check silo.ini and start nothing" },
	{ "doctor", cmd_doctor, "what this machine can do, and what it lacks" },
};

static void
usage (FILE *to)
{
	fputs ("usage: silo [--config FILE] VERB [ARGUMENTS]\n\n", to);
	for (size_t i = 0; i < ARRAY_SIZE (verbs); i++)
		fprintf (to, "  %-9s %s\n", verbs[i].name, verbs[i].help);
	fputs ("\n"
	       "A verb that is not listed runs silo-VERB from PATH: the Python package has\n"
	       "silo-launch.  `silo VERB --help` explains a verb.\n"
	       "\n"
	       "  --config FILE  silo.ini to use, anywhere on the line; default: $SILO_CONFIG,\n"
	       "                 then the installed one\n"
	       "  --version      print the version\n",
	       to);
}

int
cli_fail (const struct silo_error *err)
{
	fprintf (stderr, "silo: %s\n", err->msg);
	return err->code == SILO_INVALID ? 2 : 1;
}

int
cli_no_arguments (struct cli *cli, struct silo_error *err)
{
	if (optind < cli->argc)
		return silo_fail (err, SILO_INVALID, "%s: unexpected argument \"%s\"", cli->argv[0],
				  cli->argv[optind]);
	return 0;
}

int
cli_settings (struct cli *cli, struct config **ret_config, struct settings **ret,
	      struct silo_error *err)
{
	struct config *config;

	int r = config_load (cli->config, &config, err);
	if (r < 0)
		return r;
	r = settings_load (config, ret, err);
	if (r < 0) {
		config_free (config);
		return r;
	}
	*ret_config = config;
	return 0;
}

int
cli_json (json_t *json)
{
	int r = json_dumpf (json, stdout,
			    JSON_INDENT (2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION (15));

	json_decref (json);
	putchar ('\n');
	return r == 0 && fflush (stdout) == 0 ? 0 : 1;
}

/* Take --config out of the line, wherever it stands before "--". */
static int
take_config (int *argc, char **argv, const char **ret)
{
	int n = 1;

	for (int i = 1; i < *argc; i++) {
		if (strcmp (argv[i], "--") == 0) {
			while (i < *argc)
				argv[n++] = argv[i++];
			break;
		}
		if (strncmp (argv[i], "--config=", 9) == 0) {
			*ret = argv[i] + 9;
		} else if (strcmp (argv[i], "--config") == 0) {
			if (i + 1 >= *argc) {
				fputs ("silo: --config: expected a file\n", stderr);
				return -1;
			}
			*ret = argv[++i];
		} else {
			argv[n++] = argv[i];
		}
	}
	argv[n] = NULL;
	*argc = n;
	return 0;
}

/* Become silo-<verb>. */
static int
run_outside (char **argv, const char *config)
{
	char name[64];

	if (strlen (argv[0]) > 40 || strpbrk (argv[0], "/ \t\n") || argv[0][0] == '-') {
		fprintf (stderr, "silo: \"%s\" is no verb; `silo --help` lists them\n", argv[0]);
		return 2;
	}
	snprintf (name, sizeof (name), "silo-%s", argv[0]);
	if (config && setenv ("SILO_CONFIG", config, 1) < 0) {
		fprintf (stderr, "silo: %s\n", strerror (errno));
		return 1;
	}
	char *verb = argv[0];
	argv[0] = name;
	execvp (name, argv);
	if (errno == ENOENT)
		fprintf (stderr,
			 "silo: there is no verb \"%s\", and no %s in PATH; `silo --help` lists "
			 "verbs\n",
			 verb, name);
	else
		fprintf (stderr, "silo: %s: %s\n", name, strerror (errno));
	return 2;
}

int
silo_main (int argc, char **argv)
{
	const char *config = NULL;

	if (take_config (&argc, argv, &config) < 0)
		return 2;
	if (argc < 2) {
		usage (stderr);
		return 2;
	}
	if (strcmp (argv[1], "--help") == 0 || strcmp (argv[1], "-h") == 0 ||
	    strcmp (argv[1], "help") == 0) {
		usage (stdout);
		return 0;
	}
	if (strcmp (argv[1], "--version") == 0) {
		puts ("silo " PACKAGE_VERSION FAULT_NOTE);
		return 0;
	}
	struct cli cli = { config ? config : config_default_path (), argc - 1, argv + 1 };
	for (size_t i = 0; i < ARRAY_SIZE (verbs); i++)
		if (strcmp (argv[1], verbs[i].name) == 0)
			return verbs[i].fn (&cli);
	return run_outside (argv + 1, config);
}
