/* SPDX-License-Identifier: Apache-2.0 */
/*
 * temp.h - folders below STATE/tmp for plugins of this kind, one per import,
 * named after their plugin.
 */
#ifndef TEMP_H
#define TEMP_H

#include <silo/silo.h>

/* A folder of this import alone; locked while it is in use. */
struct temp {
	int fd; /* -1: none */
	char path[3072];
};

/* `prefix` is that of the plugin, "oci-". */
int temp_make (struct silo_host *host, const char *prefix, struct temp *ret,
	       struct silo_error *err);
void temp_remove (struct temp *temp);
/* Remove those whose process has died. */
void temp_clean (struct silo_host *host, const char *prefix);

#endif
