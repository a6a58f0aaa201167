/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.c - the daemon's one event loop: descriptors (epoll), timers (a heap on
 * CLOCK_MONOTONIC), and functions posted from other threads (a list under a
 * mutex, woken by an eventfd).  The thread in loop_run owns all but the list.
 * With nothing to do it sleeps in epoll_wait without a timeout.
 */
#include "core.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

struct loop {
	int epoll;
	int wake;
	bool quit;
	pthread_t thread;
	bool running;

	pthread_mutex_t lock; /* protects first, last */
	struct loop_post *first, *last;

	struct loop_timer **heap; /* heap[1] is the next one due */
	size_t n_timers, n_reserved, cap_timers;

	/* The batch that epoll_wait gave, so that loop_unwatch can take a descriptor out of it
	 * before its owner is freed. */
	struct epoll_event batch[64];
	int n_batch;
};

int
loop_new (struct loop **ret, struct silo_error *err)
{
	struct loop *loop = calloc (1, sizeof (*loop));
	if (!loop)
		return silo_fail_nomem (err);
	loop->epoll = epoll_create1 (EPOLL_CLOEXEC);
	loop->wake = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init (&loop->lock, NULL);

	struct epoll_event event = { .events = EPOLLIN, .data.ptr = NULL };
	if (loop->epoll < 0 || loop->wake < 0 ||
	    epoll_ctl (loop->epoll, EPOLL_CTL_ADD, loop->wake, &event) < 0) {
		int sys = errno;
		loop_free (loop);
		return silo_fail_sys (err, sys, "event loop");
	}
	*ret = loop;
	return 0;
}

void
loop_free (struct loop *loop)
{
	if (!loop)
		return;
	if (loop->epoll >= 0)
		close (loop->epoll);
	if (loop->wake >= 0)
		close (loop->wake);
	pthread_mutex_destroy (&loop->lock);
	free (loop->heap);
	free (loop);
}

bool
loop_here (struct loop *loop)
{
	return loop->running && pthread_equal (loop->thread, pthread_self ());
}

void
loop_quit (struct loop *loop)
{
	loop->quit = true;
}

/* -- posts --------------------------------------------------------------- */

void
loop_post (struct loop *loop, struct loop_post *post, loop_fn *fn, void *arg)
{
	bool first;

	post->next = NULL;
	post->fn = fn;
	post->arg = arg;
	pthread_mutex_lock (&loop->lock);
	first = !loop->first;
	if (first)
		loop->first = post;
	else
		loop->last->next = post;
	loop->last = post;
	pthread_mutex_unlock (&loop->lock);
	if (first) {
		uint64_t one = 1;
		/* Cannot fail: the counter never comes near its limit. */
		ssize_t n = write (loop->wake, &one, sizeof (one));
		(void) n;
	}
}

static void
loop_run_posts (struct loop *loop)
{
	uint64_t count;
	ssize_t n = read (loop->wake, &count, sizeof (count));
	(void) n;

	pthread_mutex_lock (&loop->lock);
	struct loop_post *post = loop->first;
	loop->first = loop->last = NULL;
	pthread_mutex_unlock (&loop->lock);

	while (post) {
		/* fn may free the post. */
		struct loop_post *next = post->next;
		post->fn (post->arg);
		post = next;
	}
}

/* -- descriptors ----------------------------------------------------------- */

