/* SPDX-License-Identifier: Apache-2.0 */
/*
 * progress.h - how far an import is, for people: a few lines at the bottom of a
 * terminal that are drawn again and again, or plain lines for everything else.
 */
#ifndef PROGRESS_H
#define PROGRESS_H

#include "core.h"

/* -- progress-draw.c: on a terminal, by one thread --------------------------------- */

/* What is drawn, and where. */
struct picture {
	int fd;
	int64_t drawn;   /* when, silo_monotonic (); 0: never */
	int *widths;     /* columns of each line that stands there */
	size_t n_widths; /* 0: nothing does */
	int64_t arrived; /* bytes, when the rate was last looked at */
	int64_t hashed;
	int64_t moved; /* when either was another, silo_monotonic () */
	double rate;   /* bytes per second, smoothed */
};

/* told: by layer, its last line has been printed. */
void picture_draw (struct picture *picture, const struct import_status *status, bool *told,
		   int64_t now);
/* Wipe it, but for the lines of layers that have ended; free what it has. */
void picture_end (struct picture *picture, const struct import_status *status, bool *told);

#define PROGRESS_COLUMNS 200

struct progress_line {
	char text[PROGRESS_COLUMNS + 1];
	size_t len; /* ASCII only: also its columns */
};

static inline bool
progress_layer_ended (const struct import_layer *layer)
{
	return layer->state == LAYER_DONE || layer->state == LAYER_KNOWN;
}

/* "layer sha256:0123456789ab: 10.1 MB, 9.9 MB new" */
void progress_line_finished (struct progress_line *line, const struct import_layer *layer);

/* -- progress.c --------------------------------------------------------------------- */

enum progress_mode {
	PROGRESS_NONE,
	PROGRESS_LINES, /* one per stage and finished layer, no control characters */
	PROGRESS_LIVE,
};

struct progress;

/* What suits this descriptor. */
enum progress_mode progress_choose (int fd);
int progress_start (enum progress_mode mode, int fd, struct progress **ret, struct silo_error *err);
/* A struct import_progress' fn; `arg` is the progress. */
void progress_show (void *arg, const struct import_status *status);
/* [any] What was drawn last is no longer where it was. */
void progress_lost (struct progress *progress);
/* Wipe what stands there; nothing is shown any more.  Returns how many bytes were new to the
 * content store.  NULL is fine. */
int64_t progress_end (struct progress *progress);

#endif
