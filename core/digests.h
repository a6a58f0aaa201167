/* SPDX-License-Identifier: Apache-2.0 */
/*
 * digests.h - a set of digests, for questions like "does any image need this
 * object?": filled, then sorted once, then asked.  Belongs to one thread while
 * it is filled; asking changes nothing.
 */
#ifndef DIGESTS_H
#define DIGESTS_H

#include "core.h"

/* All zero is the empty set. */
struct digests {
	struct silo_digest *item;
	size_t n, cap;
};

void digests_free (struct digests *digests);
int digests_add (struct digests *digests, const struct silo_digest *digest, struct silo_error *err);
/* Sort, and drop what is there twice. */
void digests_sort (struct digests *digests);
/* Since nothing was added, it was sorted. */
bool digests_have (const struct digests *digests, const struct silo_digest *digest);

#endif
