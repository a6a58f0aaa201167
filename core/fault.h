/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault.h - named places at which a test lets the process be killed or an
 * operation fail.  Only builds that were configured with --enable-faults have
 * them; in all others they are nothing at all.
 */
#ifndef FAULT_H
#define FAULT_H

#include <silo/error.h>

#ifdef SILO_FAULTS
/* 0, or the error that $SILO_FAULT asks for at this point. */
int fault_at (const char *point, struct silo_error *err);
#else
static inline int
fault_at (const char *point, struct silo_error *err)
{
	(void) point;
	(void) err;
	return 0;
}
#endif

#endif