int
loop_watch (struct loop *loop, struct loop_io *io, int fd, uint32_t events, loop_io_fn *fn,
	    void *arg, struct silo_error *err)
{
	struct epoll_event event = { .events = events, .data.ptr = io };

	if (epoll_ctl (loop->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
		return silo_fail_sys (err, errno, "watching descriptor %d", fd);
	io->fd = fd;
	io->fn = fn;
	io->arg = arg;
	return 0;
}

void
loop_rewatch (struct loop *loop, struct loop_io *io, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = io };
	int r = epoll_ctl (loop->epoll, EPOLL_CTL_MOD, io->fd, &event);
	assert (r == 0);
}

void
loop_unwatch (struct loop *loop, struct loop_io *io)
{
	if (io->fd < 0)
		return;
	int r = epoll_ctl (loop->epoll, EPOLL_CTL_DEL, io->fd, NULL);
	assert (r == 0);
	io->fd = -1;
	for (int i = 0; i < loop->n_batch; i++)
		if (loop->batch[i].data.ptr == io)
			loop->batch[i].events = 0;
}

/* -- timers: a binary heap ordered by `due` ---------------------------------- */

static void
timer_put (struct loop *loop, size_t slot, struct loop_timer *timer)
{
	loop->heap[slot] = timer;
	timer->slot = slot;
}

static void
timer_sift (struct loop *loop, size_t slot)
{
	struct loop_timer *timer = loop->heap[slot];

	while (slot > 1 && loop->heap[slot / 2]->due > timer->due) {
		timer_put (loop, slot, loop->heap[slot / 2]);
		slot /= 2;
	}
	for (;;) {
		size_t child = slot * 2;
		if (child > loop->n_timers)
			break;
		if (child < loop->n_timers && loop->heap[child + 1]->due < loop->heap[child]->due)
			child++;
		if (loop->heap[child]->due >= timer->due)
			break;
		timer_put (loop, slot, loop->heap[child]);
		slot = child;
	}
	timer_put (loop, slot, timer);
}

int
loop_reserve (struct loop *loop, size_t n, struct silo_error *err)
{
	size_t need = loop->n_reserved + n + 1;

	if (need > loop->cap_timers) {
		size_t cap = need * 2 < 64 ? 64 : need * 2;
		void *heap = realloc (loop->heap, cap * sizeof (*loop->heap));
		if (!heap)
			return silo_fail_nomem (err);
		loop->heap = heap;
		loop->cap_timers = cap;
	}
	loop->n_reserved += n;
	return 0;
}

void
loop_unreserve (struct loop *loop, size_t n)
{
	assert (loop->n_reserved >= n);
	loop->n_reserved -= n;
}

void
loop_arm (struct loop *loop, struct loop_timer *timer, int64_t due, loop_fn *fn, void *arg)
{
	timer->fn = fn;
	timer->arg = arg;
	timer->due = due;
	if (!timer->slot) {
		assert (loop->n_timers < loop->n_reserved);
		timer->slot = ++loop->n_timers;
		loop->heap[timer->slot] = timer;
	}
	timer_sift (loop, timer->slot);
}

void
loop_disarm (struct loop *loop, struct loop_timer *timer)
{
	size_t slot = timer->slot;

	if (!slot)
		return;
	timer->slot = 0;
	struct loop_timer *last = loop->heap[loop->n_timers--];
	if (last != timer) {
		timer_put (loop, slot, last);
		timer_sift (loop, slot);
	}
}

static void
loop_run_timers (struct loop *loop)
{
	int64_t now = silo_monotonic ();

	while (loop->n_timers && loop->heap[1]->due <= now) {
		struct loop_timer *timer = loop->heap[1];
		loop_disarm (loop, timer);
		timer->fn (timer->arg);
	}
}

static int
loop_timeout (struct loop *loop)
{
	if (!loop->n_timers)
		return -1;
	int64_t left = loop->heap[1]->due - silo_monotonic ();
	if (left <= 0)
		return 0;
	/* Round up: waking early would spin until the time has come. */
	int64_t ms = (left + 999999) / 1000000;
	return ms > 3600000 ? 3600000 : (int) ms;
}

int
loop_run (struct loop *loop, struct silo_error *err)
{
	loop->thread = pthread_self ();
	loop->running = true;
	loop->quit = false;
	while (!loop->quit) {
		int n = epoll_wait (loop->epoll, loop->batch, ARRAY_SIZE (loop->batch),
				    loop_timeout (loop));
		if (n < 0 && errno != EINTR)
			return silo_fail_sys (err, errno, "epoll_wait");
		loop->n_batch = n < 0 ? 0 : n;
		for (int i = 0; i < loop->n_batch; i++) {
			struct loop_io *io = loop->batch[i].data.ptr;
			if (!loop->batch[i].events)
				continue;
			if (!io)
				loop_run_posts (loop);
			else
				io->fn (io->arg, loop->batch[i].events);
		}
		loop->n_batch = 0;
		loop_run_timers (loop);
	}
	return 0;
}
