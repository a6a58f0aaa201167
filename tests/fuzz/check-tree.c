/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check-tree.c - a layer that was accepted, wherever it came from, must give a
 * tree whose metadata file is as good as any.  For the targets that read layers.
 */
#include "check-tree.h"

#include <sys/mman.h>

static int
count (void *arg, const struct silo_meta_inode *inode SILO_UNUSED)
{
	++*(int64_t *) arg;
	return 0;
}

void
check_tree (struct tree_layer *layer)
{
	struct tree *tree = NULL;
	struct silo_meta *meta = NULL;
	struct meta_info info = { 0 };
	char path[64];
	int64_t inodes = 0;
	int fd = memfd_create ("fuzz", MFD_CLOEXEC);
	if (fd < 0 || tree_new (&tree, NULL) < 0)
		abort ();
	snprintf (path, sizeof (path), "/proc/self/fd/%d", fd);
	if (tree_apply (tree, layer, NULL) == 0 && meta_write (tree, fd, &info, NULL) == 0) {
		assert (silo_meta_open (path, &meta, NULL) == 0);
		assert (silo_meta_each (meta, count, &inodes, NULL) == 0);
		assert (inodes == info.inodes);
		silo_meta_close (meta);
	}
	tree_free (tree);
	close (fd);
}
