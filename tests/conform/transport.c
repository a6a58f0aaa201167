/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport.c - the suite of kind transport: what holds for whatever speaks to
 * the outside.  It knows no protocol, only the lifecycle and the option `listen`:
 * addresses are taken and given back, errors name them, nothing is reachable
 * off loopback by accident, peers that say nothing or nonsense hold nothing up.
 */
#include "conform.h"
#include "tap.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define CYCLES 100
#define IDLERS 20

/* -- an instance with addresses of ours --------------------------------------- */

struct subject {
	const struct silo_plugin *head;
	const struct silo_transport_ops *ops;
	void *self;
};

/* Initialised, not started: the suite does that itself. */
static struct subject
subject_new (struct conform *c, const char *listen)
{
	struct silo_instance *instance = NULL;
	struct silo_error err = { 0 };
	char option[512];
	const char *options[64] = { option };
	size_t n = 1;

	snprintf (option, sizeof (option), "listen=%s", listen);
	for (size_t i = 0; c->options[i] && n < ARRAY_SIZE (options) - 1; i++)
		if (strncmp (c->options[i], "listen=", 7) != 0)
			options[n++] = c->options[i];
	if (wiring_add (c->core, SILO_KIND_TRANSPORT, c->plugin, options, &instance, &err) < 0)
		tap_bail ("%s: %s", listen, err.msg);
	return (struct subject){ &instance->plugin->head, instance_ops (instance, transport),
				 instance->self };
}

static int
subject_start (const struct subject *s, struct silo_error *err)
{
	return s->head->start (s->self, err);
}

static void
subject_stop (const struct subject *s)
{
	s->ops->drain (s->self);
	s->head->stop (s->self);
}

/* Start and listen, or end the program. */
static void
subject_serve (const struct subject *s)
{
	struct silo_error err = { 0 };

	if (subject_start (s, &err) < 0 || s->ops->listen (s->self, &err) < 0)
		tap_bail ("serving: %s", err.msg);
}

/* -- sockets of ours ------------------------------------------------------------- */

static struct sockaddr_in
loopback (uint16_t port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET,
				     .sin_port = htons (port),
				     .sin_addr.s_addr = htonl (INADDR_LOOPBACK) };
}

