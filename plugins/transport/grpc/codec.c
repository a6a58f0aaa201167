/* SPDX-License-Identifier: Apache-2.0 */
/*
 * codec.c - protobuf, with the checks that protobuf-c leaves out: strings hold
 * no NUL and are UTF-8, memory stays in proportion to the message, and no
 * message holds more fields than it could need.  Called by the methods, on any
 * thread; keeps no state.
 */
#include "server.h"

#include <stdlib.h>
#include <string.h>

/* Unknown fields are allowed (a newer client), but not as a way to make us work. */
#define CODEC_MAX_FIELDS 64
#define CODEC_MEMORY     (64 * 1024) /* on top of the message's own size */

/* -- UTF-8 ------------------------------------------------------------------ */

/* Length of the well-formed character at p, or 0. */
static size_t
utf8_length (const unsigned char *p, size_t len)
{
	if (p[0] < 0x80)
		return 1;

	size_t n = p[0] >= 0xc2 && p[0] < 0xe0   ? 2
		   : p[0] >= 0xe0 && p[0] < 0xf0 ? 3
		   : p[0] >= 0xf0 && p[0] < 0xf5 ? 4
						 : 0;
	if (n == 0 || n > len)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0; /* overlong, a surrogate, or past U+10FFFF */
	return n;
}

/* How many bytes at the start are UTF-8 without NUL. */
static size_t
utf8_span (const unsigned char *p, size_t len)
{
	size_t i = 0;

	while (i < len) {
		size_t n = p[i] ? utf8_length (p + i, len - i) : 0;
		if (n == 0)
			break;
		i += n;
	}
	return i;
}

int
codec_check_text (const char *what, const char *text, size_t max, struct silo_error *err)
{
	size_t len = strlen (text);

	if (len > max)
		return silo_fail (err, SILO_INVALID, "%s has %zu bytes, at most %zu are allowed",
				  what, len, max);
	return 0;
}

int
codec_add_text (struct silo_buf *to, struct silo_bytes data, struct silo_error *err)
{
	const unsigned char *p = data.data;
	size_t len = data.len;

	while (len > 0) {
		size_t good = utf8_span (p, len);
		int r = silo_buf_add (to, p, good, err);
		if (r < 0)
			return r;
		if (good < len) {
			r = silo_buf_add (to, "\xef\xbf\xbd", 3, err);
			if (r < 0)
				return r;
			good++;
		}
		p += good;
		len -= good;
	}
	return 0;
}

/* -- reading ---------------------------------------------------------------- */

struct wire {
	const unsigned char *p, *end;
};

static int
wire_varint (struct wire *wire, uint64_t *ret, struct silo_error *err)
{
	uint64_t value = 0;

	for (unsigned shift = 0; shift < 70 && wire->p < wire->end; shift += 7) {
		unsigned char byte = *wire->p++;
		value |= (uint64_t) (byte & 0x7f) << (shift < 64 ? shift : 63);
		if (!(byte & 0x80)) {
			*ret = value;
			return 0;
		}
	}
	return silo_fail (err, SILO_INVALID, "the message is no protobuf: a number has no end");
}

static int
wire_skip (struct wire *wire, uint64_t len, struct silo_error *err)
{
	if (len > (uint64_t) (wire->end - wire->p))
		return silo_fail (err, SILO_INVALID, "the message is no protobuf: it is cut short");
	wire->p += len;
	return 0;
}

static int
wire_string (const ProtobufCFieldDescriptor *field, const unsigned char *p, size_t len,
	     struct silo_error *err)
{
	size_t good = utf8_span (p, len);

	if (good == len)
		return 0;
	return silo_fail (err, SILO_INVALID, "field %s has %s at byte %zu", field->name,
			  p[good] ? "invalid UTF-8" : "a NUL", good);
}

