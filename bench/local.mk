# SPDX-License-Identifier: Apache-2.0
# What bench/rootfs.py runs; it has them made by `make bench-programs`.
bench_programs = %D%/rootfs-load %D%/rootfs-mount
EXTRA_PROGRAMS = $(bench_programs)
CLEANFILES += $(bench_programs)
%C%_rootfs_mount_CPPFLAGS = $(core_cppflags)
%C%_rootfs_load_LDADD =

bench-programs: $(bench_programs)
.PHONY: bench-programs
