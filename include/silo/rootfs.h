/* SPDX-License-Identifier: Apache-2.0 */
/*
 * silo/rootfs.h - the rootfs kind: mounts an image for one container.
 */
#ifndef SILO_ROOTFS_H
#define SILO_ROOTFS_H

#include <stdbool.h>
#include <stdint.h>
#include <silo/plugin.h>

#ifdef __cplusplus
extern "C" {
#endif

struct silo_rootfs_spec {
	const char *meta;              /* absolute path of the image's metadata file */
	struct silo_instance *content; /* where its objects are; see content.h */
	const char *target;            /* absolute path of an existing, empty folder */
	const char *scratch;           /* an existing, empty folder of this mount alone, for an
					* upper layer; the caller removes it after unmount */
	bool writable;                 /* false: read-only */
	int64_t upper_size;            /* bytes that may be written; 0: the instance's default */
};

struct silo_rootfs_ops {
	/* required: can this machine do it?  Tries it, in `scratch` (an existing, empty folder),
	 * and leaves nothing behind.  SILO_UNIMPLEMENTED says why not. */
	int (*probe) (void *self, const char *scratch, struct silo_error *err);
	/* required: when it returns 0 the tree is complete at spec->target.  *ret_mount is
	 * handed to unmount exactly once. */
	int (*mount) (void *self, const struct silo_rootfs_spec *spec, void **ret_mount,
		      struct silo_error *err);
	/* required: never blocks on users of the mount (lazy); frees `mount` also on failure */
	int (*unmount) (void *self, void *mount, struct silo_error *err);
	/* optional: present when this process serves the mounts.  Returns when somebody has
	 * unmounted it from outside (`silo umount`, fusermount3 -u); unmount is still called. */
	int (*wait) (void *self, void *mount, struct silo_error *err);
};

/* -- tools for rootfs plugins ------------------------------------------------ */

/* Mount a file system at no path: fsopen, fsconfig, fsmount.  `options` are "key=value" or
 * "flag" texts, NULL-terminated.  *ret_fd is its root; the mount ends with the last
 * descriptor, open file or layer that uses it.  The errno stays in err->sys. */
SILO_API int silo_fs_mount (const char *type, const char *const *options, int *ret_fd,
			    struct silo_error *err);

enum silo_upper {
	SILO_UPPER_NONE = 0,  /* read-only */
	SILO_UPPER_TMPFS = 1, /* in memory, upper_size bytes at most */
	SILO_UPPER_DISK = 2,  /* in `scratch`, no limit but the disk's */
};

/* One container's view of a read-only tree. */
struct silo_overlay {
	int lower;        /* the tree's root: what silo_fs_mount gave, or a folder */
	const char *data; /* folder that files of `lower` redirect into; NULL: none */
	enum silo_upper upper;
	int64_t upper_size;
	const char *scratch; /* see struct silo_rootfs_spec */
	const char *target;
};

/* Mount it on overlay->target (without device nodes and set-id, which need privileges that
 * no container has).  umount2 (target, MNT_DETACH) ends it, the tmpfs included.  Kernels before
 * 6.15 need layers to be attached: they are, for a moment, where nobody sees them, and the
 * descriptor `lower` then names another mount of the same tree. */
SILO_API int silo_overlay_mount (const struct silo_overlay *overlay, struct silo_error *err);

#ifdef __cplusplus
}
#endif
#endif
