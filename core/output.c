/* SPDX-License-Identifier: Apache-2.0 */
/*
 * output.c - a worker's stdout and stderr: read as they come, cut at the marks
 * that the runner writes after each task (docs/formats/bridge.md), handed to
 * the call that runs.  Loop thread.
 */
#include "engine.h"

#include <fcntl.h>
#include <sys/epoll.h>

#define MARK_BYTE   0x1e
#define MARK_SIZE   (WORKER_MARK + 2)
#define READ_SIZE   65536
#define MARK_WAIT   2000000000 /* ns that a mark may come after the result that announced it */
#define DRAIN_READS 64         /* of READ_SIZE: more than a pipe can hold */

/* Bytes of user code, without marks. */
static void
stream_deliver (struct stream *stream, const char *data, size_t len)
{
	struct worker *worker = stream->worker;

	if (!len)
		return;
	if (worker->call && worker->call->step == CALL_RUN) {
		call_output (worker->call, stream->number, data, len);
		return;
	}
	/* Before its first task this explains a start that fails; later, a thread that user
	 * code left behind is talking to nobody. */
	size_t room = worker->boot_log.max - worker->boot_log.len;
	if (worker->state == WORKER_BOOTING)
		silo_buf_add (&worker->boot_log, data, len < room ? len : room, NULL);
}

/* How much of a mark do these bytes begin with?  MARK_SIZE: all of it; 0: no mark. */
static size_t
mark_prefix (const struct worker *worker, const char *data, size_t len)
{
	size_t n = len < MARK_SIZE ? len : MARK_SIZE;

	if (data[0] != MARK_BYTE)
		return 0;
	size_t digits = n - 1 < WORKER_MARK ? n - 1 : WORKER_MARK;
	if (memcmp (data + 1, worker->mark, digits) != 0)
		return 0;
	if (n == MARK_SIZE && data[MARK_SIZE - 1] != '\n')
		return 0;
	return n;
}

/* `data` has room for a carry in front of it and begins with it. */
static void
stream_feed (struct stream *stream, const char *data, size_t len)
{
	const char *from = data, *end = data + len;

	for (const char *p = data; (p = memchr (p, MARK_BYTE, (size_t) (end - p)));) {
		size_t n = mark_prefix (stream->worker, p, (size_t) (end - p));
		if (n == 0) {
			p++;
			continue;
		}
		stream_deliver (stream, from, (size_t) (p - from));
		from = p;
		if (n < MARK_SIZE)
			break; /* the rest has not come yet */
		stream->marks++;
		from = p = p + MARK_SIZE;
	}
	/* What is left is a beginning of a mark only if it starts with one. */
	size_t left = (size_t) (end - from);
	if (left && left < MARK_SIZE && mark_prefix (stream->worker, from, left) == left) {
		memcpy (stream->carry, from, left);
		stream->n_carry = left;
	} else {
		stream_deliver (stream, from, left);
	}
}

static void
stream_close (struct worker *worker, struct stream *stream)
{
	if (stream->fd < 0)
		return;
	if (stream->n_carry)
		stream_deliver (stream, stream->carry, stream->n_carry);
	stream->n_carry = 0;
	loop_unwatch (worker->engine->core->loop, &stream->io);
	close (stream->fd);
	stream->fd = -1;
}

/* One read.  False when there is nothing (more) to be had now. */
static bool
stream_read (struct stream *stream)
{
	char buf[MARK_SIZE + READ_SIZE];
	struct worker *worker = stream->worker;
	size_t carried = stream->n_carry;

	if (stream->fd < 0)
		return false;
	memcpy (buf, stream->carry, carried);
	ssize_t n = read (stream->fd, buf + carried, READ_SIZE);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		stream_close (worker, stream);
		return false;
	}
	stream->n_carry = 0;
	stream_feed (stream, buf, carried + (size_t) n);
	return true;
}

static void
stream_ready (void *arg, uint32_t events SILO_UNUSED)
{
	struct stream *stream = arg;
	struct worker *worker = stream->worker;

	stream_read (stream);
	if (worker->call && worker->call->step == CALL_RUN)
		call_output_done (worker->call, false);
}

int
output_open (struct worker *worker, struct silo_error *err)
{
	int fds[2] = { worker->process.out, worker->process.err };

	for (int i = 0; i < 2; i++) {
		struct stream *stream = &worker->streams[i];
		int flags = fcntl (fds[i], F_GETFL);

		if (flags < 0 || fcntl (fds[i], F_SETFL, flags | O_NONBLOCK) < 0)
			return silo_fail_sys (err, errno, "output of worker %s", worker->id);
		int r = loop_watch (worker->engine->core->loop, &stream->io, fds[i], EPOLLIN,
				    stream_ready, stream, err);
		if (r < 0)
			return r;
		stream->fd = fds[i];
		if (i == 0)
			worker->process.out = -1;
		else
			worker->process.err = -1;
	}
	return 0;
}

void
output_close (struct worker *worker)
{
	loop_disarm (worker->engine->core->loop, &worker->mark_timer);
	for (int i = 0; i < 2; i++)
		stream_close (worker, &worker->streams[i]);
}

void
output_begin (struct worker *worker)
{
	for (int i = 0; i < 2; i++)
		worker->streams[i].marks = 0;
}

void
output_hold (struct worker *worker, bool hold)
{
	for (int i = 0; i < 2; i++)
		if (worker->streams[i].fd >= 0)
			loop_rewatch (worker->engine->core->loop, &worker->streams[i].io,
				      hold ? 0 : EPOLLIN);
}

void
output_drain (struct worker *worker)
{
	for (int i = 0; i < 2; i++)
		for (int n = 0; n < DRAIN_READS && stream_read (&worker->streams[i]); n++)
			;
}

static void
marks_late (void *arg)
{
	struct worker *worker = arg;
	struct call *call = worker->call;

	if (!call || call->marks < 0)
		return;
	if (call->hold) {
		output_await (worker);
		return;
	}
	silo_log (&worker->engine->core->host, SILO_WARN,
		  "task %lld: its output did not end with a mark", (long long) call->task->id);
	call_output_done (call, true);
}

void
output_await (struct worker *worker)
{
	loop_arm (worker->engine->core->loop, &worker->mark_timer, silo_monotonic () + MARK_WAIT,
		  marks_late, worker);
}
