/* SPDX-License-Identifier: Apache-2.0 */
/*
 * describe.c - what can be written in silo.ini, made from the option tables:
 * as the silo.ini that is installed, as JSON, as a manual page.  Nothing else
 * lists options, so that no list can be out of date.
 */
#include "core.h"
#include "describe.h"

#include <inttypes.h>

static const struct {
	const char *name;
	const char *help; /* how its values are written; "": as they are */
} types[] = {
	[SILO_STRING] = { "string", "" },
	[SILO_PATH] = { "path", "relative paths start at the state folder" },
	[SILO_BOOL] = { "bool", "true or false" },
	[SILO_INT] = { "int", "" },
	[SILO_SIZE] = { "size", "bytes, or with K, M, G or T" },
	[SILO_DURATION] = { "duration", "with ms, s, m, h or d" },
	[SILO_LIST] = { "list", "separated by spaces" },
	[SILO_CHOICE] = { "choice", "" },
	[SILO_SECRET] = { "secret", "the text, file:PATH or env:NAME" },
	[SILO_USE] = { "use", "" },
};

/* Call fn for each option of a table. */
typedef void row_fn (void *arg, const struct silo_option *row);

static void
each_row (const struct silo_option *table, size_t row_size, row_fn *fn, void *arg)
{
	struct silo_option row;

	for (size_t i = 0; options_row (table, row_size, i, &row); i++)
		fn (arg, &row);
}

/* Everything that a reader has to know of the values, after the help. */
static void
row_hint (const struct silo_option *row, char *to, size_t size)
{
	if (row->type == SILO_CHOICE)
		snprintf (to, size, "one of: %s", row->choices);
	else if (row->type == SILO_USE)
		snprintf (to, size, "name of a %s instance", silo_kind_name (row->use_kind));
	else if (row->type == SILO_INT && (row->min || row->max))
		snprintf (to, size, "%" PRId64 " to %" PRId64, row->min, row->max);
	else
		snprintf (to, size, "%s", types[row->type].help);
}

/* -- silo.ini --------------------------------------------------------------- */

/* Text as comment lines of at most 80 columns. */
static void
ini_comment (FILE *to, const char *text)
{
	size_t column = 0;

	while (*text) {
		size_t word = strcspn (text, " ");
		if (column > 0 && column + 1 + word > 80) {
			fputc ('\n', to);
			column = 0;
		}
		column += (size_t) fprintf (to, "%s%.*s", column ? " " : "# ", (int) word, text);
		text += word;
		text += strspn (text, " ");
	}
	fputc ('\n', to);
}

static void
ini_row (void *arg, const struct silo_option *row)
{
	FILE *to = arg;
	char hint[160], text[600];

	row_hint (row, hint, sizeof (hint));
	snprintf (text, sizeof (text), "%.400s%s%s%s", row->help ? row->help : "",
		  hint[0] ? " (" : "", hint, hint[0] ? ")" : "");
	fputc ('\n', to);
	ini_comment (to, text);
	if (!row->def)
		fprintf (to, "# no default, must be given\n#%s =\n", row->name);
	else
		fprintf (to, "#%s =%s%s\n", row->name, row->def[0] ? " " : "", row->def);
}

static void
describe_ini (FILE *to, const struct plugin_set *set)
{
	fputs ("# silo.ini - every section and key with its default, made by\n"
	       "# `silo plugins --describe=ini`.  Remove the # in front of a key to change it.\n"
	       "#\n"
	       "# A section [KIND.NAME] configures one instance of a plugin: of the plugin called\n"
	       "# NAME, or of another with `plugin = OTHER`, so that one plugin can have several.\n"
	       "# [silo] names the instances that serve.  Lists may go on in the next line when\n"
	       "# that is indented.  Comments stand on lines of their own.  `silo check` finds\n"
	       "# mistakes.\n"
	       "\n"
	       "[silo]\n",
	       to);
	each_row (settings_table, sizeof (settings_table[0]), ini_row, to);
	for (size_t i = 0; i < set->n; i++) {
		const struct silo_plugin *head = &set->item[i]->head;
		fputc ('\n', to);
		ini_comment (to, head->summary);
		fprintf (to, "[%s.%s]\n", silo_kind_name ((int) head->kind), head->name);
		each_row (head->options, head->option_size, ini_row, to);
	}
}

/* -- JSON --------------------------------------------------------------------- */

