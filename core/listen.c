/* SPDX-License-Identifier: Apache-2.0 */
/*
 * listen.c - listening sockets for transports: what an address in silo.ini
 * means, and the rule that nothing listens off loopback by accident.  Called
 * from a transport's start; keeps no state.
 */
#include "core.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define LISTEN_BACKLOG 1024

/* Does a server answer on this unix socket?  Then its file is not ours to replace. */
static bool
listen_alive (const struct sockaddr_un *addr)
{
	_cleanup_close_ int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	return connect (fd, (const struct sockaddr *) addr, sizeof (*addr)) == 0 || errno == EAGAIN;
}

/* Remove the socket file that a dead server left; anything else at that path is an error. */
static int
listen_clear (const struct sockaddr_un *addr, struct silo_error *err)
{
	struct stat st;

	if (lstat (addr->sun_path, &st) < 0) {
		if (errno == ENOENT)
			return 0;
		return silo_fail_sys (err, errno, "unix:%s", addr->sun_path);
	}
	if (!S_ISSOCK (st.st_mode))
		return silo_fail (err, SILO_EXISTS, "unix:%s: there is a file that is no socket",
				  addr->sun_path);
	if (listen_alive (addr))
		return silo_fail (err, SILO_EXISTS,
				  "unix:%s: address already in use by another server",
				  addr->sun_path);
	if (unlink (addr->sun_path) < 0 && errno != ENOENT)
		return silo_fail_sys (err, errno, "unix:%s: remove the old socket", addr->sun_path);
	return 0;
}

static int
listen_unix (struct silo_host *host, const char *path, mode_t mode, struct silo_listener *ret,
	     struct silo_error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct silo_listener listener = { .fd = -1, .local = true, .loopback = true };

	if (!*path)
		return silo_fail (err, SILO_INVALID, "unix: needs a path, unix:grpc.sock");
	int r = silo_state_path (host, path, addr.sun_path, sizeof (addr.sun_path), err);
	if (r < 0)
		return r;
	r = listen_clear (&addr, err);
	if (r < 0)
		return r;

	_cleanup_close_ int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return silo_fail_sys (err, errno, "unix socket");
	if (bind (fd, (struct sockaddr *) &addr, sizeof (addr)) < 0)
		return silo_fail_sys (err, errno, "unix:%s: bind", addr.sun_path);
	/* Nobody can connect before listen (), so that the mode holds from the start. */
	if (chmod (addr.sun_path, mode) < 0 || listen (fd, LISTEN_BACKLOG) < 0) {
		int sys = errno;
		unlink (addr.sun_path);
		return silo_fail_sys (err, sys, "unix:%s: listen", addr.sun_path);
	}
	snprintf (listener.path, sizeof (listener.path), "%s", addr.sun_path);
	snprintf (listener.name, sizeof (listener.name), "unix:%s", addr.sun_path);
	listener.fd = silo_steal_fd (&fd);
	*ret = listener;
	return 0;
}

/* "HOST:PORT", "[HOST]:PORT", "*:PORT" -> the two halves; host "" for every address. */
static int
listen_split (const char *address, char *host, size_t host_size, const char **ret_port,
	      struct silo_error *err)
{
	const char *colon = strrchr (address, ':'), *begin = address, *end = colon;

	if (!colon || colon == address || !colon[1] ||
	    strspn (colon + 1, "0123456789") != strlen (colon + 1) || strlen (colon + 1) > 5)
		return silo_fail (err, SILO_INVALID,
				  "\"%s\" is no address: expected HOST:PORT or unix:PATH", address);
	if (*begin == '[' && end[-1] == ']') {
		begin++;
		end--;
	} else if (memchr (begin, ':', (size_t) (end - begin))) {
		return silo_fail (err, SILO_INVALID,
				  "\"%s\" is no address: an IPv6 host is written in brackets, "
				  "[::1]:8000",
				  address);
	}
	if ((size_t) (end - begin) >= host_size)
		return silo_fail (err, SILO_INVALID, "\"%.80s...\": the host name is too long",
				  address);
	if (end - begin == 1 && *begin == '*')
		end = begin;
	memcpy (host, begin, (size_t) (end - begin));
	host[end - begin] = 0;
	*ret_port = colon + 1;
	return 0;
}

