/* SPDX-License-Identifier: Apache-2.0 */
/*
 * missing.c - stands in for suites that are not written yet: they fail.
 */
#include "conform.h"
#include "tap.h"

#define MISSING(kind)                                                 \
	__attribute__ ((weak)) int conform_##kind (struct conform *c) \
	{                                                             \
		(void) c;                                             \
		tap_ok (false, "the suite of kind " #kind " exists"); \
		return tap_done ();                                   \
	}

MISSING (transport)
MISSING (storage)
MISSING (content)
MISSING (image)
MISSING (rootfs)
MISSING (container)
