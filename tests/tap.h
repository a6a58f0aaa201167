/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tap.h - a test program's whole harness: checks that print TAP on stdout, with
 * file and line of those that fail.  Header only, C99, one thread.
 *
 *     tap_is_int (silo_buf_add (&buf, "x", 1, &err), 0, "adds a byte");
 *     tap_skip (3, "no /dev/fuse");          three checks that cannot be made here
 *     return tap_done ();                    last line of main
 *
 * Every check returns whether it passed.  The header is the one place with
 * writable statics: it is included by test programs only.
 */
#ifndef TAP_H
#define TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define TAP_PRINTF(f, a) __attribute__ ((format (printf, f, a), unused))
#define TAP_MAYBE        __attribute__ ((unused))
/* One counter for all files of a program. */
#define TAP_SHARED __attribute__ ((weak))
#else
#define TAP_PRINTF(f, a)
#define TAP_MAYBE
#define TAP_SHARED static
#endif

TAP_SHARED int tap_n_run;
TAP_SHARED int tap_n_failed;

static bool tap_result (bool passed, const char *file, int line, const char *fmt, va_list args)
    TAP_PRINTF (4, 0);
static void tap_note (const char *fmt, ...) TAP_PRINTF (1, 2);
static bool tap_ok_at (const char *file, int line, bool passed, const char *fmt, ...)
    TAP_PRINTF (4, 5);
static bool tap_is_int_at (const char *file, int line, int64_t got, int64_t want, const char *fmt,
			   ...) TAP_PRINTF (5, 6);
static bool tap_is_str_at (const char *file, int line, const char *got, const char *want,
			   const char *fmt, ...) TAP_PRINTF (5, 6);
static bool tap_is_mem_at (const char *file, int line, const void *got, size_t got_len,
			   const void *want, size_t want_len, const char *fmt, ...)
    TAP_PRINTF (7, 8);
static void tap_skip (int n, const char *fmt, ...) TAP_PRINTF (2, 3);
static void tap_skip_all (const char *fmt, ...) TAP_PRINTF (1, 2);
static void tap_bail (const char *fmt, ...) TAP_PRINTF (1, 2);
static int tap_done (void) TAP_MAYBE;

/* tap_ok (passed, "name %s", ...) */
#define tap_ok(...) tap_ok_at (__FILE__, __LINE__, __VA_ARGS__)
/* tap_is_int (got, want, "name"): any integer that an int64_t holds */
#define tap_is_int(...) tap_is_int_at (__FILE__, __LINE__, __VA_ARGS__)
/* tap_is_str (got, want, "name"): either may be NULL */
#define tap_is_str(...) tap_is_str_at (__FILE__, __LINE__, __VA_ARGS__)
/* tap_is_mem (got, got_len, want, want_len, "name") */
#define tap_is_mem(...) tap_is_mem_at (__FILE__, __LINE__, __VA_ARGS__)

static bool
tap_result (bool passed, const char *file, int line, const char *fmt, va_list args)
{
	tap_n_run++;
	printf ("%s %d - ", passed ? "ok" : "not ok", tap_n_run);
	vprintf (fmt, args);
	putchar ('\n');
	if (!passed) {
		tap_n_failed++;
		printf ("#   at %s:%d\n", file, line);
	}
	fflush (stdout);
	return passed;
}

/* A line for whoever reads the log. */
static void
tap_note (const char *fmt, ...)
{
	va_list args;
	va_start (args, fmt);
	fputs ("# ", stdout);
	vprintf (fmt, args);
	putchar ('\n');
	fflush (stdout);
	va_end (args);
}

static bool
tap_ok_at (const char *file, int line, bool passed, const char *fmt, ...)
{
	va_list args;
	va_start (args, fmt);
	tap_result (passed, file, line, fmt, args);
	va_end (args);
	return passed;
}

static bool
tap_is_int_at (const char *file, int line, int64_t got, int64_t want, const char *fmt, ...)
{
	va_list args;
	va_start (args, fmt);
	bool passed = tap_result (got == want, file, line, fmt, args);
	va_end (args);
	if (!passed)
		tap_note ("  got %lld, want %lld", (long long) got, (long long) want);
	return passed;
}

static bool
tap_is_str_at (const char *file, int line, const char *got, const char *want, const char *fmt, ...)
{
	bool same = got && want ? strcmp (got, want) == 0 : got == want;
	va_list args;
	va_start (args, fmt);
	bool passed = tap_result (same, file, line, fmt, args);
	va_end (args);
	if (!passed) {
		tap_note ("  got  %s", got ? got : "(null)");
		tap_note ("  want %s", want ? want : "(null)");
	}
	return passed;
}

static bool
tap_is_mem_at (const char *file, int line, const void *got, size_t got_len, const void *want,
	       size_t want_len, const char *fmt, ...)
{
	const unsigned char *a = got;
	const unsigned char *b = want;
	size_t shorter = got_len < want_len ? got_len : want_len;
	size_t same = 0;
	while (same < shorter && a[same] == b[same])
		same++;
	va_list args;
	va_start (args, fmt);
	bool passed = tap_result (got_len == want_len && same == shorter, file, line, fmt, args);
	va_end (args);
	if (!passed)
		tap_note ("  got %zu bytes, want %zu, the same up to offset %zu", got_len, want_len,
			  same);
	return passed;
}

/* `n` checks that cannot be made on this machine, and why. */
static void
tap_skip (int n, const char *fmt, ...)
{
	for (int i = 0; i < n; i++) {
		va_list args;
		va_start (args, fmt);
		printf ("ok %d # SKIP ", ++tap_n_run);
		vprintf (fmt, args);
		putchar ('\n');
		va_end (args);
	}
	fflush (stdout);
}

/* The whole program cannot run here; before any check. */
static void
tap_skip_all (const char *fmt, ...)
{
	va_list args;
	va_start (args, fmt);
	fputs ("1..0 # SKIP ", stdout);
	vprintf (fmt, args);
	putchar ('\n');
	va_end (args);
	fflush (stdout);
	exit (77);
}

/* Nothing more can be tested: not a failed check but a broken set-up. */
static void
tap_bail (const char *fmt, ...)
{
	va_list args;
	va_start (args, fmt);
	fputs ("Bail out! ", stdout);
	vprintf (fmt, args);
	putchar ('\n');
	va_end (args);
	fflush (stdout);
	exit (99);
}

/* Print the plan; the exit status of main. */
static int
tap_done (void)
{
	printf ("1..%d\n", tap_n_run);
	fflush (stdout);
	return tap_n_failed > 0;
}

#endif
