/* SPDX-License-Identifier: Apache-2.0 */
/*
 * storage-process.c - the part of the storage suite where several write at
 * once: threads of one process, two processes, and a process that is killed
 * while it writes.
 */
#include <limits.h>
#include <signal.h>
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
		racer->code[i] =
		    instance_call (racer->c->instance, storage, task_add, &task, 1, &racer->err);
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

/* -- processes ----------------------------------------------------------------------------- */

/* What another process does, by its role: it acknowledges each step with a line. */
#define ROLE_ADD    "add"    /* ADDS tasks, one by one */
#define ROLE_FINISH "finish" /* all tasks that the store has */
#define ROLE_BATCH  "batch"  /* batches of BATCH tasks, until it is killed */

enum { BATCH = 7 };

static int
child_add (struct conform *c, size_t batch, long rounds)
{
	for (long i = 0; i < rounds; i++) {
		struct silo_task tasks[BATCH];
		struct silo_error err;
		for (size_t j = 0; j < batch; j++)
			tasks[j] = storage_task ("process");
		if (instance_call (c->instance, storage, task_add, tasks, batch, &err) < 0) {
			printf ("error %s\n", err.msg);
			return 1;
		}
		printf ("%lld\n", (long long) tasks[0].id);
		fflush (stdout);
	}
	return 0;
}

static int
child_finish (struct conform *c)
{
	struct silo_result result = storage_result ();
	struct storage_ids ids = { 0 };

	result.outcome = SILO_OUTCOME_EXIT;
	result.exit_code = 99;
	storage_list (c, (struct silo_task_query){ 0 }, &ids);
	puts ("ready");
	fflush (stdout);
	for (size_t i = ids.n; i-- > 0;) {
		struct silo_error err;
		int r = instance_call (c->instance, storage, task_finish, ids.id[i], 1, &result, 9,
				       &err);
		if (r < 0 && r != SILO_EXISTS) {
			printf ("error %s\n", err.msg);
			return 1;
		}
		printf ("%d\n", r == 0);
	}
	return 0;
}

int
storage_child (struct conform *c)
{
	if (strcmp (c->role, ROLE_ADD) == 0)
		return child_add (c, 1, ADDS);
	if (strcmp (c->role, ROLE_BATCH) == 0)
		return child_add (c, BATCH, LONG_MAX);
	assert (strcmp (c->role, ROLE_FINISH) == 0);
	return child_finish (c);
}

/* Another process and what it says. */
struct other {
	struct silo_process process;
	FILE *out;
	char line[512];
};

static void
other_start (struct conform *c, const char *role, struct other *other)
{
	conform_spawn (c, role, &other->process);
	other->out = fdopen (other->process.out, "re");
	if (!other->out)
		tap_bail ("fdopen: %s", strerror (errno));
	other->process.out = -1;
}

/* Its next line that is not a comment; false at the end.  Complaints fail the test. */
static bool
other_line (struct other *other)
{
	while (fgets (other->line, sizeof (other->line), other->out)) {
		size_t len = strlen (other->line);
		if (other->line[0] == '#')
			continue;
		/* Half a line of a killed process is no acknowledgement. */
		if (len == 0 || other->line[len - 1] != '\n')
			return false;
		if (strncmp (other->line, "error", 5) == 0)
			tap_ok (false, "in the other process: %s", other->line);
		return true;
	}
	return false;
}

static int
other_end (struct other *other)
{
	struct silo_error err;
	int status = -1;

	fclose (other->out);
	if (silo_process_wait (&other->process, &status, &err) < 0)
		tap_bail ("%s", err.msg);
	return status;
}

/* Two processes add at once. */
static void
test_two_add (struct conform *c)
{
	struct other other;
	int64_t ids[2 * ADDS];
	int mine = 0, theirs = 0, twice = 0, failed = 0;

	other_start (c, ROLE_ADD, &other);
	/* Begin when the other has begun. */
	if (!other_line (&other))
		tap_bail ("the other process says nothing");
	ids[ADDS + theirs++] = strtoll (other.line, NULL, 10);
	for (; mine < ADDS; mine++) {
		struct silo_task task = storage_task ("mine");
		struct silo_error err;
		if (instance_call (c->instance, storage, task_add, &task, 1, &err) < 0) {
			tap_note ("%s", err.msg);
			failed++;
		}
		ids[mine] = task.id;
	}
	while (theirs < ADDS && other_line (&other))
		ids[ADDS + theirs++] = strtoll (other.line, NULL, 10);
	tap_is_int (other_end (&other), 0, "another process adds");
	tap_is_int (theirs, ADDS, "all of its tasks");
	tap_is_int (failed, 0, "no operation here fails meanwhile");
	qsort (ids, ARRAY_SIZE (ids), sizeof (ids[0]), by_id);
	for (size_t i = 1; i < ARRAY_SIZE (ids); i++)
		twice += ids[i] == ids[i - 1];
	tap_is_int (twice, 0, "no id is given twice");
	struct storage_ids listed = { 0 };
	storage_list (c, (struct silo_task_query){ 0 }, &listed);
	tap_is_int (listed.n, 2 * ADDS, "and all are there");
	storage_empty (c);
}

