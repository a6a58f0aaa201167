/* SPDX-License-Identifier: Apache-2.0 */
/*
 * conform.h - what a conformance suite is given: one started instance of the
 * plugin under test, a core without silo.ini, a folder of its own.
 *
 * A suite is `int conform_<kind> (struct conform *c)` in <kind>.c: it makes
 * checks with tap.h and ends with `return tap_done ()`.  It knows the kind's
 * header and no plugin; what holds for one plugin only is a unit test.
 */
#ifndef CONFORM_H
#define CONFORM_H

#include "core.h"

struct conform {
	struct core *core;
	struct silo_instance *instance; /* under test: options filled in, started */
	const char *dir; /* an existing folder of this run; removed after it, also after a crash */
	const char *plugin;         /* as on the command line: a file or a name */
	const char *const *options; /* likewise: "key=value" texts */
	const char *role;           /* NULL: be the suite; else what conform_spawn was asked for */
};

typedef int conform_fn (struct conform *c);

/* One suite per kind. */
conform_fn conform_transport, conform_storage, conform_content, conform_image, conform_rootfs,
    conform_container;

/* A further instance, started: `options` are "key=value" texts, NULL-terminated; NULL: none.
 * Ends the program when that does not work. */
struct silo_instance *conform_add (struct conform *c, int kind, const char *plugin,
				   const char *const *options);
/* Stop and start every instance, as a restart of the daemon does; pointers stay valid. */
void conform_reload (struct conform *c);
/* Call the suite in another process, with c->role = role and an instance of its own on the same
 * state folder.  Its stdout comes through a pipe.  Ends the program when that does not work. */
void conform_spawn (struct conform *c, const char *role, struct silo_process *ret);
/* Make the folder c->dir/name; its absolute path is written to ret. */
void conform_mkdir (struct conform *c, const char *name, char *ret, size_t size);

#endif
