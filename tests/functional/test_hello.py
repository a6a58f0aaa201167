# SPDX-License-Identifier: Apache-2.0
"""The main job: functions of a Python program run in containers."""

import io
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from instances import IMAGE, TOP, Instance, socket_on_loopback

import silo


def hello(name):
    print(f"Hello, {name}!")
    return f"Bye, {name}!"


def test_hello(daemon, capsys):
    remote = daemon.function(hello)
    assert remote.local("Local") == "Bye, Local!"
    assert remote.remote(name="Remote") == "Bye, Remote!"
    assert remote.map(f"{i}" for i in range(10)) == [f"Bye, {i}!" for i in range(10)]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Hello, Local!", "Hello, Remote!"]
    assert sorted(lines[2:]) == [f"Hello, {i}!" for i in range(10)]


@pytest.fixture
def on_port(silo_bin, base):
    """A daemon on a port of loopback that is known beforehand."""
    with socket_on_loopback() as s:
        port = s.getsockname()[1]
    one = Instance(silo_bin, base())
    one.sections["transport.grpc"]["listen"] = f"127.0.0.1:{port} unix:grpc.sock"
    one.write()
    one.port = port
    try:
        yield one.start()
    finally:
        one.close()


def test_the_exact_command(on_port, tmp_path):
    """`python silo/cli.py launch examples/hello.py` in python/, the port being the only change."""
    shutil.copytree(TOP / "python" / "silo", tmp_path / "silo")
    example = (TOP / "python/examples/hello.py").read_text()
    assert '"0.0.0.0:50051"' in example
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/hello.py").write_text(example.replace("50051", str(on_port.port)))
    done = subprocess.run(
        [sys.executable, "silo/cli.py", "launch", "examples/hello.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[:4] == ["Hello, Local!", "Bye, Local!", "Hello, Remote!", "Bye, Remote!"]
    assert sorted(lines[4:-1]) == [f"Hello, Remote {i}!" for i in range(10)]
    assert lines[-1] == str([f"Bye, Remote {i}!" for i in range(10)])


@pytest.mark.parametrize("how", ["module", "silo"])
def test_launch_by_its_other_names(daemon, tmp_path, how):
    """With a helper module beside the script, arguments, and a main function."""
    (tmp_path / "helper.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            import dataclasses
            import sys
            import helper
            import silo

            server = silo.Server()

            @dataclasses.dataclass
            class Pair:
                a: int
                b: int

            @server.function(image="python:3.11")
            def work(pair):
                return Pair(helper.double(pair.a), pair.b)

            @server.entry()
            def main():
                result = work.remote(Pair(int(sys.argv[1]), 1))
                assert type(result) is Pair, type(result)
                print(result)
            """
        )
    )
    command = [sys.executable, "-m", "silo", "launch"]
    env = {**daemon.env, "PYTHONPATH": str(TOP / "python")}
    if how == "silo":
        command = [daemon.silo_bin, "launch"]
        program = tmp_path / "bin" / "silo-launch"
        program.parent.mkdir()
        program.write_text(
            f"#!{sys.executable}\nimport sys\nfrom silo.cli import main_launch\n"
            "sys.exit(main_launch())\n"
        )
        program.chmod(0o755)
        env["PATH"] = f"{program.parent}:{env['PATH']}"
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), "21"],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Pair(a=42, b=1)\n"


def test_output_appears_while_it_runs(daemon, monkeypatch):
    """The function goes on only after its caller has seen what it printed."""
    seen = threading.Event()

    class Stream(io.StringIO):
        def write(self, text):
            if "waiting" in text:
                seen.set()
            return super().write(text)

    def wait():
        import time

        print("waiting")
        time.sleep(2)
        return time.time()

    stream = Stream()
    monkeypatch.setattr(sys, "stdout", stream)
    at = []
    watcher = threading.Thread(target=lambda: (seen.wait(60), at.append(time.time())))
    watcher.start()
    ended = daemon.function(wait).remote()
    watcher.join()
    assert at[0] < ended - 1


def test_both_streams_and_their_order(daemon, capfd):
    def f():
        import os
        import sys

        for i in range(100):
            print(i)
        os.write(1, b"raw\n")
        print("bad", file=sys.stderr)

    assert daemon.function(f).remote() is None
    out, err = capfd.readouterr()
    assert out == "".join(f"{i}\n" for i in range(100)) + "raw\n"
    assert err == "bad\n"


def test_large_arguments_and_results(daemon):
    data = os.urandom(20 << 20)
    assert daemon.function(lambda d: d[::-1]).remote(data) == data[::-1]


def test_a_second_call_finds_its_worker(daemon):
    def pid():
        import os
        import uuid

        os.environ.setdefault("SEEN", uuid.uuid4().hex)
        return os.environ["SEEN"]

    f = daemon.function(pid)
    assert f.remote() == f.remote()


def test_containers_are_apart(daemon):
    """What a container can see and do; the container plugins' own tests say more."""

    def look():
        import os
        import socket

        out = {
            "interfaces": [n for _, n in socket.if_nameindex()],
            "pids": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()),
            "env": sorted(k for k in os.environ if k.startswith("SILO")),
            "hostname": socket.gethostname(),
        }
        with open("/tmp/x", "w") as f:
            f.write("x")
        with open("/new", "w") as f:
            f.write("x")
        try:
            with open("/.silo/runner/runner.py", "a"):
                out["runner"] = "writable"
        except OSError:
            out["runner"] = "read-only"
        return out

    seen = daemon.function(look).remote()
    assert seen["interfaces"] == ["lo"]
    assert len(seen["pids"]) < 5
    assert seen["env"] == []
    assert seen["runner"] == "read-only"
    assert seen["hostname"] != os.uname().nodename


def test_get_func(daemon):
    def named(x):
        return x * 3

    daemon.function(named, name="triple").remote(1)
    assert daemon.server().get_func("triple").remote(14) == 42
    with pytest.raises(silo.NotFoundError, match="nosuch"):
        daemon.server().get_func("nosuch")


def test_async_functions(daemon):
    async def f(x):
        import asyncio

        await asyncio.sleep(0.01)
        return x

    assert daemon.function(f).remote(5) == 5


def test_many_callers(daemon):
    """Each with a connection of its own, more than there are workers."""
    results = []

    def caller(i):
        results.append(daemon.function(lambda x: x * x).remote(i))

    threads = [threading.Thread(target=caller, args=(i,)) for i in range(24)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(results) == [i * i for i in range(24)]


def test_a_key_is_asked_for(instance):
    one = instance()
    with socket_on_loopback() as s:
        port = s.getsockname()[1]
    one.sections["transport.grpc"] = {"listen": f"127.0.0.1:{port}", "api_key": "k3y"}
    one.write()
    one.start()
    url = f"127.0.0.1:{port}"
    for key in (None, "wrong"):
        with pytest.raises(silo.AuthError, match=url):
            silo.Server(url, api_key=key).function(image=IMAGE)(lambda: 1).remote()
    assert silo.Server(url, api_key="k3y").function(image=IMAGE)(lambda: 1).remote() == 1
    one.stop()
