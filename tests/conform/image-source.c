/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image-source.c - what the image suite imports: a tree with what archives get
 * wrong, and an OCI layout of it in two layers, put together from tar files
 * and JSON written by hand, so that no tool of containers is needed.
 */
#include "image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include "tap.h"

static void
must (bool ok, const char *what)
{
	if (!ok)
		tap_bail ("%s: %s", what, strerror (errno));
}

static void
make_file (int root, const char *name, size_t size, mode_t mode)
{
	int fd = openat (root, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	char *data = malloc (size + 1);
	must (fd >= 0 && data, name);
	for (size_t i = 0; i < size; i++)
		data[i] = (char) (i * 31 + i / 255 + size);
	must (write (fd, data, size) == (ssize_t) size && fchmod (fd, mode) == 0, name);
	free (data);
	close (fd);
}

static void
make_times (int root, const char *name, int64_t sec, long nsec)
{
	const struct timespec times[2] = { { 1, 0 }, { sec, nsec } };
	must (utimensat (root, name, times, AT_SYMLINK_NOFOLLOW) == 0, name);
}

void
image_make_tree (const char *path)
{
	static const char *const odd[] = { "odd/ space ",    "odd/new\nline", "odd/\xc3\xa9",
					   "odd/e\xcc\x81",  "odd/\xff",      "odd/-x",
					   "odd/back\\slash" };
	char name[16 + NAME_MAX], target[2000];
	int root = open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	must (root >= 0, path);
	must (mkdirat (root, "odd", 0755) == 0 && mkdirat (root, "dir", 0755) == 0 &&
		  mkdirat (root, "many", 0755) == 0 && mkdirat (root, "dir/empty", 0755) == 0,
	      "folders");
	for (size_t i = 0; i < ARRAY_SIZE (odd); i++)
		make_file (root, odd[i], i, 0644);
	memset (name, 'n', sizeof (name));
	memcpy (name, "odd/", 4);
	name[4 + NAME_MAX] = '\0';
	make_file (root, name, 3, 0644);
	make_file (root, "empty", 0, 0600);
	make_file (root, "small", 100, 04755);
	make_file (root, "border", 1 << 20, 0644);
	make_file (root, "large", 3000001, 0444);
	must (linkat (root, "small", root, "dir/again", 0) == 0, "hard link");
	memset (target, 't', sizeof (target) - 1);
	target[sizeof (target) - 1] = '\0';
	must (symlinkat ("../../..//small", root, "dir/link") == 0 &&
		  symlinkat (target, root, "long") == 0,
	      "symlinks");
	must (mkfifoat (root, "pipe", 0) == 0 && fchmodat (root, "pipe", 0620, 0) == 0, "fifo");
	must (fchmodat (root, "dir", 01770, 0) == 0, "mode");
	for (int i = 0; i < 500; i++) {
		snprintf (name, sizeof (name), "many/%d", i);
		make_file (root, name, (size_t) i % 7, 0644);
	}
	if (geteuid () == 0) {
		must (fchownat (root, "border", 4000000000u, 70000, 0) == 0 &&
			  fchownat (root, "long", 5, 6, AT_SYMLINK_NOFOLLOW) == 0,
		      "owners");
		must (mknodat (root, "null", S_IFCHR | 0600, makedev (1, 3)) == 0, "device");
	}
	make_times (root, "small", 1234567890, 123456789);
	make_times (root, "large", -5, 0);
	make_times (root, "long", 7, 8);
	make_times (root, "many", 99, 1);
	/* What layers have no way to say of the root: it is as podman shows it. */
	must (fchmod (root, 0555) == 0, "mode of the root");
	make_times (root, ".", 0, 0);
	close (root);
	snprintf (target, sizeof (target), "%.1900s/small", path);
	must (setxattr (target, "user.note", "value", 5, 0) == 0 || errno == EOPNOTSUPP, "xattr");
}

/* -- the OCI layout ------------------------------------------------------------------ */

static void
run (const char *const *argv)
{
	struct silo_error err;
	if (silo_run (argv, NULL, 60000, NULL, &err) < 0)
		tap_bail ("%s: %s", argv[0], err.msg);
}

struct blob {
	char hex[SILO_DIGEST_HEX + 1];
	long long size;
};

/* Give a file in the layout the name of its digest. */
static struct blob
blob_of (int layout, const char *name)
{
	struct blob blob;
	struct silo_digest digest;
	struct stat st;
	char path[SILO_DIGEST_HEX + 16];
	int fd = openat (layout, name, O_RDONLY | O_CLOEXEC);
	must (fd >= 0 && fstat (fd, &st) == 0, name);
	char *data = malloc ((size_t) st.st_size + 1);
	must (data && read (fd, data, (size_t) st.st_size) == st.st_size, name);
	silo_digest_of (data, (size_t) st.st_size, &digest, NULL);
	free (data);
	close (fd);
	silo_digest_hex (&digest, blob.hex);
	blob.size = st.st_size;
	snprintf (path, sizeof (path), "blobs/sha256/%s", blob.hex);
	must (renameat (layout, name, layout, path) == 0, path);
	return blob;
}

static void
write_text (int layout, const char *name, const char *text)
{
	int fd = openat (layout, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	must (fd >= 0 && write (fd, text, strlen (text)) == (ssize_t) strlen (text), name);
	close (fd);
}

void
image_make_layout (const char *tree, const char *layout, char layer_hex[SILO_DIGEST_HEX + 1])
{
	char first[PATH_MAX + 16], second[PATH_MAX + 16], text[2048];
	int fd = open (layout, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	must (fd >= 0 && mkdirat (fd, "blobs", 0755) == 0 &&
		  mkdirat (fd, "blobs/sha256", 0755) == 0 && mkdirat (fd, "below", 0755) == 0 &&
		  mkdirat (fd, "below/gone", 0755) == 0 && mkdirat (fd, "above", 0755) == 0,
	      layout);
	/* Below: something that above hides, beside the tree. */
	make_file (fd, "below/gone/file", 10, 0644);
	make_file (fd, "above/.wh.gone", 0, 0644);
	snprintf (first, sizeof (first), "%s/first", layout);
	snprintf (second, sizeof (second), "%s/second", layout);
	char below[PATH_MAX + 16], above[PATH_MAX + 16];
	snprintf (below, sizeof (below), "%s/below", layout);
	snprintf (above, sizeof (above), "%s/above", layout);
	run ((const char *const[]){ "tar", "--format=pax", "--numeric-owner", "--xattrs",
				    "--xattrs-include=*", "-czf", first, "-C", tree, ".", "-C",
				    below, "gone", NULL });
	run ((const char *const[]){ "tar", "--format=pax", "-cf", second, "-C", above, ".wh.gone",
				    NULL });
	const struct blob low = blob_of (fd, "first"), high = blob_of (fd, "second");
	snprintf (layer_hex, SILO_DIGEST_HEX + 1, "%s", low.hex);
	write_text (fd, "config", "{\"config\": {\"Env\": [\"PATH=/x\"], \"WorkingDir\": \"/w\"}}");
	const struct blob config = blob_of (fd, "config");
	snprintf (text, sizeof (text),
		  "{\"schemaVersion\": 2, \"config\": {\"mediaType\": "
		  "\"application/vnd.oci.image.config.v1+json\", \"digest\": \"sha256:%s\", "
		  "\"size\": %lld}, \"layers\": [{\"mediaType\": "
		  "\"application/vnd.oci.image.layer.v1.tar+gzip\", \"digest\": \"sha256:%s\", "
		  "\"size\": %lld}, {\"mediaType\": \"application/vnd.oci.image.layer.v1.tar\", "
		  "\"digest\": \"sha256:%s\", \"size\": %lld}]}",
		  config.hex, config.size, low.hex, low.size, high.hex, high.size);
	write_text (fd, "manifest", text);
	const struct blob manifest = blob_of (fd, "manifest");
	snprintf (text, sizeof (text),
		  "{\"schemaVersion\": 2, \"manifests\": [{\"mediaType\": "
		  "\"application/vnd.oci.image.manifest.v1+json\", \"digest\": \"sha256:%s\", "
		  "\"size\": %lld, \"annotations\": "
		  "{\"org.opencontainers.image.ref.name\": \"t\"}}]}",
		  manifest.hex, manifest.size);
	write_text (fd, "index.json", text);
	write_text (fd, "oci-layout", "{\"imageLayoutVersion\": \"1.0.0\"}");
	close (fd);
}
