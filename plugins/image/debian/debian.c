/* SPDX-License-Identifier: Apache-2.0 */
/*
 * debian.c - the plugin: debian:bookworm+python3 is a minimal Debian 12 with
 * python3 and what that needs, as one layer.  What an archive has changes from
 * day to day, so no reference has an immutable name.  All state of a call is on
 * its stack: any thread.
 */
#include "debian.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCHEME       "debian:"
#define MAX_PACKAGES ((size_t) 16 << 10) /* bytes of all names */

static const struct silo_option debian_options[] = {
	{ .name = "program",
	  .type = SILO_STRING,
	  .offset = offsetof (struct debian, program),
	  .def = "mmdebstrap",
	  .help = "mmdebstrap: a path, or a name to be found in PATH" },
	{ .name = "mirror",
	  .type = SILO_STRING,
	  .offset = offsetof (struct debian, mirror),
	  .def = "",
	  .help = "URL of a mirror, or a line of sources.list; empty: mmdebstrap's own choice" },
	{ .name = "variant",
	  .type = SILO_STRING,
	  .offset = offsetof (struct debian, variant),
	  .def = "minbase",
	  .help = "which packages there are before any is named, see mmdebstrap(1)" },
	{ .name = "timeout",
	  .type = SILO_DURATION,
	  .offset = offsetof (struct debian, timeout),
	  .def = "30m",
	  .help = "longest time that making one image may take; 0: any" },
	{ .name = NULL },
};

/* What images of Debian in registries have, too. */
static const char config[] =
    "{\"Env\":[\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"],"
    "\"Cmd\":[\"bash\"]}";

/* -- references ------------------------------------------------------------------- */

