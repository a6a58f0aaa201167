/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.c - silo.ini as text: what is accepted, and file and line of what is
 * not, above all of what inih alone would cut or ignore.
 */
#include "core.h"
#include "tap.h"

#include <fcntl.h>
#include <sys/stat.h>

/* Parse and give the message, "" when it parses. */
static const char *
parse (const char *text, struct config **ret)
{
	static struct silo_error err;

	memset (&err, 0, sizeof (err));
	*ret = NULL;
	int r = config_parse ("x.ini", text, ret, &err);
	if (r < 0 && r != SILO_INVALID)
		tap_note ("code %s", silo_code_name (r));
	return r < 0 ? err.msg : "";
}

static void
test_good (void)
{
	struct config *c;
	const struct config_section *s;

	tap_is_str (parse ("\xef\xbb\xbf; a comment\n"
			   "[silo]\n"
			   "  # another, indented\n"
			   "state = /x y\t\n"
			   "log=info ; behind a value\n"
			   "\n"
			   "[transport.http]\r\n"
			   "listen = a\r\n"
			   "\tb\n"
			   "  ; in between\n"
			   "   [::1]:80\n"
			   "[content.empty] ; nothing\n"
			   "[storage.last]\n"
			   "a : b=c",
			   &c),
		    "", "a silo.ini of every kind of line");
	if (!c)
		return;
	tap_is_int ((int64_t) c->n_sections, 4, "four sections, also the empty one");
	s = config_find (c, "silo");
	tap_ok (s && s->line == 2 && s->n_keys == 2, "[silo] is on line 2 with two keys");
	tap_is_str (s->keys[0].value, "/x y", "spaces around a value are not part of it");
	tap_is_int (s->keys[1].line, 5, "a key knows its line");
	tap_is_str (s->keys[1].value, "info", "a comment may stand behind a value");
	s = config_find (c, "transport.http");
	tap_is_str (s->keys[0].value, "a\nb\n[::1]:80", "a value goes on in indented lines");
	s = config_find (c, "content.empty");
	tap_ok (s && s->line == 12 && s->n_keys == 0, "an empty section is reported");
	s = config_find (c, "storage.last");
	tap_is_str (s->keys[0].value, "b=c",
		    "the last line needs no newline, \":\" also separates");
	tap_ok (!config_find (c, "nothing"), "no section that is not there");
	config_free (c);

	tap_is_str (parse ("", &c), "", "an empty file");
	config_free (c);
}

static void
test_bad (void)
{
	static const struct {
		const char *what, *text, *message;
	} cases[] = {
		{ "a key twice", "[silo]\na = 1\nb = 2\na = 3\n",
		  "x.ini:4: [silo] a is there twice, first on line 2" },
		{ "a section twice", "[silo]\n[content.dir]\n[silo]\n",
		  "x.ini:3: section [silo] is there twice, first on line 1: put its keys "
		  "together" },
		{ "a key above all sections", "\na = 1\n",
		  "x.ini:2: key a is above the first [section]: put it below [silo]" },
		{ "a line that is nothing", "[silo]\nhello\n",
		  "x.ini:2: expected \"key = value\" or \"[section]\"" },
		{ "a key without a name", "[silo]\n= 3\n",
		  "x.ini:2: \"\": expected a key's name of 1 to 48 letters, digits or \"_\"" },
		{ "an open section", "[silo\n", "x.ini:1: expected ] at the end of [section]" },
		{ "a section with text behind it", "[silo] a = 1\n",
		  "x.ini:1: expected nothing after [silo]" },
		{ "a section without a name", "[]\n",
		  "x.ini:1: []: expected a section's name of 1 to 48 letters, digits, \".\", "
		  "\"_\" or \"-\"" },
		{ "an indented key", "[silo]\na = 1\n  b = 2\n",
		  "x.ini:3: an indented line continues the value above it: write \"b =\" at the "
		  "beginning of the line" },
		{ "a control character", "[silo]\na = \001\n", "x.ini:2: byte 0x01 is no text" },
		{ "the first of two mistakes", "[silo]\na\nb\n",
		  "x.ini:2: expected \"key = value\" or \"[section]\"" },
	};

	for (size_t i = 0; i < ARRAY_SIZE (cases); i++) {
		struct config *c;
		tap_is_str (parse (cases[i].text, &c), cases[i].message, "%s", cases[i].what);
		config_free (c);
	}
}

