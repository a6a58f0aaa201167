/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli-print.c - what `silo index`, `silo images` and their kin print with.
 */
#include "cli-print.h"

#include <inttypes.h>

static json_t *
layers_json (const char *layers)
{
	json_t *list = json_array ();
	for (const char *at = layers ? layers : ""; *at;) {
		size_t len = strcspn (at, " ");
		json_array_append_new (list, json_stringn (at, len));
		at += len + (at[len] == ' ');
	}
	return list;
}

json_t *
cli_image_json (const struct silo_image *image)
{
	char hex[SILO_DIGEST_HEX + 1];
	silo_digest_hex (&image->meta, hex);
	return json_pack ("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:o}", "name", image->name,
			  "meta", hex, "source", image->source, "source_id", image->source_id,
			  "python", image->python, "python_version", image->python_version,
			  "inodes", (json_int_t) image->inodes, "size", (json_int_t) image->size,
			  "created", (json_int_t) image->created, "layers",
			  layers_json (image->layers));
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

struct cli_age
cli_age (int64_t when)
{
	static const struct {
		const char *name;
		int64_t seconds;
	} units[] = {
		{ "year", 365 * 86400 }, { "month", 30 * 86400 }, { "week", 7 * 86400 },
		{ "day", 86400 },        { "hour", 3600 },        { "minute", 60 },
		{ "second", 1 },
	};
	struct cli_age ret = { "just now" };
	int64_t seconds = (silo_now () - when) / 1000000000;
	for (size_t i = 0; i < ARRAY_SIZE (units); i++) {
		/* "1 week" says less than "10 days": a unit is used from two on. */
		int64_t n = seconds / units[i].seconds;
		if (n >= 2 || (n == 1 && i + 1 == ARRAY_SIZE (units))) {
			snprintf (ret.text, sizeof (ret.text), "%" PRId64 " %s%s ago", n,
				  units[i].name, n == 1 ? "" : "s");
			break;
		}
	}
	return ret;
}
