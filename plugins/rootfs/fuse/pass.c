/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pass.c - FUSE passthrough: an open file's reads and mappings go from the
 * kernel straight to the file that holds its object.  libfuse before 3.17 does
 * not know it, so the answers to INIT and OPEN are completed here, by the
 * kernel's own layout, which every libfuse writes.  Whether it works is found
 * out by the first open: else opens cost no request, as without it.  Runs on
 * the share's threads.
 */
#include "fuse.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/fuse.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

/* What older headers lack. */
#define INIT_EXT      (UINT32_C (1) << 30) /* flags2 is there */
#define PASSTHROUGH   (UINT32_C (1) << 5)  /* in flags2 */
#define OPEN_NOFLUSH  (UINT32_C (1) << 5)
#define OPEN_PASS     (UINT32_C (1) << 7)
#define BACKING_OPEN  _IOW (229, 1, struct backing_map)
#define BACKING_CLOSE _IOW (229, 2, uint32_t)

/* 32-bit words of the answer to INIT. */
#define INIT_FLAGS  3
#define INIT_FLAGS2 8
#define INIT_DEPTH  9
#define INIT_WORDS  16

/* Objects must be on a file system that is not stacked itself (no overlay); our overlay goes on
 * top of this one, and the kernel stacks no more than two. */
#define STACK_DEPTH 1

/* With passthrough = auto smaller files are read by requests: registering an object with the
 * kernel at each open costs more than it saves. */
#define WORTH_IT 131072

#define BUCKETS 1024

struct backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};

struct open_answer {
	uint64_t fh;
	uint32_t flags;
	uint32_t backing;
};

/* A file that somebody has open.  The kernel wants all opens of it to be of the same mind. */
struct pass_inode {
	struct pass_inode *next;
	uint64_t nid;
	size_t opens;
	uint32_t backing; /* the kernel's number of its object; 0: reads are requests */
};

struct pass {
	uint64_t init; /* number of the INIT request, if it offers passthrough */

	pthread_mutex_t lock; /* protects what follows */
	enum { PASS_UNKNOWN, PASS_WORKS, PASS_REFUSED } state;
	struct pass_inode *buckets[BUCKETS];
};

struct pass *
pass_new (void)
{
	struct pass *pass = calloc (1, sizeof (*pass));

	if (pass)
		pthread_mutex_init (&pass->lock, NULL);
	return pass;
}

/* The kernel forgets its numbers together with the connection. */
void
pass_free (struct pass *pass)
{
	if (!pass)
		return;
	for (size_t i = 0; i < BUCKETS; i++) {
		while (pass->buckets[i]) {
			struct pass_inode *inode = pass->buckets[i];
			pass->buckets[i] = inode->next;
			free (inode);
		}
	}
	pthread_mutex_destroy (&pass->lock);
	free (pass);
}

/* -- agreeing with the kernel -- */

void
pass_request (struct pass *pass, const void *request, size_t len)
{
	struct fuse_in_header head;
	uint32_t words[5]; /* major, minor, readahead, flags, flags2 */

	if (len < sizeof (head) + sizeof (words))
		return;
	memcpy (&head, request, sizeof (head));
	if (head.opcode != FUSE_INIT)
		return;
	memcpy (words, (const char *) request + sizeof (head), sizeof (words));
	if ((words[3] & INIT_EXT) && (words[4] & PASSTHROUGH))
		pass->init = head.unique;
}

#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 12)

static void
pass_init_answer (const struct iovec *iov, int count)
{
	uint32_t words[INIT_WORDS];

	if (count < 2 || iov[1].iov_len < sizeof (words))
		return;
	memcpy (words, iov[1].iov_base, sizeof (words));
	words[INIT_FLAGS] |= INIT_EXT;
	words[INIT_FLAGS2] |= PASSTHROUGH;
	words[INIT_DEPTH] = STACK_DEPTH;
	memcpy (iov[1].iov_base, words, sizeof (words));
}

static ssize_t
pass_writev (int fd, struct iovec *iov, int count, void *userdata)
{
	const struct share *share = userdata;
	struct fuse_out_header head;

	assert (count > 0 && iov[0].iov_len == sizeof (head));
	memcpy (&head, iov[0].iov_base, sizeof (head));
	if (share->pass->init != 0 && head.unique == share->pass->init && head.error == 0)
		pass_init_answer (iov, count);
	return writev (fd, iov, count);
}

/* Not used: requests are read by share.c.  libfuse insists on it. */
static ssize_t
pass_read (int fd, void *to, size_t len, void *userdata)
{
	(void) userdata;
	return read (fd, to, len);
}

bool
pass_session (struct share *share, int device)
{
	static const struct fuse_custom_io io = { .writev = pass_writev, .read = pass_read };

	return fuse_session_custom_io (share->session, &io, device) == 0;
}

#else

bool
pass_session (struct share *share, int device)
{
	(void) share;
	(void) device;
	return false;
}

#endif

/* -- open files -- */

