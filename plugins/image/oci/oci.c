/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oci.c - the plugin: leads through an import.  An OCI layout on this machine is
 * read where it is; manifest and blobs of everything else come from skopeo as
 * streams, so that nothing is stored but what the image consists of.  All state
 * of a call is on its stack: any thread.
 */
#include "oci.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <jansson.h>

#define TEMP_PREFIX "oci-"

static const struct silo_option oci_options[] = {
	{ .name = "skopeo",
	  .type = SILO_STRING,
	  .offset = offsetof (struct oci, skopeo),
	  .def = "skopeo",
	  .help = "program that fetches images: a path, or a name to be found in PATH" },
	{ .name = "connections",
	  .type = SILO_INT,
	  .offset = offsetof (struct oci, connections),
	  .def = "3",
	  .min = 1,
	  .max = 16,
	  .help = "layers of one image that are fetched side by side" },
	{ .name = "timeout",
	  .type = SILO_DURATION,
	  .offset = offsetof (struct oci, timeout),
	  .def = "30m",
	  .help = "longest time that fetching one image may take; 0: any" },
	{ .name = "stall",
	  .type = SILO_DURATION,
	  .offset = offsetof (struct oci, stall),
	  .def = "60s",
	  .help = "longest silence of a registry in the middle of it; 0: any" },
	{ .name = "max_manifest",
	  .type = SILO_SIZE,
	  .offset = offsetof (struct oci, max_manifest),
	  .def = "4M",
	  .min = 1024,
	  .max = (int64_t) OCI_MAX_TEXT,
	  .help = "largest manifest, index or config that is read; skopeo refuses more than 4M" },
	{ .name = NULL },
};

/* -- OCI layouts on this machine --------------------------------------------------- */

