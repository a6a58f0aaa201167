/* SPDX-License-Identifier: Apache-2.0 */
/*
 * storage-process.c - the part of the storage suite where several write at
 * once: threads of one process, two processes, and a process that is killed
 * while it writes.
 */
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include "storage.h"
#include "tap.h"

/* -- threads ------------------------------------------------------------------------------- */

enum { THREADS = 4, ADDS = 50, TASKS = 20 };

struct racer {
	struct conform *c;
	pthread_t thread;
	pthread_barrier_t *barrier;
	int number;
	int64_t id[ADDS]; /* adder: what it was given; finisher: the tasks, TASKS of them */
	int code[ADDS];
	struct silo_error err; /* of an unexpected failure */
};

static void *
adder (void *arg)
{
	struct racer *racer = arg;

	pthread_barrier_wait (racer->barrier);
	for (int i = 0; i < ADDS; i++) {
		struct silo_task task = storage_task ("threads");
		racer->code[i] = instance_call (racer->c->instance, storage, task_add, &task, 1,
						&racer->err);
		racer->id[i] = task.id;
	}
	return NULL;
}

/* Each thread says a different exit code, by which the winner is known. */
static void *
finisher (void *arg)
{
	struct racer *racer = arg;
	struct silo_result result = storage_result ();

	result.outcome = SILO_OUTCOME_EXIT;
	result.exit_code = racer->number;
	pthread_barrier_wait (racer->barrier);
	for (int i = 0; i < TASKS; i++)
		racer->code[i] = instance_call (racer->c->instance, storage, task_finish,
						racer->id[i], 1, &result, 9, &racer->err);
	return NULL;
}

static void *
starter (void *arg)
{
	struct racer *racer = arg;

	pthread_barrier_wait (racer->barrier);
	for (int i = 0; i < TASKS; i++)
		racer->code[i] = instance_call (racer->c->instance, storage, task_start,
						racer->id[i], 2, 8, &racer->err);
	return NULL;
}

static void
race (struct racer *racers, size_t n, void *(*const *fn) (void *) )
{
	pthread_barrier_t barrier;

	if (pthread_barrier_init (&barrier, NULL, (unsigned) n) != 0)
		tap_bail ("no barrier");
	for (size_t i = 0; i < n; i++) {
		racers[i].barrier = &barrier;
		if (pthread_create (&racers[i].thread, NULL, fn[i], &racers[i]) != 0)
			tap_bail ("no thread");
	}
	for (size_t i = 0; i < n; i++)
		pthread_join (racers[i].thread, NULL);
	pthread_barrier_destroy (&barrier);
}

static int
by_id (const void *a, const void *b)
{
	int64_t x = *(const int64_t *) a, y = *(const int64_t *) b;
	return x < y ? -1 : x > y;
}

static void
test_add_race (struct conform *c)
{
	struct racer racers[THREADS];
	void *(*const fn[THREADS]) (void *) = { adder, adder, adder, adder };
	int64_t all[THREADS * ADDS];
	int failed = 0, backwards = 0, twice = 0;

	for (int t = 0; t < THREADS; t++)
		racers[t] = (struct racer){ .c = c, .number = t };
	race (racers, THREADS, fn);
	for (int t = 0; t < THREADS; t++)
		for (int i = 0; i < ADDS; i++) {
			failed += racers[t].code[i] != 0;
			backwards += i > 0 && racers[t].id[i] <= racers[t].id[i - 1];
			all[t * ADDS + i] = racers[t].id[i];
		}
	qsort (all, ARRAY_SIZE (all), sizeof (all[0]), by_id);
	for (size_t i = 1; i < ARRAY_SIZE (all); i++)
		twice += all[i] == all[i - 1];
	tap_is_int (failed, 0, "%d threads add at once", THREADS);
	tap_is_int (backwards, 0, "ids grow in each of them");
	tap_is_int (twice, 0, "no id is given twice");
	storage_empty (c);
}

static void
add_for_race (struct conform *c, struct racer *racers, size_t n)
{
	for (size_t r = 0; r < n; r++)
		racers[r] = (struct racer){ .c = c, .number = (int) r };
	for (int i = 0; i < TASKS; i++) {
		struct silo_task task = storage_task ("race");
		struct silo_error err;
		int64_t id = storage_add (c, &task);
		if (instance_call (c->instance, storage, task_start, id, 1, 7, &err) < 0)
			tap_ok (false, "task_start: %s", err.msg);
		for (size_t r = 0; r < n; r++)
			racers[r].id[i] = id;
	}
}

/* First writer wins: one success, its result is the one that is there, all others are told. */
static void
test_finish_race (struct conform *c)
{
	struct racer racers[THREADS];
	void *(*const fn[THREADS]) (void *) = { finisher, finisher, finisher, finisher };
	int right = 0;

	add_for_race (c, racers, THREADS);
	race (racers, THREADS, fn);
	for (int i = 0; i < TASKS; i++) {
		struct storage_seen seen;
		int winners = 0, told = 0, winner = -1;
		for (int t = 0; t < THREADS; t++) {
			winners += racers[t].code[i] == 0;
			told += racers[t].code[i] == SILO_EXISTS;
			if (racers[t].code[i] == 0)
				winner = t;
		}
		storage_see (c, racers[0].id[i], &seen);
		right += winners == 1 && told == THREADS - 1 && seen.exit_code == winner;
	}
	tap_is_int (right, TASKS, "of %d threads that finish a task at once exactly one wins",
		    THREADS);
	storage_empty (c);
}

/* Attempt 1 finishes while attempt 2 starts: whoever is second is refused. */
static void
test_fence_race (struct conform *c)
{
	struct racer racers[2];
	void *(*const fn[2]) (void *) = { finisher, starter };
	int right = 0;

	add_for_race (c, racers, 2);
	race (racers, 2, fn);
	for (int i = 0; i < TASKS; i++) {
		struct storage_seen seen;
		storage_see (c, racers[0].id[i], &seen);
		bool finished = racers[0].code[i] == 0 && racers[1].code[i] == SILO_EXISTS &&
				seen.state == SILO_TASK_DONE && seen.attempt == 1;
		bool started = racers[0].code[i] == SILO_ABORTED && racers[1].code[i] == 0 &&
			       seen.state == SILO_TASK_RUNNING && seen.attempt == 2;
		right += finished || started;
	}
	tap_is_int (right, TASKS, "an old attempt never finishes after a new one has started");
	storage_empty (c);
}

void
storage_test_threads (struct conform *c)
{
	test_add_race (c);
	test_finish_race (c);
	test_fence_race (c);
}
