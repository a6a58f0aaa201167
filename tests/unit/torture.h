/* SPDX-License-Identifier: Apache-2.0 */
/*
 * torture.h - lets the n-th allocation of the core fail.  The linker puts these
 * functions in place of those that allocate (--wrap), so this is included once
 * in a program.
 */
#ifndef UNIT_TORTURE_H
#define UNIT_TORTURE_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

void *__real_malloc (size_t size);
void *__real_calloc (size_t n, size_t size);
void *__real_realloc (void *p, size_t size);
void *__real_reallocarray (void *p, size_t n, size_t size);
char *__real_strdup (const char *text);
char *__real_strndup (const char *text, size_t n);

static atomic_long left; /* allocations until one fails; negative: none does */

static bool
fails (void)
{
	long n = atomic_load (&left);
	while (n > 0 && !atomic_compare_exchange_weak (&left, &n, n - 1))
		;
	return n == 1;
}

void *
__wrap_malloc (size_t size)
{
	return fails () ? NULL : __real_malloc (size);
}

void *
__wrap_calloc (size_t n, size_t size)
{
	return fails () ? NULL : __real_calloc (n, size);
}

void *
__wrap_realloc (void *p, size_t size)
{
	return fails () ? NULL : __real_realloc (p, size);
}

void *
__wrap_reallocarray (void *p, size_t n, size_t size)
{
	return fails () ? NULL : __real_reallocarray (p, n, size);
}

char *
__wrap_strdup (const char *text)
{
	return fails () ? NULL : __real_strdup (text);
}

char *
__wrap_strndup (const char *text, size_t n)
{
	return fails () ? NULL : __real_strndup (text, n);
}

int
__wrap_asprintf (char **ret, const char *fmt, ...)
{
	if (fails ())
		return -1;
	va_list ap;
	va_start (ap, fmt);
	int n = vasprintf (ret, fmt, ap);
	va_end (ap);
	return n;
}

#endif
