/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cmd-plugins.c - `silo plugins` and `silo check`.  Both load plugins to read
 * what they say of themselves; neither starts anything or writes a file.
 */
#include "core.h"
#include "describe.h"

#include <getopt.h>
#include <limits.h>

/* -- the set of installed plugins ----------------------------------------------- */

static int
set_compare (const void *a, const void *b)
{
	const struct silo_plugin *x = &(*(struct plugin *const *) a)->head;
	const struct silo_plugin *y = &(*(struct plugin *const *) b)->head;

	return x->kind != y->kind ? (x->kind < y->kind ? -1 : 1) : strcmp (x->name, y->name);
}

static int
set_add_bad (struct plugin_set *set, const char *path, const char *why)
{
	struct plugin_bad *grown = reallocarray (set->bad, set->n_bad + 1, sizeof (*grown));
	if (!grown)
		return silo_fail_nomem (NULL);
	set->bad = grown;
	struct plugin_bad bad = { strdup (path), strdup (why) };
	if (!bad.path || !bad.why) {
		free (bad.path);
		free (bad.why);
		return silo_fail_nomem (NULL);
	}
	set->bad[set->n_bad++] = bad;
	return 0;
}

static int
set_add (void *arg, const char *path, struct plugin *plugin, const struct silo_error *why)
{
	struct plugin_set *set = arg;

	if (!plugin)
		return set_add_bad (set, path, why->msg);
	for (size_t i = 0; i < set->n; i++) {
		if (set_compare (&set->item[i], &plugin) == 0) {
			int r = set_add_bad (set, path, "another folder before it has this plugin");
			plugin_free (plugin);
			return r;
		}
	}
	struct plugin **grown = reallocarray (set->item, set->n + 1, sizeof (*grown));
	if (!grown) {
		plugin_free (plugin);
		return silo_fail_nomem (NULL);
	}
	set->item = grown;
	set->item[set->n++] = plugin;
	return 0;
}

static void
set_free (struct plugin_set *set)
{
	for (size_t i = 0; i < set->n; i++)
		plugin_free (set->item[i]);
	for (size_t i = 0; i < set->n_bad; i++) {
		free (set->bad[i].path);
		free (set->bad[i].why);
	}
	free (set->item);
	free (set->bad);
	memset (set, 0, sizeof (*set));
}

static int
set_load (struct plugin_set *set, struct silo_error *err)
{
	int r = plugin_each (0, set_add, set, err);
	if (r == SILO_EXHAUSTED)
		return silo_fail_nomem (err);
	if (set->n > 0)
		qsort (set->item, set->n, sizeof (*set->item), set_compare);
	return r;
}

/* -- silo plugins ------------------------------------------------------------------ */

/* The instances that use a plugin, with spaces between. */
static void
used_by (const struct core *core, const struct plugin *plugin, char *to, size_t size)
{
	size_t n = 0;

	to[0] = 0;
	for (size_t i = 0; core && i < core->wiring.all.n; i++) {
		const struct silo_instance *instance = core->wiring.all.item[i];
		if (strcmp (instance->plugin->path, plugin->path) != 0)
			continue;
		int len = snprintf (to + n, size - n, "%s%s", n ? " " : "", instance->host.name);
		if (len < 0 || (size_t) len >= size - n)
			return;
		n += (size_t) len;
	}
}

/* The longest of two widths. */
static int
wider (int width, const char *text)
{
	int len = (int) strlen (text);
	return len > width ? len : width;
}

