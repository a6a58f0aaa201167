/* SPDX-License-Identifier: Apache-2.0 */
/*
 * task.c - storage/files' operations on tasks.  ID.task alone is a queued
 * task, ID.run beside it says that it runs, ID.result that it has ended.  A
 * task exists when its id is not above the number in `last`, so replacing that
 * is what makes a whole batch appear.  Any thread; writers hold the lock.
 */
#include <dirent.h>
#include <sys/stat.h>
#include "files.h"

static const char *const task_parts[] = { "args", "kwargs", "source" };
/* What a list shows comes first. */
static const char *const result_parts[] = { "traceback", "value", "exception", "stdout", "stderr" };

#define N_TASK_PARTS   3
#define N_RESULT_PARTS 5
#define N_RESULT_LIST  1

/* Nineteen digits: all ids sort by name. */
static void
task_file (int64_t id, const char *suffix, char ret[NAME_SIZE])
{
	snprintf (ret, NAME_SIZE, "%019lld%s", (long long) id, suffix);
}

static struct place
task_place (struct files *f, const char *name, const char *type)
{
	return (struct place){ f, f->tasks, "tasks", name, type };
}

static const char *
text_of (const char *text)
{
	return text ? text : "";
}

static struct silo_bytes
bytes_of (const char *text)
{
	return (struct silo_bytes){ text, text ? strlen (text) : 0 };
}

static int
no_task (int64_t id, struct silo_error *err)
{
	return silo_fail (err, SILO_NOTFOUND, "task %lld does not exist", (long long) id);
}

