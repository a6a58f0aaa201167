/* SPDX-License-Identifier: Apache-2.0 */
/*
 * serve.c - answers the kernel's requests from the metadata file and the
 * objects.  Nothing is kept per open file or per looked-up inode: an inode's
 * number says where it is in the metadata file, so most requests are one look
 * into mapped memory.  An image never changes, so the kernel may keep all that
 * it has been told.  Runs on the share's threads.
 */
#include "fuse.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A year: as good as for ever. */
#define FOREVER (365.0 * 24 * 60 * 60)

/* Damage is reported at most so often: who reads a damaged file in a loop does not fill the
 * disk with our log. */
#define COMPLAIN_EVERY INT64_C (1000000000)

/* -- numbers and errors -- */

/* FUSE numbers the root 1, a number that no inode of a metadata file can have: the
 * superblock begins behind it. */
static uint64_t
serve_nid (const struct share *share, fuse_ino_t ino)
{
	return ino == FUSE_ROOT_ID ? share->root : ino;
}

static fuse_ino_t
serve_ino (const struct share *share, uint64_t nid)
{
	return nid == share->root ? FUSE_ROOT_ID : nid;
}

static void
serve_complain (struct share *share, uint64_t nid, const struct silo_error *err)
{
	int64_t now = silo_monotonic ();
	uint64_t unsaid = 0;

	pthread_mutex_lock (&share->lock);
	bool quiet = now < share->quiet_until;
	if (quiet) {
		share->unsaid++;
	} else {
		unsaid = share->unsaid;
		share->unsaid = 0;
		share->quiet_until = now + COMPLAIN_EVERY;
	}
	pthread_mutex_unlock (&share->lock);
	if (quiet)
		return;
	silo_log (share->self->host, SILO_ERROR, "%s: inode %llu: %s (%llu more not shown)",
		  share->path, (unsigned long long) nid, err->msg, (unsigned long long) unsaid);
}

/* Damaged metadata, missing or damaged objects: EIO for whoever reads, a line in the log. */
static void
serve_error (fuse_req_t req, uint64_t nid, const struct silo_error *err)
{
	struct share *share = fuse_req_userdata (req);

	serve_complain (share, nid, err);
	fuse_reply_err (req, err->code == SILO_EXHAUSTED ? ENOMEM : EIO);
}

/* -- attributes -- */

static void
serve_attr (const struct silo_meta_inode *inode, struct stat *ret)
{
	*ret = (struct stat){
		.st_ino = inode->ino,
		.st_mode = inode->mode,
		.st_nlink = inode->nlink,
		.st_uid = inode->uid,
		.st_gid = inode->gid,
		.st_rdev = inode->rdev,
		.st_size = (off_t) inode->size,
		.st_blksize = 4096,
		.st_blocks = (blkcnt_t) ((inode->size + 511) / 512),
	};
	ret->st_mtim.tv_sec = inode->mtime;
	ret->st_mtim.tv_nsec = inode->mtime_nsec;
	ret->st_atim = ret->st_ctim = ret->st_mtim;
}

static int
serve_entry (const struct share *share, uint64_t nid, struct fuse_entry_param *ret,
	     struct silo_error *err)
{
	struct silo_meta_inode inode;

	int r = silo_meta_stat (share->meta, nid, &inode, err);
	if (r < 0)
		return r;
	*ret = (struct fuse_entry_param){
		.ino = serve_ino (share, nid),
		.attr_timeout = FOREVER,
		.entry_timeout = FOREVER,
	};
	serve_attr (&inode, &ret->attr);
	return 0;
}

void
serve_init (void *userdata, struct fuse_conn_info *conn)
{
	struct share *share = userdata;
	const unsigned wanted =
	    FUSE_CAP_ASYNC_READ | FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_READDIRPLUS |
	    FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_CACHE_SYMLINKS |
	    FUSE_CAP_POSIX_ACL | FUSE_CAP_NO_OPEN_SUPPORT | FUSE_CAP_NO_OPENDIR_SUPPORT;

	conn->want = conn->capable & wanted;
	conn->max_read = READ_MAX;
	/* Nothing is ever written; libfuse derives the pages of one request from it. */
	conn->max_write = READ_MAX;
	conn->max_readahead = READ_MAX;
	share->no_open = conn->capable & FUSE_CAP_NO_OPEN_SUPPORT;
	share->no_opendir = conn->capable & FUSE_CAP_NO_OPENDIR_SUPPORT;
}

