# SPDX-License-Identifier: Apache-2.0
"""The launcher, by each of its names, against the fake daemon."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

import silo

PACKAGE = os.path.dirname(silo.__file__)
PARENT = os.path.dirname(PACKAGE)


@pytest.fixture
def launch(tmp_path):
    """launch (text, *args): the CompletedProcess of a script with this text."""

    def run(text, *args, path=None, url=None):
        script = tmp_path / "prog.py"
        script.write_text(textwrap.dedent(text))
        return subprocess.run(
            [sys.executable, os.path.join(PACKAGE, "cli.py"), "launch", str(path or script), *args],
            capture_output=True,
            text=True,
            env={**os.environ, "SILO_URL": url or "127.0.0.1:1", "GRPC_VERBOSITY": "ERROR"},
            timeout=60,
        )

    return run


@pytest.mark.parametrize(
    "command", [["silo/cli.py", "launch"], ["-m", "silo", "launch"]], ids=["path", "module"]
)
def test_the_exact_commands(command, tmp_path):
    """In python/, before anything is installed."""
    shutil.copytree(PACKAGE, tmp_path / "silo")
    (tmp_path / "s.py").write_text("import silo\nprint(silo.__file__)\n")
    done = subprocess.run(
        [sys.executable, *command, "s.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.stdout == f"{tmp_path}/silo/__init__.py\n"


def test_surroundings_of_the_script(launch, tmp_path):
    (tmp_path / "beside.py").write_text("X = 1\n")
    done = launch(
        """
        import sys, beside
        print(__name__, sys.argv[1:], __file__ == sys.argv[0])
        print(any("silo" in p.split("/")[-1:] for p in sys.path))
        """,
        "a",
        "--help",
        "--x=1",
    )
    assert done.stdout == "script ['a', '--help', '--x=1'] True\nFalse\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_main_and_entry(launch):
    assert launch("def main():\n    print('main')\n").stdout == "main\n"
    assert launch("async def main():\n    print('main')\n").stdout == "main\n"
    text = """
        import silo
        server = silo.Server()
        def main():
            print("main")
        @server.entry()
        def other():
            print("entry")
        """
    assert launch(text).stdout == "entry\n"
    done = launch("x = 1\n")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_functions_of_the_script_travel(launch, fake):
    done = launch(
        """
        from __future__ import annotations
        import dataclasses
        import silo

        @dataclasses.dataclass
        class Pair:
            a: int

        @silo.Server().function()
        def f(pair: Pair) -> Pair:
            return Pair(pair.a + 1)

        result = f.remote(Pair(1))
        assert isinstance(result, Pair)
        print(result)
        """,
        url=fake.url,
    )
    assert (done.stdout, done.stderr) == ("Pair(a=2)\n", "")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("import sys; sys.exit(3)", 3),
        ("raise SystemExit('words')", 1),
        ("1 / 0", 1),
        ("raise KeyboardInterrupt", 130),
        ("this is no Python", 1),
    ],
)
def test_exit_status(launch, text, status):
    assert launch(text).returncode == status


def test_tracebacks_are_the_users(launch):
    done = launch("def f():\n    1 / 0\nf()\n")
    assert "prog.py" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert "cli.py" not in done.stderr
    done = launch("import silo\nsilo.Server().function()(lambda: 1).remote()\n")
    assert "silo.ConnectionError: no Silo daemon answers at 127.0.0.1:1" in done.stderr
    assert "call.py" not in done.stderr
    assert "grpc" not in done.stderr.lower()
    assert done.returncode == 1


def test_wrong_usage(launch):
    done = launch("", path="/no/such.py")
    assert done.returncode == 2
    assert "/no/such.py" in done.stderr
    command = [sys.executable, os.path.join(PACKAGE, "cli.py")]
    for arguments in ([], ["nosuch"], ["launch"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert done.returncode == 2
        assert "usage" in done.stderr
    done = subprocess.run([*command, "launch", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "SCRIPT" in done.stdout


def test_import_is_light():
    """grpc and cloudpickle are for those who call."""
    code = "import sys, silo; print(sorted({'grpc', 'cloudpickle', 'inspect'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": PARENT}
    )
    assert done.stdout == "[]\n"
