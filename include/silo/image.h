/* SPDX-License-Identifier: Apache-2.0 */
/*
 * silo/image.h - the image kind: turns a reference into tree entries and their
 * bytes.  A plugin fetches and unpacks; the core hashes, stores, merges the
 * layers and writes the metadata file.  Nothing of an image is ever run.
 */
#ifndef SILO_IMAGE_H
#define SILO_IMAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <silo/bytes.h>
#include <silo/plugin.h>

#ifdef __cplusplus
extern "C" {
#endif

struct silo_image_source {
	const char *reference; /* as the user wrote it */
	bool tls_verify;       /* false: plain HTTP or unknown certificates are fine */
	const char *platform;  /* "linux/amd64"; "": this machine's */
	/* import: what `identify` has said of it, and so what is to be imported even if the
	 * reference points elsewhere by now; "" when it said nothing */
	const char *id;
	int cancel_fd; /* becomes readable when the user gives up; -1: never */
};

enum silo_entry_type {
	SILO_ENTRY_FILE = 1,
	SILO_ENTRY_DIR = 2,
	SILO_ENTRY_SYMLINK = 3,
	SILO_ENTRY_HARDLINK = 4, /* `target` is the path of an earlier entry of the same tree */
	SILO_ENTRY_CHAR = 5,
	SILO_ENTRY_BLOCK = 6,
	SILO_ENTRY_FIFO = 7,
	SILO_ENTRY_WHITEOUT = 8, /* remove `path` of the layers below */
	SILO_ENTRY_OPAQUE = 9,   /* hide all that the layers below have in folder `path` */
};

struct silo_xattr {
	const char *name; /* full name: "user.x" */
	struct silo_bytes value;
};

/* One entry.  Paths are bytes as the archive has them: relative, "/" between
 * parts; the core drops a leading "./" or "/" and refuses "..", NUL and what
 * is too long.  The root folder itself is ".". */
struct silo_entry {
	enum silo_entry_type type;
	const char *path;
	const char *target; /* SYMLINK, HARDLINK */
	uint32_t mode;      /* permission bits, 07777 */
	uint32_t uid, gid;
	int64_t mtime; /* seconds, may be negative */
	uint32_t mtime_nsec;
	uint32_t rdev_major, rdev_minor;
	int64_t size; /* FILE: bytes that silo_layer_data will deliver, exactly */
	const struct silo_xattr *xattrs;
	size_t n_xattrs;
};

struct silo_import; /* one import, given to the plugin's `import` */
struct silo_layer;  /* one layer of it */

/* The OCI image config's "config" object as JSON (Env, WorkingDir, User, Labels ...). */
SILO_API int silo_import_config (struct silo_import *import, const char *json, size_t len,
				 struct silo_error *err);
/* The next layer, from the lowest up; `name` is for messages and progress.
 * Layers may then be filled from several threads at once, one thread each. */
SILO_API int silo_import_layer (struct silo_import *import, const char *name,
				struct silo_layer **ret, struct silo_error *err);
/* The same for a layer whose bytes have an immutable name: `blob` is the SHA-256 of what is
 * fetched, which the plugin verifies before silo_layer_end; `size` is that of the blob, -1 if
 * unknown.  A layer that is known by it need not be fetched: ask silo_layer_begin. */
SILO_API int silo_import_layer_blob (struct silo_import *import, const char *name,
				     const struct silo_digest *blob, int64_t size,
				     struct silo_layer **ret, struct silo_error *err);
/* Called by the thread that is going to fill the layer, right before it fetches anything.
 * *ret_known: the layer is complete already, nothing is to be delivered, not even its end.
 * Waits while another process imports the same blob, unless the user gives up or `stop_fd`
 * (-1: none) becomes readable: SILO_CANCELLED.  Optional for silo_import_layer. */
SILO_API int silo_layer_begin (struct silo_layer *layer, int stop_fd, bool *ret_known,
			       struct silo_error *err);
/* For people who wait: so many bytes of the blob have arrived since the last call. */
SILO_API void silo_layer_fetched (struct silo_layer *layer, int64_t bytes);
/* The entry is checked and copied before this returns.  Bytes of files are stored by other
 * threads of the core: an error of theirs comes with a later call, at the latest with
 * silo_layer_end. */
SILO_API int silo_layer_entry (struct silo_layer *layer, const struct silo_entry *entry,
			       struct silo_error *err);
/* Bytes of the FILE entry just given. */
SILO_API int silo_layer_data (struct silo_layer *layer, const void *data, size_t len,
			      struct silo_error *err);
/* The layer is complete; an import with a layer that never ended fails. */
SILO_API int silo_layer_end (struct silo_layer *layer, struct silo_error *err);
/* For people who wait: `done` of `total` bytes (0: unknown) of a stage that is not about one
 * layer. */
SILO_API void silo_import_progress (struct silo_import *import, const char *stage, int64_t done,
				    int64_t total);
/* Has the user given up?  Long loops ask now and then and return SILO_CANCELLED. */
SILO_API bool silo_import_cancelled (struct silo_import *import);
/* The same for poll (): readable once that is so; borrowed, -1: there is none. */
SILO_API int silo_import_cancel_fd (struct silo_import *import);

struct silo_image_ops {
	/* required: is this reference one of ours, and what does it point to right now?  Cheap.
	 * SILO_UNIMPLEMENTED: not one of ours (the next image instance is asked).  *ret_id is
	 * an immutable name of the contents ("sha256:..."), or "" when finding one is as dear
	 * as importing. */
	int (*identify) (void *self, const struct silo_image_source *source,
			 struct silo_buf *ret_id, struct silo_error *err);
	/* required */
	int (*import) (void *self, const struct silo_image_source *source,
		       struct silo_import *import, struct silo_error *err);
};

#ifdef __cplusplus
}
#endif
#endif
