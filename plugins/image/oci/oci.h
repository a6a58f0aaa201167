/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oci.h - images of registries, OCI layouts and archives, in the order of a
 * call: oci.c understands the reference, fetch.c has skopeo bring what is not
 * an OCI layout on this machine into a folder of temp.c, manifest.c reads what
 * the image consists of, layer.c unpacks its layers, several at once.
 */
#ifndef OCI_H
#define OCI_H

#include <silo/silo.h>

#include <stdbool.h>
#include <stdint.h>

#define OCI_MAX_LAYERS   500
#define OCI_MAX_MANIFEST ((size_t) 4 << 20) /* also of configs and indexes */

struct oci {
	const char *skopeo;
	int64_t timeout; /* ms */
	struct silo_host *host;
};

/* -- temp.c ------------------------------------------------------------------ */

/* A folder of this import alone, below STATE/tmp; locked while it is in use. */
struct temp {
	int fd; /* -1: none */
	char path[3072];
};
int temp_make (const struct oci *oci, struct temp *ret, struct silo_error *err);
void temp_remove (struct temp *temp);
/* Remove those whose process has died. */
void temp_clean (const struct oci *oci);
/* Bytes of the files in its folder `name`. */
int64_t temp_size (const struct temp *temp, const char *name);

/* -- fetch.c ------------------------------------------------------------------ */

/* "linux", "arm64", "" */
struct platform {
	char os[32], arch[32], variant[32];
};
int platform_parse (const char *text, struct platform *ret, struct silo_error *err);

/* The manifest or index that the reference points to, as it is. */
int fetch_manifest (const struct oci *oci, const struct silo_image_source *source,
		    const char *reference, struct silo_buf *to, struct silo_error *err);
/* Copy the image into folder "image" of temp, in the layout of skopeo's "dir:". */
int fetch_image (const struct oci *oci, const struct silo_image_source *source,
		 const char *reference, const struct temp *temp, struct silo_import *import,
		 struct silo_error *err);

/* -- manifest.c ----------------------------------------------------------------- */

/* Where blobs lie: "blobs/sha256/<hex>" of an OCI layout, or "<hex>" as skopeo's dir: has it. */
struct blobs {
	int fd; /* of the folder */
	bool layout;
};

struct blob {
	struct silo_digest digest;
	int64_t size;
	char name[20]; /* for messages: "sha256:0123456789ab" */
};

struct manifest {
	struct blob config;
	bool has_config;
	struct blob layers[OCI_MAX_LAYERS]; /* from the lowest up */
	size_t n;
};

/* The descriptor in an OCI layout's index.json that `tag` ("": the only one) names, down to
 * an image's manifest for this platform. */
int layout_find (const struct blobs *blobs, const char *tag, const struct platform *platform,
		 struct blob *ret, struct silo_error *err);
int manifest_parse (const void *data, size_t len, struct manifest *ret, struct silo_error *err);
/* All bytes of a small file; SILO_EXHAUSTED when it is larger than `to` may be. */
int file_read (int folder, const char *name, struct silo_buf *to, struct silo_error *err);
/* A descriptor of a blob that has the right size. */
int blob_open (const struct blobs *blobs, const struct blob *blob, int *ret_fd,
	       struct silo_error *err);
/* Read and verify a small blob. */
int blob_read (const struct blobs *blobs, const struct blob *blob, struct silo_buf *to,
	       struct silo_error *err);

/* -- layer.c --------------------------------------------------------------------- */

/* Unpack all layers of the manifest into the import. */
int layers_read (const struct blobs *blobs, const struct manifest *manifest,
		 struct silo_import *import, struct silo_error *err);

#endif
