/* SPDX-License-Identifier: Apache-2.0 */
/*
 * output.c - unit tests of core/output.c: a worker's two pipes, written to by
 * the test in pieces of its choice.  However the bytes are cut, those around
 * the marks reach the call once and in order, and the marks never do.
 */
#include "engine.h"
#include "tap.h"

#include <fcntl.h>

#define MARK   \
	"\x1e" \
	"0123456789abcdef0123456789abcdef\n"
#define MARK_LEN 34u
#define KEPT     1000
#define LONGEST  ((size_t) 1 << 20)

_Static_assert(sizeof (MARK) - 1 == MARK_LEN, "MARK_LEN");

struct fixture {
	struct settings settings;
	struct core core;
	struct engine engine;
	struct worker worker;
	struct call *call;
	int in[2];              /* the worker's ends of its stdout and stderr */
	struct silo_buf got[2]; /* what came in OUTPUT events */
	struct silo_result result;
	bool ended; /* the RESULT event has come */
};

static void
note_event (void *arg, const struct silo_event *event)
{
	struct fixture *f = arg;

	if (event->type == SILO_EVENT_RESULT) {
		f->ended = true;
		f->call = NULL; /* it frees itself */
		loop_quit (f->core.loop);
	} else if (event->type == SILO_EVENT_OUTPUT) {
		struct silo_bytes data = event->data;
		if (silo_buf_add (&f->got[event->stream - 1], data.data, data.len, NULL) < 0)
			tap_bail ("more output than was written");
	}
}

static struct fixture *
fixture_new (void)
{
	static const struct silo_task task = {
		.name = "f", .image = "i", .python = "", .source = ""
	};
	struct fixture *f = calloc (1, sizeof (*f));
	struct silo_error err;

	if (!f || loop_new (&f->core.loop, &err) < 0)
		tap_bail ("no loop");
	loop_reserve (f->core.loop, 4, &err);
	f->settings.output_limit = KEPT;
	f->core.settings = &f->settings;
	f->engine.core = &f->core;
	f->worker.engine = &f->engine;
	f->worker.state = WORKER_BUSY;
	f->worker.boot_log.max = 16;
	memcpy (f->worker.mark, &MARK[1], WORKER_MARK);
	for (int i = 0; i < 2; i++) {
		int ends[2];
		if (pipe2 (ends, O_CLOEXEC) < 0)
			tap_bail ("no pipe");
		f->in[i] = ends[1];
		*(i ? &f->worker.process.err : &f->worker.process.out) = ends[0];
		f->worker.streams[i].worker = &f->worker;
		f->worker.streams[i].number = i + 1;
		f->worker.streams[i].fd = -1;
		f->got[i].max = LONGEST;
	}
	if (output_open (&f->worker, &err) < 0 ||
	    call_new (&f->engine, &task, (struct silo_bytes){ 0 }, note_event, f, &f->call, &err) <
		0)
		tap_bail ("no worker: %s", err.msg);
	f->call->step = CALL_RUN;
	f->call->worker = &f->worker;
	f->worker.call = f->call;
	return f;
}

static void
fixture_free (struct fixture *f)
{
	output_close (&f->worker);
	call_free (f->call);
	for (int i = 0; i < 2; i++) {
		if (f->in[i] >= 0)
			close (f->in[i]);
		silo_buf_free (&f->got[i]);
	}
	silo_buf_free (&f->worker.boot_log);
	loop_free (f->core.loop);
	free (f);
}

/* The worker writes; not more than a pipe holds. */
static void
put (struct fixture *f, int stream, const void *data, size_t len)
{
	if (write (f->in[stream], data, len) != (ssize_t) len)
		tap_bail ("short write into a pipe");
}

/* The same, read before the next piece comes. */
static void
feed (struct fixture *f, const void *data, size_t len)
{
	put (f, 0, data, len);
	output_drain (&f->worker);
}

static void
end (struct fixture *f, int stream)
{
	close (f->in[stream]);
	f->in[stream] = -1;
	output_drain (&f->worker);
}

/* -- texts of which every cut gives the same ----------------------------------------- */

struct text {
	const char *name, *data;
	size_t len;
	const char *want;
	size_t want_len;
	int marks;
};

