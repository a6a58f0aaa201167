# SPDX-License-Identifier: Apache-2.0
"""`silo mount` and `silo umount` as people use them: no daemon, real mounts.

Each test runs in the mount namespace that the test program runs in, on folders
below pytest's tmp_path, and ends with nothing mounted and nothing below STATE/mounts.
"""

import json
import os
import select
import signal
import subprocess

import pytest

SILO = os.environ.get("SILO", "silo")
LARGE = 3 << 20

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def mounts_below(folder):
    with open("/proc/self/mountinfo") as f:
        return [line.split()[4] for line in f if line.split()[4].startswith(str(folder))]


def ended(pid, seconds=0):
    """Has a process that is not our child ended, or will it within so many seconds?"""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return select.select([fd], [], [], seconds)[0] != []
    finally:
        os.close(fd)


def wait_end(pid):
    assert ended(pid, 20), f"process {pid} lives on"


class Instance:
    """A state folder with one image, `tree:1`."""

    def __init__(self, folder):
        self.folder = folder
        self.state = folder / "state"
        self.ini = folder / "silo.ini"
        self.dir = folder / "dir"
        self.ini.write_text(f"[silo]\nstate = {self.state}\nstorage = files\nimage = folder\n")
        tree = folder / "tree"
        (tree / "sub").mkdir(parents=True)
        (tree / "sub" / "hello").write_text("hello\n")
        (tree / "large").write_bytes(os.urandom(LARGE))
        os.symlink("sub/hello", tree / "link")
        self.tree = tree
        self.dir.mkdir()
        self.run("index", f"dir:{tree}", "--name", "tree:1")

    def silo(self, *args, **more):
        return subprocess.run(
            [SILO, "--config", str(self.ini), *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **more,
        )

    def run(self, *args):
        done = self.silo(*args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, status, *args):
        done = self.silo(*args)
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        assert done.stdout == ""
        return done.stderr

    def records(self):
        folder = self.state / "mounts"
        return sorted(folder.iterdir()) if folder.exists() else []

    def record(self):
        (folder,) = self.records()
        return json.loads((folder / "record").read_text())

    def clean(self):
        return self.records() == [] and mounts_below(self.folder) == []


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Instance(tmp_path_factory.mktemp("mount"))


@pytest.fixture
def silo(made):
    yield made
    for path in reversed(mounts_below(made.folder)):
        subprocess.run(["umount", "-l", path], check=False)
    for folder in made.records():
        record = folder / "record"
        server = json.loads(record.read_text())["server"] if record.exists() else 0
        if server:
            wait_end(server)


@pytest.fixture(params=["erofs", "fuse"])
def rootfs(request):
    return request.param


def same_as_source(silo):
    assert (silo.dir / "sub" / "hello").read_text() == "hello\n"
    assert (silo.dir / "link").read_text() == "hello\n"
    assert (silo.dir / "large").read_bytes() == (silo.tree / "large").read_bytes()
    assert sorted(os.listdir(silo.dir)) == sorted(os.listdir(silo.tree))


def test_readonly(silo, rootfs):
    out = silo.run("mount", "tree:1", str(silo.dir), "--rootfs", rootfs)
    assert out == f"mounted tree:1 on {silo.dir} by rootfs.{rootfs}\n"
    same_as_source(silo)
    with pytest.raises(OSError, match="Read-only file system"):
        (silo.dir / "new").write_text("x")
    silo.run("umount", str(silo.dir))
    assert silo.clean()
    assert os.listdir(silo.dir) == []


def test_writable(silo, rootfs):
    silo.run("mount", "tree:1", str(silo.dir), "--rw", "--rootfs", rootfs)
    (silo.dir / "new").write_text("x")
    (silo.dir / "sub" / "hello").write_text("changed")
    silo.run("umount", str(silo.dir))
    assert silo.clean()
    silo.run("mount", "tree:1", str(silo.dir), "--rootfs", rootfs)
    same_as_source(silo)
    silo.run("umount", str(silo.dir))
    assert silo.clean()


def test_first_that_works(silo):
    out = silo.run("mount", "tree:1", str(silo.dir))
    assert out.endswith(" by rootfs.erofs\n")
    assert silo.record()["server"] == 0
    silo.run("umount", str(silo.dir))
    assert silo.clean()


def test_disk_upper(silo, rootfs):
    before = silo.ini.read_text()
    silo.ini.write_text(before + f"[rootfs.{rootfs}]\nupper = disk\n")
    try:
        silo.run("mount", "tree:1", str(silo.dir), "--rw", "--rootfs", rootfs)
    finally:
        silo.ini.write_text(before)
    (silo.dir / "new").write_text("x")
    (folder,) = silo.records()
    assert (folder / "scratch" / "upper" / "new").read_text() == "x"
    silo.run("umount", str(silo.dir))
    assert silo.clean()


def test_server_keeps_nothing_of_ours(silo):
    """Else whoever waits for the end of a pipe waits for the unmount."""
    silo.run("mount", "tree:1", str(silo.dir), "--rootfs", "fuse")
    server = silo.record()["server"]
    folder = f"/proc/{server}/fd"
    targets = {fd: os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)}
    assert targets["0"] == targets["1"] == "/dev/null"
    assert targets["2"].startswith(str(silo.state / "mounts"))
    assert not [t for t in targets.values() if t.startswith("pipe:")]
    assert os.getsid(server) == server
    silo.run("umount", str(silo.dir))
    assert ended(server), "umount has waited for its end"
    assert silo.clean()


