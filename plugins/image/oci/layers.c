/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layers.c - brings an image's layers into the import: threads take one after
 * the other, the largest first; a layer that is known is not fetched, another is
 * read from its blob through tar_read.  Each thread that fetches has a skopeo of
 * its own, since that hands out one blob at a time.  A layer ends only when size
 * and digest of its blob were right.
 */
#include "oci.h"
#include "tar.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CHUNK       ((size_t) 256 << 10)
#define MAX_THREADS 16

struct thread;

/* All layers of one import. */
struct fetch {
	struct origin *origin;
	const struct manifest *manifest;
	struct silo_import *import;
	struct silo_layer *layers[OCI_MAX_LAYERS];
	size_t order[OCI_MAX_LAYERS]; /* the layers, the largest first */
	_Atomic size_t next;          /* in order[], the first that nobody has taken */
	_Atomic bool failed;          /* the others need not go on */
	pthread_mutex_t lock;         /* error */
	struct silo_error error;
	struct thread *threads;
	size_t n;
};

struct thread {
	struct fetch *fetch;
	pthread_t id;
	struct patience patience; /* its stop_fd is an eventfd of this thread */
	struct proxy *proxy;      /* NULL: not needed yet */
	struct silo_hash *hash;   /* NULL: skopeo verifies */
	unsigned char *chunk;
};

/* A blob on its way. */
struct stream {
	struct thread *thread;
	const struct blob *blob;
	struct silo_layer *layer;
	int fd; /* of an OCI layout; -1: from the thread's proxy */
	int64_t got;
	bool ended; /* all of it has come, and it was right */
	bool over;  /* it has come to its end, good or bad */
};

static void
stop_set (int stop_fd)
{
	uint64_t one = 1;
	ssize_t n = write (stop_fd, &one, sizeof (one));
	assert (n == sizeof (one)); /* the sum of all ones fits */
}

static void
stop_clear (int stop_fd)
{
	uint64_t sum;
	ssize_t n = read (stop_fd, &sum, sizeof (sum));
	(void) n; /* nothing in it: that is what is wanted */
}

/* -- a blob ----------------------------------------------------------------------------- */

static int
stream_open (struct stream *stream, struct silo_error *err)
{
	struct thread *thread = stream->thread;
	struct origin *origin = thread->fetch->origin;
	if (origin->blobs.fd >= 0)
		return blob_open (&origin->blobs, stream->blob, &stream->fd, err);
	if (!thread->proxy) {
		int r = proxy_open (origin, &thread->patience, &thread->proxy, err);
		if (r < 0)
			return r;
	}
	return proxy_blob_begin (thread->proxy, stream->blob, err);
}

/* Up to CHUNK bytes. */
static int
stream_read (struct stream *stream, size_t *ret_len, struct silo_error *err)
{
	struct thread *thread = stream->thread;
	ssize_t n;
	if (atomic_load (&thread->fetch->failed) || silo_import_cancelled (thread->fetch->import))
		return silo_fail (err, SILO_CANCELLED, "stopped");
	if (stream->fd < 0) {
		int r = proxy_blob_read (thread->proxy, thread->chunk, CHUNK, ret_len, err);
		return r < 0 ? silo_wrap (err, "layer %s", stream->blob->name) : 0;
	}
	while ((n = read (stream->fd, thread->chunk, CHUNK)) < 0 && errno == EINTR)
		;
	if (n < 0)
		return silo_fail_sys (err, errno, "layer %s: read", stream->blob->name);
	*ret_len = (size_t) n;
	return 0;
}

/* All has come: was it what the manifest says? */
static int
stream_verify (struct stream *stream, struct silo_error *err)
{
	struct thread *thread = stream->thread;
	struct silo_digest digest;
	if (stream->fd < 0) {
		int r = proxy_blob_end (thread->proxy, err);
		if (r < 0)
			return silo_wrap (err, "layer %s", stream->blob->name);
	}
	if (stream->blob->size >= 0 && stream->got != stream->blob->size)
		return silo_fail (err, SILO_DATALOSS, "layer %s: %lld of %lld bytes came",
				  stream->blob->name, (long long) stream->got,
				  (long long) stream->blob->size);
	if (thread->hash) {
		if (silo_hash_end (thread->hash, &digest) < 0)
			return silo_fail (err, SILO_INTERNAL, "layer %s: SHA-256",
					  stream->blob->name);
		if (!silo_digest_equal (&digest, &stream->blob->digest))
			return silo_fail (err, SILO_DATALOSS,
					  "layer %s: its bytes do not have this digest",
					  stream->blob->name);
	}
	stream->ended = true;
	return 0;
}

