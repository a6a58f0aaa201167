/* SPDX-License-Identifier: Apache-2.0 */
/*
 * variant.c - content plugins that are older, newer or broken, one for each
 * value of VARIANT; abi.sh builds them against the headers of the first Silo
 * and looks at what today's says to them.
 */
#include <silo/silo.h>

#define FINE       0 /* as it should be */
#define SHORT      1 /* from before anything optional was there */
#define LONG       2 /* newer, but uses nothing new */
#define NEW_HEAD   3 /* newer, and uses something in each of the structures */
#define NEW_OPS    4
#define NEW_OPTION 5
#define OTHER_ABI  6
#define NO_READ    7
#define HALF_STAGE 8
#define OUTSIDE    9
#define UNALIGNED  10
#define NO_TYPE    11
#define NO_KIND    12
#define NO_NAME    13
#define FUNCTION   14
#define TINY       15
#define BOAST      16
#define ENDLESS    17
#define TWICE      18
#define NO_CHOICES 19
#define NO_OPS     20
#define GIANT      21
#define PLUGIN_KEY 22

#ifndef VARIANT
#define VARIANT FINE
#endif

struct instance {
	int64_t number;
};

/* Tomorrow's structures: the first ones, what today's Silo may have added since, and a field
 * more. */
#define SINCE 8
struct long_option {
	struct silo_option today;
	const void *since[SINCE];
	const void *tomorrow;
};
struct long_ops {
	struct silo_content_ops today;
	const void *since[SINCE];
	const void *tomorrow;
};
struct long_plugin {
	struct silo_plugin today;
	const void *since[SINCE];
	const void *tomorrow;
};

static int
stat_it (void *self, const struct silo_digest *digest, int64_t *ret_size, struct silo_error *err)
{
	(void) self;
	(void) digest;
	(void) ret_size;
	return silo_fail (err, SILO_NOTFOUND, "nothing is here");
}

static int
read_it (void *self, const struct silo_digest *digest, int64_t offset, void *to, size_t len,
	 size_t *ret_len, struct silo_error *err)
{
	(void) self;
	(void) digest;
	(void) offset;
	(void) to;
	(void) len;
	(void) ret_len;
	return silo_fail (err, SILO_NOTFOUND, "nothing is here");
}

static int
add_it (void *self, int fd, struct silo_digest *ret_digest, int64_t *ret_size,
	struct silo_error *err)
{
	(void) self;
	(void) fd;
	(void) ret_digest;
	(void) ret_size;
	return silo_fail (err, SILO_UNIMPLEMENTED, "nothing can be here");
}

static int
remove_it (void *self, const struct silo_digest *digest, struct silo_error *err)
{
	(void) self;
	(void) digest;
	return silo_fail (err, SILO_NOTFOUND, "nothing is here");
}

static int
each_it (void *self, silo_object_fn *fn, void *arg, struct silo_error *err)
{
	(void) self;
	(void) fn;
	(void) arg;
	(void) err;
	return 0;
}

static int
stage_it (void *self, int *ret_fd, void **ret_stage, struct silo_error *err)
{
	(void) self;
	(void) ret_fd;
	(void) ret_stage;
	return silo_fail (err, SILO_UNIMPLEMENTED, "no stage");
}

#if VARIANT == OUTSIDE
#define OFFSET sizeof (struct instance)
#elif VARIANT == UNALIGNED
#define OFFSET 4
#else
#define OFFSET offsetof (struct instance, number)
#endif

#if VARIANT == NO_TYPE
#define TYPE 99
#elif VARIANT == NO_CHOICES
#define TYPE SILO_CHOICE
#else
#define TYPE SILO_INT
#endif

#if VARIANT == PLUGIN_KEY
#define KEY "plugin"
#else
#define KEY "number"
#endif

#if VARIANT == NEW_OPTION
#define TOMORROW "x"
#else
#define TOMORROW NULL
#endif

#define ROW(name_)                                                                            \
	{                                                                                     \
		.name = name_, .type = TYPE, .offset = OFFSET, .def = "1", .help = "a number" \
	}

#if VARIANT == LONG || VARIANT == NEW_OPTION
static const struct long_option options[] = {
	{ .today = ROW (KEY), .tomorrow = TOMORROW },
	{ .today = { .name = NULL } },
};
#elif VARIANT == ENDLESS
static const struct silo_option options[1000] = { [0 ... 999] = ROW (KEY) };
#elif VARIANT == TWICE
static const struct silo_option options[] = { ROW (KEY), ROW (KEY), { .name = NULL } };
#elif VARIANT == SHORT
/* Rows that end after their default. */
static const struct {
	const char *name;
	enum silo_option_type type;
	uint32_t offset;
	const char *def;
} options[] = { { "number", SILO_INT, 0, "1" }, { NULL, SILO_INT, 0, NULL } };
#else
static const struct silo_option options[] = { ROW (KEY), { .name = NULL } };
#endif

static const struct long_ops ops = {
	.today = { .stat = stat_it,
#if VARIANT != NO_READ
		   .read = read_it,
#endif
#if VARIANT == HALF_STAGE
		   .stage = stage_it,
#endif
		   .add = add_it,
		   .remove = remove_it,
		   .each = each_it },
#if VARIANT == NEW_OPS
	.tomorrow = "x",
#endif
};

#define HEAD                                                                                    \
	{                                                                                       \
		.abi = VARIANT == OTHER_ABI ? 2 : 1,                                            \
		.size = VARIANT == SHORT      ? offsetof (struct silo_plugin, init)             \
			: VARIANT == LONG     ? sizeof (struct long_plugin)                     \
			: VARIANT == NEW_HEAD ? sizeof (struct long_plugin)                     \
			: VARIANT == BOAST    ? 4000                                            \
					      : sizeof (struct silo_plugin),                       \
		.ops_size = VARIANT == SHORT ? offsetof (struct silo_content_ops, open)         \
			    : VARIANT == LONG || VARIANT == NEW_OPS                             \
				? sizeof (struct long_ops)                                      \
				: sizeof (struct silo_content_ops),                             \
		.option_size = sizeof (options[0]),                                             \
		.kind = VARIANT == NO_KIND ? 77 : SILO_KIND_CONTENT,                            \
		.ops = VARIANT == NO_OPS ? NULL : &ops,                                         \
		.name = VARIANT == NO_NAME ? "No Name" : "variant", .version = "1",             \
		.summary = "an empty store", .options = (const void *) options,                 \
		.instance_size = VARIANT == GIANT ? (size_t) 1 << 40 : sizeof (struct instance) \
	}

#if VARIANT == FUNCTION
SILO_API int silo_plugin (void);
int
silo_plugin (void)
{
	return stage_it (NULL, NULL, NULL, NULL);
}
#elif VARIANT == TINY
SILO_API extern const uint32_t silo_plugin;
const uint32_t silo_plugin = 1;
#elif VARIANT == LONG || VARIANT == NEW_HEAD
SILO_API extern const struct long_plugin silo_plugin_long __asm__("silo_plugin");
const struct long_plugin silo_plugin_long = { .today = HEAD,
					      .tomorrow = VARIANT == NEW_HEAD ? "x" : NULL };
#else
extern const struct silo_plugin silo_plugin;
SILO_API const struct silo_plugin silo_plugin = HEAD;
#endif