/* 1 or 0 */
static int
file_exists (struct files *f, int64_t id, const char *suffix, struct silo_error *err)
{
	char name[NAME_SIZE];
	struct stat st;

	task_file (id, suffix, name);
	if (fstatat (f->tasks, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return 1;
	if (errno == ENOENT)
		return 0;
	return silo_fail_sys (err, errno, "%s/tasks/%s", f->path, name);
}

/* Has this id been given?  A file above `last` is part of a batch that was not completed. */
static int
check_id (struct files *f, int64_t id, struct silo_error *err)
{
	int64_t last = atomic_load (&f->last_id);

	if (id > last) {
		int r = last_read (f, &last, err);
		if (r < 0)
			return r;
	}
	return id > 0 && id <= last ? 0 : no_task (id, err);
}

/* -- writing -------------------------------------------------------------------------- */

static int
write_task (struct files *f, const struct silo_task *task, int64_t id, struct silo_error *err)
{
	char hex[SILO_DIGEST_HEX + 1], temp[NAME_SIZE], name[NAME_SIZE];
	const struct part parts[N_TASK_PARTS] = {
		{ task_parts[0], task->args },
		{ task_parts[1], task->kwargs },
		{ task_parts[2], bytes_of (task->source) },
	};
	json_error_t json_error;

	silo_digest_hex (&task->function, hex);
	json_t *head = json_pack_ex (
	    &json_error, 0, "{sI ss ss ss ss sI sI sI}", "id", (json_int_t) id, "name",
	    text_of (task->name), "function", hex, "image", text_of (task->image), "python",
	    text_of (task->python), "flags", (json_int_t) task->flags, "timeout_ms",
	    (json_int_t) task->timeout_ms, "created", (json_int_t) task->created);
	int r = record_write (f, "task", head, &json_error, parts, N_TASK_PARTS, temp, err);
	if (r < 0)
		return r;
	task_file (id, ".task", name);
	/* What may be there belongs to a batch that was not completed. */
	return store_publish (f, temp, f->tasks, name, PUBLISH_REPLACE, err);
}

static void
remove_file (struct files *f, int64_t id, const char *suffix)
{
	char name[NAME_SIZE];
	task_file (id, suffix, name);
	unlinkat (f->tasks, name, 0);
}

int
task_add (void *self, struct silo_task *tasks, size_t n, struct silo_error *err)
{
	struct files *f = self;
	_cleanup_unlock_ struct files *held = NULL;
	int64_t last;
	size_t done = 0;

	if (n == 0)
		return 0;
	int r = store_lock (f, &held, err);
	if (r >= 0)
		r = last_read (f, &last, err);
	if (r < 0)
		return r;
	if (n > (size_t) (INT64_MAX - last))
		return silo_fail (err, SILO_EXHAUSTED, "there are no task ids left");
	while (done < n && r >= 0) {
		r = write_task (f, &tasks[done], last + 1 + (int64_t) done, err);
		if (r >= 0)
			done++;
	}
	if (r >= 0)
		r = last_write (f, last + (int64_t) n, err);
	if (r < 0) {
		for (size_t i = 0; i < done; i++)
			remove_file (f, last + 1 + (int64_t) i, ".task");
		return r;
	}
	for (size_t i = 0; i < n; i++)
		tasks[i].id = last + 1 + (int64_t) i;
	return 0;
}

/* The newest attempt and when it started.  1: there is one; 0: there was none, or the task
 * has ended. */
static int
read_run (struct files *f, int64_t id, int32_t *ret_attempt, int64_t *ret_started,
	  struct silo_error *err)
{
	_cleanup_record_ struct record record = { 0 };
	struct silo_error why = { 0 };
	char name[NAME_SIZE];
	int attempt;
	json_int_t started;

	task_file (id, ".run", name);
	const struct place place = task_place (f, name, "run");
	int r = record_read (&place, NULL, 0, &record, &why);
	if (r == SILO_NOTFOUND) {
		*ret_attempt = 0;
		*ret_started = 0;
		return 0;
	}
	if (r < 0) {
		if (err)
			*err = why;
		return r;
	}
	if (json_unpack (record.head, "{si sI}", "attempt", &attempt, "started", &started) < 0)
		return place_damaged (&place, err, "has a head without attempt or started");
	*ret_attempt = attempt;
	*ret_started = started;
	return 1;
}

/* May `attempt` go on with this task?  With the lock held. */
static int
check_attempt (struct files *f, int64_t id, int32_t attempt, int32_t *ret_newest,
	       int64_t *ret_started, struct silo_error *err)
{
	int r = check_id (f, id, err);
	if (r < 0)
		return r;
	r = file_exists (f, id, ".task", err);
	if (r <= 0)
		return r < 0 ? r : no_task (id, err);
	r = file_exists (f, id, ".result", err);
	if (r < 0)
		return r;
	if (r > 0)
		return silo_fail (err, SILO_EXISTS, "task %lld has its result", (long long) id);
	r = read_run (f, id, ret_newest, ret_started, err);
	if (r < 0)
		return r;
	if (*ret_newest > attempt)
		return silo_fail (err, SILO_ABORTED,
				  "task %lld: attempt %d came too late, attempt %d has started",
				  (long long) id, attempt, *ret_newest);
	return 0;
}

int
task_start (void *self, int64_t id, int32_t attempt, int64_t when, struct silo_error *err)
{
	struct files *f = self;
	_cleanup_unlock_ struct files *held = NULL;
	char temp[NAME_SIZE], name[NAME_SIZE];
	json_error_t json_error;
	int32_t newest;
	int64_t started;

	int r = store_lock (f, &held, err);
	if (r >= 0)
		r = check_attempt (f, id, attempt, &newest, &started, err);
	if (r < 0)
		return r;
	json_t *head = json_pack_ex (&json_error, 0, "{sI si sI}", "id", (json_int_t) id, "attempt",
				     (int) attempt, "started", (json_int_t) when);
	r = record_write (f, "run", head, &json_error, NULL, 0, temp, err);
	if (r < 0)
		return r;
	task_file (id, ".run", name);
	return store_publish (f, temp, f->tasks, name, PUBLISH_REPLACE, err);
}

static int
write_result (struct files *f, int64_t id, int32_t attempt, int64_t started, int64_t finished,
	      const struct silo_result *result, struct silo_error *err)
{
	char temp[NAME_SIZE], name[NAME_SIZE];
	const struct part parts[N_RESULT_PARTS] = {
		{ result_parts[0], bytes_of (result->traceback) },
		{ result_parts[1], result->value },
		{ result_parts[2], result->exception },
		{ result_parts[3], result->out },
		{ result_parts[4], result->err },
	};
	json_error_t json_error;

	json_t *head = json_pack_ex (
	    &json_error, 0, "{sI si sI sI ss si ss ss sb ss}", "id", (json_int_t) id, "attempt",
	    (int) attempt, "started", (json_int_t) started, "finished", (json_int_t) finished,
	    "outcome", silo_outcome_name (result->outcome), "exit_code", (int) result->exit_code,
	    "type", text_of (result->type), "message", text_of (result->message), "truncated",
	    (int) result->truncated, "timeline", text_of (result->timeline));
	int r = record_write (f, "result", head, &json_error, parts, N_RESULT_PARTS, temp, err);
	if (r < 0)
		return r;
	task_file (id, ".result", name);
	return store_publish (f, temp, f->tasks, name, PUBLISH_FIRST, err);
}

int
task_finish (void *self, int64_t id, int32_t attempt, const struct silo_result *result,
	     int64_t when, struct silo_error *err)
{
	struct files *f = self;
	_cleanup_unlock_ struct files *held = NULL;
	int32_t newest;
	int64_t started;

	int r = store_lock (f, &held, err);
	if (r >= 0)
		r = check_attempt (f, id, attempt, &newest, &started, err);
	if (r >= 0)
		r = write_result (f, id, attempt, started, when, result, err);
	if (r >= 0)
		remove_file (f, id, ".run"); /* nobody looks at it any more */
	return r;
}

/* Away with the task first: without it, the other files are nobody's.  It is kept in temp/
 * until they are gone, so that the next start can go on after a kill. */
int
task_drop (void *self, int64_t id, struct silo_error *err)
{
	struct files *f = self;
	_cleanup_unlock_ struct files *held = NULL;
	char name[NAME_SIZE], temp[NAME_SIZE];

	int r = store_lock (f, &held, err);
	if (r >= 0)
		r = check_id (f, id, err);
	if (r < 0)
		return r;
	task_file (id, ".task", name);
	snprintf (temp, sizeof (temp), "drop-%lld", (long long) id);
	if (renameat (f->tasks, name, f->temp, temp) < 0)
		return errno == ENOENT ? no_task (id, err)
				       : silo_fail_sys (err, errno, "%s/tasks/%s", f->path, name);
	task_drop_finish (f, temp);
	unlinkat (f->temp, temp, 0);
	if (f->fsync && fsync (f->tasks) < 0)
		return silo_fail_sys (err, errno, "%s/tasks", f->path);
	return 0;
}

void
task_drop_finish (struct files *f, const char *name)
{
	if (strncmp (name, "drop-", 5) != 0)
		return;
	int64_t id = strtoll (name + 5, NULL, 10);
	remove_file (f, id, ".run");
	remove_file (f, id, ".result");
}

/* -- reading -------------------------------------------------------------------------- */

/* A record together with the memory behind it. */
struct reading {
	struct record task_record, result_record;
	struct silo_record record;
	struct silo_result result;
};

static void
reading_free (struct reading *reading)
{
	record_free (&reading->task_record);
	record_free (&reading->result_record);
}

static int
read_task (struct files *f, int64_t id, bool whole, struct reading *reading, struct silo_error *err)
{
	struct record *record = &reading->task_record;
	struct silo_task *task = &reading->record.task;
	json_int_t number, flags, timeout_ms, created;
	const char *hex;
	char name[NAME_SIZE];

	task_file (id, ".task", name);
	const struct place place = task_place (f, name, "task");
	int r = record_read (&place, task_parts, whole ? N_TASK_PARTS : 0, record, err);
	if (r < 0)
		return r == SILO_NOTFOUND ? no_task (id, err) : r;
	if (json_unpack (record->head, "{sI ss ss ss ss sI sI sI}", "id", &number, "name",
			 &task->name, "function", &hex, "image", &task->image, "python",
			 &task->python, "flags", &flags, "timeout_ms", &timeout_ms, "created",
			 &created) < 0 ||
	    silo_digest_parse (hex, &task->function, NULL) < 0)
		return place_damaged (&place, err, "has a head that lacks something");
	if (number != id)
		return place_damaged (&place, err, "holds a task of another id");
	task->id = id;
	task->flags = (uint32_t) flags;
	task->timeout_ms = timeout_ms;
	task->created = created;
	task->args = record->parts[0];
	task->kwargs = record->parts[1];
	task->source = whole ? record->parts[2].data : "";
	return 0;
}

/* 1: there is one; 0: none yet */
static int
read_result (struct files *f, int64_t id, bool whole, struct reading *reading,
	     struct silo_error *err)
{
	struct record *record = &reading->result_record;
	struct silo_task *task = &reading->record.task;
	struct silo_result *result = &reading->result;
	struct silo_error why = { 0 };
	json_int_t started, finished;
	int attempt, exit_code, truncated;
	const char *outcome;
	char name[NAME_SIZE];

	task_file (id, ".result", name);
	const struct place place = task_place (f, name, "result");
	int r = record_read (&place, result_parts, whole ? N_RESULT_PARTS : N_RESULT_LIST, record,
			     &why);
	if (r == SILO_NOTFOUND)
		return 0;
	if (r < 0) {
		if (err)
			*err = why;
		return r;
	}
	if (json_unpack (record->head, "{si sI sI ss si ss ss sb ss}", "attempt", &attempt,
			 "started", &started, "finished", &finished, "outcome", &outcome,
			 "exit_code", &exit_code, "type", &result->type, "message",
			 &result->message, "truncated", &truncated, "timeline",
			 &result->timeline) < 0)
		return place_damaged (&place, err, "has a head that lacks something");
	task->state = SILO_TASK_DONE;
	task->attempt = attempt;
	task->started = started;
	task->finished = finished;
	/* A name that only a later version knows. */
	int known = silo_outcome_parse (outcome);
	result->outcome = known < 0 ? SILO_OUTCOME_INTERNAL : known;
	result->exit_code = exit_code;
	result->truncated = truncated;
	result->traceback = record->parts[0].data;
	result->value = record->parts[1];
	result->exception = record->parts[2];
	result->out = record->parts[3];
	result->err = record->parts[4];
	reading->record.result = result;
	return 1;
}

/* `whole`: with everything that lists leave out. */
static int
read_all (struct files *f, int64_t id, bool whole, struct reading *reading, struct silo_error *err)
{
	struct silo_task *task = &reading->record.task;
	int r = read_task (f, id, whole, reading, err);

	/* In this order: when a run ends in between, its result is there. */
	if (r >= 0)
		r = read_run (f, id, &task->attempt, &task->started, err);
	if (r < 0)
		return r;
	task->state = r > 0 ? SILO_TASK_RUNNING : SILO_TASK_QUEUED;
	r = read_result (f, id, whole, reading, err);
	return r < 0 ? r : 0;
}

int
task_get (void *self, int64_t id, silo_record_fn *fn, void *arg, struct silo_error *err)
{
	struct files *f = self;
	SILO_CLEANUP (reading_free) struct reading reading = { 0 };
	int r = check_id (f, id, err);

	if (r >= 0)
		r = read_all (f, id, true, &reading, err);
	if (r < 0)
		return r;
	fn (arg, &reading.record);
	return 0;
}

/* -- lists ---------------------------------------------------------------------------- */

struct ids {
	int64_t *id;
	size_t n, room;
};

static void
ids_free (struct ids *ids)
{
	free (ids->id);
}

static int
ids_add (struct ids *ids, int64_t id, struct silo_error *err)
{
	if (ids->n == ids->room) {
		size_t room = ids->room ? 2 * ids->room : 64;
		int64_t *more = reallocarray (ids->id, room, sizeof (*more));
		if (!more)
			return silo_fail_nomem (err);
		ids->id = more;
		ids->room = room;
	}
	ids->id[ids->n++] = id;
	return 0;
}

/* The id in the name of a file of tasks/; 0 for any other name. */
static int64_t
parse_name (const char *name, const char *suffix)
{
	char again[NAME_SIZE];
	int64_t id = strtoll (name, NULL, 10);

	task_file (id, suffix, again);
	return id > 0 && strcmp (name, again) == 0 ? id : 0;
}

static int
newest_first (const void *a, const void *b)
{
	int64_t x = *(const int64_t *) a, y = *(const int64_t *) b;
	return x < y ? 1 : x > y ? -1 : 0;
}

/* All ids up to `highest` with a file of this suffix, newest first. */
static int
list_ids (struct files *f, const char *suffix, int64_t highest, struct ids *ret,
	  struct silo_error *err)
{
	int fd = openat (f->tasks, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir (fd);
	struct dirent *entry;
	int r = 0;

	if (!dir) {
		cleanup_close (&fd);
		return silo_fail_sys (err, errno, "%s/tasks", f->path);
	}
	while (r >= 0 && (entry = readdir (dir))) {
		int64_t id = parse_name (entry->d_name, suffix);
		if (id > 0 && id <= highest)
			r = ids_add (ret, id, err);
	}
	closedir (dir);
	if (r >= 0 && ret->n)
		qsort (ret->id, ret->n, sizeof (ret->id[0]), newest_first);
	return r;
}

/* Take the ids in `done` out of `ids`; both newest first. */
static void
ids_subtract (struct ids *ids, const struct ids *done)
{
	size_t kept = 0, d = 0;

	for (size_t i = 0; i < ids->n; i++) {
		while (d < done->n && done->id[d] > ids->id[i])
			d++;
		if (d == done->n || done->id[d] != ids->id[i])
			ids->id[kept++] = ids->id[i];
	}
	ids->n = kept;
}

static int
select_ids (struct files *f, const struct silo_task_query *query, struct ids *ret,
	    struct silo_error *err)
{
	SILO_CLEANUP (ids_free) struct ids done = { 0 };
	int64_t last;

	int r = last_read (f, &last, err);
	if (r < 0)
		return r;
	int64_t highest = query->before > 0 && query->before <= last ? query->before - 1 : last;
	r = list_ids (f, ".task", highest, ret, err);
	if (r >= 0 && query->unfinished) {
		r = list_ids (f, ".result", highest, &done, err);
		ids_subtract (ret, &done);
	}
	return r;
}

int
task_list (void *self, const struct silo_task_query *query, silo_record_fn *fn, void *arg,
	   struct silo_error *err)
{
	struct files *f = self;
	SILO_CLEANUP (ids_free) struct ids ids = { 0 };
	int64_t given = 0;
	int r = select_ids (f, query, &ids, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ids.n && (query->limit <= 0 || given < query->limit); i++) {
		SILO_CLEANUP (reading_free) struct reading reading = { 0 };
		struct silo_error why = { 0 };
		r = read_all (f, ids.id[i], false, &reading, &why);
		if (r == SILO_DATALOSS) {
			/* One bad file does not hide the others. */
			silo_log (f->host, SILO_WARN, "%s; left out of a list", why.msg);
			continue;
		}
		/* Dropped or finished since its name was read. */
		if (r == SILO_NOTFOUND || (r >= 0 && query->unfinished && reading.record.result))
			continue;
		if (r < 0) {
			if (err)
				*err = why;
			return r;
		}
		given++;
		if (fn (arg, &reading.record))
			return 0;
	}
	return 0;
}
