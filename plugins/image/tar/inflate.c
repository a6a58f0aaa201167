/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inflate.c - gzip by ISA-L, twice as fast, or by zlib, which is everywhere;
 * configure decides.  Both check each member's checksum and size.  Runs on the
 * thread that owns the struct unzip.
 */
#include "stream.h"

#include <stdlib.h>

#define MAX_STEP ((size_t) 1 << 30) /* both libraries count in 32 bits */

static unsigned
step_size (size_t len)
{
	return (unsigned) (len < MAX_STEP ? len : MAX_STEP);
}

#ifdef HAVE_ISAL

#include <isa-l/igzip_lib.h>

struct inflate {
	struct inflate_state state;
	bool inside;
};

struct inflate *
inflate_new (void)
{
	struct inflate *inflate = malloc (sizeof (*inflate));
	if (inflate)
		inflate->inside = false;
	return inflate;
}

void
inflate_free (struct inflate *inflate)
{
	free (inflate);
}

static const char *
state_error (int r)
{
	switch (r) {
	case ISAL_INVALID_WRAPPER:
		return "no gzip header where one is expected";
	case ISAL_UNSUPPORTED_METHOD:
		return "not compressed by deflate";
	case ISAL_INCORRECT_CHECKSUM:
		return "wrong checksum";
	default:
		return "damaged";
	}
}

const char *
inflate_run (struct inflate *inflate, struct flow *flow, bool *ret_inside)
{
	struct inflate_state *state = &inflate->state;
	if (!inflate->inside) {
		isal_inflate_init (state);
		state->crc_flag = ISAL_GZIP;
		inflate->inside = true;
	}
	unsigned in = step_size (flow->in_len), out = step_size (flow->out_len);
	state->next_in = (uint8_t *) flow->in; /* only read */
	state->avail_in = in;
	state->next_out = flow->out;
	state->avail_out = out;
	int r = isal_inflate (state);
	if (r != ISAL_DECOMP_OK && r != ISAL_END_INPUT)
		return state_error (r);
	flow->in += in - state->avail_in;
	flow->in_len -= in - state->avail_in;
	flow->out += out - state->avail_out;
	flow->out_len -= out - state->avail_out;
	inflate->inside = state->block_state != ISAL_BLOCK_FINISH;
	*ret_inside = inflate->inside;
	return NULL;
}

#else

#include <zlib.h>

#define GZIP_ONLY (15 + 16) /* the largest window, with gzip's header and trailer */

struct inflate {
	z_stream z;
};

struct inflate *
inflate_new (void)
{
	struct inflate *self = calloc (1, sizeof (*self));
	if (self && inflateInit2 (&self->z, GZIP_ONLY) != Z_OK) {
		free (self);
		self = NULL;
	}
	return self;
}

void
inflate_free (struct inflate *self)
{
	if (!self)
		return;
	inflateEnd (&self->z);
	free (self);
}

const char *
inflate_run (struct inflate *self, struct flow *flow, bool *ret_inside)
{
	z_stream *z = &self->z;
	unsigned in = step_size (flow->in_len), out = step_size (flow->out_len);
	z->next_in = (Bytef *) flow->in; /* only read */
	z->avail_in = in;
	z->next_out = flow->out;
	z->avail_out = out;
	int r = inflate (z, Z_NO_FLUSH);
	if (r == Z_MEM_ERROR)
		return "no memory to undo it";
	if (r != Z_OK && r != Z_STREAM_END && r != Z_BUF_ERROR)
		return z->msg ? z->msg : "damaged";
	flow->in += in - z->avail_in;
	flow->in_len -= in - z->avail_in;
	flow->out += out - z->avail_out;
	flow->out_len -= out - z->avail_out;
	*ret_inside = r != Z_STREAM_END;
	if (r == Z_STREAM_END)
		inflateReset (z);
	return NULL;
}

#endif
