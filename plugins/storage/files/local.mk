# SPDX-License-Identifier: Apache-2.0
if WITH_STORAGE_FILES
plugin_LTLIBRARIES += storage-files.la
storage_files_la_SOURCES = \
	%D%/files.h \
	%D%/files.c \
	%D%/record.c \
	%D%/folder.c \
	%D%/task.c \
	%D%/named.c
storage_files_la_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
storage_files_la_LDFLAGS = $(module_ldflags)
storage_files_la_LIBADD = libsilo.la $(JANSSON_LIBS)
endif
EXTRA_DIST += %D%/README.md
