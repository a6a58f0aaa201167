/* SPDX-License-Identifier: Apache-2.0 */
/*
 * progress-draw.c - the picture of an import on a terminal.  Each layer that runs
 * has a line, below them stands a summary; a layer that ends leaves one line
 * above them for good.  Every picture is one write () and leaves the cursor at
 * the start of the summary, so that whatever else is printed there, "^C" for
 * one, is wiped with it; the terminal is never put into another mode.
 *
 * One thread draws, see progress.c.
 */
#include "progress.h"

#include <inttypes.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "cli-print.h"

#define QUIET         3 /* seconds without a byte that are told */
#define MAX_LEFT      (100 * 3600)
#define SECOND        1000000000
#define MAX_NAME      30
#define MIN_BAR       10
#define MAX_BAR       40
#define MAX_FRAME     ((size_t) 1 << 20)
#define SHORT_DIGEST  12
#define DIGEST_PREFIX "sha256:"

/* -- text ------------------------------------------------------------------------------ */

/* What does not fit is left out. */
SILO_PRINTF (2, 3)
static void
line_add (struct progress_line *line, const char *fmt, ...)
{
	va_list args;
	va_start (args, fmt);
	int n = vsnprintf (line->text + line->len, sizeof (line->text) - line->len, fmt, args);
	va_end (args);
	if (n > 0)
		line->len += (size_t) n;
	if (line->len > PROGRESS_COLUMNS)
		line->len = PROGRESS_COLUMNS;
}

static void
line_cut (struct progress_line *line, size_t columns)
{
	if (line->len > columns)
		line->len = columns;
	line->text[line->len] = '\0';
}

/* Names are the image's: a digest is shortened, control characters are not printed. */
static void
line_name (struct progress_line *line, const char *name)
{
	size_t len = strlen (name);
	const size_t prefix = strlen (DIGEST_PREFIX);
	if (strncmp (name, DIGEST_PREFIX, prefix) == 0 && len == prefix + SILO_DIGEST_HEX)
		len = prefix + SHORT_DIGEST;
	if (len > MAX_NAME) {
		line_add (line, "...");
		name += len - (MAX_NAME - 3);
		len = MAX_NAME - 3;
	}
	for (size_t i = 0; i < len; i++)
		line_add (line, "%c", name[i] >= ' ' && name[i] <= '~' ? name[i] : '?');
}

static void
line_bar (struct progress_line *line, int columns, int64_t done, int64_t total)
{
	int inside = columns - 2;
	int full = (int) ((double) done / (double) total * inside);
	line_add (line, "[");
	for (int i = 0; i < inside; i++)
		line_add (line, "%c", i < full ? '=' : i == full ? '>' : ' ');
	line_add (line, "]");
}

/* One layer that runs. */
static void
line_layer (struct progress_line *line, const struct import_layer *layer, int name_width,
	    int columns)
{
	struct progress_line numbers = { .len = 0 };
	int64_t done = layer->fetched;
	bool known_size = layer->size > 0;
	if (known_size && done > layer->size)
		done = layer->size;
	if (known_size)
		line_add (&numbers, "%3.0f%%  %8s of %8s  ",
			  (double) done * 100 / (double) layer->size, cli_size (done).text,
			  cli_size (layer->size).text);
	else if (done > 0)
		line_add (&numbers, "%s  ", cli_size (done).text);
	line_add (&numbers, "hashed %8s  new %8s", cli_size (layer->hashed).text,
		  cli_size (layer->stored).text);

	line_name (line, layer->name);
	line_add (line, "%*s", name_width - (int) line->len + 1, "");
	int bar = columns - (int) line->len - (int) numbers.len - 1;
	if (known_size && bar >= MIN_BAR) {
		line_bar (line, bar > MAX_BAR ? MAX_BAR : bar, done, layer->size);
		line_add (line, " ");
	}
	line_add (line, "%s", numbers.text);
}

/* One layer that has ended, as it stays. */
void
progress_line_finished (struct progress_line *line, const struct import_layer *layer)
{
	line_add (line, "layer ");
	line_name (line, layer->name);
	if (layer->state == LAYER_KNOWN)
		line_add (line, ": known");
	else
		line_add (line, ": %s, %s new",
			  cli_size (layer->size >= 0 ? layer->size : layer->hashed).text,
			  cli_size (layer->stored).text);
}

/* -- all layers together --------------------------------------------------------------------- */

