/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rootfs-mount.c - mounts of an image in a process that stays, as the daemon
 * makes them for containers: writable, several of one image at a time.  Started
 * by bench/rootfs.py; one thread.
 *
 *     rootfs-mount CONFIG IMAGE ROOTFS time COUNT FOLDER
 *     rootfs-mount CONFIG IMAGE ROOTFS hold FOLDER
 *
 * time: COUNT lines of nanoseconds: mount when the image is mounted nowhere,
 * mount when it is already, an overlay on an ordinary folder, the two unmounts
 * together.  hold: mounts it on FOLDER/first and FOLDER/second, prints a line
 * and keeps both until stdin ends.
 */
#include "core.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sys/mount.h>

enum { FIRST, SECOND, BARE, PLACES };

static const char *const place_names[PLACES] = { "first", "second", "bare" };

struct run {
	struct core *core;
	struct silo_instance *rootfs;
	char meta[PATH_MAX];
	char target[PLACES][PATH_MAX], scratch[PLACES][PATH_MAX];
	int folder; /* what the bare overlay shows */
};

static int
run_folders (struct run *run, const char *folder, struct silo_error *err)
{
	for (int i = 0; i < PLACES; i++) {
		int n = snprintf (run->scratch[i], PATH_MAX, "%.4000s/%s.scratch", folder,
				  place_names[i]);
		assert (n > 0 && n < PATH_MAX);
		snprintf (run->target[i], PATH_MAX, "%.4000s/%s", folder, place_names[i]);
		int r = files_mkdir (run->target[i], err);
		if (r == 0)
			r = files_mkdir (run->scratch[i], err);
		if (r < 0)
			return r;
	}
	run->folder = open (folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return run->folder < 0 ? silo_fail_sys (err, errno, "%s", folder) : 0;
}

static int
run_open (struct run *run, char **argv, const char *folder, struct silo_error *err)
{
	_cleanup_free_ struct image_copy *image = NULL;

	int r = core_open (argv[1], WIRE_OFFLINE, 0, &run->core, err);
	if (r == 0)
		r = image_find (run->core, argv[2], &image, err);
	if (r == 0)
		r = image_meta_path (run->core, &image->image, run->meta, sizeof (run->meta), err);
	if (r < 0)
		return r;

	const struct instance_list *list = &run->core->wiring.rootfs;
	for (size_t i = 0; i < list->n; i++) {
		if (strcmp (list->item[i]->name, argv[3]) == 0)
			run->rootfs = list->item[i];
	}
	if (!run->rootfs)
		return silo_fail (err, SILO_INVALID, "[silo] rootfs does not name %s", argv[3]);
	return run_folders (run, folder, err);
}

static int
run_mount (struct run *run, int place, void **ret, struct silo_error *err)
{
	const struct silo_rootfs_spec spec = {
		.meta = run->meta,
		.content = run->core->wiring.content,
		.target = run->target[place],
		.scratch = run->scratch[place],
		.writable = true,
	};

	return instance_call (run->rootfs, rootfs, mount, &spec, ret, err);
}

static int
run_unmount (struct run *run, void *mount, struct silo_error *err)
{
	return instance_call (run->rootfs, rootfs, unmount, mount, err);
}

static int
run_bare (struct run *run, struct silo_error *err)
{
	const struct silo_overlay overlay = {
		.lower = run->folder,
		.upper = SILO_UPPER_TMPFS,
		.upper_size = INT64_C (1) << 30,
		.scratch = run->scratch[BARE],
		.target = run->target[BARE],
	};

	return silo_overlay_mount (&overlay, err);
}

static int
time_once (struct run *run, struct silo_error *err)
{
	int64_t at[6];
	void *first, *second;

	at[0] = silo_monotonic ();
	int r = run_mount (run, FIRST, &first, err);
	if (r < 0)
		return r;
	at[1] = silo_monotonic ();
	r = run_mount (run, SECOND, &second, err);
	if (r < 0) {
		run_unmount (run, first, NULL);
		return r;
	}
	at[2] = silo_monotonic ();
	r = run_bare (run, err);
	at[3] = silo_monotonic ();
	if (r == 0)
		umount2 (run->target[BARE], MNT_DETACH | UMOUNT_NOFOLLOW);
	at[4] = silo_monotonic ();
	int s = run_unmount (run, second, r < 0 ? NULL : err);
	int f = run_unmount (run, first, r < 0 || s < 0 ? NULL : err);
	at[5] = silo_monotonic ();
	if (r < 0 || s < 0 || f < 0)
		return r < 0 ? r : s < 0 ? s : f;
	printf ("%" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 "\n", at[1] - at[0], at[2] - at[1],
		at[3] - at[2], at[5] - at[4]);
	return 0;
}

static int
hold (struct run *run, struct silo_error *err)
{
	void *first, *second;
	char byte;

	int r = run_mount (run, FIRST, &first, err);
	if (r < 0)
		return r;
	r = run_mount (run, SECOND, &second, err);
	if (r < 0) {
		run_unmount (run, first, NULL);
		return r;
	}
	puts ("mounted");
	fflush (stdout);
	while (read (STDIN_FILENO, &byte, 1) > 0)
		;
	r = run_unmount (run, second, err);
	int f = run_unmount (run, first, r < 0 ? NULL : err);
	return r < 0 ? r : f;
}

int
main (int argc, char **argv)
{
	struct run run = { .folder = -1 };
	struct silo_error err = { 0 };
	int64_t count = 0;
	int r;

	bool timed = argc == 7 && strcmp (argv[4], "time") == 0;
	if (timed)
		count = strtoll (argv[5], NULL, 10);
	if ((timed && count < 1) || (!timed && (argc != 6 || strcmp (argv[4], "hold") != 0))) {
		fputs ("usage: rootfs-mount CONFIG IMAGE ROOTFS time COUNT FOLDER\n"
		       "       rootfs-mount CONFIG IMAGE ROOTFS hold FOLDER\n",
		       stderr);
		return 2;
	}
	r = run_open (&run, argv, argv[timed ? 6 : 5], &err);
	if (r == 0 && !timed)
		r = hold (&run, &err);
	for (int64_t i = 0; r == 0 && i < count; i++)
		r = time_once (&run, &err);
	util_close (&run.folder);
	core_close (run.core);
	return r < 0 ? cli_fail (&err) : 0;
}