#define TEXT(name, data, want, marks)                                         \
	{                                                                     \
		name, data, sizeof (data) - 1, want, sizeof (want) - 1, marks \
	}

static const struct text texts[] = {
	TEXT ("nothing but a mark", MARK, "", 1),
	TEXT ("a mark first", MARK "after", "after", 1),
	TEXT ("a mark last", "before" MARK, "before", 1),
	TEXT ("a mark amid", "before" MARK "after", "beforeafter", 1),
	TEXT ("marks side by side", MARK MARK MARK, "", 3),
	TEXT ("several marks", "a" MARK "b" MARK MARK "c\n" MARK, "abc\n", 4),
	TEXT ("a line end and a mark", "line\n" MARK "\n", "line\n\n", 1),
	TEXT ("zeros", "a\0b\0" MARK "\0\0", "a\0b\0\0\0", 1),
	TEXT ("no mark at all", "plain", "plain", 0),
	TEXT ("false: another byte follows", "a\x1e!b\x1e\n", "a\x1e!b\x1e\n", 0),
	TEXT ("false: two first bytes", "\x1e\x1e", "\x1e\x1e", 0),
	TEXT ("false: a first byte, then a mark", "\x1e" MARK "\x1e", "\x1e\x1e", 1),
	TEXT ("false: a beginning, then something else",
	      "\x1e"
	      "0123456789x" MARK,
	      "\x1e"
	      "0123456789x",
	      1),
	TEXT ("false: a beginning, then a mark",
	      "\x1e"
	      "01234" MARK "z",
	      "\x1e"
	      "01234z",
	      1),
	TEXT ("false: beginnings in a row",
	      "\x1e"
	      "0\x1e"
	      "01\x1e"
	      "0123\x1e"
	      "02",
	      "\x1e"
	      "0\x1e"
	      "01\x1e"
	      "0123\x1e"
	      "02",
	      0),
	TEXT ("false: all but the line end",
	      "\x1e"
	      "0123456789abcdef0123456789abcdef!",
	      "\x1e"
	      "0123456789abcdef0123456789abcdef!",
	      0),
	TEXT ("false: all but the line end, then a mark",
	      "\x1e"
	      "0123456789abcdef0123456789abcdef" MARK,
	      "\x1e"
	      "0123456789abcdef0123456789abcdef",
	      1),
	TEXT ("false: a mark without its first byte", "0123456789abcdef0123456789abcdef\n",
	      "0123456789abcdef0123456789abcdef\n", 0),
	TEXT ("the end: a first byte", "out" MARK "\x1e", "out\x1e", 1),
	TEXT ("the end: a beginning",
	      "out\x1e"
	      "0123",
	      "out\x1e"
	      "0123",
	      0),
	TEXT ("the end: a mark without its last byte",
	      "\x1e"
	      "0123456789abcdef0123456789abcdef",
	      "\x1e"
	      "0123456789abcdef0123456789abcdef",
	      0),
};

static bool
came (const struct fixture *f, const struct text *text)
{
	return f->got[0].len == text->want_len && f->worker.streams[0].marks == text->marks &&
	       (!text->want_len || memcmp (f->got[0].data, text->want, text->want_len) == 0);
}

/* In two pieces, cut at every place. */
static void
test_two_pieces (const struct text *text)
{
	size_t wrong = 0;

	for (size_t at = 0; at <= text->len; at++) {
		struct fixture *f = fixture_new ();
		feed (f, text->data, at);
		feed (f, text->data + at, text->len - at);
		end (f, 0);
		wrong += !came (f, text);
		fixture_free (f);
	}
	tap_is_int ((int64_t) wrong, 0, "%s: in two pieces", text->name);
}

static void
test_single_bytes (const struct text *text)
{
	struct fixture *f = fixture_new ();

	for (size_t i = 0; i < text->len; i++)
		feed (f, text->data + i, 1);
	end (f, 0);
	tap_is_mem (f->got[0].data, f->got[0].len, text->want, text->want_len, "%s: byte by byte",
		    text->name);
	tap_is_int (f->worker.streams[0].marks, text->marks, "%s: its marks", text->name);
	fixture_free (f);
}

/* -- what waits ------------------------------------------------------------------------ */

