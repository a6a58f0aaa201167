/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config.c - silo.ini as sections, keys and line numbers; what they mean is
 * for settings.c and instance.c.  inih splits the lines.  The reader that
 * feeds it sees every line first: it counts them and refuses what inih would
 * cut or accept in silence (long lines, empty sections, repeated sections).
 */
#include "core.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdarg.h>
#include <ini.h>

enum {
	CONFIG_MAX_BYTES = 1 << 20,
	CONFIG_MAX_NAME = 48, /* inih keeps 49 characters of a section's or key's name */
};

static const char config_installed[] = SILO_SYSCONFDIR "/silo/silo.ini";

/* Parsing: what the reader and the handler share. */
struct config_reader {
	struct config *config;
	const char *next; /* unread text */
	const char *end;
	int line;       /* of the line that inih has now, from 1 */
	bool in_key;    /* an indented line would continue the last key */
	bool continues; /* the current line does */
	int code;       /* of the first failure; nothing is read after it */
	struct silo_error *err;
};

int
config_fail (const struct config *config, int line, struct silo_error *err, const char *fmt, ...)
{
	char msg[sizeof (((struct silo_error *) 0)->msg)];
	va_list ap;

	va_start (ap, fmt);
	vsnprintf (msg, sizeof (msg), fmt, ap);
	va_end (ap);
	if (!config || !config->path)
		return silo_fail (err, SILO_INVALID, "%s", msg);
	if (line <= 0)
		return silo_fail (err, SILO_INVALID, "%s: %s", config->path, msg);
	return silo_fail (err, SILO_INVALID, "%s:%d: %s", config->path, line, msg);
}

const struct config_section *
config_find (const struct config *config, const char *name)
{
	for (size_t i = 0; i < config->n_sections; i++) {
		if (strcmp (config->sections[i].name, name) == 0)
			return &config->sections[i];
	}
	return NULL;
}

/* Is this a name that a section or key may have? */
static bool
config_name_ok (const char *name, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (!isalnum ((unsigned char) name[i]) && !strchr ("._-", name[i]))
			return false;
	}
	return len > 0 && len <= CONFIG_MAX_NAME;
}

/* -- sections: found by the reader ------------------------------------------ */

static int
config_add_section (struct config_reader *r, const char *name, size_t len)
{
	struct config *config = r->config;

	for (size_t i = 0; i < config->n_sections; i++) {
		const struct config_section *s = &config->sections[i];
		if (strncmp (s->name, name, len) == 0 && s->name[len] == 0)
			return config_fail (config, r->line, r->err,
					    "section [%s] is there twice, first on line %d: put "
					    "its keys together",
					    s->name, s->line);
	}
	struct config_section *grown =
	    reallocarray (config->sections, config->n_sections + 1, sizeof (*grown));
	if (!grown)
		return silo_fail_nomem (r->err);
	config->sections = grown;
	char *copy = strndup (name, len);
	if (!copy)
		return silo_fail_nomem (r->err);
	grown[config->n_sections++] = (struct config_section){ .name = copy, .line = r->line };
	return 0;
}

/* "[name]" and nothing after it but a comment. */
static int
config_section_line (struct config_reader *r, const char *text, size_t len)
{
	const char *close = memchr (text, ']', len);
	if (!close)
		return config_fail (r->config, r->line, r->err,
				    "expected ] at the end of [section]");

	size_t name_len = (size_t) (close - text) - 1;
	if (!config_name_ok (text + 1, name_len))
		return config_fail (r->config, r->line, r->err,
				    "[%.*s]: expected a section's name of 1 to %d letters, digits, "
				    "\".\", \"_\" or \"-\"",
				    (int) (name_len < 60 ? name_len : 60), text + 1,
				    CONFIG_MAX_NAME);
	for (const char *p = close + 1; p < text + len && *p != ';' && *p != '#'; p++) {
		if (!isspace ((unsigned char) *p))
			return config_fail (r->config, r->line, r->err,
					    "expected nothing after [%.*s]", (int) name_len,
					    text + 1);
	}
	r->in_key = false;
	return config_add_section (r, text + 1, name_len);
}

