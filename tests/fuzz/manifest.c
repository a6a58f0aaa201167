/* SPDX-License-Identifier: Apache-2.0 */
/*
 * manifest.c - fuzz target: bytes as an OCI or Docker manifest, as an image's
 * config, as an index of a registry and as that of an OCI layout.
 */
#include "fuzz.h"
#include "oci.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX ((size_t) 16 << 10)

static void
read_manifest (const uint8_t *data, size_t size)
{
	struct manifest *manifest = calloc (1, sizeof (*manifest));
	if (!manifest)
		abort ();
	const struct silo_buf text = { (unsigned char *) data, size, size, size };
	const struct platform platform = { "linux", "amd64", "" };
	index_check (&text, &platform, NULL);
	manifest_use_diff_ids (manifest, &text, NULL);
	if (manifest_parse (data, size, manifest, NULL) == 0)
		for (size_t i = 0; i < manifest->n; i++)
			if (manifest->layers[i].size < 0 || !manifest->layers[i].name[0])
				abort ();
	free (manifest);
}

/* As index.json of a layout without blobs. */
static void
read_index (const uint8_t *data, size_t size)
{
	const struct platform platform = { "linux", "amd64", "" };
	char folder[] = "/dev/shm/silo-fuzz-XXXXXX";
	struct blob blob;
	if (!mkdtemp (folder))
		abort ();
	const struct blobs blobs = { open (folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), MAX };
	int fd = openat (blobs.fd, "index.json", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || write (fd, data, size) != (ssize_t) size)
		abort ();
	close (fd);
	layout_find (&blobs, "", &platform, &blob, NULL);
	layout_find (&blobs, "t", &platform, &blob, NULL);
	unlinkat (blobs.fd, "index.json", 0);
	close (blobs.fd);
	rmdir (folder);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
	read_manifest (data, size);
	read_index (data, size);
	return 0;
}

const struct fuzz_target fuzz_target = {
	.name = "manifest",
	.max = MAX,
	.mutations = 8000,
};
