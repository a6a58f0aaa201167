/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.c - what happens at a fault point: nothing, unless $SILO_FAULT names it.
 * Called on any thread between two steps that a crash must not tear apart.
 * Compiled by --enable-faults only; tests/functional/test_crash.py finds the
 * points that a verb passes through $SILO_FAULT_LOG and kills it at each.
 */
#include "core.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>

#define FAULT_MAX_NAME 64

/* $SILO_FAULT, understood. */
struct fault {
	char point[FAULT_MAX_NAME];
	unsigned long nth;
	enum { FAULT_KILL, FAULT_ERROR, FAULT_ENOSPC, FAULT_WAIT } how;
};

static int
fault_parse (const char *text, struct fault *ret)
{
	static const char *const words[] = { "kill", "error", "enospc", "wait" };
	struct fault fault = { .nth = 1, .how = FAULT_KILL };
	size_t len = strcspn (text, "@=");
	if (len == 0 || len >= sizeof (fault.point))
		return -1;
	memcpy (fault.point, text, len);
	const char *at = text + len;
	if (*at == '@') {
		char *end;
		errno = 0;
		fault.nth = strtoul (at + 1, &end, 10);
		if (errno || end == at + 1 || fault.nth == 0)
			return -1;
		at = end;
	}
	if (*at == '=') {
		size_t i = 0;
		while (i < ARRAY_SIZE (words) && strcmp (at + 1, words[i]) != 0)
			i++;
		if (i == ARRAY_SIZE (words))
			return -1;
		fault.how = i;
	} else if (*at) {
		return -1;
	}
	*ret = fault;
	return 0;
}

static int
fault_log (const char *file, const char *point, struct silo_error *err)
{
	char line[FAULT_MAX_NAME + 1];
	size_t len = strlen (point);
	assert (len < FAULT_MAX_NAME);
	memcpy (line, point, len);
	line[len++] = '\n';
	_cleanup_close_ int fd = open (file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || write (fd, line, len) != (ssize_t) len)
		return silo_fail_sys (err, errno, "SILO_FAULT_LOG=%s", file);
	return 0;
}

/* This thread alone waits, so that a test sees what the others do meanwhile. */
static int
fault_wait (struct silo_error *err)
{
	const char *gate = secure_getenv ("SILO_FAULT_GATE");
	char byte;
	ssize_t n;
	if (!gate)
		return silo_fail (err, SILO_INVALID, "SILO_FAULT_GATE is not set");
	_cleanup_close_ int fd = open (gate, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && (n = read (fd, &byte, 1)) != 0)
		if (n < 0 && errno != EINTR)
			break;
	return fd < 0 ? silo_fail_sys (err, errno, "SILO_FAULT_GATE=%s", gate) : 0;
}

int
fault_at (const char *point, struct silo_error *err)
{
	/* How often the point of $SILO_FAULT, of which there is one per process, was passed.
	 * The one writable static of the core: a point has no object to keep it in, and what
	 * is released does not contain this file's code. */
	static atomic_ulong passed;
	const char *file = secure_getenv ("SILO_FAULT_LOG");
	const char *text = secure_getenv ("SILO_FAULT");
	struct fault fault;
	int r = file ? fault_log (file, point, err) : 0;
	if (r < 0 || !text)
		return r;
	if (fault_parse (text, &fault) < 0)
		return silo_fail (err, SILO_INVALID,
				  "SILO_FAULT=%.80s: expected POINT[@N][=kill|error|enospc|wait]",
				  text);
	if (strcmp (fault.point, point) != 0 || atomic_fetch_add (&passed, 1) + 1 != fault.nth)
		return 0;
	switch (fault.how) {
	case FAULT_ERROR:
		return silo_fail (err, SILO_INTERNAL, "fault point %s", point);
	case FAULT_ENOSPC:
		return silo_fail_sys (err, ENOSPC, "fault point %s", point);
	case FAULT_WAIT:
		return fault_wait (err);
	case FAULT_KILL:
		kill (getpid (), SIGKILL);
	}
	abort (); /* nothing survives SIGKILL */
}
