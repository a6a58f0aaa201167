/* SPDX-License-Identifier: Apache-2.0 */
/*
 * driver.c - main of a fuzz target in the ordinary test build: every file of
 * its corpus, every seed, then a fixed number of mutations of them, the same
 * ones in every run.  Not a search for new faults, which is libFuzzer's, but
 * proof that what was found stays repaired.
 *
 *     meta               run the tests, TAP on stdout
 *     meta FILE...       run these inputs only
 *     meta --seeds DIR   write the seeds there, for libFuzzer
 */
#include "fuzz.h"
#include "core.h"
#include "tap.h"

#include <fcntl.h>
#include <sys/mman.h>

#define MAX_INPUTS 1024
#define MAX_TIME   INT64_C (10000000000) /* ns for all mutations, on a machine that is busy */
#define MAX_ONE    10                    /* seconds for one input */
#define MAX_EDITS  8

struct input {
	unsigned char *data;
	size_t size;
};

struct driver {
	struct input input[MAX_INPUTS];
	size_t n;
	uint64_t random;
	const char *seeds;   /* folder to write them to */
	unsigned char *last; /* what is run right now, in a file that outlives a crash */
	char last_path[4096];
};

/* -- running one ------------------------------------------------------------------ */

static void
last_open (struct driver *driver)
{
	const char *build = getenv ("SILO_TEST_BUILD");
	snprintf (driver->last_path, sizeof (driver->last_path), "%s/fuzz-%s.crash",
		  build ? build : ".", fuzz_target.name);
	int fd = open (driver->last_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate (fd, (off_t) fuzz_target.max) < 0)
		tap_bail ("%s: %s", driver->last_path, strerror (errno));
	driver->last = mmap (NULL, fuzz_target.max, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (driver->last == MAP_FAILED)
		tap_bail ("%s: %s", driver->last_path, strerror (errno));
	close (fd);
}

static void
run (struct driver *driver, const unsigned char *data, size_t size)
{
	/* Of exactly this size, so that one byte too many is seen. */
	unsigned char *copy = malloc (size ? size : 1);
	if (!copy)
		tap_bail ("out of memory");
	memcpy (copy, data, size);
	memcpy (driver->last, data, size);
	if (truncate (driver->last_path, (off_t) size) < 0)
		tap_bail ("%s: %s", driver->last_path, strerror (errno));
	alarm (MAX_ONE);
	LLVMFuzzerTestOneInput (copy, size);
	alarm (0);
	if (truncate (driver->last_path, (off_t) fuzz_target.max) < 0)
		tap_bail ("%s: %s", driver->last_path, strerror (errno));
	free (copy);
}

/* -- what is run ------------------------------------------------------------------- */

static void
keep (struct driver *driver, const void *data, size_t size)
{
	if (driver->n == MAX_INPUTS || size > fuzz_target.max)
		tap_bail ("too many inputs, or one of more than %zu bytes", fuzz_target.max);
	struct input *input = &driver->input[driver->n++];
	input->data = malloc (size ? size : 1);
	if (!input->data)
		tap_bail ("out of memory");
	memcpy (input->data, data, size);
	input->size = size;
}

static void
read_file (struct driver *driver, int folder, const char *name)
{
	unsigned char *data = malloc (fuzz_target.max + 1);
	_cleanup_close_ int fd = openat (folder, name, O_RDONLY | O_CLOEXEC);
	size_t size = 0;
	ssize_t n = -1;
	while (fd >= 0 && data && size <= fuzz_target.max &&
	       (n = read (fd, data + size, fuzz_target.max + 1 - size)) > 0)
		size += (size_t) n;
	if (n < 0)
		tap_bail ("%s: %s", name, strerror (errno));
	keep (driver, data, size);
	free (data);
}

static int
name_compare (const struct dirent **a, const struct dirent **b)
{
	return strcmp ((*a)->d_name, (*b)->d_name);
}

/* In the order of their names: mutations depend on it. */
static void
read_corpus (struct driver *driver)
{
	const char *source = getenv ("SILO_TEST_SOURCE");
	char path[4096];
	struct dirent **names;
	snprintf (path, sizeof (path), "%s/tests/fuzz/corpus/%s", source ? source : ".",
		  fuzz_target.name);
	_cleanup_close_ int folder = open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int n = scandir (path, &names, NULL, name_compare);
	if (folder < 0 || n < 0)
		tap_bail ("%s: %s", path, strerror (errno));
	for (int i = 0; i < n; i++) {
		if (names[i]->d_name[0] != '.')
			read_file (driver, folder, names[i]->d_name);
		free (names[i]);
	}
	free (names);
}

static void
take_seed (void *arg, const char *name, const void *data, size_t size)
{
	struct driver *driver = arg;
	char path[4096];
	keep (driver, data, size);
	if (!driver->seeds)
		return;
	snprintf (path, sizeof (path), "%s/%s", driver->seeds, name);
	FILE *f = fopen (path, "we");
	if (!f || fwrite (data, 1, size, f) != size || fclose (f) != 0)
		tap_bail ("%s: %s", path, strerror (errno));
}

/* -- mutations ---------------------------------------------------------------------- */

static uint64_t
next (struct driver *driver, uint64_t below)
{
	driver->random ^= driver->random << 13;
	driver->random ^= driver->random >> 7;
	driver->random ^= driver->random << 17;
	return below ? driver->random % below : 0;
}

/* A number that breaks arithmetic, of 1 to 8 bytes, over what is there. */
static void
edit_number (struct driver *driver, unsigned char *data, size_t size)
{
	static const uint64_t odd[] = { 0,      1,          0x7f,      0x80,       0xff,
					0x7fff, 0x8000,     0xffff,    0x7fffffff, 0x80000000,
					4095,   0xffffffff, INT64_MAX, UINT64_MAX };
	uint64_t value = odd[next (driver, ARRAY_SIZE (odd))] + next (driver, 3) - 1;
	size_t len = (size_t) 1 << next (driver, 4), at = next (driver, size);
	if (len > size - at)
		len = size - at;
	memcpy (data + at, &value, len); /* little-endian on what this runs on, or just odd */
}

/* Bytes of another input, or of this one, over or between what is there. */
static size_t
edit_splice (struct driver *driver, unsigned char *data, size_t size)
{
	const struct input *from = &driver->input[next (driver, driver->n)];
	if (from->size == 0)
		return size;
	size_t start = next (driver, from->size), to = next (driver, size + 1);
	size_t len = 1 + next (driver, from->size - start < 256 ? from->size - start : 256);
	bool between = next (driver, 2);
	if (len > fuzz_target.max - to || (between && len > fuzz_target.max - size))
		return size;
	if (between) {
		memmove (data + to + len, data + to, size - to);
		size += len;
	}
	memcpy (data + to, from->data + start, len);
	return to + len > size ? to + len : size;
}

static size_t
edit (struct driver *driver, unsigned char *data, size_t size)
{
	if (size == 0)
		return edit_splice (driver, data, size);
	size_t at = next (driver, size);
	switch (next (driver, 8)) {
	case 0:
	case 1:
		data[at] ^= (unsigned char) (1u << next (driver, 8));
		return size;
	case 2:
		data[at] = (unsigned char) next (driver, 256);
		return size;
	case 3:
	case 4:
	case 5:
		edit_number (driver, data, size);
		return size;
	case 6:
		return edit_splice (driver, data, size);
	default:
		if (next (driver, 2))
			return at; /* cut short */
		size_t len = 1 + next (driver, size - at < 64 ? size - at : 64);
		memmove (data + at, data + at + len, size - at - len);
		return size - len;
	}
}

static uint64_t
mutate (struct driver *driver)
{
	unsigned char *data = malloc (fuzz_target.max);
	int64_t end = silo_monotonic () + MAX_TIME;
	uint64_t done = 0;
	if (!data)
		tap_bail ("out of memory");
	while (done < fuzz_target.mutations && silo_monotonic () < end) {
		const struct input *input = &driver->input[next (driver, driver->n)];
		size_t size = input->size;
		memcpy (data, input->data, size);
		for (uint64_t i = 1 + next (driver, MAX_EDITS); i > 0; i--)
			size = edit (driver, data, size);
		run (driver, data, size);
		done++;
	}
	free (data);
	return done;
}

/* -- main ----------------------------------------------------------------------------- */

static void
test (struct driver *driver)
{
	tap_note ("an input that ends this is in %s", driver->last_path);
	read_corpus (driver);
	size_t n_files = driver->n;
	if (fuzz_target.seeds)
		fuzz_target.seeds (take_seed, driver);
	for (size_t i = 0; i < driver->n; i++)
		run (driver, driver->input[i].data, driver->input[i].size);
	tap_ok (driver->n > 0, "%s: %zu files of the corpus and %zu seeds", fuzz_target.name,
		n_files, driver->n - n_files);
	uint64_t done = driver->n > 0 ? mutate (driver) : 0;
	tap_ok (done > 0, "%s: %llu mutations", fuzz_target.name, (unsigned long long) done);
}

int
main (int argc, char **argv)
{
	struct driver *driver = calloc (1, sizeof (*driver));
	if (!driver)
		tap_bail ("out of memory");
	driver->random = UINT64_C (0x51105110deadbeef);
	bool seeds = argc == 3 && strcmp (argv[1], "--seeds") == 0;
	last_open (driver);
	if (seeds && fuzz_target.seeds) {
		driver->seeds = argv[2];
		fuzz_target.seeds (take_seed, driver);
	} else if (argc > 1 && !seeds) {
		for (int i = 1; i < argc; i++)
			read_file (driver, AT_FDCWD, argv[i]);
		for (size_t i = 0; i < driver->n; i++)
			run (driver, driver->input[i].data, driver->input[i].size);
	} else if (!seeds) {
		test (driver);
	}
	unlink (driver->last_path);
	munmap (driver->last, fuzz_target.max);
	for (size_t i = 0; i < driver->n; i++)
		free (driver->input[i].data);
	free (driver);
	return argc > 1 ? 0 : tap_done ();
}
