/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.h - a layer's way from the blob to plain bytes: inflate.c undoes gzip
 * with the library that configure chose, unzip.c finds out what the blob is
 * compressed by and drives it, stream.c lets that run ahead in its own thread.
 */
#ifndef STREAM_H
#define STREAM_H

#include "tar.h"

#include <stdbool.h>

/* -- inflate.c: one gzip member after the other ------------------------------- */

/* Input and room for output; both move on. */
struct flow {
	const unsigned char *in;
	size_t in_len;
	unsigned char *out;
	size_t out_len;
};

struct inflate;

struct inflate *inflate_new (void); /* NULL: no memory */
void inflate_free (struct inflate *inflate);
/* Go on until input or room is used up, or the member ends, its checksum compared: *ret_inside
 * is false then, and the next call starts another one.  NULL, or what is wrong. */
const char *inflate_run (struct inflate *inflate, struct flow *flow, bool *ret_inside);

/* -- unzip.c ------------------------------------------------------------------- */

struct unzip;

int unzip_new (const struct tar_source *source, const char *name, struct unzip **ret,
	       struct silo_error *err);
void unzip_free (struct unzip *unzip);
/* Fill `to`; *ret_len < size only at the end, where the blob has been read to its end, too. */
int unzip_read (struct unzip *unzip, void *to, size_t size, size_t *ret_len,
		struct silo_error *err);

/* -- stream.c ------------------------------------------------------------------- */

struct stream;

int stream_open (const struct tar_source *source, const char *name, struct stream **ret,
		 struct silo_error *err);
/* The next plain bytes, which stay until the next call; *ret_len == 0 at the end. */
int stream_next (struct stream *stream, const unsigned char **ret, size_t *ret_len,
		 struct silo_error *err);
/* Stops what is still running; NULL is allowed. */
void stream_close (struct stream *stream);

#endif
