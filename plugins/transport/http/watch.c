/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch.c - cuts off connections whose request takes too long to arrive.
 * libmicrohttpd's own timeout knows only silence: a byte now and then keeps a
 * connection for ever.  One thread, which sleeps without a timeout when nobody
 * is being waited for.  Called by the libmicrohttpd threads.
 */
#include "http.h"

#include <sys/socket.h>
#include <time.h>

static void
watch_unlink (struct watch *watch, struct peer *peer)
{
	if (peer->prev)
		peer->prev->next = peer->next;
	else
		watch->first = peer->next;
	if (peer->next)
		peer->next->prev = peer->prev;
	else
		watch->last = peer->prev;
	peer->watched = false;
}

void
watch_add (struct watch *watch, struct peer *peer)
{
	pthread_mutex_lock (&watch->lock);
	assert (!peer->watched);
	peer->watched = true;
	peer->deadline = silo_monotonic () + watch->timeout;
	peer->next = NULL;
	peer->prev = watch->last;
	if (watch->last)
		watch->last->next = peer;
	else
		watch->first = peer;
	watch->last = peer;
	if (watch->asleep)
		pthread_cond_signal (&watch->changed);
	watch->asleep = false;
	pthread_mutex_unlock (&watch->lock);
}

void
watch_remove (struct watch *watch, struct peer *peer)
{
	pthread_mutex_lock (&watch->lock);
	if (peer->watched)
		watch_unlink (watch, peer);
	pthread_mutex_unlock (&watch->lock);
}

static void *
watch_run (void *arg)
{
	struct watch *watch = arg;

	pthread_mutex_lock (&watch->lock);
	while (!watch->closing) {
		int64_t now = silo_monotonic ();
		while (watch->first && watch->first->deadline <= now) {
			/* libmicrohttpd sees the end and closes; it removes a peer before it
			 * closes the descriptor, which is why this one is still the peer's. */
			shutdown (watch->first->fd, SHUT_RDWR);
			watch_unlink (watch, watch->first);
		}
		if (!watch->first) {
			watch->asleep = true;
			pthread_cond_wait (&watch->changed, &watch->lock);
			continue;
		}
		const struct timespec due = { watch->first->deadline / 1000000000,
					      watch->first->deadline % 1000000000 };
		pthread_cond_timedwait (&watch->changed, &watch->lock, &due);
	}
	pthread_mutex_unlock (&watch->lock);
	return NULL;
}

int
watch_open (struct watch *watch, int64_t timeout_ms, struct silo_error *err)
{
	pthread_condattr_t attr;

	*watch = (struct watch){ .timeout = timeout_ms * 1000000 };
	pthread_mutex_init (&watch->lock, NULL);
	pthread_condattr_init (&attr);
	pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
	pthread_cond_init (&watch->changed, &attr);
	pthread_condattr_destroy (&attr);
	int r = pthread_create (&watch->thread, NULL, watch_run, watch);
	watch->running = r == 0;
	if (r != 0) {
		watch_close (watch);
		return silo_fail_sys (err, r, "thread for slow connections");
	}
	return 0;
}

void
watch_close (struct watch *watch)
{
	if (watch->running) {
		pthread_mutex_lock (&watch->lock);
		watch->closing = true;
		pthread_cond_signal (&watch->changed);
		pthread_mutex_unlock (&watch->lock);
		pthread_join (watch->thread, NULL);
		watch->running = false;
	}
	assert (!watch->first);
	pthread_cond_destroy (&watch->changed);
	pthread_mutex_destroy (&watch->lock);
}