/* -- lines: what inih gets to see -------------------------------------------- */

/* An indented line below a key continues its value, so that a key which was only indented
 * by habit would vanish in the value above it. */
static int
config_continued_line (struct config_reader *r, const char *text, size_t len)
{
	size_t word = 0, gap;

	while (word < len && (isalnum ((unsigned char) text[word]) || text[word] == '_'))
		word++;
	for (gap = word; gap < len && isspace ((unsigned char) text[gap]); gap++)
		;
	if (word > 0 && gap > word && gap < len && text[gap] == '=')
		return config_fail (
		    r->config, r->line, r->err,
		    "an indented line continues the value above it: write \"%.*s =\" "
		    "at the beginning of the line",
		    (int) (word < 60 ? word : 60), text);
	return 0;
}

static int
config_check_line (struct config_reader *r, const char *line, size_t len, size_t max)
{
	if (len > max)
		return config_fail (r->config, r->line, r->err,
				    "the line has %zu bytes, at most %zu are read: continue a list "
				    "on indented lines below it",
				    len, max);
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char) line[i];
		if ((c < 0x20 && c != '\t' && c != '\r') || c == 0x7f)
			return config_fail (r->config, r->line, r->err, "byte 0x%02x is no text",
					    c);
	}

	size_t indent = 0;
	while (indent < len && isspace ((unsigned char) line[indent]))
		indent++;
	r->continues = false;
	if (indent == len || line[indent] == ';' || line[indent] == '#')
		return 0;
	if (indent > 0 && r->in_key) {
		r->continues = true;
		return config_continued_line (r, line + indent, len - indent);
	}
	if (line[indent] == '[')
		return config_section_line (r, line + indent, len - indent);
	if (!memchr (line, '=', len) && !memchr (line, ':', len))
		return config_fail (r->config, r->line, r->err,
				    "expected \"key = value\" or \"[section]\"");
	return 0;
}

/* Give inih its next line, as fgets would; NULL at the end or after a failure. */
static char *
config_next_line (char *to, int size, void *arg)
{
	static const char bom[] = "\xef\xbb\xbf";
	struct config_reader *r = arg;

	if (r->code < 0 || r->next == r->end)
		return NULL;
	const char *newline = memchr (r->next, '\n', (size_t) (r->end - r->next));
	const char *line = r->next;
	size_t len = (size_t) ((newline ? newline : r->end) - line);

	r->next = newline ? newline + 1 : r->end;
	if (r->line++ == 0 && len >= 3 && memcmp (line, bom, 3) == 0) {
		line += 3;
		len -= 3;
	}
	r->code = config_check_line (r, line, len, (size_t) size - 3);
	if (r->code < 0)
		return NULL;
	memcpy (to, line, len);
	memcpy (to + len, "\n", 2);
	return to;
}

/* -- keys: found by inih ------------------------------------------------------ */

/* One more line of the last key's value. */
static int
config_continue_key (struct config_reader *r, const char *value)
{
	struct config_section *section = &r->config->sections[r->config->n_sections - 1];
	struct config_key *key = &section->keys[section->n_keys - 1];
	char *joined;

	if (asprintf (&joined, "%s\n%s", key->value, value) < 0)
		return silo_fail_nomem (r->err);
	free (key->value);
	key->value = joined;
	return 0;
}

static int
config_add_key (struct config_reader *r, const char *name, const char *value)
{
	struct config *config = r->config;

	if (!config_name_ok (name, strlen (name)))
		return config_fail (config, r->line, r->err,
				    "\"%.60s\": expected a key's name of 1 to %d letters, digits "
				    "or \"_\"",
				    name, CONFIG_MAX_NAME);
	if (config->n_sections == 0)
		return config_fail (config, r->line, r->err,
				    "key %s is above the first [section]: put it below [silo]",
				    name);
	struct config_section *section = &config->sections[config->n_sections - 1];
	for (size_t i = 0; i < section->n_keys; i++) {
		if (strcmp (section->keys[i].name, name) == 0)
			return config_fail (config, r->line, r->err,
					    "[%s] %s is there twice, first on line %d",
					    section->name, name, section->keys[i].line);
	}

	struct config_key *grown =
	    reallocarray (section->keys, section->n_keys + 1, sizeof (*grown));
	if (!grown)
		return silo_fail_nomem (r->err);
	section->keys = grown;
	struct config_key key = { .line = r->line };
	int code = util_strdup (name, &key.name, r->err);
	if (code == 0)
		code = util_strdup (value, &key.value, r->err);
	if (code < 0) {
		free (key.name);
		return code;
	}
	grown[section->n_keys++] = key;
	r->in_key = true;
	return 0;
}

