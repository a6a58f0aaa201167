/* SPDX-License-Identifier: Apache-2.0 */
/*
 * option.c - every type of option: values that are accepted, and the message
 * for each that is not.
 */
#include "core.h"
#include "tap.h"

#include <fcntl.h>

struct all {
	const char *string;
	const char *path;
	bool flag;
	int64_t number;
	int64_t any;
	int64_t size;
	int64_t duration;
	const char *const *list;
	int64_t choice;
	const char *secret;
	struct silo_instance *use;
};

#define OPTION(type_, field, def_) \
	.name = #field, .type = type_, .offset = offsetof (struct all, field), .def = def_

static const struct silo_option table[] = {
	{ OPTION (SILO_STRING, string, "s") },
	{ OPTION (SILO_PATH, path, "") },
	{ OPTION (SILO_BOOL, flag, "no") },
	{ OPTION (SILO_INT, number, "5"), .min = -10, .max = 10 },
	{ OPTION (SILO_INT, any, "0") },
	{ OPTION (SILO_SIZE, size, "4K"), .min = 1, .max = 1LL << 42 },
	{ OPTION (SILO_DURATION, duration, "10s") },
	{ OPTION (SILO_LIST, list, "a b") },
	{ OPTION (SILO_CHOICE, choice, "tmpfs"), .choices = "tmpfs disk none" },
	{ OPTION (SILO_SECRET, secret, "") },
	{ OPTION (SILO_USE, use, ""), .use_kind = SILO_KIND_CONTENT },
	{ .name = NULL },
};

/* Fill from one line; "" or the message.  Free with options_free. */
static const char *
fill (const char *line, struct all *ret)
{
	static struct silo_error err;
	char text[400];
	struct config *config;

	snprintf (text, sizeof (text), "[content.x]\n%s\n", line);
	memset (ret, 0, sizeof (*ret));
	memset (&err, 0, sizeof (err));
	if (config_parse ("x.ini", text, &config, &err) < 0)
		return err.msg;
	struct option_scope scope = { .config = config, .state = "/state" };
	int r = options_fill (&scope, "content.x", &config->sections[0], table, sizeof (table[0]),
			      ret, &err);
	config_free (config);
	return r < 0 ? err.msg : "";
}

static void
test_defaults (void)
{
	struct option_scope scope = { .state = "/state" };
	struct all v = { .flag = true };
	struct silo_error err = { 0 };

	tap_is_int (options_fill (&scope, "content.x", NULL, table, sizeof (table[0]), &v, &err), 0,
		    "no section, all defaults");
	tap_is_str (v.string, "s", "string");
	tap_is_str (v.path, "", "an empty path stays empty");
	tap_ok (!v.flag && v.number == 5 && v.any == 0, "bool and numbers");
	tap_ok (v.size == 4096 && v.duration == 10000 && v.choice == 0, "size, duration, choice");
	tap_ok (!strcmp (v.list[0], "a") && !strcmp (v.list[1], "b") && !v.list[2], "list");
	tap_ok (!v.use && v.secret[0] == 0, "no instance, no secret");
	options_free (table, sizeof (table[0]), &v);
	tap_ok (!v.string && !v.list, "options_free clears what it frees");
}

static void
test_numbers (void)
{
	static const struct {
		const char *line;
		size_t field;
		int64_t value;
	} cases[] = {
		{ "number = -10", offsetof (struct all, number), -10 },
		{ "any = 9223372036854775807", offsetof (struct all, any), INT64_MAX },
		{ "size = 512", offsetof (struct all, size), 512 },
		{ "size = 3M", offsetof (struct all, size), 3 << 20 },
		{ "size = 2T", offsetof (struct all, size), 2LL << 40 },
		{ "duration = 0", offsetof (struct all, duration), 0 },
		{ "duration = 500ms", offsetof (struct all, duration), 500 },
		{ "duration = 7d", offsetof (struct all, duration), 7LL * 86400000 },
		{ "choice = none", offsetof (struct all, choice), 2 },
	};

	for (size_t i = 0; i < ARRAY_SIZE (cases); i++) {
		struct all v;
		const char *message = fill (cases[i].line, &v);
		int64_t got;
		memcpy (&got, (char *) &v + cases[i].field, sizeof (got));
		tap_ok (!message[0] && got == cases[i].value, "%s%s%s", cases[i].line,
			message[0] ? ": " : "", message);
		options_free (table, sizeof (table[0]), &v);
	}
}

static void
test_texts (void)
{
	struct all v;

	tap_is_str (fill ("path = objects/x", &v), "", "a relative path");
	tap_is_str (v.path, "/state/objects/x", "starts at the state folder");
	options_free (table, sizeof (table[0]), &v);
	tap_is_str (fill ("path = /abs", &v), "", "an absolute path");
	tap_is_str (v.path, "/abs", "stays");
	options_free (table, sizeof (table[0]), &v);
	tap_is_str (fill ("list = one\n two\n\tthree four", &v), "", "a list over three lines");
	tap_ok (v.list && !strcmp (v.list[0], "one") && !strcmp (v.list[3], "four") && !v.list[4],
		"has its four words");
	options_free (table, sizeof (table[0]), &v);
	tap_is_str (fill ("list =", &v), "", "an empty list");
	tap_ok (v.list && !v.list[0], "has no words");
	options_free (table, sizeof (table[0]), &v);
	for (const char *const *yes = (const char *const[]){ "true", "Yes", "on", "1", NULL }; *yes;
	     yes++) {
		char line[40];
		snprintf (line, sizeof (line), "flag = %s", *yes);
		tap_ok (!fill (line, &v)[0] && v.flag, "%s", line);
		options_free (table, sizeof (table[0]), &v);
	}
}

