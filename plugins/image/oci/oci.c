/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oci.c - the plugin: understands references and leads through an import.
 * An OCI layout on this machine is read where it is; everything else is first
 * copied by skopeo into a temporary folder, unchanged.  All state of a call is
 * on its stack: any thread.
 */
#include "oci.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <jansson.h>

static const struct silo_option oci_options[] = {
	{ .name = "skopeo",
	  .type = SILO_STRING,
	  .offset = offsetof (struct oci, skopeo),
	  .def = "skopeo",
	  .help = "program that fetches images: a path, or a name to be found in PATH" },
	{ .name = "timeout",
	  .type = SILO_DURATION,
	  .offset = offsetof (struct oci, timeout),
	  .def = "30m",
	  .help = "longest time that fetching one image may take; 0: any" },
	{ .name = NULL },
};

enum form {
	FORM_OTHER,    /* not ours */
	FORM_REGISTRY, /* docker://..., or a short name */
	FORM_LAYOUT,   /* oci:DIR:TAG */
	FORM_ARCHIVE,  /* oci-archive:..., docker-archive:... */
};

static const char layout_scheme[] = "oci:";
static const char registry_scheme[] = "docker://";

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
	/* What else skopeo would understand in front of a colon. */
	static const char *const others[] = {
		"dir:", "containers-storage:", "docker-daemon:", "ostree:", "sif:", "tarball:"
	};
	if (starts (reference, registry_scheme))
		return FORM_REGISTRY;
	if (starts (reference, layout_scheme))
		return FORM_LAYOUT;
	if (starts (reference, "oci-archive:") || starts (reference, "docker-archive:"))
		return FORM_ARCHIVE;
	for (size_t i = 0; i < sizeof (others) / sizeof (others[0]); i++)
		if (starts (reference, others[i]))
			return FORM_OTHER;
	/* A short name: no path follows a colon. */
	if (*reference == '\0' || strchr ("./-:@", *reference) || strstr (reference, ":/") ||
	    reference[strspn (reference, allowed)] != '\0')
		return FORM_OTHER;
	return FORM_REGISTRY;
}

/* -- OCI layouts on this machine --------------------------------------------------- */

/* Open the folder of oci:DIR:TAG and find its manifest. */
static int
layout_open (const struct silo_image_source *source, struct blobs *ret, struct blob *ret_manifest,
	     struct silo_error *err)
{
	char path[4096];
	struct platform platform;
	const char *rest = source->reference + strlen (layout_scheme);
	const char *colon = strrchr (rest, ':');
	const char *tag = colon && !strchr (colon, '/') ? colon + 1 : "";
	size_t len =
	    *tag || (colon && !strchr (colon, '/')) ? (size_t) (colon - rest) : strlen (rest);
	if (len == 0 || len >= sizeof (path) || *rest != '/')
		return silo_fail (err, SILO_INVALID,
				  "%.150s: expected oci:DIR:TAG with an absolute path",
				  source->reference);
	memcpy (path, rest, len);
	path[len] = '\0';
	int r = platform_parse (source->platform, &platform, err);
	if (r < 0)
		return r;
	struct blobs blobs = { open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), true };
	if (blobs.fd < 0)
		return silo_fail_sys (err, errno, "OCI layout %.150s", path);
	r = layout_find (&blobs, tag, &platform, ret_manifest, err);
	if (r < 0) {
		close (blobs.fd);
		return silo_wrap (err, "OCI layout %.100s", path);
	}
	*ret = blobs;
	return 0;
}

/* -- identify ------------------------------------------------------------------------ */

/* "docker://" in front of a short name. */
static int
full_reference (const char *reference, struct silo_buf *to, struct silo_error *err)
{
	bool is_short =
	    form_of (reference) == FORM_REGISTRY && !starts (reference, registry_scheme);
	return silo_buf_addf (to, err, "%s%s", is_short ? registry_scheme : "", reference);
}

