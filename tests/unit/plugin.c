/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plugin.c - files that are no plugins, or not the plugin that was asked for:
 * each is refused with its reason, none ends the process.  tests/abi has the
 * plugins of older and newer Silos.
 */
#include "core.h"
#include "tap.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <sys/stat.h>

static char good[PATH_MAX];                    /* content-test.so as built */
static char dir[] = "/tmp/silo-plugin-XXXXXX"; /* the plugin folder */

/* Copy at most `max` bytes of a file into the plugin folder. */
static void
copy_as (const char *from, const char *name, off_t max)
{
	char path[PATH_MAX], chunk[65536];
	ssize_t n;

	snprintf (path, sizeof (path), "%s/%s", dir, name);
	int in = open (from, O_RDONLY | O_CLOEXEC);
	int out = open (path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
	if (in < 0 || out < 0)
		tap_bail ("%s or %s: %s", from, path, strerror (errno));
	while ((n = read (in, chunk, sizeof (chunk))) > 0) {
		if (write (out, chunk, (size_t) n) != n)
			tap_bail ("%s: %s", path, strerror (errno));
	}
	if (max > 0 && ftruncate (out, max) < 0)
		tap_bail ("%s: %s", path, strerror (errno));
	close (in);
	close (out);
}

static void
refused (int kind, const char *name, int code, const char *fmt)
{
	struct plugin *plugin = NULL;
	struct silo_error err = { 0 };
	char want[400];

	int r = plugin_load (kind, name, &plugin, &err);
	snprintf (want, sizeof (want), fmt, dir);
	tap_is_int (r, code, "%s: %s", name, silo_code_name (code));
	tap_is_str (err.msg, want, "%s", want);
	plugin_free (plugin);
}

static void
test_no_plugins (void)
{
	char path[PATH_MAX];
	Dl_info libc;

	snprintf (path, sizeof (path), "%s/content-text.so", dir);
	int fd = open (path, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
	if (fd < 0 || dprintf (fd, "#!/bin/sh\n") < 0 || close (fd) < 0)
		tap_bail ("%s: %s", path, strerror (errno));
	refused (SILO_KIND_CONTENT, "text", SILO_INVALID,
		 "plugin %s/content-text.so is not a shared object");
	copy_as ("/dev/null", "content-empty.so", 0);
	refused (SILO_KIND_CONTENT, "empty", SILO_INVALID,
		 "plugin %s/content-empty.so is not a shared object");
	snprintf (path, sizeof (path), "%s/content-folder.so", dir);
	mkdir (path, 0700);
	refused (SILO_KIND_CONTENT, "folder", SILO_INVALID,
		 "plugin %s/content-folder.so is not a file");
	snprintf (path, sizeof (path), "%s/content-pipe.so", dir);
	mkfifo (path, 0700);
	refused (SILO_KIND_CONTENT, "pipe", SILO_INVALID,
		 "plugin %s/content-pipe.so is not a file");
	copy_as (good, "content-cut.so", 5000);
	refused (SILO_KIND_CONTENT, "cut", SILO_INVALID, "plugin %s/content-cut.so is cut short");
	copy_as (good, "content-head.so", 64);
	refused (SILO_KIND_CONTENT, "head", SILO_INVALID, "plugin %s/content-head.so is cut short");
	if (!dladdr ((void *) (uintptr_t) json_object, &libc))
		tap_bail ("where is libjansson?");
	copy_as (libc.dli_fname, "content-other.so", 0);
	refused (SILO_KIND_CONTENT, "other", SILO_INVALID,
		 "plugin %s/content-other.so has no symbol silo_plugin: is it a plugin of Silo?");
}

static void
test_wrong_plugins (void)
{
	copy_as (good, "content-renamed.so", 0);
	refused (SILO_KIND_CONTENT, "renamed", SILO_INVALID,
		 "plugin %s/content-renamed.so says that its name is test");
	copy_as (good, "storage-test.so", 0);
	refused (SILO_KIND_STORAGE, "test", SILO_INVALID,
		 "plugin %s/storage-test.so is of kind content, not storage");
	refused (SILO_KIND_IMAGE, "none", SILO_NOTFOUND,
		 "there is no image plugin \"none\" in %s; `silo plugins` lists those there are");
	refused (SILO_KIND_CONTENT, "tset", SILO_NOTFOUND,
		 "there is no content plugin \"tset\" in %s, did you mean test?");
	refused (SILO_KIND_CONTENT, "a b", SILO_INVALID,
		 "\"a b\": expected a plugin's name or the path of its file");
	refused (SILO_KIND_CONTENT, "/no/such.so", SILO_NOTFOUND,
		 "plugin /no/such.so: No such file or directory");
}

struct count {
	int good, bad;
};

static int
count_one (void *arg, const char *path, struct plugin *plugin, const struct silo_error *why)
{
	struct count *count = arg;

	if (plugin)
		count->good++;
	else if (why->msg[0] && strncmp (path, dir, strlen (dir)) == 0)
		count->bad++;
	plugin_free (plugin);
	return 0;
}

static void
test_good (void)
{
	char folders[PATH_MAX];
	struct plugin *plugin = NULL;
	struct silo_error err = { 0 };
	struct count count = { 0 };

	copy_as (good, "content-test.so", 0);
	tap_is_int (plugin_load (SILO_KIND_CONTENT, "test", &plugin, &err), 0, "a good plugin");
	tap_ok (plugin && !((struct silo_content_ops *) plugin->ops)->sync,
		"its table is there in full");
	plugin_free (plugin);
	plugin = NULL;
	tap_is_int (plugin_load (SILO_KIND_CONTENT, good, &plugin, &err), 0, "by its path");
	plugin_free (plugin);
	plugin = NULL;

	tap_is_int (plugin_each (SILO_KIND_CONTENT, count_one, &count, &err), 0, "plugin_each");
	tap_is_int (count.good, 2, "finds the good ones");
	tap_is_int (count.bad, 7, "and reports the others");

	snprintf (folders, sizeof (folders), "/nowhere::%s", dir);
	setenv ("SILO_PLUGIN_PATH", folders, 1);
	tap_is_int (plugin_load (SILO_KIND_CONTENT, "test", &plugin, &err), 0,
		    "the second of two folders is searched");
	plugin_free (plugin);
}

int
main (void)
{
	struct silo_error err = { 0 };

	snprintf (good, sizeof (good), "%s/tests/unit/.libs/content-test.so",
		  getenv ("SILO_TEST_BUILD"));
	if (!mkdtemp (dir))
		tap_bail ("%s: %s", dir, strerror (errno));
	setenv ("SILO_PLUGIN_PATH", dir, 1);
	test_no_plugins ();
	test_wrong_plugins ();
	test_good ();
	tap_is_int (files_remove (dir, &err), 0, "clean up");
	return tap_done ();
}
