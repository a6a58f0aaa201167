# SPDX-License-Identifier: Apache-2.0
if WITH_STORAGE_FILES
plugin_LTLIBRARIES += storage-files.la
storage_files_la_SOURCES = %D%/files.c
storage_files_la_LDFLAGS = $(module_ldflags)
storage_files_la_LIBADD = libsilo.la
endif
EXTRA_DIST += %D%/README.md
