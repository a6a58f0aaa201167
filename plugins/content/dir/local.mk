# SPDX-License-Identifier: Apache-2.0
if WITH_CONTENT_DIR
plugin_LTLIBRARIES += content-dir.la
content_dir_la_SOURCES = %D%/dir.c
content_dir_la_LDFLAGS = $(module_ldflags)
content_dir_la_LIBADD = libsilo.la
endif
EXTRA_DIST += %D%/README.md
