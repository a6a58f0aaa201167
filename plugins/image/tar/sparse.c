/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sparse.c - where a sparse file has bytes: in GNU's own header and blocks that
 * continue it, or in pax headers of versions 0.0, 0.1 and 1.0, the last of which
 * has the map before the file's bytes.
 */
#include "reader.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PARTS (1u << 18) /* 4 MiB of them */

/* GNU's header and the blocks that continue it. */
#define AT_PARTS         386
#define AT_EXTENDED      482
#define AT_REALSIZE      483
#define AT_MORE_EXTENDED 504
#define PARTS_IN_HEADER  4
#define PARTS_IN_MORE    21
#define LEN_PART_NUMBER  12
#define LEN_PART         (2 * LEN_PART_NUMBER)

static int
no_sense (struct reader *reader, struct silo_error *err)
{
	return reader_refuse (reader, err, "its map of a sparse file makes no sense");
}

int
sparse_add (struct reader *reader, int64_t offset, int64_t len, struct silo_error *err)
{
	if (reader->n_parts == MAX_PARTS)
		return reader_refuse (reader, err, "a sparse file of more than %u parts",
				      MAX_PARTS);
	if (reader->n_parts == reader->cap_parts) {
		size_t cap = reader->cap_parts ? reader->cap_parts * 2 : 64;
		struct part *parts = reallocarray (reader->parts, cap, sizeof (*parts));
		if (!parts)
			return silo_fail_nomem (err);
		reader->parts = parts;
		reader->cap_parts = cap;
	}
	reader->parts[reader->n_parts++] = (struct part){ offset, len };
	return 0;
}

/* -- GNU's own ------------------------------------------------------------------------- */

static int
old_parts (struct reader *reader, const unsigned char *at, size_t n, struct silo_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < n && *at; i++, at += LEN_PART) {
		int64_t offset = 0, len = 0;
		if (!number_field (at, LEN_PART_NUMBER, &offset) ||
		    !number_field (at + LEN_PART_NUMBER, LEN_PART_NUMBER, &len))
			return no_sense (reader, err);
		r = sparse_add (reader, offset, len, err);
	}
	return r;
}

static int
old_find (struct reader *reader, const unsigned char *block, struct member *member,
	  struct silo_error *err)
{
	unsigned char more[BLOCK];
	size_t got = 0;
	if (!header_is_gnu (block) ||
	    !number_field (block + AT_REALSIZE, LEN_PART_NUMBER, &member->size))
		return no_sense (reader, err);
	int r = old_parts (reader, block + AT_PARTS, PARTS_IN_HEADER, err);
	bool extended = block[AT_EXTENDED];
	while (r == 0 && extended) {
		r = reader_waste (reader, BLOCK, err);
		if (r == 0)
			r = reader_bytes (reader, more, BLOCK, &got, err);
		if (r == 0 && got < BLOCK)
			r = reader_cut_short (reader, err);
		if (r == 0)
			r = old_parts (reader, more, PARTS_IN_MORE, err);
		extended = r == 0 && more[AT_MORE_EXTENDED];
	}
	return r;
}

/* -- pax 0.0, 0.1 ------------------------------------------------------------------------ */

/* Cut the number up to the next comma off. */
static bool
listed_number (struct text *list, int64_t *ret)
{
	const char *comma = memchr (list->at, ',', list->len);
	struct text number = { list->at, comma ? (size_t) (comma - list->at) : list->len };
	size_t used = number.len + (comma ? 1 : 0);
	*list = (struct text){ list->at + used, list->len - used };
	return number_decimal (number, ret);
}

/* "OFFSET,LENGTH,OFFSET,LENGTH..."; the parts of 0.0 have been met already. */
static int
listed_find (struct reader *reader, struct silo_error *err)
{
	struct text list = reader->pax.sparse_map;
	int64_t count = -1, offset = 0, len = 0;
	int r = 0;
	while (r == 0 && list.len > 0) {
		if (!listed_number (&list, &offset) || !listed_number (&list, &len))
			return no_sense (reader, err);
		r = sparse_add (reader, offset, len, err);
	}
	if (r == 0 && (!number_decimal (reader->pax.sparse_numblocks, &count) ||
		       count != (int64_t) reader->n_parts))
		return no_sense (reader, err);
	return r;
}

