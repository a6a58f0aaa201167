/* SPDX-License-Identifier: Apache-2.0 */
/*
 * storage.h - what the files of the storage suite share: checks of an
 * operation's result, sample records, and listing and emptying the store.
 */
#ifndef CONFORM_STORAGE_H
#define CONFORM_STORAGE_H

#include "core.h"
#include "conform.h"

/* Every error object starts as this: success must leave it so. */
extern const struct silo_error storage_untouched;

bool storage_ok (int r, const struct silo_error *err, const char *what);
bool storage_fails (int r, const struct silo_error *err, int code, const char *what);

struct silo_task storage_task (const char *name);
struct silo_result storage_result (void);
/* Add a copy of the task; its id, 0 on failure. */
int64_t storage_add (struct conform *c, const struct silo_task *task);

/* The first ids of a list, and how many there were. */
#define STORAGE_IDS 64
struct storage_ids {
	int64_t id[STORAGE_IDS];
	size_t n;
	size_t stop_after; /* 0: never */
};
int storage_on_id (void *arg, const struct silo_record *record);
void storage_list (struct conform *c, struct silo_task_query query, struct storage_ids *ret);

struct storage_seen {
	bool there;
	int32_t state, attempt;
	int32_t outcome, exit_code; /* -1: no result */
};
void storage_see (struct conform *c, int64_t id, struct storage_seen *ret);

/* Drop all tasks. */
void storage_empty (struct conform *c);

void storage_test_names (struct conform *c);
void storage_test_threads (struct conform *c);
void storage_test_processes (struct conform *c);
/* The work of another process that storage_test_processes has started. */
int storage_child (struct conform *c);

#endif
