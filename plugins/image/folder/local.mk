# SPDX-License-Identifier: Apache-2.0
if WITH_IMAGE_FOLDER
plugin_LTLIBRARIES += image-folder.la
image_folder_la_SOURCES = %D%/folder.c
image_folder_la_LDFLAGS = $(module_ldflags)
image_folder_la_LIBADD = libsilo.la
endif
EXTRA_DIST += %D%/README.md