static int
id_of (const struct silo_digest *digest, const char *platform, struct silo_buf *ret,
       struct silo_error *err)
{
	char hex[SILO_DIGEST_HEX + 1];
	silo_digest_hex (digest, hex);
	/* The digest may be that of an index of several platforms. */
	return silo_buf_addf (ret, err, "sha256:%s%s%s", hex, *platform ? "+" : "", platform);
}

static int
oci_identify (void *self, const struct silo_image_source *source, struct silo_buf *ret_id,
	      struct silo_error *err)
{
	const struct oci *oci = self;
	const char *platform = source->platform ? source->platform : "";
	struct silo_buf text SILO_CLEANUP (silo_buf_free) = SILO_BUF (OCI_MAX_MANIFEST);
	struct silo_buf full SILO_CLEANUP (silo_buf_free) = SILO_BUF (4096);
	struct silo_digest digest;
	struct blobs blobs;
	struct blob manifest;
	struct platform checked;
	enum form form = form_of (source->reference);
	if (form == FORM_OTHER)
		return silo_fail (err, SILO_UNIMPLEMENTED, "%.100s is no reference to an image",
				  source->reference);
	int r = platform_parse (platform, &checked, err);
	if (r < 0 || form == FORM_ARCHIVE) /* an archive must be read to be known */
		return r;
	if (form == FORM_LAYOUT) {
		r = layout_open (source, &blobs, &manifest, err);
		if (r < 0)
			return r;
		close (blobs.fd);
		return id_of (&manifest.digest, "", ret_id, err);
	}
	r = full_reference (source->reference, &full, err);
	if (r == 0)
		r = fetch_manifest (oci, source, (const char *) full.data, &text, err);
	if (r == 0 && text.len == 0)
		r = silo_fail (err, SILO_UNAVAILABLE, "%.100s: an empty manifest",
			       source->reference);
	if (r == 0)
		r = silo_digest_of (text.data, text.len, &digest, err);
	return r < 0 ? r : id_of (&digest, platform, ret_id, err);
}

/* -- import --------------------------------------------------------------------------- */

/* An image that was built for something else is refused when the user has said what it is
 * to be for; otherwise it is only said, as every other tool does. */
static int
check_platform (const struct oci *oci, const struct silo_image_source *source, const json_t *config,
		struct silo_error *err)
{
	const char *os = json_string_value (json_object_get (config, "os"));
	const char *arch = json_string_value (json_object_get (config, "architecture"));
	struct platform want;
	int r = platform_parse (source->platform, &want, err);
	if (r < 0 || !os || !arch || !*os || !*arch ||
	    (strcmp (os, want.os) == 0 && strcmp (arch, want.arch) == 0))
		return r;
	if (source->platform && *source->platform)
		return silo_fail (err, SILO_NOTFOUND, "%.100s is for %.30s/%.30s, not for %s/%s",
				  source->reference, os, arch, want.os, want.arch);
	silo_log (oci->host, SILO_WARN, "%s is for %s/%s, this machine is %s/%s", source->reference,
		  os, arch, want.os, want.arch);
	return 0;
}

static int
import_config (const struct oci *oci, const struct silo_image_source *source,
	       const struct blobs *blobs, const struct blob *blob, struct silo_import *import,
	       struct silo_error *err)
{
	struct silo_buf text SILO_CLEANUP (silo_buf_free) = SILO_BUF (OCI_MAX_MANIFEST);
	int r = blob_read (blobs, blob, &text, err);
	if (r < 0)
		return silo_wrap (err, "the image's config");
	json_error_t bad;
	json_t *json = json_loadb (text.data ? (const char *) text.data : "", text.len, 0, &bad);
	if (!json)
		return silo_fail (err, SILO_INVALID, "the image's config is no JSON: %.100s",
				  bad.text);
	r = check_platform (oci, source, json, err);
	const json_t *config = json_object_get (json, "config");
	if (r == 0 && json_is_object (config)) {
		char *dump = json_dumps (config, JSON_COMPACT);
		r = dump ? silo_import_config (import, dump, strlen (dump), err)
			 : silo_fail_nomem (err);
		free (dump);
	}
	json_decref (json);
	return r;
}