static void
serve_lookup (fuse_req_t req, fuse_ino_t parent, const char *name)
{
	const struct share *share = fuse_req_userdata (req);
	uint64_t dir = serve_nid (share, parent), nid;
	struct silo_error err = { 0 };
	struct fuse_entry_param entry;
	size_t len = strlen (name);

	if (len > NAME_MAX) {
		fuse_reply_err (req, ENAMETOOLONG);
		return;
	}
	int r = silo_meta_lookup (share->meta, dir, name, len, &nid, &err);
	if (r == SILO_NOTFOUND) {
		/* Number 0: the kernel remembers that there is no such name. */
		entry = (struct fuse_entry_param){ .entry_timeout = FOREVER };
		fuse_reply_entry (req, &entry);
		return;
	}
	if (r == 0)
		r = serve_entry (share, nid, &entry, &err);
	if (r < 0)
		serve_error (req, dir, &err);
	else
		fuse_reply_entry (req, &entry);
}

static void
serve_getattr (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	const struct share *share = fuse_req_userdata (req);
	uint64_t nid = serve_nid (share, ino);
	struct silo_error err = { 0 };
	struct fuse_entry_param entry;
	(void) fi;

	if (serve_entry (share, nid, &entry, &err) < 0)
		serve_error (req, nid, &err);
	else
		fuse_reply_attr (req, &entry.attr, FOREVER);
}

static void
serve_readlink (fuse_req_t req, fuse_ino_t ino)
{
	const struct share *share = fuse_req_userdata (req);
	uint64_t nid = serve_nid (share, ino);
	struct silo_error err = { 0 };
	struct silo_bytes target;
	char text[PATH_MAX];

	int r = silo_meta_readlink (share->meta, nid, &target, &err);
	if (r == 0 && target.len >= sizeof (text))
		r = silo_fail (&err, SILO_DATALOSS, "a symlink's target of %zu bytes", target.len);
	if (r < 0) {
		serve_error (req, nid, &err);
		return;
	}
	memcpy (text, target.data, target.len);
	text[target.len] = '\0';
	fuse_reply_readlink (req, text);
}

/* -- files -- */

/* False: there is no passthrough. */
static bool
serve_open_pass (fuse_req_t req, fuse_ino_t ino)
{
	struct share *share = fuse_req_userdata (req);
	uint64_t nid = serve_nid (share, ino);
	struct silo_error err = { 0 };
	struct pass_inode *inode;

	int r = share->pass ? pass_open (share, nid, &inode, &err) : SILO_UNIMPLEMENTED;
	if (r == SILO_UNIMPLEMENTED)
		return false;
	if (r < 0)
		serve_error (req, nid, &err);
	else if (pass_reply (req, inode) == -ENOENT)
		pass_close (share, inode); /* who opened it has been killed */
	return true;
}

/* ENOSYS tells the kernel never to ask again, and to cache as below. */
static void
serve_open (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	const struct share *share = fuse_req_userdata (req);

	if (serve_open_pass (req, ino))
		return;
	if (share->no_open) {
		fuse_reply_err (req, ENOSYS);
		return;
	}
	fi->keep_cache = 1;
	fuse_reply_open (req, fi);
}

static void
serve_release (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct share *share = fuse_req_userdata (req);
	(void) ino;

	if (share->pass)
		pass_close (share, (struct pass_inode *) (uintptr_t) fi->fh); /* NOLINT */
	fuse_reply_err (req, 0);
}

static void
serve_opendir (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	const struct share *share = fuse_req_userdata (req);
	(void) ino;

	if (share->no_opendir) {
		fuse_reply_err (req, ENOSYS);
		return;
	}
	fi->keep_cache = 1;
	fi->cache_readdir = 1;
	fuse_reply_open (req, fi);
}

