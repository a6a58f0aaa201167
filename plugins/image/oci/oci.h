/* SPDX-License-Identifier: Apache-2.0 */
/*
 * oci.h - images of registries, OCI layouts, archives and containers/storage, in
 * the order of a call: reference.c understands the reference, skopeo.c asks what
 * it points to, proxy.c speaks with a skopeo that hands out manifest and blobs,
 * manifest.c reads what the image consists of, layers.c fetches the layers that
 * are not known yet, several at once.  oci.c leads through it.
 */
#ifndef OCI_H
#define OCI_H

#include "temp.h"
#include <silo/silo.h>

#include <stdbool.h>
#include <stdint.h>

#define OCI_MAX_LAYERS 500
/* Beyond what anybody configures as max_manifest. */
#define OCI_MAX_TEXT ((size_t) 64 << 20)

struct oci {
	const char *skopeo;
	int64_t connections;
	int64_t timeout, stall; /* ms; 0: any */
	int64_t max_manifest;   /* bytes, also of configs and indexes */
	struct silo_host *host;
};

/* -- reference.c ------------------------------------------------------------- */

enum form {
	FORM_OTHER,    /* not ours */
	FORM_REGISTRY, /* docker://..., or a short name */
	FORM_LAYOUT,   /* oci:DIR[:TAG] */
	FORM_ARCHIVE,  /* oci-archive:FILE[:TAG], docker-archive:FILE[:REF] */
	FORM_STORAGE,  /* containers-storage:NAME */
};

struct reference {
	enum form form;
	char text[4096]; /* as skopeo wants it; FORM_LAYOUT: the folder */
	char tag[256];   /* FORM_LAYOUT: "" is its only image */
};

/* FORM_OTHER is no error.  What source->id has pinned is what *ret names. */
int reference_parse (const struct silo_image_source *source, struct reference *ret,
		     struct silo_error *err);
/* The digest in source->id; false: there is none. */
bool reference_pinned (const struct silo_image_source *source, struct silo_digest *ret);
/* The digest that stands in a reference to a registry; false: there is none. */
bool reference_digest (const struct reference *reference, struct silo_digest *ret);

/* "linux", "arm64", "" */
struct platform {
	char os[32], arch[32], variant[32];
};
/* "": this machine's. */
int platform_parse (const char *text, struct platform *ret, struct silo_error *err);

/* -- skopeo.c ---------------------------------------------------------------- */

/* What ends waiting for skopeo when it does not answer. */
struct patience {
	int cancel_fd;    /* readable: the user has given up; -1: never */
	int stop_fd;      /* readable: the answer is of no use any more; -1: never */
	int64_t deadline; /* silo_monotonic (); 0: none */
	int64_t stall;    /* ms without a sign of life; 0: any */
};
struct patience patience_of (const struct oci *oci, enum form form, int cancel_fd);

/* One process of skopeo.  One thread at a time. */
struct skopeo {
	struct silo_process process; /* pidfd < 0: none */
	const struct patience *patience;
	char tail[2048]; /* the end of its stderr */
	size_t tail_len;
};
/* argv: NULL, NULL, NULL, then the program's; in: its stdin or -1. */
#define SKOPEO_ARGV 3 /* places in front that skopeo_start fills */
int skopeo_start (const char **argv, int in, bool out, const struct patience *patience,
		  struct skopeo *ret, struct silo_error *err);
/* Until there is something to read from fd, or its end; -1: until skopeo has ended, which is
 * an error, as it is while fd is silent. */
int skopeo_wait (struct skopeo *skopeo, int fd, struct silo_error *err);
/* End it, at once or when it has had time to do so by itself; returns its exit status. */
int skopeo_end (struct skopeo *skopeo, bool at_once);
/* An error from what skopeo says. */
int skopeo_fail (const char *reference, const char *said, struct silo_error *err);

/* The manifest or index that a reference points to, as it is. */
int skopeo_inspect (const struct oci *oci, const struct silo_image_source *source,
		    const struct reference *reference, struct silo_buf *to, struct silo_error *err);

/* -- manifest.c -------------------------------------------------------------- */

/* The blobs of an OCI layout. */
struct blobs {
	int fd;     /* of its folder; -1: none */
	size_t max; /* bytes of a document */
};

struct blob {
	struct silo_digest digest;
	int64_t size;  /* -1: not known */
	char name[20]; /* for messages: "sha256:0123456789ab" */
};
void blob_named (const struct silo_digest *digest, int64_t size, struct blob *ret);

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
/* Let the layers be what they are uncompressed, as the image's config names them. */
int manifest_use_diff_ids (struct manifest *manifest, const struct silo_buf *config,
			   struct silo_error *err);
/* If the document is an index without an image for the platform: an error that says for which
 * platforms it has some.  Else 0. */
int index_check (const struct silo_buf *text, const struct platform *platform,
		 struct silo_error *err);
/* A descriptor of a blob that has the right size. */
int blob_open (const struct blobs *blobs, const struct blob *blob, int *ret_fd,
	       struct silo_error *err);
/* Read and verify a small blob. */
int blob_read (const struct blobs *blobs, const struct blob *blob, struct silo_buf *to,
	       struct silo_error *err);

/* -- proxy.c ----------------------------------------------------------------- */

struct origin;

/* `skopeo experimental-image-proxy` with one image open.  One thread at a time; ends at the
 * latest with the thread that opened it. */
struct proxy;
int proxy_open (const struct origin *origin, const struct patience *patience, struct proxy **ret,
		struct silo_error *err);
/* May be in the middle of something; NULL is allowed. */
void proxy_close (struct proxy *proxy);
void proxy_set_patience (struct proxy *proxy, const struct patience *patience);
/* As OCI has it, whatever it was; ret_digest: of what it was. */
int proxy_manifest (struct proxy *proxy, struct silo_buf *to, struct silo_digest *ret_digest,
		    struct silo_error *err);
int proxy_config (struct proxy *proxy, struct silo_buf *to, struct silo_error *err);
/* One blob at a time: begin, read until *ret_len is 0, end.  Nothing else may be asked in
 * between; after an error only proxy_close. */
int proxy_blob_begin (struct proxy *proxy, const struct blob *blob, struct silo_error *err);
int proxy_blob_read (struct proxy *proxy, void *to, size_t len, size_t *ret_len,
		     struct silo_error *err);
/* Were size and digest right? */
int proxy_blob_end (struct proxy *proxy, struct silo_error *err);

/* -- layers.c ---------------------------------------------------------------- */

/* Where an image is. */
struct origin {
	const struct oci *oci;
	const struct silo_image_source *source;
	const struct reference *reference;
	struct blobs blobs;  /* FORM_LAYOUT */
	struct temp temp;    /* where skopeo may write; fd < 0: it need not */
	struct proxy *proxy; /* the first one; others are opened as needed */
	struct patience patience;
};

/* Bring all layers of the manifest that are not known yet into the import. */
int layers_fetch (struct origin *origin, const struct manifest *manifest,
		  struct silo_import *import, struct silo_error *err);

#endif
