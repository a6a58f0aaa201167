/* SPDX-License-Identifier: Apache-2.0 */
/*
 * intake.c - hashes and stores the files of an import on threads of its
 * own.  The threads that fill layers hand over bytes in blocks: small files
 * share one, large files are a list of them and are worked off in order, by
 * one thread at a time.  The blocks in use are bounded: who wants one too many
 * waits.  The first error ends everything; it is reported to whoever comes next.
 */
#include "intake.h"

#include <sched.h>
#include <signal.h>

#define INTAKE_BLOCK       ((size_t) 256 << 10)
#define INTAKE_ITEMS       256
#define INTAKE_MAX_BLOCKS  64 /* 16 MiB */
#define INTAKE_MAX_THREADS 8
/* Larger files are written while they arrive, smaller ones only when their digest is known
 * and the content store lacks them. */
#define INTAKE_HOLD  ((uint64_t) 4 << 20)
#define INTAKE_PARTS ((size_t) (INTAKE_HOLD / INTAKE_BLOCK))

/* A small file within a block. */
struct intake_item {
	struct tree_inode *inode;
	const char *path;
	uint32_t offset, size;
};

struct intake_block {
	struct intake_block *next;
	struct feed *feed;
	size_t used; /* bytes */
	size_t n;    /* items; 0 in blocks of large files */
	struct intake_item items[INTAKE_ITEMS];
	unsigned char data[INTAKE_BLOCK];
};

/* A large file. */
struct intake_file {
	struct intake_file *next; /* in the queue */
	struct feed *feed;
	struct tree_inode *inode;
	const char *path;
	uint64_t size;
	struct intake_block *first, *last; /* arrived, not hashed; behind the lock */
	bool complete;                     /* nothing more arrives; behind the lock */
	bool busy;                         /* queued or with a thread; behind the lock */

	/* the thread that has it */
	struct silo_writer *writer; /* of those over INTAKE_HOLD */
	struct silo_hash *hash;     /* of the others, and their bytes so far */
	struct intake_block *held[INTAKE_PARTS];
	size_t n_held;
};

struct intake_thread {
	struct intake *intake;
	struct silo_hash *hash;
	pthread_t thread;
};

struct intake {
	struct silo_instance *content;
	const volatile int *cancelled;
	atomic_bool failed; /* err is set; also stops work that has begun */

	pthread_mutex_t lock;               /* protects everything below */
	pthread_cond_t work;                /* something is queued, or stop */
	pthread_cond_t done;                /* a block is free, a feed's work or all work is done */
	struct silo_error err;              /* the first */
	struct intake_block *first, *last;  /* queue of blocks with small files */
	struct intake_file *files, *f_last; /* queue of large ones that have blocks */
	struct intake_block *unused;
	size_t n_blocks;  /* in use */
	size_t working;   /* queued or with a thread */
	size_t n_waiting; /* threads in wait for `done` */
	bool stop;
	size_t n_threads;
	struct intake_thread threads[INTAKE_MAX_THREADS];
};

/* -- errors ------------------------------------------------------------------------- */

static void
intake_fail (struct intake *intake, const struct feed *feed, const char *path,
	     const struct silo_error *why)
{
	scope_lock (&intake->lock);
	if (atomic_load (&intake->failed))
		return;
	silo_fail (&intake->err, why->code, "layer %s: %s: %s", feed->layer, path, why->msg);
	intake->err.sys = why->sys;
	atomic_store (&intake->failed, true);
}

static bool
intake_stopped (const struct intake *intake)
{
	return atomic_load_explicit (&intake->failed, memory_order_relaxed) ||
	       (intake->cancelled && __atomic_load_n (intake->cancelled, __ATOMIC_RELAXED));
}

/* What has gone wrong so far.  Called with the lock held. */
static int
intake_error (const struct intake *intake, struct silo_error *err)
{
	if (!atomic_load (&intake->failed))
		return intake_stopped (intake) ? silo_fail (err, SILO_CANCELLED, "stopped") : 0;
	if (err)
		*err = intake->err;
	return intake->err.code;
}

/* -- blocks ------------------------------------------------------------------------- */

static void
wait_done (struct intake *intake)
{
	intake->n_waiting++;
	pthread_cond_wait (&intake->done, &intake->lock);
	intake->n_waiting--;
}

/* Called with the lock held. */
static void
signal_done (struct intake *intake)
{
	if (intake->n_waiting > 0)
		pthread_cond_broadcast (&intake->done);
}

/* Called with the lock held.  Unused ones are kept: fresh memory is slower than to hash it. */
static void
block_release (struct intake *intake, struct intake_block *block)
{
	block->next = intake->unused;
	intake->unused = block;
	intake->n_blocks--;
	signal_done (intake);
}

