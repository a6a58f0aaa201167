/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arena.c - see arena.h: a list of blocks, each twice as large as the one
 * before it up to a limit, filled one after another.
 */
#include "core.h"
#include "arena.h"

#define ARENA_FIRST ((size_t) 4 << 10)
#define ARENA_MOST  ((size_t) 256 << 10)

struct arena_block {
	struct arena_block *next;
	size_t size; /* of bytes */
	_Alignas(max_align_t) char bytes[];
};

static bool
block_add (struct arena *arena, size_t need)
{
	size_t size = ARENA_FIRST;
	if (arena->last && arena->last->size < ARENA_MOST)
		size = arena->last->size * 2;
	else if (arena->last)
		size = ARENA_MOST;
	if (size < need)
		size = need;
	struct arena_block *block = malloc (sizeof (*block) + size);
	if (!block)
		return false;
	block->next = NULL;
	block->size = size;
	if (arena->last)
		arena->last->next = block;
	else
		arena->first = block;
	arena->last = block;
	arena->used = 0;
	return true;
}

static void *
take (struct arena *arena, size_t size, size_t align)
{
	size_t at = (arena->used + align - 1) & ~(align - 1);
	if (!arena->last || at > arena->last->size || size > arena->last->size - at) {
		if (!block_add (arena, size))
			return NULL;
		at = 0;
	}
	arena->used = at + size;
	return arena->last->bytes + at;
}

void *
arena_take (struct arena *arena, size_t size)
{
	/* Structs of pointers and 64-bit numbers: nothing here needs more. */
	return take (arena, size, sizeof (uint64_t));
}

void *
arena_zero (struct arena *arena, size_t size)
{
	void *at = arena_take (arena, size);
	return at ? memset (at, 0, size) : NULL;
}

char *
arena_string (struct arena *arena, const char *text, size_t len)
{
	char *copy = take (arena, len + 1, 1);
	if (!copy)
		return NULL;
	if (len > 0)
		memcpy (copy, text, len);
	copy[len] = '\0';
	return copy;
}

void
arena_trim (struct arena *arena, const void *at)
{
	struct arena_block *block = arena->first;
	while (block && block != arena->last) {
		const char *byte = at;
		if (byte >= block->bytes && byte < block->bytes + block->size)
			break;
		struct arena_block *next = block->next;
		free (block);
		block = next;
	}
	arena->first = block;
}

void
arena_join (struct arena *arena, struct arena *from)
{
	/* The blocks of `from` go in front, so that `arena` is filled where it was. */
	if (!from->first)
		return;
	if (!arena->first) {
		*arena = *from;
	} else {
		from->last->next = arena->first;
		arena->first = from->first;
	}
	*from = (struct arena){ 0 };
}

void
arena_free (struct arena *arena)
{
	for (struct arena_block *block = arena->first, *next; block; block = next) {
		next = block->next;
		free (block);
	}
	*arena = (struct arena){ 0 };
}
