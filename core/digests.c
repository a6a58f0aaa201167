/* SPDX-License-Identifier: Apache-2.0 */
/*
 * digests.c - sets of digests as sorted arrays: 32 bytes each, and a search is
 * a few cache lines.  Used by what looks at the whole store.
 */
#include "digests.h"

void
digests_free (struct digests *digests)
{
	free (digests->item);
	*digests = (struct digests){ 0 };
}

static int
compare (const void *a, const void *b)
{
	return memcmp (a, b, sizeof (struct silo_digest));
}

void
digests_sort (struct digests *digests)
{
	if (digests->n == 0)
		return;
	qsort (digests->item, digests->n, sizeof (*digests->item), compare);
	size_t kept = 1;
	for (size_t i = 1; i < digests->n; i++)
		if (!silo_digest_equal (&digests->item[i], &digests->item[kept - 1]))
			digests->item[kept++] = digests->item[i];
	digests->n = kept;
}

int
digests_add (struct digests *digests, const struct silo_digest *digest, struct silo_error *err)
{
	/* Images share most of their objects: what is there twice goes before room is made, and
	 * room is made unless that has freed much of it. */
	if (digests->n == digests->cap) {
		digests_sort (digests);
		if (digests->n >= digests->cap / 2) {
			size_t cap = digests->cap ? digests->cap * 2 : 1024;
			struct silo_digest *item =
			    reallocarray (digests->item, cap, sizeof (*item));
			if (!item)
				return silo_fail_nomem (err);
			digests->item = item;
			digests->cap = cap;
		}
	}
	digests->item[digests->n++] = *digest;
	return 0;
}

bool
digests_have (const struct digests *digests, const struct silo_digest *digest)
{
	return digests->n > 0 &&
	       bsearch (digest, digests->item, digests->n, sizeof (*digests->item), compare);
}