static void
json_row (void *arg, const struct silo_option *row)
{
	json_t *o = json_pack ("{ss ss ss? ss?}", "name", row->name, "type", types[row->type].name,
			       "default", row->def, "help", row->help);

	if (row->min || row->max) {
		json_object_set_new (o, "min", json_integer (row->min));
		json_object_set_new (o, "max", json_integer (row->max));
	}
	if (row->type == SILO_CHOICE)
		json_object_set_new (o, "choices", json_string (row->choices));
	if (row->type == SILO_USE)
		json_object_set_new (o, "kind", json_string (silo_kind_name (row->use_kind)));
	json_array_append_new (arg, o);
}

static json_t *
json_rows (const struct silo_option *table, size_t row_size)
{
	json_t *rows = json_array ();

	each_row (table, row_size, json_row, rows);
	return rows;
}

json_t *
describe_json (const struct plugin_set *set)
{
	json_t *plugins = json_array ();

	for (size_t i = 0; i < set->n; i++) {
		const struct silo_plugin *head = &set->item[i]->head;
		json_array_append_new (
		    plugins, json_pack ("{ss ss ss ss so}", "kind",
					silo_kind_name ((int) head->kind), "name", head->name,
					"version", head->version, "summary", head->summary,
					"options", json_rows (head->options, head->option_size)));
	}
	return json_pack ("{so so}", "silo", json_rows (settings_table, sizeof (settings_table[0])),
			  "plugins", plugins);
}

/* -- manual page ---------------------------------------------------------------- */

/* Text that roff prints as it is. */
static void
man_text (FILE *to, const char *text)
{
	if (*text == '.' || *text == '\'')
		fputs ("\\&", to);
	for (; *text; text++) {
		if (*text == '\\')
			fputs ("\\e", to);
		else if (*text == '-')
			fputs ("\\-", to);
		else
			fputc (*text, to);
	}
}

static void
man_row (void *arg, const struct silo_option *row)
{
	FILE *to = arg;
	char hint[160];

	row_hint (row, hint, sizeof (hint));
	fputs (".TP\n.BR ", to);
	man_text (to, row->name);
	fprintf (to, " \" (%s", types[row->type].name);
	if (!row->def)
		fputs (", must be given", to);
	else if (row->def[0]) {
		fputs (", default ", to);
		man_text (to, row->def);
	}
	fputs (")\"\n", to);
	man_text (to, row->help ? row->help : "");
	fputc ('\n', to);
	if (hint[0]) {
		fputs ("(", to);
		man_text (to, hint);
		fputs (")\n", to);
	}
}

static void
describe_man (FILE *to, const struct plugin_set *set)
{
	fputs (".TH SILO.INI 5\n"
	       ".SH NAME\n"
	       "silo.ini \\- configuration of Silo\n"
	       ".SH DESCRIPTION\n"
	       "Sections\n"
	       ".RI [ KIND . NAME ]\n"
	       "configure one instance of a plugin each: of the one called\n"
	       ".IR NAME ,\n"
	       "or of another that the key\n"
	       ".B plugin\n"
	       "names.  [silo] says which instances serve.\n"
	       ".SH [silo]\n",
	       to);
	each_row (settings_table, sizeof (settings_table[0]), man_row, to);
	for (size_t i = 0; i < set->n; i++) {
		const struct silo_plugin *head = &set->item[i]->head;
		fprintf (to, ".SH [%s.%s]\n", silo_kind_name ((int) head->kind), head->name);
		man_text (to, head->summary);
		fputc ('\n', to);
		each_row (head->options, head->option_size, man_row, to);
	}
	fputs (".SH SEE ALSO\n.BR silo (1)\n", to);
}

int
describe_print (FILE *to, const char *format, const struct plugin_set *set, struct silo_error *err)
{
	if (strcmp (format, "ini") == 0)
		describe_ini (to, set);
	else if (strcmp (format, "man") == 0)
		describe_man (to, set);
	else if (strcmp (format, "json") == 0)
		return cli_json (describe_json (set)) == 0
			   ? 0
			   : silo_fail (err, SILO_EXHAUSTED, "writing JSON");
	else
		return silo_fail (err, SILO_INVALID, "--describe=%.40s: expected ini, json or man",
				  format);
	return fflush (to) == 0 ? 0 : silo_fail_sys (err, errno, "writing");
}