static int
block_get (struct feed *feed, struct intake_block **ret, struct silo_error *err)
{
	struct intake *intake = feed->intake;
	struct intake_block *block = NULL;
	pthread_mutex_lock (&intake->lock);
	/* With no work under way all blocks wait for more bytes of their file: let them come. */
	while (intake->n_blocks >= INTAKE_MAX_BLOCKS && intake->working > 0 &&
	       !intake_stopped (intake))
		wait_done (intake);
	int r = intake_error (intake, err);
	if (r == 0) {
		intake->n_blocks++;
		block = intake->unused;
		if (block)
			intake->unused = block->next;
	}
	pthread_mutex_unlock (&intake->lock);
	if (r < 0)
		return r;
	if (!block)
		block = malloc (sizeof (*block));
	if (!block) {
		scope_lock (&intake->lock);
		intake->n_blocks--;
		return silo_fail_nomem (err);
	}
	block->next = NULL;
	block->feed = feed;
	block->used = block->n = 0;
	*ret = block;
	return 0;
}

/* -- what the threads do ---------------------------------------------------------------- */

static int
item_store (struct intake_thread *thread, const struct intake_block *block,
	    const struct intake_item *item, struct silo_error *err)
{
	const struct silo_bytes bytes = { block->data + item->offset, item->size };
	struct silo_digest digest;
	bool is_new = false;
	if (silo_hash_add (thread->hash, bytes.data, bytes.len) < 0 ||
	    silo_hash_end (thread->hash, &digest) < 0)
		return silo_fail (err, SILO_INTERNAL, "cannot compute a SHA-256");
	int r = content_put (thread->intake->content, &digest, &bytes, 1, &is_new, err);
	if (r < 0)
		return r;
	item->inode->object = digest;
	atomic_fetch_add_explicit (&block->feed->hashed, item->size, memory_order_relaxed);
	if (is_new)
		atomic_fetch_add_explicit (&block->feed->stored, item->size, memory_order_relaxed);
	return 0;
}

static void
block_run (struct intake_thread *thread, struct intake_block *block)
{
	for (size_t i = 0; i < block->n && !intake_stopped (thread->intake); i++) {
		struct silo_error err = { 0 };
		if (item_store (thread, block, &block->items[i], &err) < 0)
			intake_fail (thread->intake, block->feed, block->items[i].path, &err);
	}
}

/* Takes the block when it is to be held. */
static int
file_add (struct intake *intake, struct intake_file *file, struct intake_block **block,
	  struct silo_error *err)
{
	const struct intake_block *b = *block;
	int r = 0;
	atomic_fetch_add_explicit (&file->feed->hashed, (int64_t) b->used, memory_order_relaxed);
	if (file->size > INTAKE_HOLD) {
		if (!file->writer)
			r = silo_writer_open (intake->content, &file->writer, err);
		return r < 0 ? r : silo_writer_add (file->writer, b->data, b->used, err);
	}
	if (!file->hash)
		file->hash = silo_hash_new ();
	if (!file->hash)
		return silo_fail_nomem (err);
	if (silo_hash_add (file->hash, b->data, b->used) < 0)
		return silo_fail (err, SILO_INTERNAL, "cannot compute a SHA-256");
	assert (file->n_held < INTAKE_PARTS);
	file->held[file->n_held++] = silo_steal (block);
	return 0;
}

static int
file_end (struct intake *intake, struct intake_file *file, struct silo_error *err)
{
	struct silo_digest digest;
	int64_t size = 0;
	bool is_new = true;
	int r;
	if (file->writer) {
		r = content_commit (silo_steal (&file->writer), &digest, &size, &is_new, err);
	} else {
		struct silo_bytes parts[INTAKE_PARTS];
		for (size_t i = 0; i < file->n_held; i++)
			parts[i] = (struct silo_bytes){ file->held[i]->data, file->held[i]->used };
		if (silo_hash_end (file->hash, &digest) < 0)
			return silo_fail (err, SILO_INTERNAL, "cannot compute a SHA-256");
		r = content_put (intake->content, &digest, parts, file->n_held, &is_new, err);
	}
	if (r < 0)
		return r;
	file->inode->object = digest;
	if (is_new)
		atomic_fetch_add_explicit (&file->feed->stored, (int64_t) file->size,
					   memory_order_relaxed);
	return 0;
}

/* Called with the lock held. */
static void
file_release (struct intake *intake, struct intake_file *file)
{
	while (file->first) {
		struct intake_block *block = file->first;
		file->first = block->next;
		block_release (intake, block);
	}
	for (size_t i = 0; i < file->n_held; i++)
		block_release (intake, file->held[i]);
	silo_writer_abort (file->writer);
	silo_hash_free (file->hash);
	free (file);
}