static int
stream_next (void *arg, const void **ret, size_t *ret_len, struct silo_error *err)
{
	struct stream *stream = arg;
	struct thread *thread = stream->thread;
	size_t len = 0;
	int r = stream->ended ? 0 : stream_read (stream, &len, err);
	if (r == 0 && len == 0 && !stream->ended) {
		stream->over = true;
		r = stream_verify (stream, err);
	}
	if (r < 0)
		return r;
	stream->got += (int64_t) len;
	if (stream->blob->size >= 0 && stream->got > stream->blob->size)
		return silo_fail (err, SILO_DATALOSS, "layer %s: more than its %lld bytes came",
				  stream->blob->name, (long long) stream->blob->size);
	if (thread->hash && silo_hash_add (thread->hash, thread->chunk, len) < 0)
		return silo_fail (err, SILO_INTERNAL, "layer %s: SHA-256", stream->blob->name);
	silo_layer_fetched (stream->layer, (int64_t) len);
	*ret = thread->chunk;
	*ret_len = len;
	return 0;
}

static void
stream_stop (void *arg)
{
	const struct stream *stream = arg;
	stop_set (stream->thread->patience.stop_fd);
}

/* What a damaged blob looks like from inside says little: when its digest is wrong, that is
 * what is wrong. */
static int
stream_diagnose (struct stream *stream, int r, struct silo_error *err)
{
	struct silo_error why = { 0 };
	const void *data;
	size_t len = 1;
	if (r != SILO_DATALOSS || stream->over)
		return r;
	stop_clear (stream->thread->patience.stop_fd);
	while (len > 0) {
		int end = stream_next (stream, &data, &len, &why);
		if (end == SILO_CANCELLED)
			return r;
		if (end < 0)
			return silo_fail (err, end, "%s", why.msg);
	}
	return r;
}

/* -- a layer ---------------------------------------------------------------------------- */

static int
layer_fetch (struct thread *thread, size_t i, struct silo_error *err)
{
	struct fetch *fetch = thread->fetch;
	struct stream stream = {
		.thread = thread,
		.blob = &fetch->manifest->layers[i],
		.layer = fetch->layers[i],
		.fd = -1,
	};
	const struct tar_source source = { .next = stream_next,
					   .stop = stream_stop,
					   .arg = &stream };
	bool known = false;
	int r = silo_layer_begin (stream.layer, thread->patience.stop_fd, &known, err);
	if (r < 0 || known)
		return r;
	r = stream_open (&stream, err);
	if (r < 0)
		return silo_wrap (err, "layer %s", stream.blob->name);
	r = tar_read (&source, stream.blob->name, fetch->import, stream.layer, err);
	if (r < 0)
		r = stream_diagnose (&stream, r, err);
	if (stream.fd >= 0)
		close (stream.fd);
	if (r < 0)
		return r;
	assert (stream.ended);
	return silo_layer_end (stream.layer, err);
}

static void
fetch_fail (struct fetch *fetch, const struct silo_error *err)
{
	pthread_mutex_lock (&fetch->lock);
	if (!atomic_exchange (&fetch->failed, true)) {
		fetch->error = *err;
		for (size_t i = 0; i < fetch->n; i++)
			stop_set (fetch->threads[i].patience.stop_fd);
	}
	pthread_mutex_unlock (&fetch->lock);
}

/* The proxies end with the thread, which they may not outlive. */
static void *
thread_run (void *arg)
{
	struct thread *thread = arg;
	struct fetch *fetch = thread->fetch;
	size_t i;
	while (!atomic_load (&fetch->failed) &&
	       (i = atomic_fetch_add (&fetch->next, 1)) < fetch->manifest->n) {
		struct silo_error err = { 0 };
		if (layer_fetch (thread, fetch->order[i], &err) < 0)
			fetch_fail (fetch, &err);
	}
	proxy_close (thread->proxy);
	thread->proxy = NULL;
	return NULL;
}

