/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bytes.c - unit tests of errors, buffers, digests, base64 and of the copies
 * in record.c.
 */
#include "core.h"
#include "tap.h"

static void
test_errors (void)
{
	struct silo_error err = { 0 };

	tap_is_int (silo_fail (&err, SILO_NOTFOUND, "image %s", "x"), SILO_NOTFOUND,
		    "silo_fail returns its code");
	tap_is_str (err.msg, "image x", "and formats the message");
	tap_is_int (silo_wrap (&err, "looking"), SILO_NOTFOUND, "silo_wrap keeps the code");
	tap_is_str (err.msg, "looking: image x", "and puts the context in front");
	tap_is_int (silo_fail_sys (&err, ENOSPC, "f"), SILO_EXHAUSTED, "a full disk is EXHAUSTED");
	tap_is_str (err.msg, "f: No space left on device", "and says so");
	tap_is_int (err.sys, ENOSPC, "errno is kept");
	tap_is_int (silo_fail (NULL, SILO_INVALID, "nobody asks"), SILO_INVALID,
		    "no error object is needed");

	char longer[600];
	memset (longer, 'a', sizeof (longer) - 1);
	longer[sizeof (longer) - 1] = 0;
	silo_fail (&err, SILO_INVALID, "%s", longer);
	tap_is_int ((int64_t) strlen (err.msg), sizeof (err.msg) - 1, "a long message is cut");
	silo_wrap (&err, "%s", longer);
	tap_is_int ((int64_t) strlen (err.msg), sizeof (err.msg) - 1, "a long context too");

	for (int code = 0; code >= SILO_UNAUTHENTICATED; code--)
		tap_ok (silo_code_http (code) >= 200 && silo_code_name (code)[0],
			"code %d has a name", code);
	for (int outcome = 0; outcome < SILO_OUTCOME_COUNT; outcome++)
		tap_is_int (silo_outcome_parse (silo_outcome_name (outcome)), outcome,
			    "outcome %d is found by its name", outcome);
	tap_is_int (silo_outcome_parse ("nonsense"), -1, "an unknown outcome is none");
}

static void
test_buffers (void)
{
	struct silo_buf buf = SILO_BUF (10);
	struct silo_error err;

	tap_is_int (silo_buf_add (&buf, "12345", 5, &err), 0, "five bytes fit into ten");
	tap_is_int (silo_buf_addf (&buf, &err, "%d", 678), 0, "three more");
	tap_is_int (silo_buf_add (&buf, "xyz", 3, &err), SILO_EXHAUSTED, "eleven do not");
	tap_is_mem (buf.data, buf.len, "12345678", 8, "and change nothing");
	tap_is_int (silo_buf_addf (&buf, &err, "%s", "xyz"), SILO_EXHAUSTED, "formatted neither");
	tap_is_int (silo_buf_add (&buf, "90", 2, &err), 0, "the maximum itself does");
	tap_is_int (buf.data[10], 0, "a NUL stands behind");
	tap_is_int (silo_buf_reserve (&buf, SIZE_MAX, &err), SILO_EXHAUSTED, "no overflow");
	silo_buf_free (&buf);
	silo_buf_free (NULL);
	tap_is_int ((int64_t) buf.len, 0, "freed is empty");
}

static void
test_digests (void)
{
	static const char empty[] =
	    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
	struct silo_digest a, b;
	struct silo_error err;
	char hex[SILO_DIGEST_HEX + 1];

	tap_is_int (silo_digest_of ("", 0, &a, &err), 0, "hash of nothing");
	silo_digest_hex (&a, hex);
	tap_is_str (hex, empty, "is the known one");
	tap_is_int (silo_digest_parse (empty, &b, &err), 0, "its text is read");
	tap_ok (silo_digest_equal (&a, &b), "and is equal");
	tap_is_int (silo_digest_parse ("E3B0", &b, &err), SILO_INVALID, "too short");
	hex[5] = 'G';
	tap_is_int (silo_digest_parse (hex, &b, &err), SILO_INVALID, "not hex");

	struct silo_hash *hash = silo_hash_new ();
	silo_hash_add (hash, "ab", 2);
	silo_hash_add (hash, "c", 1);
	silo_hash_end (hash, &a);
	silo_digest_of ("abc", 3, &b, &err);
	tap_ok (silo_digest_equal (&a, &b), "piece by piece is the same");
	silo_hash_add (hash, "abc", 3);
	silo_hash_end (hash, &a);
	tap_ok (silo_digest_equal (&a, &b), "and begins anew after its end");
	silo_hash_free (hash);
}

