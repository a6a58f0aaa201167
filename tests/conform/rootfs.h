/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rootfs.h - what the files of the rootfs suite share: the tree that is mounted
 * and its comparison with what the mount shows (rootfs-tree.c), and counts of
 * all that a mount could leave behind.
 */
#ifndef CONFORM_ROOTFS_H
#define CONFORM_ROOTFS_H

#include "core.h"
#include "conform.h"

#include <limits.h>

/* The large file of the tree, and one whose object nothing else has. */
#define TREE_LARGE      "large"
#define TREE_ALONE      "plain/alone"
#define TREE_LARGE_SIZE (5 << 20)

/* Make the tree below `root`, an empty folder. */
void tree_make (const char *root);
/* How many entries of `got` differ from `want` in any way, or are not in both; the first few
 * are noted. */
int tree_compare (const char *want, const char *got);
/* One line that says the same of two trees only if find(1) does. */
void tree_find (const char *root, char *ret, size_t size);

/* Read a whole file; its bytes, or -errno.  *ret is malloc'ed. */
ssize_t tree_read (const char *path, char **ret);
int tree_write (const char *path, const char *text);

/* What a process holds: descriptors, threads, mounts. */
struct holdings {
	int fds, threads, mounts;
};
void holdings_take (struct holdings *ret);
void holdings_same (const struct holdings *before, const char *after_what);

#endif
