/* SPDX-License-Identifier: Apache-2.0 */
/*
 * silo/error.h - the error object: on the caller's stack, filled and returned
 * in one statement.
 *
 *     return silo_fail (err, SILO_NOTFOUND, "image %s is not indexed", name);
 *
 * Messages are one line, lower case, name the object and say what was
 * expected.  A function returns an error or logs it, never both.
 */
#ifndef SILO_ERROR_H
#define SILO_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SILO_API          __attribute__ ((visibility ("default")))
#define SILO_PRINTF(f, a) __attribute__ ((format (printf, f, a)))
#define SILO_CLEANUP(fn)  __attribute__ ((cleanup (fn)))
#define SILO_UNUSED       __attribute__ ((unused))
#else
#define SILO_API
#define SILO_PRINTF(f, a)
#define SILO_CLEANUP(fn)
#define SILO_UNUSED
#endif

/* The negative of the gRPC status code of the same meaning, so that a
 * transport maps them without a table. */
enum silo_code {
	SILO_OK = 0,
	SILO_CANCELLED = -1,        /* the caller gave up */
	SILO_UNKNOWN = -2,          /* user code raised */
	SILO_INVALID = -3,          /* the request is wrong, whatever the state */
	SILO_TIMEOUT = -4,          /* a deadline passed */
	SILO_NOTFOUND = -5,         /* the named thing does not exist */
	SILO_EXISTS = -6,           /* it exists already, or has an outcome already */
	SILO_DENIED = -7,           /* the caller is known and may not */
	SILO_EXHAUSTED = -8,        /* a limit, memory, disk or descriptors */
	SILO_PRECONDITION = -9,     /* right request, wrong state; fix the state first */
	SILO_ABORTED = -10,         /* lost a race; may be tried again */
	SILO_RANGE = -11,           /* past the end */
	SILO_UNIMPLEMENTED = -12,   /* this build, plugin or machine cannot */
	SILO_INTERNAL = -13,        /* a broken promise of our own or of a tool */
	SILO_UNAVAILABLE = -14,     /* not now; trying later makes sense */
	SILO_DATALOSS = -15,        /* stored bytes are damaged */
	SILO_UNAUTHENTICATED = -16, /* no key, or a wrong one */
};

struct silo_error {
	int code;      /* one of enum silo_code, 0 when never filled */
	int sys;       /* errno behind it, or 0 */
	char msg[240]; /* always terminated; cut when longer */
};

/* Fill *err (may be NULL) and return code. */
SILO_API int silo_fail (struct silo_error *err, int code, const char *fmt, ...) SILO_PRINTF (3, 4);

/* The same for a failed system call: the code follows from `sys` (an errno
 * value) and ": <strerror>" is appended. */
SILO_API int silo_fail_sys (struct silo_error *err, int sys, const char *fmt, ...)
    SILO_PRINTF (3, 4);

/* Out of memory, in one word. */
SILO_API int silo_fail_nomem (struct silo_error *err);

/* Put "<text>: " in front of the message and return err->code. */
SILO_API int silo_wrap (struct silo_error *err, const char *fmt, ...) SILO_PRINTF (2, 3);

/* "NOT_FOUND", as gRPC spells it; never NULL. */
SILO_API const char *silo_code_name (int code);

/* The HTTP status for a code: 404 for SILO_NOTFOUND ... */
SILO_API int silo_code_http (int code);

#ifdef __cplusplus
}
#endif
#endif
