/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.h - named places at which a test lets the process be killed or an
 * operation fail.  Only builds that were configured with --enable-faults have
 * them; in all others they are nothing at all.
 *
 *     SILO_FAULT=POINT[@N][=kill|error|enospc|stop]   the N-th pass, default the first, kill
 *     SILO_FAULT_LOG=FILE                             append the name of each point passed
 */
#ifndef FAULT_H
#define FAULT_H

#include <silo/error.h>

#ifdef SILO_FAULTS
/* What `silo --version` adds. */
#define FAULT_NOTE ", built with fault points"
/* 0, or the error that $SILO_FAULT asks for at this point. */
int fault_at (const char *point, struct silo_error *err);
#else
#define FAULT_NOTE ""
static inline int
fault_at (const char *point, struct silo_error *err)
{
	(void) point;
	(void) err;
	return 0;
}
#endif

#endif