/* Called by inih for "name = value" and for each continued line; 0 means failed. */
static int
config_found_key (void *arg, const char *section, const char *name, const char *value)
{
	struct config_reader *r = arg;

	(void) section;
	if (r->code < 0)
		return 0;
	r->code = r->continues ? config_continue_key (r, value) : config_add_key (r, name, value);
	return r->code == 0;
}

/* -- files ---------------------------------------------------------------------- */

static int
config_parse_bytes (const char *path, const char *text, size_t len, struct config **ret,
		    struct silo_error *err)
{
	struct config *config = calloc (1, sizeof (*config));
	if (!config)
		return silo_fail_nomem (err);
	struct config_reader r = { .config = config, .next = text, .end = text + len, .err = err };

	r.code = util_strdup (path, &config->path, err);
	if (r.code == 0) {
		int bad = ini_parse_stream (config_next_line, &r, config_found_key, &r);
		if (r.code == 0 && bad != 0)
			r.code = config_fail (config, bad, err,
					      "expected \"key = value\" or \"[section]\"");
	}
	if (r.code < 0) {
		config_free (config);
		return r.code;
	}
	*ret = config;
	return 0;
}

int
config_parse (const char *path, const char *text, struct config **ret, struct silo_error *err)
{
	return config_parse_bytes (path, text, strlen (text), ret, err);
}

const char *
config_default_path (void)
{
	const char *named = secure_getenv ("SILO_CONFIG");
	return named && *named ? named : config_installed;
}

static int
config_read (const char *path, int fd, struct silo_buf *text, struct silo_error *err)
{
	for (;;) {
		int code = silo_buf_reserve (text, 65536, err);
		if (code < 0)
			return code;
		ssize_t n = read (fd, text->data + text->len, 65536);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return silo_fail (err, SILO_INVALID, "configuration file %s: %s", path,
					  strerror (errno));
		if (n == 0)
			return 0;
		text->len += (size_t) n;
		if (text->len > CONFIG_MAX_BYTES)
			return silo_fail (err, SILO_INVALID,
					  "configuration file %s: expected at most %d bytes", path,
					  CONFIG_MAX_BYTES);
	}
}

/* Not there is fine only for the installed file that nobody has named: everything has a
 * default.  Hence the comparison of pointers. */
int
config_load (const char *path, struct config **ret, struct silo_error *err)
{
	_cleanup_buf_ struct silo_buf text = SILO_BUF (CONFIG_MAX_BYTES + 2 * 65536);

	if (!path)
		path = config_default_path ();
	_cleanup_close_ int fd = open (path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0 && errno == ENOENT && path == config_installed)
		return config_parse_bytes (path, "", 0, ret, err);
	if (fd < 0)
		return silo_fail (err, SILO_INVALID, "configuration file %s: %s", path,
				  strerror (errno));
	int code = config_read (path, fd, &text, err);
	if (code < 0)
		return code;
	return config_parse_bytes (path, text.data ? (const char *) text.data : "", text.len, ret,
				   err);
}

void
config_free (struct config *config)
{
	if (!config)
		return;
	for (size_t i = 0; i < config->n_sections; i++) {
		struct config_section *section = &config->sections[i];
		for (size_t k = 0; k < section->n_keys; k++) {
			free (section->keys[k].name);
			free (section->keys[k].value);
		}
		free (section->keys);
		free (section->name);
	}
	free (config->sections);
	free (config->path);
	free (config);
}
