/* SPDX-License-Identifier: Apache-2.0 */
/*
 * option.c - option tables: text from silo.ini becomes typed values in a
 * plugin's instance (or in struct settings), or an error that says where, what
 * was expected and which key was probably meant.  No plugin parses text.
 */
#include "core.h"

#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <strings.h>

enum {
	OPTION_MAX_ROWS = 256,
	OPTION_MAX_WORD = 64, /* longer names are no typing errors of ours */
	OPTION_MAX_SECRET = 65536,
};

/* One option being set: where its text comes from and where its value goes. */
struct option_value {
	const struct option_scope *scope;
	const char *section;
	int line; /* 0: the default */
	const struct silo_option *option;
	const char *text;
	char *field;
	struct silo_error *err;
};

/* -- names: the nearest valid one ------------------------------------------- */

/* Edits (insert, drop, replace, swap neighbours) between two words. */
static size_t
word_distance (const char *a, const char *b)
{
	size_t rows[3][OPTION_MAX_WORD + 1];
	size_t *before = rows[0], *last = rows[1], *now = rows[2];
	size_t a_len = strlen (a), b_len = strlen (b);

	if (a_len > OPTION_MAX_WORD || b_len > OPTION_MAX_WORD)
		return SIZE_MAX;
	for (size_t j = 0; j <= b_len; j++)
		last[j] = j;
	for (size_t i = 1; i <= a_len; i++) {
		now[0] = i;
		for (size_t j = 1; j <= b_len; j++) {
			size_t best = last[j - 1] + (a[i - 1] != b[j - 1]);
			if (last[j] + 1 < best)
				best = last[j] + 1;
			if (now[j - 1] + 1 < best)
				best = now[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
			    before[j - 2] + 1 < best)
				best = before[j - 2] + 1;
			now[j] = best;
		}
		size_t *free_row = before;
		before = last;
		last = now;
		now = free_row;
	}
	return last[b_len];
}

const char *
word_nearest (const char *word, const char *const *words, size_t n)
{
	const char *nearest = NULL;
	size_t best = strlen (word) / 3 + 2; /* further away it is another word */

	for (size_t i = 0; i < n; i++) {
		size_t distance = word_distance (word, words[i]);
		if (distance < best) {
			best = distance;
			nearest = words[i];
		}
	}
	return nearest;
}

/* -- values ------------------------------------------------------------------- */

static int option_fail (const struct option_value *v, const char *fmt, ...) SILO_PRINTF (2, 3);

static int
option_fail (const struct option_value *v, const char *fmt, ...)
{
	char msg[200];
	va_list ap;

	va_start (ap, fmt);
	vsnprintf (msg, sizeof (msg), fmt, ap);
	va_end (ap);
	return config_fail (v->scope->config, v->line, v->err, "[%s] %s%s: %s", v->section,
			    v->option->name, v->line ? "" : " (its default)", msg);
}

/* The number at the start of the text; *ret_unit is what follows it. */
static bool
number_parse (const char *text, int64_t *ret, const char **ret_unit)
{
	const char *digits = text + (*text == '-');
	char *end;

	if (!isdigit ((unsigned char) *digits))
		return false;
	errno = 0;
	intmax_t number = strtoimax (text, &end, 10);
	if (errno || number > INT64_MAX || number < INT64_MIN)
		return false;
	*ret = number;
	*ret_unit = end;
	return true;
}

struct option_unit {
	const char *name;
	int64_t factor;
};

static const struct option_unit int_units[] = { { "", 1 }, { NULL, 0 } };
static const struct option_unit size_units[] = {
	{ "", 1 },          { "K", 1LL << 10 }, { "M", 1LL << 20 },
	{ "G", 1LL << 30 }, { "T", 1LL << 40 }, { NULL, 0 },
};
static const struct option_unit duration_units[] = {
	{ "ms", 1 },          { "s", 1000 },     { "m", 60 * 1000 },
	{ "h", 3600 * 1000 }, { "d", 86400000 }, { NULL, 0 },
};

/* The largest unit that divides the number, for messages and descriptions. */
static void
number_text (int64_t number, const struct option_unit *units, char *to, size_t size)
{
	const struct option_unit *best = &units[0];

	for (const struct option_unit *u = units; u->name; u++) {
		if (number != 0 && number % u->factor == 0)
			best = u;
	}
	snprintf (to, size, "%" PRId64 "%s", number / best->factor, number ? best->name : "");
}

static int
option_number (const struct option_value *v, const struct option_unit *units, const char *example)
{
	const struct silo_option *o = v->option;
	const struct option_unit *u = units;
	char low[32], high[32];
	const char *unit;
	int64_t number;

	if (!number_parse (v->text, &number, &unit))
		return option_fail (v, "\"%.60s\": expected %s", v->text, example);
	while (u->name && strcmp (u->name, unit) != 0)
		u++;
	if (!u->name && number == 0 && *unit == 0)
		u = units; /* "0" needs no unit */
	if (!u->name || __builtin_mul_overflow (number, u->factor, &number))
		return option_fail (v, "\"%.60s\": expected %s", v->text, example);

	bool any = o->min == 0 && o->max == 0;
	if (number < o->min || (!any && number > o->max)) {
		number_text (o->min, units, low, sizeof (low));
		number_text (o->max, units, high, sizeof (high));
		if (any)
			return option_fail (v, "%.60s: expected at least 0", v->text);
		return option_fail (v, "%.60s: expected %s to %s", v->text, low, high);
	}
	memcpy (v->field, &number, sizeof (number));
	return 0;
}

