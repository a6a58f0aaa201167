# SPDX-License-Identifier: Apache-2.0
if WITH_CONTAINER_CRUN
plugin_LTLIBRARIES += container-crun.la
container_crun_la_SOURCES = \
	%D%/crun.h \
	%D%/crun.c \
	%D%/config.c \
	%D%/seccomp.c \
	%D%/orphan.c \
	%D%/bundle.c \
	%D%/probe.c
container_crun_la_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
container_crun_la_LDFLAGS = $(module_ldflags)
container_crun_la_LIBADD = libsilo.la $(JANSSON_LIBS)
endif
EXTRA_DIST += %D%/README.md
