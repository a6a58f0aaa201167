/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plugin.c - finds a plugin's shared object, loads it, and checks everything
 * that it says of itself before any of its functions is called.  Tables that
 * an older Silo knew shorter are padded with zeros here, once, so that no
 * other file thinks about sizes.  A loaded object is never unloaded.
 */
#include "core.h"

#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <sys/stat.h>

enum {
	PLUGIN_MAX_OPTIONS = 200,
	PLUGIN_MAX_INSTANCE = 1 << 20,
	PLUGIN_MAX_NAME = 32,
	/* What the first Silo's structures had; they can only have grown since. */
	PLUGIN_MIN_HEAD = offsetof (struct silo_plugin, instance_size) + sizeof (size_t),
	PLUGIN_MIN_OPTION = offsetof (struct silo_option, def) + sizeof (char *),
	PLUGIN_MAX_TABLE = 4096,
};

/* A function in a kind's table.  Those with the same nonzero `group` come all or none. */
struct plugin_op {
	const char *name;
	size_t offset;
	bool required;
	int group;
};

#define REQUIRED(kind, op)                                           \
	{                                                            \
#op, offsetof(struct silo_##kind##_ops, op), true, 0 \
	}
#define GROUPED(kind, op, group)                                          \
	{                                                                 \
#op, offsetof(struct silo_##kind##_ops, op), false, group \
	}

static const struct plugin_op transport_ops[] = {
	REQUIRED (transport, listen),
	REQUIRED (transport, drain),
	{ .name = NULL },
};
static const struct plugin_op storage_ops[] = {
	REQUIRED (storage, task_add),
	REQUIRED (storage, task_start),
	REQUIRED (storage, task_finish),
	REQUIRED (storage, task_get),
	REQUIRED (storage, task_list),
	REQUIRED (storage, task_drop),
	REQUIRED (storage, image_put),
	REQUIRED (storage, image_get),
	REQUIRED (storage, image_list),
	REQUIRED (storage, image_drop),
	REQUIRED (storage, thing_put),
	REQUIRED (storage, thing_get),
	REQUIRED (storage, thing_list),
	REQUIRED (storage, thing_drop),
	{ .name = NULL },
};
static const struct plugin_op content_ops[] = {
	REQUIRED (content, stat),     REQUIRED (content, read),    REQUIRED (content, add),
	REQUIRED (content, remove),   REQUIRED (content, each),    GROUPED (content, stage, 1),
	GROUPED (content, commit, 1), GROUPED (content, abort, 1), { .name = NULL },
};
static const struct plugin_op image_ops[] = {
	REQUIRED (image, identify),
	REQUIRED (image, import),
	{ .name = NULL },
};
static const struct plugin_op rootfs_ops[] = {
	REQUIRED (rootfs, probe),
	REQUIRED (rootfs, mount),
	REQUIRED (rootfs, unmount),
	{ .name = NULL },
};
static const struct plugin_op container_ops[] = {
	REQUIRED (container, probe),    REQUIRED (container, start),
	REQUIRED (container, kill),     REQUIRED (container, remove),
	REQUIRED (container, list),     GROUPED (container, pause, 1),
	GROUPED (container, resume, 1), { .name = NULL },
};

static const struct plugin_kind {
	const char *name;
	size_t ops_size; /* today's */
	const struct plugin_op *ops;
} kinds[] = {
	[SILO_KIND_TRANSPORT] = { "transport", sizeof (struct silo_transport_ops), transport_ops },
	[SILO_KIND_STORAGE] = { "storage", sizeof (struct silo_storage_ops), storage_ops },
	[SILO_KIND_CONTENT] = { "content", sizeof (struct silo_content_ops), content_ops },
	[SILO_KIND_IMAGE] = { "image", sizeof (struct silo_image_ops), image_ops },
	[SILO_KIND_ROOTFS] = { "rootfs", sizeof (struct silo_rootfs_ops), rootfs_ops },
	[SILO_KIND_CONTAINER] = { "container", sizeof (struct silo_container_ops), container_ops },
};

const char *
silo_kind_name (int kind)
{
	return kind > 0 && kind < (int) ARRAY_SIZE (kinds) ? kinds[kind].name : NULL;
}