/* Only what may be a mark waits for the next read. */
static void
test_nothing_waits_in_vain (void)
{
	struct fixture *f = fixture_new ();

	feed (f, "prompt> ", 8);
	tap_is_int ((int64_t) f->got[0].len, 8, "what is no mark comes at once");
	feed (f,
	      "a\x1e"
	      "01",
	      4);
	tap_is_int ((int64_t) f->got[0].len, 9, "what may be one waits");
	feed (f, "x", 1);
	tap_is_mem (f->got[0].data, f->got[0].len,
		    "prompt> a\x1e"
		    "01x",
		    13, "and comes when it is none");
	feed (f, "\x1e", 1);
	tap_is_int ((int64_t) f->got[0].len, 13, "a first byte waits");
	end (f, 0);
	tap_is_int ((int64_t) f->got[0].len, 14, "and comes when the stream ends");
	tap_is_int (f->worker.streams[0].fd, -1, "the stream is closed");
	fixture_free (f);
}

static void
test_streams_apart (void)
{
	struct fixture *f = fixture_new ();

	put (f, 0,
	     "out\x1e"
	     "012",
	     7);
	put (f, 1, "err" MARK, 3 + MARK_LEN);
	output_drain (&f->worker);
	put (f, 0, &MARK[4], MARK_LEN - 4);
	output_drain (&f->worker);
	tap_is_mem (f->got[0].data, f->got[0].len, "out", 3, "stdout");
	tap_is_mem (f->got[1].data, f->got[1].len, "err", 3, "stderr");
	tap_is_int (f->worker.streams[0].marks * 10 + f->worker.streams[1].marks, 11,
		    "a mark of each");
	output_begin (&f->worker);
	tap_is_int (f->worker.streams[0].marks + f->worker.streams[1].marks, 0,
		    "the next call begins without marks");
	fixture_free (f);
}

/* -- chance --------------------------------------------------------------------------------- */