/* One field: its tag and what follows. */
static int
wire_field (struct wire *wire, const ProtobufCMessageDescriptor *type, struct silo_error *err)
{
	uint64_t tag, value;

	int r = wire_varint (wire, &tag, err);
	if (r < 0)
		return r;
	if (tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
		return silo_fail (err, SILO_INVALID,
				  "the message is no protobuf: field number %llu",
				  (unsigned long long) (tag >> 3));
	switch (tag & 7) {
	case PROTOBUF_C_WIRE_TYPE_VARINT:
		return wire_varint (wire, &value, err);
	case PROTOBUF_C_WIRE_TYPE_64BIT:
		return wire_skip (wire, 8, err);
	case PROTOBUF_C_WIRE_TYPE_32BIT:
		return wire_skip (wire, 4, err);
	case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED:
		break;
	default:
		return silo_fail (err, SILO_INVALID, "the message is no protobuf: wire type %u",
				  (unsigned) (tag & 7));
	}
	r = wire_varint (wire, &value, err);
	if (r < 0)
		return r;
	const unsigned char *start = wire->p;
	r = wire_skip (wire, value, err);
	if (r < 0)
		return r;
	const ProtobufCFieldDescriptor *field =
	    protobuf_c_message_descriptor_get_field (type, (unsigned) (tag >> 3));
	if (!field || field->type != PROTOBUF_C_TYPE_STRING)
		return 0;
	return wire_string (field, start, (size_t) value, err);
}

/* Read once before protobuf-c does: it would cut a string at its NUL without a word. */
static int
codec_check (const ProtobufCMessageDescriptor *type, struct silo_bytes bytes,
	     struct silo_error *err)
{
	const unsigned char *start = bytes.data;
	struct wire wire = { start, start + bytes.len };

	for (int n = 0; wire.p < wire.end; n++) {
		if (n == CODEC_MAX_FIELDS)
			return silo_fail (err, SILO_INVALID, "more than %d fields in the message",
					  CODEC_MAX_FIELDS);
		int r = wire_field (&wire, type, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static void *
codec_alloc (void *budget, size_t size)
{
	size_t *left = budget;

	if (size > *left)
		return NULL;
	*left -= size;
	return malloc (size ? size : 1);
}

static void
codec_release (void *budget SILO_UNUSED, void *p)
{
	free (p);
}

int
codec_unpack (const ProtobufCMessageDescriptor *type, struct silo_bytes wire,
	      ProtobufCMessage **ret, struct silo_error *err)
{
	int r = codec_check (type, wire, err);
	if (r < 0)
		return r;

	size_t budget = wire.len + CODEC_MEMORY;
	ProtobufCAllocator allocator = { .alloc = codec_alloc,
					 .free = codec_release,
					 .allocator_data = &budget };
	const void *data = wire.len ? wire.data : "";
	ProtobufCMessage *message = protobuf_c_message_unpack (type, &allocator, wire.len, data);
	if (!message)
		return silo_fail (err, SILO_INVALID, "the message is no %s", type->name);
	*ret = message;
	return 0;
}

void
codec_free (ProtobufCMessage *message)
{
	if (message)
		protobuf_c_message_free_unpacked (message, NULL);
}

/* -- writing ---------------------------------------------------------------- */

/* Takes `data`, malloc'ed. */
static grpc_byte_buffer *
codec_own (void *data, size_t len)
{
	grpc_slice slice = grpc_slice_new (data, len, free);
	grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create (&slice, 1);

	grpc_slice_unref (slice);
	return buffer;
}

int
codec_pack (const ProtobufCMessage *message, grpc_byte_buffer **ret, struct silo_error *err)
{
	size_t len = protobuf_c_message_get_packed_size (message);
	uint8_t *data = malloc (len ? len : 1);

	if (!data)
		return silo_fail_nomem (err);
	protobuf_c_message_pack (message, data);
	*ret = codec_own (data, len);
	return 0;
}

int
codec_wrap (const void *data, size_t len, grpc_byte_buffer **ret, struct silo_error *err)
{
	void *copy = malloc (len ? len : 1);

	if (!copy)
		return silo_fail_nomem (err);
	if (len)
		memcpy (copy, data, len);
	*ret = codec_own (copy, len);
	return 0;
}

/* -- status messages -------------------------------------------------------- */

/* Bytes that this one takes in a grpc-message header. */
static size_t
status_cost (char c)
{
	return c >= 0x20 && c < 0x7f && c != '%' ? 1 : 3;
}

/* The longest start of `text` within `budget`, cut between characters. */
static size_t
status_head (const char *text, size_t *budget)
{
	size_t n = 0;

	while (text[n] && status_cost (text[n]) <= *budget)
		*budget -= status_cost (text[n++]);
	while (text[n] && n > 0 && (text[n] & 0xc0) == 0x80)
		n--;
	return n;
}

/* Where the longest end of `text` within `budget` begins; at a line's start when cut. */
static const char *
status_tail (const char *text, size_t budget)
{
	const char *p = text + strlen (text);

	while (p > text && status_cost (p[-1]) <= budget)
		budget -= status_cost (*--p);
	if (p == text)
		return p;
	const char *line = strchr (p, '\n');
	return line ? line + 1 : p + strlen (p);
}

char *
codec_status_text (const char *headline, const char *detail)
{
	size_t budget = STATUS_MAX / 2;
	size_t head = status_head (headline, &budget);
	const char *tail =
	    detail && *detail ? status_tail (detail, budget + STATUS_MAX / 2 - 3) : "";
	size_t size = head + strlen (tail) + 2;
	char *text = malloc (size);

	if (!text)
		return NULL;
	memcpy (text, headline, head);
	text[head] = 0;
	if (*tail) {
		text[head] = '\n';
		memcpy (text + head + 1, tail, strlen (tail) + 1);
	}
	return text;
}
