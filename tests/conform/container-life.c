/* SPDX-License-Identifier: Apache-2.0 */
/*
 * container-life.c - kill, remove and list; containers whose daemon or whose
 * starter was killed; many at once; containers that cannot start.
 */
#include "container.h"

#include <sys/pidfd.h>

#define SLEEPER "echo ready; while :; do sleep 1000; done"

/* A container that runs until it is ended. */
static void
sleeper (struct box *box, struct run *run)
{
	struct silo_error err = { 0 };
	box_init (box, run, SLEEPER);
	if (box_start (box, run, &err) < 0)
		tap_bail ("start: %s", err.msg);
	if (!box_expect (box, "ready\n"))
		tap_bail ("container %s has not started: %s", box->id,
			  box->text.data ? (char *) box->text.data : "");
}

static void
test_kill (struct run *run)
{
	struct silo_error err = { 0 };
	struct box box;

	box_init (&box, run,
		  "trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.1; done");
	tap_is_int (box_start (&box, run, &err), 0, "starts");
	box_expect (&box, "ready\n");
	tap_is_int (box_kill (&box, run, SIGTERM), 0, "SIGTERM");
	tap_is_int (box_wait (&box), 9, "is heard");
	tap_is_str ((char *) box.out.data, "ready\nbye\n", "and answered");
	tap_is_int (box_kill (&box, run, SIGTERM), SILO_NOTFOUND, "then there is nobody");
	tap_is_int (box_remove (&box, run), 0, "remove after the end");
	box_free (&box);

	sleeper (&box, run);
	tap_is_int (box_kill (&box, run, SIGKILL), 0, "SIGKILL");
	tap_is_int (box_wait (&box), 128 + SIGKILL, "cannot be refused");
	tap_is_int (box_remove (&box, run), 0, "remove");
	box_free (&box);

	box_init (&box, run,
		  "setsid sh -c 'sleep 1000; :' $0 & sh -c 'sleep 1000 & exit' $0; "
		  "echo ready; exit 5");
	tap_is_int (box_run (&box, run), 5, "the end of the first process");
	tap_ok (nothing_left (run, box.id) && nothing_left (run, run->mark),
		"is the end of all others");
	box_free (&box);
	tap_is_int (instance_call (run->c->instance, container, kill, "no-such-one", SIGTERM, &err),
		    SILO_NOTFOUND, "kill what is not there: %s", err.msg);
}

static void
test_remove (struct run *run)
{
	struct silo_error err = { 0 };
	struct box box, other;

	sleeper (&box, run);
	sleeper (&other, run);
	tap_ok (is_listed (run->c->instance, box.id), "a live one is listed");
	tap_is_int (box_remove (&box, run), 0, "remove a live one");
	tap_is_int (box_wait (&box), 128 + SIGKILL, "ends it");
	tap_ok (nothing_left (run, box.id), "without a trace");
	tap_is_int (box_remove (&box, run), 0, "remove it again");
	tap_ok (is_listed (run->c->instance, other.id), "the other one is still there");
	tap_is_int (box_remove (&other, run), 0, "until it is removed");
	box_wait (&other);
	tap_is_int (instance_call (run->c->instance, container, remove, "never-was", &err), 0,
		    "remove what never was");
	box_free (&box);
	box_free (&other);

	/* At once: whatever the start has reached by then. */
	for (int i = 0; i < 5; i++) {
		box_init (&box, run, SLEEPER);
		if (box_start (&box, run, &err) < 0)
			tap_bail ("start: %s", err.msg);
		int r = box_remove (&box, run);
		int status = box_wait (&box);
		tap_ok (r == 0 && status != 0 && nothing_left (run, box.id),
			"removed while it starts");
		box_free (&box);
	}
}

/* The process that the core watches is killed; the container may live on. */
static void
test_starter_killed (struct run *run)
{
	struct box box;

	sleeper (&box, run);
	pidfd_send_signal (box.process.pidfd, SIGKILL, NULL, 0);
	int status = 0;
	silo_process_wait (&box.process, &status, NULL);
	tap_is_int (status, 128 + SIGKILL, "its starter was killed");
	tap_is_int (box_remove (&box, run), 0, "it can be removed");
	tap_ok (nothing_left (run, box.id), "without a trace");
	box_free (&box);
}

int
life_crash (struct run *run)
{
	struct box box;
	snprintf (run->mark, sizeof (run->mark), "%s", run->c->role);
	sleeper (&box, run);
	puts ("crash-ready");
	fflush (stdout);
	for (;;)
		pause ();
}

