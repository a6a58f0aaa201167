/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader.h - the reader of tars, from the inside.  What a tar means is what
 * podman makes of it, so the rules are those of Go's archive/tar where people
 * disagree: number.c and header.c read a block, pax.c what extends it, sparse.c
 * where a file's holes are, tar.c puts an entry together and hands it on.  All
 * of it runs on the thread that called tar_read.
 */
#ifndef READER_H
#define READER_H

#include "stream.h"

#define BLOCK       512
#define MAX_SPECIAL (1 << 20) /* bytes of one pax header or long name, as in Go */

/* Bytes of a field; not ended by a NUL. */
struct text {
	const char *at;
	size_t len;
};

/* A part of a sparse file that the archive holds. */
struct part {
	int64_t offset, len;
};

/* What of a pax header matters; texts point into its buffer, where a NUL follows each.
 * len == 0: not given, or given as empty, which takes back. */
struct pax {
	struct text path, linkpath, size, uid, gid, mtime;
	struct text sparse_major, sparse_minor, sparse_name, sparse_size, sparse_realsize;
	struct text sparse_map, sparse_numblocks;
	struct silo_xattr *xattrs;
	size_t n_xattrs, cap_xattrs;
	bool map_open; /* an offset has come without its length */
};

/* One entry, all its headers together. */
struct member {
	char type;
	const char *path, *target;
	int64_t mode, uid, gid, major, minor;
	int64_t mtime;
	uint32_t mtime_nsec;
	int64_t size; /* of the file */
	int64_t body; /* bytes in the archive that have not been read yet */
	unsigned pad; /* behind them, to a whole block */
	bool sparse;
	char name[256 + 2]; /* what the block itself holds: prefix/name */
	char link[100 + 1];
};

struct reader {
	struct stream *stream;
	const char *name; /* of the layer */
	struct silo_import *import;
	struct silo_layer *layer;
	const unsigned char *at; /* plain bytes that are there */
	size_t left;
	uint64_t waste, entries;      /* bytes that belong to no file; reader_waste bounds them */
	char shown[120];              /* the entry at hand, for messages */
	struct silo_buf special;      /* body of the pax header, which struct pax points into */
	struct silo_buf path, target; /* GNU's long names */
	struct pax pax;
	struct part *parts;
	size_t n_parts, cap_parts;
	void *zeros; /* ZEROS of them, once needed */
};

/* -- tar.c: bytes ----------------------------------------------------------------- */

/* At least one plain byte at reader->at, unless the archive's bytes are at their end. */
int reader_fill (struct reader *reader, struct silo_error *err);
/* Up to `len` bytes; *ret_len < len: at the end. */
int reader_bytes (struct reader *reader, void *to, size_t len, size_t *ret_len,
		  struct silo_error *err);
/* So many bytes are not those of a file: refused when it is more than entries explain. */
int reader_waste (struct reader *reader, uint64_t len, struct silo_error *err);
/* "layer L: ENTRY: WHAT" */
int reader_refuse (struct reader *reader, struct silo_error *err, const char *fmt, ...)
    SILO_PRINTF (3, 4);
int reader_cut_short (struct reader *reader, struct silo_error *err);

/* -- number.c ----------------------------------------------------------------------- */

/* Octal, or binary when its first bit is set, of a header's field; false: neither. */
bool number_field (const unsigned char *field, size_t len, int64_t *ret);
/* Decimal with an optional sign. */
bool number_decimal (struct text text, int64_t *ret);
/* Seconds, with an optional fraction, of which nanoseconds are kept. */
bool number_time (struct text text, int64_t *ret_sec, uint32_t *ret_nsec);

/* -- header.c ------------------------------------------------------------------------- */

bool header_is_zero (const unsigned char *block);
/* Fills all of `ret` but what long names and pax change; false with what is wrong. */
bool header_parse (const unsigned char *block, struct member *ret, const char **ret_why);
/* Is it GNU's own format, which has fields for sparse files? */
bool header_is_gnu (const unsigned char *block);

/* -- pax.c ---------------------------------------------------------------------------- */

void pax_reset (struct pax *pax);
/* Understand reader->special (which is cut into pieces) and let it override the member. */
int pax_apply (struct reader *reader, struct member *member, struct silo_error *err);

/* -- sparse.c --------------------------------------------------------------------------- */

int sparse_add (struct reader *reader, int64_t offset, int64_t len, struct silo_error *err);
/* Find out whether the member is sparse, in any of the four ways, and fill reader->parts,
 * which are in order, within its size, and add up to what the archive holds. */
int sparse_find (struct reader *reader, const unsigned char *block, struct member *member,
		 struct silo_error *err);

#endif