static void
test_base64 (void)
{
	static const char *const pairs[][2] = { { "", "" },
						{ "f", "Zg==" },
						{ "fo", "Zm8=" },
						{ "foo", "Zm9v" },
						{ "foob", "Zm9vYg==" } };
	static const char *const bad[] = { "Zg=",  "Zg",       "Zm9v!A==", "=AAA",
					   "A===", "Zg==Zg==", "Zm9\n" };
	struct silo_error err;

	for (size_t i = 0; i < ARRAY_SIZE (pairs); i++) {
		_cleanup_buf_ struct silo_buf text = SILO_BUF (100), bytes = SILO_BUF (100);
		silo_base64_encode (pairs[i][0], strlen (pairs[i][0]), &text, &err);
		tap_is_mem (text.data, text.len, pairs[i][1], strlen (pairs[i][1]), "encode \"%s\"",
			    pairs[i][0]);
		silo_base64_decode (pairs[i][1], strlen (pairs[i][1]), &bytes, &err);
		tap_is_mem (bytes.data, bytes.len, pairs[i][0], strlen (pairs[i][0]),
			    "decode \"%s\"", pairs[i][1]);
	}
	for (size_t i = 0; i < ARRAY_SIZE (bad); i++) {
		_cleanup_buf_ struct silo_buf bytes = SILO_BUF (100);
		tap_is_int (silo_base64_decode (bad[i], strlen (bad[i]), &bytes, &err),
			    SILO_INVALID, "bad base64 %zu is refused", i);
		tap_is_int ((int64_t) bytes.len, 0, "and adds nothing");
	}

	/* Longer than one piece of the encoder. */
	size_t len = 7 * 1024 * 1024 + 1;
	char *data = malloc (len);
	_cleanup_buf_ struct silo_buf text = SILO_BUF (len * 2), back = SILO_BUF (len);
	for (size_t i = 0; i < len; i++)
		data[i] = (char) (i * 31 + i / 977);
	silo_base64_encode (data, len, &text, &err);
	silo_base64_decode ((const char *) text.data, text.len, &back, &err);
	tap_is_mem (back.data, back.len, data, len, "7 MiB there and back");
	free (data);
}

static void
test_records (void)
{
	char args[] = "a\0b";
	struct silo_task task = { .id = 7,
				  .name = "f",
				  .image = "i",
				  .python = NULL,
				  .source = "",
				  .args = { args, 3 },
				  .attempt = 2 };
	struct silo_result result = {
		.outcome = SILO_OUTCOME_EXIT, .exit_code = 3, .value = { "v", 1 }, .message = "m"
	};
	struct silo_task *task2;
	struct silo_result *result2;
	struct silo_error err;

	tap_is_int (task_copy (&task, &task2, &err), 0, "a task is copied");
	memset (args, 'x', 3);
	tap_is_mem (task2->args.data, task2->args.len, "a\0b", 3, "with bytes of its own");
	tap_is_str (task2->python, "", "NULL becomes empty");
	tap_is_int (task2->id * 10 + task2->attempt, 72, "numbers are kept");
	tap_is_int (result_copy (&result, &result2, &err), 0, "a result is copied");
	tap_is_str (result2->message, "m", "with its message");
	tap_is_mem (result2->value.data, result2->value.len, "v", 1, "and value");
	tap_is_str (result2->traceback, "", "NULL becomes empty");
	free (task2);
	free (result2);
}

int
main (void)
{
	test_errors ();
	test_buffers ();
	test_digests ();
	test_base64 ();
	test_records ();
	tap_ok (silo_secret_equal ("abc", 3, "abc", 3), "equal secrets");
	tap_ok (!silo_secret_equal ("abc", 3, "abd", 3), "another secret");
	tap_ok (!silo_secret_equal ("abc", 3, "abcd", 4), "a longer secret");
	return tap_done ();
}