int
kind_parse (const char *name, size_t len)
{
	for (int kind = 1; kind < (int) ARRAY_SIZE (kinds); kind++) {
		if (strlen (kinds[kind].name) == len && strncmp (kinds[kind].name, name, len) == 0)
			return kind;
	}
	return 0;
}

/* -- the file: dlopen trusts what it is given, so look first ------------------- */

/* A shared object cut short would end the process with SIGBUS inside dlopen. */
static int
plugin_check_file (const char *path, struct silo_error *err)
{
	ElfW (Ehdr) head;
	struct stat st;

	_cleanup_close_ int fd = open (path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat (fd, &st) < 0)
		return silo_fail_sys (err, errno, "plugin %s", path);
	if (!S_ISREG (st.st_mode))
		return silo_fail (err, SILO_INVALID, "plugin %s is not a file", path);
	if (pread (fd, &head, sizeof (head), 0) != (ssize_t) sizeof (head) ||
	    memcmp (head.e_ident, ELFMAG, SELFMAG) != 0 || head.e_type != ET_DYN)
		return silo_fail (err, SILO_INVALID, "plugin %s is not a shared object", path);
	if (head.e_phentsize != sizeof (ElfW (Phdr)))
		return silo_fail (err, SILO_INVALID, "plugin %s is for another machine", path);

	for (size_t i = 0; i < head.e_phnum; i++) {
		ElfW (Phdr) part;
		uint64_t end;
		off_t at = (off_t) (head.e_phoff + i * sizeof (part));
		if (pread (fd, &part, sizeof (part), at) != (ssize_t) sizeof (part) ||
		    (part.p_type == PT_LOAD &&
		     (__builtin_add_overflow (part.p_offset, part.p_filesz, &end) ||
		      end > (uint64_t) st.st_size)))
			return silo_fail (err, SILO_INVALID, "plugin %s is cut short", path);
	}
	return 0;
}

/* dlopen it and find the one symbol, which has to be data and large enough for what it says. */
static int
plugin_open (const char *path, const struct silo_plugin **ret, struct silo_error *err)
{
	const ElfW (Sym) *symbol = NULL;
	uint32_t begin[2]; /* abi, size: read before anything else is believed */
	Dl_info info;

	int r = plugin_check_file (path, err);
	if (r < 0)
		return r;
	void *handle = dlopen (path, RTLD_NOW | RTLD_LOCAL);
	if (!handle) {
		const char *why = dlerror ();
		size_t n = strlen (path);
		bool named = strncmp (why, path, n) == 0 && why[n] == ':';
		return silo_fail (err, SILO_INVALID, "plugin %s: %s", path,
				  named ? why + n + 2 : why);
	}
	const void *found = dlsym (handle, "silo_plugin");
	if (!found)
		return silo_fail (err, SILO_INVALID,
				  "plugin %s has no symbol silo_plugin: is it a plugin of Silo?",
				  path);
	if (!dladdr1 (found, &info, (void **) &symbol, RTLD_DL_SYMENT) || !symbol ||
	    ELF64_ST_TYPE (symbol->st_info) != STT_OBJECT || symbol->st_size < sizeof (begin))
		return silo_fail (err, SILO_INVALID, "plugin %s: silo_plugin is not a descriptor",
				  path);

	memcpy (begin, found, sizeof (begin));
	if (begin[0] != SILO_ABI)
		return silo_fail (
		    err, SILO_INVALID,
		    "plugin %s was built for ABI %u of Silo, this is ABI %u: build it "
		    "again",
		    path, begin[0], SILO_ABI);
	if (begin[1] < PLUGIN_MIN_HEAD || begin[1] > PLUGIN_MAX_TABLE || begin[1] > symbol->st_size)
		return silo_fail (err, SILO_INVALID,
				  "plugin %s: its descriptor says that it has %u bytes", path,
				  begin[1]);
	*ret = found;
	return 0;
}

/* -- the tables --------------------------------------------------------------------- */

/* Copy a table of `size` bytes into one of `today`: zeros where it is shorter; where it is
 * longer, nothing may be there. */
