# SPDX-License-Identifier: Apache-2.0
# Part of every image plugin that reads tars.
tar_cppflags = -I$(top_srcdir)/%D%
if WITH_IMAGE_TAR
noinst_LTLIBRARIES += libimage-tar.la
libimage_tar_la_SOURCES = \
	%D%/tar.h \
	%D%/stream.h \
	%D%/inflate.c \
	%D%/unzip.c \
	%D%/stream.c \
	%D%/reader.h \
	%D%/number.c \
	%D%/header.c \
	%D%/pax.c \
	%D%/sparse.c \
	%D%/tar.c \
	%D%/temp.h \
	%D%/temp.c
libimage_tar_la_CPPFLAGS = $(AM_CPPFLAGS) $(ZSTD_CFLAGS) $(GZIP_CFLAGS)
libimage_tar_la_LIBADD = $(ZSTD_LIBS) $(GZIP_LIBS)
endif
EXTRA_DIST += %D%/README.md
