/* SPDX-License-Identifier: Apache-2.0 */
/*
 * proxy.c - speaks with `skopeo experimental-image-proxy`: each message is one
 * packet of JSON on a socket pair, bytes come through pipes whose descriptors
 * are sent along.  A pipe ends when the request FinishPipe has been answered,
 * and its answer says whether all was well: so it is sent before the pipe is
 * read, and answered when all of it has been.  One thread at a time.
 */
#include "oci.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <jansson.h>

#define MAX_REPLY ((size_t) 64 << 10)
#define PIPE_SIZE (1 << 20)

struct proxy {
	struct skopeo skopeo;
	const char *reference; /* as the user wrote it, for messages */
	int socket;
	int pipe;            /* of the blob or document that is being read; -1: none */
	json_int_t image;    /* its number for the open image */
	int64_t blob_size;   /* of the blob that is being read, as far as we know; -1 */
	size_t max_document; /* bytes */
	bool busy;           /* a request has not been answered */
	char *packet;        /* room for MAX_REPLY bytes */
};

struct reply {
	json_t *value;
	json_int_t pipe_id;
	int fd; /* -1: none */
};

static void
reply_clear (struct reply *reply)
{
	json_decref (reply->value);
	if (reply->fd >= 0)
		close (reply->fd);
}

/* -- messages --------------------------------------------------------------------- */

/* Takes `args`. */
static int
proxy_send (struct proxy *proxy, const char *method, json_t *args, struct silo_error *err)
{
	json_t *json = json_pack ("{s:s, s:o}", "method", method, "args", args);
	char *text = json ? json_dumps (json, JSON_COMPACT) : NULL;
	int r = 0;
	if (!text)
		r = silo_fail_nomem (err);
	else if (send (proxy->socket, text, strlen (text), MSG_NOSIGNAL) < 0)
		/* It may have said why it ended. */
		r = errno == EPIPE || errno == ECONNRESET
			? skopeo_wait (&proxy->skopeo, -1, err)
			: silo_fail_sys (err, errno, "asking skopeo for %s", method);
	proxy->busy = true;
	free (text);
	json_decref (json);
	return r;
}

/* The descriptor that came with a message; there is one at most. */
static int
message_fd (struct msghdr *message)
{
	int fd = -1;
	for (struct cmsghdr *c = CMSG_FIRSTHDR (message); c; c = CMSG_NXTHDR (message, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
		    c->cmsg_len != CMSG_LEN (sizeof (fd)))
			continue;
		if (fd >= 0)
			close (fd);
		memcpy (&fd, CMSG_DATA (c), sizeof (fd));
	}
	return fd;
}

static int
reply_parse (struct proxy *proxy, size_t len, struct reply *reply, struct silo_error *err)
{
	json_error_t bad;
	json_t *json = json_loadb (proxy->packet, len, 0, &bad);
	if (!json_is_object (json)) {
		json_decref (json);
		return silo_fail (err, SILO_INTERNAL, "skopeo's answer is no JSON object");
	}
	const char *said = json_string_value (json_object_get (json, "error"));
	int r = 0;
	if (!json_is_true (json_object_get (json, "success")))
		r = skopeo_fail (proxy->reference, said && *said ? said : "skopeo has failed", err);
	reply->value = json_incref (json_object_get (json, "value"));
	reply->pipe_id = json_integer_value (json_object_get (json, "pipeid"));
	json_decref (json);
	return r;
}

static int
proxy_receive (struct proxy *proxy, struct reply *ret, struct silo_error *err)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE (sizeof (int))];
	} control;
	struct iovec iov = { proxy->packet, MAX_REPLY };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;
	do {
		int r = skopeo_wait (&proxy->skopeo, proxy->socket, err);
		if (r < 0)
			return r;
		message.msg_control = &control;
		message.msg_controllen = sizeof (control);
		n = recvmsg (proxy->socket, &message, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n == 0 || (n < 0 && errno == ECONNRESET))
		return skopeo_wait (&proxy->skopeo, -1, err);
	if (n < 0)
		return silo_fail_sys (err, errno, "an answer of skopeo");
	proxy->busy = false;
	struct reply reply = { .fd = message_fd (&message) };
	int r = message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)
		    ? silo_fail (err, SILO_INTERNAL, "skopeo's answer is too long")
		    : reply_parse (proxy, (size_t) n, &reply, err);
	if (r < 0) {
		reply_clear (&reply);
		return r;
	}
	*ret = reply;
	return 0;
}

static int
proxy_call (struct proxy *proxy, const char *method, json_t *args, struct reply *ret,
	    struct silo_error *err)
{
	int r = proxy_send (proxy, method, args, err);
	return r < 0 ? r : proxy_receive (proxy, ret, err);
}

