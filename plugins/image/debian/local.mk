# SPDX-License-Identifier: Apache-2.0
if WITH_IMAGE_DEBIAN
plugin_LTLIBRARIES += image-debian.la
image_debian_la_SOURCES = \
	%D%/debian.h \
	%D%/debian.c \
	%D%/bootstrap.c
image_debian_la_CPPFLAGS = $(AM_CPPFLAGS) $(tar_cppflags)
image_debian_la_LDFLAGS = $(module_ldflags)
image_debian_la_LIBADD = libimage-tar.la libsilo.la
endif
EXTRA_DIST += %D%/README.md
