/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image-remove.c - `silo rm`: the record goes, then what nobody else needs.
 * STATE/images/lock is held exclusively, so nobody imports meanwhile.  A crash
 * in between leaves garbage, never a record without its files.
 */
#include "store.h"

#include <sys/file.h>

int
image_drop (struct core *core, const char *name, struct silo_error *err)
{
	_cleanup_free_ struct image_copy *copy = NULL;
	int r = image_find (core, name, &copy, err);
	if (r == SILO_NOTFOUND)
		return silo_fail (err, SILO_NOTFOUND, "image %.100s is not known here", name);
	if (r == 0)
		r = fault_at ("rm-drop", err);
	if (r == 0)
		r = instance_call (core->wiring.storage, storage, image_drop, copy->image.name,
				   err);
	return r == 0 ? fault_at ("rm-dropped", err) : r;
}

int
image_remove (struct core *core, const char *name, struct silo_error *err)
{
	SILO_CLEANUP (image_folder_close) struct image_folder folder = { -1, -1 };
	int r = image_folder_open (core, LOCK_EX, &folder, err);
	if (r == 0)
		r = image_drop (core, name, err);
	return r < 0 ? r : image_collect (core, &folder, false, NULL, err);
}
