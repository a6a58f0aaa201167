/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli-print.c - what `silo index`, `silo images` and their kin print with.
 */
#include "cli-print.h"

json_t *
cli_image_json (const struct silo_image *image)
{
	char hex[SILO_DIGEST_HEX + 1];
	silo_digest_hex (&image->meta, hex);
	return json_pack ("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "name", image->name,
			  "meta", hex, "source", image->source, "source_id", image->source_id,
			  "python", image->python, "python_version", image->python_version,
			  "inodes", (json_int_t) image->inodes, "size", (json_int_t) image->size,
			  "created", (json_int_t) image->created);
}

struct cli_size
cli_size (int64_t bytes)
{
	static const char *const units[] = { "B", "kB", "MB", "GB", "TB" };
	struct cli_size ret;
	double value = (double) bytes;
	size_t unit = 0;
	while (value >= 1000 && unit + 1 < ARRAY_SIZE (units)) {
		value /= 1000;
		unit++;
	}
	snprintf (ret.text, sizeof (ret.text), unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return ret;
}