/* -- life ------------------------------------------------------------------------- */

static int
proxy_start (const struct origin *origin, const struct patience *patience, int in,
	     struct skopeo *ret, struct silo_error *err)
{
	struct platform platform;
	int r = platform_parse (origin->source->platform, &platform, err);
	if (r < 0)
		return r;
	const char *argv[20] = { NULL };
	size_t n = SKOPEO_ARGV;
	argv[n++] = origin->oci->skopeo;
	argv[n++] = "--insecure-policy";
	if (origin->temp.fd >= 0) {
		argv[n++] = "--tmpdir";
		argv[n++] = origin->temp.path;
	}
	argv[n++] = "--override-os";
	argv[n++] = platform.os;
	argv[n++] = "--override-arch";
	argv[n++] = platform.arch;
	if (platform.variant[0]) {
		argv[n++] = "--override-variant";
		argv[n++] = platform.variant;
	}
	argv[n++] = "experimental-image-proxy";
	argv[n++] = origin->source->tls_verify ? "--tls-verify=true" : "--tls-verify=false";
	argv[n] = NULL;
	return skopeo_start (argv, in, false, patience, ret, err);
}

static int
check_version (const struct reply *reply, struct silo_error *err)
{
	const char *version = json_string_value (reply->value);
	unsigned int major, minor, patch;
	if (version && sscanf (version, "%5u.%5u.%5u", &major, &minor, &patch) == 3 && major == 0 &&
	    minor == 2 && patch >= 3)
		return 0;
	return silo_fail (
	    err, SILO_PRECONDITION,
	    "skopeo's image proxy speaks version %.20s, expected 0.2.3 or a later 0.2",
	    version ? version : "unknown");
}

static int
proxy_open_image (struct proxy *proxy, const char *reference, struct silo_error *err)
{
	struct reply reply = { .fd = -1 };
	int r = proxy_call (proxy, "Initialize", json_array (), &reply, err);
	if (r < 0)
		return r;
	r = check_version (&reply, err);
	reply_clear (&reply);
	if (r == 0)
		r = proxy_call (proxy, "OpenImage", json_pack ("[s]", reference), &reply, err);
	if (r < 0)
		return r;
	proxy->image = json_integer_value (reply.value);
	reply_clear (&reply);
	return 0;
}

