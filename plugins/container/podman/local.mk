# SPDX-License-Identifier: Apache-2.0
if WITH_CONTAINER_PODMAN
plugin_LTLIBRARIES += container-podman.la
container_podman_la_SOURCES = %D%/podman.c
container_podman_la_LDFLAGS = $(module_ldflags)
container_podman_la_LIBADD = libsilo.la
endif
EXTRA_DIST += %D%/README.md
