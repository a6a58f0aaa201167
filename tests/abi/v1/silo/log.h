/* SPDX-License-Identifier: Apache-2.0 */
/*
 * silo/log.h - one line per event on stderr, in logfmt:
 *
 *   ts=2026-01-02T03:04:05.678Z level=info comp=container.crun msg="..."
 *
 * The component is the instance's section name; its level comes from
 * `[silo] log`, for example `log = info rootfs.fuse=debug`.  Any thread may
 * log.  Bytes that are not printable are escaped, so that nothing a peer sends
 * can forge a line.
 */
#ifndef SILO_LOG_H
#define SILO_LOG_H

#include <stdbool.h>
#include <silo/error.h>

#ifdef __cplusplus
extern "C" {
#endif

enum silo_level { SILO_ERROR = 0, SILO_WARN = 1, SILO_INFO = 2, SILO_DEBUG = 3 };

struct silo_host;

SILO_API void silo_log (struct silo_host *host, enum silo_level level, const char *fmt, ...)
    SILO_PRINTF (3, 4);
/* Is this level printed?  For messages that cost something to build. */
SILO_API bool silo_log_on (struct silo_host *host, enum silo_level level);

#ifdef __cplusplus
}
#endif
#endif