static bool
is_alnum (char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* Length of the name at the start of text.  Names of packages may hold "+" themselves, as "g++" and
 * "libstdc++6" do: one ends a name when no other stands before it and a letter or digit follows.
 * A comma ends every name. */
static size_t
name_len (const char *text)
{
	size_t len = 0;
	while (text[len] && text[len] != ',') {
		if (len > 0 && text[len] == '+' && text[len - 1] != '+' && is_alnum (text[len + 1]))
			break;
		len++;
	}
	return len;
}

static int
name_check (const char *reference, const char *name, size_t len, const char *what,
	    struct silo_error *err)
{
	bool good = len > 0 && len <= DEBIAN_MAX_NAME && is_alnum (*name);
	for (size_t i = 0; good && i < len; i++)
		good = is_alnum (name[i]) || strchr ("+.-", name[i]);
	if (good)
		return 0;
	return silo_fail (err, SILO_INVALID,
			  "%.100s: \"%.*s\" is no name of a %s; expected " SCHEME
			  "SUITE+PACKAGE+PACKAGE, as in " SCHEME "bookworm+python3",
			  reference, (int) (len < 40 ? len : 40), name, what);
}

static int
packages_parse (const char *reference, const char *at, struct silo_buf *to, struct silo_error *err)
{
	while (*at) {
		at++; /* the "+" or comma */
		size_t len = name_len (at);
		int r = name_check (reference, at, len, "package", err);
		if (r == 0 && to->len > 0)
			r = silo_buf_add (to, ",", 1, err);
		if (r == 0)
			r = silo_buf_add (to, at, len, err);
		if (r < 0)
			return r;
		at += len;
	}
	return 0;
}

/* "linux/arm64" -> "arm64"; Debian calls some differently. */
static int
architecture_parse (const char *platform, char *to, size_t size, struct silo_error *err)
{
	static const char *const names[][2] = {
		{ "386", "i386" },          { "arm", "armhf" },      { "arm/v7", "armhf" },
		{ "arm/v5", "armel" },      { "arm64/v8", "arm64" }, { "ppc64le", "ppc64el" },
		{ "mips64le", "mips64el" },
	};
	if (!platform || !*platform)
		return 0;
	const char *arch = strncmp (platform, "linux/", 6) == 0 ? platform + 6 : "";
	for (size_t i = 0; i < sizeof (names) / sizeof (names[0]); i++)
		if (strcmp (arch, names[i][0]) == 0)
			arch = names[i][1];
	size_t len = strlen (arch);
	bool good = len > 0 && len < size;
	for (size_t i = 0; good && i < len; i++)
		good = is_alnum (arch[i]);
	if (!good)
		return silo_fail (err, SILO_INVALID,
				  "platform \"%.60s\": expected one that Debian is made for, as "
				  "linux/arm64",
				  platform);
	memcpy (to, arch, len + 1);
	return 0;
}

static int
recipe_parse (const struct silo_image_source *source, struct recipe *ret, struct silo_error *err)
{
	const char *reference = source->reference, *suite = reference + strlen (SCHEME);
	if (strncmp (reference, SCHEME, strlen (SCHEME)) != 0)
		return silo_fail (err, SILO_UNIMPLEMENTED, "%.100s is no " SCHEME "SUITE",
				  reference);
	size_t len = strcspn (suite, "+,");
	int r = name_check (reference, suite, len, "suite", err);
	if (r < 0)
		return r;
	memcpy (ret->suite, suite, len);
	ret->suite[len] = '\0';
	r = packages_parse (reference, suite + len, &ret->packages, err);
	return r < 0 ? r
		     : architecture_parse (source->platform, ret->architecture,
					   sizeof (ret->architecture), err);
}

/* -- operations --------------------------------------------------------------------- */

static void
recipe_clear (struct recipe *recipe)
{
	silo_buf_free (&recipe->packages);
}

static int
debian_identify (void *self, const struct silo_image_source *source, struct silo_buf *ret_id,
		 struct silo_error *err)
{
	struct recipe recipe SILO_CLEANUP (recipe_clear) = { .packages = SILO_BUF (MAX_PACKAGES) };
	(void) self;
	(void) ret_id;
	return recipe_parse (source, &recipe, err);
}

static int
debian_import (void *self, const struct silo_image_source *source, struct silo_import *import,
	       struct silo_error *err)
{
	struct recipe recipe SILO_CLEANUP (recipe_clear) = { .packages = SILO_BUF (MAX_PACKAGES) };
	struct silo_layer *layer = NULL;
	char name[DEBIAN_MAX_NAME + sizeof (SCHEME)];
	int r = recipe_parse (source, &recipe, err);
	if (r < 0)
		return r;
	snprintf (name, sizeof (name), SCHEME "%s", recipe.suite);
	r = silo_import_config (import, config, strlen (config), err);
	if (r == 0)
		r = silo_import_layer (import, name, &layer, err);
	if (r == 0)
		r = bootstrap (self, &recipe, name, import, layer, err);
	return r < 0 ? r : silo_layer_end (layer, err);
}

/* -- life ---------------------------------------------------------------------------- */

static int
debian_init (void *self, struct silo_host *host, struct silo_error *err)
{
	struct debian *debian = self;
	debian->host = host;
	if (*debian->program == '\0')
		return silo_fail (err, SILO_INVALID, "program: expected a program");
	if (*debian->mirror == '-')
		return silo_fail (err, SILO_INVALID, "mirror: expected a URL or \"deb ...\"");
	return name_check ("variant", debian->variant, strlen (debian->variant), "variant", err);
}

static int
debian_start (void *self, struct silo_error *err)
{
	const struct debian *debian = self;
	(void) err;
	temp_clean (debian->host, DEBIAN_TEMP);
	return 0;
}

static const struct silo_image_ops debian_ops = {
	.identify = debian_identify,
	.import = debian_import,
};

SILO_PLUGIN (debian_ops, .name = "debian", .version = "1.0",
	     .summary = "images made of Debian's packages", .flags = SILO_PARALLEL,
	     .options = debian_options, .instance_size = sizeof (struct debian),
	     .init = debian_init, .start = debian_start);
