# SPDX-License-Identifier: Apache-2.0
if WITH_CONTAINER_CRUN
plugin_LTLIBRARIES += container-crun.la
container_crun_la_SOURCES = %D%/crun.c
container_crun_la_LDFLAGS = $(module_ldflags)
container_crun_la_LIBADD = libsilo.la
endif
EXTRA_DIST += %D%/README.md
