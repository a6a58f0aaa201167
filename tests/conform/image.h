/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image.h - between the parts of the image suite.
 */
#ifndef CONFORM_IMAGE_H
#define CONFORM_IMAGE_H

#include "conform.h"

#include <limits.h>
#include <sys/sysmacros.h>

/* Fill the empty folder `path`. */
void image_make_tree (const char *path);
/* Make an OCI layout of the tree in the empty folder `layout`, its image called "t".
 * layer_hex: the digest of its first layer. */
void image_make_layout (const char *tree, const char *layout, char layer_hex[SILO_DIGEST_HEX + 1]);
/* Compare the tree with an image; one check for each group of fields. */
void image_compare (struct silo_instance *content, const char *meta, const char *tree);

#endif
