# SPDX-License-Identifier: Apache-2.0
"""The runner, on a bridge that the tests hold."""

import ast
import dataclasses
import enum
import os
import pickle
import signal
import subprocess
import sys

import cloudpickle
import pytest
from bridge import RUNNER, Worker

# By value, as what a launched script defines.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Custom(Exception):
    pass


class TwoArguments(Exception):
    def __init__(self, a, b):
        super().__init__(a)


class Point:
    def __init__(self, x):
        self.x = x


@dataclasses.dataclass
class Pair:
    a: int
    b: list = dataclasses.field(default_factory=list)


class Colour(enum.Enum):
    RED = 1


@pytest.fixture
def worker(tmp_path):
    worker = Worker(str(tmp_path))
    yield worker
    worker.close()


def test_call(worker):
    def add(a, b=1):
        return a + b

    assert worker.call(add, 1).value == 2
    assert worker.call(add, 1, b=4).value == 5
    assert worker.code_requests == 1
    assert worker.end() == 0


def test_exits_without_a_task(worker):
    assert worker.end() == 0
    assert worker.out.data == b""


def test_start_is_light():
    """Only modules that the interpreter needs anyway, and C modules."""
    code = (
        "import sys; before = set(sys.modules); sys.argv = ['x']; "
        f"exec(compile(open({RUNNER!r}).read(), {RUNNER!r}, 'exec'), "
        f"{{'__name__': 'r', '__file__': {RUNNER!r}}}); "
        "print(*sorted(set(sys.modules) - before))"
    )
    out = subprocess.run(
        [sys.executable, "-S", "-B", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"json", "traceback", "asyncio", "socket", "pickle", "re", "inspect", "cloudpickle"}
    assert "_pickle" in out
    assert not heavy & set(out)


def test_plain_functions_do_without_cloudpickle(tmp_path):
    worker = Worker(str(tmp_path), with_cloudpickle=False)
    outside = 5

    def inner(x):
        return x + outside

    def outer(xs):
        import json

        return json.dumps([inner(x) for x in xs]), "cloudpickle" in sys.modules

    assert worker.call(outer, [1, 2]).value == ("[6, 7]", False)
    worker.close()


def test_classes_come_back_as_what_they_were(worker):
    def make(x):
        return Point(x + 1)

    point = worker.call(make, 3).value
    assert isinstance(point, Point)
    assert point.x == 4
    assert isinstance(worker.call(lambda p: p, Point(1)).value, Point)


def test_classes_of_every_make(worker):
    """A function first: the quick way must hand over to the real cloudpickle half way."""

    def f(pair, colour):
        return Pair(pair.a + 1, [colour is Colour.RED])

    assert worker.call(f, Pair(1), Colour.RED).value == Pair(2, [True])


def test_lambdas_come_back(worker):
    assert worker.call(lambda: lambda y: y + 1).value(1) == 2


def test_async_functions_are_run(worker):
    async def f(x):
        import asyncio

        await asyncio.sleep(0)
        return x

    assert worker.call(f, 3).value == 3


def test_the_environment_is_clean(worker):
    def look():
        import os
        import sys

        import __main__

        return (
            sorted(k for k in os.environ if k.startswith("SILO")),
            sys.argv,
            sorted(vars(__main__)),
            sys.stdin.read(),
            sys.path,
        )

    environment, argv, names, stdin, path = worker.call(look).value
    assert environment == []
    assert argv == [""]
    assert not {"Runner", "main", "streams"} & set(names)
    assert stdin == ""
    assert path[-1].endswith("/runner")
    assert path[0] == os.path.dirname(path[-1])  # the working folder


def test_the_images_own_cloudpickle_wins(tmp_path):
    own = tmp_path / "cloudpickle.py"
    own.write_text("__version__ = '3.99'\n")

    def look():
        import cloudpickle

        return cloudpickle.__version__

    worker = Worker(str(tmp_path))
    assert worker.call(look).value == "3.99"
    worker.close()


def test_an_old_cloudpickle_in_the_image_is_passed_over(tmp_path):
    (tmp_path / "cloudpickle.py").write_text("__version__ = '1.2.1'\n")
    worker = Worker(str(tmp_path))
    assert worker.call(lambda: Point(2)).value.x == 2
    worker.close()


# -- output --------------------------------------------------------------------------


def test_output_and_marks(worker):
    def f():
        import os
        import sys

        print("one")
        print("two", file=sys.stderr)
        os.write(1, b"raw")
        sys.stdout.write("no newline")

    reply = worker.call(f)
    assert (reply.out, reply.err, reply.marks) == (b"one\nrawno newline", b"two\n", 2)
    assert worker.call(lambda: None).out == b""


def test_lines_are_written_at_once(worker):
    def f(path):
        import os
        import time

        print("now")
        end = time.monotonic() + 10
        while not os.path.exists(path) and time.monotonic() < end:
            time.sleep(0.01)

    path = worker.path + ".go"
    worker.send(cloudpickle.dumps(f), (path,))
    worker.expect("GET /v1/worker/code/" + next(iter(worker.codes)))
    worker.answer(200, {}, next(iter(worker.codes.values())))
    with worker.out.change:
        assert worker.out.change.wait_for(lambda: worker.out.data == b"now\n", 10)
    open(path, "w").close()
    assert worker.result().value is None


def test_ten_megabytes(worker):
    def f():
        for _ in range(10):
            print("x" * (1 << 20), end="")

    assert len(worker.call(f).out) == 10 << 20


@pytest.mark.parametrize(
    "harm",
    [
        "sys.stdout.close()",
        "os.close(1); os.close(2)",
        "sys.stdout = sys.stderr = None",
        "sys.stdout = open(os.devnull, 'w')",
        "os.dup2(os.open(os.devnull, os.O_WRONLY), 1)",
        "del sys.stdout",
        "os.set_blocking(1, False)",
    ],
)
def test_harmed_streams_are_repaired(worker, harm):
    def f(harm):
        import os
        import sys

        exec(harm, {"os": os, "sys": sys})

    def g():
        import sys

        print("out")
        print("err", file=sys.stderr)

    reply = worker.call(f, harm)
    assert (reply.outcome, reply.marks) == ("success", 2)
    reply = worker.call(g)
    assert (reply.out, reply.err, reply.marks) == (b"out\n", b"err\n", 2)


# -- endings -------------------------------------------------------------------------


def test_exceptions(worker):
    def f():
        def deeper():
            raise Custom("why", 3)

        deeper()

    reply = worker.call(f)
    assert reply.outcome == "exception"
    assert reply.head["type"].endswith("Custom")
    assert reply.head["message"] == "('why', 3)"
    assert "in deeper" in reply.head["traceback"]
    assert "runner/runner.py" not in reply.head["traceback"]
    error = pickle.loads(reply.payload)
    assert type(error) is Custom
    assert error.args == ("why", 3)
    assert worker.call(lambda: 1).value == 1


def test_chained_exceptions(worker):
    def f():
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError as e:
            raise ValueError("outer") from e

    trace = worker.call(f).head["traceback"]
    assert trace.index("ZeroDivisionError") < trace.index("direct cause") < trace.index("outer")
    assert "runner/runner.py" not in trace


def test_wrong_arguments(worker):
    reply = worker.call(lambda x: x)
    assert reply.head["type"] == "TypeError"
    assert "runner/runner.py" not in reply.head["traceback"]


def test_exceptions_that_do_not_pickle(worker):
    def two():
        raise TwoArguments(1, 2)

    def lock():
        import threading

        raise ValueError(threading.Lock())

    for function in (two, lock):
        reply = worker.call(function)
        assert reply.outcome == "exception"
        assert reply.payload == b""
        assert reply.head["traceback"]


def test_odd_exceptions(worker):
    def f(kind):
        class Mute(Exception):
            def __str__(self):
                raise RuntimeError

        if kind == "str":
            raise Mute
        if kind == "text":
            raise ValueError("nul \0 surrogate \udc80")
        if kind == "long":
            raise ValueError("x" * (1 << 24))
        if kind == "recursion":
            return f(kind)
        if kind == "interrupt":
            raise KeyboardInterrupt
        if kind == "memory":
            raise MemoryError

    for kind in ("str", "text", "long", "recursion", "interrupt", "memory"):
        reply = worker.call(f, kind)
        assert reply.outcome == "exception", kind
        assert len(reply.head["message"]) < 10000
        assert len(reply.head["traceback"]) < 300000
    assert worker.call(lambda: 1).value == 1


@pytest.mark.parametrize(
    ("code", "status", "err"),
    [(None, 0, b""), (3, 3, b""), (256, 0, b""), ("words", 1, b"words\n"), (True, 1, b"")],
)
def test_sys_exit(worker, code, status, err):
    def f(code):
        import sys

        sys.exit(code)

    reply = worker.call(f, code)
    assert (reply.outcome, reply.exit_code, reply.err) == ("exit", status, err)
    assert worker.call(lambda: 1).value == 1


def test_os_exit(worker):
    def f():
        import os

        os._exit(5)

    assert worker.call(f) is None
    assert worker.process.wait(10) == 5


def test_results_that_do_not_pickle(worker):
    def lock():
        import threading

        return threading.Lock()

    def generator():
        yield 1

    for function, name in ((lock, "lock"), (generator, "generator")):
        reply = worker.call(function)
        assert reply.outcome == "bad_result"
        assert name in reply.head["message"]


def test_code_that_does_not_unpickle(worker):
    for code in (b"junk", b"", b"I1\n."):
        worker.send(code)
        reply = worker.result()
        assert reply.outcome == "bad_code"
        assert reply.head["message"]
    worker.send(cloudpickle.dumps(len), args_bytes=b"junk")
    reply = worker.result()
    assert reply.outcome == "bad_code"
    assert "arguments" in reply.head["message"]
    assert worker.call(len, "abc").value == 3


def test_missing_modules(worker):
    worker.send(b"cnosuchmodule\nf\n.")
    reply = worker.result()
    assert reply.outcome == "missing_module"
    assert "'nosuchmodule'" in reply.head["message"]


def test_large_arguments_and_results(worker):
    data = os.urandom(20 << 20)
    assert worker.call(lambda d: d + b"x", data).value == data + b"x"


# -- processes, threads, signals ---------------------------------------------------------


def test_threads_left_behind_do_not_hold_it(worker):
    def f():
        import threading

        threading.Thread(target=threading.Event().wait).start()

    assert worker.call(f).value is None
    assert worker.end() == 0


def test_children_that_come_back_end(worker):
    def f(code):
        import os
        import sys

        pid = os.fork()
        if pid == 0:
            if code:
                sys.exit(code)
            return "child"
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert worker.call(f, 0).value == 0
    assert worker.call(f, 4).value == 4


def test_sigterm_while_idle(worker):
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(10) == 128 + signal.SIGTERM


def test_sigterm_during_a_task(worker):
    def f():
        import time

        try:
            print("started")
            time.sleep(60)
        finally:
            print("cleaned up")

    code = cloudpickle.dumps(f)
    worker.send(code)
    worker.receive()
    worker.answer(200, {}, code)
    with worker.out.change:
        assert worker.out.change.wait_for(lambda: worker.out.data, 10)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(10) == 128 + signal.SIGTERM
    with worker.out.change:
        assert worker.out.change.wait_for(lambda: worker.out.ended, 10)
    assert worker.out.data == b"started\ncleaned up\n"


# -- the daemon's odd answers --------------------------------------------------------------


def test_too_late_results_are_forgotten(worker):
    worker.send(cloudpickle.dumps(len), ("abc",))
    assert worker.result().value == 3
    worker.answer(409)
    worker.expect("GET /v1/worker/next")
    assert worker.call(len, "ab").value == 2


def test_409_for_next_is_tried_again(worker):
    worker.answer(409)
    worker.expect("GET /v1/worker/next")
    assert worker.call(len, "ab").value == 2


def test_a_closed_connection_is_opened_again(worker):
    worker.connection.close()
    worker.file.close()
    worker.accept()
    worker.expect("GET /v1/worker/next")
    assert worker.call(len, "ab").value == 2


def test_unknown_token(worker):
    worker.answer(401, body=b"no such token")
    assert worker.process.wait(10) == 1
    with worker.err.change:
        assert worker.err.change.wait_for(lambda: worker.err.ended, 10)
    assert b"no such token" in worker.err.data


def test_the_daemon_is_gone(worker):
    os.unlink(worker.path)
    worker.listener.close()
    worker.connection.close()
    worker.file.close()
    assert worker.process.wait(10) == 1


@pytest.mark.parametrize("garbage", [b"\r\n\r\n", b"HTTP/1.1 x\r\n\r\n", b"x" * 70000])
def test_garbage(worker, garbage):
    worker.connection.sendall(garbage)
    assert worker.process.wait(10) == 1


def test_without_an_environment():
    done = subprocess.run(
        [sys.executable, RUNNER], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "SILO_SOCKET" in done.stderr


def test_it_is_python_3_8():
    with open(RUNNER) as f:
        ast.parse(f.read(), feature_version=(3, 8))
