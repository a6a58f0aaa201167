# SPDX-License-Identifier: Apache-2.0
if WITH_ROOTFS_EROFS
plugin_LTLIBRARIES += rootfs-erofs.la
rootfs_erofs_la_SOURCES = %D%/erofs.h %D%/erofs.c %D%/image.c %D%/loop.c %D%/probe.c
rootfs_erofs_la_LDFLAGS = $(module_ldflags)
rootfs_erofs_la_LIBADD = libsilo.la
endif
EXTRA_DIST += %D%/README.md
