# SPDX-License-Identifier: Apache-2.0
# Fuzz targets.  Each is a test program that runs its corpus and a fixed number
# of mutations; with --enable-fuzzing the same sources become libFuzzer programs.
fuzz_tests = %D%/meta
%C%_meta_SOURCES = %D%/meta.c $(fuzz_sources)
%C%_meta_CPPFLAGS = $(test_cppflags)
%C%_meta_LDFLAGS = $(fuzz_ldflags)

fuzz_tests += %D%/layer-file
%C%_layer_file_SOURCES = %D%/layer-file.c $(fuzz_check_tree) $(fuzz_sources)
%C%_layer_file_CPPFLAGS = $(test_cppflags)
%C%_layer_file_LDFLAGS = $(fuzz_ldflags)

if WITH_IMAGE_TAR
fuzz_tests += %D%/tar
%C%_tar_SOURCES = %D%/tar.c $(fuzz_check_tree) $(fuzz_sources)
%C%_tar_CPPFLAGS = $(test_cppflags) $(tar_cppflags)
%C%_tar_LDFLAGS = $(fuzz_ldflags)
%C%_tar_LDADD = libimage-tar.la $(LDADD)
endif
if WITH_IMAGE_OCI
fuzz_tests += %D%/manifest
%C%_manifest_SOURCES = %D%/manifest.c plugins/image/oci/manifest.c $(fuzz_sources)
%C%_manifest_CPPFLAGS = $(test_cppflags) $(tar_cppflags) -I$(top_srcdir)/plugins/image/oci
%C%_manifest_LDFLAGS = $(fuzz_ldflags)
endif

fuzz_check_tree = %D%/check-tree.h %D%/check-tree.c
fuzz_sources = %D%/fuzz.h
fuzz_ldflags = $(AM_LDFLAGS)
check_PROGRAMS += $(fuzz_tests)
if WITH_FUZZING
fuzz_ldflags += -fsanitize=fuzzer
else
fuzz_sources += %D%/driver.c
TESTS += $(fuzz_tests)
endif
EXTRA_DIST += %D%/corpus
