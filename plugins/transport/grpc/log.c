/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.c - gRPC's own messages become debug lines of the instance.  They hold
 * bytes of the peer: silo_log escapes them, and at most so many a second are
 * passed on.  gRPC's hook takes no argument and is one for the process, which
 * makes this the one place in the plugin with a static: the host of the
 * instance that started last.
 */
#include "server.h"

#include <grpc/support/log.h>

#define LOG_PER_SECOND 10

static struct {
	pthread_mutex_t lock;
	/* protected by lock */
	struct silo_host *host;
	int64_t second;
	int n;
	int64_t dropped;
} hook = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* Under the lock: is there room for one more in this second? */
static bool
log_admit (int64_t *ret_dropped)
{
	int64_t second = silo_monotonic () / 1000000000;

	if (second != hook.second) {
		*ret_dropped = hook.dropped;
		hook.second = second;
		hook.n = 0;
		hook.dropped = 0;
	}
	if (hook.n < LOG_PER_SECOND) {
		hook.n++;
		return true;
	}
	hook.dropped++;
	return false;
}

static void
log_message (gpr_log_func_args *args)
{
	int64_t dropped = 0;

	pthread_mutex_lock (&hook.lock);
	if (hook.host && silo_log_on (hook.host, SILO_DEBUG) && log_admit (&dropped)) {
		if (dropped > 0)
			silo_log (hook.host, SILO_DEBUG, "grpc: %lld more messages",
				  (long long) dropped);
		silo_log (hook.host, SILO_DEBUG, "grpc: %s", args->message);
	}
	pthread_mutex_unlock (&hook.lock);
}

void
log_attach (struct silo_host *host)
{
	pthread_mutex_lock (&hook.lock);
	hook.host = host;
	pthread_mutex_unlock (&hook.lock);
	gpr_set_log_function (log_message);
	gpr_set_log_verbosity (silo_log_on (host, SILO_DEBUG) ? GPR_LOG_SEVERITY_INFO
							      : GPR_LOG_SEVERITY_ERROR);
}

void
log_detach (struct silo_host *host)
{
	pthread_mutex_lock (&hook.lock);
	if (hook.host == host)
		hook.host = NULL;
	pthread_mutex_unlock (&hook.lock);
}