/* Two processes finish the same tasks at once: each has one winner. */
static void
test_two_finish (struct conform *c)
{
	struct silo_result result = storage_result ();
	struct other other;
	int64_t ids[STORAGE_IDS];
	int won[STORAGE_IDS], right = 0, n = 0;

	result.outcome = SILO_OUTCOME_EXIT;
	result.exit_code = 11;
	for (int i = 0; i < STORAGE_IDS; i++) {
		struct silo_task task = storage_task ("race");
		ids[i] = storage_add (c, &task);
	}
	other_start (c, ROLE_FINISH, &other);
	if (!other_line (&other)) /* "ready" */
		tap_bail ("the other process says nothing");
	for (int i = 0; i < STORAGE_IDS; i++) {
		struct silo_error err;
		won[i] =
		    instance_call (c->instance, storage, task_finish, ids[i], 1, &result, 9, &err);
	}
	for (; n < STORAGE_IDS && other_line (&other); n++) {
		struct storage_seen seen;
		bool they = strtol (other.line, NULL, 10) == 1;
		storage_see (c, ids[n], &seen);
		right += they ? won[n] == SILO_EXISTS && seen.exit_code == 99
			      : won[n] == 0 && seen.exit_code == 11;
	}
	tap_is_int (other_end (&other), 0, "another process finishes the same tasks");
	tap_is_int (right, STORAGE_IDS, "each has exactly one winner");
	storage_empty (c);
}

static int
on_count (void *arg, const struct silo_record *record SILO_UNUSED)
{
	++*(int64_t *) arg;
	return 0;
}

/* What was acknowledged before `kill -9` is there, and of each batch all or nothing. */
static void
test_kill (struct conform *c)
{
	for (int round = 1; round <= 16; round++) {
		const struct silo_task_query all = { 0 };
		struct silo_error err = storage_untouched;
		struct other other;
		int64_t acked = 0, missing = 0, count = 0, first[512];
		other_start (c, ROLE_BATCH, &other);
		if (!other_line (&other))
			tap_bail ("the other process says nothing");
		first[acked++] = strtoll (other.line, NULL, 10);
		/* Not to wait for anything: a different moment each time, and reading its
		 * lines meanwhile would stop it at the same point in every round. */
		const struct timespec moment = { .tv_nsec = round * 997331 };
		nanosleep (&moment, NULL);
		if (kill (other.process.pid, SIGKILL) < 0)
			tap_bail ("kill: %s", strerror (errno));
		while (acked < (int64_t) ARRAY_SIZE (first) && other_line (&other))
			first[acked++] = strtoll (other.line, NULL, 10);
		tap_is_int (other_end (&other), 128 + SIGKILL, "a process is killed in round %d",
			    round);
		for (int64_t i = 0; i < acked; i++)
			for (int j = 0; j < BATCH; j++) {
				struct storage_seen seen;
				storage_see (c, first[i] + j, &seen);
				missing += !seen.there;
			}
		tap_is_int (missing, 0, "all of the %lld batches that it acknowledged are there",
			    (long long) acked);
		int r =
		    instance_call (c->instance, storage, task_list, &all, on_count, &count, &err);
		storage_ok (r, &err, "task_list");
		tap_is_int (count % BATCH, 0, "and no part of a batch: %lld tasks",
			    (long long) count);
		conform_reload (c);
		struct silo_task task = storage_task ("after");
		tap_ok (storage_add (c, &task) > first[acked - 1] + BATCH - 1,
			"ids grow on after it");
		storage_empty (c);
	}
}

void
storage_test_processes (struct conform *c)
{
	test_two_add (c);
	test_two_finish (c);
	test_kill (c);
}