/* All `len` bytes: the object has them, or it has been cut since it was opened. */
static int
serve_pread (int fd, char *to, size_t len, off_t off, struct silo_error *err)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = pread (fd, to + done, len - done, off + (off_t) done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return silo_fail_sys (err, errno, "read object");
		if (n == 0)
			return silo_fail (err, SILO_DATALOSS, "its object has been cut");
		done += (size_t) n;
	}
	return 0;
}

/* Read into `buffer`; *ret_len is 0 behind the end. */
static int
serve_bytes (struct share *share, uint64_t nid, off_t off, size_t size, char *buffer,
	     size_t *ret_len, struct silo_error *err)
{
	struct silo_meta_inode inode;
	struct object *object;

	int r = silo_meta_stat (share->meta, nid, &inode, err);
	if (r < 0)
		return r;
	if (!inode.has_object || off < 0 || (uint64_t) off >= inode.size) {
		*ret_len = 0;
		return 0;
	}

	size_t len = size < READ_MAX ? size : READ_MAX;
	if (len > inode.size - (uint64_t) off)
		len = (size_t) (inode.size - (uint64_t) off);
	r = object_get (share->self->objects, share->content, &inode, &object, err);
	if (r < 0)
		return r;
	r = serve_pread (object_fd (object), buffer, len, off, err);
	object_put (share->self->objects, object);
	if (r < 0)
		return r;
	*ret_len = len;
	return 0;
}

static void
serve_read (fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct share *share = fuse_req_userdata (req);
	uint64_t nid = serve_nid (share, ino);
	struct silo_error err = { 0 };
	size_t len;
	(void) fi;

	char *buffer = share_buffer (share);
	if (!buffer) {
		fuse_reply_err (req, ENOMEM);
		return;
	}
	if (serve_bytes (share, nid, off, size, buffer, &len, &err) < 0)
		serve_error (req, nid, &err);
	else
		fuse_reply_buf (req, buffer, len);
	share_buffer_put (share, buffer);
}

/* -- folders -- */

struct listing {
	fuse_req_t req;
	const struct share *share;
	char *buffer;
	size_t size, used;
	bool plus; /* with attributes */
	int r;
	struct silo_error err;
};

static int
listing_add (void *arg, const char *name, size_t name_len, uint64_t nid, uint32_t type,
	     uint64_t next)
{
	struct listing *list = arg;
	struct fuse_entry_param entry = { .attr = { .st_ino = nid, .st_mode = type } };
	char *at = list->buffer + list->used, text[NAME_MAX + 1];
	size_t room = list->size - list->used;

	if (name_len > NAME_MAX) {
		list->r = silo_fail (&list->err, SILO_DATALOSS, "a name of %zu bytes", name_len);
		return 1;
	}
	memcpy (text, name, name_len);
	text[name_len] = '\0';

	/* "." and ".." go without attributes: they would count as looked up. */
	bool dots = strcmp (text, ".") == 0 || strcmp (text, "..") == 0;
	if (list->plus && !dots) {
		list->r = serve_entry (list->share, nid, &entry, &list->err);
		if (list->r < 0)
			return 1;
	}
	size_t len = list->plus
			 ? fuse_add_direntry_plus (list->req, at, room, text, &entry, (off_t) next)
			 : fuse_add_direntry (list->req, at, room, text, &entry.attr, (off_t) next);
	if (len > room)
		return 1;
	list->used += len;
	return 0;
}

static void
serve_list (fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	struct share *share = fuse_req_userdata (req);
	uint64_t nid = serve_nid (share, ino);
	struct listing list = {
		.req = req,
		.share = share,
		.buffer = share_buffer (share),
		.size = size < READ_MAX ? size : READ_MAX,
		.plus = plus,
	};

	if (!list.buffer) {
		fuse_reply_err (req, ENOMEM);
		return;
	}
	int r = silo_meta_readdir (share->meta, nid, (uint64_t) off, listing_add, &list, &list.err);
	if (r < 0 || list.r < 0)
		serve_error (req, nid, &list.err);
	else
		fuse_reply_buf (req, list.buffer, list.used);
	share_buffer_put (share, list.buffer);
}

static void
serve_readdir (fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void) fi;
	serve_list (req, ino, size, off, false);
}

