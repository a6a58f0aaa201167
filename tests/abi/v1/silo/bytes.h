/* SPDX-License-Identifier: Apache-2.0 */
/*
 * silo/bytes.h - borrowed byte strings, growable buffers with a maximum,
 * SHA-256 digests, base64, constant-time comparison.
 */
#ifndef SILO_BYTES_H
#define SILO_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <silo/error.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Borrowed bytes.  {NULL, 0} is empty. */
struct silo_bytes {
	const void *data;
	size_t len;
};

/* An owned, growable buffer.  `max` is the most it may hold; adding past it
 * fails with SILO_EXHAUSTED and leaves the buffer as it was.  When len > 0 or
 * anything was ever added, data[len] is a NUL that len does not count. */
struct silo_buf {
	unsigned char *data;
	size_t len;
	size_t cap;
	size_t max;
};

#define SILO_BUF(max_bytes)             \
	{                               \
		NULL, 0, 0, (max_bytes) \
	}

SILO_API int silo_buf_add (struct silo_buf *buf, const void *data, size_t len,
			   struct silo_error *err);
SILO_API int silo_buf_addf (struct silo_buf *buf, struct silo_error *err, const char *fmt, ...)
    SILO_PRINTF (3, 4);
/* Make room for `len` more bytes at data + len; the caller then adds to len. */
SILO_API int silo_buf_reserve (struct silo_buf *buf, size_t len, struct silo_error *err);
/* Append a whole file. */
SILO_API int silo_buf_add_file (struct silo_buf *buf, const char *path, struct silo_error *err);
/* Free what it holds and make it empty again; NULL is allowed. */
SILO_API void silo_buf_free (struct silo_buf *buf);

/* A SHA-256. */
struct silo_digest {
	uint8_t b[32];
};

#define SILO_DIGEST_HEX 64 /* characters of its text, without the NUL */

SILO_API void silo_digest_hex (const struct silo_digest *digest, char ret[SILO_DIGEST_HEX + 1]);
/* Exactly 64 lower-case hex digits, or SILO_INVALID. */
SILO_API int silo_digest_parse (const char *hex, struct silo_digest *ret, struct silo_error *err);
SILO_API int silo_digest_of (const void *data, size_t len, struct silo_digest *ret,
			     struct silo_error *err);
SILO_API bool silo_digest_equal (const struct silo_digest *a, const struct silo_digest *b);
/* All zero: "no digest". */
SILO_API bool silo_digest_empty (const struct silo_digest *digest);

/* SHA-256 piece by piece.  silo_hash_end resets it for the next message. */
struct silo_hash;
SILO_API struct silo_hash *silo_hash_new (void);
SILO_API int silo_hash_add (struct silo_hash *hash, const void *data, size_t len);
SILO_API int silo_hash_end (struct silo_hash *hash, struct silo_digest *ret);
SILO_API void silo_hash_free (struct silo_hash *hash);

/* RFC 4648 base64 with padding.  The decoder skips no white space and refuses
 * what is not base64 with SILO_INVALID. */
SILO_API int silo_base64_encode (const void *data, size_t len, struct silo_buf *to,
				 struct silo_error *err);
SILO_API int silo_base64_decode (const char *text, size_t len, struct silo_buf *to,
				 struct silo_error *err);

/* Compare secrets in time that depends on the lengths only. */
SILO_API bool silo_secret_equal (const void *a, size_t a_len, const void *b, size_t b_len);

/* `len` random bytes from the kernel. */
SILO_API int silo_random (void *to, size_t len, struct silo_error *err);

/* Now: since the epoch, and on a clock that never jumps; nanoseconds. */
SILO_API int64_t silo_now (void);
SILO_API int64_t silo_monotonic (void);

#ifdef __cplusplus
}
#endif
#endif