static int
import_image (const struct oci *oci, const struct silo_image_source *source,
	      const struct blobs *blobs, const struct silo_buf *text, struct silo_import *import,
	      struct silo_error *err)
{
	struct manifest *manifest = calloc (1, sizeof (*manifest));
	if (!manifest)
		return silo_fail_nomem (err);
	int r =
	    manifest_parse (text->data ? (const char *) text->data : "", text->len, manifest, err);
	if (r == 0 && manifest->has_config)
		r = import_config (oci, source, blobs, &manifest->config, import, err);
	if (r == 0)
		r = layers_read (blobs, manifest, import, err);
	free (manifest);
	return r;
}

static int
import_layout (const struct oci *oci, const struct silo_image_source *source,
	       struct silo_import *import, struct silo_error *err)
{
	struct silo_buf text SILO_CLEANUP (silo_buf_free) = SILO_BUF (OCI_MAX_MANIFEST);
	struct blobs blobs;
	struct blob manifest;
	int r = layout_open (source, &blobs, &manifest, err);
	if (r < 0)
		return r;
	r = blob_read (&blobs, &manifest, &text, err);
	if (r == 0)
		r = import_image (oci, source, &blobs, &text, import, err);
	close (blobs.fd);
	return r;
}

static int
import_fetched (const struct oci *oci, const struct silo_image_source *source,
		const struct temp *temp, struct silo_import *import, struct silo_error *err)
{
	struct silo_buf text SILO_CLEANUP (silo_buf_free) = SILO_BUF (OCI_MAX_MANIFEST);
	struct silo_buf full SILO_CLEANUP (silo_buf_free) = SILO_BUF (4096);
	int r = full_reference (source->reference, &full, err);
	if (r == 0)
		r = fetch_image (oci, source, (const char *) full.data, temp, import, err);
	if (r < 0)
		return r;
	struct blobs blobs = { openat (temp->fd, "image", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
			       false };
	if (blobs.fd < 0)
		return silo_fail_sys (err, errno, "folder %.200s/image", temp->path);
	r = file_read (blobs.fd, "manifest.json", &text, err);
	if (r == 0)
		r = import_image (oci, source, &blobs, &text, import, err);
	close (blobs.fd);
	return r;
}

static int
oci_import (void *self, const struct silo_image_source *source, struct silo_import *import,
	    struct silo_error *err)
{
	const struct oci *oci = self;
	if (form_of (source->reference) == FORM_LAYOUT)
		return import_layout (oci, source, import, err);
	struct temp temp;
	int r = temp_make (oci, &temp, err);
	if (r < 0)
		return r;
	r = import_fetched (oci, source, &temp, import, err);
	temp_remove (&temp);
	return r;
}

/* -- life -------------------------------------------------------------------------------- */

static int
oci_init (void *self, struct silo_host *host, struct silo_error *err)
{
	struct oci *oci = self;
	oci->host = host;
	if (*oci->skopeo == '\0')
		return silo_fail (err, SILO_INVALID, "skopeo: expected a program");
	return 0;
}

static int
oci_start (void *self, struct silo_error *err)
{
	(void) err;
	temp_clean (self);
	return 0;
}

static const struct silo_image_ops oci_ops = {
	.identify = oci_identify,
	.import = oci_import,
};

SILO_PLUGIN (oci_ops, .name = "oci", .version = "1.0",
	     .summary = "images of registries, OCI layouts and archives", .flags = SILO_PARALLEL,
	     .options = oci_options, .instance_size = sizeof (struct oci), .init = oci_init,
	     .start = oci_start);
