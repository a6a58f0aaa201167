/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd-index.c - `silo index`.  No daemon takes part: the verb opens the storage
 * and the content store itself.
 *
 * While it indexes, a thread waits for SIGINT and SIGTERM and raises a flag
 * that the import looks at, so that it ends by the ordinary way of an error.
 */
#include "cli-print.h"

#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>

#define EXIT_STOPPED 130 /* as a shell reports SIGINT */

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
		fprintf (stderr, " %s of %s", cli_size (status->done).text,
			 cli_size (status->total).text);
	else if (status->done > 0)
		fprintf (stderr, " %s", cli_size (status->done).text);
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
	if (fds[0].revents) {
		stopper->cancelled = 1;
		(void) fault_at ("index-stopping", NULL);
	}
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
		json_t *json = cli_image_json (image);
		if (json)
			json_object_set_new (json, "known", json_boolean (known));
		return cli_json (json);
	}
	char hex[SILO_DIGEST_HEX + 1];
	silo_digest_hex (&image->meta, hex);
	printf ("%s: %" PRId64 " entries, %s, %s%s (%.12s)%s\n", image->name, image->inodes,
		cli_size (image->size).text, *image->python ? "Python " : "no Python",
		image->python_version, hex, known ? ", nothing new" : "");
	return 0;
}

static int
index_run (struct cli *cli, const struct index_args *args, const volatile int *cancelled)
{
	struct progress progress = { .terminal = isatty (STDERR_FILENO) };
	const struct import_progress import = { progress_print, &progress, cancelled,
						args->source.cancel_fd };
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
	if (r < 0 && (*cancelled || r == SILO_CANCELLED)) {
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
	/* Nobody reads the signals: once there is one, it can be polled for ever. */
	args.source.cancel_fd = stopper.signals;
	status = index_run (cli, &args, &stopper.cancelled);
	stopper_stop (&stopper);
	return status;
}
