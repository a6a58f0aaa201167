# SPDX-License-Identifier: Apache-2.0
"""Everything that can go wrong with a call: a clear error for its caller, and the next call
works (the daemon fixture sees to that)."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time

import pytest
from instances import IMAGE, TOP, read, wait_for

import silo

GIGABYTE = 1 << 30
PLAIN_RSS = 200 << 20  # a daemon whatever it has to do
SANITIZED = "detect_leaks" in os.environ.get("ASAN_OPTIONS", "")


def raw_call(daemon, **fields):
    """A CallRequest as no well-behaved client would send it; its Result."""
    connection = daemon.server().connect()
    message = {"image": IMAGE, "args": b"(t.", "kwargs": b"}.", **fields}
    for event in connection.events(connection.start_call(message)):
        if event["result"] is not None:
            return event["result"]
    raise AssertionError("no result")


def digest(code):
    import hashlib

    return hashlib.sha256(code).digest()


def test_unknown_image(daemon):
    with pytest.raises(silo.NotFoundError, match=r"no/such:image.*silo index"):
        daemon.function(lambda: 1, image="no/such:image").remote()


def test_image_without_python(daemon):
    with tempfile.TemporaryDirectory(prefix="silo-f.") as folder:
        os.makedirs(f"{folder}/bin")
        with open(f"{folder}/bin/sh", "w") as f:
            f.write("#!/bin/true\n")
        daemon.ok("index", f"dir:{folder}", "--name", "none:1")
    with pytest.raises(silo.InvalidError, match=r"none:1.*Python"):
        daemon.function(lambda: 1, image="none:1").remote()
    daemon.ok("rm", "none:1")


def test_code_that_does_not_unpickle(daemon):
    code = b"this is no pickle"
    result = raw_call(daemon, function=digest(code), code=code)
    assert result["outcome"] == "bad_code"
    assert b"unpickle" in result["message"]


def test_arguments_that_do_not_unpickle(daemon):
    f = daemon.function(lambda x: x)
    f.remote(1)
    result = raw_call(daemon, **{**f.package(), "args": b"junk"})
    assert result["outcome"] == "bad_code"


def test_missing_module(daemon):
    code = b"cno_such_module\nf\n."
    result = raw_call(daemon, function=digest(code), code=code)
    assert result["outcome"] == "missing_module"
    assert b"no_such_module" in result["message"]


def test_unknown_code(daemon):
    assert raw_call(daemon, function=b"\1" * 32)["outcome"] == "no_code"


@pytest.mark.parametrize(
    "fields",
    [
        {"function": b"short"},
        {"function": b"\0" * 32, "code": b"not of this digest"},
        {"function": b"\1" * 32, "code": b"not of this digest"},
        {"function": digest(b"x"), "code": b"x", "image": ""},
        {"function": digest(b"x"), "code": b"x", "timeout_ms": -1},
        {"function": digest(b"x"), "code": b"x", "image": "../../etc"},
        {"function": digest(b"x"), "code": b"x", "image": "a" * 5000},
    ],
)
def test_malformed_requests(daemon, fields):
    """Refused by a status or an outcome; never taken for a failure of the daemon's."""
    try:
        outcome = raw_call(daemon, **fields)["outcome"]
    except silo.InvalidError:
        return
    except silo.ResourceExhaustedError:
        assert len(fields.get("image", "")) == 5000
        return
    if fields["function"] == b"\0" * 32:
        assert outcome == "bad_code"  # all zeros: "fill it in"
    else:
        assert outcome in ("invalid", "no_image")


def test_another_python(daemon):
    code = b"x"
    result = raw_call(daemon, function=digest(code), code=code, python="3.7")
    assert result["outcome"] == "version"
    assert b"3.7" in result["message"]
    assert b"3.11" in result["message"]


def test_raises(daemon):
    def f():
        return {}["key"]

    with pytest.raises(KeyError) as caught:
        daemon.function(f).remote()
    assert caught.value.args == ("key",)
    text = str(caught.value.__cause__)
    assert "in f" in text
    assert 'return {}["key"]' in text
    assert "/.silo/" not in text


def test_raises_what_cannot_be_sent(daemon):
    def f():
        import threading

        raise ValueError(threading.Lock())

    with pytest.raises(silo.RemoteError, match="ValueError") as caught:
        daemon.function(f).remote()
    assert caught.value.type == "ValueError"
    assert "in f" in caught.value.traceback


@pytest.mark.parametrize("code", [0, 3])
def test_sys_exit(daemon, code):
    def f(code):
        import sys

        sys.exit(code)

    with pytest.raises(silo.RemoteError) as caught:
        daemon.function(f).remote(code)
    assert caught.value.exit_code == code


def test_os_exit(daemon):
    def f():
        import os

        print("before", flush=True)
        os._exit(7)

    with pytest.raises(silo.CrashError) as caught:
        daemon.function(f).remote()
    assert caught.value.exit_code == 7


def test_segfault(daemon, capfd):
    def f():
        import ctypes

        print("last words")
        ctypes.string_at(0)

    with pytest.raises(silo.CrashError, match=r"SIGSEGV|signal 11") as caught:
        daemon.function(f).remote()
    assert caught.value.exit_code == 128 + signal.SIGSEGV
    assert "last words" in capfd.readouterr().out


def test_results_that_do_not_pickle(daemon):
    def f():
        yield 1

    with pytest.raises(silo.SerializationError, match="generator"):
        daemon.function(f).remote()