static int
plugin_pad (const char *path, const char *what, const void *from, size_t size, void *to,
	    size_t today, struct silo_error *err)
{
	const unsigned char *bytes = from;

	for (size_t i = today; i < size; i++) {
		if (bytes[i])
			return silo_fail (err, SILO_INVALID,
					  "plugin %s was built for a newer Silo and uses what this "
					  "one does not have (%s)",
					  path, what);
	}
	memset (to, 0, today);
	memcpy (to, from, size < today ? size : today);
	return 0;
}

static bool
plugin_name_ok (const char *name)
{
	size_t n = name ? strspn (name, "abcdefghijklmnopqrstuvwxyz0123456789_-") : 0;
	return n > 0 && n <= PLUGIN_MAX_NAME && name[n] == 0 && name[0] != '-';
}

static int
plugin_check_head (const struct silo_plugin *head, const char *path, int kind,
		   struct silo_error *err)
{
	const char *is = silo_kind_name ((int) head->kind);

	if (!is)
		return silo_fail (err, SILO_INVALID,
				  "plugin %s is of kind %u, which this Silo does not know", path,
				  head->kind);
	if (kind && kind != (int) head->kind)
		return silo_fail (err, SILO_INVALID, "plugin %s is of kind %s, not %s", path, is,
				  silo_kind_name (kind));
	if (!plugin_name_ok (head->name))
		return silo_fail (err, SILO_INVALID,
				  "plugin %s: expected a name of 1 to %d of a-z, 0-9, _ and -",
				  path, PLUGIN_MAX_NAME);
	if (!head->ops || head->ops_size == 0 || head->ops_size > PLUGIN_MAX_TABLE)
		return silo_fail (err, SILO_INVALID, "plugin %s has no table of operations", path);
	if (head->option_size < PLUGIN_MIN_OPTION || head->option_size > PLUGIN_MAX_TABLE)
		return silo_fail (err, SILO_INVALID, "plugin %s: its options have %u bytes each",
				  path, head->option_size);
	if (head->instance_size > PLUGIN_MAX_INSTANCE)
		return silo_fail (err, SILO_INVALID,
				  "plugin %s wants %zu bytes for an instance, at most %d are given",
				  path, head->instance_size, PLUGIN_MAX_INSTANCE);
	return 0;
}

static int
plugin_check_ops (const struct plugin *plugin, struct silo_error *err)
{
	const char *kind = kinds[plugin->head.kind].name;
	const struct plugin_op *missing = NULL, *present = NULL;

	for (const struct plugin_op *op = kinds[plugin->head.kind].ops; op->name; op++) {
		void *fn;
		memcpy (&fn, (char *) plugin->ops + op->offset, sizeof (fn));
		if (!fn && op->required)
			return silo_fail (err, SILO_INVALID,
					  "plugin %s lacks %s, which every %s plugin must have",
					  plugin->path, op->name, kind);
		if (op->group)
			*(fn ? &present : &missing) = op;
	}
	if (missing && present)
		return silo_fail (err, SILO_INVALID,
				  "plugin %s has %s but not %s: they come together", plugin->path,
				  present->name, missing->name);
	return 0;
}

static int
plugin_check_option (const struct plugin *plugin, const struct silo_option *row,
		     struct silo_error *err)
{
	size_t size = option_size (row->type);

	if (!plugin_name_ok (row->name) || strcmp (row->name, "plugin") == 0)
		return silo_fail (err, SILO_INVALID,
				  "plugin %s: \"%.40s\" is no name for an option", plugin->path,
				  row->name);
	if (size == 0)
		return silo_fail (err, SILO_INVALID,
				  "plugin %s: option %s is of type %d, which this Silo does not "
				  "know",
				  plugin->path, row->name, (int) row->type);
	if (row->offset % size || row->offset + size > plugin->head.instance_size)
		return silo_fail (err, SILO_INVALID,
				  "plugin %s: option %s is at offset %u, outside its instance of "
				  "%zu bytes",
				  plugin->path, row->name, row->offset, plugin->head.instance_size);
	if (row->type == SILO_CHOICE && !row->choices)
		return silo_fail (err, SILO_INVALID, "plugin %s: option %s has no choices",
				  plugin->path, row->name);
	if (row->type == SILO_USE && !silo_kind_name (row->use_kind))
		return silo_fail (err, SILO_INVALID,
				  "plugin %s: option %s uses kind %d, which is none", plugin->path,
				  row->name, row->use_kind);
	return 0;
}

