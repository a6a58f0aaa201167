/* SPDX-License-Identifier: Apache-2.0 */
/*
 * progress.h - how far an import is, for people: a few lines at the bottom of a
 * terminal that are drawn again and again, or plain lines for everything else.
 */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdatomic.h>

#include "core.h"

enum progress_mode {
	PROGRESS_NONE,
	PROGRESS_LINES, /* one per stage and finished layer, no control characters */
	PROGRESS_LIVE,
};

struct progress {
	enum progress_mode mode;
	int fd;
	_Atomic bool lost; /* what was drawn last is no longer where it was: begin anew */

	/* by the thread that calls */
	int64_t drawn;   /* when, silo_monotonic (); 0: never */
	char stage[64];  /* last shown */
	bool *told;      /* by layer: its last line has been printed */
	size_t n_told;   /* of them */
	int *widths;     /* columns of each line that stands there */
	size_t n_widths; /* of them */
	int64_t arrived; /* bytes when the rate was last looked at */
	double rate;     /* bytes per second, smoothed */
	int64_t new;     /* bytes that were new to the content store */
};

/* What suits stderr. */
enum progress_mode progress_choose (int fd);
void progress_start (struct progress *progress, enum progress_mode mode, int fd);
/* A struct import_progress' fn; `arg` is the progress. */
void progress_show (void *arg, const struct import_status *status);
/* Wipe what stands there; nothing is shown any more. */
void progress_end (struct progress *progress);

#endif
