/* SPDX-License-Identifier: Apache-2.0 */
/*
 * record.c - one file of storage/files: a line that says what it is, a line of
 * JSON (the head), and byte strings (the parts) that the head lists.  SHA-256
 * sums cover the head and each part, so that a damaged file is noticed and a
 * list need not read the parts.  Any thread.
 *
 *     silo task 1 LENGTH-OF-HEAD SHA256-OF-HEAD
 *     {"id": 7, ..., "parts": [["args", 12, "SHA256"], ...]}
 *     <the parts' bytes>
 */
#include <limits.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include "files.h"

#define FORMAT_VERSION 1
#define FIRST_LINE_MAX 128
#define HEAD_MAX       (16u << 20)
#define RECORD_MAX     (1ull << 31) /* of all parts together */

int
place_damaged (const struct place *place, struct silo_error *err, const char *what)
{
	return silo_fail (err, SILO_DATALOSS, "%s/%s/%s %s", place->f->path, place->folder_name,
			  place->name, what);
}

/* -- writing --------------------------------------------------------------------- */

static int
write_all (int fd, struct iovec *iov, int n)
{
	while (n > 0) {
		ssize_t done = writev (fd, iov, n);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			return -errno;
		while (n > 0 && (size_t) done >= iov->iov_len) {
			done -= (ssize_t) iov->iov_len;
			iov++;
			n--;
		}
		if (n > 0) {
			iov->iov_base = (char *) iov->iov_base + done;
			iov->iov_len -= (size_t) done;
		}
	}
	return 0;
}

/* Add the list of parts to the head. */
static int
describe_parts (json_t *head, const struct part *parts, size_t n_parts, struct silo_error *err)
{
	json_t *list = json_array ();
	uint64_t total = 0;

	if (json_object_set_new (head, "parts", list) < 0)
		return silo_fail_nomem (err);
	for (size_t i = 0; i < n_parts; i++) {
		struct silo_digest digest;
		char hex[SILO_DIGEST_HEX + 1];
		size_t len = parts[i].bytes.len;

		if (len > RECORD_MAX - total)
			return silo_fail (err, SILO_EXHAUSTED, "more than %llu bytes in one record",
					  RECORD_MAX);
		total += len;
		int r = silo_digest_of (parts[i].bytes.data, len, &digest, err);
		if (r < 0)
			return r;
		silo_digest_hex (&digest, hex);
		json_t *entry = json_pack ("[sIs]", parts[i].name, (json_int_t) len, hex);
		if (json_array_append_new (list, entry) < 0)
			return silo_fail_nomem (err);
	}
	return 0;
}

/* Both lines, as one malloc'ed text. */
static int
print_head (const char *type, json_t *head, struct silo_buf *to, struct silo_error *err)
{
	struct silo_digest digest;
	char hex[SILO_DIGEST_HEX + 1];
	char *text = json_dumps (head, 0);
	if (!text)
		return silo_fail_nomem (err);
	/* The newline behind it takes the place of the NUL and is part of the sum. */
	size_t len = strlen (text) + 1;
	text[len - 1] = '\n';

	int r = len > HEAD_MAX
		    ? silo_fail (err, SILO_EXHAUSTED,
				 "texts of %zu bytes in one record, at most %u fit", len, HEAD_MAX)
		    : silo_digest_of (text, len, &digest, err);
	if (r >= 0) {
		silo_digest_hex (&digest, hex);
		r = silo_buf_addf (to, err, "silo %s %d %zu %s\n", type, FORMAT_VERSION, len, hex);
	}
	if (r >= 0)
		r = silo_buf_add (to, text, len, err);
	free (text);
	return r;
}

