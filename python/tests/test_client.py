# SPDX-License-Identifier: Apache-2.0
"""Server, RemoteFunction and map against a fake daemon."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from fake_daemon import FakeDaemon

import silo
from silo import connection

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


class Custom(Exception):
    pass


def test_call(server, fake):
    @server.function(image="i:1", timeout=2.5)
    def add(a, b=1):
        "adds"
        return a + b

    assert add.remote(1) == 2
    assert add.remote(1, b=5) == 6
    assert (add.__name__, add.__doc__) == ("add", "adds")
    first, second = fake.calls
    assert first["code"] and not second["code"]
    assert (first["image"], first["timeout_ms"], first["python"]) == ("i:1", 2500, PYTHON)
    assert "def add" in first["source"]
    assert len(fake.hellos) == 1
    assert fake.hellos[0]["python"].startswith(PYTHON + ".")


def test_not_callable_and_misuse(server):
    @server.function()
    def f():
        return 1

    assert f.image == f"python:{PYTHON}"
    with pytest.raises(TypeError, match=r"f\.remote.*f\.local"):
        f()
    assert f.local() == 1
    with pytest.raises(TypeError, match="parentheses"):
        server.function(lambda: 1)
    with pytest.raises(TypeError, match="image"):
        server.function(image=3)
    with pytest.raises(ValueError, match="timeout"):
        server.function(timeout=0)


def test_local_works_on_a_copy(server):
    seen = []

    @server.function()
    def f():
        seen.append(1)
        return seen

    assert f.local() == [1]
    assert seen == []


def test_a_function_may_call_itself_and_others(server, fake):
    @server.function()
    def double(n):
        return 2 * n

    @server.function()
    def sum_to(n):
        return n + sum_to(n - 1) + double(n) * 0 if n else 0

    globals()["sum_to"] = sum_to  # as at the top of a script
    try:
        assert sum_to.remote(4) == 10
    finally:
        del globals()["sum_to"]


def test_entry(server):
    @server.entry()
    def main():
        return 3

    assert main() == 3


def test_api_key(fake):
    silo.Server(fake.url, api_key="k1").function()(lambda: 1).remote()
    assert set(fake.keys) == {"k1"}
    with pytest.raises(silo.AuthError):
        silo.Server(fake.url, api_key="ä\n").function()(lambda: 1).remote()


def test_get_func(server, fake):
    @server.function(name="other")
    def f(x):
        return x + 1

    f.remote(1)
    g = server.get_func("other", "key")
    assert g.remote(41) == 42
    assert list(g.map([1, 2])) == [2, 3]
    with pytest.raises(silo.InvalidError, match="get_func"):
        g.local(1)
    with pytest.raises(silo.NotFoundError, match="nosuch"):
        server.get_func("nosuch")
    fake.codes.clear()
    with pytest.raises(silo.NotFoundError):
        g.remote(1)


def test_code_is_sent_again_when_forgotten(server, fake):
    f = server.function()(lambda: 1)
    assert f.remote() == 1
    fake.codes.clear()
    assert f.remote() == 1
    assert [bool(c["code"]) for c in fake.calls] == [True, False, True]


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("0.0.0.0:50051", "127.0.0.1:50051"),
        ("grpc://host:1", "host:1"),
        ("host", "host:50051"),
        ("[::]:5", "[::1]:5"),
        ("unix:///a/b", "unix:/a/b"),
        ("unix:/a/b", "unix:/a/b"),
    ],
)
def test_urls(url, target):
    assert connection.parse_url(url)[0] == target


@pytest.mark.parametrize("url", ["http://x:1", "host:x", "host:0", "host:70000", "unix:a", "::1"])
def test_bad_urls(url):
    with pytest.raises(ValueError, match=r"expected host|whole path|can be dialled"):
        silo.Server(url)


def test_default_url(monkeypatch):
    monkeypatch.delenv("SILO_URL", raising=False)
    monkeypatch.setenv("SILO_STATE", "/s")
    assert connection.parse_url(None)[0] == "unix:/s/grpc.sock"
    monkeypatch.setenv("SILO_URL", "h:1")
    assert connection.parse_url(None)[0] == "h:1"


# -- output -----------------------------------------------------------------------


def test_output_comes_before_the_result(server, fake, capsys):
    def answer(request):
        yield {"accepted": {"task": 1}}
        yield {"output": {"stream": 1, "data": "ä".encode()[:1]}}
        yield {"output": {"stream": 2, "data": b"err\xff\n"}}
        yield {"output": {"stream": 1, "data": "ä".encode()[1:] + b"\nend"}}
        yield from fake.result(outcome="success", value=b"N.")(request)

    fake.answer = answer
    assert server.function()(lambda: 1).remote() is None
    out, err = capsys.readouterr()
    assert (out, err) == ("ä\nend", "err\ufffd\n")


def test_output_arrives_while_the_function_runs(server, fake, monkeypatch):
    shown = threading.Event()

    class Stream(io.StringIO):
        def write(self, text):
            shown.set()
            return super().write(text)

    def answer(request):
        yield {"output": {"stream": 1, "data": b"hello\n"}}
        assert shown.wait(10)
        yield from fake.result(outcome="success", value=b"N.")(request)

    fake.answer = answer
    monkeypatch.setattr(sys, "stdout", Stream())
    server.function()(lambda: 1).remote()


def test_lines_of_a_map_do_not_mix(server, fake, capsys):
    barrier = threading.Barrier(2)

    def answer(request):
        yield {"accepted": {"task": 1}}
        barrier.wait(10)
        for byte in b"abc\n":
            yield {"output": {"stream": 1, "data": bytes([byte])}}
        yield {"output": {"stream": 1, "data": b"tail"}}
        yield from fake.result(outcome="success", value=b"N.")(request)

    fake.answer = answer
    assert server.function()(lambda x: 1).map([1, 2]) == [None, None]
    out = capsys.readouterr().out
    assert out.count("abc\n") == 2
    assert out.count("tail") == 2


def test_output_that_the_terminal_cannot_show(server, fake, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))

    def answer(request):
        yield {"output": {"stream": 1, "data": "aä\n".encode()}}
        yield from fake.result(outcome="success", value=b"N.")(request)

    fake.answer = answer
    server.function()(lambda: 1).remote()
    assert raw.getvalue() == b"a\\xe4\n"


# -- errors -----------------------------------------------------------------------


def test_user_exceptions_keep_their_type(server):
    @server.function()
    def fail():
        raise Custom("x", 3)

    with pytest.raises(Custom) as caught:
        fail.remote()
    assert caught.value.args == ("x", 3)
    assert isinstance(caught.value.__cause__, silo.RemoteTraceback)
    assert "Traceback" in str(caught.value.__cause__)


@pytest.mark.parametrize("pickled", [b"", b"junk", b"cnosuchmodule\nX\n.", b"cbuiltins\nint\n."])
def test_exceptions_that_cannot_be_rebuilt(server, fake, pickled):
    fake.answer = fake.result(
        outcome="exception",
        exception=pickled,
        type=b"mod.Odd",
        message=b"text",
        traceback=b"Traceback\n  remote line\n",
    )
    with pytest.raises(silo.RemoteError) as caught:
        server.function()(lambda: 1).remote()
    error = caught.value
    assert (error.type, error.message, error.task) == ("mod.Odd", "text", 7)
    assert "remote line" in str(error)


def test_a_remote_interrupt_is_not_ours(server, fake):
    fake.answer = fake.result(
        outcome="exception",
        type=b"KeyboardInterrupt",
        exception=b"cbuiltins\nKeyboardInterrupt\n)R.",
    )
    with pytest.raises(silo.RemoteError, match="KeyboardInterrupt"):
        server.function()(lambda: 1).remote()


def test_remote_tracebacks_get_their_source_lines(server, fake):
    @server.function()
    def fail():
        raise Custom("a very special line")

    line = fail._function.__code__.co_firstlineno + 2
    trace = (
        "Traceback (most recent call last):\n"
        f'  File "{__file__}", line {line}, in fail\n'
        '  File "/etc/passwd", line 1, in evil\nCustom\n'
    )
    fake.answer = fake.result(outcome="exception", traceback=trace.encode())
    with pytest.raises(silo.RemoteError) as caught:
        fail.remote()
    assert 'raise Custom("a very special line")' in str(caught.value)
    assert "root:" not in str(caught.value)


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        ("exit", silo.RemoteError),
        ("crash", silo.CrashError),
        ("timeout", silo.FunctionTimeoutError),
        ("cancelled", silo.InputCancellation),
        ("start", silo.InternalFailure),
        ("bad_code", silo.DeserializationError),
        ("bad_result", silo.SerializationError),
        ("version", silo.VersionError),
        ("no_image", silo.NotFoundError),
        ("no_python", silo.InvalidError),
        ("missing_module", silo.DeserializationError),
        ("lost", silo.ConnectionError),
        ("oom", silo.OutOfMemoryError),
        ("invalid", silo.InvalidError),
        ("exhausted", silo.ResourceExhaustedError),
        ("internal", silo.InternalFailure),
        ("of_the_future", silo.InternalFailure),
    ],
)
def test_outcomes(server, fake, outcome, kind):
    fake.answer = fake.result(outcome=outcome, exit_code=3, message=b"because")
    with pytest.raises(kind) as caught:
        server.function()(lambda: 1).remote()
    assert type(caught.value) is kind
    assert isinstance(caught.value, silo.Error)
    assert caught.value.task == 7
    if outcome == "exit":
        assert caught.value.exit_code == 3
    else:
        assert "because" in str(caught.value)


def test_unknown_image_says_what_to_do(server, fake):
    fake.answer = fake.result(outcome="no_image", message=b"")
    with pytest.raises(silo.NotFoundError, match="silo index some:image"):
        server.function(image="some:image")(lambda: 1).remote()


def test_crash_by_signal(server, fake):
    fake.answer = fake.result(outcome="crash", exit_code=139)
    with pytest.raises(silo.CrashError, match="SIGSEGV") as caught:
        server.function()(lambda: 1).remote()
    assert caught.value.exit_code == 139


def test_what_cannot_be_pickled(server, fake):
    lock = threading.Lock()
    with pytest.raises(silo.SerializationError, match=r"function f .*lock"):

        @server.function()
        def f():
            return lock

        f.remote()
    with pytest.raises(silo.SerializationError, match="arguments of g"):

        @server.function()
        def g(x):
            return x

        g.remote(lock)
    assert fake.calls == []
    fake.answer = fake.result(outcome="success", value=b"cnosuchmodule\nX\n.")
    with pytest.raises(silo.DeserializationError, match="nosuchmodule") as caught:
        server.function()(lambda: 1).remote()
    assert caught.value.task == 7


def test_no_daemon(tmp_path):
    server = silo.Server(f"unix://{tmp_path}/none.sock")
    with pytest.raises(silo.ConnectionError, match=r"none\.sock.*silo serve") as caught:
        server.function()(lambda: 1).remote()
    assert isinstance(caught.value, OSError)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("UNAUTHENTICATED", silo.AuthError),
        ("INVALID_ARGUMENT", silo.InvalidError),
        ("RESOURCE_EXHAUSTED", silo.ResourceExhaustedError),
        ("UNAVAILABLE", silo.ConnectionError),
        ("UNIMPLEMENTED", silo.InternalFailure),
        ("INTERNAL", silo.InternalFailure),
    ],
)
def test_statuses(server, fake, status, kind):
    f = server.function()(lambda: 1)
    f.remote()
    fake.refuse = (status, "no thanks")
    for _ in range(2):  # in Call, and perhaps in the Hello of a new connection
        with pytest.raises(kind, match="no thanks") as caught:
            f.remote()
        assert type(caught.value) is kind
    fake.refuse = None
    assert f.remote() == 1


def test_a_daemon_that_comes_back(tmp_path):
    first = FakeDaemon(tmp_path)
    f = silo.Server(first.url).function()(lambda: 1)
    assert f.remote() == 1
    first.stop()
    with pytest.raises(silo.ConnectionError):
        f.remote()
    second = FakeDaemon(tmp_path)
    try:
        assert f.remote() == 1
        assert len(second.hellos) == 1
    finally:
        second.stop()


def test_the_daemon_goes_during_a_call(server, fake):
    started = threading.Event()

    def answer(request):
        yield {"accepted": {"task": 1}}
        started.set()
        fake.cancelled.wait(10)

    fake.answer = answer
    threading.Thread(target=lambda: (started.wait(10), fake.server.stop(0))).start()
    with pytest.raises(silo.Error):
        server.function()(lambda: 1).remote()


def test_a_stream_without_result(server, fake):
    fake.answer = lambda request: iter([{"accepted": {"task": 1}}])
    with pytest.raises(silo.InternalFailure, match="without a result"):
        server.function()(lambda: 1).remote()


def test_too_large(server, fake):
    fake.max_message = 10000
    f = server.function()(len)
    assert f.remote(b"1") == 1
    with pytest.raises(silo.ResourceExhaustedError, match="10000"):
        f.remote(bytes(20000))


def test_ctrl_c_stops_the_call(fake):
    """In a process of its own: the signal must reach the main thread in a call."""
    script = textwrap.dedent(
        """
        import sys
        sys.path.insert(0, sys.argv[2])
        import silo
        f = silo.Server(sys.argv[1]).function()(lambda: 1)
        try:
            f.remote()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )

    def answer(request):
        yield {"output": {"stream": 1, "data": b"running\n"}}
        fake.cancelled.wait(20)

    fake.answer = answer
    process = subprocess.Popen(
        [sys.executable, "-c", script, fake.url, os.path.dirname(os.path.dirname(silo.__file__))],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "running\n"
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    assert time.monotonic() - start < 2
    assert fake.cancelled.wait(5)
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_forks(fake):
    """Before the first call: fine.  After it: an error in the child, never a hang."""
    script = textwrap.dedent(
        """
        import os, sys
        sys.path.insert(0, sys.argv[2])
        import silo
        f = silo.Server(sys.argv[1]).function()(lambda x: x + 1)

        def in_child(expect):
            pid = os.fork()
            if pid == 0:
                try:
                    os._exit(0 if f.remote(1) == expect else 1)
                except silo.ConnectionError as e:
                    os._exit(3 if "spawn" in str(e) else 4)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        assert in_child(2) == 0
        assert f.remote(1) == 2
        assert in_child(2) == 3
        assert f.remote(2) == 3
        """
    )
    path = os.path.dirname(os.path.dirname(silo.__file__))
    subprocess.run([sys.executable, "-c", script, fake.url, path], check=True, timeout=30)


def test_threads_share_a_server(server, fake):
    f = server.function()(lambda x: x)
    results = []
    threads = [threading.Thread(target=lambda i=i: results.append(f.remote(i))) for i in range(20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(results) == list(range(20))
    assert len(fake.hellos) == 1
    assert sum(bool(c["code"]) for c in fake.calls) == 1


def test_nothing_is_kept_of_a_closed_server(fake):
    """Both ends of every connection are in this process."""

    def sockets():
        links = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/self/fd/{fd}"))
        return sum(link.startswith("socket:") for link in links)

    def fail():
        raise KeyError("x")

    def use():
        server = silo.Server(fake.url)
        assert server.function()(lambda: 1).remote() == 1
        with pytest.raises(KeyError):
            server.function()(fail).remote()
        server.close()

    use()
    before = sockets()
    for _ in range(5):
        use()
    end = time.monotonic() + 20
    while sockets() > before:
        assert time.monotonic() < end, f"{sockets() - before} sockets are left"
        time.sleep(0.02)
