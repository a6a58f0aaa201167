/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core.h - the map of the core, in reading order.  Everything here is internal
 * to libsilo; plugins see only <silo/...>.
 *
 * Threads: one loop thread owns struct core and everything below it, without
 * locks.  Operations of plugins run on pool threads and may block.  What is
 * marked [loop] is called on the loop thread only, [pool] may block, [any]
 * may be called from anywhere.  The verbs that work without a daemon (index,
 * images, mount ...) have no loop: they call [pool] functions from main.
 */
#ifndef CORE_H
#define CORE_H

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <jansson.h>
#include <silo/silo.h>

/* -- util.h: cleanup attributes, small helpers --------------------------- */
#include "util.h"
/* -- fault.h: places where tests let things fail --------------------------- */
#include "fault.h"

struct core;

/* -- log.c, host.c: what every plugin instance is given ------------------ */

/* One per instance, and one for each part of the core itself. */
struct silo_host {
	struct core *core;
	const char *name; /* "container.crun", "core" */
	enum silo_level level;
};

struct config;
struct settings;
/* The level of a component, from [silo] log. */
enum silo_level log_level_for (const struct settings *settings, const char *name);
/* Is every word of [silo] log a level or COMPONENT=LEVEL? */
int log_check (const struct config *config, const struct settings *settings,
	       struct silo_error *err);

/* -- config.c: silo.ini, parsed but not yet understood [any] ------------- */

struct config_key {
	char *name;
	char *value;
	int line;
	bool used; /* somebody has looked at it; the others are unknown keys */
};

struct config_section {
	char *name; /* "silo" or "kind.instance" */
	int line;
	struct config_key *keys;
	size_t n_keys;
};

struct config {
	char *path; /* for messages */
	struct config_section *sections;
	size_t n_sections;
};

/* The file to use when --config is not given: $SILO_CONFIG, else the installed one. */
const char *config_default_path (void);
int config_load (const char *path, struct config **ret, struct silo_error *err);
/* The same from memory; `path` is for messages. */
int config_parse (const char *path, const char *text, struct config **ret, struct silo_error *err);
void config_free (struct config *config);
const struct config_section *config_find (const struct config *config, const char *name);
/* SILO_INVALID with "<path>:<line>: " in front. */
int config_fail (const struct config *config, int line, struct silo_error *err, const char *fmt,
		 ...) SILO_PRINTF (4, 5);

/* -- option.c: option tables [any] --------------------------------------- */

struct option_scope {
	const struct config *config;
	const char *state; /* folder that relative PATHs start at */
	/* resolve a USE option to an instance; NULL: USE options are not allowed here */
	int (*use) (void *arg, int kind, const char *name, int line, struct silo_instance **ret,
		    struct silo_error *err);
	void *arg;
};

/* Fill every option of `table` (rows `row_size` bytes apart) in `self` from the keys of
 * `section` (NULL: defaults only).  Errors name file, line, what is valid, and the nearest
 * valid key.  options_free frees what was filled in. */
int options_fill (const struct option_scope *scope, const char *section_name,
		  const struct config_section *section, const struct silo_option *table,
		  size_t row_size, void *self, struct silo_error *err);
void options_free (const struct silo_option *table, size_t row_size, void *self);
/* The i-th row, padded with zeros to today's size; false after the last. */
bool options_row (const struct silo_option *table, size_t row_size, size_t i,
		  struct silo_option *ret);
/* Bytes that an option of this type fills in an instance; 0: no such type. */
size_t option_size (enum silo_option_type type);
/* The word that was probably meant by `word`, or NULL. */
const char *word_nearest (const char *word, const char *const *words, size_t n);

/* -- settings.c: the [silo] section --------------------------------------- */

