/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool.c - threads that run what may block: operations of plugins.  Threads
 * start when work waits and nobody is free, up to a maximum, and stay.  The
 * loop hands jobs in and gets each back as a post.
 */
#include "core.h"

#include <signal.h>

struct pool {
	struct loop *loop;
	pthread_mutex_t lock; /* protects everything below */
	pthread_cond_t work;
	struct pool_job *first, *last;
	size_t waiting; /* jobs in the list */
	int idle;       /* threads that wait for one */
	int n, max;
	bool stop;
	pthread_t *threads;
};

int
pool_new (struct loop *loop, int max_threads, struct pool **ret, struct silo_error *err)
{
	struct pool *pool = calloc (1, sizeof (*pool));
	if (!pool)
		return silo_fail_nomem (err);
	pool->threads = calloc ((size_t) max_threads, sizeof (*pool->threads));
	if (!pool->threads) {
		free (pool);
		return silo_fail_nomem (err);
	}
	pool->loop = loop;
	pool->max = max_threads;
	pthread_mutex_init (&pool->lock, NULL);
	pthread_cond_init (&pool->work, NULL);
	*ret = pool;
	return 0;
}

static void *
pool_thread (void *arg)
{
	struct pool *pool = arg;

	pthread_mutex_lock (&pool->lock);
	for (;;) {
		while (!pool->first && !pool->stop) {
			pool->idle++;
			pthread_cond_wait (&pool->work, &pool->lock);
			pool->idle--;
		}
		struct pool_job *job = pool->first;
		if (!job)
			break;
		pool->first = job->next;
		pool->waiting--;
		pthread_mutex_unlock (&pool->lock);
		job->work (job->arg);
		loop_post (pool->loop, &job->post, job->done, job->arg);
		pthread_mutex_lock (&pool->lock);
	}
	pthread_mutex_unlock (&pool->lock);
	return NULL;
}

/* Called with the lock held.  A pool that could not start its first thread runs no job, so
 * that one has to succeed; later ones are a matter of speed. */
static void
pool_grow (struct pool *pool)
{
	sigset_t all, old;

	sigfillset (&all);
	pthread_sigmask (SIG_SETMASK, &all, &old);
	if (pthread_create (&pool->threads[pool->n], NULL, pool_thread, pool) == 0)
		pool->n++;
	pthread_sigmask (SIG_SETMASK, &old, NULL);
	assert (pool->n > 0);
}

void
pool_run (struct pool *pool, struct pool_job *job, loop_fn *work, loop_fn *done, void *arg)
{
	job->next = NULL;
	job->work = work;
	job->done = done;
	job->arg = arg;
	scope_lock (&pool->lock);
	if (pool->first)
		pool->last->next = job;
	else
		pool->first = job;
	pool->last = job;
	pool->waiting++;
	if ((size_t) pool->idle < pool->waiting && pool->n < pool->max)
		pool_grow (pool);
	pthread_cond_signal (&pool->work);
}

void
pool_free (struct pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock (&pool->lock);
	pool->stop = true;
	pthread_cond_broadcast (&pool->work);
	pthread_mutex_unlock (&pool->lock);
	for (int i = 0; i < pool->n; i++)
		pthread_join (pool->threads[i], NULL);
	pthread_cond_destroy (&pool->work);
	pthread_mutex_destroy (&pool->lock);
	free (pool->threads);
	free (pool);
}