static struct pass_inode **
pass_find (struct pass *pass, uint64_t nid)
{
	/* Inodes are 64 bytes in the metadata file, numbered in units of 32. */
	struct pass_inode **at = &pass->buckets[nid / 2 % BUCKETS];

	while (*at && (*at)->nid != nid)
		at = &(*at)->next;
	return at;
}

static bool
pass_worth (const struct share *share, const struct silo_meta_inode *inode)
{
	return inode->has_object &&
	       (share->self->passthrough == PASSTHROUGH_YES || inode->size >= WORTH_IT);
}

/* *ret is 0 when the kernel refuses or there is no file to pass through to. */
static int
backing_open (struct share *share, const struct silo_meta_inode *inode, uint32_t *ret,
	      struct silo_error *err)
{
	struct object *object;

	int r = object_get (share->self->objects, share->content, inode, &object, err);
	if (r < 0)
		return r;
	struct backing_map map = { .fd = object_fd (object) };
	int id = -1, sys = 0;
	if (object_named (object)) {
		id = ioctl (fuse_session_fd (share->session), BACKING_OPEN, &map);
		sys = errno;
	}
	object_put (share->self->objects, object);
	if (id < 0)
		silo_log (share->self->host, SILO_DEBUG, "%s: no passthrough: %s", share->path,
			  sys ? strerror (sys) : "the content store has no files");
	*ret = id > 0 ? (uint32_t) id : 0;
	return 0;
}

static void
backing_close (const struct share *share, uint32_t backing)
{
	if (backing != 0)
		ioctl (fuse_session_fd (share->session), BACKING_CLOSE, &backing);
}

/* Is it open already?  Then once more. */
static bool
pass_again (struct pass *pass, uint64_t nid, struct pass_inode **ret)
{
	pthread_mutex_lock (&pass->lock);
	*ret = *pass_find (pass, nid);
	if (*ret)
		(*ret)->opens++;
	pthread_mutex_unlock (&pass->lock);
	return *ret;
}

static bool
pass_refused (struct pass *pass)
{
	pthread_mutex_lock (&pass->lock);
	bool refused = pass->state == PASS_REFUSED;
	pthread_mutex_unlock (&pass->lock);
	return refused;
}

/* Under pass->lock: `fresh`, or what another thread has put there meanwhile.  NULL: passthrough
 * does not work. */
static struct pass_inode *
pass_insert (struct pass *pass, struct pass_inode *fresh)
{
	struct pass_inode **at = pass_find (pass, fresh->nid);

	if (*at) {
		(*at)->opens++;
		return *at;
	}
	if (pass->state == PASS_UNKNOWN)
		pass->state = fresh->backing != 0 ? PASS_WORKS : PASS_REFUSED;
	if (pass->state == PASS_REFUSED)
		return NULL;
	*at = fresh;
	return fresh;
}

int
pass_open (struct share *share, uint64_t nid, struct pass_inode **ret, struct silo_error *err)
{
	struct pass *pass = share->pass;
	struct silo_meta_inode inode;

	if (pass->init == 0 || pass_refused (pass))
		return silo_fail (err, SILO_UNIMPLEMENTED, "no passthrough");
	int r = silo_meta_stat (share->meta, nid, &inode, err);
	if (r < 0)
		return r;
	if (!pass_worth (share, &inode)) {
		*ret = NULL;
		return 0;
	}
	if (pass_again (pass, nid, ret))
		return 0;

	struct pass_inode *fresh = calloc (1, sizeof (*fresh));
	if (!fresh)
		return silo_fail_nomem (err);
	fresh->nid = nid;
	fresh->opens = 1;
	r = backing_open (share, &inode, &fresh->backing, err);
	if (r < 0) {
		free (fresh);
		return r;
	}

	pthread_mutex_lock (&pass->lock);
	struct pass_inode *kept = pass_insert (pass, fresh);
	pthread_mutex_unlock (&pass->lock);
	if (kept != fresh) {
		backing_close (share, fresh->backing);
		free (fresh);
	}
	if (!kept)
		return silo_fail (err, SILO_UNIMPLEMENTED, "no passthrough");
	*ret = kept;
	return 0;
}

void
pass_close (struct share *share, struct pass_inode *inode)
{
	struct pass *pass = share->pass;

	if (!inode)
		return;
	pthread_mutex_lock (&pass->lock);
	assert (inode->opens > 0);
	bool last = --inode->opens == 0;
	if (last)
		*pass_find (pass, inode->nid) = inode->next;
	pthread_mutex_unlock (&pass->lock);
	if (!last)
		return;
	backing_close (share, inode->backing);
	free (inode);
}

int
pass_reply (fuse_req_t req, struct pass_inode *inode)
{
	struct open_answer answer = { .fh = (uintptr_t) inode };

	if (inode && inode->backing != 0) {
		answer.flags = OPEN_PASS | OPEN_NOFLUSH;
		answer.backing = inode->backing;
	} else {
		answer.flags = FOPEN_KEEP_CACHE | OPEN_NOFLUSH;
	}
	return fuse_reply_buf (req, (const char *) &answer, sizeof (answer));
}
