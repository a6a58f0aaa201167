/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd-client.c - the verbs that ask the daemon: status, ps, logs, cancel.
 */
#include "core.h"

#include <getopt.h>
#include <inttypes.h>
#include <time.h>

/* What the options of these verbs can say. */
struct ask {
	bool json, timeline, unfinished;
	int64_t limit, wait; /* wait: seconds, -1: not asked for */
};

static int
parse_number (const char *option, const char *text, int64_t max, int64_t *ret,
	      struct silo_error *err)
{
	char *end;

	errno = 0;
	long long value = strtoll (text, &end, 10);
	if (errno || end == text || *end || value < 0 || value > max)
		return silo_fail (err, SILO_INVALID,
				  "%s: \"%.40s\": expected a number from 0 to %" PRId64, option,
				  text, max);
	*ret = value;
	return 0;
}

enum parsed { PARSED_OK, PARSED_HELP, PARSED_BAD };

static enum parsed
parse (struct cli *cli, const struct option *options, const char *help, struct ask *ret)
{
	struct silo_error err = { 0 };
	int r = 0;

	*ret = (struct ask){ .wait = -1 };
	for (int c; r == 0 && (c = getopt_long (cli->argc, cli->argv, "h", options, NULL)) != -1;) {
		switch (c) {
		case 'h':
			puts (help);
			return PARSED_HELP;
		case 'j':
			ret->json = true;
			break;
		case 't':
			ret->timeline = true;
			break;
		case 'u':
			ret->unfinished = true;
			break;
		case 'n':
			r = parse_number ("--limit", optarg, 1000000, &ret->limit, &err);
			break;
		case 'w':
			r = parse_number ("--wait", optarg, 86400, &ret->wait, &err);
			break;
		default:
			return PARSED_BAD;
		}
	}
	if (r == 0)
		return PARSED_OK;
	cli_fail (&err);
	return PARSED_BAD;
}

static int
ask (struct cli *cli, json_t *request, json_t **ret, struct silo_error *err)
{
	_cleanup_json_ json_t *owned = request;
	struct settings *settings;
	struct config *config;

	int r = cli_settings (cli, &config, &settings, err);
	if (r < 0)
		return r;
	r = owned ? client_ask (settings->state, owned, ret, err) : silo_fail_nomem (err);
	settings_free (settings);
	config_free (config);
	return r;
}

static const char *
text_of (const json_t *json, const char *key)
{
	const char *text = json_string_value (json_object_get (json, key));
	return text ? text : "";
}

static int64_t
number_of (const json_t *json, const char *key)
{
	return json_integer_value (json_object_get (json, key));
}

/* "3s", "12m": the age of a moment. */
static void
age (int64_t then, char *ret, size_t size)
{
	int64_t s = then ? (silo_now () - then) / 1000000000 : 0;

	if (s < 120)
		snprintf (ret, size, "%" PRId64 "s", s);
	else if (s < 7200)
		snprintf (ret, size, "%" PRId64 "m", s / 60);
	else if (s < 172800)
		snprintf (ret, size, "%" PRId64 "h", s / 3600);
	else
		snprintf (ret, size, "%" PRId64 "d", s / 86400);
}

static void
milliseconds (int64_t ns, char *ret, size_t size)
{
	snprintf (ret, size, "%.3f ms", (double) ns / 1e6);
}

/* -- status --------------------------------------------------------------------------- */