struct settings {
	const char *state;
	const char *const *transport;
	const char *storage;
	const char *content;
	const char *const *image;
	const char *const *rootfs;
	const char *const *container;
	const char *const *log;
	const char *runner;       /* folder with runner.py and cloudpickle, bound into containers */
	int64_t max_workers;      /* 0: twice the processors, at least 4 */
	int64_t max_queue;        /* tasks that wait or run before new ones are refused */
	int64_t scaledown_window; /* ms a worker stays after its last task */
	int64_t timeout;          /* ms per attempt when the caller says nothing */
	int64_t startup_timeout;  /* ms from container start to the runner's first request */
	int64_t kill_grace;       /* ms between TERM and KILL */
	int64_t drain;            /* ms that tasks may still run after SIGTERM */
	int64_t output_limit;     /* bytes of each output stream kept with a task */
	int64_t memory;           /* bytes per container */
	int64_t cpu;              /* thousandths of a processor per container; 0: no limit */
	int64_t pids;             /* processes per container */
	int64_t upper_size;       /* bytes a container may write to its root */
	int64_t max_image_size;   /* bytes of all files of an image, layer by layer */
	int64_t max_image_entries; /* entries of all layers of an image */
	int64_t max_image_layers;
	int64_t max_image_names; /* bytes of paths, links and attributes of all entries */
};

extern const struct silo_option settings_table[];

/* Read [silo]; the state folder is not created. */
int settings_load (const struct config *config, struct settings **ret, struct silo_error *err);
void settings_free (struct settings *settings);

/* -- plugin.c: shared objects [any] ---------------------------------------- */

/* A loaded and checked plugin; lives as long as the process. */
struct plugin {
	struct silo_plugin head; /* padded to today's size */
	void *ops;               /* the kind's table, padded likewise */
	char *path;
};

/* Load "<kind>-<name>.so" from $SILO_PLUGIN_PATH (folders, colon-separated) or the installed
 * folder, or `name` itself when it holds a slash.  Errors say where was looked, or why the
 * file is no plugin of this kind. */
int plugin_load (int kind, const char *name, struct plugin **ret, struct silo_error *err);
void plugin_free (struct plugin *plugin); /* the shared object itself stays */
/* SILO_KIND_...; 0 for a name that is none. */
int kind_parse (const char *name, size_t len);
/* The folders that are searched, colon-separated. */
const char *plugin_folders (void);
/* Every plugin of this kind (0: of all kinds) that can be loaded, and why others cannot:
 * fn gets either a plugin, which it may keep and then frees, or an error. */
typedef int plugin_fn (void *arg, const char *path, struct plugin *plugin,
		       const struct silo_error *why);
int plugin_each (int kind, plugin_fn *fn, void *arg, struct silo_error *err);

/* -- instance.c: instances, wiring graph, start order ---------------------- */

#define INSTANCE_MAGIC 0x51a51157u

struct silo_instance {
	uint32_t magic;
	char *name; /* "crun", from [container.crun] */
	int kind;
	int line; /* of its section; 0: no section, defaults only */
	struct plugin *plugin;
	void *self;
	struct silo_host host;
	pthread_mutex_t lock; /* held during operations unless the plugin is SILO_PARALLEL */
	struct silo_instance **uses;
	size_t n_uses;
	enum { INSTANCE_NEW, INSTANCE_INIT, INSTANCE_STARTED } state;
};