static bool
listen_is_loopback (const struct sockaddr *addr)
{
	if (addr->sa_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *) addr;
		return ntohl (in->sin_addr.s_addr) >> 24 == 127;
	}
	if (addr->sa_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *) addr;
		return IN6_IS_ADDR_LOOPBACK (&in6->sin6_addr) ||
		       (IN6_IS_ADDR_V4MAPPED (&in6->sin6_addr) &&
			in6->sin6_addr.s6_addr[12] == 127);
	}
	return false;
}

/* The address as it came to be, with the port that the kernel chose. */
static int
listen_name (int fd, struct silo_listener *listener, struct silo_error *err)
{
	struct sockaddr_storage addr;
	socklen_t len = sizeof (addr);
	char host[NI_MAXHOST], port[NI_MAXSERV];

	if (getsockname (fd, (struct sockaddr *) &addr, &len) < 0)
		return silo_fail_sys (err, errno, "getsockname");
	int r = getnameinfo ((struct sockaddr *) &addr, len, host, sizeof (host), port,
			     sizeof (port), NI_NUMERICHOST | NI_NUMERICSERV);
	if (r != 0)
		return silo_fail (err, SILO_INTERNAL, "getnameinfo: %s", gai_strerror (r));
	if (addr.ss_family == AF_INET6)
		snprintf (listener->name, sizeof (listener->name), "[%.80s]:%.8s", host, port);
	else
		snprintf (listener->name, sizeof (listener->name), "%.80s:%.8s", host, port);
	return 0;
}

static int
listen_bind (const struct addrinfo *info, const char *address, struct silo_listener *ret,
	     struct silo_error *err)
{
	struct silo_listener listener = { .fd = -1,
					  .loopback = listen_is_loopback (info->ai_addr) };
	const int one = 1, zero = 0;

	_cleanup_close_ int fd =
	    socket (info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
	if (fd < 0)
		return silo_fail_sys (err, errno, "%s: socket", address);
	/* Over connections of an earlier daemon that linger, not over a live listener: that
	 * would take SO_REUSEPORT, which stays off. */
	if (setsockopt (fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof (one)) < 0 ||
	    (info->ai_family == AF_INET6 &&
	     setsockopt (fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof (zero)) < 0))
		return silo_fail_sys (err, errno, "%s: setsockopt", address);
	if (bind (fd, info->ai_addr, info->ai_addrlen) < 0 || listen (fd, LISTEN_BACKLOG) < 0) {
		if (errno == EADDRINUSE)
			return silo_fail (err, SILO_EXISTS, "%s: address already in use", address);
		return silo_fail_sys (err, errno, "%s: bind", address);
	}
	int r = listen_name (fd, &listener, err);
	if (r < 0)
		return r;
	listener.fd = silo_steal_fd (&fd);
	*ret = listener;
	return 0;
}

static void
listen_free_info (struct addrinfo **info)
{
	if (*info)
		freeaddrinfo (*info);
}

static int
listen_tcp (const char *address, bool exposed, struct silo_listener *ret, struct silo_error *err)
{
	const struct addrinfo hints = { .ai_family = AF_UNSPEC,
					.ai_socktype = SOCK_STREAM,
					.ai_flags = AI_PASSIVE | AI_NUMERICSERV };
	SILO_CLEANUP (listen_free_info) struct addrinfo *info = NULL;
	char host[256];
	const char *port = "";

	int r = listen_split (address, host, sizeof (host), &port, err);
	if (r < 0)
		return r;
	if (strtoul (port, NULL, 10) > 65535)
		return silo_fail (err, SILO_INVALID, "\"%s\": ports end at 65535", address);
	r = getaddrinfo (*host ? host : NULL, port, &hints, &info);
	if (r != 0)
		return silo_fail (err, SILO_INVALID, "%s: %s", address, gai_strerror (r));
	if (!exposed && !listen_is_loopback (info->ai_addr))
		return silo_fail (err, SILO_PRECONDITION,
				  "%s is not loopback: set tls_cert, tls_key and api_key, or "
				  "insecure = true to let the whole network in",
				  address);
	return listen_bind (info, address, ret, err);
}

int
silo_listen (struct silo_host *host, const char *address, mode_t mode, bool exposed,
	     struct silo_listener *ret, struct silo_error *err)
{
	if (strncmp (address, "unix:", 5) == 0)
		return listen_unix (host, address + 5, mode, ret, err);
	return listen_tcp (address, exposed, ret, err);
}

void
silo_listener_close (struct silo_listener *listener)
{
	if (listener->fd >= 0)
		close (listener->fd);
	listener->fd = -1;
	if (listener->path[0])
		unlink (listener->path);
	listener->path[0] = 0;
}
