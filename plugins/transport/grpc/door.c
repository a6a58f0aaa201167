/* SPDX-License-Identifier: Apache-2.0 */
/*
 * door.c - one thread that accepts connections, keeps each until the first 24
 * bytes have shown that it speaks HTTP/2, and hands it to gRPC; it also looks
 * after calls whose message does not arrive.  gRPC's own listener stops for
 * ever when descriptors run out, and waits for silent peers: this one does not.
 * It sleeps without a timeout when there is nothing to wait for.
 */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <grpc/grpc_posix.h>

#define DOOR_TIMEOUT ((int64_t) 5 * 1000000000) /* for the preface */
#define DOOR_MAX     256                        /* connections that have not shown it yet */
#define DOOR_EVENTS  32
#define DOOR_ACCEPTS 64 /* in one go, so that other events get their turn */

/* What every HTTP/2 connection begins with (RFC 9113, 3.4). */
static const char door_preface[24] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#define DOOR_CLIENTS 256 /* connections of gRPC's whose end is watched */

enum guest_kind { GUEST_KICK, GUEST_LISTENER, GUEST_PEER, GUEST_CLIENT };

/* What epoll knows by pointer. */
struct guest {
	enum guest_kind kind;
	int fd;
	struct face *face;
	/* GUEST_PEER: in the list of those that have not shown their preface, oldest first */
	struct guest *next, *prev;
	int64_t deadline;
};

struct door {
	struct server *server;
	pthread_t thread;
	bool running;
	atomic_bool closing;
	int epoll;
	struct guest kick;
	struct guest *listeners;
	size_t n_listeners;
	/* the thread's own */
	int spare; /* given up to accept, and so turn away, a peer when descriptors have run out */
	int fd_limit; /* the rest of the daemon keeps the descriptors above it */
	struct guest *first, *last;
	size_t n_guests;
	struct guest *clients; /* gRPC's: fd is a copy of its descriptor */
	size_t n_clients;
	bool crowded; /* there were more than can be watched: gRPC keeps running */
	int64_t empty_since;
};

static int
door_watch (struct door *door, struct guest *guest, uint32_t events, struct silo_error *err)
{
	struct epoll_event event = { .events = events, .data.ptr = guest };

	if (epoll_ctl (door->epoll, EPOLL_CTL_ADD, guest->fd, &event) < 0)
		return silo_fail_sys (err, errno, "epoll");
	return 0;
}

/* -- guests: connected, but not known to speak HTTP/2 ----------------------- */

static void
guest_unlink (struct door *door, struct guest *guest)
{
	if (guest->prev)
		guest->prev->next = guest->next;
	else
		door->first = guest->next;
	if (guest->next)
		guest->next->prev = guest->prev;
	else
		door->last = guest->prev;
	door->n_guests--;
}

/* Leaves the descriptor with the caller. */
static int
guest_take (struct door *door, struct guest *guest)
{
	int fd = guest->fd;

	epoll_ctl (door->epoll, EPOLL_CTL_DEL, fd, NULL);
	guest_unlink (door, guest);
	free (guest);
	return fd;
}

static void
guest_dismiss (struct door *door, struct guest *guest)
{
	close (guest_take (door, guest));
}

/* -- clients: gRPC has them, we only look for their end --------------------- */

static void
client_gone (struct door *door, struct guest *client)
{
	epoll_ctl (door->epoll, EPOLL_CTL_DEL, client->fd, NULL);
	close (client->fd);
	if (client->prev)
		client->prev->next = client->next;
	else
		door->clients = client->next;
	if (client->next)
		client->next->prev = client->prev;
	door->n_clients--;
	door->empty_since = silo_monotonic ();
	free (client);
}

static void
client_new (struct door *door, int fd)
{
	struct guest *client = calloc (1, sizeof (*client));

	if (client)
		client->fd = door->n_clients < DOOR_CLIENTS ? fcntl (fd, F_DUPFD_CLOEXEC, 0) : -1;
	if (!client || client->fd < 0) {
		door->crowded = true;
		free (client);
		return;
	}
	client->kind = GUEST_CLIENT;
	client->next = door->clients;
	if (client->next)
		client->next->prev = client;
	door->clients = client;
	door->n_clients++;
	if (door_watch (door, client, EPOLLRDHUP, NULL) < 0) {
		client_gone (door, client);
		door->crowded = true;
	}
}

