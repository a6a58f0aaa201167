/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pax.c - the records "LENGTH KEY=VALUE\n" of a pax header.  The last of
 * several records with one key counts.  Keys that do not change what an entry
 * is in a tree are passed over, as are global headers: podman takes nothing
 * from them.
 */
#include "reader.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define MAX_XATTRS 1024

static const char xattr_prefix[] = "SCHILY.xattr.";

/* Records whose values are kept as text. */
static const struct {
	const char *key;
	size_t offset;
} keys[] = {
	{ "path", offsetof (struct pax, path) },
	{ "linkpath", offsetof (struct pax, linkpath) },
	{ "size", offsetof (struct pax, size) },
	{ "uid", offsetof (struct pax, uid) },
	{ "gid", offsetof (struct pax, gid) },
	{ "mtime", offsetof (struct pax, mtime) },
	{ "GNU.sparse.major", offsetof (struct pax, sparse_major) },
	{ "GNU.sparse.minor", offsetof (struct pax, sparse_minor) },
	{ "GNU.sparse.name", offsetof (struct pax, sparse_name) },
	{ "GNU.sparse.size", offsetof (struct pax, sparse_size) },
	{ "GNU.sparse.realsize", offsetof (struct pax, sparse_realsize) },
	{ "GNU.sparse.map", offsetof (struct pax, sparse_map) },
	{ "GNU.sparse.numblocks", offsetof (struct pax, sparse_numblocks) },
};

void
pax_reset (struct pax *pax)
{
	*pax = (struct pax){ .xattrs = pax->xattrs, .cap_xattrs = pax->cap_xattrs };
}

/* -- records -------------------------------------------------------------------------- */

struct record {
	const char *key;
	struct text value;
};

/* Cut the record at *at off; false: there is none.  NULs take the places of "=" and "\n". */
static bool
record_next (char **at, const char *end, struct record *ret)
{
	size_t len = 0, digits = 0;
	char *start = *at;
	while (start + digits < end && start[digits] >= '0' && start[digits] <= '9') {
		len = len * 10 + (size_t) (start[digits++] - '0');
		if (len > MAX_SPECIAL)
			return false;
	}
	if (digits == 0 || len > (size_t) (end - start) || len < digits + 2 ||
	    start[digits] != ' ' || start[len - 1] != '\n')
		return false;
	char *key = start + digits + 1, *last = start + len - 1;
	char *equals = memchr (key, '=', (size_t) (last - key));
	if (!equals || equals == key || memchr (key, '\0', (size_t) (equals - key)))
		return false;
	*equals = *last = '\0';
	*ret = (struct record){ key, { equals + 1, (size_t) (last - equals - 1) } };
	*at = last + 1;
	return true;
}

static int
take_xattr (struct reader *reader, const char *name, struct text value, struct silo_error *err)
{
	struct pax *pax = &reader->pax;
	size_t i = 0;
	while (i < pax->n_xattrs && strcmp (pax->xattrs[i].name, name) != 0)
		i++;
	if (i == MAX_XATTRS)
		return reader_refuse (reader, err, "more than %d extended attributes", MAX_XATTRS);
	if (i == pax->cap_xattrs) {
		size_t cap = i ? i * 2 : 8;
		struct silo_xattr *more = reallocarray (pax->xattrs, cap, sizeof (*more));
		if (!more)
			return silo_fail_nomem (err);
		pax->xattrs = more;
		pax->cap_xattrs = cap;
	}
	pax->xattrs[i] = (struct silo_xattr){ name, { value.at, value.len } };
	if (i == pax->n_xattrs)
		pax->n_xattrs++;
	return 0;
}

/* Sparse files as GNU tar 1.14 wrote them: pairs of records, in order. */
static int
take_part (struct reader *reader, bool is_offset, struct text value, struct silo_error *err)
{
	int64_t number = 0;
	if (is_offset == reader->pax.map_open || !number_decimal (value, &number))
		return reader_refuse (reader, err, "its map of a sparse file makes no sense");
	reader->pax.map_open = is_offset;
	if (is_offset)
		return sparse_add (reader, number, 0, err);
	reader->parts[reader->n_parts - 1].len = number;
	return 0;
}

static int
take_record (struct reader *reader, const struct record *record, struct silo_error *err)
{
	const struct text value = record->value;
	const size_t prefix = strlen (xattr_prefix);
	if (strncmp (record->key, xattr_prefix, prefix) == 0)
		return take_xattr (reader, record->key + prefix, value, err);
	if (strcmp (record->key, "GNU.sparse.offset") == 0)
		return take_part (reader, true, value, err);
	if (strcmp (record->key, "GNU.sparse.numbytes") == 0)
		return take_part (reader, false, value, err);
	for (size_t i = 0; i < sizeof (keys) / sizeof (keys[0]); i++) {
		if (strcmp (record->key, keys[i].key) != 0)
			continue;
		if (memchr (value.at, '\0', value.len))
			return reader_refuse (reader, err, "its %s holds a NUL byte", record->key);
		*(struct text *) ((char *) &reader->pax + keys[i].offset) = value;
	}
	return 0;
}

/* -- what they change ------------------------------------------------------------------- */

static int
apply_numbers (struct reader *reader, struct member *member, struct silo_error *err)
{
	const struct pax *pax = &reader->pax;
	const struct {
		const char *key;
		struct text text;
		int64_t *to;
	} numbers[] = {
		{ "size", pax->size, &member->size },
		{ "uid", pax->uid, &member->uid },
		{ "gid", pax->gid, &member->gid },
	};
	for (size_t i = 0; i < sizeof (numbers) / sizeof (numbers[0]); i++)
		if (numbers[i].text.len > 0 && !number_decimal (numbers[i].text, numbers[i].to))
			return reader_refuse (reader, err, "its %s is no number", numbers[i].key);
	if (pax->mtime.len > 0 && !number_time (pax->mtime, &member->mtime, &member->mtime_nsec))
		return reader_refuse (reader, err, "its mtime is no time");
	return 0;
}

int
pax_apply (struct reader *reader, struct member *member, struct silo_error *err)
{
	struct pax *pax = &reader->pax;
	char *at = (char *) reader->special.data;
	const char *end = at ? at + reader->special.len : at; /* an empty header has no bytes */
	int r = 0;
	while (r == 0 && at < end) {
		struct record record;
		if (!record_next (&at, end, &record))
			return reader_refuse (reader, err, "its pax header is damaged");
		r = take_record (reader, &record, err);
	}
	if (r < 0)
		return r;
	if (pax->map_open)
		return reader_refuse (reader, err, "its map of a sparse file is cut short");
	if (pax->path.len > 0)
		member->path = pax->path.at;
	if (pax->linkpath.len > 0)
		member->target = pax->linkpath.at;
	return apply_numbers (reader, member, err);
}
