/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena.h - many small things that are freed together: memory is cut from
 * blocks that grow with what was taken.  What tree.h's layers and trees are
 * made of, where a malloc per name would double the memory.  One thread at a
 * time; what was taken never moves.
 */
#ifndef ARENA_H
#define ARENA_H

#include <stddef.h>
#include <silo/silo.h>

struct arena_block;

/* All zero: empty. */
struct arena {
	struct arena_block *first, *last;
	size_t used; /* of the last block */
};

/* Not cleared; aligned for any struct.  NULL: no memory. */
void *arena_take (struct arena *arena, size_t size);
/* The same, cleared. */
void *arena_zero (struct arena *arena, size_t size);
/* A copy of `len` bytes and a NUL, not aligned. */
char *arena_string (struct arena *arena, const char *text, size_t len);
/* Free the blocks before that which `at` lies in: what was taken earlier is done with. */
void arena_trim (struct arena *arena, const void *at);
/* Put all of `from` into `arena`; `from` is empty afterwards. */
void arena_join (struct arena *arena, struct arena *from);
void arena_free (struct arena *arena);

#endif
