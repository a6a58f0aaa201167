/* SPDX-License-Identifier: Apache-2.0 */
/*
 * run-as.c - what an image's OCI config says of how to run in it: environment,
 * working folder, user.  User names are looked up in the image's own
 * /etc/passwd and /etc/group, read from its objects: nothing of it is run.
 */
#include "core.h"

#include <sys/stat.h>

#define RUN_AS_FILE_MAX (1024 * 1024) /* of /etc/passwd */

static const char default_path[] =
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/* Read a small file of the image; an image without it has an empty one. */
static int
read_file (struct core *core, const struct silo_meta *meta, const char *path, struct silo_buf *ret,
	   struct silo_error *err)
{
	struct silo_meta_inode inode;
	struct silo_error none;
	uint64_t ino;
	size_t got;

	int r = silo_meta_resolve (meta, path, &ino, &none);
	if (r == SILO_NOTFOUND)
		return 0;
	if (r < 0)
		return silo_fail (err, r, "%s", none.msg);
	r = silo_meta_stat (meta, ino, &inode, err);
	if (r < 0 || !S_ISREG (inode.mode) || !inode.has_object)
		return r;
	if (inode.size > RUN_AS_FILE_MAX)
		return silo_fail (err, SILO_EXHAUSTED, "%s of the image is larger than %d bytes",
				  path, RUN_AS_FILE_MAX);
	r = silo_buf_reserve (ret, inode.size, err);
	if (r == 0)
		r = silo_content_read (core->wiring.content, &inode.object, 0, ret->data,
				       inode.size, &got, err);
	if (r < 0)
		return r;
	ret->len = got;
	ret->data[got] = 0;
	return 0;
}

static bool
number (const char *text, size_t len, uint32_t *ret)
{
	uint64_t value = 0;

	if (len == 0 || len > 10)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		value = value * 10 + (uint64_t) (text[i] - '0');
	}
	if (value > UINT32_MAX)
		return false;
	*ret = (uint32_t) value;
	return true;
}

/* The i-th field of a line of /etc/passwd. */
static bool
field (const char *line, const char *end, int i, const char **ret, size_t *ret_len)
{
	for (; i > 0; i--) {
		line = memchr (line, ':', (size_t) (end - line));
		if (!line)
			return false;
		line++;
	}
	const char *stop = memchr (line, ':', (size_t) (end - line));
	*ret = line;
	*ret_len = (size_t) ((stop ? stop : end) - line);
	return true;
}

/* Find the line whose field `key` is `name`, and give its number in field `value`. */
static bool
look_up (const struct silo_buf *file, int key, const char *name, size_t name_len, int value,
	 uint32_t *ret)
{
	const char *line = (const char *) file->data, *end = line + file->len;

	while (line && line < end) {
		const char *stop = memchr (line, '\n', (size_t) (end - line));
		const char *text, *eol = stop ? stop : end;
		size_t len;

		if (field (line, eol, key, &text, &len) && len == name_len &&
		    memcmp (text, name, len) == 0 && field (line, eol, value, &text, &len) &&
		    number (text, len, ret))
			return true;
		line = stop ? stop + 1 : NULL;
	}
	return false;
}

/* "uid", "uid:gid", "name", "name:group" and mixtures. */
static int
resolve_user (struct core *core, const struct silo_image *image, const char *user,
	      struct run_as *ret, struct silo_error *err)
{
	_cleanup_buf_ struct silo_buf passwd = SILO_BUF (RUN_AS_FILE_MAX);
	_cleanup_buf_ struct silo_buf group = SILO_BUF (RUN_AS_FILE_MAX);
	const char *colon = strchr (user, ':');
	size_t len = colon ? (size_t) (colon - user) : strlen (user);
	char path[4096];
	struct silo_meta *meta;

	int r = image_meta_path (core, image, path, sizeof (path), err);
	if (r == 0)
		r = silo_meta_open (path, &meta, err);
	if (r < 0)
		return r;
	r = read_file (core, meta, "/etc/passwd", &passwd, err);
	if (r == 0 && colon)
		r = read_file (core, meta, "/etc/group", &group, err);
	silo_meta_close (meta);
	if (r < 0)
		return r;

	char uid[16];
	if (!number (user, len, &ret->uid) && !look_up (&passwd, 0, user, len, 2, &ret->uid))
		return silo_fail (err, SILO_PRECONDITION,
				  "image %s wants user %.64s, who is not in its /etc/passwd",
				  image->name, user);
	if (!colon) {
		snprintf (uid, sizeof (uid), "%u", ret->uid);
		look_up (&passwd, 2, uid, strlen (uid), 3, &ret->gid);
		return 0;
	}
	if (!number (colon + 1, strlen (colon + 1), &ret->gid) &&
	    !look_up (&group, 0, colon + 1, strlen (colon + 1), 2, &ret->gid))
		return silo_fail (err, SILO_PRECONDITION,
				  "image %s wants group %.64s, which is not in its /etc/group",
				  image->name, colon + 1);
	return 0;
}

static int
read_env (struct run_as *run_as, size_t room, struct silo_error *err)
{
	json_t *env = json_object_get (run_as->config, "Env"), *item;
	bool path = false;
	size_t i;

	run_as->env = calloc (json_array_size (env) + room + 2, sizeof (*run_as->env));
	if (!run_as->env)
		return silo_fail_nomem (err);
	json_array_foreach (env, i, item)
	{
		const char *text = json_string_value (item);
		if (!text || !strchr (text, '='))
			continue;
		path |= strncmp (text, "PATH=", 5) == 0;
		run_as->env[run_as->n_env++] = text;
	}
	if (!path)
		run_as->env[run_as->n_env++] = default_path;
	return 0;
}

int
run_as_read (struct core *core, const struct silo_image *image, size_t room, struct run_as *ret,
	     struct silo_error *err)
{
	struct run_as run_as = { .cwd = "/" };
	json_error_t where;

	run_as.config = json_loads (image->config[0] ? image->config : "{}", 0, &where);
	if (!json_is_object (run_as.config)) {
		run_as_free (&run_as);
		return silo_fail (err, SILO_DATALOSS, "config of image %s is no JSON object: %s",
				  image->name, where.text);
	}
	const char *cwd = json_string_value (json_object_get (run_as.config, "WorkingDir"));
	if (cwd && cwd[0] == '/')
		run_as.cwd = cwd;
	int r = read_env (&run_as, room, err);
	const char *user = json_string_value (json_object_get (run_as.config, "User"));
	if (r == 0 && user && user[0])
		r = resolve_user (core, image, user, &run_as, err);
	if (r < 0) {
		run_as_free (&run_as);
		return r;
	}
	*ret = run_as;
	return 0;
}

void
run_as_free (struct run_as *run_as)
{
	json_decref (run_as->config);
	free (run_as->env);
	*run_as = (struct run_as){ 0 };
}