/* Open the folder of oci:DIR:TAG and find its manifest. */
static int
layout_open (const struct oci *oci, const struct silo_image_source *source,
	     const struct reference *reference, struct blobs *ret, struct blob *ret_manifest,
	     struct silo_error *err)
{
	struct platform platform;
	struct silo_digest pinned;
	int r = platform_parse (source->platform, &platform, err);
	if (r < 0)
		return r;
	struct blobs blobs = { open (reference->text, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
			       (size_t) oci->max_manifest };
	if (blobs.fd < 0)
		return silo_fail_sys (err, errno, "OCI layout %.150s", reference->text);
	if (reference_pinned (source, &pinned))
		blob_named (&pinned, -1, ret_manifest);
	else
		r = layout_find (&blobs, reference->tag, &platform, ret_manifest, err);
	if (r < 0) {
		close (blobs.fd);
		return silo_wrap (err, "OCI layout %.100s", reference->text);
	}
	*ret = blobs;
	return 0;
}

/* -- identify ------------------------------------------------------------------------ */

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
identify_layout (const struct oci *oci, const struct silo_image_source *source,
		 const struct reference *reference, struct silo_buf *ret_id, struct silo_error *err)
{
	struct blobs blobs;
	struct blob manifest;
	int r = layout_open (oci, source, reference, &blobs, &manifest, err);
	if (r < 0)
		return r;
	close (blobs.fd);
	return id_of (&manifest.digest, "", ret_id, err);
}

static int
identify_by_skopeo (const struct oci *oci, const struct silo_image_source *source,
		    const struct reference *reference, struct silo_buf *ret_id,
		    struct silo_error *err)
{
	struct silo_buf text SILO_CLEANUP (silo_buf_free) = SILO_BUF ((size_t) oci->max_manifest);
	struct silo_digest digest, wanted;
	int r = skopeo_inspect (oci, source, reference, &text, err);
	if (r == 0 && text.len == 0)
		r = silo_fail (err, SILO_UNAVAILABLE, "%.100s: an empty manifest",
			       source->reference);
	if (r == 0)
		r = silo_digest_of (text.data, text.len, &digest, err);
	/* skopeo believes the registry. */
	if (r == 0 && reference_digest (reference, &wanted) &&
	    !silo_digest_equal (&digest, &wanted))
		r = silo_fail (
		    err, SILO_DATALOSS,
		    "%.150s: the registry gave a manifest that does not have this digest",
		    source->reference);
	return r < 0 ? r : id_of (&digest, source->platform ? source->platform : "", ret_id, err);
}

static int
oci_identify (void *self, const struct silo_image_source *source, struct silo_buf *ret_id,
	      struct silo_error *err)
{
	const struct oci *oci = self;
	struct reference reference;
	struct platform checked;
	int r = reference_parse (source, &reference, err);
	if (r < 0)
		return r;
	if (reference.form == FORM_OTHER)
		return silo_fail (err, SILO_UNIMPLEMENTED, "%.100s is no reference to an image",
				  source->reference);
	r = platform_parse (source->platform, &checked, err);
	if (r < 0 || reference.form == FORM_ARCHIVE) /* it must be read to be known */
		return r;
	return reference.form == FORM_LAYOUT
		   ? identify_layout (oci, source, &reference, ret_id, err)
		   : identify_by_skopeo (oci, source, &reference, ret_id, err);
}

/* -- import --------------------------------------------------------------------------- */

/* An image that was built for something else is refused when the user has said what it is
 * to be for; otherwise it is only said, as every other tool does. */
static int
check_platform (const struct origin *origin, const json_t *config, struct silo_error *err)
{
	const struct silo_image_source *source = origin->source;
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
	silo_log (origin->oci->host, SILO_WARN, "%s is for %s/%s, this machine is %s/%s",
		  source->reference, os, arch, want.os, want.arch);
	return 0;
}

static int
import_config (const struct origin *origin, const struct silo_buf *text, struct silo_import *import,
	       struct silo_error *err)
{
	json_error_t bad;
	json_t *json = json_loadb (text->data ? (const char *) text->data : "", text->len, 0, &bad);
	if (!json)
		return silo_fail (err, SILO_DATALOSS, "the image's config is no JSON: %.100s",
				  bad.text);
	int r = json_is_object (json)
		    ? check_platform (origin, json, err)
		    : silo_fail (err, SILO_DATALOSS, "the image's config is no JSON object");
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
import_layout (struct origin *origin, struct silo_import *import, struct manifest *manifest,
	       struct silo_error *err)
{
	const size_t max = (size_t) origin->oci->max_manifest;
	struct silo_buf text SILO_CLEANUP (silo_buf_free) = SILO_BUF (max);
	struct silo_buf config SILO_CLEANUP (silo_buf_free) = SILO_BUF (max);
	struct blob blob;
	int r = layout_open (origin->oci, origin->source, origin->reference, &origin->blobs, &blob,
			     err);
	if (r == 0)
		r = blob_read (&origin->blobs, &blob, &text, err);
	if (r == 0)
		r = manifest_parse (text.data, text.len, manifest, err);
	if (r < 0 || !manifest->has_config)
		return r;
	r = blob_read (&origin->blobs, &manifest->config, &config, err);
	return r < 0 ? silo_wrap (err, "the image's config")
		     : import_config (origin, &config, import, err);
}

/* What skopeo says when an index lacks our platform does not say which ones it has. */
static int
explain_missing (const struct origin *origin, struct silo_error *err)
{
	struct silo_buf text SILO_CLEANUP (silo_buf_free) =
	    SILO_BUF ((size_t) origin->oci->max_manifest);
	struct platform platform;
	struct silo_error why = { 0 };
	if (origin->reference->form == FORM_REGISTRY &&
	    platform_parse (origin->source->platform, &platform, NULL) == 0 &&
	    skopeo_inspect (origin->oci, origin->source, origin->reference, &text, NULL) == 0 &&
	    index_check (&text, &platform, &why) < 0)
		return silo_fail (err, why.code, "%.60s: %s", origin->source->reference, why.msg);
	return SILO_NOTFOUND;
}

/* What identify has said must be what there is now; registries are asked for just that. */
static int
check_pinned (const struct origin *origin, const struct silo_digest *digest, struct silo_error *err)
{
	struct silo_digest pinned;
	if (origin->reference->form != FORM_STORAGE ||
	    !reference_pinned (origin->source, &pinned) || silo_digest_equal (&pinned, digest))
		return 0;
	return silo_fail (err, SILO_ABORTED, "%.100s was replaced in this moment; try again",
			  origin->source->reference);
}

static int
import_by_proxy (struct origin *origin, struct silo_import *import, struct manifest *manifest,
		 struct silo_error *err)
{
	const size_t max = (size_t) origin->oci->max_manifest;
	struct silo_buf text SILO_CLEANUP (silo_buf_free) = SILO_BUF (max);
	struct silo_buf config SILO_CLEANUP (silo_buf_free) = SILO_BUF (max);
	struct silo_digest digest;
	int r = origin->reference->form == FORM_REGISTRY
		    ? 0
		    : temp_make (origin->oci->host, TEMP_PREFIX, &origin->temp, err);
	if (r == 0)
		r = proxy_open (origin, &origin->patience, &origin->proxy, err);
	if (r == 0)
		r = proxy_manifest (origin->proxy, &text, &digest, err);
	if (r == SILO_NOTFOUND)
		r = explain_missing (origin, err);
	if (r == 0)
		r = check_pinned (origin, &digest, err);
	if (r == 0)
		r = manifest_parse (text.data, text.len, manifest, err);
	if (r == 0)
		r = proxy_config (origin->proxy, &config, err);
	if (r == 0)
		r = import_config (origin, &config, import, err);
	if (r == 0 && origin->reference->form == FORM_STORAGE)
		r = manifest_use_diff_ids (manifest, &config, err);
	return r;
}

static int
oci_import (void *self, const struct silo_image_source *source, struct silo_import *import,
	    struct silo_error *err)
{
	const struct oci *oci = self;
	struct reference reference;
	int r = reference_parse (source, &reference, err);
	if (r < 0)
		return r;
	struct manifest *manifest = calloc (1, sizeof (*manifest));
	if (!manifest)
		return silo_fail_nomem (err);
	struct origin origin = {
		.oci = oci,
		.source = source,
		.reference = &reference,
		.blobs = { .fd = -1 },
		.temp = { .fd = -1 },
		.patience = patience_of (oci, reference.form, silo_import_cancel_fd (import)),
	};
	silo_import_progress (import, "fetching", 0, 0);
	r = reference.form == FORM_LAYOUT ? import_layout (&origin, import, manifest, err)
					  : import_by_proxy (&origin, import, manifest, err);
	if (r == 0)
		r = layers_fetch (&origin, manifest, import, err);
	proxy_close (origin.proxy);
	if (origin.blobs.fd >= 0)
		close (origin.blobs.fd);
	temp_remove (&origin.temp);
	free (manifest);
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
	const struct oci *oci = self;
	(void) err;
	temp_clean (oci->host, TEMP_PREFIX);
	return 0;
}

static const struct silo_image_ops oci_ops = {
	.identify = oci_identify,
	.import = oci_import,
};

SILO_PLUGIN (oci_ops, .name = "oci", .version = "1.0",
	     .summary = "images of registries, OCI layouts, archives and containers/storage",
	     .flags = SILO_PARALLEL, .options = oci_options, .instance_size = sizeof (struct oci),
	     .init = oci_init, .start = oci_start);
