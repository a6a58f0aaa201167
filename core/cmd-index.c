/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd-index.c - `silo index`.  No daemon takes part: the verb opens the storage
 * and the content store itself.
 *
 * While it indexes, a thread waits for SIGINT and its like.  The first raises a
 * flag that the import looks at and makes a descriptor readable that it waits on,
 * so that it ends by the ordinary way of an error.
 */
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>

#include "cli-print.h"
#include "progress.h"

#define EXIT_STOPPED 130 /* as a shell reports SIGINT */

/* -- signals ------------------------------------------------------------------------- */

struct stopper {
	pthread_t thread;
	int signals; /* signalfd */
	int done;    /* eventfd: end the thread */
	int cancel;  /* eventfd: readable once `cancelled` is set */
	volatile int cancelled;
	struct progress *progress;
};

/* The first signal asks the import to end, the second ends the process as it would end any
 * other; what is half made is collected then as after `kill -9`. */
static void
stopper_signal (struct stopper *stopper, int signal)
{
	const uint64_t one = 1;
	if (signal == SIGCONT) {
		progress_lost (stopper->progress); /* the shell has printed in between */
		return;
	}
	if (!stopper->cancelled) {
		__atomic_store_n (&stopper->cancelled, 1, __ATOMIC_RELAXED);
		ssize_t n = write (stopper->cancel, &one, sizeof (one));
		(void) fault_at ("index-stopping", NULL);
		if (n == sizeof (one))
			return;
	}
	if (isatty (STDERR_FILENO))
		dprintf (STDERR_FILENO, "\n"); /* the shell's prompt begins a line */
	sigset_t set;
	sigemptyset (&set);
	sigaddset (&set, signal);
	pthread_sigmask (SIG_UNBLOCK, &set, NULL);
	raise (signal);
}

static void *
stopper_run (void *arg)
{
	struct stopper *stopper = arg;
	struct pollfd fds[] = { { stopper->signals, POLLIN, 0 }, { stopper->done, POLLIN, 0 } };
	for (;;) {
		struct signalfd_siginfo info;
		if (poll (fds, 2, -1) < 0 && errno == EINTR)
			continue;
		if (fds[1].revents)
			return NULL;
		if (read (stopper->signals, &info, sizeof (info)) == sizeof (info))
			stopper_signal (stopper, (int) info.ssi_signo);
	}
}

/* From here on SIGINT, SIGTERM and SIGHUP cancel.  Before any other thread exists. */
static int
stopper_start (struct stopper *stopper, enum progress_mode mode, struct silo_error *err)
{
	sigset_t set;
	sigemptyset (&set);
	sigaddset (&set, SIGINT);
	sigaddset (&set, SIGTERM);
	sigaddset (&set, SIGHUP);
	sigaddset (&set, SIGCONT);
	pthread_sigmask (SIG_BLOCK, &set, NULL);
	stopper->signals = signalfd (-1, &set, SFD_CLOEXEC);
	stopper->done = eventfd (0, EFD_CLOEXEC);
	stopper->cancel = eventfd (0, EFD_CLOEXEC);
	if (stopper->signals < 0 || stopper->done < 0 || stopper->cancel < 0)
		return silo_fail_sys (err, errno, "waiting for signals");
	int r = progress_start (mode, STDERR_FILENO, &stopper->progress, err);
	if (r < 0)
		return r;
	int sys = pthread_create (&stopper->thread, NULL, stopper_run, stopper);
	return sys ? silo_fail_sys (err, sys, "start a thread") : 0;
}

/* Has the user given up?  Ctrl-C reaches the programs that the import runs as well, whose end
 * may be seen here before the signal is. */
static bool
stopper_cancelled (const struct stopper *stopper)
{
	struct pollfd pending = { stopper->signals, POLLIN, 0 };
	return __atomic_load_n (&stopper->cancelled, __ATOMIC_RELAXED) || poll (&pending, 1, 0) > 0;
}

/* Wipes the progress, too.  Returns how many bytes were new. */
static int64_t
stopper_stop (struct stopper *stopper)
{
	uint64_t one = 1;
	if (write (stopper->done, &one, sizeof (one)) == sizeof (one))
		pthread_join (stopper->thread, NULL);
	util_close (&stopper->signals);
	util_close (&stopper->done);
	util_close (&stopper->cancel);
	return progress_end (stopper->progress);
}

/* -- silo index ------------------------------------------------------------------------ */