def test_timeout(daemon):
    def f():
        import time

        time.sleep(60)

    start = time.monotonic()
    with pytest.raises(silo.FunctionTimeoutError):
        daemon.function(f, timeout=0.5).remote()
    assert time.monotonic() - start < 20


def test_timeout_of_code_that_ignores_it(daemon):
    def f():
        import signal
        import time

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)

    with pytest.raises(silo.FunctionTimeoutError):
        daemon.function(f, timeout=0.5).remote()


def test_out_of_memory(instance):
    one = instance(memory="128M").start()

    def f():
        return len(bytearray(512 << 20))

    # No container plugin can tell yet that it was the kernel's killer; the message guesses.
    with pytest.raises(silo.CrashError, match="memory") as caught:
        one.function(f).remote()
    assert caught.value.exit_code == 128 + signal.SIGKILL
    one.quiet()
    one.check_works()
    one.stop()


# -- floods -----------------------------------------------------------------------


def flood(size):
    import os

    chunk = b"x" * 99 + b"\n"
    chunk *= 10000
    while size > 0:
        size -= os.write(1, chunk[:size])
    return "done"


class Counter:
    """A stdout that counts; perhaps slowly."""

    encoding = "utf-8"

    def __init__(self, stop_at=None):
        self.size = 0
        self.stop_at = stop_at
        self.stopped = threading.Event()
        self.go_on = threading.Event()

    def write(self, text):
        self.size += len(text)
        if self.stop_at is not None and self.size >= self.stop_at and not self.go_on.is_set():
            self.stopped.set()
            assert self.go_on.wait(120)
        return len(text)

    def flush(self):
        pass


@pytest.mark.slow
def test_a_gigabyte_for_a_fast_caller(daemon, monkeypatch):
    counter = Counter()
    peak = []
    done = threading.Event()

    def watch():
        while not done.wait(0.1):
            peak.append(daemon.rss())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", counter)
        try:
            assert daemon.function(flood).remote(GIGABYTE) == "done"
        finally:
            done.set()
            watcher.join()
    assert counter.size == GIGABYTE
    assert SANITIZED or max(peak) < PLAIN_RSS


def test_a_flood_for_a_slow_caller(daemon, monkeypatch):
    """The caller stops reading: the function waits in its write, the daemon stays small."""
    size = 200 << 20
    counter = Counter(stop_at=1 << 20)
    result = []
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", counter)
        caller = threading.Thread(target=lambda: result.append(daemon.function(flood).remote(size)))
        caller.start()
        assert counter.stopped.wait(60)
        rss = [daemon.rss()]
        for _ in range(20):  # time in which an unbounded queue would take it all
            time.sleep(0.05)
            rss.append(daemon.rss())
        assert daemon.json("status")["tasks"]["live"] == 1
        counter.go_on.set()
        caller.join(120)
    assert result == ["done"]
    assert counter.size == size
    assert max(rss) - rss[0] < 64 << 20


# -- callers that go ----------------------------------------------------------------


def sleeper():
    import time

    print("started", flush=True)
    time.sleep(120)


def start_script(daemon):
    script = textwrap.dedent(
        """
        import sys, time
        sys.path.insert(0, sys.argv[1])
        import silo

        def sleeper():
            import time
            print("started", flush=True)
            time.sleep(120)

        silo.Server().function(image="python:3.11")(sleeper).remote()
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(TOP / "python")],
        env=daemon.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "started\n", process.stderr.read()
    return process


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGKILL])
def test_a_caller_that_goes(daemon, sig):
    """Ctrl-C, and a client that just disconnects: its task ends."""
    process = start_script(daemon)
    task = daemon.json("ps", "--unfinished")["tasks"][0]["id"]
    process.send_signal(sig)
    process.communicate(timeout=10)
    wait_for(lambda: not daemon.json("ps", "--unfinished")["tasks"], 20, "the end of the task")
    assert daemon.json("logs", str(task))["outcome"] == "cancelled"


def test_cancel(daemon):
    process = start_script(daemon)
    task = daemon.json("ps", "--unfinished")["tasks"][0]["id"]
    daemon.ok("cancel", str(task))
    _, err = process.communicate(timeout=20)
    assert "InputCancellation" in err
    assert process.returncode == 1


def test_nothing_is_left_of_workers(instance):
    """Crashed, cancelled and idle ones: their folders, mounts and cgroups go while the daemon
    lives."""
    one = instance(scaledown_window="200ms").start()

    def crash():
        import os

        os._exit(1)

    with pytest.raises(silo.CrashError):
        one.function(crash).remote()
    one.check_works()
    process = start_script(one)
    process.kill()
    process.communicate()
    wait_for(lambda: not one.json("ps")["workers"], 20, "all workers to go")
    assert list(os.scandir(f"{one.state}/run/workers")) == []
    assert one.cgroups() == []
    assert f"{one.state}/run/workers/" not in read(f"/proc/{one.daemon.pid}/mountinfo")
    one.stop()


def test_too_large_a_call(instance):
    one = instance()
    one.sections["transport.grpc"]["max_message"] = "1M"
    one.write()
    one.start()
    with pytest.raises(silo.ResourceExhaustedError, match="1048576"):
        one.function(len).remote(bytes(2 << 20))
    # Also when the client does not look: the daemon's own limit.
    server = one.server()
    server.connect().max_message = 0
    with pytest.raises(silo.ResourceExhaustedError):
        server.function(image=IMAGE)(len).remote(bytes(2 << 20))
    one.check_works()
    one.stop()