static int
plugin_check_options (const struct plugin *plugin, struct silo_error *err)
{
	const struct silo_plugin *head = &plugin->head;
	struct silo_option row, other, padded;
	size_t n = 0;

	for (; options_row (head->options, head->option_size, n, &row); n++) {
		const char *raw = (const char *) head->options + n * head->option_size;
		int r = plugin_pad (plugin->path, row.name, raw, head->option_size, &padded,
				    sizeof (padded), err);
		if (r == 0)
			r = plugin_check_option (plugin, &row, err);
		if (r < 0)
			return r;
		if (n >= PLUGIN_MAX_OPTIONS)
			return silo_fail (err, SILO_INVALID,
					  "plugin %s has more than %d options, or no end of them",
					  plugin->path, PLUGIN_MAX_OPTIONS);
		for (size_t i = 0; i < n; i++) {
			options_row (head->options, head->option_size, i, &other);
			if (strcmp (row.name, other.name) == 0)
				return silo_fail (err, SILO_INVALID,
						  "plugin %s has option %s twice", plugin->path,
						  row.name);
		}
	}
	return 0;
}

static int
plugin_read (const char *path, int kind, struct plugin *plugin, struct silo_error *err)
{
	const struct silo_plugin *found = NULL;

	int r = plugin_open (path, &found, err);
	if (r == 0)
		r = plugin_pad (path, "descriptor", found, found->size, &plugin->head,
				sizeof (plugin->head), err);
	if (r == 0)
		r = plugin_check_head (&plugin->head, path, kind, err);
	if (r < 0)
		return r;

	size_t today = kinds[plugin->head.kind].ops_size;
	plugin->ops = calloc (1, today);
	if (!plugin->ops)
		return silo_fail_nomem (err);
	r = plugin_pad (path, "operations", plugin->head.ops, plugin->head.ops_size, plugin->ops,
			today, err);
	if (r == 0)
		r = plugin_check_ops (plugin, err);
	if (r == 0)
		r = plugin_check_options (plugin, err);
	if (!plugin->head.version)
		plugin->head.version = "";
	if (!plugin->head.summary)
		plugin->head.summary = "";
	return r;
}

/* Load the file `path`, whatever its name. */
static int
plugin_load_file (int kind, const char *path, struct plugin **ret, struct silo_error *err)
{
	struct plugin *plugin = calloc (1, sizeof (*plugin));
	if (!plugin)
		return silo_fail_nomem (err);

	plugin->path = realpath (path, NULL);
	int r = plugin->path ? 0 : silo_fail_sys (err, errno, "plugin %s", path);
	if (r == 0)
		r = plugin_read (plugin->path, kind, plugin, err);
	if (r < 0) {
		plugin_free (plugin);
		return r;
	}
	*ret = plugin;
	return 0;
}

void
plugin_free (struct plugin *plugin)
{
	if (!plugin)
		return;
	free (plugin->ops);
	free (plugin->path);
	free (plugin);
}

/* -- folders ------------------------------------------------------------------------- */

const char *
plugin_folders (void)
{
	const char *named = secure_getenv ("SILO_PLUGIN_PATH");
	return named && *named ? named : SILO_PLUGIN_DIR;
}

/* The next of colon-separated folders, into `to`; false after the last. */
static bool
plugin_next_folder (const char **rest, char to[PATH_MAX])
{
	while (**rest) {
		size_t n = strcspn (*rest, ":");
		const char *folder = *rest;
		*rest += n + ((*rest)[n] == ':');
		if (n > 0 && n < PATH_MAX) {
			memcpy (to, folder, n);
			to[n] = 0;
			return true;
		}
	}
	return false;
}

struct plugin_guess {
	const char *name; /* that was not found */
	char nearest[PLUGIN_MAX_NAME + 1];
};

