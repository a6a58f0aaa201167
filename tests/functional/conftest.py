# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests that run real daemons; what they are made of is in instances.py.

`base` indexes Debian's Python 3.11 as python:3.11 once per session and kind of
storage; each instance starts as a copy of that state, objects hard-linked.
"""

import os
import shutil
import subprocess
import sys

import pytest
from instances import IMAGE, TOP, Instance, Registry


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes many seconds")


@pytest.fixture(scope="session")
def silo_bin():
    """The program under test: $SILO."""
    path = os.environ.get("SILO")
    if not path:
        pytest.skip("SILO is not set: the path of the silo program to test")
    assert os.access(path, os.X_OK), f"SILO={path} is not a program"
    if sys.version_info[:2] != (3, 11):
        pytest.fail("these tests need Python 3.11, that of the image")
    return os.path.abspath(path)


@pytest.fixture(scope="session")
def tree():
    """A folder with Debian and its Python 3.11."""
    done = subprocess.run(
        [TOP / "script/debian-tree"], stdout=subprocess.PIPE, text=True, check=True, timeout=600
    )
    return done.stdout.strip()


@pytest.fixture(scope="session")
def base(silo_bin, tree):
    """base (storage): an Instance in which python:3.11 is indexed; not to be changed."""
    made = {}

    def make(storage="sqlite"):
        if storage not in made:
            made[storage] = instance = Instance(silo_bin, storage=storage)
            instance.ok("index", f"dir:{tree}", "--name", IMAGE, timeout=300)
        return made[storage]

    yield make
    for instance in made.values():
        instance.close()


@pytest.fixture
def instance(silo_bin, base):
    """instance (**settings): an Instance with python:3.11 and no daemon yet."""
    made = []

    def make(image=True, **settings):
        start = base(settings.get("storage", "sqlite")) if image else None
        made.append(Instance(silo_bin, start, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def shared(silo_bin, base):
    """A daemon that the tests of a module share; it must survive each of them."""
    one = Instance(silo_bin, base())
    try:
        yield one.start()
    finally:
        one.close()


@pytest.fixture
def daemon(shared):
    """The shared daemon; after the test it must be quiet, and the next call must work."""
    pid = shared.daemon.pid
    yield shared
    assert shared.daemon.poll() is None, "the daemon has died" + shared.tail()
    shared.quiet()
    shared.check_works()
    shared.check_no_mounts()
    assert shared.daemon.pid == pid


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    for program in ("docker-registry", "skopeo", "umoci"):
        if not shutil.which(program):
            pytest.skip(f"no {program} here")
    one = Registry(str(tmp_path_factory.mktemp("registry")))
    yield one
    one.close()
