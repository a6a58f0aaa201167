/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.c - unit tests of the event loop and the pool: order of posts, timers,
 * descriptors that are unwatched while their event waits, jobs from many
 * threads, and that an idle loop does not wake up.
 */
#include "core.h"
#include "tap.h"

#include <sys/epoll.h>
#include <sys/resource.h>

#define JOBS 2000

struct fixture {
	struct loop *loop;
	struct pool *pool;
	int order[16];
	int n;
	struct loop_timer timers[8];
	struct loop_io io[2];
	int fds[2][2];
	int events;
	struct job {
		struct fixture *fixture;
		struct pool_job job;
		int worked;
	} jobs[JOBS];
	int done;
};

static struct fixture *
fixture_new (void)
{
	struct fixture *f = calloc (1, sizeof (*f));
	struct silo_error err;

	if (!f || loop_new (&f->loop, &err) < 0 || pool_new (f->loop, 8, &f->pool, &err) < 0)
		tap_bail ("no loop");
	loop_reserve (f->loop, ARRAY_SIZE (f->timers), &err);
	return f;
}

static void
fixture_free (struct fixture *f)
{
	pool_free (f->pool);
	loop_free (f->loop);
	free (f);
}

static void
quit (void *arg)
{
	loop_quit (((struct fixture *) arg)->loop);
}

/* -- posts ---------------------------------------------------------------------- */

struct numbered {
	struct loop_post post;
	struct fixture *f;
	int number;
};

static void
note_number (void *arg)
{
	struct numbered *n = arg;
	n->f->order[n->f->n++] = n->number;
	if (n->number == 3)
		loop_quit (n->f->loop);
}

static void
test_posts (void)
{
	struct fixture *f = fixture_new ();
	struct numbered posts[4];
	struct silo_error err;

	for (int i = 0; i < 4; i++) {
		posts[i] = (struct numbered){ .f = f, .number = i };
		loop_post (f->loop, &posts[i].post, note_number, &posts[i]);
	}
	tap_ok (!loop_here (f->loop), "no thread is the loop's yet");
	loop_run (f->loop, &err);
	tap_is_int (f->n, 4, "all posts ran");
	for (int i = 0; i < f->n; i++)
		tap_is_int (f->order[i], i, "post %d in its place", i);
	fixture_free (f);
}

/* -- timers ------------------------------------------------------------------------ */

static void
note_timer (void *arg)
{
	struct loop_timer *timer = arg;
	struct fixture *f =
	    container_of (timer - timer->due % 8, struct fixture, timers[0]); /* see below */
	f->order[f->n++] = (int) (timer->due % 8);
	if (f->n == 5)
		loop_quit (f->loop);
}

static void
test_timers (void)
{
	struct fixture *f = fixture_new ();
	struct silo_error err;
	/* A due time that is i modulo 8 says which timer it is. */
	int64_t base = (silo_monotonic () + 20000000) / 8 * 8;
	static const int at[] = { 5, 1, 4, 0, 3, 2, 6 };

	for (size_t i = 0; i < ARRAY_SIZE (at); i++)
		loop_arm (f->loop, &f->timers[at[i]], base + at[i] * 800000 + at[i], note_timer,
			  &f->timers[at[i]]);
	loop_disarm (f->loop, &f->timers[3]);
	loop_disarm (f->loop, &f->timers[6]);
	loop_disarm (f->loop, &f->timers[6]);
	/* Moved to the end. */
	loop_arm (f->loop, &f->timers[0], base + 8 * 800000, note_timer, &f->timers[0]);
	loop_run (f->loop, &err);
	static const int want[] = { 1, 2, 4, 5, 0 };
	for (size_t i = 0; i < ARRAY_SIZE (want); i++)
		tap_is_int (f->order[i], want[i], "timer %d came in its turn", want[i]);
	tap_ok (silo_monotonic () >= base + 8 * 800000, "none came early");
	fixture_free (f);
}

/* -- descriptors ---------------------------------------------------------------------- */

static void
drop_both (void *arg, uint32_t events)
{
	struct fixture *f = arg;
	(void) events;
	f->events++;
	for (int i = 0; i < 2; i++)
		loop_unwatch (f->loop, &f->io[i]);
	loop_quit (f->loop);
}

static void
test_descriptors (void)
{
	struct fixture *f = fixture_new ();
	struct silo_error err;

	for (int i = 0; i < 2; i++) {
		if (pipe (f->fds[i]) < 0 || write (f->fds[i][1], "x", 1) != 1)
			tap_bail ("no pipe");
		loop_watch (f->loop, &f->io[i], f->fds[i][0], EPOLLIN, drop_both, f, &err);
	}
	loop_run (f->loop, &err);
	tap_is_int (f->events, 1, "a descriptor unwatched by its neighbour gets no event");
	tap_is_int (loop_watch (f->loop, &f->io[0], -1, EPOLLIN, drop_both, f, &err), SILO_INTERNAL,
		    "a bad descriptor is an error");
	for (int i = 0; i < 4; i++)
		close (f->fds[i / 2][i % 2]);
	fixture_free (f);
}

/* -- jobs -------------------------------------------------------------------------------- */

static void
job_work (void *arg)
{
	struct job *job = arg;
	if (!loop_here (job->fixture->loop))
		job->worked++;
}

static void
job_done (void *arg)
{
	struct job *job = arg;
	if (loop_here (job->fixture->loop) && job->worked == 1)
		job->fixture->done++;
	if (++job->fixture->n == JOBS)
		loop_quit (job->fixture->loop);
}

static void
test_jobs (void)
{
	struct fixture *f = fixture_new ();
	struct silo_error err;

	for (int i = 0; i < JOBS; i++) {
		f->jobs[i].fixture = f;
		pool_run (f->pool, &f->jobs[i].job, job_work, job_done, &f->jobs[i]);
	}
	loop_run (f->loop, &err);
	tap_is_int (f->done, JOBS, "every job worked off the loop and came back to it, once");
	fixture_free (f);
}

/* -- idleness ------------------------------------------------------------------------------ */

static void
test_idle (void)
{
	struct fixture *f = fixture_new ();
	struct rusage before, after;
	struct silo_error err;

	loop_arm (f->loop, &f->timers[0], silo_monotonic () + 300000000, quit, f);
	getrusage (RUSAGE_SELF, &before);
	loop_run (f->loop, &err);
	getrusage (RUSAGE_SELF, &after);
	tap_ok (after.ru_nvcsw - before.ru_nvcsw <= 3,
		"0.3 idle seconds take at most 3 wake-ups: %ld", after.ru_nvcsw - before.ru_nvcsw);
	fixture_free (f);
}

int
main (void)
{
	test_posts ();
	test_timers ();
	test_descriptors ();
	test_jobs ();
	test_idle ();
	return tap_done ();
}
