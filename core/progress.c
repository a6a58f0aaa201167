/* SPDX-License-Identifier: Apache-2.0 */
/*
 * progress.c - takes what the import says of itself and shows it.  The import
 * calls progress_show from its threads, one at a time.  For a terminal only a
 * copy is made there: a thread draws it, ten times a second at most, and once a
 * second when there is no news, since a rate of which nothing comes is wrong.
 * So the import never waits for a terminal that its user has stopped.
 */
#include "progress.h"

#define REDRAW_PAUSE 100000000  /* ns between two pictures */
#define NEWS_PAUSE   1000000000 /* ns until one without news */

/* A copy of what the import said last. */
struct news {
	struct import_status status;
	struct import_layer *layers;
	char **names; /* of the layers, its own; all NULL: they are borrowed */
	bool *told;   /* by layer: its last line has been printed */
	size_t room;  /* of the three */
	char stage[64];
};

struct progress {
	enum progress_mode mode;
	int fd;
	pthread_t thread;

	pthread_mutex_t lock; /* the fields up to the next comment */
	pthread_cond_t wake;
	struct news news;
	bool fresh; /* not drawn yet */
	bool lost;  /* the picture is no longer where it was */
	bool ending;
	int64_t new; /* bytes */

	/* the thread's; behind its end progress_end's */
	struct news seen; /* what is drawn */
	struct picture picture;
};

enum progress_mode
progress_choose (int fd)
{
	const char *term = getenv ("TERM");
	if (!isatty (fd) || !term || !*term || strcmp (term, "dumb") == 0)
		return PROGRESS_LINES;
	return PROGRESS_LIVE;
}

/* -- copies --------------------------------------------------------------------------- */

static int
news_grow (struct news *news, size_t n)
{
	if (n <= news->room)
		return 0;
	struct import_layer *layers = realloc (news->layers, n * sizeof (*layers));
	news->layers = layers ? layers : news->layers;
	char **names = realloc (news->names, n * sizeof (*names));
	news->names = names ? names : news->names;
	bool *told = realloc (news->told, n * sizeof (*told));
	news->told = told ? told : news->told;
	if (!layers || !names || !told)
		return SILO_EXHAUSTED;
	for (size_t i = news->room; i < n; i++) {
		news->names[i] = NULL;
		news->told[i] = false;
	}
	news->room = n;
	return 0;
}

static void
news_copy (struct news *news, const struct import_status *status, bool own_names)
{
	size_t n = status->n;
	if (news_grow (news, n) < 0)
		n = news->room; /* some layers are not shown */
	for (size_t i = 0; i < n; i++) {
		news->layers[i] = status->layers[i];
		if (!own_names)
			continue;
		if (!news->names[i])
			news->names[i] = strdup (status->layers[i].name);
		news->layers[i].name = news->names[i] ? news->names[i] : "";
	}
	snprintf (news->stage, sizeof (news->stage), "%s", status->stage);
	news->status = *status;
	news->status.stage = news->stage;
	news->status.layers = news->layers;
	news->status.n = n;
}

static void
news_free (struct news *news)
{
	for (size_t i = 0; i < news->room; i++)
		free (news->names[i]);
	free (news->names);
	free (news->layers);
	free (news->told);
}

/* -- on a terminal ------------------------------------------------------------------------ */

static void
wait_until (struct progress *progress, int64_t when)
{
	const struct timespec due = { when / NEWS_PAUSE, when % NEWS_PAUSE };
	pthread_cond_clockwait (&progress->wake, &progress->lock, CLOCK_MONOTONIC, &due);
}

static void *
draw_all (void *arg)
{
	struct progress *progress = arg;
	struct picture *picture = &progress->picture;
	scope_lock (&progress->lock);
	while (!progress->ending) {
		int64_t now = silo_monotonic ();
		int64_t due = picture->drawn + (progress->fresh ? REDRAW_PAUSE : NEWS_PAUSE);
		if (picture->drawn == 0 && !progress->fresh) {
			pthread_cond_wait (&progress->wake, &progress->lock);
			continue;
		}
		if (picture->drawn > 0 && now < due) {
			wait_until (progress, due);
			continue;
		}
		news_copy (&progress->seen, &progress->news.status, false);
		progress->fresh = false;
		if (progress->lost)
			picture->n_widths = 0;
		progress->lost = false;
		pthread_mutex_unlock (&progress->lock);
		picture_draw (picture, &progress->seen.status, progress->seen.told, now);
		pthread_mutex_lock (&progress->lock);
	}
	return NULL;
}

/* -- plain lines --------------------------------------------------------------------------- */

static void
print_lines (struct progress *progress, bool new_stage)
{
	struct news *news = &progress->news;
	if (new_stage)
		dprintf (progress->picture.fd, "%s\n", news->stage);
	for (size_t i = 0; i < news->status.n; i++) {
		if (news->told[i] || !progress_layer_ended (&news->layers[i]))
			continue;
		struct progress_line line = { .len = 0 };
		progress_line_finished (&line, &news->layers[i]);
		dprintf (progress->picture.fd, "%s\n", line.text);
		news->told[i] = true;
	}
}

/* -- from outside --------------------------------------------------------------------------- */

int
progress_start (enum progress_mode mode, int fd, struct progress **ret, struct silo_error *err)
{
	struct progress *progress = calloc (1, sizeof (*progress));
	if (!progress)
		return silo_fail_nomem (err);
	progress->mode = mode;
	progress->picture.fd = fd;
	pthread_mutex_init (&progress->lock, NULL);
	pthread_cond_init (&progress->wake, NULL);
	int sys = mode == PROGRESS_LIVE
		      ? pthread_create (&progress->thread, NULL, draw_all, progress)
		      : 0;
	if (sys) {
		progress->mode = PROGRESS_NONE;
		progress_end (progress);
		return silo_fail_sys (err, sys, "start a thread");
	}
	*ret = progress;
	return 0;
}

void
progress_show (void *arg, const struct import_status *status)
{
	struct progress *progress = arg;
	scope_lock (&progress->lock);
	progress->new = 0;
	for (size_t i = 0; i < status->n; i++)
		progress->new += status->layers[i].stored;
	if (progress->mode == PROGRESS_NONE)
		return;
	const char *stage = progress->news.stage;
	bool new_stage = strncmp (status->stage, stage, sizeof (progress->news.stage) - 1) != 0;
	news_copy (&progress->news, status, true);
	if (progress->mode == PROGRESS_LINES)
		print_lines (progress, new_stage);
	progress->fresh = true;
	pthread_cond_signal (&progress->wake);
}

void
progress_lost (struct progress *progress)
{
	scope_lock (&progress->lock);
	progress->lost = true;
}

int64_t
progress_end (struct progress *progress)
{
	if (!progress)
		return 0;
	if (progress->mode == PROGRESS_LIVE) {
		pthread_mutex_lock (&progress->lock);
		progress->ending = true;
		pthread_cond_signal (&progress->wake);
		pthread_mutex_unlock (&progress->lock);
		pthread_join (progress->thread, NULL);
		news_copy (&progress->seen, &progress->news.status, false);
		if (progress->lost)
			progress->picture.n_widths = 0;
		picture_end (&progress->picture, &progress->seen.status, progress->seen.told);
	}
	int64_t new = progress->new;
	news_free (&progress->news);
	news_free (&progress->seen);
	pthread_cond_destroy (&progress->wake);
	pthread_mutex_destroy (&progress->lock);
	free (progress);
	return new;
}