/* kill -9 of a whole daemon; the next one finds and removes its containers. */
static void
test_crash (struct run *run)
{
	char role[64], said[256] = "";
	struct silo_process daemon;
	int status = 0;

	snprintf (role, sizeof (role), "%s-crash", run->mark);
	conform_spawn (run->c, role, &daemon);
	size_t len = 0;
	for (ssize_t n; !strstr (said, "crash-ready") && len < sizeof (said) - 1; len += (size_t) n)
		if ((n = read (daemon.out, said + len, sizeof (said) - 1 - len)) <= 0)
			break;
	tap_ok (strstr (said, "crash-ready") != NULL, "another daemon has a container");
	pidfd_send_signal (daemon.pidfd, SIGKILL, NULL, 0);
	silo_process_wait (&daemon, &status, NULL);

	char id[80];
	struct silo_error err = { 0 };
	struct silo_instance *next =
	    conform_add (run->c, SILO_KIND_CONTAINER, run->c->plugin, run->c->options);
	snprintf (id, sizeof (id), "%s-1", role);
	tap_ok (is_listed (next, id), "the next daemon finds it");
	tap_is_int (instance_call (next, container, remove, id, &err), 0, "and removes it");
	tap_ok (nothing_left (run, role), "without a trace");
}

static void *
crowd_member (void *arg)
{
	struct run *run = arg;
	intptr_t good = 0;

	for (int i = 0; i < 3; i++) {
		struct box box;
		box_init (&box, run, "echo $((6 * 7)); exit 4");
		if (box_run (&box, run) == 4 && box.out.data &&
		    strcmp ((char *) box.out.data, "42\n") == 0)
			good++;
		else
			tap_note ("%s: %s", box.id, box.text.data ? (char *) box.text.data : "");
		box_free (&box);
	}
	return (void *) good;
}

static void
test_crowd (struct run *run)
{
	pthread_t threads[8];
	int64_t good = 0;

	for (size_t i = 0; i < ARRAY_SIZE (threads); i++)
		if (pthread_create (&threads[i], NULL, crowd_member, run) != 0)
			tap_bail ("thread");
	for (size_t i = 0; i < ARRAY_SIZE (threads); i++) {
		void *ret = NULL;
		pthread_join (threads[i], &ret);
		good += (intptr_t) ret;
	}
	tap_is_int (good, 24, "8 at once, three times");
}

/* Either start says so, or the process ends with a message. */
static void
fails (struct run *run, struct box *box, const char *word, const char *what)
{
	struct silo_error err = { 0 };
	int r = box_start (box, run, &err);
	if (r == 0) {
		r = box_wait (box) != 0 ? -1 : 0;
		snprintf (err.msg, sizeof (err.msg), "%.200s",
			  box->text.data ? (char *) box->text.data : "");
	}
	tap_ok (r < 0 && strstr (err.msg, word), "%s: %.*s", what, (int) strcspn (err.msg, "\n"),
		err.msg);
	tap_is_int (box_remove (box, run), 0, "and is removed");
	tap_ok (nothing_left (run, box->id), "without a trace");
	box_free (box);
}

static void
test_failures (struct run *run)
{
	const struct silo_bind bind = { "/no/such/source", "/.silo/x", false };
	struct silo_error err = { 0 };
	struct box box, twin;

	box_init (&box, run, "");
	box_argv (&box, (const char *const[]){ "/no/such/program", NULL });
	fails (run, &box, "/no/such/program", "no such program");
	box_init (&box, run, "");
	box_argv (&box, (const char *const[]){ "no-such-program", NULL });
	fails (run, &box, "no-such-program", "not in PATH");
	box_init (&box, run, "");
	box_argv (&box, (const char *const[]){ "/etc/passwd", NULL });
	fails (run, &box, "ermission denied", "not a program");
	box_init (&box, run, "true");
	box.spec.rootfs = "/no/such/root";
	fails (run, &box, "/no/such/root", "no root");
	box_init (&box, run, "true");
	box.spec.binds = &bind;
	box.spec.n_binds = 1;
	fails (run, &box, "/no/such/source", "no source of a bind");

	static const char *const bad[] = { "", "UPPER", "a/b", "..", "a b" };
	for (size_t i = 0; i < ARRAY_SIZE (bad); i++) {
		box_init (&box, run, "true");
		box.spec.id = bad[i];
		tap_is_int (box_start (&box, run, &err), SILO_INVALID, "id \"%s\": %s", bad[i],
			    err.msg);
	}

	sleeper (&box, run);
	box_init (&twin, run, "true");
	twin.spec.id = box.id;
	tap_ok (box_start (&twin, run, &err) < 0, "an id that lives: %s", err.msg);
	tap_is_int (box_kill (&box, run, SIGKILL), 0, "which is still there");
	tap_is_int (box_wait (&box), 128 + SIGKILL, "until it is killed");
	box_remove (&box, run);
	box_free (&box);
	box_free (&twin);
}

void
test_life (struct run *run)
{
	test_kill (run);
	test_remove (run);
	test_starter_killed (run);
	test_crash (run);
	test_crowd (run);
	test_failures (run);
}
