/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image-python.c - which Python an image has, found in its tree without
 * running anything of it: `python3` along the PATH of the image's config, then
 * where distributions and conda put it.  Called once per import.
 */
#include "import.h"
#include <ctype.h>
#include <limits.h>
#include <sys/stat.h>

#define PYTHON_MAX_HOPS 16 /* symlinks from python3 to the program */

static const char default_path[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/* "python3.11" -> "3.11" */
static bool
version_parse (const char *name, size_t len, char ret[16])
{
	static const char start[] = "python3.";
	size_t digits = strlen (start);
	if (len <= digits || len - digits > 3 || memcmp (name, start, digits) != 0)
		return false;
	for (size_t i = digits; i < len; i++)
		if (!isdigit ((unsigned char) name[i]))
			return false;
	snprintf (ret, 16, "3.%.*s", (int) (len - digits), name + digits);
	return true;
}

static bool
is_program (const struct silo_meta *meta, const char *path)
{
	uint64_t ino = 0;
	struct silo_meta_inode inode;
	return silo_meta_resolve (meta, path, &ino, NULL) == 0 &&
	       silo_meta_stat (meta, ino, &inode, NULL) == 0 && S_ISREG (inode.mode) &&
	       inode.has_object && (inode.mode & 0111);
}

/* Follow the last part of `path` by one symlink; false when it is none. */
static bool
path_hop (const struct silo_meta *meta, char path[PATH_MAX])
{
	char *slash = strrchr (path, '/');
	char folder[PATH_MAX];
	uint64_t dir = 0, ino = 0;
	struct silo_bytes target;
	snprintf (folder, sizeof (folder), "%.*s", (int) (slash - path), path);
	if (silo_meta_resolve (meta, folder, &dir, NULL) < 0 ||
	    silo_meta_lookup (meta, dir, slash + 1, strlen (slash + 1), &ino, NULL) < 0 ||
	    silo_meta_readlink (meta, ino, &target, NULL) < 0)
		return false;
	const char *text = target.data;
	int n = text[0] == '/'
		    ? snprintf (path, PATH_MAX, "%.*s", (int) target.len, text)
		    : snprintf (path, PATH_MAX, "%s/%.*s", folder, (int) target.len, text);
	return n > 0 && n < PATH_MAX;
}

/* The version of the interpreter at `path`: in the name of what its links lead to. */
static bool
version_of (const struct silo_meta *meta, const char *path, char ret[16])
{
	char at[PATH_MAX];
	snprintf (at, sizeof (at), "%s", path);
	for (int hops = 0; hops < PYTHON_MAX_HOPS; hops++) {
		const char *name = strrchr (at, '/') + 1;
		if (version_parse (name, strlen (name), ret))
			return true;
		if (!path_hop (meta, at))
			break;
	}
	return false;
}

/* The highest python3.N of a folder. */
struct highest {
	int minor;
	char name[16];
	char version[16];
};

static int
highest_take (void *arg, const char *name, size_t len, uint64_t ino SILO_UNUSED,
	      uint32_t type SILO_UNUSED, uint64_t next SILO_UNUSED)
{
	struct highest *highest = arg;
	char version[16];
	if (!version_parse (name, len, version))
		return 0;
	int minor = (int) strtol (version + 2, NULL, 10);
	if (minor <= highest->minor)
		return 0;
	highest->minor = minor;
	snprintf (highest->name, sizeof (highest->name), "%.*s", (int) len, name);
	memcpy (highest->version, version, sizeof (version));
	return 0;
}

static bool
highest_in (const struct silo_meta *meta, const char *folder, struct highest *ret)
{
	uint64_t ino = 0;
	*ret = (struct highest){ .minor = -1 };
	return silo_meta_resolve (meta, folder, &ino, NULL) == 0 &&
	       silo_meta_readdir (meta, ino, 0, highest_take, ret, NULL) == 0 && ret->minor >= 0;
}

/* Look in one folder of PATH. */
static bool
python_in (const struct silo_meta *meta, const char *folder, struct image_python *ret)
{
	struct image_python found = { 0 };
	struct highest highest;
	char path[PATH_MAX];
	int n = snprintf (found.path, sizeof (found.path), "%s/python3", folder);
	if (folder[0] != '/' || n < 0 || n >= (int) sizeof (found.path) - 8)
		return false;
	if (is_program (meta, found.path)) {
		snprintf (path, sizeof (path), "%s/../lib", folder);
		if (!version_of (meta, found.path, found.version)) {
			/* A file that is just called python3: its library names it. */
			if (!highest_in (meta, path, &highest))
				return false;
			memcpy (found.version, highest.version, sizeof (found.version));
		}
		/* The versioned name beside it does not move to another Python. */
		snprintf (path, sizeof (path), "%s/python%s", folder, found.version);
		if (is_program (meta, path))
			memcpy (found.path, path, strlen (path) + 1);
	} else {
		if (!highest_in (meta, folder, &highest))
			return false;
		snprintf (found.path, sizeof (found.path), "%s/%s", folder, highest.name);
		memcpy (found.version, highest.version, sizeof (found.version));
		if (!is_program (meta, found.path))
			return false;
	}
	*ret = found;
	return true;
}

static bool
python_along (const struct silo_meta *meta, const char *path, struct image_python *ret)
{
	while (*path) {
		size_t len = strcspn (path, ":");
		char folder[240];
		if (len > 0 && len < sizeof (folder)) {
			memcpy (folder, path, len);
			folder[len] = '\0';
			if (python_in (meta, folder, ret))
				return true;
		}
		path += len;
		path += *path == ':';
	}
	return false;
}

struct opt {
	const struct silo_meta *meta;
	struct image_python *ret;
	bool found;
};

static int
opt_take (void *arg, const char *name, size_t len, uint64_t ino SILO_UNUSED,
	  uint32_t type SILO_UNUSED, uint64_t next SILO_UNUSED)
{
	struct opt *opt = arg;
	char folder[240];
	int n = snprintf (folder, sizeof (folder), "/opt/%.*s/bin", (int) len, name);
	opt->found =
	    n < (int) sizeof (folder) && name[0] != '.' && python_in (opt->meta, folder, opt->ret);
	return opt->found;
}

/* PATH of the config's Env; NULL when it sets none. */
static const char *
config_path (const json_t *config)
{
	const json_t *env = json_object_get (config, "Env");
	for (size_t i = 0; i < json_array_size (env); i++) {
		const char *text = json_string_value (json_array_get (env, i));
		if (text && strncmp (text, "PATH=", 5) == 0)
			return text + 5;
	}
	return NULL;
}

int
image_python (const struct silo_meta *meta, const char *config, struct image_python *ret,
	      struct silo_error *err)
{
	_cleanup_json_ json_t *json = json_loads (config, 0, NULL);
	if (!json)
		return silo_fail (err, SILO_INVALID, "the image's config is no JSON");
	const char *path = config_path (json);
	if ((path && python_along (meta, path, ret)) || python_along (meta, default_path, ret))
		return 0;
	struct opt opt = { meta, ret, false };
	uint64_t ino = 0;
	if (silo_meta_resolve (meta, "/opt", &ino, NULL) == 0)
		silo_meta_readdir (meta, ino, 0, opt_take, &opt, NULL);
	if (!opt.found)
		*ret = (struct image_python){ 0 };
	return 0;
}
