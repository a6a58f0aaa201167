/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bytes.c - growable buffers, digests, base64, secrets, clocks.
 * Called from any thread, by the core and by plugins; keeps no state.
 */
#include "core.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/random.h>
#include <time.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

int
silo_buf_reserve (struct silo_buf *buf, size_t len, struct silo_error *err)
{
	if (len > buf->max || buf->len > buf->max - len)
		return silo_fail (err, SILO_EXHAUSTED, "more than %zu bytes", buf->max);

	size_t need = buf->len + len + 1;
	if (need <= buf->cap)
		return 0;

	size_t cap = buf->cap ? buf->cap : 64;
	while (cap < need)
		cap = cap > SIZE_MAX / 2 ? need : cap * 2;
	unsigned char *data = realloc (buf->data, cap);
	if (!data)
		return silo_fail_nomem (err);
	buf->data = data;
	buf->cap = cap;
	return 0;
}

int
silo_buf_add (struct silo_buf *buf, const void *data, size_t len, struct silo_error *err)
{
	int r = silo_buf_reserve (buf, len, err);
	if (r < 0)
		return r;
	if (len)
		memcpy (buf->data + buf->len, data, len);
	buf->len += len;
	buf->data[buf->len] = 0;
	return 0;
}

int
silo_buf_addf (struct silo_buf *buf, struct silo_error *err, const char *fmt, ...)
{
	va_list ap;

	va_start (ap, fmt);
	int n = vsnprintf (NULL, 0, fmt, ap);
	va_end (ap);
	if (n < 0)
		return silo_fail (err, SILO_INTERNAL, "cannot format \"%s\"", fmt);

	int r = silo_buf_reserve (buf, (size_t) n, err);
	if (r < 0)
		return r;
	va_start (ap, fmt);
	vsnprintf ((char *) buf->data + buf->len, (size_t) n + 1, fmt, ap);
	va_end (ap);
	buf->len += (size_t) n;
	return 0;
}

int
silo_buf_add_file (struct silo_buf *buf, const char *path, struct silo_error *err)
{
	_cleanup_close_ int fd = open (path, O_RDONLY | O_CLOEXEC);
	size_t before = buf->len;
	ssize_t n = -1;

	if (fd < 0)
		return silo_fail_sys (err, errno, "%s", path);
	while (n != 0) {
		/* At the limit one more byte tells whether the file ends there. */
		size_t room = buf->max - buf->len < 4096 ? buf->max - buf->len : 4096;
		char beyond;
		int r = silo_buf_reserve (buf, room, err);
		if (r < 0)
			return r;
		n = room ? read (fd, buf->data + buf->len, room) : read (fd, &beyond, 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 || (n > 0 && !room)) {
			buf->len = before;
			return n < 0 ? silo_fail_sys (err, errno, "%s", path)
				     : silo_fail (err, SILO_EXHAUSTED, "%s has more than %zu bytes",
						  path, buf->max - before);
		}
		buf->len += (size_t) n;
		buf->data[buf->len] = 0;
	}
	return 0;
}

void
silo_buf_free (struct silo_buf *buf)
{
	if (!buf)
		return;
	free (buf->data);
	buf->data = NULL;
	buf->len = buf->cap = 0;
}

void
silo_digest_hex (const struct silo_digest *digest, char ret[SILO_DIGEST_HEX + 1])
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < sizeof (digest->b); i++) {
		ret[2 * i] = digits[digest->b[i] >> 4];
		ret[2 * i + 1] = digits[digest->b[i] & 15];
	}
	ret[SILO_DIGEST_HEX] = 0;
}

