/* SPDX-License-Identifier: Apache-2.0 */
/*
 * silo/plugin.h - what a plugin exports, and its options.
 *
 * A plugin is one shared object with one visible symbol, made by SILO_PLUGIN:
 *
 *     struct mine {
 *             const char *path;
 *     };
 *     static const struct silo_option options[] = {
 *             { .name = "path", .type = SILO_PATH, .offset = offsetof (struct mine, path),
 *               .def = "objects", .help = "folder that holds the objects" },
 *             { .name = NULL },
 *     };
 *     static const struct silo_content_ops ops = { .stat = mine_stat, ... };
 *     SILO_PLUGIN (ops, .name = "mine", .version = "1.0",
 *                  .summary = "objects in a folder of mine", .flags = SILO_PARALLEL,
 *                  .options = options, .instance_size = sizeof (struct mine));
 *
 * Nothing of it runs before the core has checked abi, sizes and kind.  A
 * struct or table built for an older Silo is shorter and is padded with zeros;
 * a longer one whose unknown tail is not all zero is refused as "built for a
 * newer Silo".  Fields are only ever appended.
 *
 * Life of an instance (one section of silo.ini):
 *   memory is zeroed and the options are filled in
 *   -> init   cheap, no side effects outside the instance; `silo check` stops here
 *   -> start  open files, bind nothing that others can see yet (transports: bind)
 *   -> operations of the kind's table
 *   -> stop   end what start began; waits for its own threads
 *   -> destroy  free what init made
 * Each is optional.  After a failed init or start the core calls neither stop
 * nor operations; destroy is called if init succeeded.
 */
#ifndef SILO_PLUGIN_H
#define SILO_PLUGIN_H

#include <stddef.h>
#include <stdint.h>
#include <silo/error.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SILO_ABI 1 /* changes only when old plugins cannot be run any more */

enum silo_kind {
	SILO_KIND_TRANSPORT = 1,
	SILO_KIND_STORAGE = 2,
	SILO_KIND_CONTENT = 3,
	SILO_KIND_IMAGE = 4,
	SILO_KIND_ROOTFS = 5,
	SILO_KIND_CONTAINER = 6,
};

enum silo_plugin_flags {
	SILO_PARALLEL = 1u << 0, /* operations may run on several threads at once;
				  * without it the core serialises them per instance */
};

/* How an option is written in silo.ini and what the core puts at `offset`. */
enum silo_option_type {
	SILO_STRING = 1, /* const char *, UTF-8, never NULL */
	SILO_PATH = 2,   /* const char *, absolute: relative ones start at the state folder;
			    * "" stays "" */
	SILO_BOOL = 3,   /* bool: true false yes no on off 1 0 */
	SILO_INT = 4,    /* int64_t, within min..max */
	SILO_SIZE = 5,   /* int64_t bytes: 512, 64K, 8M, 1G, 2T (powers of 1024), within min..max */
	SILO_DURATION = 6, /* int64_t milliseconds: 500ms, 10s, 5m, 2h, 7d, within min..max */
	SILO_LIST = 7,     /* const char *const *, NULL-terminated, split at white space */
	SILO_CHOICE = 8,   /* int64_t: index into choices */
	SILO_SECRET = 9,   /* const char *: the text, or file:PATH (first line is taken), or
			    * env:NAME; never printed */
	SILO_USE = 10,     /* struct silo_instance *: the instance named, of `use_kind`; "" = NULL;
			    * started before this one and stopped after it */
};

struct silo_option {
	const char *name; /* NULL ends the table */
	enum silo_option_type type;
	uint32_t offset;     /* of the field in the instance */
	const char *def;     /* default as text; NULL: the key must be given */
	int64_t min, max;    /* INT, SIZE, DURATION; both 0: any value >= 0 */
	const char *choices; /* CHOICE: "tmpfs disk none" */
	int use_kind;        /* USE: enum silo_kind */
	const char *help;    /* one line, what and in which unit */
};

struct silo_host;
struct silo_instance;

struct silo_plugin {
	uint32_t abi;         /* SILO_ABI */
	uint32_t size;        /* sizeof (struct silo_plugin) */
	uint32_t ops_size;    /* sizeof of the kind's table */
	uint32_t option_size; /* sizeof (struct silo_option) */
	uint32_t kind;        /* enum silo_kind */
	uint32_t flags;       /* enum silo_plugin_flags */
	const void *ops;      /* the kind's table */
	const char *name;     /* as in silo.ini: "sqlite" */
	const char *version;
	const char *summary; /* one line */
	const struct silo_option *options;
	size_t instance_size;
	/* `host` stays valid until destroy returns. */
	int (*init) (void *self, struct silo_host *host, struct silo_error *err);
	int (*start) (void *self, struct silo_error *err);
	void (*stop) (void *self);
	void (*destroy) (void *self);
	uint32_t records; /* SILO_RECORDS */
};

/* Records that a storage plugin hands to the core grow like everything else; this says how far
 * those of a plugin have.  0: as they were at first; 1: silo_image has `layers`. */
#define SILO_RECORDS 1

/* Tables of the kinds, so that _Generic can tell them apart. */
struct silo_transport_ops;
struct silo_storage_ops;
struct silo_content_ops;
struct silo_image_ops;
struct silo_rootfs_ops;
struct silo_container_ops;

#define SILO_KIND_OF(table) \
	_Generic (&(table), const struct silo_transport_ops *                                      \
		  : SILO_KIND_TRANSPORT, const struct silo_storage_ops *                           \
		  : SILO_KIND_STORAGE, const struct silo_content_ops *                             \
		  : SILO_KIND_CONTENT, const struct silo_image_ops *                               \
		  : SILO_KIND_IMAGE, const struct silo_rootfs_ops *                                \
		  : SILO_KIND_ROOTFS, const struct silo_container_ops *                            \
		  : SILO_KIND_CONTAINER)

/* Define the one symbol.  `table` is a static const table of the kind. */
#define SILO_PLUGIN(table, ...)                                                                \
	extern const struct silo_plugin silo_plugin;                                           \
	SILO_API const struct silo_plugin silo_plugin = { .abi = SILO_ABI,                     \
							  .size = sizeof (struct silo_plugin), \
							  .ops_size = sizeof (table),          \
							  .option_size =                       \
							      sizeof (struct silo_option),     \
							  .kind = SILO_KIND_OF (table),        \
							  .ops = &(table),                     \
							  .records = SILO_RECORDS,             \
							  __VA_ARGS__ }

/* "transport", "storage" ...; NULL for an unknown kind. */
SILO_API const char *silo_kind_name (int kind);

#ifdef __cplusplus
}
#endif
#endif
