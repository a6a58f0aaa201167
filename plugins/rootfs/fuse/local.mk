# SPDX-License-Identifier: Apache-2.0
if WITH_ROOTFS_FUSE
plugin_LTLIBRARIES += rootfs-fuse.la
rootfs_fuse_la_SOURCES = %D%/fuse.h %D%/fuse.c %D%/share.c %D%/serve.c \
	%D%/pass.c %D%/object.c %D%/watch.c %D%/probe.c
rootfs_fuse_la_CPPFLAGS = $(AM_CPPFLAGS) $(ROOTFS_FUSE_CFLAGS)
rootfs_fuse_la_LDFLAGS = $(module_ldflags)
rootfs_fuse_la_LIBADD = libsilo.la $(ROOTFS_FUSE_LIBS)
endif
EXTRA_DIST += %D%/README.md