int
proxy_open (const struct origin *origin, const struct patience *patience, struct proxy **ret,
	    struct silo_error *err)
{
	int pair[2];
	struct proxy *proxy = calloc (1, sizeof (*proxy));
	char *packet = malloc (MAX_REPLY);
	if (!proxy || !packet) {
		free (proxy);
		free (packet);
		return silo_fail_nomem (err);
	}
	*proxy = (struct proxy){
		.reference = origin->source->reference,
		.skopeo.process = { .pidfd = -1, .out = -1, .err = -1 },
		.socket = -1,
		.pipe = -1,
		.max_document = (size_t) origin->oci->max_manifest,
		.packet = packet,
	};
	int r = 0;
	if (socketpair (AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		r = silo_fail_sys (err, errno, "a socket to skopeo");
	} else {
		proxy->socket = pair[0];
		r = proxy_start (origin, patience, pair[1], &proxy->skopeo, err);
		close (pair[1]);
	}
	if (r == 0)
		r = proxy_open_image (proxy, origin->reference->text, err);
	if (r < 0) {
		proxy_close (proxy);
		return r;
	}
	*ret = proxy;
	return 0;
}

void
proxy_close (struct proxy *proxy)
{
	if (!proxy)
		return;
	if (proxy->pipe >= 0)
		close (proxy->pipe);
	if (proxy->socket >= 0)
		close (proxy->socket);
	/* Idle it ends when its socket does. */
	skopeo_end (&proxy->skopeo, proxy->busy);
	free (proxy->packet);
	free (proxy);
}

void
proxy_set_patience (struct proxy *proxy, const struct patience *patience)
{
	proxy->skopeo.patience = patience;
}

/* -- bytes ------------------------------------------------------------------------- */

/* Ask for something that comes through a pipe, and for its end.  Takes `args`. */
static int
pipe_begin (struct proxy *proxy, const char *method, json_t *args, json_t **ret_value,
	    struct silo_error *err)
{
	struct reply reply = { .fd = -1 };
	int r = proxy_call (proxy, method, args, &reply, err);
	if (r < 0)
		return r;
	if (reply.fd < 0) {
		reply_clear (&reply);
		return silo_fail (err, SILO_INTERNAL, "skopeo's answer to %s has no pipe", method);
	}
	fcntl (reply.fd, F_SETPIPE_SZ, PIPE_SIZE); /* smaller ones work, too */
	proxy->pipe = reply.fd;
	*ret_value = reply.value;
	return proxy_send (proxy, "FinishPipe", json_pack ("[I]", reply.pipe_id), err);
}

static int
pipe_read (struct proxy *proxy, void *to, size_t len, size_t *ret_len, struct silo_error *err)
{
	for (;;) {
		int r = skopeo_wait (&proxy->skopeo, proxy->pipe, err);
		if (r < 0)
			return r;
		ssize_t n = read (proxy->pipe, to, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return silo_fail_sys (err, errno, "reading from skopeo");
		*ret_len = (size_t) n;
		return 0;
	}
}

static int
pipe_end (struct proxy *proxy, struct silo_error *err)
{
	struct reply reply = { .fd = -1 };
	close (proxy->pipe);
	proxy->pipe = -1;
	int r = proxy_receive (proxy, &reply, err);
	if (r == 0)
		reply_clear (&reply);
	return r;
}

/* A document; *ret_value is what was said about it. */
static int
proxy_document (struct proxy *proxy, const char *method, const char *what, struct silo_buf *to,
		json_t **ret_value, struct silo_error *err)
{
	json_t *value = NULL;
	char data[16384];
	size_t len = 1;
	int r = pipe_begin (proxy, method, json_pack ("[I]", proxy->image), &value, err);
	while (r == 0 && len > 0) {
		r = pipe_read (proxy, data, sizeof (data), &len, err);
		if (r == 0 &&
		    (to->len + len > proxy->max_document || silo_buf_add (to, data, len, NULL) < 0))
			r = silo_fail (err, SILO_EXHAUSTED,
				       "the image's %s has more than %zu bytes", what,
				       proxy->max_document);
	}
	if (r == 0)
		r = pipe_end (proxy, err);
	if (r < 0) {
		json_decref (value);
		return r;
	}
	*ret_value = value;
	return 0;
}

int
proxy_manifest (struct proxy *proxy, struct silo_buf *to, struct silo_digest *ret_digest,
		struct silo_error *err)
{
	static const char sha256[] = "sha256:";
	json_t *value = NULL;
	int r = proxy_document (proxy, "GetManifest", "manifest", to, &value, err);
	if (r < 0)
		return r;
	const char *digest = json_string_value (value);
	if (!digest || strncmp (digest, sha256, strlen (sha256)) != 0 ||
	    silo_digest_parse (digest + strlen (sha256), ret_digest, NULL) < 0)
		r = silo_fail (err, SILO_INTERNAL, "skopeo gives the manifest no digest");
	json_decref (value);
	return r;
}

int
proxy_config (struct proxy *proxy, struct silo_buf *to, struct silo_error *err)
{
	json_t *value = NULL;
	int r = proxy_document (proxy, "GetFullConfig", "config", to, &value, err);
	if (r == 0)
		json_decref (value);
	return r;
}

/* -- blobs -------------------------------------------------------------------------- */

int
proxy_blob_begin (struct proxy *proxy, const struct blob *blob, struct silo_error *err)
{
	char hex[SILO_DIGEST_HEX + 1], digest[SILO_DIGEST_HEX + 8];
	json_t *value = NULL;
	silo_digest_hex (&blob->digest, hex);
	snprintf (digest, sizeof (digest), "sha256:%s", hex);
	proxy->blob_size = blob->size;
	int r = pipe_begin (proxy, "GetBlob",
			    json_pack ("[I, s, I]", proxy->image, digest,
				       (json_int_t) (blob->size < 0 ? 0 : blob->size)),
			    &value, err);
	json_int_t size = json_is_integer (value) ? json_integer_value (value) : -1;
	json_decref (value);
	if (r == 0 && size >= 0 && blob->size >= 0 && size != blob->size)
		r = silo_fail (err, SILO_DATALOSS, "it has %lld bytes, its manifest says %lld",
			       (long long) size, (long long) blob->size);
	return r;
}

int
proxy_blob_read (struct proxy *proxy, void *to, size_t len, size_t *ret_len, struct silo_error *err)
{
	return pipe_read (proxy, to, len, ret_len, err);
}

int
proxy_blob_end (struct proxy *proxy, struct silo_error *err)
{
	struct silo_error why = { 0 };
	int r = pipe_end (proxy, &why);
	/* Not having been told the size, skopeo takes any for wrong. */
	if (r == SILO_DATALOSS && proxy->blob_size < 0)
		return 0;
	return r < 0 ? silo_fail (err, r, "%s", why.msg) : 0;
}
