/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mounts.h - what `silo mount` remembers of a mount until `silo umount`: a
 * folder STATE/mounts/ID with
 *
 *     record    JSON: what is mounted where, by whom
 *     scratch/  for the plugin's upper layer
 *     log       messages of the process that serves it, if one does
 *
 * The folder is locked (flock) while somebody makes it, and as long as a
 * process serves the mount.  STATE/mounts itself is locked to add to it or to
 * clear it of what is stale.  The daemon has no part in it: its own mounts live
 * and die with its mount namespace.
 */
#ifndef MOUNTS_H
#define MOUNTS_H

#include "core.h"

struct mount_record {
	char *folder; /* absolute */
	char *target; /* absolute */
	char *image;
	char *rootfs; /* instance */
	char *boot;   /* the machine's boot id */
	uint64_t ns;  /* inode of the mount namespace that it is visible in */
	uint64_t id;  /* the kernel's number of the mount; 0: not mounted yet */
	pid_t server; /* process that serves it; 0: the kernel alone */
	int lock_fd;  /* of the folder; -1: not ours */
};

/* Make the folder of a new mount and lock it.  Stale ones are removed on the way. */
int mounts_new (struct core *core, const char *target, const char *image, const char *rootfs,
		struct mount_record **ret, struct silo_error *err);
/* It is mounted: find out its number and write the record. */
int mounts_commit (struct mount_record *record, bool served, struct silo_error *err);
/* Remove its folder and free it; it is not mounted any more. */
int mounts_remove (struct mount_record *record, struct silo_error *err);
/* Free what we know; the folder stays.  NULL is allowed. */
void mounts_free (struct mount_record *record);

/* The mount on `target` in this mount namespace, or SILO_NOTFOUND.  Also one that is not there
 * any more but was never `silo umount`ed: *ret_mounted is false then. */
int mounts_find (struct core *core, const char *target, struct mount_record **ret,
		 bool *ret_mounted, struct silo_error *err);
/* Take the lock that its server holds.  SILO_UNAVAILABLE while that lives. */
int mounts_lock (struct mount_record *record, struct silo_error *err);

/* May there still be one, as far as can be seen from here? */
int mounts_left (struct core *core, bool *ret, struct silo_error *err);

/* The kernel's number of what is mounted on top at `path`. */
int mounts_id (const char *path, uint64_t *ret, struct silo_error *err);

#endif
