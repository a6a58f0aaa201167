/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.c - unit tests of what looks after the store: sets of digests, names of
 * files, what is in use, and what counts where the kernel cannot tell that.
 */
#include "store.h"
#include "mounts.h"
#include "tap.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

static struct silo_digest
digest (uint64_t number)
{
	struct silo_digest digest;
	if (silo_digest_of (&number, sizeof (number), &digest, NULL) < 0)
		tap_bail ("no SHA-256");
	return digest;
}

static void
test_digests (void)
{
	struct digests digests = { 0 };
	struct silo_error err = { 0 };
	struct silo_digest none = digest (0);
	int r = 0;
	tap_ok (!digests_have (&digests, &none), "the empty set has nothing");
	digests_sort (&digests);
	/* Each of 5000 ten times, and room is made for little more than those. */
	for (uint64_t i = 0; r == 0 && i < 50000; i++) {
		struct silo_digest one = digest (1 + i % 5000);
		r = digests_add (&digests, &one, &err);
	}
	tap_is_int (r, 0, "50000 digests are added");
	tap_ok (digests.cap <= 32768, "room was made for %zu", digests.cap);
	digests_sort (&digests);
	tap_is_int (digests.n, 5000, "what is there twice counts once");
	int found = 0;
	for (uint64_t i = 0; i < 5002; i++) {
		struct silo_digest one = digest (i);
		found += digests_have (&digests, &one);
	}
	tap_is_int (found, 5000, "the set has those and no others");
	digests_free (&digests);
	tap_ok (!digests.item && digests.n == 0, "it is empty again");
}

static void
test_names (void)
{
	char name[128], hex[SILO_DIGEST_HEX + 1];
	struct silo_digest one = digest (1), found;
	silo_digest_hex (&one, hex);
	snprintf (name, sizeof (name), "%s.erofs", hex);
	tap_ok (image_file_parse (name, &found) && silo_digest_equal (&one, &found),
		"a metadata file's name");
	snprintf (name, sizeof (name), "%s.erofs.new", hex);
	tap_ok (!image_file_parse (name, &found), "with something behind");
	tap_ok (!image_file_parse (hex, &found) && !image_file_parse ("lock", &found) &&
		    !image_file_parse (".erofs", &found) && !image_file_parse ("", &found),
		"other names");
	name[0] = 'X';
	tap_ok (!image_file_parse (name, &found), "no digest");
}

static void
test_layers (void)
{
	struct digests digests = { 0 };
	struct silo_digest one = digest (1), two = digest (2);
	struct silo_image image = { .layers = NULL };
	char a[SILO_DIGEST_HEX + 1], b[SILO_DIGEST_HEX + 1], text[256];
	silo_digest_hex (&one, a);
	silo_digest_hex (&two, b);
	tap_ok (image_layers (&image, &digests, NULL) == 0 && digests.n == 0, "no layers");
	image.layers = "";
	tap_ok (image_layers (&image, &digests, NULL) == 0 && digests.n == 0, "none either");
	snprintf (text, sizeof (text), "%s %s", a, b);
	image.layers = text;
	tap_ok (image_layers (&image, &digests, NULL) == 0 && digests.n == 2 &&
		    silo_digest_equal (&digests.item[1], &two),
		"two layers");
	snprintf (text, sizeof (text), " %s0 nonsense %.9s %s ", a, a, b);
	tap_ok (image_layers (&image, &digests, NULL) == 0 && digests.n == 3,
		"what is no digest is none");
	digests_free (&digests);
}

/* -- what is in use ------------------------------------------------------------------------- */

struct place {
	char dir[64];
	struct core *core;
	struct image_folder folder;
};

static bool
in_use (const struct place *place, const char *name)
{
	struct silo_error err = { 0 };
	int fd = -1;
	if (image_unpinned (place->core, &place->folder, name, &fd, &err) < 0)
		tap_bail ("image_unpinned: %s", err.msg);
	bool used = fd < 0;
	util_close (&fd);
	return used;
}

static void
test_in_use (const struct place *place)
{
	const char name[] = "file.erofs";
	int fd = openat (place->folder.fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
	if (fd < 0)
		tap_bail ("%s: %s", name, strerror (errno));
	close (fd);
	tap_ok (!in_use (place, name), "a file that nobody has is not in use");
	tap_ok (in_use (place, "missing"), "one that is not there cannot be had");
	fd = openat (place->folder.fd, name, O_RDONLY | O_CLOEXEC);
	tap_ok (in_use (place, name), "somebody has it open");
	if (flock (fd, LOCK_SH) < 0)
		tap_bail ("flock: %s", strerror (errno));
	tap_ok (in_use (place, name), "and locked");
	close (fd);
	tap_ok (!in_use (place, name), "closed, it is free");
}

/* A record of `silo mount`, as one that was killed has left it. */
static void
put_record (const struct place *place, const char *boot, uint64_t ns)
{
	char path[128];
	snprintf (path, sizeof (path), "%s/mounts/one", place->dir);
	if (files_mkdir (path, NULL) < 0)
		tap_bail ("%s", path);
	snprintf (path, sizeof (path), "%s/mounts/one/record", place->dir);
	FILE *file = fopen (path, "we");
	if (!file)
		tap_bail ("%s: %s", path, strerror (errno));
	fprintf (file,
		 "{\"target\": \"/nowhere\", \"image\": \"x\", \"rootfs\": \"y\", \"boot\": "
		 "\"%s\", \"namespace\": %llu, \"mount\": 1, \"server\": 0}\n",
		 boot, (unsigned long long) ns);
	fclose (file);
}

static bool
left (const struct place *place)
{
	struct silo_error err = { 0 };
	bool left = false;
	if (mounts_left (place->core, &left, &err) < 0)
		tap_bail ("mounts_left: %s", err.msg);
	return left;
}

static void
test_mounts_left (const struct place *place)
{
	char boot[64] = "", path[128];
	struct stat st;
	FILE *file = fopen ("/proc/sys/kernel/random/boot_id", "re");
	if (!file || !fgets (boot, sizeof (boot), file) || stat ("/proc/self/ns/mnt", &st) < 0)
		tap_bail ("no /proc");
	fclose (file);
	boot[strcspn (boot, "\n")] = '\0';
	tap_ok (!left (place), "no record, no mount");
	put_record (place, boot, st.st_ino + 1);
	tap_ok (left (place), "one in another mount namespace may be there");
	put_record (place, "another", st.st_ino + 1);
	tap_ok (!left (place), "one of an earlier boot cannot");
	put_record (place, boot, st.st_ino);
	tap_ok (!left (place), "one that would be seen here is not there");
	snprintf (path, sizeof (path), "%s/mounts/one", place->dir);
	int lock = open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (lock < 0 || flock (lock, LOCK_EX) < 0)
		tap_bail ("%s: %s", path, strerror (errno));
	tap_ok (left (place), "somebody serves it");
	close (lock);
}

int
main (void)
{
	struct place place = { .dir = "/tmp/silo-store-XXXXXX", .folder = { -1, -1 } };
	struct silo_error err = { 0 };
	if (!mkdtemp (place.dir) || core_bare (place.dir, &place.core, &err) < 0 ||
	    image_folder_open (place.core, LOCK_EX, &place.folder, &err) < 0)
		tap_bail ("a state folder: %s", err.msg);
	test_digests ();
	test_names ();
	test_layers ();
	test_in_use (&place);
	test_mounts_left (&place);
	image_folder_close (&place.folder);
	core_close (place.core);
	if (files_remove (place.dir, &err) < 0)
		tap_note ("%s", err.msg);
	return tap_done ();
}