static int
list_text (const struct core *core, const struct plugin_set *set)
{
	char used[200];
	int name_width = 4, version_width = 7, used_width = 7, summary_width = 7;

	for (size_t i = 0; i < set->n; i++) {
		const struct silo_plugin *head = &set->item[i]->head;
		used_by (core, set->item[i], used, sizeof (used));
		name_width = wider (name_width, head->name);
		version_width = wider (version_width, head->version);
		used_width = wider (used_width, used);
		summary_width = wider (summary_width, head->summary);
	}
	printf ("%-9s  %-*s  %-*s  %-*s  %-*s  %s\n", "KIND", name_width, "NAME", version_width,
		"VERSION", used_width, "USED BY", summary_width, "SUMMARY", "FILE");
	for (size_t i = 0; i < set->n; i++) {
		const struct silo_plugin *head = &set->item[i]->head;
		used_by (core, set->item[i], used, sizeof (used));
		printf ("%-9s  %-*s  %-*s  %-*s  %-*s  %s\n", silo_kind_name ((int) head->kind),
			name_width, head->name, version_width, head->version, used_width,
			used[0] ? used : "-", summary_width, head->summary, set->item[i]->path);
	}
	for (size_t i = 0; i < set->n_bad; i++)
		printf ("%s%s: %s\n", i ? "" : "\nNot usable:\n", set->bad[i].path,
			set->bad[i].why);
	return fflush (stdout) == 0 ? 0 : 1;
}

static int
list_json (const struct core *core, const struct plugin_set *set)
{
	json_t *list = json_array ();
	char used[200];

	for (size_t i = 0; i < set->n; i++) {
		const struct silo_plugin *head = &set->item[i]->head;
		used_by (core, set->item[i], used, sizeof (used));
		json_array_append_new (
		    list, json_pack ("{ss ss ss ss ss ss sb}", "kind",
				     silo_kind_name ((int) head->kind), "name", head->name,
				     "version", head->version, "summary", head->summary, "file",
				     set->item[i]->path, "used_by", used, "usable", 1));
	}
	for (size_t i = 0; i < set->n_bad; i++)
		json_array_append_new (list, json_pack ("{ss sb ss}", "file", set->bad[i].path,
							"usable", 0, "problem", set->bad[i].why));
	return cli_json (list);
}

/* The list, also when silo.ini is wrong: then only the column of users is missing. */
static int
plugins_list (struct cli *cli, bool json)
{
	struct plugin_set set = { 0 };
	struct core *core = NULL;
	struct silo_error err = { 0 };

	int r = set_load (&set, &err);
	if (r < 0) {
		set_free (&set);
		return cli_fail (&err);
	}
	r = core_new (cli->config, CORE_NO_STATE, &core, &err);
	if (r == 0)
		r = wiring_load (core, WIRE_ALL, &err);
	if (r < 0)
		fprintf (stderr, "silo: no instances are shown: %s\n", err.msg);
	int status = json ? list_json (core, &set) : list_text (core, &set);
	core_close (core);
	set_free (&set);
	return status;
}

static int
plugins_describe (const char *format)
{
	struct plugin_set set = { 0 };
	struct silo_error err = { 0 };

	int r = set_load (&set, &err);
	if (r == 0)
		r = describe_print (stdout, format, &set, &err);
	set_free (&set);
	return r < 0 ? cli_fail (&err) : 0;
}

/* Where silo-conform is: beside us while nothing is installed, else in its folder. */
static bool
find_conform (char ret[PATH_MAX])
{
	char self[PATH_MAX - 64];

	ssize_t n = readlink ("/proc/self/exe", self, sizeof (self) - 1);
	if (n > 0) {
		self[n] = 0;
		char *slash = strrchr (self, '/');
		*slash = 0;
		/* libtool keeps a program that is not installed in .libs/ */
		char *libs = strrchr (self, '/');
		if (libs && strcmp (libs, "/.libs") == 0)
			*libs = 0;
		snprintf (ret, PATH_MAX, "%s/silo-conform", self);
		if (access (ret, X_OK) == 0)
			return true;
	}
	snprintf (ret, PATH_MAX, "%s/silo-conform", SILO_LIBEXEC_DIR);
	return access (ret, X_OK) == 0;
}