/* A listening socket; port 0 becomes the one that was chosen. */
static int
tcp_occupy (uint16_t *port, bool reuse)
{
	struct sockaddr_in addr = loopback (*port);
	socklen_t len = sizeof (addr);
	const int one = 1;
	int fd = socket (AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		tap_bail ("socket: %s", strerror (errno));
	if (reuse)
		setsockopt (fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof (one));
	setsockopt (fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof (one));
	if (bind (fd, (struct sockaddr *) &addr, sizeof (addr)) < 0 || listen (fd, 1) < 0 ||
	    getsockname (fd, (struct sockaddr *) &addr, &len) < 0) {
		close (fd);
		return -1;
	}
	*port = ntohs (addr.sin_port);
	return fd;
}

/* Connected, or -1 with errno. */
static int
tcp_connect (uint16_t port)
{
	struct sockaddr_in addr = loopback (port);
	int fd = socket (AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect (fd, (struct sockaddr *) &addr, sizeof (addr)) < 0) {
		close (fd);
		return -1;
	}
	return fd;
}

static int
unix_connect (const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf (addr.sun_path, sizeof (addr.sun_path), "%s", path);
	if (fd >= 0 && connect (fd, (struct sockaddr *) &addr, sizeof (addr)) < 0) {
		close (fd);
		return -1;
	}
	return fd;
}

static bool
reachable (uint16_t port)
{
	int fd = tcp_connect (port);

	if (fd >= 0)
		close (fd);
	return fd >= 0;
}

static int
count_entries (const char *folder)
{
	DIR *dir = opendir (folder);
	int n = 0;

	if (!dir)
		tap_bail ("%s: %s", folder, strerror (errno));
	while (readdir (dir))
		n++;
	closedir (dir);
	return n;
}

/* -- checks ------------------------------------------------------------------------ */

static void
check_busy (struct conform *c)
{
	struct silo_error err = { 0 };
	char address[64];
	uint16_t port = 0;
	int fd = tcp_occupy (&port, false);

	snprintf (address, sizeof (address), "127.0.0.1:%u", port);
	struct subject s = subject_new (c, address);
	tap_ok (subject_start (&s, &err) < 0, "start on a busy address is an error");
	tap_ok (strstr (err.msg, address) != NULL, "which names the address: %s", err.msg);
	close (fd);
	tap_is_int (subject_start (&s, &err), 0, "after that address became free, start works");
	tap_is_int (tcp_occupy (&port, true), -1, "nobody else can bind the address then");
	s.head->stop (s.self);
	fd = tcp_occupy (&port, false);
	tap_ok (fd >= 0, "start without listen, then stop: the address is free again");
	close (fd);
}

static void
check_cycle (struct conform *c)
{
	struct silo_error err = { 0 };
	char address[64];
	uint16_t port = 0;

	close (tcp_occupy (&port, false));
	snprintf (address, sizeof (address), "127.0.0.1:%u", port);
	struct subject s = subject_new (c, address);
	tap_is_int (subject_start (&s, &err), 0, "start binds");
	tap_ok (reachable (port), "connections are taken from then on");
	tap_is_int (s.ops->listen (s.self, &err), 0, "listen serves");
	tap_ok (reachable (port), "connections are still taken");
	subject_stop (&s);
	tap_ok (!reachable (port), "stop closes the address");
	subject_serve (&s);
	tap_ok (reachable (port), "it can be started again");
	subject_stop (&s);
}

static void
check_unix (struct conform *c)
{
	char dir[80], path[108], address[128];
	struct silo_error err = { 0 };
	struct stat st;

	conform_mkdir (c, "sock", dir, sizeof (dir));
	snprintf (path, sizeof (path), "%s/t.sock", dir);
	snprintf (address, sizeof (address), "unix:%s", path);
	struct subject s = subject_new (c, address);
	subject_serve (&s);
	tap_ok (lstat (path, &st) == 0 && S_ISSOCK (st.st_mode), "a unix socket appears");
	tap_is_int (st.st_mode & 0777, 0600, "only its owner may use it");
	int fd = unix_connect (path);
	tap_ok (fd >= 0, "it takes connections");
	close (fd);
	subject_stop (&s);
	tap_ok (lstat (path, &st) < 0 && errno == ENOENT, "stop removes its file");

	FILE *f = fopen (path, "we");
	if (!f || fputs ("mine", f) < 0 || fclose (f) != 0)
		tap_bail ("%s: %s", path, strerror (errno));
	tap_ok (subject_start (&s, &err) < 0 && strstr (err.msg, path),
		"a file that is no socket is not replaced: %s", err.msg);
	tap_ok (lstat (path, &st) == 0 && st.st_size == 4, "and is still there");
	unlink (path);
}

static void
check_wrong_addresses (struct conform *c)
{
	static const char *const wrong[] = {
		"nonsense",    "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999",
		"127.0.0.1:x", "unix:",     "::1:80",     ":80"
	};

	for (size_t i = 0; i < ARRAY_SIZE (wrong); i++) {
		struct silo_error err = { 0 };
		struct subject s = subject_new (c, wrong[i]);
		tap_is_int (subject_start (&s, &err), SILO_INVALID, "\"%s\" is refused: %s",
			    wrong[i], err.msg);
	}
}

static void
check_exposed (struct conform *c)
{
	static const char *const exposed[] = { "0.0.0.0:0", "[::]:0", "*:0" };

	for (size_t i = 0; i < ARRAY_SIZE (exposed); i++) {
		struct silo_error err = { 0 };
		struct subject s = subject_new (c, exposed[i]);
		tap_is_int (subject_start (&s, &err), SILO_PRECONDITION,
			    "%s without key and TLS is refused: %s", exposed[i], err.msg);
	}
}

/* Does the peer close, or answer, within the time?  Else we hang on it. */
static bool
hears_something (int fd, int timeout_ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll (&p, 1, timeout_ms) == 1;
}

static void
check_peers (struct conform *c)
{
	char address[64];
	uint16_t port = 0;
	unsigned char garbage[4096];
	int idle[IDLERS], good = 0;
	struct silo_error err = { 0 };

	close (tcp_occupy (&port, false));
	snprintf (address, sizeof (address), "127.0.0.1:%u", port);
	struct subject s = subject_new (c, address);
	subject_serve (&s);
	for (int i = 0; i < IDLERS; i++) {
		idle[i] = tcp_connect (port);
		good += idle[i] >= 0;
	}
	tap_is_int (good, IDLERS, "%d connections that say nothing are taken", IDLERS);
	if (silo_random (garbage, sizeof (garbage), &err) < 0)
		tap_bail ("%s", err.msg);
	memcpy (garbage, "\x16\n\r\n\r\n", 6); /* neither protocol's first bytes, and line ends */
	int fd = tcp_connect (port);
	tap_ok (send (fd, garbage, sizeof (garbage), MSG_NOSIGNAL) > 0 &&
		    hears_something (fd, 10000),
		"garbage is answered or cut off");
	close (fd);
	tap_ok (reachable (port), "and connections are still taken");

	int64_t before = silo_monotonic ();
	subject_stop (&s);
	tap_ok (silo_monotonic () - before < INT64_C (5000000000),
		"drain and stop end promptly although %d peers say nothing", IDLERS);
	for (int i = 0; i < IDLERS; i++) {
		good -= hears_something (idle[i], 5000);
		close (idle[i]);
	}
	tap_is_int (good, 0, "all of which see the end");
}

static void
check_leaks (struct conform *c)
{
	char address[64];
	uint16_t port = 0;

	close (tcp_occupy (&port, false));
	snprintf (address, sizeof (address), "127.0.0.1:%u", port);
	struct subject s = subject_new (c, address);
	subject_serve (&s);
	subject_stop (&s);
	int fds = count_entries ("/proc/self/fd"), threads = count_entries ("/proc/self/task");
	for (int i = 0; i < CYCLES; i++) {
		subject_serve (&s);
		subject_stop (&s);
	}
	tap_is_int (count_entries ("/proc/self/fd"), fds,
		    "%d times start, listen, stop: no "
		    "descriptor is lost",
		    CYCLES);
	/* Libraries may keep a thread or two between the rounds, but not more with each. */
	tap_ok (count_entries ("/proc/self/task") <= threads + 4,
		"nor threads left behind: %d before, %d after", threads,
		count_entries ("/proc/self/task"));
}

static bool
has_listen (const struct silo_plugin *head)
{
	struct silo_option row;

	for (size_t i = 0; options_row (head->options, head->option_size, i, &row); i++)
		if (strcmp (row.name, "listen") == 0)
			return row.type == SILO_LIST;
	return false;
}

int
conform_transport (struct conform *c)
{
	const struct silo_plugin *head = &c->instance->plugin->head;
	const struct silo_transport_ops *ops = instance_ops (c->instance, transport);

	tap_ok (ops->listen && ops->drain, "has listen and drain");
	tap_ok (head->start && head->stop, "has start and stop");
	tap_ok (has_listen (head), "has the option listen, a list");
	wiring_stop (c->core);
	check_busy (c);
	check_cycle (c);
	check_unix (c);
	check_wrong_addresses (c);
	check_exposed (c);
	check_peers (c);
	check_leaks (c);
	return tap_done ();
}