static uint32_t
chance (uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

/* A piece of output that is likely to be misread. */
static void
add_piece (struct silo_buf *buf, struct silo_buf *want, int *marks, uint32_t *state)
{
	static const char bytes[] = "\x1e\n0123456789abcdef";
	char noise[64];
	size_t len = 1 + chance (state) % sizeof (noise);

	switch (chance (state) % 3) {
	case 0:
		silo_buf_add (buf, MARK, MARK_LEN, NULL);
		++*marks;
		return;
	case 1:
		/* Ends in '!', so that no mark comes of it and the next piece. */
		len = 1 + chance (state) % (MARK_LEN - 1);
		memcpy (noise, MARK, len);
		noise[len++] = '!';
		break;
	default:
		for (size_t i = 0; i < len; i++)
			noise[i] = bytes[chance (state) % (sizeof (bytes) - 1)];
	}
	silo_buf_add (buf, noise, len, NULL);
	silo_buf_add (want, noise, len, NULL);
}

static void
test_chance (void)
{
	uint32_t state = 20011;
	int wrong = 0;

	for (int round = 0; round < 300; round++) {
		struct fixture *f = fixture_new ();
		struct silo_buf all = SILO_BUF (LONGEST), want = SILO_BUF (LONGEST);
		int marks = 0;

		for (int i = 0; i < 100; i++)
			add_piece (&all, &want, &marks, &state);
		for (size_t at = 0; at < all.len;) {
			size_t n = 1 + chance (&state) % (round % 2 ? 40 : 4000);
			n = n < all.len - at ? n : all.len - at;
			feed (f, all.data + at, n);
			at += n;
		}
		end (f, 0);
		if (want.len != f->got[0].len || f->worker.streams[0].marks != marks ||
		    (want.len && memcmp (want.data, f->got[0].data, want.len) != 0))
			wrong++;
		silo_buf_free (&all);
		silo_buf_free (&want);
		fixture_free (f);
	}
	tap_is_int (wrong, 0, "300 streams of marks and what looks like them, cut anywhere");
}

/* Pipes filled to the brim, so that marks lie across the ends of reads. */
static void
test_flood (void)
{
	struct fixture *f = fixture_new ();
	char block[60001];
	size_t sent = 0;
	int wrong = 0;

	for (size_t i = 0; i < sizeof (block); i++)
		block[i] = (char) ("\x1e"
				   "012!"[i % 5]);
	for (int i = 0; i < 12; i++, sent += sizeof (block)) {
		put (f, 0, block, sizeof (block));
		put (f, 0, MARK, MARK_LEN / 2);
		output_drain (&f->worker);
		put (f, 0, &MARK[MARK_LEN / 2], MARK_LEN / 2);
	}
	output_drain (&f->worker);
	tap_is_int ((int64_t) f->got[0].len, (int64_t) sent, "every byte of a flood came");
	for (size_t i = 0; i < f->got[0].len; i++)
		wrong += (char) f->got[0].data[i] != block[i % sizeof (block)];
	tap_is_int (wrong, 0, "in its order");
	tap_is_int (f->worker.streams[0].marks, 12, "and every mark in it was found");
	fixture_free (f);
}

/* -- where it goes --------------------------------------------------------------------------- */

static void
test_kept (void)
{
	struct fixture *f = fixture_new ();
	char block[KEPT];

	memset (block, 'x', sizeof (block));
	feed (f, block, KEPT - 1);
	feed (f, MARK, MARK_LEN);
	feed (f, "y" MARK, 1 + MARK_LEN);
	tap_is_int ((int64_t) f->call->out.len, KEPT, "output up to the limit is kept");
	tap_ok (!f->call->truncated, "nothing is missing, marks do not count");
	put (f, 1, "e", 1);
	feed (f, "z", 1);
	tap_ok (f->call->truncated, "one byte more is noted");
	tap_is_int ((int64_t) f->call->out.len, KEPT, "and not kept");
	tap_is_int (f->call->out.data[KEPT - 1], 'y', "it is the first bytes that are");
	tap_is_int ((int64_t) f->got[0].len, KEPT + 1, "the caller gets all of them");
	tap_is_mem (f->call->err.data, f->call->err.len, "e", 1, "stderr has a limit of its own");
	fixture_free (f);
}

static void
test_without_a_call (void)
{
	struct fixture *f = fixture_new ();

	f->worker.call = NULL;
	f->worker.state = WORKER_IDLE;
	feed (f, "from a thread left behind", 25);
	tap_is_int ((int64_t) f->worker.boot_log.len, 0, "an idle worker explains nothing");
	f->worker.state = WORKER_BOOTING;
	feed (f, "why it does not start", 21);
	tap_is_mem (f->worker.boot_log.data, f->worker.boot_log.len, "why it does not ", 16,
		    "a start is explained, up to a limit");
	tap_is_int ((int64_t) f->got[0].len, 0, "no call gets what was not its own");
	fixture_free (f);
}

/* The result came first and announced two marks: the call ends behind them. */
static void
test_end_of_a_call (bool closed)
{
	struct fixture *f = fixture_new ();
	struct call *call = f->call;
	struct silo_result *result = NULL;
	struct silo_error err;

	f->engine.calls = call;
	call->link = &f->engine.calls;
	atomic_store (&f->engine.n_calls, 1);
	f->worker.exited = true; /* so that the engine leaves it alone */
	f->result =
	    (struct silo_result){ .type = "", .message = "", .traceback = "", .timeline = "" };
	if (result_copy (&f->result, &result, &err) < 0)
		tap_bail ("no result");
	put (f, 0, "out" MARK, 3 + MARK_LEN);
	output_drain (&f->worker);
	call_result (call, result, 2);
	tap_ok (!f->ended, "one mark of two is not the end");
	put (f, 1, "err", 3);
	if (closed) {
		close (f->in[1]);
		f->in[1] = -1;
	} else {
		put (f, 1, MARK, MARK_LEN);
	}
	loop_run (f->core.loop, &err);
	tap_ok (f->ended, closed ? "the end of the other stream is" : "the other mark is");
	tap_is_mem (f->got[1].data, f->got[1].len, "err", 3, "all output came before");
	tap_is_int (atomic_load (&f->engine.n_calls), 0, "the call is gone");
	fixture_free (f);
}

int
main (void)
{
	for (size_t i = 0; i < ARRAY_SIZE (texts); i++) {
		test_two_pieces (&texts[i]);
		test_single_bytes (&texts[i]);
	}
	test_nothing_waits_in_vain ();
	test_streams_apart ();
	test_chance ();
	test_flood ();
	test_kept ();
	test_without_a_call ();
	test_end_of_a_call (false);
	test_end_of_a_call (true);
	return tap_done ();
}
