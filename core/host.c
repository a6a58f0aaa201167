/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host.c - the small questions that a plugin asks of the core.  Any thread;
 * everything read here is fixed before the first plugin starts.
 */
#include "core.h"

const char *
silo_state (struct silo_host *host)
{
	return host->core->settings->state;
}

const char *
silo_host_name (struct silo_host *host)
{
	return host->name;
}

int
silo_state_path (struct silo_host *host, const char *rel, char *ret, size_t size,
		 struct silo_error *err)
{
	const char *state = silo_state (host);
	size_t n = strlen (rel), prefix = rel[0] == '/' ? 0 : strlen (state) + 1;

	if (prefix + n + 1 > size)
		return silo_fail (err, SILO_RANGE,
				  "path %s%s%s is too long: at most %zu characters fit here",
				  prefix ? state : "", prefix ? "/" : "", rel, size - 1);
	if (prefix)
		snprintf (ret, size, "%s/%s", state, rel);
	else
		snprintf (ret, size, "%s", rel);
	return 0;
}
