/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layer.c - unpacks layers: blob -> SHA-256 -> tar_read -> entries.
 * Threads of its own, as many as there are processors, take one layer after
 * the other; each fills its own struct silo_layer.  A wrong digest shows only
 * at a layer's end: what was delivered by then is thrown away with the import.
 */
#include "oci.h"
#include "tar.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK       ((size_t) 256 << 10)
#define MAX_THREADS 8

/* All layers of one import. */
struct unpack {
	const struct blobs *blobs;
	const struct manifest *manifest;
	struct silo_import *import;
	struct silo_layer *layers[OCI_MAX_LAYERS];
	int64_t total; /* bytes of all blobs */
	_Atomic int64_t done;
	_Atomic size_t next;  /* layer that nobody has taken */
	_Atomic bool failed;  /* the others need not go on */
	pthread_mutex_t lock; /* error */
	struct silo_error error;
};

/* One layer, read by one thread. */
struct reader {
	struct unpack *unpack;
	const struct blob *blob;
	struct silo_layer *layer;
	struct silo_hash *hash;
	int fd;
	char *chunk;
};

/* -- bytes of the blob -------------------------------------------------------------- */

/* The next bytes, counted and hashed. */
static int
blob_next (void *arg, const void **ret, size_t *ret_len, struct silo_error *err)
{
	struct reader *reader = arg;
	struct unpack *unpack = reader->unpack;
	ssize_t n;
	if (atomic_load (&unpack->failed) || silo_import_cancelled (unpack->import))
		return silo_fail (err, SILO_CANCELLED, "stopped");
	while ((n = read (reader->fd, reader->chunk, CHUNK)) < 0 && errno == EINTR)
		;
	if (n < 0)
		return silo_fail_sys (err, errno, "layer %s: read", reader->blob->name);
	if (silo_hash_add (reader->hash, reader->chunk, (size_t) n) < 0)
		return silo_fail (err, SILO_INTERNAL, "layer %s: SHA-256", reader->blob->name);
	int64_t done = atomic_fetch_add (&unpack->done, n) + n;
	silo_import_progress (unpack->import, "unpacking", done, unpack->total);
	*ret = reader->chunk;
	*ret_len = (size_t) n;
	return 0;
}

/* All of the blob has been read. */
static int
reader_verify (struct reader *reader, struct silo_error *err)
{
	struct silo_digest digest;
	if (silo_hash_end (reader->hash, &digest) < 0)
		return silo_fail (err, SILO_INTERNAL, "layer %s: SHA-256", reader->blob->name);
	if (!silo_digest_equal (&digest, &reader->blob->digest))
		return silo_fail (err, SILO_DATALOSS, "layer %s: its bytes do not have this digest",
				  reader->blob->name);
	return 0;
}

/* -- a layer ---------------------------------------------------------------------------- */

static int
reader_run (struct reader *reader, struct silo_error *err)
{
	const struct tar_source source = { .next = blob_next, .arg = reader };
	int r = tar_read (&source, reader->blob->name, reader->unpack->import, reader->layer, err);
	if (r == 0)
		r = reader_verify (reader, err);
	return r < 0 ? r : silo_layer_end (reader->layer, err);
}

/* What a damaged layer looks like from inside says little: when its digest is wrong, that is
 * what is wrong. */
static int
reader_diagnose (struct reader *reader, int r, struct silo_error *err)
{
	struct silo_error why = { 0 };
	const void *data = NULL;
	size_t len = 1;
	if (r != SILO_DATALOSS && r != SILO_INVALID)
		return r;
	while (len > 0)
		if (blob_next (reader, &data, &len, &why) < 0)
			return r;
	if (reader_verify (reader, &why) != SILO_DATALOSS)
		return r;
	return silo_fail (err, why.code, "%s", why.msg);
}

static int
layer_read (struct unpack *unpack, size_t i, struct silo_error *err)
{
	struct reader reader = {
		.unpack = unpack,
		.blob = &unpack->manifest->layers[i],
		.layer = unpack->layers[i],
		.hash = silo_hash_new (),
		.fd = -1,
		.chunk = malloc (CHUNK),
	};
	int r = reader.hash && reader.chunk ? 0 : silo_fail_nomem (err);
	if (r == 0) {
		r = blob_open (unpack->blobs, reader.blob, &reader.fd, err);
		if (r < 0)
			silo_wrap (err, "layer %s", reader.blob->name);
	}
	if (r == 0) {
		r = reader_run (&reader, err);
		if (r < 0)
			r = reader_diagnose (&reader, r, err);
	}
	silo_hash_free (reader.hash);
	if (reader.fd >= 0)
		close (reader.fd);
	free (reader.chunk);
	return r;
}

static void *
unpack_thread (void *arg)
{
	struct unpack *unpack = arg;
	size_t i;
	while (!atomic_load (&unpack->failed) &&
	       (i = atomic_fetch_add (&unpack->next, 1)) < unpack->manifest->n) {
		struct silo_error err = { 0 };
		if (layer_read (unpack, i, &err) == 0)
			continue;
		pthread_mutex_lock (&unpack->lock);
		if (!atomic_exchange (&unpack->failed, true))
			unpack->error = err;
		pthread_mutex_unlock (&unpack->lock);
	}
	return NULL;
}

static size_t
thread_count (size_t layers)
{
	long cpus = sysconf (_SC_NPROCESSORS_ONLN);
	size_t n = cpus > 0 ? (size_t) cpus : 1;
	n = n < MAX_THREADS ? n : MAX_THREADS;
	return n < layers ? n : layers;
}

static int
unpack_run (struct unpack *unpack, struct silo_error *err)
{
	pthread_t threads[MAX_THREADS];
	size_t want = thread_count (unpack->manifest->n), n = 0;
	/* This thread is one of them, so it goes on even if no other can be had. */
	while (n + 1 < want && pthread_create (&threads[n], NULL, unpack_thread, unpack) == 0)
		n++;
	unpack_thread (unpack);
	for (size_t i = 0; i < n; i++)
		pthread_join (threads[i], NULL);
	if (atomic_load (&unpack->failed))
		return silo_fail (err, unpack->error.code, "%s", unpack->error.msg);
	return 0;
}

int
layers_read (const struct blobs *blobs, const struct manifest *manifest, struct silo_import *import,
	     struct silo_error *err)
{
	struct unpack *unpack = calloc (1, sizeof (*unpack));
	if (!unpack)
		return silo_fail_nomem (err);
	unpack->blobs = blobs;
	unpack->manifest = manifest;
	unpack->import = import;
	pthread_mutex_init (&unpack->lock, NULL);
	int r = 0;
	for (size_t i = 0; r == 0 && i < manifest->n; i++) {
		if (__builtin_add_overflow (unpack->total, manifest->layers[i].size,
					    &unpack->total))
			r = silo_fail (err, SILO_INVALID, "layer %s: impossible size",
				       manifest->layers[i].name);
		if (r == 0)
			r = silo_import_layer (import, manifest->layers[i].name, &unpack->layers[i],
					       err);
	}
	if (r == 0)
		r = unpack_run (unpack, err);
	pthread_mutex_destroy (&unpack->lock);
	free (unpack);
	return r;
}
