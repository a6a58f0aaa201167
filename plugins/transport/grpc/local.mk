# SPDX-License-Identifier: Apache-2.0
grpc_protos = %D%/silo.proto %D%/silo_v1.proto
EXTRA_DIST += $(grpc_protos) %D%/README.md

if WITH_TRANSPORT_GRPC
plugin_LTLIBRARIES += transport-grpc.la
transport_grpc_la_SOURCES = \
	%D%/server.h \
	%D%/grpc.c \
	%D%/door.c \
	%D%/call.c \
	%D%/send.c \
	%D%/method.c \
	%D%/v1.c \
	%D%/legacy.c \
	%D%/codec.c \
	%D%/log.c
nodist_transport_grpc_la_SOURCES = $(grpc_generated)
transport_grpc_la_CPPFLAGS = $(AM_CPPFLAGS) -I$(builddir)/%D% \
	-DSILO_VERSION='"$(PACKAGE_VERSION)"' $(TRANSPORT_GRPC_CFLAGS)
transport_grpc_la_LDFLAGS = $(module_ldflags)
transport_grpc_la_LIBADD = libsilo.la $(TRANSPORT_GRPC_LIBS)

grpc_generated = \
	%D%/silo.pb-c.c %D%/silo.pb-c.h \
	%D%/silo_v1.pb-c.c %D%/silo_v1.pb-c.h
BUILT_SOURCES += $(grpc_generated)
CLEANFILES += $(grpc_generated)

%D%/silo.pb-c.c: %D%/silo.proto
	$(AM_V_GEN)$(MKDIR_P) %D% && $(PROTOC_C) --proto_path=$(srcdir)/%D% --c_out=%D% $(srcdir)/%D%/silo.proto
%D%/silo_v1.pb-c.c: %D%/silo_v1.proto
	$(AM_V_GEN)$(MKDIR_P) %D% && $(PROTOC_C) --proto_path=$(srcdir)/%D% --c_out=%D% $(srcdir)/%D%/silo_v1.proto
# protoc-c writes both files at once.
%D%/silo.pb-c.h: %D%/silo.pb-c.c
%D%/silo_v1.pb-c.h: %D%/silo_v1.pb-c.c
endif
