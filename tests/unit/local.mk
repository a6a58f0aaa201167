# SPDX-License-Identifier: Apache-2.0
# One program per file of the core, %D%/NAME.c; they link with the whole core,
# so they also reach what libsilo.so does not show.
unit_tests = \
	%D%/bytes \
	%D%/config \
	%D%/content \
	%D%/files \
	%D%/instance \
	%D%/loop \
	%D%/meta \
	%D%/option \
	%D%/output \
	%D%/plugin \
	%D%/spawn \
	%D%/store \
	%D%/torture \
	%D%/tree

%C%_bytes_CPPFLAGS = $(test_cppflags)
%C%_config_CPPFLAGS = $(test_cppflags)
%C%_content_CPPFLAGS = $(test_cppflags)
%C%_files_CPPFLAGS = $(test_cppflags)
%C%_instance_CPPFLAGS = $(test_cppflags)
%C%_loop_CPPFLAGS = $(test_cppflags)
%C%_meta_CPPFLAGS = $(test_cppflags)
%C%_option_CPPFLAGS = $(test_cppflags)
%C%_output_CPPFLAGS = $(test_cppflags)
%C%_plugin_CPPFLAGS = $(test_cppflags)
%C%_spawn_CPPFLAGS = $(test_cppflags)
%C%_store_CPPFLAGS = $(test_cppflags)
%C%_torture_CPPFLAGS = $(test_cppflags)
%C%_tree_CPPFLAGS = $(test_cppflags)
torture_ldflags = $(AM_LDFLAGS) -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc \
	-Wl,--wrap=reallocarray,--wrap=strdup,--wrap=strndup,--wrap=asprintf
%C%_torture_SOURCES = %D%/torture.c %D%/torture.h
%C%_torture_LDFLAGS = $(torture_ldflags)

if WITH_CONTENT_DIR
unit_tests += %D%/image %D%/import %D%/layers
%C%_image_CPPFLAGS = $(test_cppflags)
%C%_import_CPPFLAGS = $(test_cppflags)
%C%_layers_CPPFLAGS = $(test_cppflags)
endif
if WITH_STORAGE_SQLITE
unit_tests += %D%/storage-sqlite
%C%_storage_sqlite_SOURCES = %D%/storage-sqlite.c %D%/storage.h
%C%_storage_sqlite_CPPFLAGS = $(test_cppflags) $(STORAGE_SQLITE_CFLAGS)
%C%_storage_sqlite_LDADD = $(LDADD) $(STORAGE_SQLITE_LIBS)
endif
if WITH_STORAGE_FILES
if WITH_CONTENT_DIR
if WITH_IMAGE_FOLDER
unit_tests += %D%/store-torture
%C%_store_torture_SOURCES = %D%/store-torture.c %D%/torture.h
%C%_store_torture_CPPFLAGS = $(test_cppflags)
%C%_store_torture_LDFLAGS = $(torture_ldflags)
endif
endif
unit_tests += %D%/storage-files
%C%_storage_files_SOURCES = %D%/storage-files.c %D%/storage.h
%C%_storage_files_CPPFLAGS = $(test_cppflags)
endif

# A plugin for tests of the core; not installed, hence the path that is none.
check_LTLIBRARIES += %D%/content-test.la
%C%_content_test_la_SOURCES = %D%/content-test.c
%C%_content_test_la_LDFLAGS = $(module_ldflags) -rpath /nowhere
%C%_content_test_la_LIBADD = libsilo.la

check_PROGRAMS += $(unit_tests)
TESTS += $(unit_tests)