int
cmd_status (struct cli *cli)
{
	static const struct option options[] = { { "help", no_argument, NULL, 'h' },
						 { "json", no_argument, NULL, 'j' },
						 { "wait", required_argument, NULL, 'w' },
						 { 0 } };
	static const char help[] =
	    "usage: silo status [--wait SECONDS] [--json]\n"
	    "\n"
	    "Is the daemon ready?  Exit status 0: yes, and what it does is printed; 1: no.\n"
	    "\n"
	    "  --wait SECONDS  return as soon as it is ready, give up after so long";
	struct settings *settings;
	struct config *config;
	struct silo_error err;
	json_t *answer;
	struct ask a;

	enum parsed parsed = parse (cli, options, help, &a);
	if (parsed != PARSED_OK)
		return parsed == PARSED_HELP ? 0 : 2;
	int r = cli_no_arguments (cli, &err);
	if (r == 0)
		r = cli_settings (cli, &config, &settings, &err);
	if (r < 0)
		return cli_fail (&err);
	if (a.wait >= 0)
		r = client_wait (settings->state, a.wait * 1000, &err);
	if (r == 0) {
		_cleanup_json_ json_t *request = json_pack ("{s:s}", "op", "status");
		r = client_ask (settings->state, request, &answer, &err);
	}
	settings_free (settings);
	config_free (config);
	if (r < 0)
		return cli_fail (&err);
	if (a.json)
		return cli_json (answer);

	char since[24];
	const json_t *tasks = json_object_get (answer, "tasks");
	const json_t *workers = json_object_get (answer, "workers");
	age (number_of (answer, "started"), since, sizeof (since));
	printf ("ready: silo %s, pid %" PRId64 ", up %s%s\n", text_of (answer, "version"),
		number_of (answer, "pid"), since,
		json_is_true (json_object_get (answer, "draining")) ? ", stopping" : "");
	printf ("state:   %s\n", text_of (answer, "state"));
	printf ("plugins: storage %s, content %s, rootfs %s, container %s\n",
		text_of (answer, "storage"), text_of (answer, "content"),
		text_of (answer, "rootfs"), text_of (answer, "container"));
	printf ("tasks:   %" PRId64 " live, %" PRId64 " of them wait for a worker\n",
		number_of (tasks, "live"), number_of (tasks, "waiting"));
	printf ("workers: %" PRId64 " live, %" PRId64 " of them idle, at most %" PRId64 "\n",
		number_of (workers, "live"), number_of (workers, "idle"),
		number_of (workers, "max"));
	json_decref (answer);
	return 0;
}

/* -- ps ----------------------------------------------------------------------------------- */

static void
print_task (const json_t *task)
{
	const char *outcome = text_of (task, "outcome");
	int64_t started = number_of (task, "started"), finished = number_of (task, "finished");
	char since[24], ran[24] = "-";

	age (number_of (task, "created"), since, sizeof (since));
	if (started && finished)
		milliseconds (finished - started, ran, sizeof (ran));
	printf ("%-8" PRId64 " %-10s %-20.20s %-20.20s %-6s %-14s %s\n", number_of (task, "id"),
		outcome[0] ? outcome : text_of (task, "state"), text_of (task, "name"),
		text_of (task, "image"), since, ran, text_of (task, "message"));
}

int
cmd_ps (struct cli *cli)
{
	static const struct option options[] = { { "help", no_argument, NULL, 'h' },
						 { "json", no_argument, NULL, 'j' },
						 { "limit", required_argument, NULL, 'n' },
						 { "unfinished", no_argument, NULL, 'u' },
						 { 0 } };
	static const char help[] = "usage: silo ps [--unfinished] [--limit N] [--json]\n"
				   "\n"
				   "List workers, and tasks with the newest first.\n"
				   "\n"
				   "  --unfinished  only tasks that wait or run\n"
				   "  --limit N     at most N tasks (50)";
	struct silo_error err;
	json_t *answer, *item;
	struct ask a;
	size_t i;

	enum parsed parsed = parse (cli, options, help, &a);
	if (parsed != PARSED_OK)
		return parsed == PARSED_HELP ? 0 : 2;
	int r = cli_no_arguments (cli, &err);
	if (r == 0)
		r = ask (cli,
			 json_pack ("{s:s, s:I, s:b}", "op", "ps", "limit", (json_int_t) a.limit,
				    "unfinished", (int) a.unfinished),
			 &answer, &err);
	if (r < 0)
		return cli_fail (&err);
	if (a.json)
		return cli_json (answer);

	const json_t *workers = json_object_get (answer, "workers");
	if (json_array_size (workers))
		printf ("%-14s %-10s %-20s %-6s %s\n", "WORKER", "STATE", "IMAGE", "TASKS", "TASK");
	json_array_foreach (workers, i, item)
	{
		printf ("%-14s %-10s %-20.20s %-6" PRId64, text_of (item, "id"),
			text_of (item, "state"), text_of (item, "image"),
			number_of (item, "tasks"));
		if (number_of (item, "task"))
			printf (" %" PRId64, number_of (item, "task"));
		putchar ('\n');
	}
	if (json_array_size (workers))
		putchar ('\n');
	printf ("%-8s %-10s %-20s %-20s %-6s %-14s %s\n", "TASK", "STATE", "FUNCTION", "IMAGE",
		"AGE", "RAN", "MESSAGE");
	json_array_foreach (json_object_get (answer, "tasks"), i, item) print_task (item);
	json_decref (answer);
	return 0;
}

/* -- logs ----------------------------------------------------------------------------------- */

static void
print_stream (const json_t *task, const char *key, FILE *to)
{
	_cleanup_buf_ struct silo_buf bytes = SILO_BUF (SIZE_MAX / 2);
	const char *text = text_of (task, key);

	if (silo_base64_decode (text, strlen (text), &bytes, NULL) == 0 && bytes.len)
		fwrite (bytes.data, 1, bytes.len, to);
}

