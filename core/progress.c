/* SPDX-License-Identifier: Apache-2.0 */
/*
 * progress.c - shows how far an import is.  On a terminal each layer that runs
 * has a line, below them stands a summary; a layer that ends leaves one line
 * above them for good.  Every picture is one write () and leaves the cursor at
 * the start of the summary, so that whatever else is printed there, "^C" for
 * one, is wiped with it; the terminal is never put into another mode.
 *
 * The import calls progress_show from its threads, one at a time.
 */
#include "progress.h"

#include <stdarg.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "cli-print.h"

#define REDRAW_PAUSE  100000000 /* ns */
#define SECOND        1000000000
#define MAX_COLUMNS   200
#define MAX_NAME      30
#define MIN_BAR       10
#define MAX_BAR       40
#define MAX_FRAME     ((size_t) 1 << 20)
#define SHORT_DIGEST  12
#define DIGEST_PREFIX "sha256:"

enum progress_mode
progress_choose (int fd)
{
	const char *term = getenv ("TERM");
	if (!isatty (fd) || !term || !*term || strcmp (term, "dumb") == 0)
		return PROGRESS_LINES;
	return PROGRESS_LIVE;
}

void
progress_start (struct progress *progress, enum progress_mode mode, int fd)
{
	*progress = (struct progress){ .mode = mode, .fd = fd };
}

/* -- text ------------------------------------------------------------------------------ */

struct line {
	char text[MAX_COLUMNS + 1];
	size_t len; /* ASCII only: also its columns */
};

/* What does not fit is left out. */
SILO_PRINTF (2, 3)
static void
line_add (struct line *line, const char *fmt, ...)
{
	va_list args;
	va_start (args, fmt);
	int n = vsnprintf (line->text + line->len, sizeof (line->text) - line->len, fmt, args);
	va_end (args);
	if (n > 0)
		line->len += (size_t) n;
	if (line->len > MAX_COLUMNS)
		line->len = MAX_COLUMNS;
}

static void
line_cut (struct line *line, size_t columns)
{
	if (line->len > columns)
		line->len = columns;
	line->text[line->len] = '\0';
}

