# SPDX-License-Identifier: Apache-2.0
"""What travels with a function: its own modules by value, everybody else's by name."""

import os
import subprocess
import sys
import sysconfig
import textwrap

import pytest

import silo
from silo import packing

PACKAGE = os.path.dirname(os.path.dirname(silo.__file__))

# Unpickles in a process that has cloudpickle and nothing of the client's.
RECEIVER = (
    "import sys, pickle\n"
    "sys.path.insert(0, sys.argv[2])\n"
    "print(pickle.load(open(sys.argv[1], 'rb'))(*map(int, sys.argv[3:])))\n"
)


def receive(data, folder, *args):
    """What the function in `data` returns in a process that shares nothing with ours."""
    import cloudpickle

    path = folder / "data"
    path.write_bytes(data)
    where = os.path.dirname(os.path.dirname(cloudpickle.__file__))
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-S", "-c", RECEIVER, str(path), where, *map(str, args)],
        cwd=elsewhere,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def program(tmp_path):
    """program (files): run main.py among them; it writes the pickle to the path in argv[1]."""

    def run(files):
        folder = tmp_path / "program"
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        out = tmp_path / "pickle"
        subprocess.run(
            [sys.executable, str(folder / "main.py"), str(out)],
            env={**os.environ, "PYTHONPATH": PACKAGE, "PYTHONDONTWRITEBYTECODE": "1"},
            check=True,
            cwd=tmp_path,
        )
        return out.read_bytes()

    return run


SAVE = """
import sys
from silo import packing
open(sys.argv[1], "wb").write(packing.dumps_function({}))
"""


def test_helper_modules_travel(program, tmp_path):
    data = program(
        {
            "helper.py": "import json\nCONSTANT = 5\ndef add(x):\n    return x + CONSTANT\n",
            "pkg/__init__.py": "from .deep import twice\n",
            "pkg/deep.py": "def twice(x):\n    return 2 * x\n",
            "main.py": "import helper, pkg\nfrom pkg import deep\n"
            "def f(x):\n    return deep.twice(helper.add(x)) + pkg.twice(1)\n" + SAVE.format("f"),
        }
    )
    assert receive(data, tmp_path, 1) == "14"


def test_a_function_of_a_helper_travels(program, tmp_path):
    data = program(
        {
            "tasks.py": "from others import three\ndef f(x):\n    return x * three()\n",
            "others.py": "def three():\n    return 3\n",
            "main.py": "import tasks\n" + SAVE.format("tasks.f"),
        }
    )
    assert receive(data, tmp_path, 2) == "6"


def test_a_module_that_makes_a_server_travels(program, tmp_path):
    """And the key of its server stays at home."""
    data = program(
        {
            "common.py": """
                import silo
                server = silo.Server("127.0.0.1:1", api_key="topsecret")
                @server.function(image="x")
                def g(x):
                    return x + 1
                LIMIT = 7
                """,
            "main.py": "import common\n"
            "def f(x):\n    return common.LIMIT + common.g(x) + common.g.local(x)\n"
            + SAVE.format("f"),
        }
    )
    assert b"topsecret" not in data
    assert receive(data, tmp_path, 1) == "11"


def test_installed_packages_are_named_only(tmp_path):
    def f():
        return pytest.__name__, os.path.join("a", "b")

    data = packing.dumps_function(f)
    assert len(data) < 2000
    assert b"pytest" in data


def test_what_is_a_users_own_file():
    stdlib = sysconfig.get_paths()["stdlib"]
    assert packing.is_own_file(__file__)
    assert not packing.is_own_file(os.path.join(stdlib, "json", "__init__.py"))
    assert not packing.is_own_file("/x/venv/lib/python3.11/site-packages/numpy/a.py")
    assert not packing.is_own_file(silo.__file__)
    assert not packing.is_own_file("relative.py")
    assert not packing.is_own_file("/x/native.so")


def test_the_same_program_makes_the_same_bytes(program):
    """Else its second run could not use the workers of the first."""
    files = {
        "helper.py": "def add(x):\n    return x + 5\n",
        "main.py": "import helper, os\n"
        "def f(x, *, y='text', z=(1, 'a')):\n"
        "    if os.path.exists(y) and x in {'p', 'q', 'r'}:\n        return z\n"
        "    return helper.add(x)\n" + SAVE.format("f"),
    }
    assert program(files) == program(files)
