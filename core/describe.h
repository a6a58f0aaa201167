/* SPDX-License-Identifier: Apache-2.0 */
/*
 * describe.h - the installed plugins as a set, and what is printed of them.
 */
#ifndef DESCRIBE_H
#define DESCRIBE_H

#include "core.h"

/* A file among the plugins that is none. */
struct plugin_bad {
	char *path;
	char *why;
};

struct plugin_set {
	struct plugin **item; /* by kind and name; the first of each name that is found */
	size_t n;
	struct plugin_bad *bad;
	size_t n_bad;
};

/* `format` is "ini", "json" or "man". */
int describe_print (FILE *to, const char *format, const struct plugin_set *set,
		    struct silo_error *err);
json_t *describe_json (const struct plugin_set *set);

#endif