/* -- pax 1.0 ------------------------------------------------------------------------------- */

/* The map, in whole blocks in front of the file's bytes. */
struct map {
	unsigned char block[BLOCK];
	size_t at;
};

/* A decimal number and the newline behind it. */
static int
map_number (struct reader *reader, struct member *member, struct map *map, int64_t *ret,
	    struct silo_error *err)
{
	char digits[24];
	size_t n = 0, got = 0;
	while (n < sizeof (digits)) {
		if (map->at == BLOCK) {
			int r = member->body < BLOCK ? no_sense (reader, err)
						     : reader_waste (reader, BLOCK, err);
			if (r == 0)
				r = reader_bytes (reader, map->block, BLOCK, &got, err);
			if (r < 0)
				return r;
			if (got < BLOCK)
				return reader_cut_short (reader, err);
			member->body -= BLOCK;
			map->at = 0;
		}
		char c = (char) map->block[map->at++];
		if (c == '\n')
			break;
		digits[n++] = c;
	}
	if (n == sizeof (digits) || !number_decimal ((struct text){ digits, n }, ret))
		return no_sense (reader, err);
	return 0;
}

static int
map_find (struct reader *reader, struct member *member, struct silo_error *err)
{
	struct map map = { .at = BLOCK };
	int64_t count = 0, offset = 0, len = 0;
	int r = map_number (reader, member, &map, &count, err);
	if (r == 0 && count < 0)
		r = no_sense (reader, err);
	for (int64_t i = 0; r == 0 && i < count; i++) {
		r = map_number (reader, member, &map, &offset, err);
		if (r == 0)
			r = map_number (reader, member, &map, &len, err);
		if (r == 0)
			r = sparse_add (reader, offset, len, err);
	}
	return r;
}

/* -- all of them ------------------------------------------------------------------------------ */

static int
parts_check (struct reader *reader, const struct member *member, struct silo_error *err)
{
	int64_t at = 0, sum = 0;
	for (size_t i = 0; i < reader->n_parts; i++) {
		const struct part *part = &reader->parts[i];
		if (part->offset < at || part->len < 0 || part->offset > member->size ||
		    part->len > member->size - part->offset)
			return no_sense (reader, err);
		at = part->offset + part->len;
		sum += part->len; /* at most the size: they do not overlap */
	}
	return sum == member->body ? 0 : no_sense (reader, err);
}

static bool
text_is (struct text text, const char *other)
{
	return text.len == strlen (other) && memcmp (text.at, other, text.len) == 0;
}

static int
pax_find (struct reader *reader, struct member *member, struct silo_error *err)
{
	const struct pax *pax = &reader->pax;
	bool versioned = pax->sparse_major.len > 0 || pax->sparse_minor.len > 0;
	bool in_front = text_is (pax->sparse_major, "1") && text_is (pax->sparse_minor, "0");
	bool listed = text_is (pax->sparse_major, "0") &&
		      (text_is (pax->sparse_minor, "0") || text_is (pax->sparse_minor, "1"));
	/* 0.0 and 0.1 may do without a version. */
	listed = listed || (!versioned && (pax->sparse_map.len > 0 || reader->n_parts > 0));
	if (!in_front && !listed)
		return 0;
	struct text size = pax->sparse_size.len > 0 ? pax->sparse_size : pax->sparse_realsize;
	if (size.len > 0 && !number_decimal (size, &member->size))
		return no_sense (reader, err);
	if (pax->sparse_name.len > 0)
		member->path = pax->sparse_name.at;
	member->sparse = true;
	if (listed)
		return listed_find (reader, err);
	reader->n_parts = 0;
	return map_find (reader, member, err);
}

int
sparse_find (struct reader *reader, const unsigned char *block, struct member *member,
	     struct silo_error *err)
{
	int r;
	if (member->type == 'S') {
		reader->n_parts = 0;
		member->sparse = true;
		r = old_find (reader, block, member, err);
	} else {
		r = pax_find (reader, member, err);
	}
	if (r < 0 || !member->sparse)
		return r;
	return parts_check (reader, member, err);
}
