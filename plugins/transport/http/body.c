/* SPDX-License-Identifier: Apache-2.0 */
/*
 * body.c - JSON in and out.  What comes in is looked over before jansson builds
 * anything of it: a body of 64 MiB could hold 30 million values, of which none
 * is of use here.  Any thread.
 */
#include "http.h"

#include <stdlib.h>
#include <string.h>

#define BODY_MAX_VALUES 64

/* Values and members begin after one of these, outside strings. */
static bool
body_is_small (const char *text, size_t len)
{
	size_t n = 0;
	bool string = false;

	for (size_t i = 0; i < len && n <= BODY_MAX_VALUES; i++) {
		if (string && text[i] == '\\')
			i++;
		else if (text[i] == '"')
			string = !string;
		else if (!string && (text[i] == ',' || text[i] == '[' || text[i] == '{'))
			n++;
	}
	return n <= BODY_MAX_VALUES;
}

int
body_parse (const void *data, size_t len, json_t **ret, struct silo_error *err)
{
	json_error_t where;

	if (!body_is_small (data, len))
		return silo_fail (err, SILO_INVALID, "more than %d values in the JSON",
				  BODY_MAX_VALUES);
	json_t *object = json_loadb (len ? data : "", len, JSON_REJECT_DUPLICATES, &where);
	if (!object)
		return silo_fail (err, SILO_INVALID, "no JSON: %s at byte %d", where.text,
				  where.position);
	if (!json_is_object (object)) {
		json_decref (object);
		return silo_fail (err, SILO_INVALID, "the JSON is no object");
	}
	*ret = object;
	return 0;
}

json_t *
body_text (const char *text)
{
	json_t *value = json_string (text ? text : "");

	if (value || !text)
		return value;
	/* Not UTF-8, or no memory. */
	char *plain = strdup (text);
	for (char *p = plain; p && *p; p++)
		if (*p & 0x80)
			*p = '?';
	value = plain ? json_string (plain) : NULL;
	free (plain);
	return value;
}

void
exchange_json (struct exchange *x, unsigned status, json_t *object)
{
	char *text = object ? json_dumps (object, JSON_COMPACT) : NULL;

	json_decref (object);
	exchange_answer (x, status,
			 text ? exchange_response (text, strlen (text), "application/json",
						   MHD_RESPMEM_MUST_FREE)
			      : NULL);
}

void
exchange_fail_status (struct exchange *x, unsigned status, const struct silo_error *err)
{
	exchange_json (x, status,
		       json_pack ("{s:{s:s, s:o}}", "error", "code", silo_code_name (err->code),
				  "message", body_text (err->msg)));
}

void
exchange_fail (struct exchange *x, const struct silo_error *err)
{
	exchange_fail_status (x, (unsigned) silo_code_http (err->code), err);
}
