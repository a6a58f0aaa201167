/* SPDX-License-Identifier: Apache-2.0 */
/*
 * unzip.c - plain bytes out of a blob that is compressed by gzip, by zstd, or
 * not at all, as its first bytes say.  gzip members and zstd frames may follow
 * each other; anything else behind one is an error, as it is for podman.  One
 * thread at a time.
 */
#include "stream.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#define MAGIC_LEN 6

enum kind {
	KIND_UNKNOWN, /* nothing has been read */
	KIND_PLAIN,
	KIND_GZIP,
	KIND_ZSTD,
};

struct unzip {
	const struct tar_source *source;
	const char *name;
	enum kind kind;
	const unsigned char *in; /* of the source, or magic */
	size_t in_len;
	const unsigned char *rest; /* what follows while `in` is in magic */
	size_t rest_len;
	unsigned char magic[MAGIC_LEN];
	bool ended;  /* the source has no more */
	bool inside; /* a member or frame has begun and not ended */
	struct inflate *inflate;
	ZSTD_DStream *zstd;
};

int
unzip_new (const struct tar_source *source, const char *name, struct unzip **ret,
	   struct silo_error *err)
{
	struct unzip *unzip = calloc (1, sizeof (*unzip));
	if (!unzip)
		return silo_fail_nomem (err);
	unzip->source = source;
	unzip->name = name;
	*ret = unzip;
	return 0;
}

void
unzip_free (struct unzip *unzip)
{
	if (!unzip)
		return;
	inflate_free (unzip->inflate);
	ZSTD_freeDStream (unzip->zstd);
	free (unzip);
}

/* More input, unless there is some or no more. */
static int
refill (struct unzip *unzip, struct silo_error *err)
{
	if (unzip->in_len > 0)
		return 0;
	unzip->in = unzip->rest;
	unzip->in_len = unzip->rest_len;
	unzip->rest_len = 0;
	if (unzip->in_len > 0 || unzip->ended)
		return 0;
	const void *data = NULL;
	size_t len = 0;
	int r = unzip->source->next (unzip->source->arg, &data, &len, err);
	if (r < 0)
		return r;
	unzip->in = data;
	unzip->in_len = len;
	unzip->ended = len == 0;
	return 0;
}

static const struct {
	const char *name;
	enum kind kind; /* UNKNOWN: known, but not to us */
	size_t len;
	unsigned char magic[MAGIC_LEN];
	unsigned char mask; /* of the first byte */
} kinds[] = {
	{ "gzip", KIND_GZIP, 3, { 0x1f, 0x8b, 8 }, 0xff },
	{ "zstd", KIND_ZSTD, 4, { 0x28, 0xb5, 0x2f, 0xfd }, 0xff },
	{ "zstd", KIND_ZSTD, 4, { 0x50, 0x2a, 0x4d, 0x18 }, 0xf0 }, /* a frame to be skipped */
	{ "xz", KIND_UNKNOWN, 6, { 0xfd, '7', 'z', 'X', 'Z', 0 }, 0xff },
};

static int
kind_of (struct unzip *unzip, size_t len, struct silo_error *err)
{
	unzip->kind = KIND_PLAIN;
	for (size_t i = 0; i < sizeof (kinds) / sizeof (kinds[0]); i++) {
		const unsigned char *magic = kinds[i].magic;
		if (len < kinds[i].len || (unzip->magic[0] & kinds[i].mask) != magic[0] ||
		    memcmp (unzip->magic + 1, magic + 1, kinds[i].len - 1) != 0)
			continue;
		if (kinds[i].kind == KIND_UNKNOWN)
			return silo_fail (err, SILO_INVALID,
					  "layer %s: compressed by %s; gzip, zstd and plain tars "
					  "can be read",
					  unzip->name, kinds[i].name);
		unzip->kind = kinds[i].kind;
	}
	return 0;
}

/* Look at the first bytes, which may come one by one. */
static int
detect (struct unzip *unzip, struct silo_error *err)
{
	size_t len = 0;
	while (len < MAGIC_LEN) {
		int r = refill (unzip, err);
		if (r < 0)
			return r;
		if (unzip->in_len == 0)
			break;
		size_t n = MAGIC_LEN - len < unzip->in_len ? MAGIC_LEN - len : unzip->in_len;
		memcpy (unzip->magic + len, unzip->in, n);
		len += n;
		unzip->in += n;
		unzip->in_len -= n;
	}
	unzip->rest = unzip->in;
	unzip->rest_len = unzip->in_len;
	unzip->in = unzip->magic;
	unzip->in_len = len;
	int r = kind_of (unzip, len, err);
	if (r == 0 && unzip->kind == KIND_GZIP && !(unzip->inflate = inflate_new ()))
		r = silo_fail_nomem (err);
	if (r == 0 && unzip->kind == KIND_ZSTD && !(unzip->zstd = ZSTD_createDStream ()))
		r = silo_fail_nomem (err);
	return r;
}

static void
copy_run (struct flow *flow)
{
	size_t n = flow->in_len < flow->out_len ? flow->in_len : flow->out_len;
	memcpy (flow->out, flow->in, n);
	flow->in += n;
	flow->in_len -= n;
	flow->out += n;
	flow->out_len -= n;
}

static const char *
zstd_run (ZSTD_DStream *zstd, struct flow *flow, bool *ret_inside)
{
	ZSTD_inBuffer in = { flow->in, flow->in_len, 0 };
	ZSTD_outBuffer out = { flow->out, flow->out_len, 0 };
	size_t more = ZSTD_decompressStream (zstd, &out, &in);
	if (ZSTD_isError (more))
		return ZSTD_getErrorName (more);
	flow->in += in.pos;
	flow->in_len -= in.pos;
	flow->out += out.pos;
	flow->out_len -= out.pos;
	*ret_inside = more > 0;
	return NULL;
}

/* One step, which uses input or makes output or ends what was begun. */
static int
unzip_step (struct unzip *unzip, struct flow *flow, struct silo_error *err)
{
	const struct flow before = *flow;
	bool inside = false;
	const char *why = NULL;
	if (unzip->kind == KIND_PLAIN)
		copy_run (flow);
	else if (unzip->kind == KIND_GZIP)
		why = inflate_run (unzip->inflate, flow, &inside);
	else
		why = zstd_run (unzip->zstd, flow, &inside);
	if (why)
		return silo_fail (err, SILO_DATALOSS, "layer %s: compressed data: %.100s",
				  unzip->name, why);
	bool moved = flow->in_len < before.in_len || flow->out_len < before.out_len ||
		     inside != unzip->inside;
	unzip->inside = inside;
	if (moved)
		return 0;
	return silo_fail (err, SILO_DATALOSS, "layer %s: compressed data %s", unzip->name,
			  flow->in_len > 0 ? "lead nowhere" : "are cut short");
}

int
unzip_read (struct unzip *unzip, void *to, size_t size, size_t *ret_len, struct silo_error *err)
{
	struct flow flow = { .out = to, .out_len = size };
	int r = unzip->kind == KIND_UNKNOWN ? detect (unzip, err) : 0;
	while (r == 0 && flow.out_len > 0) {
		r = refill (unzip, err);
		if (r < 0 || (unzip->in_len == 0 && !unzip->inside))
			break;
		flow.in = unzip->in;
		flow.in_len = unzip->in_len;
		r = unzip_step (unzip, &flow, err);
		unzip->in = flow.in;
		unzip->in_len = flow.in_len;
	}
	if (r == 0)
		*ret_len = size - flow.out_len;
	return r;
}
