# SPDX-License-Identifier: Apache-2.0
if WITH_IMAGE_OCI
plugin_LTLIBRARIES += image-oci.la
image_oci_la_SOURCES = \
	%D%/oci.h \
	%D%/oci.c \
	%D%/reference.c \
	%D%/skopeo.c \
	%D%/proxy.c \
	%D%/manifest.c \
	%D%/layers.c
image_oci_la_CPPFLAGS = $(AM_CPPFLAGS) $(tar_cppflags) $(JANSSON_CFLAGS)
image_oci_la_LDFLAGS = $(module_ldflags)
image_oci_la_LIBADD = libimage-tar.la libsilo.la $(JANSSON_LIBS)
endif
EXTRA_DIST += %D%/README.md
