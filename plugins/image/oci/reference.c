/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reference.c - what users write for an image and for a platform.  Nothing is
 * opened here.  Any thread.
 */
#include "oci.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

static const char registry_scheme[] = "docker://";
static const char layout_scheme[] = "oci:";
static const char storage_scheme[] = "containers-storage:";
static const char id_scheme[] = "sha256:";

static bool
starts (const char *text, const char *with)
{
	return strncmp (text, with, strlen (with)) == 0;
}

static enum form
form_of (const char *reference)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				      "0123456789._-/:@";
	/* What else skopeo, or another plugin, would understand in front of a colon. */
	static const char *const others[] = { "dir:", "docker-daemon:", "ostree:", "sif:",
					      "tarball:" };
	if (starts (reference, registry_scheme))
		return FORM_REGISTRY;
	if (starts (reference, layout_scheme))
		return FORM_LAYOUT;
	if (starts (reference, "oci-archive:") || starts (reference, "docker-archive:"))
		return FORM_ARCHIVE;
	if (starts (reference, storage_scheme))
		return FORM_STORAGE;
	for (size_t i = 0; i < sizeof (others) / sizeof (others[0]); i++)
		if (starts (reference, others[i]))
			return FORM_OTHER;
	/* A short name: no path follows a colon. */
	if (*reference == '\0' || strchr ("./-:@", *reference) || strstr (reference, ":/") ||
	    reference[strspn (reference, allowed)] != '\0')
		return FORM_OTHER;
	return FORM_REGISTRY;
}

bool
reference_pinned (const struct silo_image_source *source, struct silo_digest *ret)
{
	char hex[SILO_DIGEST_HEX + 1];
	if (!source->id || !starts (source->id, id_scheme))
		return false;
	snprintf (hex, sizeof (hex), "%s", source->id + strlen (id_scheme));
	return silo_digest_parse (hex, ret, NULL) == 0;
}

/* docker://host:5000/name:tag becomes docker://host:5000/name@sha256:...; a tag beside a
 * digest means nothing, and skopeo would not have it. */
static int
registry_parse (const struct silo_image_source *source, struct reference *ret,
		struct silo_error *err)
{
	const char *name = source->reference;
	if (starts (name, registry_scheme))
		name += strlen (registry_scheme);
	const char *end = name + strcspn (name, "@"), *colon = end;
	while (colon > name && *colon != ':' && *colon != '/')
		colon--;
	size_t len =
	    *colon == ':' && colon > name ? (size_t) (colon - name) : (size_t) (end - name);
	struct silo_digest digest;
	int n;
	if (*end == '@' && (!starts (end + 1, id_scheme) ||
			    silo_digest_parse (end + 1 + strlen (id_scheme), &digest, NULL) < 0))
		return silo_fail (err, SILO_INVALID,
				  "%.100s: expected name@sha256:... behind the @",
				  source->reference);
	if (reference_pinned (source, &digest)) {
		char hex[SILO_DIGEST_HEX + 1];
		silo_digest_hex (&digest, hex);
		n = snprintf (ret->text, sizeof (ret->text), "%s%.*s@%s%s", registry_scheme,
			      (int) len, name, id_scheme, hex);
	} else if (*end == '@') {
		n = snprintf (ret->text, sizeof (ret->text), "%s%.*s%s", registry_scheme, (int) len,
			      name, end);
	} else {
		n = snprintf (ret->text, sizeof (ret->text), "%s%s", registry_scheme, name);
	}
	if (n < 0 || (size_t) n >= sizeof (ret->text))
		return silo_fail (err, SILO_INVALID, "%.60s...: too long for a reference", name);
	return 0;
}

bool
reference_digest (const struct reference *reference, struct silo_digest *ret)
{
	const char *at = reference->form == FORM_REGISTRY ? strrchr (reference->text, '@') : NULL;
	return at && starts (at + 1, id_scheme) &&
	       silo_digest_parse (at + 1 + strlen (id_scheme), ret, NULL) == 0;
}

/* As skopeo has it: the first colon ends the path, names of images may hold more. */
static int
layout_parse (const char *reference, struct reference *ret, struct silo_error *err)
{
	const char *path = reference + strlen (layout_scheme);
	size_t len = strcspn (path, ":");
	const char *tag = path[len] ? path + len + 1 : "";
	if (*path != '/' || len >= sizeof (ret->text) || strlen (tag) >= sizeof (ret->tag))
		return silo_fail (err, SILO_INVALID,
				  "%.100s: expected oci:DIR:TAG with an absolute path", reference);
	snprintf (ret->text, sizeof (ret->text), "%.*s", (int) len, path);
	snprintf (ret->tag, sizeof (ret->tag), "%s", tag);
	return 0;
}

int
reference_parse (const struct silo_image_source *source, struct reference *ret,
		 struct silo_error *err)
{
	const char *text = source->reference;
	ret->form = form_of (text);
	ret->text[0] = ret->tag[0] = '\0';
	switch (ret->form) {
	case FORM_OTHER:
		return 0;
	case FORM_REGISTRY:
		return registry_parse (source, ret, err);
	case FORM_LAYOUT:
		return layout_parse (text, ret, err);
	case FORM_ARCHIVE:
		if (strchr (text, ':')[1] != '/')
			return silo_fail (err, SILO_INVALID, "%.100s: expected an absolute path",
					  text);
		break;
	case FORM_STORAGE:
		break;
	}
	if (strlen (text) >= sizeof (ret->text))
		return silo_fail (err, SILO_INVALID, "%.60s...: too long for a reference", text);
	snprintf (ret->text, sizeof (ret->text), "%s", text);
	return 0;
}

/* -- platforms ----------------------------------------------------------------- */

static void
platform_here (struct platform *ret)
{
	static const char *const names[][2] = {
		{ "x86_64", "amd64" }, { "aarch64", "arm64" },       { "armv7l", "arm" },
		{ "i686", "386" },     { "loongarch64", "loong64" },
	};
	struct utsname uts;
	const char *arch = "amd64";
	if (uname (&uts) == 0) {
		arch = uts.machine;
		for (size_t i = 0; i < sizeof (names) / sizeof (names[0]); i++)
			if (strcmp (uts.machine, names[i][0]) == 0)
				arch = names[i][1];
	}
	*ret = (struct platform){ .os = "linux" };
	snprintf (ret->arch, sizeof (ret->arch), "%.31s", arch);
}

int
platform_parse (const char *text, struct platform *ret, struct silo_error *err)
{
	struct platform platform = { .os = "" };
	if (!text || !*text) {
		platform_here (ret);
		return 0;
	}
	char *const parts[] = { platform.os, platform.arch, platform.variant };
	const char *at = text;
	for (size_t i = 0; i < 3 && at; i++) {
		size_t len = strcspn (at, "/");
		if (len == 0 || len >= sizeof (platform.os))
			break;
		memcpy (parts[i], at, len);
		at = at[len] ? at + len + 1 : NULL;
	}
	if (at || !platform.arch[0])
		return silo_fail (err, SILO_INVALID,
				  "platform \"%.60s\": expected os/arch or os/arch/variant, as in "
				  "linux/arm64",
				  text);
	*ret = platform;
	return 0;
}