/* -- all layers -------------------------------------------------------------------------- */

static int
thread_init (struct fetch *fetch, struct thread *thread, struct silo_error *err)
{
	const struct origin *origin = fetch->origin;
	thread->fetch = fetch;
	thread->patience = origin->patience;
	thread->patience.stop_fd = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (thread->patience.stop_fd < 0)
		return silo_fail_sys (err, errno, "eventfd");
	fetch->n++;
	thread->chunk = malloc (CHUNK);
	/* What skopeo makes anew from its store, nobody has verified. */
	bool verify = origin->blobs.fd >= 0 || origin->reference->form == FORM_STORAGE;
	thread->hash = verify ? silo_hash_new () : NULL;
	return thread->chunk && (thread->hash || !verify) ? 0 : silo_fail_nomem (err);
}

static void
threads_free (struct fetch *fetch)
{
	for (size_t i = 0; i < fetch->n; i++) {
		struct thread *thread = &fetch->threads[i];
		close (thread->patience.stop_fd);
		silo_hash_free (thread->hash);
		free (thread->chunk);
	}
	free (fetch->threads);
}

/* An archive is one file, which each skopeo would read on its own. */
static size_t
thread_count (const struct origin *origin, size_t layers)
{
	long cpus = sysconf (_SC_NPROCESSORS_ONLN);
	size_t n = (size_t) origin->oci->connections;
	if (origin->reference->form == FORM_LAYOUT)
		n = cpus > 0 ? (size_t) cpus : 1;
	else if (origin->reference->form == FORM_ARCHIVE)
		n = 1;
	if (n > MAX_THREADS)
		n = MAX_THREADS;
	return n < layers ? n : layers > 0 ? layers : 1;
}

static int
fetch_run (struct fetch *fetch, struct silo_error *err)
{
	struct origin *origin = fetch->origin;
	size_t n = thread_count (origin, fetch->manifest->n), started = 1;
	fetch->threads = calloc (n, sizeof (*fetch->threads));
	if (!fetch->threads)
		return silo_fail_nomem (err);
	for (size_t i = 0; i < n; i++) {
		int r = thread_init (fetch, &fetch->threads[i], err);
		if (r < 0)
			return r;
	}
	/* This thread is one of them, so it goes on even if no other can be had; it has the
	 * proxy that was opened for the manifest. */
	struct thread *first = &fetch->threads[0];
	first->proxy = origin->proxy;
	origin->proxy = NULL;
	if (first->proxy)
		proxy_set_patience (first->proxy, &first->patience);
	while (started < n && pthread_create (&fetch->threads[started].id, NULL, thread_run,
					      &fetch->threads[started]) == 0)
		started++;
	thread_run (first);
	for (size_t i = 1; i < started; i++)
		pthread_join (fetch->threads[i].id, NULL);
	if (atomic_load (&fetch->failed))
		return silo_fail (err, fetch->error.code, "%s", fetch->error.msg);
	return 0;
}

/* The largest first: then the threads end at about the same time. */
static void
fetch_order (struct fetch *fetch)
{
	const struct blob *layers = fetch->manifest->layers;
	for (size_t i = 0; i < fetch->manifest->n; i++) {
		size_t at = i;
		for (; at > 0 && layers[fetch->order[at - 1]].size < layers[i].size; at--)
			fetch->order[at] = fetch->order[at - 1];
		fetch->order[at] = i;
	}
}

int
layers_fetch (struct origin *origin, const struct manifest *manifest, struct silo_import *import,
	      struct silo_error *err)
{
	struct fetch *fetch = calloc (1, sizeof (*fetch));
	if (!fetch)
		return silo_fail_nomem (err);
	fetch->origin = origin;
	fetch->manifest = manifest;
	fetch->import = import;
	pthread_mutex_init (&fetch->lock, NULL);
	int r = 0;
	for (size_t i = 0; r == 0 && i < manifest->n; i++) {
		const struct blob *blob = &manifest->layers[i];
		r = silo_import_layer_blob (import, blob->name, &blob->digest, blob->size,
					    &fetch->layers[i], err);
	}
	fetch_order (fetch);
	if (r == 0)
		r = fetch_run (fetch, err);
	threads_free (fetch);
	pthread_mutex_destroy (&fetch->lock);
	free (fetch);
	return r;
}
