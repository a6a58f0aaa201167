/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rootfs-load.c - what bench/rootfs.py does to a mounted tree, timed without an
 * interpreter: walks it and looks at every entry, or reads a file.  Prints the
 * nanoseconds that it took and how many entries or bytes that were.
 *
 *     rootfs-load walk FOLDER | sequential FILE | random FILE
 */
#include <fcntl.h>
#include <fts.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CHUNK        (1 << 20)
#define PAGE         4096
#define RANDOM_READS 20000

static int64_t
now (void)
{
	struct timespec t;

	clock_gettime (CLOCK_MONOTONIC, &t);
	return INT64_C (1000000000) * t.tv_sec + t.tv_nsec;
}

/* fts looks at every entry with lstat. */
static int64_t
walk (char *folder)
{
	char *paths[] = { folder, NULL };
	int64_t n = 0;

	FTS *tree = fts_open (paths, FTS_PHYSICAL | FTS_XDEV, NULL);
	if (!tree)
		return -1;
	for (FTSENT *entry; (entry = fts_read (tree)); n++) {
		if (entry->fts_info == FTS_ERR || entry->fts_info == FTS_DNR ||
		    entry->fts_info == FTS_NS) {
			fts_close (tree);
			return -1;
		}
	}
	fts_close (tree);
	return n;
}

static int64_t
read_sequential (int fd, char *buffer)
{
	int64_t sum = 0;
	ssize_t n;

	while ((n = read (fd, buffer, CHUNK)) > 0)
		sum += n;
	return n < 0 ? -1 : sum;
}

/* The same pages in every run. */
static int64_t
read_random (int fd, char *buffer)
{
	struct stat st;
	uint64_t state = 88172645463325252u;

	if (fstat (fd, &st) < 0 || st.st_size < PAGE)
		return -1;
	for (int i = 0; i < RANDOM_READS; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		off_t at = (off_t) (state % (uint64_t) (st.st_size / PAGE)) * PAGE;
		if (pread (fd, buffer, PAGE, at) != PAGE)
			return -1;
	}
	return (int64_t) RANDOM_READS * PAGE;
}

static int64_t
load_file (const char *path, int64_t (*fn) (int fd, char *buffer))
{
	char *buffer = malloc (CHUNK);
	int fd = buffer ? open (path, O_RDONLY | O_CLOEXEC) : -1;
	int64_t n = fd < 0 ? -1 : fn (fd, buffer);

	if (fd >= 0)
		close (fd);
	free (buffer);
	return n;
}

int
main (int argc, char **argv)
{
	const char *what = argc == 3 ? argv[1] : "";
	int64_t n;

	int64_t started = now ();
	if (strcmp (what, "walk") == 0) {
		n = walk (argv[2]);
	} else if (strcmp (what, "sequential") == 0) {
		n = load_file (argv[2], read_sequential);
	} else if (strcmp (what, "random") == 0) {
		n = load_file (argv[2], read_random);
	} else {
		fputs ("usage: rootfs-load walk FOLDER | sequential FILE | random FILE\n", stderr);
		return 2;
	}
	int64_t took = now () - started;
	if (n < 0) {
		perror (argv[2]);
		return 1;
	}
	printf ("%" PRId64 " %" PRId64 "\n", took, n);
	return 0;
}
