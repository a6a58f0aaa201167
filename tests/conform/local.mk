# SPDX-License-Identifier: Apache-2.0
# silo-conform: one suite per plugin kind, run on every plugin that is built.
# It is installed, too: `silo plugins test` runs it for authors of plugins.

conformdir = $(libexecdir)/silo
conform_PROGRAMS = silo-conform
silo_conform_SOURCES = \
	%D%/conform.h \
	%D%/main.c \
	%D%/missing.c \
	%D%/storage.h \
	%D%/storage.c \
	%D%/storage-names.c \
	%D%/storage-process.c
silo_conform_SOURCES += \
	%D%/container.h \
	%D%/container.c \
	%D%/container-inside.c \
	%D%/container-limits.c \
	%D%/container-life.c
silo_conform_SOURCES += %D%/transport.c
silo_conform_SOURCES += \
	%D%/rootfs.h \
	%D%/rootfs.c \
	%D%/rootfs-tree.c
silo_conform_SOURCES += \
	%D%/content.c \
	%D%/image.h \
	%D%/image.c \
	%D%/image-source.c \
	%D%/image-compare.c
silo_conform_CPPFLAGS = $(test_cppflags)

# Runs a suite as if on an older kernel.
check_PROGRAMS += %D%/old-kernel
%C%_old_kernel_SOURCES = %D%/old-kernel.c
%C%_old_kernel_LDADD =

# KIND-NAME.sh runs the suite of KIND on plugin NAME.
conform_scripts =
if WITH_STORAGE_SQLITE
conform_scripts += %D%/storage-sqlite.sh
endif
if WITH_STORAGE_FILES
conform_scripts += %D%/storage-files.sh
endif
if WITH_CONTAINER_CRUN
conform_scripts += %D%/container-crun.sh
endif
if WITH_CONTAINER_PODMAN
conform_scripts += %D%/container-podman.sh
endif

if WITH_TRANSPORT_GRPC
conform_scripts += %D%/transport-grpc.sh
endif
if WITH_TRANSPORT_HTTP
conform_scripts += %D%/transport-http.sh
endif

if WITH_ROOTFS_EROFS
conform_scripts += %D%/rootfs-erofs.sh %D%/rootfs-erofs-disk.sh %D%/rootfs-erofs-loop.sh
conform_scripts += %D%/rootfs-erofs-old.sh %D%/rootfs-erofs-old-disk.sh
endif
if WITH_ROOTFS_FUSE
conform_scripts += %D%/rootfs-fuse.sh %D%/rootfs-fuse-disk.sh %D%/rootfs-fuse-threads.sh
conform_scripts += %D%/rootfs-fuse-old.sh
conform_scripts += %D%/rootfs-fuse-passthrough.sh
endif

if WITH_CONTENT_DIR
conform_scripts += %D%/content-dir.sh
endif
if WITH_IMAGE_FOLDER
conform_scripts += %D%/image-folder.sh
endif
if WITH_IMAGE_OCI
conform_scripts += %D%/image-oci.sh
endif
if WITH_IMAGE_DEBIAN
conform_scripts += %D%/image-debian.sh
endif

TESTS += $(conform_scripts)
EXTRA_DIST += %D%/content-dir.sh %D%/image-folder.sh %D%/image-oci.sh %D%/image-debian.sh
EXTRA_DIST += %D%/transport-grpc.sh %D%/transport-http.sh
EXTRA_DIST += %D%/container-crun.sh %D%/container-podman.sh
EXTRA_DIST += \
	%D%/storage-sqlite.sh \
	%D%/storage-files.sh
EXTRA_DIST += \
	%D%/rootfs-erofs.sh \
	%D%/rootfs-erofs-disk.sh \
	%D%/rootfs-erofs-loop.sh \
	%D%/rootfs-erofs-old.sh \
	%D%/rootfs-erofs-old-disk.sh \
	%D%/rootfs-fuse-old.sh \
	%D%/rootfs-fuse.sh \
	%D%/rootfs-fuse-disk.sh \
	%D%/rootfs-fuse-passthrough.sh \
	%D%/rootfs-fuse-threads.sh