static void
test_secrets (void)
{
	char path[] = "/tmp/silo-secret-XXXXXX", line[100], want[200];
	struct all v;

	int fd = mkstemp (path);
	if (fd < 0 || write (fd, "hush\nsecond\n", 12) != 12)
		tap_bail ("%s: %s", path, strerror (errno));
	snprintf (line, sizeof (line), "secret = file:%s", path);
	tap_is_str (fill (line, &v), "", "a secret from a file");
	tap_is_str (v.secret, "hush", "is its first line");
	options_free (table, sizeof (table[0]), &v);
	if (ftruncate (fd, 0) < 0)
		tap_bail ("ftruncate: %s", strerror (errno));
	snprintf (want, sizeof (want),
		  "x.ini:2: [content.x] secret: file %s: its first line is empty", path);
	tap_is_str (fill (line, &v), want, "an empty file is no secret");
	options_free (table, sizeof (table[0]), &v);
	close (fd);
	unlink (path);
	tap_ok (strstr (fill (line, &v), "No such file"), "nor is one that is not there");
	options_free (table, sizeof (table[0]), &v);

	setenv ("SILO_TEST_SECRET", "quiet", 1);
	tap_is_str (fill ("secret = env:SILO_TEST_SECRET", &v), "", "from the environment");
	tap_is_str (v.secret, "quiet", "the variable's value");
	options_free (table, sizeof (table[0]), &v);
	unsetenv ("SILO_TEST_SECRET");
	tap_is_str (fill ("secret = env:SILO_TEST_SECRET", &v),
		    "x.ini:2: [content.x] secret: environment variable SILO_TEST_SECRET is not set",
		    "an unset variable");
	options_free (table, sizeof (table[0]), &v);
}

static void
test_bad (void)
{
	static const struct {
		const char *line, *message;
	} cases[] = {
		{ "numbr = 1", "[content.x] numbr: unknown key, did you mean number?" },
		{ "sting = 1", "[content.x] sting: unknown key, did you mean string?" },
		{ "wholly_else = 1", "[content.x] wholly_else: unknown key; `silo plugins "
				     "--describe` lists the valid ones" },
		{ "number = 11", "[content.x] number: 11: expected -10 to 10" },
		{ "number = ten", "[content.x] number: \"ten\": expected a whole number" },
		{ "number = 5x", "[content.x] number: \"5x\": expected a whole number" },
		{ "number =", "[content.x] number: \"\": expected a whole number" },
		{ "any = -1", "[content.x] any: -1: expected at least 0" },
		{ "any = 9223372036854775808",
		  "[content.x] any: \"9223372036854775808\": expected a whole number" },
		{ "size = 9000000T", "[content.x] size: \"9000000T\": expected a size such as 512, "
				     "64K, 8M, 1G or 2T" },
		{ "size = 5T", "[content.x] size: 5T: expected 1 to 4T" },
		{ "size = 5 M", "[content.x] size: \"5 M\": expected a size such as 512, 64K, 8M, "
				"1G or 2T" },
		{ "duration = 10",
		  "[content.x] duration: \"10\": expected a duration such as 500ms, "
		  "10s, 5m, 2h or 7d" },
		{ "flag = maybe", "[content.x] flag: \"maybe\": expected true or false" },
		{ "choice = tmp", "[content.x] choice: \"tmp\": expected one of: tmpfs disk none" },
		{ "string = \xff", "[content.x] string: expected UTF-8" },
		{ "string = a\n b", "[content.x] string: expected one value, but it goes on in the "
				    "next line" },
		{ "use = other", "[content.x] use: cannot name an instance here" },
	};

	for (size_t i = 0; i < ARRAY_SIZE (cases); i++) {
		struct all v;
		char want[240];
		snprintf (want, sizeof (want), "x.ini:2: %s", cases[i].message);
		tap_is_str (fill (cases[i].line, &v), want, "%s", want);
		options_free (table, sizeof (table[0]), &v);
	}
}

static void
test_required (void)
{
	static const struct silo_option required[] = {
		{ OPTION (SILO_STRING, string, NULL), .help = "what to say" },
		{ .name = NULL },
	};
	struct option_scope scope = { 0 };
	struct silo_error err = { 0 };
	struct all v = { 0 };

	tap_is_int (
	    options_fill (&scope, "content.x", NULL, required, sizeof (required[0]), &v, &err),
	    SILO_INVALID, "an option without default");
	tap_is_str (err.msg, "[content.x] string: this key must be given (what to say)",
		    "has to be given");
}

/* A table of a plugin that was built when options had fewer fields. */
static void
test_short_rows (void)
{
	enum { SHORT = offsetof (struct silo_option, def) + sizeof (char *) };
	char rows[3 * SHORT];
	struct silo_option row;

	memcpy (rows, &table[0], SHORT);
	memcpy (rows + SHORT, &table[4], SHORT);
	memset (rows + 2 * SHORT, 0, SHORT);
	const struct silo_option *older = (const void *) rows;
	tap_ok (options_row (older, SHORT, 1, &row) && !strcmp (row.name, "any") && row.min == 0 &&
		    !row.help,
		"a short row is padded with zeros");
	tap_ok (!options_row (older, SHORT, 2, &row), "and the table ends where it ends");
}

int
main (void)
{
	test_defaults ();
	test_numbers ();
	test_texts ();
	test_secrets ();
	test_bad ();
	test_required ();
	test_short_rows ();
	static const char *const words[] = { "transport", "storage", "content" };
	tap_is_str (word_nearest ("contnet", words, 3), "content", "swapped letters are one edit");
	tap_is_str (word_nearest ("stor", words, 3), NULL, "half a word is too far");
	return tap_done ();
}