static int
write_temp (struct files *f, const char *temp, const struct silo_buf *head,
	    const struct part *parts, size_t n_parts, struct silo_error *err)
{
	struct iovec iov[1 + MAX_PARTS] = { { head->data, head->len } };
	_cleanup_close_ int fd =
	    openat (f->temp, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return silo_fail_sys (err, errno, "%s/temp/%s", f->path, temp);

	for (size_t i = 0; i < n_parts; i++)
		iov[1 + i] = (struct iovec){ (void *) parts[i].bytes.data, parts[i].bytes.len };
	int sys = -write_all (fd, iov, 1 + (int) n_parts);
	if (sys == 0 && f->fsync && fsync (fd) < 0)
		sys = errno;
	if (sys == 0)
		return 0;
	unlinkat (f->temp, temp, 0);
	return silo_fail_sys (err, sys, "%s/temp/%s", f->path, temp);
}

int
record_write (struct files *f, const char *type, json_t *head_ref, const json_error_t *json_error,
	      const struct part *parts, size_t n_parts, char ret_temp[NAME_SIZE],
	      struct silo_error *err)
{
	_cleanup_json_ json_t *head = head_ref;
	SILO_CLEANUP (silo_buf_free) struct silo_buf text = SILO_BUF (HEAD_MAX + FIRST_LINE_MAX);
	char temp[NAME_SIZE];

	assert (n_parts <= MAX_PARTS);
	if (!head && json_error_code (json_error) == json_error_invalid_utf8)
		return silo_fail (err, SILO_INVALID, "a text of the %s is not UTF-8", type);
	if (!head)
		return silo_fail_nomem (err);
	int r = describe_parts (head, parts, n_parts, err);
	if (r >= 0)
		r = print_head (type, head, &text, err);
	if (r >= 0)
		r = temp_name (temp, err);
	if (r >= 0)
		r = write_temp (f, temp, &text, parts, n_parts, err);
	if (r >= 0)
		memcpy (ret_temp, temp, sizeof (temp));
	return r;
}

/* -- reading ------------------------------------------------------------------------ */

/* Exactly len bytes at offset; the file is known to be long enough. */
static int
read_exactly (const struct place *place, int fd, off_t offset, void *to, size_t len,
	      struct silo_error *err)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread (fd, (char *) to + done, len - done, offset + (off_t) done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return silo_fail_sys (err, errno, "%s/%s/%s", place->f->path,
					      place->folder_name, place->name);
		if (n == 0)
			return place_damaged (place, err, "has become shorter");
		done += (size_t) n;
	}
	return 0;
}

static bool
sum_matches (const void *data, size_t len, const char *hex)
{
	struct silo_digest expected, actual;

	return silo_digest_parse (hex, &expected, NULL) >= 0 &&
	       silo_digest_of (data, len, &actual, NULL) >= 0 &&
	       silo_digest_equal (&expected, &actual);
}

/* The first line: where the head starts, how long it is, its sum. */
static int
read_first_line (const struct place *place, int fd, off_t size, size_t *ret_start, size_t *ret_len,
		 char ret_hex[SILO_DIGEST_HEX + 1], struct silo_error *err)
{
	char line[FIRST_LINE_MAX + 1], again[FIRST_LINE_MAX + 1], start[32], hex[65] = "";
	size_t n = size < FIRST_LINE_MAX ? (size_t) size : FIRST_LINE_MAX;
	int r = read_exactly (place, fd, 0, line, n, err);
	if (r < 0)
		return r;
	char *end = memchr (line, '\n', n);
	if (!end)
		return place_damaged (place, err, "is not a record of Silo");
	*end = '\0';

	int start_len = snprintf (start, sizeof (start), "silo %s ", place->type);
	if (strncmp (line, start, (size_t) start_len) != 0)
		return place_damaged (place, err, "is not a record of the kind expected here");
	char *rest;
	unsigned long version = strtoul (line + start_len, &rest, 10);
	if (version > FORMAT_VERSION)
		return place_damaged (place, err, "was written by a newer Silo");
	size_t len = strtoul (rest, &rest, 10);
	if (*rest == ' ')
		snprintf (hex, sizeof (hex), "%s", rest + 1);
	/* Numbers have many spellings, the format has one. */
	snprintf (again, sizeof (again), "%s%d %zu %s", start, FORMAT_VERSION, len, hex);
	size_t at = (size_t) (end + 1 - line);
	if (strcmp (line, again) != 0 || len > HEAD_MAX || at + len > (size_t) size)
		return place_damaged (place, err, "has a damaged first line or is cut off");
	*ret_start = at;
	*ret_len = len;
	memcpy (ret_hex, hex, sizeof (hex));
	return 0;
}

