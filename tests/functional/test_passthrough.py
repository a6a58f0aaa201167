# SPDX-License-Identifier: Apache-2.0
"""rootfs/fuse with and without passthrough: who reads an open file, and what is left of it.

"Stopped" is the server by SIGSTOP: what works then has needed no request.
"""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from test_mount import LARGE, Instance, ended, mounts_below, wait_end

OTHER = 256 << 10

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")

# Another process reads, so that one that hangs can be ended.
READ = "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())"
MAP = (
    "import mmap, sys; f = open(sys.argv[1], 'rb');"
    "sys.stdout.buffer.write(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[:])"
)
READ_FD = (
    "import os, sys; fd = int(sys.argv[1]); size = int(sys.argv[2]);"
    "sys.stdout.buffer.write(b''.join(os.pread(fd, 65536, o) for o in range(0, size, 65536)))"
)
MAP_FD = (
    "import mmap, sys;"
    "sys.stdout.buffer.write(mmap.mmap(int(sys.argv[1]), 0, prot=mmap.PROT_READ)[:])"
)


def read_by(code, *args, fds=()):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        stdout=subprocess.PIPE,
        timeout=20,
        check=True,
        pass_fds=fds,
    )
    return done.stdout


class Mounted:
    """One image mounted writable by rootfs/fuse with these options."""

    def __init__(self, folder, **options):
        self.made = Instance(folder)
        (self.made.tree / "other").write_bytes(os.urandom(OTHER))
        self.made.run("index", f"dir:{self.made.tree}", "--name", "tree:1")
        with self.made.ini.open("a") as ini:
            ini.write("[rootfs.fuse]\n")
            ini.writelines(f"{name} = {value}\n" for name, value in options.items())
        self.made.run("mount", "tree:1", str(self.made.dir), "--rw", "--rootfs", "fuse")
        self.server = self.made.record()["server"]
        self.large = self.made.dir / "large"
        self.bytes = (self.made.tree / "large").read_bytes()

    def object(self):
        objects = (self.made.state / "objects").glob("*/*")
        (found,) = [p for p in objects if p.stat().st_size == LARGE]
        return found

    def fds(self):
        return len(os.listdir(f"/proc/{self.server}/fd"))

    @contextlib.contextmanager
    def stopped(self):
        os.kill(self.server, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.server, signal.SIGCONT)

    def end(self):
        self.made.run("umount", str(self.made.dir))
        assert ended(self.server)
        assert self.made.clean()


@pytest.fixture
def mount(tmp_path):
    @contextlib.contextmanager
    def make(folder=tmp_path, **options):
        inside = folder / "instance"
        inside.mkdir()
        try:
            mounted = Mounted(inside, **options)
            yield mounted
            mounted.end()
        finally:
            for path in reversed(mounts_below(inside)):
                subprocess.run(["umount", "-l", path], check=False)

    return make


@pytest.fixture(params=["auto", "yes"])
def passed(request, mount):
    with mount(passthrough=request.param, open_files=4) as mounted:
        yield mounted


@pytest.mark.parametrize("code", ["read", "map"])
def test_kernel_reads(passed, code):
    """An open file of which nothing was read yet."""
    with passed.large.open("rb") as f, passed.stopped():
        fd = f.fileno()
        if code == "read":
            got = read_by(READ_FD, fd, LARGE, fds=[fd])
        else:
            got = read_by(MAP_FD, fd, fds=[fd])
        assert got == passed.bytes


def test_server_dies(passed):
    """Open files read on; whatever needs the server fails."""
    with passed.large.open("rb") as f:
        os.kill(passed.server, signal.SIGKILL)
        wait_end(passed.server)
        assert read_by(READ_FD, f.fileno(), LARGE, fds=[f.fileno()]) == passed.bytes
        with pytest.raises(OSError, match=r"not connected|Software caused"):
            (passed.made.dir / "other").read_bytes()


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_damaged(passed, damage):
    """EIO, once it is whole again it can be read."""
    path = passed.object()
    aside = passed.made.folder / "aside"
    os.rename(path, aside)
    if damage == "short":
        path.write_bytes(b"short")
    with pytest.raises(OSError, match="Input/output error"):
        passed.large.read_bytes()
    os.rename(aside, path)
    assert passed.large.read_bytes() == passed.bytes


def test_many_opens(passed):
    """The server's descriptors stay within open_files."""
    hello = passed.made.dir / "sub" / "hello"
    other = passed.made.dir / "other"
    passed.large.read_bytes()
    before = passed.fds()
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            for path in (passed.large, hello, other):
                stack.enter_context(path.open("rb"))
        assert passed.fds() <= before + 4
    for _ in range(2000):
        for path in (passed.large, hello):
            path.open("rb").close()
    assert passed.fds() <= before + 4
    assert passed.large.read_bytes() == passed.bytes


def test_released(mount, tmp_path):
    """Nobody has it open: neither has the kernel, and a removed object gives its space back."""
    folder = tmp_path / "tmpfs"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], check=True)
    try:
        with mount(folder, open_files=1, passthrough="yes") as mounted:
            for _ in range(100):
                with mounted.large.open("rb") as a, mounted.large.open("rb") as b:
                    assert a.read() == b.read()
            # Takes the one place of open_files; the server answers it after all closes.
            (mounted.made.dir / "other").read_bytes()
            st = os.statvfs(folder)
            mounted.object().unlink()
            after = os.statvfs(folder)
            assert (after.f_bfree - st.f_bfree) * st.f_frsize >= LARGE
    finally:
        subprocess.run(["umount", folder], check=True)


def test_without(mount):
    """passthrough = no: a cached file is opened and read without a request."""
    with mount(passthrough="no") as mounted:
        assert mounted.large.read_bytes() == mounted.bytes
        with mounted.stopped():
            assert read_by(READ, mounted.large) == mounted.bytes
            assert read_by(MAP, mounted.large) == mounted.bytes


def test_falls_back(mount, tmp_path):
    """The kernel refuses objects on an overlay: then it is as without passthrough."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    folder = tmp_path / "merged"
    options = ",".join(f"{n}dir={tmp_path}/{n}" for n in ("lower", "upper", "work"))
    subprocess.run(["mount", "-t", "overlay", "-o", options, "none", folder], check=True)
    try:
        with mount(folder, passthrough="yes") as mounted:
            assert mounted.large.read_bytes() == mounted.bytes
            with mounted.stopped():
                assert read_by(READ, mounted.large) == mounted.bytes
            assert (mounted.made.dir / "sub" / "hello").read_text() == "hello\n"
    finally:
        subprocess.run(["umount", folder], check=True)
