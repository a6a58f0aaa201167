# SPDX-License-Identifier: Apache-2.0
if WITH_TRANSPORT_HTTP
plugin_LTLIBRARIES += transport-http.la
transport_http_la_SOURCES = \
	%D%/http.h \
	%D%/http.c \
	%D%/site.c \
	%D%/exchange.c \
	%D%/body.c \
	%D%/route.c \
	%D%/public.c \
	%D%/bridge.c \
	%D%/watch.c
transport_http_la_CPPFLAGS = $(AM_CPPFLAGS) $(TRANSPORT_HTTP_CFLAGS) $(JANSSON_CFLAGS)
transport_http_la_LDFLAGS = $(module_ldflags)
transport_http_la_LIBADD = libsilo.la $(TRANSPORT_HTTP_LIBS) $(JANSSON_LIBS)
endif
EXTRA_DIST += %D%/README.md
