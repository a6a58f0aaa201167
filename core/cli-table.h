/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli-table.h - tables for people: columns as wide as what is in them, and the
 * less important ones left out when the terminal is narrow.
 */
#ifndef CLI_TABLE_H
#define CLI_TABLE_H

#include "core.h"

struct cli_column {
	const char *title;
	bool right; /* numbers */
	int rank;   /* 0, as the first has: always shown; the highest are left out first */
};

#define CLI_TABLE_MAX 16 /* columns */

struct cli_table {
	const struct cli_column *columns;
	size_t n_columns;
	char **cells; /* row by row */
	size_t n, cap;
};

/* The next cell, from left to right; a row is as many as there are columns. */
int cli_table_add (struct cli_table *table, struct silo_error *err, const char *fmt, ...)
    SILO_PRINTF (3, 4);
/* On stdout, and what is not a terminal gets all columns. */
void cli_table_print (const struct cli_table *table);
void cli_table_free (struct cli_table *table);

#endif
