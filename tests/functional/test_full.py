# SPDX-License-Identifier: Apache-2.0
"""No space and no permission: errors that name the place, and a state as it was."""

import contextlib
import os
import pathlib
import shutil
import subprocess

import pytest
from instances import Instance
from layouts import Layout, layer_tar

NOBODY = 65534


class Disk:
    """An Instance whose state folder is a file system of its own, in a mount namespace that
    only it and its silo live in."""

    def __init__(self, silo_bin, options):
        self.one = Instance(silo_bin)
        state = self.one.state
        mount = f"mkdir {state} && mount -t tmpfs -o mode=700,{options} tmpfs {state}"
        self.holder = subprocess.Popen(
            [
                "unshare",
                "-m",
                "--propagation",
                "private",
                "sh",
                "-c",
                f"{mount} && echo && exec cat",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.holder.stdout.readline() == b"\n"
        self.inside = ["nsenter", "-m", "-t", str(self.holder.pid), "--"]
        self.one.silo_bin = f"{self.one.folder}/silo"
        script = pathlib.Path(self.one.silo_bin)
        script.write_text(f'#!/bin/sh\nexec {" ".join(self.inside)} {silo_bin} "$@"\n')
        script.chmod(0o755)
        self.root = f"/proc/{self.holder.pid}/root{state}"

    def mount(self, *arguments):
        subprocess.run([*self.inside, "mount", *arguments, self.one.state], check=True)

    def free(self):
        st = os.statvfs(self.root)
        return st.f_bavail * st.f_frsize

    def leave(self, size):
        """Fill it but for so many bytes."""
        path = f"{self.root}/filler"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        with open(path, "wb") as f:
            os.posix_fallocate(f.fileno(), 0, max(self.free() - size, 1))

    def listing(self):
        found = set()
        for folder in ("images", "layers", "objects", "tmp"):
            for path, _, names in os.walk(os.path.join(self.root, folder)):
                found |= {os.path.relpath(os.path.join(path, n), self.root) for n in names}
        return found

    def close(self):
        self.holder.stdin.close()
        self.holder.wait(10)
        self.one.close()


@pytest.fixture
def disk(silo_bin):
    made = []

    def make(options):
        made.append(Disk(silo_bin, options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def layout(path, size, files=1):
    """An image of files that nobody can compress; its reference."""
    entries = [(f"f{i}", os.urandom(size // files)) for i in range(files)]
    return Layout([layer_tar(*entries)]).write(path)


def refused(disk, reference, *says):
    one = disk.one
    before = disk.listing(), one.ok("images", "--json")
    done = one.run("index", reference, "--name", "big")
    assert done.returncode == 1, done
    message = done.stderr.splitlines()[-1]
    assert message.startswith("silo: ")
    for text in says:
        assert text in message, message
    assert (disk.listing(), one.ok("images", "--json")) == before


@pytest.mark.parametrize("files", [1, 100])
def test_disk_is_full(disk, tmp_path, files):
    """Of one large file, and of many small ones."""
    d = disk("size=16m")
    small = layout(tmp_path / "small", 1 << 20)
    d.one.ok("index", small, "--name", "small")
    big = layout(tmp_path / "big", 32 << 20, files)
    refused(d, big, "No space left on device", d.one.state, "layer sha256:")
    # The state goes on working.
    d.one.ok("index", layout(tmp_path / "more", 1 << 20, 20), "--name", "more")
    d.one.ok("rm", "small", "more")
    assert not {name for name in d.listing() if name.startswith("objects")}


def test_no_inodes(disk, tmp_path):
    d = disk("nr_inodes=300")
    d.one.ok("images")
    refused(d, layout(tmp_path, 1 << 20, 400), "No space left on device", d.one.state)


def test_almost_full(disk, tmp_path):
    """Whatever there is too little of: nothing changes until there is enough."""
    d = disk("size=16m")
    d.one.ok("index", layout(tmp_path / "small", 1 << 20, 20), "--name", "small")
    big = layout(tmp_path / "big", 4 << 20, 60)
    for left in (64 << 10, 1 << 20, 3 << 20, 4 << 20):
        d.leave(left)
        refused(d, big, "No space left on device", d.one.state)
    d.leave(8 << 20)
    d.one.ok("index", big, "--name", "big")


def test_read_only(disk, tmp_path):
    d = disk("size=16m")
    d.one.ok("index", layout(tmp_path / "small", 1 << 20), "--name", "small")
    d.mount("-o", "remount,ro")
    for arguments in (["index", layout(tmp_path / "big", 1 << 20)], ["rm", "small"]):
        done = d.one.run(*arguments)
        assert done.returncode == 1, done
        assert "ead-only" in done.stderr and d.one.state in done.stderr, done.stderr
    d.mount("-o", "remount,rw")
    assert [image["name"] for image in d.one.json("images")] == ["small"]


@pytest.fixture
def unprivileged(silo_bin):
    """An Instance in which silo runs as nobody; state: whose it is."""
    one = Instance(silo_bin)
    os.chmod(one.folder, 0o755)
    one.silo_bin = f"{one.folder}/silo"
    script = pathlib.Path(one.silo_bin)
    user = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --no-new-privs"
    script.write_text(f'#!/bin/sh\nexec {user} {silo_bin} "$@"\n')
    script.chmod(0o755)
    yield one
    one.close()


def reachable(path):
    """For everybody."""
    for folder in (path, *path.parents):
        if folder.stat().st_uid == 0 and folder != pathlib.Path("/"):
            folder.chmod(folder.stat().st_mode | 0o111)
    for file in path.rglob("*"):
        file.chmod(0o755)


def test_no_permission(unprivileged, tmp_path):
    one = unprivileged
    reference = layout(tmp_path / "x", 1 << 20)
    reachable(tmp_path / "x")
    # Somebody else's state folder, and a place where none can be made.
    os.mkdir(one.state, 0o700)
    for arguments in (["index", reference], ["images"], ["rm", "x"], ["gc"]):
        done = one.run(*arguments)
        assert done.returncode == 1, done
        assert "ermission denied" in done.stderr and one.state in done.stderr, done.stderr
    assert os.listdir(one.state) == []
    os.rmdir(one.state)
    done = one.run("index", reference)
    assert done.returncode == 1
    assert "ermission denied" in done.stderr and one.state in done.stderr, done.stderr
    # A state of its own: indexing needs no privileges.
    os.mkdir(one.state, 0o700)
    shutil.chown(one.state, NOBODY, NOBODY)
    one.ok("index", reference, "--name", "mine")
    # A layout that may not be read.
    (tmp_path / "x/index.json").chmod(0)
    done = one.run("index", reference)
    assert done.returncode == 1
    assert "ermission denied" in done.stderr and "index.json" in done.stderr, done.stderr
    assert [image["name"] for image in one.json("images")] == ["mine"]
