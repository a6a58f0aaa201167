/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz.h - between a fuzz target and what runs it: driver.c in the ordinary
 * test build, libFuzzer in one that was configured with --enable-fuzzing.
 * A target is a file with both of these; CONTRIBUTING.md says how to run one.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Read `data` as if it came from outside.  Any answer is right but a bad access, a leak, a
 * hang, or a broken assertion. */
int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

typedef void fuzz_seed_fn (void *arg, const char *name, const void *data, size_t size);

struct fuzz_target {
	const char *name;   /* of its folder below corpus/ */
	size_t max;         /* bytes of an input */
	uint64_t mutations; /* so many in an ordinary test run, about two seconds */
	/* Hand good inputs to fn, made by the code that usually makes them; NULL: all of them
	 * are files. */
	void (*seeds) (fuzz_seed_fn *fn, void *arg);
};
extern const struct fuzz_target fuzz_target;

#endif
