/* SPDX-License-Identifier: Apache-2.0 */
/*
 * number.c - numbers of a tar as its fields and pax records have them.  Pure
 * functions over outside data: nothing is assumed, every overflow is seen.
 */
#include "reader.h"

#include <string.h>

/* Two's complement, the highest bit of the first byte only being the mark. */
static bool
number_binary (const unsigned char *field, size_t len, int64_t *ret)
{
	/* A negative number is read with all bits turned round: -a - 1 == ~a. */
	const unsigned char turn = field[0] & 0x40 ? 0xff : 0;
	uint64_t value = 0;
	for (size_t i = 0; i < len; i++) {
		unsigned char byte = field[i] ^ turn;
		if (i == 0)
			byte &= 0x7f;
		if (value >> 56)
			return false;
		value = value << 8 | byte;
	}
	if (value > INT64_MAX)
		return false;
	*ret = turn ? -1 - (int64_t) value : (int64_t) value;
	return true;
}

static bool
is_padding (unsigned char c)
{
	return c == ' ' || c == '\0';
}

bool
number_field (const unsigned char *field, size_t len, int64_t *ret)
{
	if (field[0] & 0x80)
		return number_binary (field, len, ret);
	while (len > 0 && is_padding (field[len - 1]))
		len--;
	while (len > 0 && is_padding (*field)) {
		field++;
		len--;
	}
	int64_t value = 0;
	/* What stands behind a NUL is somebody's rubbish. */
	for (size_t i = 0; i < len && field[i]; i++) {
		if (field[i] < '0' || field[i] > '7' || value > INT64_MAX >> 3)
			return false;
		value = value << 3 | (field[i] - '0');
	}
	*ret = value;
	return true;
}

/* The sign is the caller's: digits of "-123" give -123. */
static bool
number_digits (struct text text, bool negative, int64_t *ret)
{
	int64_t value = 0;
	if (text.len == 0)
		return false;
	for (size_t i = 0; i < text.len; i++) {
		if (text.at[i] < '0' || text.at[i] > '9')
			return false;
		int64_t digit = text.at[i] - '0';
		if (__builtin_mul_overflow (value, 10, &value) ||
		    __builtin_add_overflow (value, negative ? -digit : digit, &value))
			return false;
	}
	*ret = value;
	return true;
}

bool
number_decimal (struct text text, int64_t *ret)
{
	bool sign = text.len > 0 && (*text.at == '-' || *text.at == '+');
	bool negative = sign && *text.at == '-';
	if (sign)
		text = (struct text){ text.at + 1, text.len - 1 };
	return number_digits (text, negative, ret);
}

bool
number_time (struct text text, int64_t *ret_sec, uint32_t *ret_nsec)
{
	const char *dot = memchr (text.at, '.', text.len);
	struct text whole = { text.at, dot ? (size_t) (dot - text.at) : text.len };
	int64_t sec = 0;
	uint32_t nsec = 0;
	if (!number_decimal (whole, &sec))
		return false;
	size_t digits = dot ? text.len - whole.len - 1 : 0;
	for (size_t i = 0; i < digits; i++)
		if (dot[1 + i] < '0' || dot[1 + i] > '9')
			return false;
	for (size_t i = 0; i < 9; i++)
		nsec = nsec * 10 + (i < digits ? (uint32_t) (dot[1 + i] - '0') : 0);
	/* "-1.25" is 0.75 after -2. */
	if (*text.at == '-' && nsec > 0) {
		if (sec == INT64_MIN)
			return false;
		sec--;
		nsec = 1000000000u - nsec;
	}
	*ret_sec = sec;
	*ret_nsec = nsec;
	return true;
}
