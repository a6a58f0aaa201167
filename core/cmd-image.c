/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd-image.c - `silo index`, `silo images` and `silo rm`.  No daemon takes
 * part: the verbs open the storage and the content store themselves.
 *
 * While it indexes, a thread waits for SIGINT and SIGTERM and raises a flag
 * that the import looks at, so that it ends by the ordinary way of an error.
 */
#include "core.h"

#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>

#define EXIT_STOPPED 130 /* as a shell reports SIGINT */

/* -- printing an image ------------------------------------------------------------ */

static json_t *
image_json (const struct silo_image *image)
{
	char hex[SILO_DIGEST_HEX + 1];
	silo_digest_hex (&image->meta, hex);
	return json_pack ("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "name", image->name,
			  "meta", hex, "source", image->source, "source_id", image->source_id,
			  "python", image->python, "python_version", image->python_version,
			  "inodes", (json_int_t) image->inodes, "size", (json_int_t) image->size,
			  "created", (json_int_t) image->created);
}

static int
print_json (const json_t *json)
{
	if (!json || json_dumpf (json, stdout, JSON_INDENT (2) | JSON_PRESERVE_ORDER) < 0) {
		struct silo_error err = { 0 };
		silo_fail (&err, SILO_INTERNAL, "the answer cannot be printed as JSON");
		return cli_fail (&err);
	}
	putchar ('\n');
	return 0;
}

/* "12.3 MB" */
struct size_text {
	char text[16];
};

