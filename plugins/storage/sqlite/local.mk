# SPDX-License-Identifier: Apache-2.0
if WITH_STORAGE_SQLITE
plugin_LTLIBRARIES += storage-sqlite.la
storage_sqlite_la_SOURCES = \
	%D%/sqlite.h \
	%D%/sqlite.c \
	%D%/schema.c \
	%D%/statement.c \
	%D%/task.c \
	%D%/named.c
storage_sqlite_la_CPPFLAGS = $(AM_CPPFLAGS) $(STORAGE_SQLITE_CFLAGS)
storage_sqlite_la_LDFLAGS = $(module_ldflags)
storage_sqlite_la_LIBADD = libsilo.la $(STORAGE_SQLITE_LIBS)
endif
EXTRA_DIST += %D%/README.md
