/* SPDX-License-Identifier: Apache-2.0 */
/*
 * debian.h - images that are made of Debian's packages here and now, in the
 * order of a call: debian.c understands the reference, bootstrap.c runs
 * mmdebstrap, whose tar goes to the reader that layers of images go to.
 */
#ifndef DEBIAN_H
#define DEBIAN_H

#include "temp.h"

#include <silo/silo.h>

#define DEBIAN_MAX_NAME 100       /* of a suite or package */
#define DEBIAN_TEMP     "debian-" /* prefix of temporary folders */

struct debian {
	const char *program;
	const char *mirror;
	const char *variant;
	int64_t timeout; /* ms */
	struct silo_host *host;
};

/* -- debian.c: "debian:SUITE+PACKAGE+PACKAGE" ---------------------------------- */

struct recipe {
	char suite[DEBIAN_MAX_NAME + 1];
	struct silo_buf packages; /* "python3,python3-numpy"; data may be NULL: none */
	char architecture[32];    /* Debian's name of it; "": this machine's */
};

/* -- bootstrap.c ----------------------------------------------------------------- */

/* Make the image and hand its entries to the layer. */
int bootstrap (const struct debian *debian, const struct recipe *recipe, const char *name,
	       struct silo_import *import, struct silo_layer *layer, struct silo_error *err);

#endif