def test_server_dies(silo):
    silo.run("mount", "tree:1", str(silo.dir), "--rw", "--rootfs", "fuse")
    server = silo.record()["server"]
    os.kill(server, signal.SIGKILL)
    wait_end(server)
    with pytest.raises(OSError):
        (silo.dir / "large").read_bytes()
    silo.run("umount", str(silo.dir))
    assert silo.clean()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_server_is_told_to_end(silo, sig):
    silo.run("mount", "tree:1", str(silo.dir), "--rootfs", "fuse")
    server = silo.record()["server"]
    os.kill(server, sig)
    wait_end(server)
    assert silo.clean()


def test_foreground(silo):
    command = [SILO, "--config", str(silo.ini), "mount", "--foreground", "--rootfs", "fuse"]
    with subprocess.Popen(
        [*command, "tree:1", str(silo.dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline().startswith("mounted tree:1")
        same_as_source(silo)
        silo.run("umount", str(silo.dir))
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
    assert silo.clean()


def test_damaged_object(silo):
    """It is an error for who reads, a line in the log, and nothing for the rest."""
    (found,) = [p for p in (silo.state / "objects").glob("*/*") if p.stat().st_size == LARGE]
    aside = silo.folder / "aside"
    os.rename(found, aside)
    try:
        found.write_bytes(b"short")
        silo.run("mount", "tree:1", str(silo.dir), "--rootfs", "fuse")
        with pytest.raises(OSError, match="Input/output error"):
            (silo.dir / "large").read_bytes()
        assert (silo.dir / "sub" / "hello").read_text() == "hello\n"
        (folder,) = silo.records()
        log = (folder / "log").read_text()
        assert "level=error comp=rootfs.fuse" in log
        assert f"has 5 bytes, the image says {LARGE}" in log
        silo.run("umount", str(silo.dir))
    finally:
        os.rename(aside, found)
    assert silo.clean()


def test_several(silo):
    """Of one image, by both plugins, each unmounted alone."""
    folders = [silo.folder / f"several {i}" for i in range(4)]
    for i, folder in enumerate(folders):
        folder.mkdir()
        silo.run("mount", "tree:1", str(folder), "--rootfs", ("erofs", "fuse")[i % 2])
    assert len(silo.records()) == 4
    for folder in folders:
        assert (folder / "sub" / "hello").read_text() == "hello\n"
        silo.run("umount", str(folder))
        folder.rmdir()
    assert silo.clean()


def test_relative_and_linked(silo):
    """DIR is found again by whatever name."""
    link = silo.folder / "link-to-dir"
    link.symlink_to(silo.dir)
    try:
        done = silo.silo("mount", "tree:1", "dir/", cwd=str(silo.folder))
        assert done.returncode == 0, done.stderr
        assert silo.record()["target"] == str(silo.dir)
        silo.run("umount", str(link))
    finally:
        link.unlink()
    assert silo.clean()


def test_stale(silo):
    """Unmounted by hand, or never completed: cleaned at the next mount."""
    silo.run("mount", "tree:1", str(silo.dir), "--rw")
    subprocess.run(["umount", str(silo.dir)], check=True)
    (silo.state / "mounts" / "broken").mkdir()
    (silo.state / "mounts" / "damaged").mkdir()
    (silo.state / "mounts" / "damaged" / "record").write_text("{")
    assert len(silo.records()) == 3
    silo.run("mount", "tree:1", str(silo.dir))
    assert len(silo.records()) == 1
    same_as_source(silo)
    silo.run("umount", str(silo.dir))
    assert silo.clean()


def test_unmounted_by_hand(silo, rootfs):
    silo.run("mount", "tree:1", str(silo.dir), "--rootfs", rootfs)
    server = silo.record()["server"]
    subprocess.run(["umount", str(silo.dir)], check=True)
    if server:
        wait_end(server)
    else:
        silo.run("umount", str(silo.dir))
    assert silo.clean()


def test_covered(silo):
    """Something else lies over it: that is not ours to unmount."""
    silo.run("mount", "tree:1", str(silo.dir))
    subprocess.run(["mount", "-t", "tmpfs", "none", str(silo.dir)], check=True)
    message = silo.fails(1, "umount", str(silo.dir))
    assert message == f"silo: something else is mounted over {silo.dir}: unmount that first\n"
    subprocess.run(["umount", str(silo.dir)], check=True)
    silo.run("umount", str(silo.dir))
    assert silo.clean()


def test_bad_input(silo):
    full = silo.tree
    message = silo.fails(1, "mount", "tree:1", str(full))
    assert message == f"silo: {full} is not empty: silo mounts on empty folders only\n"
    assert "nope" in silo.fails(1, "mount", "nope", str(silo.dir))
    assert "silo index" in silo.fails(1, "mount", "nope", str(silo.dir))
    message = silo.fails(1, "mount", "tree:1", str(silo.folder / "nowhere"))
    assert message == f"silo: {silo.folder}/nowhere: No such file or directory\n"
    assert "Not a directory" in silo.fails(2, "mount", "tree:1", str(silo.ini))
    message = silo.fails(2, "mount", "tree:1", str(silo.dir), "--rootfs", "zfs")
    assert message == "silo: [silo] rootfs does not name zfs\n"
    message = silo.fails(1, "umount", str(silo.dir))
    assert message.startswith(f"silo: {silo.dir} was not mounted by `silo mount`")
    assert silo.fails(2, "mount", "tree:1").startswith("usage: silo mount")
    assert silo.fails(2, "umount").startswith("usage: silo umount")
    assert "--bogus" in silo.fails(2, "mount", "--bogus", "tree:1", str(silo.dir))
    assert silo.run("mount", "--help").startswith("usage: silo mount")
    assert silo.run("umount", "--help").startswith("usage: silo umount")
    assert silo.clean()


def test_none_works(silo):
    """Without the right to mount: each plugin says why, in one message."""
    command = [SILO, "--config", str(silo.ini), "mount", "tree:1", str(silo.dir)]
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "silo: no rootfs plugin works here: "
        "erofs: mount erofs: Operation not permitted; "
        "fuse: mount fuse: fsopen: Operation not permitted\n"
    )
    assert list((silo.state / "run").iterdir()) == []
    assert silo.clean()


def test_damaged_metadata(silo, rootfs):
    """The background process's error reaches whoever asked."""
    (meta,) = (silo.state / "images").glob("*.erofs")
    good = meta.read_bytes()
    try:
        meta.chmod(0o600)
        meta.write_bytes(b"\0" * len(good))
        message = silo.fails(1, "mount", "tree:1", str(silo.dir), "--rootfs", rootfs)
        assert str(meta) in message
    finally:
        meta.write_bytes(good)
    assert silo.clean()
