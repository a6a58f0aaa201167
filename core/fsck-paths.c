/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fsck-paths.c - whom a flawed object hurts: walks the trees of images that
 * have one, and keeps a path or two of each.  Called by fsck-check.c.
 */
#include "fsck.h"

#include <limits.h>
#include <sys/stat.h>

#define MAX_DEPTH   2048                 /* folders in folders, in PATH_MAX bytes */
#define MAX_ENTRIES ((uint64_t) 1 << 24) /* more than an import accepts */

/* A walk through one image. */
struct walk {
	struct fsck *fsck;
	size_t image;
	const struct silo_meta *meta;
	char path[PATH_MAX];
	size_t len;
	int depth;
	uint64_t seen;
	struct silo_error *err;
	int r;
};

struct fsck_flaw *
fsck_find (struct fsck *fsck, const struct silo_digest *object)
{
	size_t low = 0, high = fsck->n;
	/* Those of objects come first, by digest. */
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		struct fsck_flaw *flaw = &fsck->flaws[middle];
		int c = flaw->kind > FSCK_OBJECT_MISSING
			    ? 1
			    : memcmp (&flaw->digest, object, sizeof (*object));
		if (c == 0)
			return flaw;
		if (c < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

int
fsck_add_hurt (struct fsck_flaw *flaw, size_t image, struct fsck_hurt **ret, struct silo_error *err)
{
	/* Images come one after the other. */
	if (flaw->n_hurts == 0 || flaw->hurts[flaw->n_hurts - 1].image != image) {
		struct fsck_hurt *hurts =
		    reallocarray (flaw->hurts, flaw->n_hurts + 1, sizeof (*hurts));
		if (!hurts)
			return silo_fail_nomem (err);
		flaw->hurts = hurts;
		hurts[flaw->n_hurts++] = (struct fsck_hurt){ .image = image };
	}
	*ret = &flaw->hurts[flaw->n_hurts - 1];
	return 0;
}

/* A copy in which what a terminal would obey, or is no UTF-8, stands as \ooo. */
static int
printable (const char *path, char **ret, struct silo_error *err)
{
	_cleanup_json_ json_t *text = json_string (path); /* NULL: no UTF-8 */
	_cleanup_buf_ struct silo_buf to = SILO_BUF (4 * PATH_MAX + 1);
	int r = 0;
	for (const unsigned char *at = (const unsigned char *) path; r == 0 && *at; at++) {
		bool plain = *at >= ' ' && *at != 0x7f && *at != '\\' && (*at < 0x80 || text);
		r = plain ? silo_buf_add (&to, at, 1, err)
			  : silo_buf_addf (&to, err, "\\%03o", *at);
	}
	return r == 0 ? util_strdup ((const char *) to.data, ret, err) : r;
}

static int
walk_file (struct walk *walk, uint64_t ino)
{
	struct silo_meta_inode inode;
	struct fsck_hurt *hurt;
	int r = silo_meta_stat (walk->meta, ino, &inode, walk->err);
	struct fsck_flaw *flaw =
	    r == 0 && inode.has_object ? fsck_find (walk->fsck, &inode.object) : NULL;
	if (!flaw)
		return r;
	r = fsck_add_hurt (flaw, walk->image, &hurt, walk->err);
	if (r == 0 && hurt->n_paths++ < FSCK_PATHS)
		r = printable (walk->path, &hurt->paths[hurt->n_paths - 1], walk->err);
	return r;
}

static int
walk_entry (void *arg, const char *name, size_t name_len, uint64_t ino, uint32_t type,
	    uint64_t next SILO_UNUSED)
{
	struct walk *walk = arg;
	size_t before = walk->len;
	if ((name_len == 1 && name[0] == '.') || (name_len == 2 && memcmp (name, "..", 2) == 0))
		return 0;
	if (before + 1 + name_len >= sizeof (walk->path) || walk->depth >= MAX_DEPTH ||
	    ++walk->seen > MAX_ENTRIES)
		return 0;
	walk->path[before] = '/';
	memcpy (walk->path + before + 1, name, name_len);
	walk->len = before + 1 + name_len;
	walk->path[walk->len] = '\0';
	if (S_ISREG (type)) {
		walk->r = walk_file (walk, ino);
	} else if (S_ISDIR (type)) {
		walk->depth++;
		int r = silo_meta_readdir (walk->meta, ino, 0, walk_entry, walk, walk->err);
		walk->depth--;
		walk->r = r < 0 ? r : walk->r;
	}
	walk->len = before;
	return walk->r;
}

int
fsck_find_paths (struct fsck *fsck, size_t image, const struct silo_meta *meta,
		 struct silo_error *err)
{
	struct walk *walk = calloc (1, sizeof (*walk));
	if (!walk)
		return silo_fail_nomem (err);
	walk->fsck = fsck;
	walk->image = image;
	walk->meta = meta;
	walk->err = err;
	int r = silo_meta_readdir (meta, silo_meta_root (meta), 0, walk_entry, walk, err);
	if (r == 0)
		r = walk->r;
	free (walk);
	return r;
}
