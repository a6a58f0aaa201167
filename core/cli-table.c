/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cli-table.c - tables for people.  Used by verbs, on their one thread.
 */
#include "cli-table.h"

#include <stdarg.h>
#include <sys/ioctl.h>

#define GAP 2 /* spaces between two columns */

int
cli_table_add (struct cli_table *table, struct silo_error *err, const char *fmt, ...)
{
	assert (table->n_columns > 0 && table->n_columns <= CLI_TABLE_MAX);
	if (table->n == table->cap) {
		size_t cap = table->cap ? table->cap * 2 : 64;
		char **cells = reallocarray (table->cells, cap, sizeof (*cells));
		if (!cells)
			return silo_fail_nomem (err);
		table->cells = cells;
		table->cap = cap;
	}
	va_list args;
	va_start (args, fmt);
	int n = vasprintf (&table->cells[table->n], fmt, args);
	va_end (args);
	if (n < 0)
		return silo_fail_nomem (err);
	table->n++;
	return 0;
}

void
cli_table_free (struct cli_table *table)
{
	for (size_t i = 0; i < table->n; i++)
		free (table->cells[i]);
	free (table->cells);
	table->cells = NULL;
	table->n = table->cap = 0;
}

/* Leave columns out, the least important first, until the rest fits into `room`. */
static void
fit (const struct cli_table *table, const size_t *widths, size_t room, bool *ret_shown)
{
	for (;;) {
		size_t total = 0, worst = 0;
		for (size_t c = 0; c < table->n_columns; c++) {
			if (!ret_shown[c])
				continue;
			total += widths[c] + (total ? GAP : 0);
			if (table->columns[c].rank > table->columns[worst].rank)
				worst = c;
		}
		if (total <= room || table->columns[worst].rank == 0)
			return;
		ret_shown[worst] = false;
	}
}

static void
print_row (const struct cli_table *table, const char *const *cells, const size_t *widths,
	   const bool *shown)
{
	size_t last = 0;
	for (size_t c = 0; c < table->n_columns; c++)
		if (shown[c])
			last = c;
	for (size_t c = 0; c <= last; c++) {
		if (!shown[c])
			continue;
		const char *text = cells ? cells[c] : table->columns[c].title;
		if (table->columns[c].right)
			printf ("%*s", (int) widths[c], text);
		else /* nothing is put behind what ends a line */
			printf ("%-*s", c == last ? 0 : (int) widths[c], text);
		printf ("%*s", c == last ? 0 : GAP, "");
	}
	putchar ('\n');
}

void
cli_table_print (const struct cli_table *table)
{
	size_t widths[CLI_TABLE_MAX] = { 0 }, columns = table->n_columns;
	bool shown[CLI_TABLE_MAX] = { false };
	struct winsize window;
	for (size_t c = 0; c < columns; c++) {
		shown[c] = true;
		widths[c] = strlen (table->columns[c].title);
		for (size_t i = c; i < table->n; i += columns)
			if (strlen (table->cells[i]) > widths[c])
				widths[c] = strlen (table->cells[i]);
	}
	if (ioctl (STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0)
		fit (table, widths, window.ws_col, shown);
	print_row (table, NULL, widths, shown);
	for (size_t i = 0; i + columns <= table->n; i += columns)
		print_row (table, (const char *const *) table->cells + i, widths, shown);
}
