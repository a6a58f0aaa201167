/* SPDX-License-Identifier: Apache-2.0 */
/*
 * silo/silo.h - everything that a plugin may include, in reading order.
 *
 * A plugin includes this one header (or the parts it needs) and nothing else of
 * Silo.  All headers are C99 and C++ clean; only the SILO_PLUGIN macro in
 * plugin.h needs C11.
 *
 * Conventions that hold everywhere:
 *   - a function that can fail returns 0, or a negative SILO_ code, and takes a
 *     `struct silo_error *` last.  Success leaves the error alone, failure
 *     leaves every ret_ argument alone.
 *   - arguments are borrowed for the length of the call; what comes back
 *     through ret_ belongs to the caller.
 *   - sizes are bytes, times are nanoseconds since the Unix epoch unless the
 *     name ends in _ms, digests are SHA-256.
 *   - descriptors are close-on-exec from birth.
 */
#ifndef SILO_SILO_H
#define SILO_SILO_H

#include <silo/error.h>
#include <silo/bytes.h>
#include <silo/log.h>
#include <silo/plugin.h>
#include <silo/host.h>
#include <silo/task.h>
#include <silo/storage.h>
#include <silo/content.h>
#include <silo/meta.h>
#include <silo/image.h>
#include <silo/rootfs.h>
#include <silo/container.h>
#include <silo/transport.h>

#endif
