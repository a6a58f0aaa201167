/* SPDX-License-Identifier: Apache-2.0 */
/*
 * header.c - the 512 bytes before each member: v7, ustar, GNU's and star's, as
 * their magic tells.  Pure functions over outside data.
 */
#include "reader.h"

#include <stdio.h>
#include <string.h>

/* Fields of all formats. */
#define AT_NAME     0
#define AT_MODE     100
#define AT_UID      108
#define AT_GID      116
#define AT_SIZE     124
#define AT_MTIME    136
#define AT_CHECKSUM 148
#define AT_TYPE     156
#define AT_LINK     157
/* Not of v7. */
#define AT_MAGIC   257
#define AT_MAJOR   329
#define AT_MINOR   337
#define AT_PREFIX  345
#define AT_TRAILER 508 /* star's second magic */

#define LEN_NAME        100
#define LEN_ID          8
#define LEN_NUMBER      12
#define LEN_PREFIX      155
#define LEN_STAR_PREFIX 131

enum format { FORMAT_V7, FORMAT_USTAR, FORMAT_STAR, FORMAT_GNU };

bool
header_is_zero (const unsigned char *block)
{
	for (size_t i = 0; i < BLOCK; i++)
		if (block[i])
			return false;
	return true;
}

/* The sum of all bytes, its own field taken as spaces; some have added them as signed. */
static bool
checksum_right (const unsigned char *block)
{
	int64_t want = 0, plain = 0, with_sign = 0;
	for (size_t i = 0; i < BLOCK; i++) {
		unsigned char c = i >= AT_CHECKSUM && i < AT_TYPE ? ' ' : block[i];
		plain += c;
		with_sign += (signed char) c;
	}
	return number_field (block + AT_CHECKSUM, LEN_ID, &want) &&
	       (want == plain || want == with_sign);
}

bool
header_is_gnu (const unsigned char *block)
{
	return memcmp (block + AT_MAGIC, "ustar  ", 8) == 0;
}

static enum format
header_format (const unsigned char *block)
{
	if (header_is_gnu (block))
		return FORMAT_GNU;
	if (memcmp (block + AT_MAGIC, "ustar", 6) != 0)
		return FORMAT_V7;
	return memcmp (block + AT_TRAILER, "tar", 4) == 0 ? FORMAT_STAR : FORMAT_USTAR;
}

static int
field_len (const unsigned char *field, size_t max)
{
	return (int) strnlen ((const char *) field, max);
}

/* Go before 1.8 wrote a prefix where GNU's format has two times. */
static bool
gnu_has_prefix (const unsigned char *block)
{
	int64_t time = 0;
	if (number_field (block + AT_PREFIX, LEN_NUMBER, &time) &&
	    number_field (block + AT_PREFIX + LEN_NUMBER, LEN_NUMBER, &time))
		return false;
	int len = field_len (block + AT_PREFIX, LEN_PREFIX);
	for (int i = 0; i < len; i++)
		if (block[AT_PREFIX + i] & 0x80)
			return false;
	return true;
}

static void
names_parse (const unsigned char *block, enum format format, struct member *ret)
{
	const unsigned char *prefix = block + AT_PREFIX;
	int len = 0;
	if (format == FORMAT_USTAR || (format == FORMAT_GNU && gnu_has_prefix (block)))
		len = field_len (prefix, LEN_PREFIX);
	else if (format == FORMAT_STAR)
		len = field_len (prefix, LEN_STAR_PREFIX);
	snprintf (ret->name, sizeof (ret->name), "%.*s%s%.*s", len, (const char *) prefix,
		  len > 0 ? "/" : "", field_len (block + AT_NAME, LEN_NAME),
		  (const char *) block + AT_NAME);
	snprintf (ret->link, sizeof (ret->link), "%.*s", field_len (block + AT_LINK, LEN_NAME),
		  (const char *) block + AT_LINK);
	ret->path = ret->name;
	ret->target = ret->link;
}

bool
header_parse (const unsigned char *block, struct member *ret, const char **ret_why)
{
	*ret_why = "its header has a wrong checksum";
	if (!checksum_right (block))
		return false;
	enum format format = header_format (block);
	*ret = (struct member){ .type = (char) block[AT_TYPE] };
	names_parse (block, format, ret);
	*ret_why = "a number in its header is none";
	if (!number_field (block + AT_MODE, LEN_ID, &ret->mode) ||
	    !number_field (block + AT_UID, LEN_ID, &ret->uid) ||
	    !number_field (block + AT_GID, LEN_ID, &ret->gid) ||
	    !number_field (block + AT_SIZE, LEN_NUMBER, &ret->size) ||
	    !number_field (block + AT_MTIME, LEN_NUMBER, &ret->mtime))
		return false;
	if (format == FORMAT_V7)
		return true;
	return number_field (block + AT_MAJOR, LEN_ID, &ret->major) &&
	       number_field (block + AT_MINOR, LEN_ID, &ret->minor);
}