static int
option_bool (const struct option_value *v)
{
	static const char *const words[] = { "false", "true", "no", "yes", "off", "on", "0", "1" };

	for (size_t i = 0; i < ARRAY_SIZE (words); i++) {
		if (strcasecmp (v->text, words[i]) == 0) {
			*(bool *) v->field = i % 2;
			return 0;
		}
	}
	return option_fail (v, "\"%.60s\": expected true or false", v->text);
}

static int
option_choice (const struct option_value *v)
{
	const char *p = v->option->choices ? v->option->choices : "";
	size_t len = strlen (v->text);

	for (int64_t i = 0; *p; i++) {
		size_t n = strcspn (p, " ");
		if (n == len && strncmp (p, v->text, n) == 0) {
			memcpy (v->field, &i, sizeof (i));
			return 0;
		}
		p += n;
		p += strspn (p, " ");
	}
	return option_fail (v, "\"%.60s\": expected one of: %s", v->text, v->option->choices);
}

/* Put an owned text into the field. */
static int
option_keep (const struct option_value *v, const char *text)
{
	char *copy = NULL;
	int r = util_strdup (text, &copy, v->err);
	if (r == 0)
		*(char **) v->field = copy;
	return r;
}

static int
option_path (const struct option_value *v)
{
	const char *state = v->scope->state;
	char *path;

	if (v->text[0] == 0 || v->text[0] == '/' || !state)
		return option_keep (v, v->text);
	if (asprintf (&path, "%s/%s", state, v->text) < 0)
		return silo_fail_nomem (v->err);
	if (strlen (path) >= PATH_MAX) {
		free (path);
		return option_fail (v, "expected a path of less than %d bytes", PATH_MAX);
	}
	*(char **) v->field = path;
	return 0;
}

/* Pointers and words in one block. */
static int
option_list (const struct option_value *v)
{
	static const char space[] = " \t\r\n";
	size_t n = 0, len = strlen (v->text);

	for (const char *p = v->text; *(p += strspn (p, space)); p += strcspn (p, space))
		n++;
	char **list = malloc ((n + 1) * sizeof (*list) + len + 1);
	if (!list)
		return silo_fail_nomem (v->err);

	char *words = (char *) &list[n + 1];
	memcpy (words, v->text, len + 1);
	n = 0;
	for (char *p = words; *(p += strspn (p, space));) {
		list[n++] = p;
		p += strcspn (p, space);
		if (*p)
			*p++ = 0;
	}
	list[n] = NULL;
	*(char ***) v->field = list;
	return 0;
}

