/* SPDX-License-Identifier: Apache-2.0 */
/*
 * overlay.h - what overlay.c and overlay-space.c share, and what `silo doctor`
 * asks them.  What plugins see is in silo/rootfs.h.
 */
#ifndef OVERLAY_H
#define OVERLAY_H

#include "core.h"

/* What overlays of this kernel can do. */
struct overlay_can {
	bool detached; /* layers that are mounted nowhere (Linux 6.15) */
	bool data;     /* layers of data only (Linux 6.5) */
};

/* Try it in `folder`, which is empty; the caller removes it with what is in it. */
int overlay_probe (const char *folder, struct overlay_can *ret, struct silo_error *err);

/* -- overlay-space.c: a mount namespace for a moment -- */

typedef int overlay_space_fn (void *arg, struct silo_error *err);

/* Call fn on a thread that has a mount namespace of its own.  Whatever it attaches is seen
 * by nobody else and goes with the thread, also when the process is killed. */
int overlay_space (overlay_space_fn *fn, void *arg, struct silo_error *err);

/* In there: attach the mount `fd` on `target`. */
int overlay_attach (int fd, const char *target, struct silo_error *err);
/* The same of a mount that is attached nowhere and cannot be copied: it is attached itself,
 * and `fd` names a copy from then on.  *ret_fd is what is attached. */
int overlay_borrow (int fd, const char *target, int *ret_fd, struct silo_error *err);

#endif