/* silo plugins test KIND FILE [KEY=VALUE...]: become silo-conform. */
static int
plugins_test (char **argv)
{
	char path[PATH_MAX];

	if (!find_conform (path)) {
		fprintf (stderr, "silo: %s: %s\n", path, strerror (errno));
		return 1;
	}
	argv[0] = path;
	execv (path, argv);
	fprintf (stderr, "silo: %s: %s\n", path, strerror (errno));
	return 1;
}

static const char plugins_help[] =
    "usage: silo plugins [--json]\n"
    "       silo plugins --describe[=ini|json|man]\n"
    "       silo plugins test KIND PLUGIN [KEY=VALUE...]\n"
    "\n"
    "List the plugins in the folders of $SILO_PLUGIN_PATH, or in the installed one, and\n"
    "the instances of silo.ini that use them.\n"
    "\n"
    "  --describe[=FORMAT]  print every section and key of silo.ini with its default:\n"
    "                       ini (a complete silo.ini), json, or man (a manual page)\n"
    "  --json               the list as JSON\n"
    "  test                 run the conformance suite of KIND on a plugin: a file (with a\n"
    "                       slash in its name) or a plugin's name; KEY=VALUE are its options\n";

int
cmd_plugins (struct cli *cli)
{
	static const struct option options[] = {
		{ "describe", optional_argument, NULL, 'd' },
		{ "help", no_argument, NULL, 'h' },
		{ "json", no_argument, NULL, 'j' },
		{ 0 },
	};
	const char *format = NULL;
	struct silo_error err = { 0 };
	bool json = false;
	int c;

	while ((c = getopt_long (cli->argc, cli->argv, "+h", options, NULL)) != -1) {
		switch (c) {
		case 'd':
			format = optarg ? optarg : "ini";
			break;
		case 'j':
			json = true;
			break;
		case 'h':
			fputs (plugins_help, stdout);
			return 0;
		default:
			fputs (plugins_help, stderr);
			return 2;
		}
	}
	if (!format && optind < cli->argc && strcmp (cli->argv[optind], "test") == 0)
		return plugins_test (cli->argv + optind);
	if (cli_no_arguments (cli, &err) < 0)
		return cli_fail (&err);
	return format ? plugins_describe (format) : plugins_list (cli, json);
}

/* -- silo check ------------------------------------------------------------------------ */

static int
check_config (const char *path, struct silo_error *err)
{
	struct core *core;

	int r = core_new (path, CORE_NO_STATE, &core, err);
	if (r < 0)
		return r;
	r = wiring_load (core, WIRE_ALL, err);
	core_close (core);
	return r;
}

static const char check_help[] =
    "usage: silo check [--json]\n"
    "\n"
    "Check silo.ini: sections, keys, values, the plugins that it names and how they use\n"
    "each other.  Starts nothing and writes nothing.  Prints ok, or what is wrong and where\n"
    "(exit status 2).\n";

int
cmd_check (struct cli *cli)
{
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "json", no_argument, NULL, 'j' },
		{ 0 },
	};
	struct silo_error err = { 0 };
	bool json = false;
	int c;

	while ((c = getopt_long (cli->argc, cli->argv, "h", options, NULL)) != -1) {
		if (c == 'j') {
			json = true;
		} else {
			fputs (check_help, c == 'h' ? stdout : stderr);
			return c == 'h' ? 0 : 2;
		}
	}
	if (cli_no_arguments (cli, &err) < 0)
		return cli_fail (&err);

	int r = check_config (cli->config, &err);
	if (json)
		cli_json (r == 0 ? json_pack ("{sb ss}", "ok", 1, "config", cli->config)
				 : json_pack ("{sb ss ss}", "ok", 0, "code",
					      silo_code_name (err.code), "message", err.msg));
	else if (r == 0)
		puts ("ok");
	else
		cli_fail (&err);
	return r == 0 ? 0 : 2;
}
