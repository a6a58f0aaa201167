# SPDX-License-Identifier: Apache-2.0
# One program per file of the core, %D%/NAME.c; they link with the whole core,
# so they also reach what libsilo.so does not show.
unit_tests = \
	%D%/bytes \
	%D%/files \
	%D%/loop \
	%D%/spawn

%C%_bytes_CPPFLAGS = $(test_cppflags)
%C%_files_CPPFLAGS = $(test_cppflags)
%C%_loop_CPPFLAGS = $(test_cppflags)
%C%_spawn_CPPFLAGS = $(test_cppflags)

check_PROGRAMS += $(unit_tests)
TESTS += $(unit_tests)