static int
plugin_guess_one (void *arg, const char *path, struct plugin *plugin, const struct silo_error *why)
{
	struct plugin_guess *guess = arg;

	(void) path;
	(void) why;
	if (!plugin)
		return 0;
	const char *words[] = { plugin->head.name, guess->nearest };
	const char *nearest = word_nearest (guess->name, words, guess->nearest[0] ? 2 : 1);
	if (nearest == words[0])
		snprintf (guess->nearest, sizeof (guess->nearest), "%s", nearest);
	plugin_free (plugin);
	return 0;
}

static int
plugin_not_found (int kind, const char *name, struct silo_error *err)
{
	struct plugin_guess guess = { .name = name };

	if (err)
		plugin_each (kind, plugin_guess_one, &guess, NULL);
	if (guess.nearest[0])
		return silo_fail (err, SILO_NOTFOUND,
				  "there is no %s plugin \"%s\" in %s, did you mean %s?",
				  silo_kind_name (kind), name, plugin_folders (), guess.nearest);
	return silo_fail (
	    err, SILO_NOTFOUND,
	    "there is no %s plugin \"%s\" in %s; `silo plugins` lists those there are",
	    silo_kind_name (kind), name, plugin_folders ());
}

int
plugin_load (int kind, const char *name, struct plugin **ret, struct silo_error *err)
{
	const char *rest = plugin_folders (), *kind_name = silo_kind_name (kind);
	char folder[PATH_MAX], path[PATH_MAX + 128];
	struct plugin *plugin;

	assert (kind_name);
	if (strchr (name, '/'))
		return plugin_load_file (kind, name, ret, err);
	if (!plugin_name_ok (name))
		return silo_fail (err, SILO_INVALID,
				  "\"%.60s\": expected a plugin's name or the path of its file",
				  name);
	while (plugin_next_folder (&rest, folder)) {
		snprintf (path, sizeof (path), "%s/%s-%s.so", folder, kind_name, name);
		if (access (path, F_OK) < 0)
			continue;
		int r = plugin_load_file (kind, path, &plugin, err);
		if (r < 0)
			return r;
		if (strcmp (plugin->head.name, name) != 0) {
			r = silo_fail (err, SILO_INVALID, "plugin %s says that its name is %s",
				       path, plugin->head.name);
			plugin_free (plugin);
			return r;
		}
		*ret = plugin;
		return 0;
	}
	return plugin_not_found (kind, name, err);
}

static int
plugin_file_wanted (const struct dirent *entry)
{
	size_t n = strlen (entry->d_name);
	size_t kind_len = strcspn (entry->d_name, "-");

	return n > 3 && strcmp (entry->d_name + n - 3, ".so") == 0 &&
	       kind_parse (entry->d_name, kind_len);
}

/* "content-dir.so" of one folder after the other, by name. */
static int
plugin_each_in (const char *folder, int kind, plugin_fn *fn, void *arg, struct silo_error *err)
{
	struct dirent **entries;
	int n = scandir (folder, &entries, plugin_file_wanted, alphasort);
	int r = 0;

	if (n < 0)
		return errno == ENOENT ? 0 : silo_fail_sys (err, errno, "plugin folder %s", folder);
	for (int i = 0; i < n; i++) {
		const char *name = entries[i]->d_name;
		char path[PATH_MAX + 260];
		struct plugin *plugin = NULL;
		struct silo_error why = { 0 };

		int file_kind = kind_parse (name, strcspn (name, "-"));
		if (r == 0 && (kind == 0 || kind == file_kind)) {
			snprintf (path, sizeof (path), "%s/%s", folder, name);
			plugin_load_file (file_kind, path, &plugin, &why);
			r = fn (arg, path, plugin, plugin ? NULL : &why);
		}
		free (entries[i]);
	}
	free (entries);
	return r;
}

int
plugin_each (int kind, plugin_fn *fn, void *arg, struct silo_error *err)
{
	const char *rest = plugin_folders ();
	char folder[PATH_MAX];
	int r = 0;

	while (r == 0 && plugin_next_folder (&rest, folder))
		r = plugin_each_in (folder, kind, fn, arg, err);
	return r;
}