static struct size_text
size_text (int64_t bytes)
{
	static const char *const units[] = { "B", "kB", "MB", "GB", "TB" };
	struct size_text ret;
	double value = (double) bytes;
	size_t unit = 0;
	while (value >= 1000 && unit + 1 < ARRAY_SIZE (units)) {
		value /= 1000;
		unit++;
	}
	snprintf (ret.text, sizeof (ret.text), unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return ret;
}

/* -- progress ----------------------------------------------------------------------- */

struct progress {
	bool terminal;
	bool shown;      /* there is a line to be wiped */
	char stage[64];  /* last printed */
	int64_t printed; /* when, silo_monotonic () */
};

static void
progress_wipe (struct progress *progress)
{
	if (progress->shown)
		fputs ("\r\033[K", stderr);
	progress->shown = false;
}

/* Called by one thread at a time. */
static void
progress_print (void *arg, const struct import_status *status)
{
	struct progress *progress = arg;
	const char *stage = status->stage;
	bool new_stage = strcmp (stage, progress->stage) != 0;
	int64_t now = silo_monotonic ();
	if (!new_stage && (!progress->terminal || now - progress->printed < 100000000))
		return;
	snprintf (progress->stage, sizeof (progress->stage), "%s", stage);
	progress->printed = now;
	if (!progress->terminal) {
		fprintf (stderr, "%s\n", stage);
		return;
	}
	progress_wipe (progress);
	fprintf (stderr, "%s", stage);
	if (status->total > 0)
		fprintf (stderr, " %s of %s", size_text (status->done).text,
			 size_text (status->total).text);
	else if (status->done > 0)
		fprintf (stderr, " %s", size_text (status->done).text);
	fflush (stderr);
	progress->shown = true;
}

/* -- signals ------------------------------------------------------------------------- */

struct stopper {
	pthread_t thread;
	int signals; /* signalfd */
	int done;    /* eventfd: end the thread */
	volatile int cancelled;
};

static void *
stopper_run (void *arg)
{
	struct stopper *stopper = arg;
	struct pollfd fds[] = { { stopper->signals, POLLIN, 0 }, { stopper->done, POLLIN, 0 } };
	while (poll (fds, 2, -1) < 0 && errno == EINTR)
		;
	if (fds[0].revents)
		stopper->cancelled = 1;
	return NULL;
}

/* From here on SIGINT and SIGTERM set the flag.  Before any other thread exists. */
static int
stopper_start (struct stopper *stopper, struct silo_error *err)
{
	sigset_t set;
	sigemptyset (&set);
	sigaddset (&set, SIGINT);
	sigaddset (&set, SIGTERM);
	sigaddset (&set, SIGHUP);
	pthread_sigmask (SIG_BLOCK, &set, NULL);
	stopper->signals = signalfd (-1, &set, SFD_CLOEXEC);
	stopper->done = eventfd (0, EFD_CLOEXEC);
	if (stopper->signals < 0 || stopper->done < 0)
		return silo_fail_sys (err, errno, "waiting for signals");
	int sys = pthread_create (&stopper->thread, NULL, stopper_run, stopper);
	return sys ? silo_fail_sys (err, sys, "start a thread") : 0;
}

static void
stopper_stop (struct stopper *stopper)
{
	uint64_t one = 1;
	if (write (stopper->done, &one, sizeof (one)) == sizeof (one))
		pthread_join (stopper->thread, NULL);
	util_close (&stopper->signals);
	util_close (&stopper->done);
}

/* -- silo index ------------------------------------------------------------------------ */

static const char index_help[] =
    "usage: silo index REF [--name NAME] [--tls-verify=false] [--platform OS/ARCH] [--json]\n"
    "\n"
    "Make an image from a reference, or bring the image of that name up to date:\n"
    "\n"
    "  python:3.11, docker://host:port/name:tag   from a registry\n"
    "  oci:DIR:TAG, oci-archive:FILE:TAG          an OCI layout, as a folder or a tar file\n"
    "  docker-archive:FILE                        what `docker save` writes\n"
    "  dir:/path                                  a tree on this machine\n"
    "\n"
    "  --name NAME         default: the reference without its registry\n"
    "  --tls-verify=false  plain HTTP and unknown certificates are fine\n"
    "  --platform OS/ARCH  default: this machine's\n"
    "  --json              print the image's record\n"
    "  --help\n";

struct index_args {
	struct silo_image_source source;
	const char *name;
	bool json;
};

/* -1: go on; else the exit status. */
static int
index_parse (struct cli *cli, struct index_args *args)
{
	static const struct option options[] = {
		{ "name", required_argument, NULL, 'n' },
		{ "tls-verify", optional_argument, NULL, 't' },
		{ "platform", required_argument, NULL, 'p' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct silo_error err = { 0 };
	args->source = (struct silo_image_source){
		.tls_verify = true, .platform = "", .id = "", .cancel_fd = -1
	};
	optind = 0; /* begin anew: the program has parsed its own arguments */
	for (int c; (c = getopt_long (cli->argc, cli->argv, "h", options, NULL)) >= 0;) {
		switch (c) {
		case 'n':
			args->name = optarg;
			break;
		case 't':
			args->source.tls_verify = !optarg || strcmp (optarg, "true") == 0;
			if (optarg && !args->source.tls_verify && strcmp (optarg, "false") != 0) {
				silo_fail (&err, SILO_INVALID,
					   "--tls-verify=%.40s: expected true or false", optarg);
				return cli_fail (&err);
			}
			break;
		case 'p':
			args->source.platform = optarg;
			break;
		case 'j':
			args->json = true;
			break;
		case 'h':
			fputs (index_help, stdout);
			return 0;
		default:
			return 2;
		}
	}
	if (cli->argc - optind != 1) {
		fputs (index_help, stderr);
		return 2;
	}
	args->source.reference = cli->argv[optind];
	return -1;
}

static int
index_print (const struct index_args *args, const struct silo_image *image, bool known)
{
	if (args->json) {
		_cleanup_json_ json_t *json = image_json (image);
		if (json)
			json_object_set_new (json, "known", json_boolean (known));
		return print_json (json);
	}
	char hex[SILO_DIGEST_HEX + 1];
	silo_digest_hex (&image->meta, hex);
	printf ("%s: %" PRId64 " entries, %s, %s%s (%.12s)%s\n", image->name, image->inodes,
		size_text (image->size).text, *image->python ? "Python " : "no Python",
		image->python_version, hex, known ? ", nothing new" : "");
	return 0;
}

static int
index_run (struct cli *cli, const struct index_args *args, const volatile int *cancelled)
{
	struct progress progress = { .terminal = isatty (STDERR_FILENO) };
	const struct import_progress import = { progress_print, &progress, cancelled, -1 };
	const struct index_request request = { &args->source, args->name, false, &import };
	_cleanup_free_ struct image_copy *copy = NULL;
	struct core *core = NULL;
	struct silo_error err = { 0 };
	bool known = false;
	int r = core_open (cli->config, WIRE_OFFLINE, CORE_CREATE, &core, &err);
	if (r == 0)
		r = image_index (core, &request, &copy, &known, &err);
	core_close (core);
	progress_wipe (&progress);
	if (r < 0 && *cancelled) {
		fputs ("silo: stopped, nothing was changed\n", stderr);
		return EXIT_STOPPED;
	}
	return r < 0 ? cli_fail (&err) : index_print (args, &copy->image, known);
}

int
cmd_index (struct cli *cli)
{
	struct index_args args = { 0 };
	struct stopper stopper = { .signals = -1, .done = -1 };
	struct silo_error err = { 0 };
	int status = index_parse (cli, &args);
	if (status >= 0)
		return status;
	if (stopper_start (&stopper, &err) < 0)
		return cli_fail (&err);
	status = index_run (cli, &args, &stopper.cancelled);
	stopper_stop (&stopper);
	return status;
}

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
		*image->python_version ? image->python_version : "-", size_text (image->size).text,
		image->inodes, when);
	return 0;
}

static int
images_add (void *arg, const struct silo_image *image)
{
	json_t *json = image_json (image);
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
	status = r < 0 ? cli_fail (&err) : as_json ? print_json (all) : 0;
	core_close (core);
	return status;
}

/* -- silo rm ------------------------------------------------------------------------------- */

static const char rm_help[] =
    "usage: silo rm NAME...\n"
    "\n"
    "Remove images, and the files that no other image has.  The files stay while a\n"
    "daemon runs, whose workers may be using them.\n"
    "\n"
    "  --help\n";

/* -1: go on; else the exit status. */
static int
rm_parse (struct cli *cli)
{
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	optind = 0;
	for (int c; (c = getopt_long (cli->argc, cli->argv, "h", options, NULL)) >= 0;) {
		if (c != 'h')
			return 2;
		fputs (rm_help, stdout);
		return 0;
	}
	if (optind == cli->argc) {
		fputs (rm_help, stderr);
		return 2;
	}
	return -1;
}

int
cmd_rm (struct cli *cli)
{
	struct core *core = NULL;
	struct silo_error err = { 0 };
	int status = rm_parse (cli);
	if (status >= 0)
		return status;
	int first = optind;
	if (core_open (cli->config, WIRE_OFFLINE, CORE_CREATE, &core, &err) < 0)
		return cli_fail (&err);
	status = 0;
	for (int i = first; i < cli->argc; i++)
		if (image_remove (core, cli->argv[i], &err) < 0)
			status = cli_fail (&err);
	core_close (core);
	return status;
}