/* When to stop gRPC, whose timers wake up every second for nobody; -1: not now. */
static int64_t
client_rest_due (const struct door *door)
{
	const struct server *server = door->server;

	if (!server->roused || *server->tls_cert || door->crowded || door->n_clients > 0 ||
	    door->n_guests > 0)
		return -1;
	return door->empty_since + server->rest_after * 1000000;
}

static void
guest_read (struct door *door, struct guest *guest)
{
	char start[sizeof (door_preface)];
	ssize_t n = recv (guest->fd, start, sizeof (start), MSG_PEEK | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || memcmp (start, door_preface, (size_t) n) != 0) {
		guest_dismiss (door, guest);
		return;
	}
	if ((size_t) n < sizeof (start))
		return; /* edge-triggered: it comes back when there is more */
	struct silo_error err;
	struct face *face = guest->face;
	if (server_rouse (door->server, &err) < 0) {
		silo_log (door->server->host, SILO_ERROR, "a client is turned away: %s", err.msg);
		guest_dismiss (door, guest);
		return;
	}
	int fd = guest_take (door, guest);
	client_new (door, fd);
	grpc_server_add_channel_from_fd (face->grpc, fd, door->server->plain);
}

static void
guest_new (struct door *door, struct face *face, int fd)
{
	const int one = 1;
	struct guest *guest = calloc (1, sizeof (*guest));

	if (!guest) {
		close (fd);
		return;
	}
	/* Fails on unix sockets, which have no such delay. */
	(void) setsockopt (fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof (one));
	if (door->n_guests == DOOR_MAX)
		guest_dismiss (door, door->first);
	*guest = (struct guest){ .kind = GUEST_PEER,
				 .fd = fd,
				 .face = face,
				 .prev = door->last,
				 .deadline = silo_monotonic () + DOOR_TIMEOUT };
	if (door->last)
		door->last->next = guest;
	else
		door->first = guest;
	door->last = guest;
	door->n_guests++;
	if (door_watch (door, guest, EPOLLIN | EPOLLRDHUP | EPOLLET, NULL) < 0)
		guest_dismiss (door, guest);
}

/* Dismiss who has been silent for too long.  When to look again, or -1. */
static int64_t
guest_expire (struct door *door)
{
	int64_t now = silo_monotonic ();

	while (door->first && door->first->deadline <= now)
		guest_dismiss (door, door->first);
	return door->first ? door->first->deadline : -1;
}

/* -- the thread ------------------------------------------------------------- */

/* Out of descriptors: take one peer off the backlog and close it, else the listener would
 * stay readable and we would spin. */
