/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.c - logfmt lines on stderr, one write(2) each, so that lines of several
 * threads never mix.  Called from any thread.
 */
#include "core.h"

#include <stdarg.h>
#include <time.h>

static const char *const level_names[] = { "error", "warn", "info", "debug" };

static bool
log_level_parse (const char *text, enum silo_level *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE (level_names); i++) {
		if (strcmp (text, level_names[i]) == 0) {
			*ret = (enum silo_level) i;
			return true;
		}
	}
	return false;
}

enum silo_level
log_level_for (const struct settings *settings, const char *name)
{
	enum silo_level level = SILO_INFO, found;
	size_t n = strlen (name);
	bool exact = false;

	for (const char *const *word = settings ? settings->log : NULL; word && *word; word++) {
		if (strncmp (*word, name, n) == 0 && (*word)[n] == '=' &&
		    log_level_parse (*word + n + 1, &found)) {
			level = found;
			exact = true;
		} else if (!exact && log_level_parse (*word, &found)) {
			level = found;
		}
	}
	return level;
}

int
log_check (const struct config *config, const struct settings *settings, struct silo_error *err)
{
	const struct config_section *section = config_find (config, "silo");
	enum silo_level level;
	int line = 0;

	for (size_t i = 0; section && i < section->n_keys; i++)
		if (strcmp (section->keys[i].name, "log") == 0)
			line = section->keys[i].line;
	for (const char *const *word = settings->log; word && *word; word++) {
		const char *equals = strchr (*word, '=');
		if (!log_level_parse (equals ? equals + 1 : *word, &level))
			return config_fail (
			    config, line, err,
			    "[silo] log: \"%s\": expected error, warn, info or debug, "
			    "or COMPONENT=LEVEL",
			    *word);
	}
	return 0;
}

bool
silo_log_on (struct silo_host *host, enum silo_level level)
{
	return level <= (host ? host->level : SILO_INFO);
}

/* Append one character of a message, escaped for a quoted logfmt value. */
static size_t
log_escape (char *to, unsigned char c)
{
	static const char digits[] = "0123456789abcdef";

	if (c == '"' || c == '\\') {
		to[0] = '\\';
		to[1] = (char) c;
		return 2;
	}
	if (c == '\n') {
		memcpy (to, "\\n", 2);
		return 2;
	}
	if (c < 0x20 || c == 0x7f) {
		memcpy (to, "\\x", 2);
		to[2] = digits[c >> 4];
		to[3] = digits[c & 15];
		return 4;
	}
	to[0] = (char) c;
	return 1;
}

void
silo_log (struct silo_host *host, enum silo_level level, const char *fmt, ...)
{
	if (!silo_log_on (host, level))
		return;

	char msg[1024], line[1400];
	va_list ap;
	va_start (ap, fmt);
	vsnprintf (msg, sizeof (msg), fmt, ap);
	va_end (ap);

	struct timespec ts;
	struct tm tm;
	clock_gettime (CLOCK_REALTIME, &ts);
	gmtime_r (&ts.tv_sec, &tm);
	size_t n = strftime (line, sizeof (line), "ts=%Y-%m-%dT%H:%M:%S", &tm);
	n += (size_t) snprintf (line + n, sizeof (line) - n, ".%03ldZ level=%s comp=%.64s msg=\"",
				ts.tv_nsec / 1000000, level_names[level],
				host ? host->name : "silo");
	for (const char *p = msg; *p && n < sizeof (line) - 8; p++)
		n += log_escape (line + n, (unsigned char) *p);
	line[n++] = '"';
	line[n++] = '\n';
	/* Nobody to tell when stderr is gone. */
	ssize_t written = write (STDERR_FILENO, line, n);
	(void) written;
}
