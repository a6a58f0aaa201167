/* SPDX-License-Identifier: Apache-2.0 */
/*
 * error.c - the error object and the tables that translate its codes.
 * Called from any thread, by the core and by every plugin; owns nothing.
 */
#include "core.h"

#include <stdarg.h>

static const struct {
	const char *name;
	int http;
} codes[] = {
	[-SILO_OK] = { "OK", 200 },
	[-SILO_CANCELLED] = { "CANCELLED", 499 },
	[-SILO_UNKNOWN] = { "UNKNOWN", 500 },
	[-SILO_INVALID] = { "INVALID_ARGUMENT", 400 },
	[-SILO_TIMEOUT] = { "DEADLINE_EXCEEDED", 504 },
	[-SILO_NOTFOUND] = { "NOT_FOUND", 404 },
	[-SILO_EXISTS] = { "ALREADY_EXISTS", 409 },
	[-SILO_DENIED] = { "PERMISSION_DENIED", 403 },
	[-SILO_EXHAUSTED] = { "RESOURCE_EXHAUSTED", 429 },
	[-SILO_PRECONDITION] = { "FAILED_PRECONDITION", 412 },
	[-SILO_ABORTED] = { "ABORTED", 409 },
	[-SILO_RANGE] = { "OUT_OF_RANGE", 416 },
	[-SILO_UNIMPLEMENTED] = { "UNIMPLEMENTED", 501 },
	[-SILO_INTERNAL] = { "INTERNAL", 500 },
	[-SILO_UNAVAILABLE] = { "UNAVAILABLE", 503 },
	[-SILO_DATALOSS] = { "DATA_LOSS", 500 },
	[-SILO_UNAUTHENTICATED] = { "UNAUTHENTICATED", 401 },
};

static bool
code_known (int code)
{
	return code <= 0 && code > -(int) ARRAY_SIZE (codes);
}

const char *
silo_code_name (int code)
{
	return code_known (code) ? codes[-code].name : "UNKNOWN";
}

int
silo_code_http (int code)
{
	return code_known (code) ? codes[-code].http : 500;
}

int
silo_fail (struct silo_error *err, int code, const char *fmt, ...)
{
	assert (code < 0 && code_known (code));
	if (err) {
		va_list ap;
		err->code = code;
		err->sys = 0;
		va_start (ap, fmt);
		vsnprintf (err->msg, sizeof (err->msg), fmt, ap);
		va_end (ap);
	}
	return code;
}

static int
code_from_errno (int sys)
{
	switch (sys) {
	case ENOENT:
		return SILO_NOTFOUND;
	case EEXIST:
		return SILO_EXISTS;
	case EACCES:
	case EPERM:
	case EROFS:
		return SILO_DENIED;
	case ENOMEM:
	case ENOSPC:
	case EDQUOT:
	case EMFILE:
	case ENFILE:
	case EAGAIN:
		return SILO_EXHAUSTED;
	case ENOSYS:
	case EOPNOTSUPP:
		return SILO_UNIMPLEMENTED;
	case ETIMEDOUT:
		return SILO_TIMEOUT;
	case EADDRINUSE:
	case ECONNREFUSED:
		return SILO_UNAVAILABLE;
	case EINVAL:
	case ENAMETOOLONG:
	case ENOTDIR:
	case EISDIR:
	case ELOOP:
		return SILO_INVALID;
	default:
		return SILO_INTERNAL;
	}
}

int
silo_fail_sys (struct silo_error *err, int sys, const char *fmt, ...)
{
	int code = code_from_errno (sys);
	if (err) {
		va_list ap;
		char reason[80];
		const char *text = strerror_r (sys, reason, sizeof (reason));

		err->code = code;
		err->sys = sys;
		va_start (ap, fmt);
		int n = vsnprintf (err->msg, sizeof (err->msg), fmt, ap);
		va_end (ap);
		if (n >= 0 && (size_t) n < sizeof (err->msg))
			snprintf (err->msg + n, sizeof (err->msg) - (size_t) n, ": %s", text);
	}
	return code;
}

int
silo_fail_nomem (struct silo_error *err)
{
	return silo_fail (err, SILO_EXHAUSTED, "out of memory");
}

int
silo_wrap (struct silo_error *err, const char *fmt, ...)
{
	if (!err)
		return SILO_INTERNAL;

	char old[sizeof (err->msg)];
	memcpy (old, err->msg, sizeof (old));

	va_list ap;
	va_start (ap, fmt);
	int n = vsnprintf (err->msg, sizeof (err->msg), fmt, ap);
	va_end (ap);
	size_t room = n >= 0 && (size_t) n < sizeof (err->msg) ? sizeof (err->msg) - (size_t) n : 0;
	if (room)
		snprintf (err->msg + n, room, ": %.*s", (int) room, old);
	return err->code ? err->code : SILO_INTERNAL;
}

static const struct {
	const char *name;
	int code;
} outcomes[SILO_OUTCOME_COUNT] = {
	[SILO_OUTCOME_SUCCESS] = { "success", SILO_OK },
	[SILO_OUTCOME_EXCEPTION] = { "exception", SILO_UNKNOWN },
	[SILO_OUTCOME_EXIT] = { "exit", SILO_UNKNOWN },
	[SILO_OUTCOME_CRASH] = { "crash", SILO_UNKNOWN },
	[SILO_OUTCOME_TIMEOUT] = { "timeout", SILO_TIMEOUT },
	[SILO_OUTCOME_CANCELLED] = { "cancelled", SILO_CANCELLED },
	[SILO_OUTCOME_START] = { "start", SILO_UNAVAILABLE },
	[SILO_OUTCOME_BAD_CODE] = { "bad_code", SILO_INVALID },
	[SILO_OUTCOME_BAD_RESULT] = { "bad_result", SILO_UNKNOWN },
	[SILO_OUTCOME_VERSION] = { "version", SILO_PRECONDITION },
	[SILO_OUTCOME_NO_IMAGE] = { "no_image", SILO_NOTFOUND },
	[SILO_OUTCOME_NO_PYTHON] = { "no_python", SILO_PRECONDITION },
	[SILO_OUTCOME_NO_CODE] = { "no_code", SILO_PRECONDITION },
	[SILO_OUTCOME_MISSING_MODULE] = { "missing_module", SILO_PRECONDITION },
	[SILO_OUTCOME_LOST] = { "lost", SILO_UNAVAILABLE },
	[SILO_OUTCOME_OOM] = { "oom", SILO_EXHAUSTED },
	[SILO_OUTCOME_INVALID] = { "invalid", SILO_INVALID },
	[SILO_OUTCOME_EXHAUSTED] = { "exhausted", SILO_EXHAUSTED },
	[SILO_OUTCOME_INTERNAL] = { "internal", SILO_INTERNAL },
};

const char *
silo_outcome_name (int outcome)
{
	if (outcome < 0 || outcome >= SILO_OUTCOME_COUNT)
		outcome = SILO_OUTCOME_INTERNAL;
	return outcomes[outcome].name;
}

int
silo_outcome_parse (const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE (outcomes); i++)
		if (strcmp (outcomes[i].name, name) == 0)
			return (int) i;
	return -1;
}

int
silo_outcome_code (int outcome)
{
	if (outcome < 0 || outcome >= SILO_OUTCOME_COUNT)
		return SILO_INTERNAL;
	return outcomes[outcome].code;
}