struct sum {
	size_t ended, running, waiting;
	int64_t fetched, size; /* of layers that are not known; size -1: of one it is not */
	int64_t hashed, stored;
};

static void
sum_layers (const struct import_status *status, struct sum *ret)
{
	struct sum sum = { 0 };
	for (size_t i = 0; i < status->n; i++) {
		const struct import_layer *layer = &status->layers[i];
		if (progress_layer_ended (layer))
			sum.ended++;
		else if (layer->state == LAYER_RUNS)
			sum.running++;
		else
			sum.waiting++;
		if (layer->state == LAYER_KNOWN)
			continue;
		sum.fetched += layer->fetched;
		sum.hashed += layer->hashed;
		sum.stored += layer->stored;
		if (layer->size < 0)
			sum.size = -1;
		else if (sum.size >= 0)
			sum.size += layer->size;
	}
	*ret = sum;
}

/* Bytes per second, the last second counting most. */
static void
rate_update (struct picture *picture, int64_t arrived, int64_t hashed, int64_t now)
{
	double passed = (double) (now - picture->drawn) / SECOND;
	if (picture->drawn > 0 && passed > 0 && arrived >= picture->arrived) {
		double rate = (double) (arrived - picture->arrived) / passed;
		double weight = picture->rate > 0 ? passed / (passed + 1) : 1;
		picture->rate += (rate - picture->rate) * weight;
	}
	if (arrived != picture->arrived || hashed != picture->hashed || picture->moved == 0)
		picture->moved = now;
	picture->arrived = arrived;
	picture->hashed = hashed;
}

/* How fast it is, and how long it will be. */
static void
line_rate (struct progress_line *line, const struct picture *picture, int64_t left, int64_t now)
{
	int64_t quiet = (now - picture->moved) / SECOND;
	if (quiet >= QUIET)
		line_add (line, ", nothing for %" PRId64 " s", quiet);
	else if (picture->rate >= 1)
		line_add (line, ", %s/s", cli_size ((int64_t) picture->rate).text);
	if (quiet >= QUIET || picture->rate < 1 || left < 0)
		return;
	double seconds = (double) left / picture->rate;
	if (seconds < MAX_LEFT)
		line_add (line, ", %d:%02d left", (int) seconds / 60, (int) seconds % 60);
}

static void
line_summary (struct progress_line *line, struct picture *picture,
	      const struct import_status *status, int64_t now)
{
	struct sum sum;
	sum_layers (status, &sum);
	if (sum.running + sum.waiting == 0) {
		line_add (line, "%s", status->stage);
		if (status->total > 0)
			line_add (line, ", %s of %s", cli_size (status->done).text,
				  cli_size (status->total).text);
		else if (status->done > 0)
			line_add (line, ", %s", cli_size (status->done).text);
		return;
	}
	bool fetching = sum.fetched > 0;
	int64_t arrived = fetching ? sum.fetched : sum.hashed;
	rate_update (picture, arrived, sum.hashed, now);
	line_add (line, "layers: %zu of %zu done, %s", sum.ended, status->n,
		  cli_size (arrived).text);
	if (fetching && sum.size > 0)
		line_add (line, " of %s", cli_size (sum.size).text);
	line_rate (line, picture, fetching && sum.size >= 0 ? sum.size - sum.fetched : -1, now);
}

/* -- a picture --------------------------------------------------------------------------------- */

struct frame {
	struct silo_buf text;
	int *widths; /* of the lines that stay until the next one */
	size_t n, room;
	size_t columns;
};

/* Errors are want of memory: the picture is a bit poorer then. */
static void
frame_add (struct frame *frame, struct progress_line *line, bool stays)
{
	struct silo_error err;
	line_cut (line, frame->columns);
	if (!stays && frame->n == frame->room)
		return;
	if (!stays && frame->n > 0)
		silo_buf_add (&frame->text, "\r\n", 2, &err);
	silo_buf_addf (&frame->text, &err, "%s\033[K%s", line->text, stays ? "\r\n" : "");
	if (!stays)
		frame->widths[frame->n++] = (int) line->len;
}