/* The first line of a file, which is the secret. */
static int
option_secret_file (const struct option_value *v, const char *name)
{
	char path[PATH_MAX], text[OPTION_MAX_SECRET];
	const char *state = v->scope->state ? v->scope->state : "";
	bool absolute = name[0] == '/';

	int n = snprintf (path, sizeof (path), "%s%s%s", absolute ? "" : state, absolute ? "" : "/",
			  name);
	if (n < 0 || (size_t) n >= sizeof (path))
		return option_fail (v, "the path after file: is too long");
	_cleanup_close_ int fd = open (path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return option_fail (v, "file %s: %s", path, strerror (errno));

	size_t len = 0;
	while (len < sizeof (text) - 1) {
		ssize_t got = read (fd, text + len, sizeof (text) - 1 - len);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return option_fail (v, "file %s: %s", path, strerror (errno));
		if (got == 0)
			break;
		len += (size_t) got;
	}
	text[len] = 0;
	text[strcspn (text, "\r\n")] = 0;
	int r = text[0] ? option_keep (v, text)
			: option_fail (v, "file %s: its first line is empty", path);
	explicit_bzero (text, sizeof (text));
	return r;
}

static int
option_secret (const struct option_value *v)
{
	if (strncmp (v->text, "file:", 5) == 0)
		return option_secret_file (v, v->text + 5);
	if (strncmp (v->text, "env:", 4) == 0) {
		const char *value = getenv (v->text + 4);
		if (!value || !*value)
			return option_fail (v, "environment variable %s is not set", v->text + 4);
		return option_keep (v, value);
	}
	return option_keep (v, v->text);
}

static int
option_use (const struct option_value *v)
{
	struct silo_instance *used = NULL;

	if (v->text[0]) {
		if (!v->scope->use)
			return option_fail (v, "cannot name an instance here");
		int r = v->scope->use (v->scope->arg, v->option->use_kind, v->text, v->line, &used,
				       v->err);
		if (r < 0)
			return r;
	}
	*(struct silo_instance **) v->field = used;
	return 0;
}

/* Text that goes into logs, JSON and databases as it is. */
static int
option_string (const struct option_value *v)
{
	_cleanup_json_ json_t *utf8 = json_string (v->text);
	if (!utf8)
		return option_fail (v, "expected UTF-8");
	return option_keep (v, v->text);
}

static int
option_set (const struct option_value *v)
{
	if (v->option->type != SILO_LIST && strchr (v->text, '\n'))
		return option_fail (v, "expected one value, but it goes on in the next line");

	switch (v->option->type) {
	case SILO_STRING:
		return option_string (v);
	case SILO_PATH:
		return option_path (v);
	case SILO_BOOL:
		return option_bool (v);
	case SILO_INT:
		return option_number (v, int_units, "a whole number");
	case SILO_SIZE:
		return option_number (v, size_units, "a size such as 512, 64K, 8M, 1G or 2T");
	case SILO_DURATION:
		return option_number (v, duration_units,
				      "a duration such as 500ms, 10s, 5m, 2h or 7d");
	case SILO_LIST:
		return option_list (v);
	case SILO_CHOICE:
		return option_choice (v);
	case SILO_SECRET:
		return option_secret (v);
	case SILO_USE:
		return option_use (v);
	}
	return option_fail (v, "the plugin gives it type %d, which this Silo does not know",
			    (int) v->option->type);
}

/* -- tables --------------------------------------------------------------------- */

bool
options_row (const struct silo_option *table, size_t row_size, size_t i, struct silo_option *ret)
{
	if (!table || i >= OPTION_MAX_ROWS)
		return false;
	memset (ret, 0, sizeof (*ret));
	memcpy (ret, (const char *) table + i * row_size,
		row_size < sizeof (*ret) ? row_size : sizeof (*ret));
	return ret->name != NULL;
}

size_t
option_size (enum silo_option_type type)
{
	switch (type) {
	case SILO_BOOL:
		return sizeof (bool);
	case SILO_INT:
	case SILO_SIZE:
	case SILO_DURATION:
	case SILO_CHOICE:
		return sizeof (int64_t);
	case SILO_STRING:
	case SILO_PATH:
	case SILO_LIST:
	case SILO_SECRET:
	case SILO_USE:
		return sizeof (void *);
	}
	return 0;
}

/* Refuse the keys that neither the table nor anybody before (`used`) knows. */
static int
options_check_keys (const struct option_scope *scope, const struct config_section *section,
		    const struct silo_option *table, size_t row_size, struct silo_error *err)
{
	const char *names[OPTION_MAX_ROWS];
	struct silo_option row;
	size_t n = 0;

	while (options_row (table, row_size, n, &row))
		names[n++] = row.name;
	for (size_t k = 0; k < section->n_keys; k++) {
		struct config_key *key = &section->keys[k];
		for (size_t i = 0; i < n && !key->used; i++)
			key->used = strcmp (key->name, names[i]) == 0;
		if (key->used)
			continue;
		const char *nearest = word_nearest (key->name, names, n);
		if (nearest)
			return config_fail (scope->config, key->line, err,
					    "[%s] %s: unknown key, did you mean %s?", section->name,
					    key->name, nearest);
		return config_fail (scope->config, key->line, err,
				    "[%s] %s: unknown key; `silo plugins --describe` lists the "
				    "valid ones",
				    section->name, key->name);
	}
	return 0;
}

int
options_fill (const struct option_scope *scope, const char *section_name,
	      const struct config_section *section, const struct silo_option *table,
	      size_t row_size, void *self, struct silo_error *err)
{
	struct silo_option row;

	if (section) {
		int r = options_check_keys (scope, section, table, row_size, err);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; options_row (table, row_size, i, &row); i++) {
		struct option_value v = { .scope = scope,
					  .section = section_name,
					  .option = &row,
					  .text = row.def,
					  .field = (char *) self + row.offset,
					  .err = err };
		for (size_t k = 0; section && k < section->n_keys; k++) {
			if (strcmp (section->keys[k].name, row.name) == 0) {
				v.text = section->keys[k].value;
				v.line = section->keys[k].line;
			}
		}
		if (!v.text)
			return config_fail (scope->config, section ? section->line : 0, err,
					    "[%s] %s: this key must be given (%s)", section_name,
					    row.name, row.help ? row.help : "it has no default");
		int r = option_set (&v);
		if (r < 0)
			return r;
	}
	return 0;
}

void
options_free (const struct silo_option *table, size_t row_size, void *self)
{
	struct silo_option row;

	for (size_t i = 0; self && options_row (table, row_size, i, &row); i++) {
		if (row.type != SILO_STRING && row.type != SILO_PATH && row.type != SILO_LIST &&
		    row.type != SILO_SECRET)
			continue;
		char **field = (char **) ((char *) self + row.offset);
		if (row.type == SILO_SECRET && *field)
			explicit_bzero (*field, strlen (*field));
		free (*field);
		*field = NULL;
	}
}