static void
print_timeline (const json_t *task)
{
	const char *step;
	json_t *at;
	int64_t before = 0;

	printf ("%-10s %14s %14s\n", "STEP", "AT", "TOOK");
	json_object_foreach ((json_t *) json_object_get (task, "timeline"), step, at)
	{
		char when[32], took[32];
		int64_t ns = json_integer_value (at);
		milliseconds (ns, when, sizeof (when));
		milliseconds (ns - before, took, sizeof (took));
		printf ("%-10s %14s %14s\n", step, when, took);
		before = ns;
	}
}

static int
print_logs (const json_t *task, bool timeline)
{
	const char *outcome = text_of (task, "outcome");

	if (timeline) {
		if (!outcome[0]) {
			fprintf (stderr, "silo: task %" PRId64 " has not ended yet\n",
				 number_of (task, "id"));
			return 1;
		}
		print_timeline (task);
		return 0;
	}
	print_stream (task, "stdout", stdout);
	fflush (stdout);
	print_stream (task, "stderr", stderr);
	if (json_is_true (json_object_get (task, "truncated")))
		fputs ("silo: (the output was longer than [silo] output_limit and is cut here)\n",
		       stderr);
	if (text_of (task, "traceback")[0])
		fputs (text_of (task, "traceback"), stderr);
	else if (outcome[0] && strcmp (outcome, "success") != 0)
		fprintf (stderr, "silo: task %" PRId64 ": %s: %s\n", number_of (task, "id"),
			 outcome, text_of (task, "message"));
	return 0;
}

static int
task_argument (struct cli *cli, int64_t *ret, struct silo_error *err)
{
	if (optind >= cli->argc)
		return silo_fail (err, SILO_INVALID,
				  "%s: which task?  `silo ps` lists their numbers", cli->argv[0]);
	return parse_number ("task", cli->argv[optind++], INT64_MAX, ret, err);
}

int
cmd_logs (struct cli *cli)
{
	static const struct option options[] = { { "help", no_argument, NULL, 'h' },
						 { "json", no_argument, NULL, 'j' },
						 { "timeline", no_argument, NULL, 't' },
						 { 0 } };
	static const char help[] =
	    "usage: silo logs [--timeline] [--json] TASK\n"
	    "\n"
	    "Print what a task wrote (stdout to stdout, stderr to stderr) and how it ended.\n"
	    "\n"
	    "  --timeline  print when each step of the call was reached instead\n"
	    "  --json      everything as JSON; stdout and stderr in base64, times in ns";
	struct silo_error err;
	json_t *answer;
	struct ask a;
	int64_t id;

	enum parsed parsed = parse (cli, options, help, &a);
	if (parsed != PARSED_OK)
		return parsed == PARSED_HELP ? 0 : 2;
	int r = task_argument (cli, &id, &err);
	if (r == 0)
		r = cli_no_arguments (cli, &err);
	if (r == 0)
		r = ask (cli, json_pack ("{s:s, s:I}", "op", "logs", "task", (json_int_t) id),
			 &answer, &err);
	if (r < 0)
		return cli_fail (&err);
	json_t *task = json_incref (json_object_get (answer, "task"));
	json_decref (answer);
	if (a.json)
		return cli_json (task);
	int status = print_logs (task, a.timeline);
	json_decref (task);
	return status;
}

/* -- cancel ----------------------------------------------------------------------------------- */

int
cmd_cancel (struct cli *cli)
{
	static const struct option options[] = { { "help", no_argument, NULL, 'h' }, { 0 } };
	static const char help[] =
	    "usage: silo cancel TASK...\n"
	    "\n"
	    "Stop tasks that wait or run: their callers get a cancelled error, their workers\n"
	    "SIGTERM and after [silo] kill_grace SIGKILL.";
	struct silo_error err;
	struct ask a;
	int status = 0;

	enum parsed parsed = parse (cli, options, help, &a);
	if (parsed != PARSED_OK)
		return parsed == PARSED_HELP ? 0 : 2;
	do {
		json_t *answer;
		int64_t id;
		int r = task_argument (cli, &id, &err);
		if (r == 0)
			r = ask (cli,
				 json_pack ("{s:s, s:I}", "op", "cancel", "task", (json_int_t) id),
				 &answer, &err);
		if (r < 0) {
			status = cli_fail (&err);
			continue;
		}
		json_decref (answer);
		printf ("cancelled task %" PRId64 "\n", id);
	} while (optind < cli->argc);
	return status;
}
