/* SPDX-License-Identifier: Apache-2.0 */
/*
 * torture.c - reads silo.ini, makes and starts instances, writes an object,
 * with the first allocation of the core failing, then the second, and so on:
 * each time an error comes back, and under the leak sanitizer nothing stays.
 * The linker puts our functions in place of those that allocate (--wrap).
 */
#include "core.h"
#include "tap.h"

#include <stdarg.h>

void *__real_malloc (size_t size);
void *__real_calloc (size_t n, size_t size);
void *__real_realloc (void *p, size_t size);
void *__real_reallocarray (void *p, size_t n, size_t size);
char *__real_strdup (const char *text);
char *__real_strndup (const char *text, size_t n);

static long left; /* allocations until one fails; negative: none does */

static bool
fails (void)
{
	return left > 0 && --left == 0;
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

static int
write_object (struct silo_instance *store, struct silo_error *err)
{
	struct silo_writer *writer;
	struct silo_digest digest;
	int64_t size;
	int fd;

	int r = silo_writer_open (store, &writer, err);
	if (r < 0)
		return r;
	r = silo_writer_add (writer, "bytes", 5, err);
	if (r < 0) {
		silo_writer_abort (writer);
		return r;
	}
	r = silo_writer_commit (writer, &digest, &size, err);
	if (r == 0)
		r = silo_content_open (store, &digest, &fd, err);
	if (r == 0)
		close (fd);
	return r;
}

/* Everything once. */
static int
run (const char *ini, struct silo_error *err)
{
	struct core *core;

	int r = core_new (ini, CORE_NO_STATE, &core, err);
	if (r < 0)
		return r;
	r = wiring_load (core, WIRE (SILO_KIND_CONTENT), err);
	if (r == 0)
		r = wiring_start (core, err);
	if (r == 0)
		r = write_object (core->wiring.content, err);
	core_close (core);
	return r;
}

int
main (void)
{
	char dir[] = "/tmp/silo-torture-XXXXXX", ini[64], folder[4096];
	struct silo_error err = { 0 };
	long n = 0;
	int r;

	snprintf (folder, sizeof (folder), "%s/tests/unit/.libs", getenv ("SILO_TEST_BUILD"));
	setenv ("SILO_PLUGIN_PATH", folder, 1);
	if (!mkdtemp (dir))
		tap_bail ("%s: %s", dir, strerror (errno));
	snprintf (ini, sizeof (ini), "%s/silo.ini", dir);
	FILE *f = fopen (ini, "we");
	if (!f ||
	    fputs ("[silo]\nstate = .\ncontent = a\nrunner = r\nlog = info\n debug\n"
		   "[content.a]\nplugin = test\nupper = test\ntrace =\n"
		   "[content.unused]\nplugin = test\n",
		   f) < 0 ||
	    fclose (f) < 0)
		tap_bail ("%s: %s", ini, strerror (errno));

	left = -1;
	if (!tap_is_int (run (ini, &err), 0, "everything works when memory is there"))
		tap_note ("%s", err.msg);
	do {
		memset (&err, 0, sizeof (err));
		left = ++n;
		r = run (ini, &err);
		/* `left` is 0 when the n-th allocation was reached and failed */
		if (left == 0)
			tap_ok (r == SILO_EXHAUSTED && err.code == r && err.msg[0],
				"allocation %ld fails: %s", n, r == 0 ? "unnoticed" : err.msg);
	} while (left == 0 && n < 2000);
	tap_is_int (r, 0, "after %ld allocations everything works again", n);
	tap_ok (n > 50, "there were many");

	struct silo_error gone = { 0 };
	tap_is_int (files_remove (dir, &gone), 0, "clean up");
	return tap_done ();
}