static const char index_help[] =
    "usage: silo index REF [--name NAME] [--platform OS/ARCH] [--tls-verify=false]\n"
    "                      [--force] [--quiet] [--json]\n"
    "\n"
    "Make an image from a reference, or bring the image of that name up to date:\n"
    "\n"
    "  python:3.11, docker://host:port/name:tag   from a registry\n"
    "  oci:DIR:TAG, oci-archive:FILE:TAG          an OCI layout, as a folder or a tar file\n"
    "  docker-archive:FILE                        what `docker save` writes\n"
    "  containers-storage:NAME:TAG                an image that podman has here\n"
    "  dir:/path                                  a tree on this machine\n"
    "  debian:bookworm+python3+python3-numpy      Debian with these packages\n"
    "\n"
    "Layers that are known are not fetched again.  Ctrl-C stops it and leaves no trace.\n"
    "\n"
    "  --name NAME         default: the reference without its registry\n"
    "  --platform OS/ARCH  default: this machine's\n"
    "  --tls-verify=false  plain HTTP and unknown certificates are fine\n"
    "  --force             import what is known too, and fetch again what is missing of it\n"
    "  --quiet             show no progress\n"
    "  --json              print the image's record, and what was new of it\n"
    "  --help\n";

struct index_args {
	struct silo_image_source source;
	const char *name;
	bool force, quiet, json;
};

/* -1: go on; else the exit status. */
static int
index_parse (struct cli *cli, struct index_args *args)
{
	static const struct option options[] = {
		{ "name", required_argument, NULL, 'n' },
		{ "tls-verify", optional_argument, NULL, 't' },
		{ "platform", required_argument, NULL, 'p' },
		{ "force", no_argument, NULL, 'f' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct silo_error err = { 0 };
	args->source = (struct silo_image_source){
		.tls_verify = true, .platform = "", .id = "", .cancel_fd = -1
	};
	optind = 0; /* begin anew: the program has parsed its own arguments */
	for (int c; (c = getopt_long (cli->argc, cli->argv, "hq", options, NULL)) >= 0;) {
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
		case 'f':
			args->force = true;
			break;
		case 'q':
			args->quiet = true;
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

/* What one import was like. */
struct outcome {
	bool known;     /* the same contents were known already */
	int64_t new;    /* bytes that the content store did not have */
	double seconds; /* all in all */
};

static int
index_print (const struct index_args *args, const struct silo_image *image,
	     const struct outcome *outcome)
{
	if (args->json) {
		json_t *json = cli_image_json (image);
		json_t *more = json_pack ("{s:b, s:I, s:f}", "known", outcome->known, "new",
					  (json_int_t) outcome->new, "seconds", outcome->seconds);
		if (json && more)
			json_object_update (json, more);
		json_decref (more);
		return cli_json (json);
	}
	char hex[SILO_DIGEST_HEX + 1];
	silo_digest_hex (&image->meta, hex);
	printf ("%s: %" PRId64 " entries, %s, %s%s (%.12s)", image->name, image->inodes,
		cli_size (image->size).text, *image->python ? "Python " : "no Python",
		image->python_version, hex);
	if (outcome->known)
		puts (", nothing new");
	else
		printf (", %s new in %.1f s\n", cli_size (outcome->new).text, outcome->seconds);
	return 0;
}

static int
index_import (struct cli *cli, const struct index_args *args, struct stopper *stopper,
	      struct image_copy **ret, bool *ret_known, struct silo_error *err)
{
	const struct import_progress import = { progress_show, stopper->progress,
						&stopper->cancelled, stopper->cancel };
	struct silo_image_source source = args->source;
	source.cancel_fd = stopper->cancel;
	const struct index_request request = { &source, args->name, args->force, &import };
	struct core *core = NULL;
	progress_show (stopper->progress,
		       &(struct import_status){ .stage = "looking the reference up" });
	int r = core_open (cli->config, WIRE_OFFLINE, CORE_CREATE, &core, err);
	if (r == 0)
		r = image_index (core, &request, ret, ret_known, err);
	core_close (core);
	return r;
}

int
cmd_index (struct cli *cli)
{
	struct index_args args = { 0 };
	struct stopper stopper = { .signals = -1, .done = -1, .cancel = -1 };
	struct outcome outcome = { .known = false };
	_cleanup_free_ struct image_copy *copy = NULL;
	struct silo_error err = { 0 };
	int64_t started = silo_monotonic ();
	int status = index_parse (cli, &args);
	if (status >= 0)
		return status;
	_cleanup_free_ char *here = NULL;
	if (image_reference_here (args.source.reference, &here, &err) < 0)
		return cli_fail (&err);
	args.source.reference = here;
	enum progress_mode mode = args.quiet ? PROGRESS_NONE : progress_choose (STDERR_FILENO);
	if (stopper_start (&stopper, mode, &err) < 0)
		return cli_fail (&err);
	int r = index_import (cli, &args, &stopper, &copy, &outcome.known, &err);
	bool stopped = r < 0 && (r == SILO_CANCELLED || stopper_cancelled (&stopper));
	outcome.new = stopper_stop (&stopper);
	outcome.seconds = (double) (silo_monotonic () - started) / 1e9;
	if (stopped) {
		fputs ("silo: stopped, nothing was changed\n", stderr);
		return EXIT_STOPPED;
	}
	return r < 0 ? cli_fail (&err) : index_print (&args, &copy->image, &outcome);
}
