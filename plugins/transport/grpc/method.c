/* SPDX-License-Identifier: Apache-2.0 */
/*
 * method.c - which methods there are, and the one that is answered here: the
 * standard health check, whose messages are small enough to do by hand.
 */
#include "server.h"

#include <string.h>

/* HealthCheckResponse { status = SERVING }, { status = NOT_SERVING } */
static const unsigned char health_serving[] = { 0x08, 0x01 };
static const unsigned char health_not_serving[] = { 0x08, 0x02 };

static bool
health_knows (const char *service, size_t len)
{
	static const char *const services[] = { "", "silo.Silo", "silo.v1.Silo" };

	for (size_t i = 0; i < sizeof (services) / sizeof (services[0]); i++)
		if (len == strlen (services[i]) && memcmp (service, services[i], len) == 0)
			return true;
	return false;
}

/* HealthCheckRequest { string service = 1 } */
static void
health_check (struct call *call, struct silo_bytes message)
{
	const unsigned char *p = message.data;

	if (message.len != 0 &&
	    (message.len < 2 || p[0] != 0x0a || p[1] > 127 || message.len != (size_t) p[1] + 2)) {
		call_fail_text (call, SILO_INVALID, "the message is no HealthCheckRequest");
		return;
	}
	if (!health_knows (message.len ? (const char *) p + 2 : "",
			   message.len ? message.len - 2 : 0)) {
		call_fail_text (call, SILO_NOTFOUND, "there is no such service");
		return;
	}
	if (atomic_load (&call->server->draining))
		call_reply_bytes (call, health_not_serving, sizeof (health_not_serving));
	else
		call_reply_bytes (call, health_serving, sizeof (health_serving));
}

static const struct method methods[] = {
	{ "/silo.v1.Silo/Call", false, v1_call },
	{ "/silo.v1.Silo/Hello", false, v1_hello },
	{ "/silo.v1.Silo/GetFunction", false, v1_get_function },
	{ "/silo.Silo/GetPackage", false, legacy_get_package },
	{ "/grpc.health.v1.Health/Check", true, health_check },
};

const struct method *
method_find (grpc_slice path)
{
	for (size_t i = 0; i < sizeof (methods) / sizeof (methods[0]); i++)
		if (grpc_slice_str_cmp (path, methods[i].path) == 0)
			return &methods[i];
	return NULL;
}