static void
write_all (int fd, const void *data, size_t len)
{
	const char *at = data;
	while (len > 0) {
		ssize_t n = write (fd, at, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		at += n;
		len -= (size_t) n;
	}
}

/* To the first line of what stands there.  A terminal that has become narrower has broken
 * its lines. */
static void
frame_home (struct frame *frame, struct picture *picture, int terminal_columns)
{
	struct silo_error err;
	int up = 0;
	for (size_t i = 0; i + 1 < picture->n_widths; i++)
		up +=
		    1 + (picture->widths[i] > 0 ? (picture->widths[i] - 1) / terminal_columns : 0);
	silo_buf_add (&frame->text, "\r", 1, &err);
	if (up > 0)
		silo_buf_addf (&frame->text, &err, "\033[%dA", up);
}

static void
frame_finished (struct frame *frame, const struct import_status *status, bool *told)
{
	for (size_t i = 0; i < status->n; i++) {
		if (told[i] || !progress_layer_ended (&status->layers[i]))
			continue;
		struct progress_line line = { .len = 0 };
		progress_line_finished (&line, &status->layers[i]);
		frame_add (frame, &line, true);
		told[i] = true;
	}
}

/* The first `most` layers that run, and how many there are besides. */
static void
frame_running (struct frame *frame, const struct import_status *status, size_t most)
{
	size_t n = 0, shown = 0;
	int name_width = 0;
	for (size_t i = 0; i < status->n; i++) {
		struct progress_line name = { .len = 0 };
		if (status->layers[i].state != LAYER_RUNS)
			continue;
		n++;
		line_name (&name, status->layers[i].name);
		if ((int) name.len > name_width)
			name_width = (int) name.len;
	}
	if (n > most)
		most = most > 0 ? most - 1 : 0; /* the last line counts the others */
	for (size_t i = 0; i < status->n && shown < most; i++) {
		struct progress_line line = { .len = 0 };
		if (status->layers[i].state != LAYER_RUNS)
			continue;
		line_layer (&line, &status->layers[i], name_width, (int) frame->columns);
		frame_add (frame, &line, false);
		shown++;
	}
	if (shown < n) {
		struct progress_line line = { .len = 0 };
		line_add (&line, "and %zu more", n - shown);
		frame_add (frame, &line, false);
	}
}

static struct winsize
terminal_size (int fd)
{
	struct winsize size = { .ws_row = 0 };
	ioctl (fd, TIOCGWINSZ, &size);
	if (size.ws_row == 0)
		size.ws_row = 24;
	if (size.ws_col == 0)
		size.ws_col = 80;
	return size;
}

/* Is the terminal somebody else's right now?  Then what is drawn would be in their way. */
static bool
in_background (int fd)
{
	pid_t owner = tcgetpgrp (fd);
	return owner > 0 && owner != getpgrp ();
}

void
picture_draw (struct picture *picture, const struct import_status *status, bool *told, int64_t now)
{
	struct silo_error err;
	const struct winsize size = terminal_size (picture->fd);
	if (in_background (picture->fd)) {
		picture->n_widths = 0;
		return;
	}
	/* The last column stays free: terminals differ in what a full line does. */
	struct frame frame = { .text = SILO_BUF (MAX_FRAME), .room = size.ws_row };
	frame.columns = size.ws_col > PROGRESS_COLUMNS ? PROGRESS_COLUMNS : size.ws_col - 1u;
	frame.widths = calloc (frame.room, sizeof (*frame.widths));
	if (!frame.widths)
		return;
	frame_home (&frame, picture, size.ws_col);
	frame_finished (&frame, status, told);
	if (frame.room > 2)
		frame_running (&frame, status, frame.room - 2);
	struct progress_line line = { .len = 0 };
	line_summary (&line, picture, status, now);
	frame_add (&frame, &line, false);
	silo_buf_add (&frame.text, "\033[J\r", 4, &err);
	write_all (picture->fd, frame.text.data, frame.text.len);
	silo_buf_free (&frame.text);
	free (picture->widths);
	picture->widths = frame.widths;
	picture->n_widths = frame.n;
	picture->drawn = now;
}

void
picture_end (struct picture *picture, const struct import_status *status, bool *told)
{
	struct silo_error err;
	const struct winsize size = terminal_size (picture->fd);
	struct frame frame = { .text = SILO_BUF (MAX_FRAME), .columns = size.ws_col - 1u };
	if (picture->n_widths > 0 && !in_background (picture->fd)) {
		frame_home (&frame, picture, size.ws_col);
		frame_finished (&frame, status, told);
		silo_buf_add (&frame.text, "\033[J", 3, &err);
		write_all (picture->fd, frame.text.data, frame.text.len);
		silo_buf_free (&frame.text);
	}
	free (picture->widths);
}
