# SPDX-License-Identifier: Apache-2.0
"""Mounts and calls as if on an older kernel: `old-kernel VERSION silo ...` (tests/conform)."""

import os
import subprocess

import pytest
from instances import IMAGE, Instance

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

# What each kernel is left with.
ROOTFS = {"6.8": "erofs", "6.1": "fuse"}


@pytest.fixture(params=sorted(ROOTFS))
def kernel(request):
    return request.param


@pytest.fixture
def old(silo_bin, base, kernel, tmp_path):
    """An Instance whose every `silo` runs as if on that kernel."""
    build = os.environ.get("SILO_TEST_BUILD")
    if not build:
        pytest.skip("SILO_TEST_BUILD is not set: where tests/conform/old-kernel has been built")
    silo = tmp_path / "silo"
    silo.write_text(f'#!/bin/sh\nexec {build}/tests/conform/old-kernel {kernel} {silo_bin} "$@"\n')
    silo.chmod(0o755)
    one = Instance(str(silo), base())
    yield one
    one.close()


def mounts_below(folder):
    with open("/proc/self/mountinfo") as f:
        return [line.split()[4] for line in f if line.split()[4].startswith(str(folder))]


def test_doctor(old, kernel):
    found = {check["check"]: check for check in old.json("doctor")["checks"]}
    assert "namespace for a moment" in found["overlays"]["text"]
    assert ("with data-only layers" in found["overlays"]["text"]) == (kernel == "6.8")
    assert found["rootfs.erofs"]["verdict"] == ("ok" if kernel == "6.8" else "warn")
    assert found["rootfs.fuse"]["verdict"] == "ok"
    assert found[f"rootfs.{ROOTFS[kernel]}"]["text"].endswith("the daemon uses it")


@pytest.mark.parametrize("more", [[], ["--rw"]], ids=["read-only", "writable"])
def test_mount(old, kernel, more, tmp_path):
    """Nothing but the target is ever visible, and it stays whole: its layers are detached."""
    target = tmp_path / "dir"
    target.mkdir()
    out = old.ok("mount", IMAGE, str(target), *more)
    try:
        assert out.endswith(f" by rootfs.{ROOTFS[kernel]}\n")
        assert mounts_below(tmp_path) == [str(target)]
        assert mounts_below(old.folder) == []
        run = ["chroot", str(target), "/usr/bin/python3", "-c", "import json; print('ok')"]
        assert subprocess.run(run, capture_output=True, check=True).stdout == b"ok\n"
        if more:
            (target / "new").write_text("new")
    finally:
        old.ok("umount", str(target))
    assert mounts_below(target) == []
    assert os.listdir(target) == []


def test_call(old):
    old.start()
    assert old.function(lambda x: x + 1).map(range(8)) == list(range(1, 9))
    old.stop()


def test_kill(old):
    """kill -9 leaves no mount, and the next daemon works."""
    old.start()
    old.check_works()
    old.kill()
    old.check_no_mounts()
    old.start()
    old.check_works()
    old.stop()