/* The head, and where the parts begin. */
static int
read_head (const struct place *place, int fd, off_t size, json_t **ret, size_t *ret_end,
	   struct silo_error *err)
{
	char hex[SILO_DIGEST_HEX + 1];
	size_t start = 0, len = 0;
	int r = read_first_line (place, fd, size, &start, &len, hex, err);
	if (r < 0)
		return r;
	char *text = malloc (len + 1);
	if (!text)
		return silo_fail_nomem (err);
	r = read_exactly (place, fd, (off_t) start, text, len, err);
	if (r >= 0 && !sum_matches (text, len, hex))
		r = place_damaged (place, err,
				   "is damaged: its second line does not match its sum");
	if (r >= 0) {
		json_t *head = json_loadb (text, len, JSON_REJECT_DUPLICATES, NULL);
		if (json_is_object (head)) {
			*ret = head;
			*ret_end = start + len;
		} else {
			json_decref (head);
			r = place_damaged (place, err, "has a second line that is no JSON object");
		}
	}
	free (text);
	return r;
}

/* Where a part is. */
struct extent {
	off_t offset;
	size_t len;
	const char *hex; /* NULL: the file has no such part */
};

/* Find the wanted parts; all parts together must fill the file exactly. */
static int
find_parts (const struct place *place, json_t *head, size_t start, off_t size,
	    const char *const *wanted, size_t n_wanted, struct extent *ret, struct silo_error *err)
{
	json_t *list = json_object_get (head, "parts");
	uint64_t at = start;

	for (size_t i = 0; i < json_array_size (list); i++) {
		const char *name, *hex;
		json_int_t len;
		if (json_unpack (json_array_get (list, i), "[sIs]", &name, &len, &hex) < 0 ||
		    len < 0 || (uint64_t) len > (uint64_t) size - at)
			return place_damaged (place, err, "is cut off or lists its parts wrongly");
		for (size_t j = 0; j < n_wanted; j++)
			if (strcmp (name, wanted[j]) == 0)
				ret[j] = (struct extent){ (off_t) at, (size_t) len, hex };
		at += (uint64_t) len;
	}
	if (at != (uint64_t) size)
		return place_damaged (place, err, "is longer than its parts");
	for (size_t j = 0; j < n_wanted; j++)
		if (!ret[j].hex)
			return place_damaged (place, err, "lacks one of its parts");
	return 0;
}

static int
read_parts (const struct place *place, int fd, const struct extent *extents, size_t n,
	    struct record *record, struct silo_error *err)
{
	size_t total = 0;

	for (size_t i = 0; i < n; i++)
		total += extents[i].len + 1;
	record->data = malloc (total ? total : 1);
	if (!record->data)
		return silo_fail_nomem (err);
	char *to = record->data;
	for (size_t i = 0; i < n; i++) {
		size_t len = extents[i].len;
		int r = read_exactly (place, fd, extents[i].offset, to, len, err);
		if (r < 0)
			return r;
		if (!sum_matches (to, len, extents[i].hex))
			return place_damaged (place, err,
					      "is damaged: a part does not match its sum");
		to[len] = '\0';
		record->parts[i] = (struct silo_bytes){ to, len };
		to += len + 1;
	}
	return 0;
}

int
record_read (const struct place *place, const char *const *parts, size_t n_parts,
	     struct record *ret, struct silo_error *err)
{
	_cleanup_record_ struct record record = { 0 };
	struct extent extents[MAX_PARTS] = { 0 };
	struct stat st;
	size_t start = 0;

	assert (n_parts <= MAX_PARTS);
	/* NONBLOCK: what lies there may be a pipe. */
	_cleanup_close_ int fd =
	    openat (place->folder, place->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 && (errno == ELOOP || errno == ENXIO))
		return place_damaged (place, err, "is not a file");
	if (fd < 0 || fstat (fd, &st) < 0)
		return silo_fail_sys (err, errno, "%s/%s/%s", place->f->path, place->folder_name,
				      place->name);
	if (!S_ISREG (st.st_mode))
		return place_damaged (place, err, "is not a file");
	if ((uint64_t) st.st_size > RECORD_MAX + HEAD_MAX + FIRST_LINE_MAX)
		return place_damaged (place, err, "is larger than any record");

	int r = read_head (place, fd, st.st_size, &record.head, &start, err);
	if (r >= 0)
		r = find_parts (place, record.head, start, st.st_size, parts, n_parts, extents,
				err);
	if (r >= 0)
		r = read_parts (place, fd, extents, n_parts, &record, err);
	if (r < 0)
		return r;
	*ret = record;
	record = (struct record){ 0 };
	return 0;
}

void
record_free (struct record *record)
{
	json_decref (record->head);
	free (record->data);
	*record = (struct record){ 0 };
}