/* Call operation `op` of an instance's table: instance_call (i, storage, task_get, id, ...). */
#define instance_ops(instance, type) ((const struct silo_##type##_ops *) (instance)->plugin->ops)
#define instance_call(instance, type, op, ...)                                  \
	({                                                                      \
		struct silo_instance *i_ = (instance);                          \
		instance_enter (i_);                                            \
		int r_ = instance_ops (i_, type)->op (i_->self, ##__VA_ARGS__); \
		instance_leave (i_);                                            \
		r_;                                                             \
	})
void instance_enter (struct silo_instance *instance);
void instance_leave (struct silo_instance *instance);
/* End what start began, once; one that is not started is left alone. */
void instance_stop (struct silo_instance *instance);

struct instance_list {
	struct silo_instance **item;
	size_t n;
};

#define WIRE(kind) (1u << (kind))
#define WIRE_ALL   (~0u)
/* What index, images, rm, mount need: everything but transports and containers. */
#define WIRE_OFFLINE (WIRE_ALL & ~WIRE (SILO_KIND_TRANSPORT) & ~WIRE (SILO_KIND_CONTAINER))

struct wiring {
	struct instance_list all; /* in start order: what is used comes before its users */
	struct instance_list transport, image, rootfs, container;
	struct silo_instance *storage, *content;
};

/* Load and init (not start) the instances that [silo] names, of the given kinds, and those
 * that they use.  Every section of silo.ini is checked, also of the kinds left out: an
 * unknown key anywhere is an error. */
int wiring_load (struct core *core, unsigned kinds, struct silo_error *err);
int wiring_start (struct core *core, struct silo_error *err);
void wiring_stop (struct core *core); /* in reverse; safe at any stage */
void wiring_free (struct core *core);
/* A single instance outside silo.ini, for `silo plugins test`: options are "key=value" texts. */
int wiring_add (struct core *core, int kind, const char *plugin, const char *const *options,
		struct silo_instance **ret, struct silo_error *err);

/* -- content.c: what image imports need beyond <silo/content.h> [any] ----------- */

/* Put the bytes of all parts, whose digest the caller has computed, into the store unless they
 * are there. */
int content_put (struct silo_instance *content, const struct silo_digest *digest,
		 const struct silo_bytes *parts, size_t n_parts, bool *ret_new,
		 struct silo_error *err);
/* silo_writer_commit that says whether the store lacked the object. */
int content_commit (struct silo_writer *writer, struct silo_digest *ret_digest, int64_t *ret_size,
		    bool *ret_new, struct silo_error *err);

/* -- probe.c: first rootfs and container instance that works here [pool] ---- */

/* Both remember their answer in core->rootfs and core->container. */
int probe_rootfs (struct core *core, struct silo_instance **ret, struct silo_error *err);
int probe_container (struct core *core, struct silo_instance **ret, struct silo_error *err);

/* -- tree.c, import.c, meta-write.c, meta-read.c: images [pool] -------------- */

/* An owned copy of an image record, one block: free () it. */
struct image_copy {
	struct silo_image image;
	char mem[]; /* the strings */
};
int image_copy (const struct silo_image *image, struct image_copy **ret, struct silo_error *err);

/* How far one layer is; for display. */
struct import_layer {
	const char *name;
	enum { LAYER_WAITS, LAYER_RUNS, LAYER_KNOWN, LAYER_DONE } state;
	int64_t fetched, size; /* bytes of the blob; size -1: unknown */
	int64_t hashed;        /* bytes of files hashed */
	int64_t stored;        /* of them, bytes that were new to the content store */
};

struct import_status {
	const char *stage;   /* "fetching", "layers", "merging layers", "writing to disk" */
	int64_t done, total; /* bytes, of stages that are not about layers; total 0: unknown */
	const struct import_layer *layers;
	size_t n;
};

struct import_progress {
	/* Called by one thread at a time, often; `status` is valid during the call. */
	void (*fn) (void *arg, const struct import_status *status);
	void *arg;
	const volatile int *cancelled; /* NULL: never */
	int cancel_fd;                 /* readable once *cancelled is set; -1: never */
};

/* How an image is to be indexed. */
struct index_request {
	const struct silo_image_source *source;
	const char *name; /* NULL: made from the reference, see image_default_name */
	/* Import even if the image is known: the objects that are there are checked to be
	 * there, layers with missing ones are fetched again. */
	bool again;
	const struct import_progress *progress;
};

/* silo index: ask the image instances in order, import, write the metadata file below
 * STATE/images/, store the record.  Nothing is changed when it fails.  *ret is the stored
 * record; *ret_known: the same contents were known already. */
int image_index (struct core *core, const struct index_request *request, struct image_copy **ret,
		 bool *ret_known, struct silo_error *err);
/* Bring back what an image has lost: import its very contents again, even if the reference
 * points elsewhere by now.  The record stays as it is; SILO_PRECONDITION when the source has
 * other contents today. */
int image_refetch (struct core *core, const struct silo_image *image,
		   const struct silo_image_source *source, const struct import_progress *progress,
		   struct silo_error *err);
/* "docker://host:5000/a/python:3.11" -> "a/python:3.11", "python" -> "python:latest",
 * "dir:/x/tree" -> "tree:latest"; malloc'ed. */
int image_default_name (const char *reference, char **ret, struct silo_error *err);
/* "oci:layout:tag" -> "oci:/current/folder/layout:tag", what is no relative path as it is;
 * malloc'ed. */
int image_reference_here (const char *reference, char **ret, struct silo_error *err);
int image_find (struct core *core, const char *name, struct image_copy **ret,
		struct silo_error *err);
/* Remove the record, and then all that no other image and no mount needs. */
int image_remove (struct core *core, const char *name, struct silo_error *err);
/* Absolute path of the metadata file of an image. */
int image_meta_path (struct core *core, const struct silo_image *image, char *ret, size_t size,
		     struct silo_error *err);

/* -- loop.c: epoll, timers, posts -------------------------------------------- */

struct loop;
typedef void loop_fn (void *arg);
typedef void loop_io_fn (void *arg, uint32_t events);

struct loop_timer {
	int64_t due; /* silo_monotonic () */
	loop_fn *fn;
	void *arg;
	size_t slot; /* in the heap, from 1; 0: not armed */
};

/* A watched descriptor, embedded in its owner. */
struct loop_io {
	int fd; /* -1: not watched */
	loop_io_fn *fn;
	void *arg;
};

int loop_new (struct loop **ret, struct silo_error *err);
void loop_free (struct loop *loop);
int loop_run (struct loop *loop, struct silo_error *err); /* until loop_quit */
void loop_quit (struct loop *loop);                       /* [loop] */
bool loop_here (struct loop *loop);                       /* [any] on the loop thread? */
/* [any] Run fn (arg) on the loop, in order of posting.  `post` is owned by the caller until
 * fn runs; embedding it in what is posted means that posting cannot fail. */
struct loop_post {
	struct loop_post *next;
	loop_fn *fn;
	void *arg;
};
void loop_post (struct loop *loop, struct loop_post *post, loop_fn *fn, void *arg);
int loop_watch (struct loop *loop, struct loop_io *io, int fd, uint32_t events, loop_io_fn *fn,
		void *arg, struct silo_error *err);
void loop_rewatch (struct loop *loop, struct loop_io *io, uint32_t events);
void loop_unwatch (struct loop *loop, struct loop_io *io);
/* Room for n more timers, taken when their owner is made, so that arming cannot fail. */
int loop_reserve (struct loop *loop, size_t n, struct silo_error *err);
void loop_unreserve (struct loop *loop, size_t n);
void loop_arm (struct loop *loop, struct loop_timer *timer, int64_t due, loop_fn *fn, void *arg);
void loop_disarm (struct loop *loop, struct loop_timer *timer);

/* -- pool.c: threads that run blocking operations ------------------------------ */

struct pool;

/* work (arg) runs on a pool thread, then done (arg) on the loop.  Owned by the caller until
 * done runs. */
struct pool_job {
	struct pool_job *next;
	struct loop_post post;
	loop_fn *work;
	loop_fn *done;
	void *arg;
};

int pool_new (struct loop *loop, int max_threads, struct pool **ret, struct silo_error *err);
/* Wait for all jobs (their done functions do not run any more) and end the threads. */
void pool_free (struct pool *pool);
void pool_run (struct pool *pool, struct pool_job *job, loop_fn *work, loop_fn *done, void *arg);

/* -- core.c: everything together ------------------------------------------------- */

struct core {
	struct config *config;
	struct settings *settings;
	struct silo_host host; /* the core's own, "core" */
	struct wiring wiring;
	struct silo_instance *rootfs, *container; /* chosen by probe.c */

	/* the daemon only */
	struct loop *loop;
	struct pool *pool;
	struct engine *engine; /* calls and workers */
	struct control *control;
	int lock_fd;
	char *bridge; /* path of the socket that a transport has offered */
};

enum core_flags {
	CORE_CREATE = 1,   /* make the state folder when it is not there */
	CORE_NO_STATE = 2, /* do not look at the state folder at all: `silo check` */
};

/* Read the configuration and load, init and start the instances of `kinds`. */
int core_open (const char *config_path, unsigned kinds, unsigned flags, struct core **ret,
	       struct silo_error *err);
void core_close (struct core *core);
/* Only configuration and state folder; the caller wires. */
int core_new (const char *config_path, unsigned flags, struct core **ret, struct silo_error *err);
/* For tests and `silo plugins test`: no silo.ini, this state folder. */
int core_bare (const char *state, struct core **ret, struct silo_error *err);

/* -- record.c: owned copies of tasks and results, one block each: free () them -- */

int task_copy (const struct silo_task *task, struct silo_task **ret, struct silo_error *err);
int result_copy (const struct silo_result *result, struct silo_result **ret,
		 struct silo_error *err);

/* -- files.c: folders below the state folder [pool] ------------------------------ */

/* Make a folder, 0700, and the missing ones above it. */
int files_mkdir (const char *path, struct silo_error *err);
/* Remove a tree.  Never follows links, never enters another file system. */
int files_remove (const char *path, struct silo_error *err);
/* The SHA-256 of all bytes behind fd; its position is left alone. */
int files_digest (int fd, struct silo_digest *ret, struct silo_error *err);

/* -- run-as.c: what an image's config says of how to run in it [pool] -------------- */

/* Borrowed strings point into `config`. */
struct run_as {
	json_t *config;
	const char **env; /* NULL-terminated, `room` free slots behind */
	size_t n_env;
	const char *cwd;
	uint32_t uid, gid;
};
int run_as_read (struct core *core, const struct silo_image *image, size_t room, struct run_as *ret,
		 struct silo_error *err);
void run_as_free (struct run_as *run_as);

/* -- engine.h, call.c, worker.c, bridge.c: tasks (the daemon only) --------------- */
/* -- cgroup.c, children.c: tools for container plugins, in silo/container.h ---------- */
/* -- namespace.c: a mount namespace of the daemon's own ---------------------------- */

/* Before any thread exists. */
int namespace_enter (struct silo_error *err);

/* -- control.c: STATE/silo.sock, the daemon's side [loop] ------------------------- */

/* One JSON object per line each way: {"op": ...} -> {"ok": true, ...} or
 * {"ok": false, "code": "NOT_FOUND", "message": ...}.  docs/formats/control.md */
struct control;
int control_open (struct core *core, struct control **ret, struct silo_error *err);
/* The daemon is ready: give the socket its name, answer. */
int control_ready (struct control *control, struct silo_error *err);
void control_close (struct control *control);

/* -- client.c: STATE/silo.sock, the verbs' side ------------------------------------- */

/* Ask the daemon of this state folder; SILO_UNAVAILABLE when none runs. */
int client_ask (const char *state, const json_t *request, json_t **ret, struct silo_error *err);
/* Return when a daemon is ready there; SILO_TIMEOUT after `ms`. */
int client_wait (const char *state, int64_t ms, struct silo_error *err);

/* -- serve.c: the daemon ---------------------------------------------------------------- */

int serve_main (struct core *core);

/* -- cli.c and cmd-*.c: the verbs --------------------------------------------------- */

/* What a verb is given: its own arguments (argv[0] is the verb) and the global options. */
struct cli {
	const char *config; /* --config, or the default */
	int argc;
	char **argv;
};

typedef int cli_fn (struct cli *cli); /* returns the exit status */

cli_fn cmd_serve, cmd_index, cmd_images, cmd_rm, cmd_gc, cmd_du, cmd_fsck, cmd_mount, cmd_umount,
    cmd_plugins, cmd_check, cmd_doctor, cmd_ps, cmd_logs, cmd_cancel, cmd_status;

/* Print "silo: <message>" on stderr and return the exit status for it: 2 for errors of usage
 * and configuration (SILO_INVALID), else 1. */
int cli_fail (const struct silo_error *err);
/* SILO_INVALID when something is left behind the options that getopt has read. */
int cli_no_arguments (struct cli *cli, struct silo_error *err);
/* Read configuration and [silo] only, for verbs that ask the daemon. */
int cli_settings (struct cli *cli, struct config **ret_config, struct settings **ret,
		  struct silo_error *err);
/* Print an indented JSON document on stdout; takes the reference. */
int cli_json (json_t *json);
/* The program: everything behind main (). */
SILO_API int silo_main (int argc, char **argv);

#endif
