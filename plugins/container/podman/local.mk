# SPDX-License-Identifier: Apache-2.0
if WITH_CONTAINER_PODMAN
plugin_LTLIBRARIES += container-podman.la
container_podman_la_SOURCES = \
	%D%/podman.h \
	%D%/podman.c \
	%D%/args.c \
	%D%/files.c \
	%D%/seccomp.c \
	%D%/probe.c
container_podman_la_CPPFLAGS = $(AM_CPPFLAGS) $(JANSSON_CFLAGS)
container_podman_la_LDFLAGS = $(module_ldflags)
container_podman_la_LIBADD = libsilo.la $(JANSSON_LIBS)
endif
EXTRA_DIST += %D%/README.md
