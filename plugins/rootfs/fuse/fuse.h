/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuse.h - the map of this plugin: fuse.c (options, mounts), share.c (one FUSE
 * mount per image and the threads that serve it), serve.c (the requests),
 * pass.c (passthrough), object.c (open objects), watch.c (has somebody
 * unmounted it?), probe.c.
 *
 * Lock order: fuse->lock, then share->lock; those of pass.c and object.c are
 * taken alone.
 */
#ifndef FUSE_H
#define FUSE_H

#define FUSE_USE_VERSION 35

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>
#include <fuse3/fuse_lowlevel.h>
#include <silo/content.h>
#include <silo/host.h>
#include <silo/log.h>
#include <silo/meta.h>
#include <silo/rootfs.h>

#define READ_MAX (1u << 20) /* bytes in one request */

/* -- object.c: descriptors of objects, the most recently used kept open -- */

struct objects;
struct object;

int objects_new (size_t capacity, struct objects **ret, struct silo_error *err);
void objects_free (struct objects *objects);
/* Close all that are not in use: a removed object takes up its space as long as it is open. */
void objects_close (struct objects *objects);
/* The object of an inode; SILO_DATALOSS when its size is not the inode's. */
int object_get (struct objects *objects, struct silo_instance *content,
		const struct silo_meta_inode *inode, struct object **ret, struct silo_error *err);
int object_fd (const struct object *object);
/* Is it a file of a store, not a copy that lives as long as its descriptor? */
bool object_named (const struct object *object);
void object_put (struct objects *objects, struct object *object);

/* -- share.c: one FUSE mount per image ------------------------------------ */

struct worker {
	struct share *share;
	pthread_t thread;
	void *request; /* buffer of the one that it answers */
};

/* A buffer of READ_MAX bytes that waits for its next use. */
struct spare {
	struct spare *next;
};

struct share {
	struct share *next; /* fuse->lock protects next and users */
	size_t users;

	/* fixed while it is served */
	struct fuse *self;
	char *path; /* of the metadata file */
	dev_t dev;  /* a path may come to name another file */
	ino_t ino;
	struct silo_instance *content;
	struct silo_meta *meta;
	uint64_t root; /* its root's number in the metadata file */
	struct fuse_session *session;
	struct pass *pass; /* NULL: not wanted */
	int fd;            /* root of the FUSE mount, which is attached nowhere */
	int stop;          /* eventfd: the threads shall end */
	int done;          /* eventfd: they have ended; stays readable */
	struct worker *workers;
	size_t n_workers;
	bool no_open, no_opendir; /* set by the INIT request, before any other */

	pthread_mutex_t lock; /* protects what follows */
	struct spare *spares;
	size_t running;      /* threads */
	int64_t quiet_until; /* no complaint is logged before */
	uint64_t unsaid;     /* complaints since the last one logged */
};

/* Start to serve with these operations; share has path and meta already, or needs none. */
int share_start (struct share *share, const struct fuse_lowlevel_ops *ops, size_t threads,
		 struct silo_error *err);
/* End it, whoever still uses it, and free it.  Those get ENOTCONN. */
void share_free (struct share *share);
int share_new (struct fuse *self, const char *path, struct share **ret, struct silo_error *err);

int share_get (struct fuse *self, const char *path, struct silo_instance *content,
	       struct share **ret, struct silo_error *err);
void share_put (struct share *share);
/* A buffer of READ_MAX bytes, NULL: no memory; and back. */
void *share_buffer (struct share *share);
void share_buffer_put (struct share *share, void *buffer);

/* -- serve.c --------------------------------------------------------------- */

extern const struct fuse_lowlevel_ops serve_ops;
/* What to agree on with the kernel; part of serve_ops. */
void serve_init (void *userdata, struct fuse_conn_info *conn);

/* -- pass.c: files whose reads the kernel passes on to their objects ------- */

enum passthrough { PASSTHROUGH_AUTO, PASSTHROUGH_YES, PASSTHROUGH_NO };

struct pass;
struct pass_inode;

struct pass *pass_new (void);
void pass_free (struct pass *pass);
/* Use the session on this descriptor of /dev/fuse, which it owns then.  False: libfuse cannot. */
bool pass_session (struct share *share, int device);
/* Every request, before it is answered: the first one says whether the kernel can. */
void pass_request (struct pass *pass, const void *request, size_t len);
/* Somebody opens a file.  SILO_UNIMPLEMENTED: no passthrough here.  *ret is NULL for a file that
 * is always read by requests. */
int pass_open (struct share *share, uint64_t nid, struct pass_inode **ret, struct silo_error *err);
void pass_close (struct share *share, struct pass_inode *inode);
int pass_reply (fuse_req_t req, struct pass_inode *inode);

/* -- watch.c --------------------------------------------------------------- */

/* The kernel's number of what is mounted at path. */
int watch_id (const char *path, uint64_t *ret, struct silo_error *err);
/* Wait until mount number `id` is no longer in this mount namespace, or `done` is readable.
 * *ret_gone: the former. */
int watch_wait (uint64_t id, int done, bool *ret_gone, struct silo_error *err);

/* -- probe.c --------------------------------------------------------------- */

int probe_run (void *self, const char *scratch, struct silo_error *err);

/* -- fuse.c ---------------------------------------------------------------- */

#define FUSE_MAGIC 0xf05e5110u

struct mount;

struct fuse {
	/* options */
	int64_t upper; /* enum silo_upper - 1 */
	int64_t upper_size;
	int64_t threads;
	int64_t open_files;
	int64_t passthrough; /* enum passthrough */

	uint32_t magic;
	struct silo_host *host;
	struct objects *objects;
	pthread_mutex_t lock; /* protects the lists */
	struct share *shares;
	struct mount *mounts; /* for stop: those that nobody unmounted */
};

#endif
