/* SPDX-License-Identifier: Apache-2.0 */
/*
 * names.c - functions as storage keeps them: code by digest (thing "code") and
 * what was last sent under a name (thing "function").  A small cache of what is
 * stored already saves the writes of every call but the first.  Pool threads.
 */
#include "engine.h"

#define NAMES_SLOTS 1024

struct names {
	pthread_mutex_t lock;                   /* protects both tables */
	struct silo_digest code[NAMES_SLOTS];   /* digests of code that is stored */
	struct silo_digest record[NAMES_SLOTS]; /* digests of function records that are */
};

int
names_new (struct names **ret, struct silo_error *err)
{
	struct names *names = calloc (1, sizeof (*names));
	if (!names)
		return silo_fail_nomem (err);
	pthread_mutex_init (&names->lock, NULL);
	*ret = names;
	return 0;
}

void
names_free (struct names *names)
{
	if (!names)
		return;
	pthread_mutex_destroy (&names->lock);
	free (names);
}

static size_t
slot_of (const void *data, size_t len)
{
	uint32_t hash = 2166136261u; /* FNV-1a */

	for (size_t i = 0; i < len; i++)
		hash = (hash ^ ((const uint8_t *) data)[i]) * 16777619u;
	return hash % NAMES_SLOTS;
}

static bool
known (struct names *names, struct silo_digest *slot, const struct silo_digest *digest)
{
	scope_lock (&names->lock);
	return silo_digest_equal (slot, digest);
}

static void
remember (struct names *names, struct silo_digest *slot, const struct silo_digest *digest)
{
	scope_lock (&names->lock);
	*slot = *digest;
}

static int
ignore_thing (void *arg SILO_UNUSED, const struct silo_thing *thing SILO_UNUSED)
{
	return 0;
}

static int
store_code (struct core *core, struct names *names, const struct silo_digest *digest,
	    struct silo_bytes code, struct silo_error *err)
{
	struct silo_digest *slot = &names->code[slot_of (digest->b, sizeof (digest->b))];
	char hex[SILO_DIGEST_HEX + 1];
	struct silo_error why;
	int r;

	if (known (names, slot, digest))
		return 0;
	silo_digest_hex (digest, hex);
	r = instance_call (core->wiring.storage, storage, thing_get, "code", hex, ignore_thing,
			   NULL, &why);
	if (r == SILO_NOTFOUND && !code.len)
		return silo_fail (err, r, "no function %.16s... is stored: send its code", hex);
	if (r == SILO_NOTFOUND)
		r = instance_call (core->wiring.storage, storage, thing_put,
				   &(struct silo_thing){ "code", hex, code, silo_now () }, err);
	else if (r < 0)
		return silo_fail (err, r, "%s", why.msg);
	if (r == 0)
		remember (names, slot, digest);
	return r;
}

static int
store_record (struct core *core, struct names *names, const struct silo_task *task,
	      struct silo_error *err)
{
	struct silo_digest *slot = &names->record[slot_of (task->name, strlen (task->name))];
	char hex[SILO_DIGEST_HEX + 1];
	struct silo_digest digest;

	silo_digest_hex (&task->function, hex);
	_cleanup_json_ json_t *record =
	    json_pack ("{s:s, s:s, s:s, s:s, s:s, s:I}", "name", task->name, "code", hex, "image",
		       task->image, "python", task->python, "source", task->source, "timeout_ms",
		       (json_int_t) task->timeout_ms);
	if (!record)
		return silo_fail (err, SILO_INVALID,
				  "function %.100s: its name, image, Python "
				  "version and source must be UTF-8",
				  task->name);
	_cleanup_free_ char *text = json_dumps (record, JSON_COMPACT);
	if (!text)
		return silo_fail_nomem (err);

	int r = silo_digest_of (text, strlen (text), &digest, err);
	if (r < 0 || known (names, slot, &digest))
		return r;
	r = instance_call (
	    core->wiring.storage, storage, thing_put,
	    &(struct silo_thing){ "function", task->name, { text, strlen (text) }, silo_now () },
	    err);
	if (r == 0)
		remember (names, slot, &digest);
	return r;
}

int
names_store (struct core *core, struct names *names, const struct silo_task *task,
	     struct silo_bytes code, struct silo_error *err)
{
	int r = store_code (core, names, &task->function, code, err);
	if (r == 0 && task->name[0] && !(task->flags & SILO_TASK_EXTERNAL))
		r = store_record (core, names, task, err);
	return r;
}

struct names_reader {
	silo_function_reply_fn *fn;
	void *arg;
};

static int
read_record (void *arg, const struct silo_thing *thing)
{
	struct names_reader *reader = arg;
	struct silo_function function = { .name = thing->name };
	struct silo_error err;
	const char *code = NULL;
	json_error_t where;
	json_int_t timeout = 0;

	_cleanup_json_ json_t *record = json_loadb (thing->value.data, thing->value.len, 0, &where);
	if (!record ||
	    json_unpack (record, "{s:s, s:s, s:s, s:s, s:I}", "code", &code, "image",
			 &function.image, "python", &function.python, "source", &function.source,
			 "timeout_ms", &timeout) < 0 ||
	    silo_digest_parse (code, &function.digest, &err) < 0) {
		silo_fail (&err, SILO_DATALOSS, "the stored record of function %.100s is damaged",
			   thing->name);
		reader->fn (reader->arg, NULL, &err);
		return 0;
	}
	function.timeout_ms = timeout;
	reader->fn (reader->arg, &function, NULL);
	return 0;
}

int
names_read (struct core *core, const char *name, silo_function_reply_fn *fn, void *arg,
	    struct silo_error *err)
{
	struct names_reader reader = { fn, arg };

	int r = instance_call (core->wiring.storage, storage, thing_get, "function", name,
			       read_record, &reader, err);
	if (r == SILO_NOTFOUND)
		return silo_fail (err, r, "no function was ever sent under the name %.100s", name);
	return r;
}
