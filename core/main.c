/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - the program; everything else is in libsilo.
 */
#include "core.h"

int
main (int argc, char **argv)
{
	return silo_main (argc, argv);
}
