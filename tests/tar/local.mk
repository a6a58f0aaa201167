# SPDX-License-Identifier: Apache-2.0
# The reader of layers, which is no part of the core, by itself.
if WITH_IMAGE_TAR
check_PROGRAMS += %D%/list
%C%_list_SOURCES = %D%/list.c
%C%_list_CPPFLAGS = $(test_cppflags) $(tar_cppflags)
%C%_list_LDADD = libimage-tar.la $(LDADD)
TESTS += %D%/cases.sh
endif
dist_check_SCRIPTS += %D%/cases.sh
EXTRA_DIST += %D%/cases.py %D%/make.py
