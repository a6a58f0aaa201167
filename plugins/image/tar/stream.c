/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.c - plain bytes for the reader of a tar, made ahead of it by a thread
 * that fetches, hashes and decompresses the blob while the reader's thread
 * looks at entries.  A few buffers go round between the two.  With one
 * processor, or when no thread is to be had, the reader's thread does it all.
 */
#include "stream.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#define CHUNK  ((size_t) 256 << 10) /* a multiple of tar's blocks: headers stay in one piece */
#define CHUNKS 4u

struct stream {
	const struct tar_source *source;
	struct unzip *unzip;
	unsigned char *memory; /* CHUNKS of them; only one without a thread */
	bool threaded;
	pthread_t thread;
	pthread_mutex_t lock; /* everything below */
	pthread_cond_t changed;
	size_t len[CHUNKS];
	unsigned filled, taken;   /* chunks so far; the last one taken may still be looked at */
	bool ended;               /* nothing is added any more */
	bool stopped;             /* nobody wants any more */
	struct silo_error failed; /* code 0: it ended well */
};

static bool
several_processors (void)
{
	cpu_set_t set;
	/* It fails when there are more than a set holds. */
	return sched_getaffinity (0, sizeof (set), &set) < 0 || CPU_COUNT (&set) > 1;
}

/* -- the thread -------------------------------------------------------------------- */

/* A chunk that may be filled; NULL: stopped. */
static unsigned char *
chunk_wait (struct stream *stream)
{
	pthread_mutex_lock (&stream->lock);
	/* One less: the reader holds the chunk that it took last. */
	while (!stream->stopped && stream->filled - stream->taken >= CHUNKS - 1)
		pthread_cond_wait (&stream->changed, &stream->lock);
	unsigned char *chunk =
	    stream->stopped ? NULL : stream->memory + stream->filled % CHUNKS * CHUNK;
	pthread_mutex_unlock (&stream->lock);
	return chunk;
}

static void
chunk_done (struct stream *stream, size_t len, const struct silo_error *failed)
{
	pthread_mutex_lock (&stream->lock);
	if (len > 0)
		stream->len[stream->filled++ % CHUNKS] = len;
	stream->ended = len < CHUNK;
	stream->failed = *failed;
	pthread_cond_signal (&stream->changed);
	pthread_mutex_unlock (&stream->lock);
}

static void *
stream_thread (void *arg)
{
	struct stream *stream = arg;
	size_t len = CHUNK;
	unsigned char *chunk;
	while (len == CHUNK && (chunk = chunk_wait (stream))) {
		struct silo_error err = { 0 };
		if (unzip_read (stream->unzip, chunk, CHUNK, &len, &err) < 0)
			len = 0;
		chunk_done (stream, len, &err);
	}
	return NULL;
}

/* -- the reader ---------------------------------------------------------------------- */

static int
next_ready (struct stream *stream, const unsigned char **ret, size_t *ret_len,
	    struct silo_error *err)
{
	int r = 0;
	pthread_mutex_lock (&stream->lock);
	while (stream->filled == stream->taken && !stream->ended)
		pthread_cond_wait (&stream->changed, &stream->lock);
	if (stream->filled != stream->taken) {
		unsigned i = stream->taken++ % CHUNKS;
		*ret = stream->memory + i * CHUNK;
		*ret_len = stream->len[i];
		pthread_cond_signal (&stream->changed);
	} else if (stream->failed.code) {
		r = silo_fail (err, stream->failed.code, "%s", stream->failed.msg);
	} else {
		*ret_len = 0;
	}
	pthread_mutex_unlock (&stream->lock);
	return r;
}

int
stream_next (struct stream *stream, const unsigned char **ret, size_t *ret_len,
	     struct silo_error *err)
{
	if (stream->threaded)
		return next_ready (stream, ret, ret_len, err);
	*ret = stream->memory;
	return unzip_read (stream->unzip, stream->memory, CHUNK, ret_len, err);
}

int
stream_open (const struct tar_source *source, const char *name, struct stream **ret,
	     struct silo_error *err)
{
	struct stream *stream = calloc (1, sizeof (*stream));
	if (!stream)
		return silo_fail_nomem (err);
	stream->source = source;
	pthread_mutex_init (&stream->lock, NULL);
	pthread_cond_init (&stream->changed, NULL);
	bool ahead = several_processors ();
	stream->memory = malloc (ahead ? CHUNKS * CHUNK : CHUNK);
	int r =
	    stream->memory ? unzip_new (source, name, &stream->unzip, err) : silo_fail_nomem (err);
	if (r < 0) {
		stream_close (stream);
		return r;
	}
	stream->threaded =
	    ahead && pthread_create (&stream->thread, NULL, stream_thread, stream) == 0;
	*ret = stream;
	return 0;
}

void
stream_close (struct stream *stream)
{
	if (!stream)
		return;
	if (stream->threaded) {
		pthread_mutex_lock (&stream->lock);
		stream->stopped = true;
		bool waits = !stream->ended;
		pthread_cond_signal (&stream->changed);
		pthread_mutex_unlock (&stream->lock);
		if (waits && stream->source->stop)
			stream->source->stop (stream->source->arg);
		pthread_join (stream->thread, NULL);
	}
	pthread_cond_destroy (&stream->changed);
	pthread_mutex_destroy (&stream->lock);
	unzip_free (stream->unzip);
	free (stream->memory);
	free (stream);
}