/* Called with the lock held, which is let go meanwhile. */
static void
file_run (struct intake *intake, struct intake_file *file)
{
	struct silo_error err = { 0 };
	while (file->first) {
		struct intake_block *block = file->first;
		file->first = block->next;
		pthread_mutex_unlock (&intake->lock);
		if (!intake_stopped (intake) && file_add (intake, file, &block, &err) < 0)
			intake_fail (intake, file->feed, file->path, &err);
		pthread_mutex_lock (&intake->lock);
		if (block)
			block_release (intake, block);
	}
	file->busy = false;
	if (!file->complete)
		return;
	pthread_mutex_unlock (&intake->lock);
	if (!intake_stopped (intake) && file_end (intake, file, &err) < 0)
		intake_fail (intake, file->feed, file->path, &err);
	pthread_mutex_lock (&intake->lock);
	file->feed->pending--;
	file_release (intake, file);
}

/* Called with the lock held, which is let go meanwhile. */
static void
work_one (struct intake_thread *thread)
{
	struct intake *intake = thread->intake;
	struct intake_file *file = intake->files;
	struct intake_block *block = intake->first;
	if (file) {
		intake->files = file->next;
		file_run (intake, file);
	} else {
		intake->first = block->next;
		pthread_mutex_unlock (&intake->lock);
		block_run (thread, block);
		pthread_mutex_lock (&intake->lock);
		block->feed->pending--;
		block_release (intake, block);
	}
	intake->working--;
	signal_done (intake);
}

static void *
intake_thread (void *arg)
{
	struct intake_thread *thread = arg;
	struct intake *intake = thread->intake;
	scope_lock (&intake->lock);
	while (!intake->stop) {
		if (intake->first || intake->files)
			work_one (thread);
		else
			pthread_cond_wait (&intake->work, &intake->lock);
	}
	return NULL;
}

/* -- life --------------------------------------------------------------------------------- */

static size_t
intake_cpus (void)
{
	cpu_set_t set;
	CPU_ZERO (&set);
	if (sched_getaffinity (0, sizeof (set), &set) < 0)
		return INTAKE_MAX_THREADS / 2; /* more processors than fit into the set */
	size_t n = (size_t) CPU_COUNT (&set);
	return n < 1 ? 1 : n > INTAKE_MAX_THREADS ? INTAKE_MAX_THREADS : n;
}

static int
thread_start (struct intake *intake, struct intake_thread *thread)
{
	sigset_t all, old;
	sigfillset (&all);
	pthread_sigmask (SIG_SETMASK, &all, &old);
	int sys = pthread_create (&thread->thread, NULL, intake_thread, thread);
	pthread_sigmask (SIG_SETMASK, &old, NULL);
	if (sys == 0)
		intake->n_threads++;
	return sys;
}

/* Called with the lock held.  One thread is needed, the others are a matter of speed. */
static int
threads_start (struct intake *intake, struct silo_error *err)
{
	size_t n = intake->n_threads > 0 ? 0 : intake_cpus ();
	for (size_t i = 0; i < n; i++) {
		struct intake_thread *thread = &intake->threads[i];
		thread->intake = intake;
		if (!thread->hash)
			thread->hash = silo_hash_new ();
		if (!thread->hash)
			return silo_fail_nomem (err);
	}
	for (size_t i = 0; i < n; i++) {
		int sys = thread_start (intake, &intake->threads[i]);
		if (sys != 0 && i == 0)
			return silo_fail_sys (err, sys, "a thread that stores files");
		if (sys != 0)
			break;
	}
	return 0;
}

int
intake_new (struct silo_instance *content, const volatile int *cancelled, struct intake **ret,
	    struct silo_error *err)
{
	struct intake *intake = calloc (1, sizeof (*intake));
	if (!intake)
		return silo_fail_nomem (err);
	intake->content = content;
	intake->cancelled = cancelled;
	pthread_mutex_init (&intake->lock, NULL);
	pthread_cond_init (&intake->work, NULL);
	pthread_cond_init (&intake->done, NULL);
	*ret = intake;
	return 0;
}

void
intake_free (struct intake *intake)
{
	if (!intake)
		return;
	pthread_mutex_lock (&intake->lock);
	intake->stop = true;
	atomic_store (&intake->failed, true);
	pthread_cond_broadcast (&intake->work);
	pthread_mutex_unlock (&intake->lock);
	for (size_t i = 0; i < intake->n_threads; i++)
		pthread_join (intake->threads[i].thread, NULL);
	for (size_t i = 0; i < INTAKE_MAX_THREADS; i++)
		silo_hash_free (intake->threads[i].hash);
	while (intake->files) {
		struct intake_file *file = intake->files;
		intake->files = file->next;
		file_release (intake, file);
	}
	while (intake->first) {
		struct intake_block *block = intake->first;
		intake->first = block->next;
		block_release (intake, block);
	}
	while (intake->unused) {
		struct intake_block *block = intake->unused;
		intake->unused = block->next;
		free (block);
	}
	pthread_cond_destroy (&intake->done);
	pthread_cond_destroy (&intake->work);
	pthread_mutex_destroy (&intake->lock);
	free (intake);
}

