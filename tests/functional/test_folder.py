# SPDX-License-Identifier: Apache-2.0
"""dir:/path on trees that are not quiet: what changes, what may not be read, what is mounted.

That a quiet tree arrives as it is, holes, hard links, attributes and all, is test_images.py's.
"""

import ctypes
import hashlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading

import pytest
from instances import Instance

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and mounts need root")

IN_OPEN = 0x20
LARGE = 300 << 20  # takes longer to hash than a signal takes to arrive
SECRET = b"what nobody asked for"


@pytest.fixture
def silo(silo_bin):
    one = Instance(silo_bin)
    one.ok("images")
    yield one
    one.close()


@pytest.fixture
def tree(silo):
    path = os.path.join(silo.folder, "tree")
    os.mkdir(path)
    return path


def write(*path, data=b"x"):
    os.makedirs(os.path.dirname(os.path.join(*path)), exist_ok=True)
    with open(os.path.join(*path), "wb") as f:
        f.write(data)


def large(path):
    with open(path, "wb") as f:
        f.truncate(LARGE)


def refused(silo, tree, *says, **more):
    """Indexing fails and leaves nothing."""
    done = silo.run("index", "dir:" + tree, "--name", "x", **more)
    assert done.returncode == 1, done.stdout + done.stderr
    for text in says:
        assert text in done.stderr, done.stderr
    assert silo.json("images") == []


class Opened:
    """Call back when a file is opened by another process."""

    def __init__(self, path, then):
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_CLOEXEC)
        assert libc.inotify_add_watch(self.fd, os.fsencode(path), IN_OPEN) >= 0
        self.thread = threading.Thread(target=lambda: (os.read(self.fd, 4096), then()))
        self.thread.start()

    def wait(self):
        self.thread.join(30)
        assert not self.thread.is_alive()
        os.close(self.fd)


def test_changing_file(silo, tree):
    write(tree, "a")
    large(f"{tree}/grows")

    def grow():
        with open(f"{tree}/grows", "ab") as f:
            f.write(b"more")

    opened = Opened(f"{tree}/grows", grow)
    refused(silo, tree, f"{tree}/grows: changed while it was read")
    opened.wait()


@pytest.mark.parametrize("what", ["file", "folder"])
def test_vanishing(silo, tree, what):
    large(f"{tree}/a")
    write(tree, "b/c")
    write(tree, "b/d/e")
    gone = f"{tree}/b"
    if what == "file":
        shutil.rmtree(gone)
        write(gone)
    opened = Opened(f"{tree}/a", lambda: os.rename(gone, silo.folder + "/away"))
    refused(silo, tree, f"{tree}/b: changed while it was read")
    opened.wait()


def test_changing_folder(silo, tree):
    """A name that comes after its folder was listed would be missing."""
    write(tree, "d/x")
    large(f"{tree}/d/a")
    opened = Opened(f"{tree}/d/a", lambda: write(tree, "d/b"))
    refused(silo, tree, f"{tree}/d: changed while it was read")
    opened.wait()


def test_changing_links(silo, tree):
    """One of two names for a file, and the file changes between them."""
    write(tree, "a")
    os.link(f"{tree}/a", f"{tree}/c")
    large(f"{tree}/b")
    opened = Opened(f"{tree}/b", lambda: write(tree, "a", data=b"y"))
    refused(silo, tree, f"{tree}/c: changed while it was read")
    opened.wait()