static void
serve_readdirplus (fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		   struct fuse_file_info *fi)
{
	(void) fi;
	serve_list (req, ino, size, off, true);
}

/* -- extended attributes -- */

/* The overlay above would take these for its own. */
static bool
xattr_hidden (const char *name)
{
	return strncmp (name, "trusted.overlay.", 16) == 0;
}

/* Of a kind that a file can have?  The kernel does not ask only for those. */
static bool
xattr_possible (const char *name)
{
	static const char *const prefixes[] = { "user.", "trusted.", "security.",
						"system.posix_acl_" };

	for (size_t i = 0; i < sizeof (prefixes) / sizeof (prefixes[0]); i++) {
		if (strncmp (name, prefixes[i], strlen (prefixes[i])) == 0)
			return true;
	}
	return false;
}

struct xattr_search {
	const char *name;
	bool found;
	struct silo_bytes value;
};

static int
xattr_match (void *arg, const char *name, struct silo_bytes value)
{
	struct xattr_search *search = arg;

	if (strcmp (name, search->name) != 0)
		return 0;
	search->found = true;
	search->value = value;
	return 1;
}

/* A size of 0 asks for the length. */
static void
xattr_reply (fuse_req_t req, struct silo_bytes value, size_t size)
{
	if (size == 0)
		fuse_reply_xattr (req, value.len);
	else if (value.len > size)
		fuse_reply_err (req, ERANGE);
	else
		fuse_reply_buf (req, value.data, value.len);
}

static void
serve_getxattr (fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	const struct share *share = fuse_req_userdata (req);
	uint64_t nid = serve_nid (share, ino);
	struct xattr_search search = { .name = name };
	struct silo_error err = { 0 };

	if (xattr_hidden (name) || !xattr_possible (name)) {
		fuse_reply_err (req, xattr_hidden (name) ? ENODATA : EOPNOTSUPP);
		return;
	}
	if (silo_meta_xattrs (share->meta, nid, xattr_match, &search, &err) < 0)
		serve_error (req, nid, &err);
	else if (!search.found)
		fuse_reply_err (req, ENODATA);
	else
		xattr_reply (req, search.value, size);
}

struct xattr_names {
	struct silo_buf buf;
	int r;
	struct silo_error err;
};

static int
xattr_add_name (void *arg, const char *name, struct silo_bytes value)
{
	struct xattr_names *names = arg;
	(void) value;

	if (!xattr_hidden (name))
		names->r = silo_buf_add (&names->buf, name, strlen (name) + 1, &names->err);
	return names->r < 0;
}

static void
serve_listxattr (fuse_req_t req, fuse_ino_t ino, size_t size)
{
	const struct share *share = fuse_req_userdata (req);
	uint64_t nid = serve_nid (share, ino);
	struct xattr_names names = { .buf = SILO_BUF (XATTR_LIST_MAX) };

	int r = silo_meta_xattrs (share->meta, nid, xattr_add_name, &names, &names.err);
	if (r < 0 || names.r < 0)
		serve_error (req, nid, &names.err);
	else
		xattr_reply (req, (struct silo_bytes){ names.buf.data, names.buf.len }, size);
	silo_buf_free (&names.buf);
}

static void
serve_statfs (fuse_req_t req, fuse_ino_t ino)
{
	const struct share *share = fuse_req_userdata (req);
	const struct statvfs st = {
		.f_bsize = 4096,
		.f_frsize = 4096,
		.f_files = silo_meta_inodes (share->meta),
		.f_namemax = NAME_MAX,
	};
	(void) ino;

	fuse_reply_statfs (req, &st);
}

const struct fuse_lowlevel_ops serve_ops = {
	.init = serve_init,
	.lookup = serve_lookup,
	.getattr = serve_getattr,
	.readlink = serve_readlink,
	.open = serve_open,
	.release = serve_release,
	.opendir = serve_opendir,
	.read = serve_read,
	.readdir = serve_readdir,
	.readdirplus = serve_readdirplus,
	.getxattr = serve_getxattr,
	.listxattr = serve_listxattr,
	.statfs = serve_statfs,
};
