/* SPDX-License-Identifier: Apache-2.0 */
/*
 * files.c - unit tests of making and removing folders: links are never
 * followed, mounts never entered.
 */
#include "core.h"
#include "tap.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

static char base[PATH_MAX];

static const char *
at (const char *name)
{
	static char path[4][PATH_MAX + 64];
	static int turn;

	turn = (turn + 1) % 4;
	snprintf (path[turn], sizeof (path[turn]), "%s/%s", base, name);
	return path[turn];
}

static void
touch (const char *name)
{
	int fd = open (at (name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		tap_bail ("cannot make %s: %s", name, strerror (errno));
	close (fd);
}

static bool
there (const char *name)
{
	struct stat st;
	return lstat (at (name), &st) == 0;
}

static void
test_make (void)
{
	struct silo_error err;
	struct stat st;

	tap_is_int (files_mkdir (at ("a/b/c"), &err), 0, "a folder and those above it are made");
	tap_is_int (files_mkdir (at ("a/b/c"), &err), 0, "made again, nothing happens");
	tap_ok (stat (at ("a/b"), &st) == 0 && (st.st_mode & 07777) == 0700, "mode 0700");
	touch ("file");
	tap_ok (files_mkdir (at ("file/x"), &err) < 0 && strstr (err.msg, "file"),
		"a file in the way is named: %s", err.msg);
	tap_is_int (files_mkdir ("", &err), SILO_INVALID, "no path is no folder");
}

static void
test_remove (void)
{
	struct silo_error err = { 0 };

	files_mkdir (at ("keep"), &err);
	touch ("keep/me");
	files_mkdir (at ("gone/deep/er"), &err);
	touch ("gone/deep/file");
	if (symlink ("../../keep", at ("gone/deep/link")) < 0 ||
	    symlink (at ("keep"), at ("top")) < 0)
		tap_bail ("no symlink");
	tap_is_int (files_remove (at ("gone"), &err), 0, "a tree is removed: %s", err.msg);
	tap_ok (!there ("gone"), "all of it");
	tap_ok (there ("keep/me"), "what a link in it pointed to stays");
	tap_is_int (files_remove (at ("top"), &err), 0, "a link itself is removed");
	tap_ok (there ("keep/me") && !there ("top"), "and only the link");
	tap_is_int (files_remove (at ("nothing"), &err), 0, "nothing to remove is fine");
}

static void
test_mount (void)
{
	struct silo_error err;

	if (unshare (CLONE_NEWNS) < 0 || mount (NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		tap_skip (3, "no mount namespace here: %s", strerror (errno));
		return;
	}
	files_mkdir (at ("m/point"), &err);
	if (mount ("none", at ("m/point"), "tmpfs", 0, NULL) < 0)
		tap_bail ("no tmpfs: %s", strerror (errno));
	touch ("m/point/inside");
	tap_is_int (files_remove (at ("m"), &err), SILO_PRECONDITION, "a mount is not entered");
	tap_ok (there ("m/point/inside"), "what it holds stays");
	umount2 (at ("m/point"), MNT_DETACH);
	tap_is_int (files_remove (at ("m"), &err), 0, "without the mount it goes");
}

int
main (void)
{
	const char *tmp = getenv ("TMPDIR");

	snprintf (base, sizeof (base), "%s/silo-files-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp (base))
		tap_bail ("no temporary folder");
	test_make ();
	test_remove ();
	test_mount ();
	tap_is_int (files_remove (base, NULL), 0, "the test removes its folder");
	return tap_done ();
}