/* -- feeds: the threads that fill layers ------------------------------------------------------ */

void
feed_init (struct feed *feed, struct intake *intake, const char *layer)
{
	*feed = (struct feed){ .intake = intake, .layer = layer };
}

/* Called with the lock held. */
static void
file_queue (struct intake *intake, struct intake_file *file)
{
	if (file->busy)
		return;
	file->busy = true;
	file->next = NULL;
	if (intake->files)
		intake->f_last->next = file;
	else
		intake->files = file;
	intake->f_last = file;
	intake->working++;
	pthread_cond_signal (&intake->work);
}

static int
block_submit (struct feed *feed, struct silo_error *err)
{
	struct intake *intake = feed->intake;
	if (!feed->block)
		return 0;
	scope_lock (&intake->lock);
	int r = threads_start (intake, err);
	if (r < 0)
		return r;
	struct intake_block *block = silo_steal (&feed->block);
	if (feed->file) {
		struct intake_file *file = feed->file;
		if (file->first)
			file->last->next = block;
		else
			file->first = block;
		file->last = block;
		file->complete = feed->got == feed->size;
		file_queue (intake, file);
		if (file->complete)
			feed->file = NULL;
		return 0;
	}
	if (intake->first)
		intake->last->next = block;
	else
		intake->first = block;
	intake->last = block;
	intake->working++;
	feed->pending++;
	pthread_cond_signal (&intake->work);
	return 0;
}

static int
file_new (struct feed *feed, struct tree_inode *inode, const char *path, struct silo_error *err)
{
	int r = block_submit (feed, err);
	if (r < 0)
		return r;
	struct intake_file *file = calloc (1, sizeof (*file));
	if (!file)
		return silo_fail_nomem (err);
	file->feed = feed;
	file->inode = inode;
	file->path = path;
	file->size = feed->size;
	feed->file = file;
	scope_lock (&feed->intake->lock);
	feed->pending++;
	return 0;
}

int
feed_file (struct feed *feed, struct tree_inode *inode, const char *path, uint64_t size,
	   struct silo_error *err)
{
	assert (feed->got == feed->size && size > 0);
	feed->size = size;
	feed->got = 0;
	if (size > INTAKE_BLOCK)
		return file_new (feed, inode, path, err);
	struct intake_block *block = feed->block;
	if (block && (block->n == INTAKE_ITEMS || size > INTAKE_BLOCK - block->used)) {
		int r = block_submit (feed, err);
		if (r < 0)
			return r;
	}
	if (!feed->block) {
		int r = block_get (feed, &feed->block, err);
		if (r < 0)
			return r;
	}
	block = feed->block;
	block->items[block->n++] =
	    (struct intake_item){ inode, path, (uint32_t) block->used, (uint32_t) size };
	return 0;
}

int
feed_data (struct feed *feed, const void *data, size_t len, struct silo_error *err)
{
	const unsigned char *from = data;
	assert (len <= feed->size - feed->got);
	while (len > 0) {
		if (!feed->block) {
			int r = block_get (feed, &feed->block, err);
			if (r < 0)
				return r;
		}
		struct intake_block *block = feed->block;
		size_t room = INTAKE_BLOCK - block->used;
		size_t n = len < room ? len : room;
		memcpy (block->data + block->used, from, n);
		block->used += n;
		feed->got += n;
		from += n;
		len -= n;
		/* Blocks of small files are handed over when the next one does not fit. */
		if (!feed->file || (n < room && feed->got < feed->size))
			continue;
		int r = block_submit (feed, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int
feed_end (struct feed *feed, struct silo_error *err)
{
	struct intake *intake = feed->intake;
	assert (feed->got == feed->size);
	int r = block_submit (feed, err);
	if (r < 0)
		return r;
	scope_lock (&intake->lock);
	while (feed->pending > 0)
		wait_done (intake);
	return intake_error (intake, err);
}

void
feed_clear (struct feed *feed)
{
	struct intake *intake = feed->intake;
	if (!intake)
		return;
	scope_lock (&intake->lock);
	if (feed->block)
		block_release (intake, silo_steal (&feed->block));
	/* A file that a thread still works at goes with the queue. */
	struct intake_file *file = silo_steal (&feed->file);
	if (!file)
		return;
	while (file->busy)
		wait_done (intake);
	feed->pending--;
	file_release (intake, file);
}