/* Names are the image's: a digest is shortened, control characters are not printed. */
static void
line_name (struct line *line, const char *name)
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
line_bar (struct line *line, int columns, int64_t done, int64_t total)
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
line_layer (struct line *line, const struct import_layer *layer, int name_width, int columns)
{
	struct line numbers = { .len = 0 };
	int64_t done = layer->fetched;
	bool known_size = layer->size > 0;
	if (known_size && done > layer->size)
		done = layer->size;
	if (known_size)
		line_add (&numbers, "%3.0f%%  %s of %s  ",
			  (double) done * 100 / (double) layer->size, cli_size (done).text,
			  cli_size (layer->size).text);
	else if (done > 0)
		line_add (&numbers, "%s  ", cli_size (done).text);
	line_add (&numbers, "hashed %s  new %s", cli_size (layer->hashed).text,
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
static void
line_finished (struct line *line, const struct import_layer *layer)
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

static bool
layer_ended (const struct import_layer *layer)
{
	return layer->state == LAYER_DONE || layer->state == LAYER_KNOWN;
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
		if (layer_ended (layer))
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
rate_update (struct progress *progress, int64_t arrived, int64_t now)
{
	double passed = (double) (now - progress->drawn) / SECOND;
	if (progress->drawn > 0 && passed > 0 && arrived >= progress->arrived) {
		double rate = (double) (arrived - progress->arrived) / passed;
		double weight = progress->rate > 0 ? passed / (passed + 1) : 1;
		progress->rate += (rate - progress->rate) * weight;
	}
	progress->arrived = arrived;
}

static void
line_summary (struct line *line, struct progress *progress, const struct import_status *status,
	      int64_t now)
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
	rate_update (progress, fetching ? sum.fetched : sum.hashed, now);
	line_add (line, "layers: %zu of %zu done", sum.ended, status->n);
	if (fetching && sum.size > 0)
		line_add (line, ", %s of %s", cli_size (sum.fetched).text,
			  cli_size (sum.size).text);
	else
		line_add (line, ", %s", cli_size (fetching ? sum.fetched : sum.hashed).text);
	if (progress->rate < 1)
		return;
	line_add (line, ", %s/s", cli_size ((int64_t) progress->rate).text);
	if (fetching && sum.size >= sum.fetched) {
		double left = (double) (sum.size - sum.fetched) / progress->rate;
		if (left < 100 * 3600)
			line_add (line, ", %d:%02d left", (int) left / 60, (int) left % 60);
	}
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
frame_add (struct frame *frame, struct line *line, bool stays)
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
frame_home (struct frame *frame, struct progress *progress, int terminal_columns)
{
	struct silo_error err;
	int up = 0;
	for (size_t i = 0; i + 1 < progress->n_widths; i++)
		up += 1 +
		      (progress->widths[i] > 0 ? (progress->widths[i] - 1) / terminal_columns : 0);
	silo_buf_add (&frame->text, "\r", 1, &err);
	if (up > 0)
		silo_buf_addf (&frame->text, &err, "\033[%dA", up);
}

static void
frame_finished (struct frame *frame, struct progress *progress, const struct import_status *status)
{
	for (size_t i = 0; i < status->n && i < progress->n_told; i++) {
		if (progress->told[i] || !layer_ended (&status->layers[i]))
			continue;
		struct line line = { .len = 0 };
		line_finished (&line, &status->layers[i]);
		frame_add (frame, &line, true);
		progress->told[i] = true;
	}
}

/* The first `most` layers that run, and how many there are besides. */
static void
frame_running (struct frame *frame, const struct import_status *status, size_t most)
{
	size_t n = 0, shown = 0;
	int name_width = 0;
	for (size_t i = 0; i < status->n; i++) {
		struct line name = { .len = 0 };
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
		struct line line = { .len = 0 };
		if (status->layers[i].state != LAYER_RUNS)
			continue;
		line_layer (&line, &status->layers[i], name_width, (int) frame->columns);
		frame_add (frame, &line, false);
		shown++;
	}
	if (shown < n) {
		struct line line = { .len = 0 };
		line_add (&line, "and %zu more", n - shown);
		frame_add (frame, &line, false);
	}
}

static void
draw (struct progress *progress, const struct import_status *status, int64_t now)
{
	struct winsize size = { .ws_row = 0 };
	struct silo_error err;
	ioctl (progress->fd, TIOCGWINSZ, &size);
	size_t rows = size.ws_row > 0 ? size.ws_row : 24;
	int columns = size.ws_col > 0 ? size.ws_col : 80;
	/* The last column stays free: terminals differ in what a full line does. */
	struct frame frame = { .text = SILO_BUF (MAX_FRAME), .room = rows };
	frame.columns = columns > MAX_COLUMNS ? MAX_COLUMNS
			: columns > 1         ? (size_t) columns - 1
					      : 1;
	frame.widths = calloc (rows, sizeof (*frame.widths));
	if (!frame.widths)
		return;
	if (atomic_exchange (&progress->lost, false))
		progress->n_widths = 0;
	frame_home (&frame, progress, columns);
	frame_finished (&frame, progress, status);
	if (rows > 2)
		frame_running (&frame, status, rows - 2);
	struct line line = { .len = 0 };
	line_summary (&line, progress, status, now);
	frame_add (&frame, &line, false);
	silo_buf_add (&frame.text, "\033[J\r", 4, &err);
	write_all (progress->fd, frame.text.data, frame.text.len);
	silo_buf_free (&frame.text);
	free (progress->widths);
	progress->widths = frame.widths;
	progress->n_widths = frame.n;
}

/* -- plain lines -------------------------------------------------------------------------------- */

static void
print (struct progress *progress, const struct import_status *status, bool new_stage)
{
	if (new_stage)
		dprintf (progress->fd, "%s\n", status->stage);
	for (size_t i = 0; i < status->n && i < progress->n_told; i++) {
		if (progress->told[i] || !layer_ended (&status->layers[i]))
			continue;
		struct line line = { .len = 0 };
		line_finished (&line, &status->layers[i]);
		dprintf (progress->fd, "%s\n", line.text);
		progress->told[i] = true;
	}
}

/* -- from outside ------------------------------------------------------------------------------- */

/* Is the terminal somebody else's right now?  Then what is drawn would be in their way. */
static bool
in_background (int fd)
{
	pid_t owner = tcgetpgrp (fd);
	return owner > 0 && owner != getpgrp ();
}

void
progress_show (void *arg, const struct import_status *status)
{
	struct progress *progress = arg;
	struct sum sum;
	sum_layers (status, &sum);
	progress->new = sum.stored;
	if (progress->mode == PROGRESS_NONE)
		return;
	if (status->n > progress->n_told) {
		bool *told = calloc (status->n, sizeof (*told));
		if (!told)
			return;
		if (progress->n_told > 0)
			memcpy (told, progress->told, progress->n_told * sizeof (*told));
		free (progress->told);
		progress->told = told;
		progress->n_told = status->n;
	}
	bool new_stage =
	    strncmp (status->stage, progress->stage, sizeof (progress->stage) - 1) != 0;
	if (new_stage)
		snprintf (progress->stage, sizeof (progress->stage), "%s", status->stage);
	if (progress->mode == PROGRESS_LINES) {
		print (progress, status, new_stage);
		return;
	}
	int64_t now = silo_monotonic ();
	if (!new_stage && progress->drawn > 0 && now - progress->drawn < REDRAW_PAUSE)
		return;
	if (in_background (progress->fd)) {
		progress->lost = true;
		return;
	}
	draw (progress, status, now);
	progress->drawn = now;
}

void
progress_end (struct progress *progress)
{
	if (progress->n_widths > 0 && !progress->lost && !in_background (progress->fd)) {
		struct winsize size = { .ws_row = 0 };
		struct silo_error err;
		struct frame frame = { .text = SILO_BUF (MAX_FRAME) };
		ioctl (progress->fd, TIOCGWINSZ, &size);
		frame_home (&frame, progress, size.ws_col > 0 ? size.ws_col : 80);
		silo_buf_add (&frame.text, "\033[J", 3, &err);
		write_all (progress->fd, frame.text.data, frame.text.len);
		silo_buf_free (&frame.text);
	}
	free (progress->told);
	free (progress->widths);
	*progress = (struct progress){ .mode = PROGRESS_NONE, .new = progress->new };
}
