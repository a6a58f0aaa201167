/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check-tree.h - what targets that read layers do with one that was accepted.
 */
#ifndef CHECK_TREE_H
#define CHECK_TREE_H

#include "core.h"
#include "tree.h"

/* Merge it into an empty tree, write that, read it back.  Takes the inodes out of it. */
void check_tree (struct tree_layer *layer);

#endif
