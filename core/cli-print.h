/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli-print.h - how the verbs that deal with images print them.
 */
#ifndef CLI_PRINT_H
#define CLI_PRINT_H

#include "core.h"

/* "12.3 MB" */
struct cli_size {
	char text[16];
};
struct cli_size cli_size (int64_t bytes);

/* "3 hours ago" */
struct cli_age {
	char text[24];
};
struct cli_age cli_age (int64_t when);

/* An image's record; NULL: no memory. */
json_t *cli_image_json (const struct silo_image *image);

#endif
