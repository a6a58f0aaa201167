/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fsck-heal.c - gets again what fsck-check.c has found wrong.  What is damaged
 * is removed first, since an object that is there is never written; then each
 * image that is hurt is imported again from its source, which fetches only the
 * layers that lack something.  Called by a verb.  A crash leaves objects
 * missing, which the next `silo fsck` finds.
 */
#include "fsck.h"

#include <limits.h>
#include <sys/file.h>

/* -- removing ----------------------------------------------------------------------------- */

static int
remove_layer (struct fsck *fsck, const struct silo_digest *blob, struct silo_error *err)
{
	char hex[SILO_DIGEST_HEX + 1], rel[SILO_DIGEST_HEX + 16], path[PATH_MAX];
	silo_digest_hex (blob, hex);
	snprintf (rel, sizeof (rel), "layers/%s", hex);
	int r = silo_state_path (&fsck->core->host, rel, path, sizeof (path), err);
	if (r == 0 && unlink (path) < 0 && errno != ENOENT)
		r = silo_fail_sys (err, errno, "%s", path);
	return r;
}

static int
remove_flaw (struct fsck *fsck, struct fsck_flaw *flaw, struct silo_error *err)
{
	struct silo_error why = { 0 };
	if (flaw->kind != FSCK_OBJECT_DAMAGED && flaw->kind != FSCK_LAYER_DAMAGED)
		return 0;
	/* It may have been collected, and come again, since it was looked at. */
	int r = fsck_check_again (fsck, flaw, err);
	if (r < 0 || flaw->healed)
		return r;
	r = fault_at ("fsck-remove", err);
	if (r < 0)
		return r;
	if (flaw->kind == FSCK_LAYER_DAMAGED)
		return remove_layer (fsck, &flaw->digest, err);
	r = silo_content_remove (fsck->core->wiring.content, &flaw->digest, &why);
	return r < 0 && r != SILO_NOTFOUND ? silo_fail (err, r, "%s", why.msg) : 0;
}

/* Nobody imports meanwhile, who might take a damaged object for a good one that is there.  A
 * damaged metadata file stays: what replaces it takes its name. */
static int
remove_damaged (struct fsck *fsck, struct silo_error *err)
{
	SILO_CLEANUP (image_folder_close) struct image_folder folder = { -1, -1 };
	int r = image_folder_open (fsck->core, LOCK_EX, &folder, err);
	for (size_t i = 0; r == 0 && i < fsck->n; i++)
		r = remove_flaw (fsck, &fsck->flaws[i], err);
	return r;
}

/* -- getting it again ------------------------------------------------------------------------ */

static bool
is_hurt (const struct fsck *fsck, size_t image)
{
	for (size_t i = 0; i < fsck->n; i++) {
		const struct fsck_flaw *flaw = &fsck->flaws[i];
		for (size_t h = 0; !flaw->healed && h < flaw->n_hurts; h++)
			if (flaw->hurts[h].image == image)
				return true;
	}
	return false;
}

static void
on_import (void *arg, const struct import_status *status)
{
	struct fsck *fsck = arg;
	if (fsck->progress)
		fsck->progress (fsck->arg, status->stage, status->done, status->total);
}

/* What a reference points to today; "" when that cannot be found out. */
static void
source_today (struct fsck *fsck, const struct silo_image_source *source, struct silo_buf *to)
{
	const struct instance_list *all = &fsck->core->wiring.image;
	for (size_t i = 0; i < all->n; i++) {
		to->len = 0;
		int r = instance_call (all->item[i], image, identify, source, to, NULL);
		if (r != SILO_UNIMPLEMENTED) {
			to->len = r < 0 ? 0 : to->len;
			break;
		}
	}
}

/* Why it cannot be had. */
static int
note_failure (struct fsck *fsck, struct fsck_image *image, const struct silo_image_source *source,
	      const struct silo_error *why, struct silo_error *err)
{
	const struct silo_image *record = &image->record->image;
	_cleanup_buf_ struct silo_buf today = SILO_BUF (4096);
	const char *moved = "";
	if (*record->source_id) {
		source_today (fsck, source, &today);
		if (today.len > 0 && strcmp ((const char *) today.data, record->source_id) != 0)
			moved = ", and the tag has moved on: `silo index` makes an image of what "
				"it is now";
	} else if (why->code == SILO_PRECONDITION) {
		moved = ": `silo index` makes an image of them";
	}
	free (silo_steal (&image->why));
	if (asprintf (&image->why, "%s%s", why->msg, moved) < 0) {
		image->why = NULL;
		return silo_fail_nomem (err);
	}
	return 0;
}

static int
heal_image (struct fsck *fsck, size_t i, bool tls_verify, struct silo_error *err)
{
	struct fsck_image *image = &fsck->images[i];
	const struct silo_image *record = &image->record->image;
	const struct silo_image_source source = {
		.reference = record->source,
		.tls_verify = tls_verify,
		.platform = "",
		.id = "",
		.cancel_fd = -1,
	};
	const struct import_progress progress = { on_import, fsck, NULL, -1 };
	struct silo_error why = { 0 };
	int r = fault_at ("fsck-fetch", err);
	if (r < 0)
		return r;
	int fetched = *record->source ? image_refetch (fsck->core, record, &source, &progress, &why)
				      : silo_fail (&why, SILO_NOTFOUND, "its source is not known");
	for (size_t f = 0; r == 0 && f < fsck->n; f++)
		r = fsck_check_again (fsck, &fsck->flaws[f], err);
	/* A source with other contents may have had just what was missing. */
	if (r == 0 && fetched < 0 && is_hurt (fsck, i))
		r = note_failure (fsck, image, &source, &why, err);
	return r;
}

int
fsck_heal (struct fsck *fsck, bool tls_verify, struct silo_error *err)
{
	int r = fsck->n > 0 ? remove_damaged (fsck, err) : 0;
	for (size_t i = 0; r == 0 && i < fsck->n_images; i++)
		if (is_hurt (fsck, i))
			r = heal_image (fsck, i, tls_verify, err);
	for (size_t i = 0; r == 0 && i < fsck->n; i++)
		r = fsck_check_again (fsck, &fsck->flaws[i], err);
	return r;
}