def test_races_with_symlinks(silo, tree):
    """A folder that becomes a symlink to elsewhere and back all the time leads nowhere."""
    outside = f"{silo.folder}/outside"
    write(outside, "file", data=SECRET)
    for i in range(200):
        write(tree, f"d{i}/file", data=b"fine")
    names = [f"{tree}/d{i}" for i in range(200)]
    end = threading.Event()

    def swap():
        while not end.is_set():
            for name in names:
                os.rename(name, name + "~")
                os.symlink(outside, name)
                os.unlink(name)
                os.rename(name + "~", name)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        results = [silo.run("index", "dir:" + tree, "--name", "x") for _ in range(10)]
    finally:
        end.set()
        thread.join()
    for done in results:
        assert done.returncode in (0, 1), done.stderr
        assert done.returncode == 0 or "changed while it was read" in done.stderr
    name = hashlib.sha256(SECRET).hexdigest()
    assert not os.path.exists(f"{silo.state}/objects/{name[:2]}/{name[2:]}")
    assert silo.json("index", "dir:" + tree, "--name", "quiet")["inodes"] == 401


def test_unreadable(silo, tree):
    write(tree, "d/open")
    write(tree, "d/secret")
    os.chmod(f"{tree}/d/secret", 0)
    # A store that the other user may write, and a tree that it may reach.
    with tempfile.TemporaryDirectory(prefix="silo-f.") as home:
        os.chmod(home, 0o777)
        os.chmod(silo.folder, 0o755)
        ini = f"{home}/silo.ini"
        with open(ini, "w") as f:
            f.write(f"[silo]\nstate = {home}/state\nimage = folder\nstorage = files\n")
        more = {"user": 65534, "group": 65534, "extra_groups": [], "capture_output": True}
        command = [silo.silo_bin, "--config", ini, "index", "dir:" + tree, "--name", "x"]
        done = subprocess.run(command, text=True, timeout=60, check=False, **more)
        assert done.returncode == 1
        assert f"{tree}/d/secret: open: Permission denied" in done.stderr, done.stderr
        os.chmod(f"{tree}/d/secret", 0o644)
        os.chmod(f"{tree}/d", 0o700)
        done = subprocess.run(command, text=True, timeout=60, check=False, **more)
        assert done.returncode == 1
        assert f"{tree}/d: open: Permission denied" in done.stderr, done.stderr


MOUNT = """
set -e
mount -t tmpfs tmpfs "$1/mounted"
echo x >"$1/mounted/file"
mount -t proc proc "$1/proc"
mount --bind /etc/hostname "$1/file"
"$2" --config "$3" index "dir:$1" --name mounted
"$2" --config "$3" index "dir:$1/mounted" --name other
"""


def test_mounts(silo, tree):
    """Only the folders that they are mounted on; but a tree may be a mount itself."""
    for name in ("mounted", "proc"):
        os.mkdir(f"{tree}/{name}")
    write(tree, "file")
    write(tree, "kept")
    command = ["sh", "-c", MOUNT, "sh", tree, silo.silo_bin, silo.ini]
    unshare = ["unshare", "-m", "--propagation", "private"]
    done = subprocess.run(
        [*unshare, *command], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    inodes = {i["name"].partition(":")[0]: i["inodes"] for i in silo.json("images")}
    assert inodes["mounted"] == 4 + (os.stat("/etc").st_dev == os.stat(tree).st_dev)
    assert inodes["other"] == 2


def test_odd_files(silo, tree):
    """Nothing that would wait is opened; sockets are not for images."""
    os.mkfifo(f"{tree}/fifo")
    os.mknod(f"{tree}/tty", 0o020600, os.makedev(5, 0))
    write(tree, "sub/x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tree}/sub/socket")
        assert silo.json("index", "dir:" + tree, "--name", "x")["inodes"] == 5
    os.setxattr(f"{tree}/sub/x", "user.l", struct.pack("<1000I", *range(1000)))
    first = silo.json("index", "dir:" + tree, "--name", "x")
    assert silo.json("index", "dir:" + tree + "/", "--name", "y")["meta"] == first["meta"]


def test_deep(silo, tree):
    """Deeper than a path can be long: an error, not a crash."""
    here = os.open(tree, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d" * 3, dir_fd=here)
        below = os.open("d" * 3, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        refused(silo, tree, f"{tree}/ddd/ddd")
    finally:
        subprocess.run(["rm", "-rf", tree], check=True)  # deeper than shutil.rmtree goes
