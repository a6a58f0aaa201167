/* SPDX-License-Identifier: Apache-2.0 */
/*
 * container-limits.c - memory, processes, processor: a container that asks for
 * more gets an error or its end, and the machine does not notice.
 */
#include "container.h"

static void
test_pids (struct run *run)
{
	struct box box;

	box_init (&box, run,
		  "exec python3 -c '\n"
		  "import os, signal\n"
		  "n = 0\n"
		  "try:\n"
		  "    while n < 200:\n"
		  "        if os.fork () == 0:\n"
		  "            signal.pause ()\n"
		  "        n += 1\n"
		  "except BlockingIOError:\n"
		  "    print (\"stopped\", 10 <= n <= 20, flush = True)\n"
		  "os._exit (0)'");
	box.spec.pids = 20;
	tap_is_int (box_run (&box, run), 0, "20 processes at most");
	bool limited = tap_is_str ((char *) box.out.data, "stopped True\n", "fork says no");
	box_free (&box);
	/* Without the limit the bomb would take the machine. */
	if (!limited)
		return;

	struct silo_error err = { 0 };
	box_init (&box, run,
		  "exec python3 -c '\n"
		  "import os, sys\n"
		  "while True:\n"
		  "    try:\n"
		  "        os.fork ()\n"
		  "    except BlockingIOError:\n"
		  "        os.write (1, b\"full\\n\")\n"
		  "' mark");
	box.spec.pids = 64;
	tap_is_int (box_start (&box, run, &err), 0, "a fork bomb");
	tap_ok (box_expect (&box, "full\n"), "fills its limit");
	tap_is_int (box_remove (&box, run), 0, "and can be removed");
	close (box.process.out);
	box.process.out = -1;
	tap_is_int (box_wait (&box), 128 + SIGKILL, "whole");
	tap_ok (nothing_left (run, box.id), "nothing of it is left");
	box_free (&box);
}

static void
test_memory (struct run *run)
{
	struct box box;

	box_init (&box, run, "");
	box_argv (&box, (const char *const[]){ "python3", "-c",
					       "x = b'x' * (300 << 20); print ('had it')", NULL });
	box.spec.memory = 64 << 20;
	tap_is_int (box_run (&box, run), 128 + SIGKILL, "300 MiB of 64: killed");
	tap_ok (box.out.len == 0, "before it had them");
	box_free (&box);

	box_init (&box, run, "");
	box_argv (&box, (const char *const[]){ "python3", "-c",
					       "x = b'x' * (300 << 20); print ('had it')", NULL });
	box.spec.memory = INT64_C (512) << 20;
	tap_is_int (box_run (&box, run), 0, "300 MiB of 512");
	tap_is_str ((char *) box.out.data, "had it\n", "are there");
	box_free (&box);

	box_init (&box, run, "");
	box_argv (&box, (const char *const[]){ "python3", "-c",
					       "f = open ('/tmp/big', 'wb')\n"
					       "for i in range (200): f.write (b'x' * (1 << 20))",
					       NULL });
	box.spec.memory = 64 << 20;
	tap_is_int (box_run (&box, run), 128 + SIGKILL, "/tmp counts as memory");
	box_free (&box);
}

static void
test_cpu (struct run *run)
{
	struct box box;

	box_init (&box, run,
		  "exec python3 -c '\n"
		  "import time\n"
		  "start = time.monotonic ()\n"
		  "while time.monotonic () - start < 2: pass\n"
		  "print (time.process_time () < 0.8)'");
	box.spec.cpu = 200;
	tap_is_int (box_run (&box, run), 0, "a fifth of a processor");
	tap_is_str ((char *) box.out.data, "True\n", "is less than two fifths");
	box_free (&box);
}

void
test_limits (struct run *run)
{
	test_pids (run);
	test_memory (run);
	test_cpu (run);
	run_is (run, "ulimit -Sn; ulimit -c", 0, "1024\n0\n", "open files, core dumps");
}