static void
door_turn_away (struct door *door, int listener)
{
	if (door->spare >= 0)
		close (door->spare);
	int fd = accept4 (listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0)
		close (fd);
	door->spare = open ("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void
door_accept (struct door *door, struct guest *listener)
{
	for (int i = 0; i < DOOR_ACCEPTS; i++) {
		int fd = accept4 (listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 && (errno == EMFILE || errno == ENFILE))
			door_turn_away (door, listener->fd);
		else if (fd < 0 && errno == EAGAIN)
			return;
		else if (fd >= door->fd_limit)
			close (fd);
		else if (fd >= 0)
			guest_new (door, listener->face, fd);
		/* Anything else is an error of that one connection. */
	}
}

/* Of two moments, -1 being never, the first. */
static int64_t
door_first (int64_t a, int64_t b)
{
	return a < 0 ? b : b < 0 ? a : a < b ? a : b;
}

static int
door_timeout (int64_t due)
{
	if (due < 0)
		return -1;
	int64_t ms = (due - silo_monotonic ()) / 1000000 + 1;
	return ms < 0 ? 0 : ms > 3600000 ? 3600000 : (int) ms;
}

static void *
door_run (void *arg)
{
	struct door *door = arg;
	struct epoll_event events[DOOR_EVENTS];
	struct guest *ready[DOOR_EVENTS];
	uint64_t count;

	while (!atomic_load (&door->closing)) {
		int64_t guests = guest_expire (door), calls = call_expire (door->server);
		int64_t rest = client_rest_due (door);
		if (rest >= 0 && rest <= silo_monotonic ()) {
			server_rest (door->server);
			rest = -1;
		}
		int timeout = door_timeout (door_first (rest, door_first (guests, calls)));
		int n = epoll_wait (door->epoll, events, DOOR_EVENTS, timeout);
		/* Accepting comes last: it may dismiss a peer that is among the events. */
		int n_ready = 0;
		for (int i = 0; i < n; i++) {
			struct guest *guest = events[i].data.ptr;
			if (guest->kind == GUEST_PEER)
				guest_read (door, guest);
			else if (guest->kind == GUEST_CLIENT)
				client_gone (door, guest);
			else if (guest->kind == GUEST_LISTENER)
				ready[n_ready++] = guest;
			else
				(void) !read (guest->fd, &count, sizeof (count));
		}
		for (int i = 0; i < n_ready; i++)
			door_accept (door, ready[i]);
	}
	return NULL;
}

/* -- opening and closing ---------------------------------------------------- */

static int
door_fd_limit (void)
{
	struct rlimit limit;

	if (getrlimit (RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > INT32_MAX)
		return INT32_MAX;
	int all = (int) limit.rlim_cur, keep = all / 4 < 256 ? all / 4 : 256;
	return all - keep;
}

/* Every socket that we accept on ourselves; those of TLS are gRPC's (fd -1 here). */
static int
door_add_listeners (struct door *door, struct silo_error *err)
{
	struct server *server = door->server;

	door->listeners = calloc (server->n_listeners + 1, sizeof (*door->listeners));
	if (!door->listeners)
		return silo_fail_nomem (err);
	for (size_t i = 0; i < server->n_listeners; i++) {
		const struct silo_listener *listener = &server->listeners[i];
		if (listener->fd < 0)
			continue;
		struct guest *guest = &door->listeners[door->n_listeners++];
		guest->kind = GUEST_LISTENER;
		guest->fd = listener->fd;
		guest->face = &server->faces[listener->local ? FACE_LOCAL : FACE_TCP];
		int r = door_watch (door, guest, EPOLLIN, err);
		if (r < 0)
			return r;
	}
	return 0;
}

int
door_open (struct server *server, struct door **ret, struct silo_error *err)
{
	struct door *door = calloc (1, sizeof (*door));

	if (!door)
		return silo_fail_nomem (err);
	door->server = server;
	door->fd_limit = door_fd_limit ();
	door->kick.kind = GUEST_KICK;
	door->epoll = epoll_create1 (EPOLL_CLOEXEC);
	door->kick.fd = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
	door->spare = open ("/dev/null", O_RDONLY | O_CLOEXEC);
	int r = door->epoll < 0 || door->kick.fd < 0 || door->spare < 0
		    ? silo_fail_sys (err, errno, "descriptors for accepting connections")
		    : 0;
	if (r == 0)
		r = door_watch (door, &door->kick, EPOLLIN, err);
	if (r < 0) {
		door_free (door);
		return r;
	}
	*ret = door;
	return 0;
}

int
door_start (struct door *door, struct silo_error *err)
{
	int r = door_add_listeners (door, err);
	if (r < 0)
		return r;
	r = pthread_create (&door->thread, NULL, door_run, door);
	if (r != 0)
		return silo_fail_sys (err, r, "thread for accepting connections");
	door->running = true;
	return 0;
}

void
door_kick (struct door *door)
{
	const uint64_t one = 1;

	/* Fails only when the count is full, and then it is awake. */
	(void) !write (door->kick.fd, &one, sizeof (one));
}

void
door_close (struct door *door)
{
	if (!door)
		return;
	atomic_store (&door->closing, true);
	if (door->running) {
		door_kick (door);
		pthread_join (door->thread, NULL);
	}
	door->running = false;
	while (door->first)
		guest_dismiss (door, door->first);
	while (door->clients)
		client_gone (door, door->clients);
}

void
door_free (struct door *door)
{
	if (!door)
		return;
	assert (!door->running);
	if (door->epoll >= 0)
		close (door->epoll);
	if (door->kick.fd >= 0)
		close (door->kick.fd);
	if (door->spare >= 0)
		close (door->spare);
	free (door->listeners);
	free (door);
}