static int
hex_value (char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

int
silo_digest_parse (const char *hex, struct silo_digest *ret, struct silo_error *err)
{
	struct silo_digest digest;

	if (strnlen (hex, SILO_DIGEST_HEX + 1) != SILO_DIGEST_HEX)
		return silo_fail (err, SILO_INVALID,
				  "\"%.80s\" is no SHA-256: expected 64 lower-case hex digits",
				  hex);
	for (size_t i = 0; i < sizeof (digest.b); i++) {
		int high = hex_value (hex[2 * i]), low = hex_value (hex[2 * i + 1]);
		if (high < 0 || low < 0)
			return silo_fail (err, SILO_INVALID,
					  "\"%s\" is no SHA-256: expected 64 lower-case hex digits",
					  hex);
		digest.b[i] = (uint8_t) (high << 4 | low);
	}
	*ret = digest;
	return 0;
}

int
silo_digest_of (const void *data, size_t len, struct silo_digest *ret, struct silo_error *err)
{
	unsigned int n = sizeof (ret->b);

	if (EVP_Digest (data, len, ret->b, &n, EVP_sha256 (), NULL) != 1)
		return silo_fail (err, SILO_INTERNAL, "cannot compute a SHA-256");
	return 0;
}

bool
silo_digest_equal (const struct silo_digest *a, const struct silo_digest *b)
{
	return memcmp (a->b, b->b, sizeof (a->b)) == 0;
}

bool
silo_digest_empty (const struct silo_digest *digest)
{
	static const struct silo_digest none;
	return silo_digest_equal (digest, &none);
}

struct silo_hash {
	EVP_MD_CTX *ctx;
};

struct silo_hash *
silo_hash_new (void)
{
	struct silo_hash *hash = calloc (1, sizeof (*hash));
	if (!hash)
		return NULL;
	hash->ctx = EVP_MD_CTX_new ();
	if (!hash->ctx || EVP_DigestInit_ex (hash->ctx, EVP_sha256 (), NULL) != 1) {
		silo_hash_free (hash);
		return NULL;
	}
	return hash;
}

int
silo_hash_add (struct silo_hash *hash, const void *data, size_t len)
{
	return EVP_DigestUpdate (hash->ctx, data, len) == 1 ? 0 : SILO_INTERNAL;
}

int
silo_hash_end (struct silo_hash *hash, struct silo_digest *ret)
{
	unsigned int n = sizeof (ret->b);

	if (EVP_DigestFinal_ex (hash->ctx, ret->b, &n) != 1 ||
	    EVP_DigestInit_ex (hash->ctx, NULL, NULL) != 1)
		return SILO_INTERNAL;
	return 0;
}

void
silo_hash_free (struct silo_hash *hash)
{
	if (!hash)
		return;
	EVP_MD_CTX_free (hash->ctx);
	free (hash);
}

/* OpenSSL's block functions count in int: go in pieces that are whole groups. */
#define BASE64_PIECE (3u * 1024 * 1024)

int
silo_base64_encode (const void *data, size_t len, struct silo_buf *to, struct silo_error *err)
{
	if (len > (SIZE_MAX - 4) / 4 * 3)
		return silo_fail (err, SILO_EXHAUSTED, "%zu bytes are too many for base64", len);
	int r = silo_buf_reserve (to, (len + 2) / 3 * 4, err);
	if (r < 0)
		return r;
	const unsigned char *from = data;
	while (len) {
		size_t n = len < BASE64_PIECE ? len : BASE64_PIECE;
		to->len += (size_t) EVP_EncodeBlock (to->data + to->len, from, (int) n);
		from += n;
		len -= n;
	}
	to->data[to->len] = 0;
	return 0;
}

static int
base64_value (unsigned char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int
silo_base64_decode (const char *text, size_t len, struct silo_buf *to, struct silo_error *err)
{
	if (len % 4)
		return silo_fail (err, SILO_INVALID,
				  "%zu characters are no base64: expected a multiple of 4", len);
	size_t padding = !len || text[len - 1] != '=' ? 0 : text[len - 2] == '=' ? 2 : 1;
	int r = silo_buf_reserve (to, len / 4 * 3 - padding, err);
	if (r < 0)
		return r;

	unsigned char *out = to->data + to->len;
	for (size_t i = 0; i < len; i += 4) {
		size_t pad = i + 4 == len ? padding : 0;
		uint32_t group = 0;
		for (size_t j = 0; j < 4; j++) {
			int v = j >= 4 - pad ? 0 : base64_value ((unsigned char) text[i + j]);
			if (v < 0)
				return silo_fail (err, SILO_INVALID,
						  "not base64: byte 0x%02x at position %zu",
						  (unsigned char) text[i + j], i + j);
			group = group << 6 | (uint32_t) v;
		}
		*out++ = (unsigned char) (group >> 16);
		if (pad < 2)
			*out++ = (unsigned char) (group >> 8);
		if (pad < 1)
			*out++ = (unsigned char) group;
	}
	to->len = (size_t) (out - to->data);
	to->data[to->len] = 0;
	return 0;
}

bool
silo_secret_equal (const void *a, size_t a_len, const void *b, size_t b_len)
{
	return a_len == b_len && CRYPTO_memcmp (a, b, a_len) == 0;
}

int
silo_random (void *to, size_t len, struct silo_error *err)
{
	unsigned char *p = to;

	while (len) {
		ssize_t n = getrandom (p, len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return silo_fail_sys (err, errno, "getrandom");
		p += n;
		len -= (size_t) n;
	}
	return 0;
}

static int64_t
clock_ns (clockid_t clock)
{
	struct timespec ts;

	clock_gettime (clock, &ts);
	return (int64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t
silo_now (void)
{
	return clock_ns (CLOCK_REALTIME);
}

int64_t
silo_monotonic (void)
{
	return clock_ns (CLOCK_MONOTONIC);
}