/* inih cuts lines at 199 bytes and names at 49, silently. */
static void
test_long (void)
{
	char text[1000];
	struct config *c;

	memset (text, 'v', sizeof (text));
	memcpy (text, "[silo]\na = ", 11);
	memcpy (text + 7 + 197, "\n", 2);
	tap_is_str (parse (text, &c), "", "a line of 197 bytes");
	tap_is_int (c ? (int64_t) strlen (c->sections[0].keys[0].value) : 0, 193, "is not cut");
	config_free (c);
	memcpy (text + 7 + 197, "v\n", 3);
	tap_is_str (parse (text, &c),
		    "x.ini:2: the line has 198 bytes, at most 197 are read: continue a list on "
		    "indented lines below it",
		    "a line of 198 bytes");
	config_free (c);

	memset (text, 's', sizeof (text));
	text[0] = '[';
	memcpy (text + 49, "]\n", 3);
	tap_is_str (parse (text, &c), "", "a section's name of 48 letters");
	config_free (c);
	memcpy (text + 49, "s]\n", 4);
	tap_ok (strstr (parse (text, &c), "expected a section's name"), "but not of 49");
	config_free (c);
}

static void
write_file (const char *path, const char *data, size_t len)
{
	int fd = open (path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write (fd, data, len) != (ssize_t) len || close (fd) < 0)
		tap_bail ("%s: %s", path, strerror (errno));
}

static void
test_files (void)
{
	char dir[] = "/tmp/silo-config-XXXXXX", path[64], want[200];
	struct silo_error err = { 0 };
	struct config *c = NULL;

	if (!mkdtemp (dir))
		tap_bail ("%s: %s", dir, strerror (errno));
	snprintf (path, sizeof (path), "%s/silo.ini", dir);

	tap_is_int (config_load (path, &c, &err), SILO_INVALID, "a named file has to exist");
	snprintf (want, sizeof (want), "configuration file %s: No such file or directory", path);
	tap_is_str (err.msg, want, "and the message names it");
	tap_is_int (config_load (dir, &c, &err), SILO_INVALID, "a folder is no silo.ini");

	write_file (path, "[silo]\na = b\0c\n", 15);
	tap_is_int (config_load (path, &c, &err), SILO_INVALID, "a NUL is no text");
	snprintf (want, sizeof (want), "%s:2: byte 0x00 is no text", path);
	tap_is_str (err.msg, want, "and its line is named");

	write_file (path, "[silo]\na = b\n", 13);
	tap_is_int (config_load (path, &c, &err), 0, "a good file");
	tap_is_str (c ? c->path : NULL, path, "remembers its path");
	config_free (c);

	if (truncate (path, 2 << 20) < 0)
		tap_bail ("truncate: %s", strerror (errno));
	tap_is_int (config_load (path, &c, &err), SILO_INVALID, "two megabytes are too much");

	setenv ("SILO_CONFIG", path, 1);
	tap_is_str (config_default_path (), path, "$SILO_CONFIG is the default");
	unlink (path);
	tap_is_int (config_load (config_default_path (), &c, &err), SILO_INVALID,
		    "and has to exist, too");
	unsetenv ("SILO_CONFIG");
	if (access (config_default_path (), F_OK) < 0) {
		tap_is_int (config_load (config_default_path (), &c, &err), 0,
			    "without the installed file everything has its default");
		config_free (c);
	}
	rmdir (dir);
}

int
main (void)
{
	test_good ();
	test_bad ();
	test_long ();
	test_files ();
	return tap_done ();
}
