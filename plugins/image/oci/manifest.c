/* SPDX-License-Identifier: Apache-2.0 */
/*
 * manifest.c - what an image consists of: OCI and Docker manifests, the index
 * of an OCI layout, and its blobs, whose size and digest are checked.  All of
 * it came from outside: every field is looked at before it is used.
 */
#include "oci.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <jansson.h>

#define MAX_NESTING 4 /* an index that names an index ... */
#define MAX_INDEX   1000

static void
json_clean (json_t **json)
{
	json_decref (*json);
}
#define _cleanup_json_ SILO_CLEANUP (json_clean)

/* -- blobs ------------------------------------------------------------------------- */

static int
file_read (int folder, const char *name, struct silo_buf *to, struct silo_error *err)
{
	int fd = openat (folder, name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return silo_fail_sys (err, errno, "%.80s", name);
	int r = 0;
	for (;;) {
		char data[16384];
		ssize_t n = read (fd, data, sizeof (data));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			r = silo_fail_sys (err, errno, "%.80s", name);
		else if (n > 0 && silo_buf_add (to, data, (size_t) n, NULL) < 0)
			r = silo_fail (err, SILO_EXHAUSTED, "%.80s is larger than %zu bytes", name,
				       to->max);
		if (n <= 0 || r < 0)
			break;
	}
	close (fd);
	return r;
}

void
blob_named (const struct silo_digest *digest, int64_t size, struct blob *ret)
{
	char hex[SILO_DIGEST_HEX + 1];
	silo_digest_hex (digest, hex);
	*ret = (struct blob){ .digest = *digest, .size = size };
	snprintf (ret->name, sizeof (ret->name), "sha256:%.12s", hex);
}

/* Room for "blobs/sha256/<hex>". */
struct blob_path {
	char text[SILO_DIGEST_HEX + 16];
};

static struct blob_path
blob_path (const struct blob *blob)
{
	char hex[SILO_DIGEST_HEX + 1];
	struct blob_path path;
	silo_digest_hex (&blob->digest, hex);
	snprintf (path.text, sizeof (path.text), "blobs/sha256/%s", hex);
	return path;
}

int
blob_open (const struct blobs *blobs, const struct blob *blob, int *ret_fd, struct silo_error *err)
{
	const struct blob_path path = blob_path (blob);
	struct stat st;
	int fd = openat (blobs->fd, path.text, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT)
		return silo_fail (err, SILO_DATALOSS, "blob %s is missing", blob->name);
	if (fd < 0)
		return silo_fail_sys (err, errno, "blob %s", blob->name);
	int r = 0;
	if (fstat (fd, &st) < 0)
		r = silo_fail_sys (err, errno, "blob %s", blob->name);
	else if (!S_ISREG (st.st_mode))
		r = silo_fail (err, SILO_DATALOSS, "blob %s is no regular file", blob->name);
	else if (blob->size >= 0 && st.st_size != blob->size)
		r = silo_fail (err, SILO_DATALOSS, "blob %s has %lld bytes, its manifest says %lld",
			       blob->name, (long long) st.st_size, (long long) blob->size);
	if (r < 0) {
		close (fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

int
blob_read (const struct blobs *blobs, const struct blob *blob, struct silo_buf *to,
	   struct silo_error *err)
{
	const struct blob_path path = blob_path (blob);
	struct silo_digest digest;
	int fd = -1;
	int r = blob_open (blobs, blob, &fd, err);
	if (r < 0)
		return r;
	close (fd);
	r = file_read (blobs->fd, path.text, to, err);
	if (r == 0)
		r = silo_digest_of (to->data, to->len, &digest, err);
	if (r == 0 && !silo_digest_equal (&digest, &blob->digest))
		r = silo_fail (err, SILO_DATALOSS, "blob %s does not have this digest", blob->name);
	return r;
}

/* -- descriptors --------------------------------------------------------------------- */

static int
digest_parse (const json_t *json, const char *what, struct silo_digest *ret, struct silo_error *err)
{
	static const char sha256[] = "sha256:";
	const char *text = json_string_value (json);
	if (!text || strncmp (text, sha256, strlen (sha256)) != 0 ||
	    silo_digest_parse (text + strlen (sha256), ret, NULL) < 0)
		return silo_fail (err, SILO_DATALOSS, "%s: digest \"%.80s\" is no sha256", what,
				  text ? text : "");
	return 0;
}

static int
blob_parse (const json_t *json, const char *what, struct blob *ret, struct silo_error *err)
{
	const json_t *size = json_object_get (json, "size");
	struct silo_digest digest;
	int r = digest_parse (json_object_get (json, "digest"), what, &digest, err);
	if (r < 0)
		return r;
	if (!json_is_integer (size) || json_integer_value (size) < 0)
		return silo_fail (err, SILO_DATALOSS, "%s: it needs a size", what);
	blob_named (&digest, json_integer_value (size), ret);
	return 0;
}

static int
document_parse (const void *data, size_t len, const char *what, json_t **ret,
		struct silo_error *err)
{
	json_error_t bad;
	_cleanup_json_ json_t *json =
	    json_loadb (data ? data : "", len, JSON_REJECT_DUPLICATES, &bad);
	if (!json)
		return silo_fail (err, SILO_DATALOSS, "the %s is no JSON: line %d: %.100s", what,
				  bad.line, bad.text);
	if (!json_is_object (json))
		return silo_fail (err, SILO_DATALOSS, "the %s is no JSON object", what);
	if (json_integer_value (json_object_get (json, "schemaVersion")) != 2)
		return silo_fail (
		    err, SILO_PRECONDITION, "the %s is of schema %lld; only 2 is known", what,
		    (long long) json_integer_value (json_object_get (json, "schemaVersion")));
	*ret = json;
	json = NULL;
	return 0;
}

/* -- manifests ------------------------------------------------------------------------ */

static bool
layer_type_known (const char *type)
{
	static const char *const known[] = {
		"application/vnd.oci.image.layer.v1.tar",
		"application/vnd.oci.image.layer.v1.tar+gzip",
		"application/vnd.oci.image.layer.v1.tar+zstd",
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
		"application/vnd.docker.image.rootfs.diff.tar",
		"application/vnd.docker.image.rootfs.diff.tar.gzip",
		"application/vnd.docker.image.rootfs.diff.tar.zstd",
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
	};
	for (size_t i = 0; i < sizeof (known) / sizeof (known[0]); i++)
		if (strcmp (type, known[i]) == 0)
			return true;
	return false;
}

static int
layers_parse (const json_t *layers, struct manifest *ret, struct silo_error *err)
{
	size_t n = json_array_size (layers);
	if (!json_is_array (layers))
		return silo_fail (err, SILO_DATALOSS, "the manifest has no list of layers");
	if (n > OCI_MAX_LAYERS)
		return silo_fail (err, SILO_EXHAUSTED,
				  "the image has %zu layers, at most %d are "
				  "accepted",
				  n, OCI_MAX_LAYERS);
	for (size_t i = 0; i < n; i++) {
		const json_t *layer = json_array_get (layers, i);
		const char *type = json_string_value (json_object_get (layer, "mediaType"));
		char what[40];
		snprintf (what, sizeof (what), "layer %zu", i + 1);
		int r = blob_parse (layer, what, &ret->layers[i], err);
		if (r < 0)
			return r;
		if (!type || !layer_type_known (type))
			return silo_fail (err, SILO_PRECONDITION,
					  "layer %s: media type \"%.100s\" is not known",
					  ret->layers[i].name, type ? type : "");
	}
	ret->n = n;
	return 0;
}

int
manifest_parse (const void *data, size_t len, struct manifest *ret, struct silo_error *err)
{
	_cleanup_json_ json_t *json = NULL;
	int r = document_parse (data, len, "manifest", &json, err);
	if (r < 0)
		return r;
	if (json_object_get (json, "manifests"))
		return silo_fail (err, SILO_DATALOSS,
				  "this is an index of images, where one image was expected");
	const json_t *config = json_object_get (json, "config");
	ret->has_config = config != NULL;
	if (config)
		r = blob_parse (config, "the image's config", &ret->config, err);
	return r < 0 ? r : layers_parse (json_object_get (json, "layers"), ret, err);
}

int
manifest_use_diff_ids (struct manifest *manifest, const struct silo_buf *config,
		       struct silo_error *err)
{
	json_error_t bad;
	_cleanup_json_ json_t *json =
	    json_loadb (config->data ? (const char *) config->data : "", config->len, 0, &bad);
	const json_t *ids = json_object_get (json_object_get (json, "rootfs"), "diff_ids");
	if (json_array_size (ids) != manifest->n)
		return silo_fail (err, SILO_DATALOSS,
				  "the manifest has %zu layers, the image's config %zu",
				  manifest->n, json_array_size (ids));
	for (size_t i = 0; i < manifest->n; i++) {
		struct silo_digest digest;
		char what[40];
		snprintf (what, sizeof (what), "layer %zu", i + 1);
		int r = digest_parse (json_array_get (ids, i), what, &digest, err);
		if (r < 0)
			return r;
		blob_named (&digest, -1, &manifest->layers[i]);
	}
	return 0;
}

/* -- the index of an OCI layout --------------------------------------------------------- */

static bool
text_is (const json_t *object, const char *key, const char *want)
{
	const char *text = json_string_value (json_object_get (object, key));
	return text && strcmp (text, want) == 0;
}

static bool
platform_is (const json_t *descriptor, const struct platform *platform)
{
	const json_t *p = json_object_get (descriptor, "platform");
	return text_is (p, "os", platform->os) && text_is (p, "architecture", platform->arch) &&
	       (!platform->variant[0] || text_is (p, "variant", platform->variant));
}

/* The descriptor that is meant: by tag at the top, by platform below. */
static const json_t *
index_choose (const json_t *manifests, const char *tag, const struct platform *platform)
{
	size_t n = json_array_size (manifests);
	const json_t *found = NULL;
	for (size_t i = 0; i < n; i++) {
		const json_t *one = json_array_get (manifests, i);
		const json_t *notes = json_object_get (one, "annotations");
		bool fits = *tag ? text_is (notes, "org.opencontainers.image.ref.name", tag)
				 : platform_is (one, platform);
		if (fits && (!found || platform_is (one, platform)))
			found = one;
	}
	/* Nothing to choose from: then platform and tag need not be written down. */
	return !found && n == 1 && !*tag ? json_array_get (manifests, 0) : found;
}

/* "linux/amd64, linux/arm64/v8" */
struct platforms {
	char text[128];
};

static struct platforms
platforms_of (const json_t *manifests)
{
	struct platforms ret = { "" };
	size_t used = 0;
	for (size_t i = 0; i < json_array_size (manifests); i++) {
		const json_t *p = json_object_get (json_array_get (manifests, i), "platform");
		const char *os = json_string_value (json_object_get (p, "os"));
		const char *arch = json_string_value (json_object_get (p, "architecture"));
		const char *variant = json_string_value (json_object_get (p, "variant"));
		/* What an image was built from comes as one for an unknown platform. */
		if (!os || !arch || strcmp (os, "unknown") == 0)
			continue;
		int n = snprintf (ret.text + used, sizeof (ret.text) - used, "%s%.20s/%.20s%s%.20s",
				  used ? ", " : "", os, arch, variant && *variant ? "/" : "",
				  variant ? variant : "");
		if (n < 0 || (size_t) n >= sizeof (ret.text) - used) {
			snprintf (ret.text + (used < 120 ? used : 120), 8, ", ...");
			break;
		}
		used += (size_t) n;
	}
	return ret;
}

static int
platform_fail (const json_t *manifests, const struct platform *platform, const char *hint,
	       struct silo_error *err)
{
	const struct platforms there = platforms_of (manifests);
	return silo_fail (err, SILO_NOTFOUND, "it has no image for %s/%s%s%s%s%s%s", platform->os,
			  platform->arch, platform->variant[0] ? "/" : "", platform->variant,
			  there.text[0] ? ", only for " : "", there.text, hint);
}

int
index_check (const struct silo_buf *text, const struct platform *platform, struct silo_error *err)
{
	_cleanup_json_ json_t *json = NULL;
	if (document_parse (text->data, text->len, "manifest", &json, NULL) < 0)
		return 0;
	const json_t *all = json_object_get (json, "manifests");
	for (size_t i = 0; i < json_array_size (all); i++)
		if (platform_is (json_array_get (all, i), platform))
			return 0;
	return json_is_array (all) ? platform_fail (all, platform, "", err) : 0;
}

static bool
is_index (const json_t *descriptor)
{
	return text_is (descriptor, "mediaType", "application/vnd.oci.image.index.v1+json") ||
	       text_is (descriptor, "mediaType",
			"application/vnd.docker.distribution.manifest.list.v2+json");
}

/* The one that one level of indexes leads to; `tag` is "" below the first. */
static int
index_next (const struct silo_buf *text, const char *tag, const struct platform *platform,
	    struct blob *ret, bool *ret_is_index, struct silo_error *err)
{
	_cleanup_json_ json_t *json = NULL;
	int r = document_parse (text->data, text->len, "index of the OCI layout", &json, err);
	if (r < 0)
		return r;
	const json_t *all = json_object_get (json, "manifests");
	if (json_array_size (all) > MAX_INDEX)
		return silo_fail (err, SILO_EXHAUSTED, "an index of %zu images",
				  json_array_size (all));
	const json_t *one = index_choose (all, tag, platform);
	if (!one && *tag)
		return silo_fail (err, SILO_NOTFOUND, "it has no image called \"%.100s\"", tag);
	if (!one)
		return platform_fail (all, platform, "; or its name is needed, oci:DIR:TAG", err);
	*ret_is_index = is_index (one);
	return blob_parse (one, "the index of the OCI layout", ret, err);
}

int
layout_find (const struct blobs *blobs, const char *tag, const struct platform *platform,
	     struct blob *ret, struct silo_error *err)
{
	struct silo_buf text SILO_CLEANUP (silo_buf_free) = SILO_BUF (blobs->max);
	int r = file_read (blobs->fd, "index.json", &text, err);
	for (int depth = 0; r == 0 && depth < MAX_NESTING; depth++) {
		struct blob blob;
		bool more = false;
		r = index_next (&text, depth == 0 ? tag : "", platform, &blob, &more, err);
		if (r < 0)
			return r;
		if (!more) {
			*ret = blob;
			return 0;
		}
		text.len = 0;
		r = blob_read (blobs, &blob, &text, err);
	}
	return r < 0 ? r
		     : silo_fail (err, SILO_DATALOSS, "its index names indexes more than %d deep",
				  MAX_NESTING);
}
