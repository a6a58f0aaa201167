# SPDX-License-Identifier: Apache-2.0
"""Mounted images against the tree that they were made of, by both rootfs plugins.

Read-only: fs_answers.py asks both the same questions; the source is a read-only bind
mount then.  Writable: fs_random.py does the same to both.  Then what has no counterpart:
isolation, memory pressure, full uppers, mounts that end while they are in use.
"""

import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys

import fs_answers
import pytest
from instances import Instance, read, wait_for

USERS = (0, 1000, 2000)  # of those in the tree 1000 is one
HERE = pathlib.Path(__file__).parent
# user::rw-, user:1000:rw-, group::---, group:2000:r--, mask::rw-, other::---
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in (
        (1, 6, 0xFFFFFFFF),
        (2, 6, 1000),
        (4, 0, 0xFFFFFFFF),
        (8, 4, 2000),
        (16, 6, 0xFFFFFFFF),
        (32, 0, 0xFFFFFFFF),
    )
)
PATTERN = bytes(range(256)) * 1200  # 307200 bytes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


# -- the tree ----------------------------------------------------------------------------


def write(path, data=b"", mode=0o644, uid=0, gid=0):
    path.write_bytes(data)
    os.chown(path, uid, gid)
    path.chmod(mode)


def make_tree(top):
    """Everything that fs_answers.py asks for."""
    top.mkdir(mode=0o755)
    write(top / "plain", PATTERN[:300_000])
    write(top / "empty")
    write(top / "sparse")
    os.truncate(top / "sparse", 1 << 20)
    with open(top / "sparse", "r+b") as f:
        f.seek(600_000)
        f.write(b"data" * 1000)
    write(top / "private", b"private", 0o600, 1000, 1000)
    write(top / "group", b"group", 0o640, 0, 1000)
    write(top / "script", b'#!/bin/sh\necho "said $0"\n', 0o755)
    write(top / "suid", pathlib.Path("/bin/cat").read_bytes(), 0o6755, 70000, 70001)
    write(top / "capable", pathlib.Path("/bin/cat").read_bytes(), 0o755)
    capability = bytes.fromhex("0100000201000000000000000000000000000000")
    os.setxattr(top / "capable", "security.capability", capability)
    write(top / "attributes", b"x")
    for name, value in (("a", b"1"), ("large", bytes(range(250)) * 6), ("empty", b"")):
        os.setxattr(top / "attributes", f"user.{name}", value)
    write(top / "acl", b"acl")
    os.setxattr(top / "acl", "system.posix_acl_access", ACL)
    for name in ("sub", "sub/deep", "sub/deep/er", "shut", "many", "hollow"):
        (top / name).mkdir(mode=0o755)
    write(top / "sub" / "in", b"in sub")
    write(top / "shut" / "in", b"in shut")
    os.chown(top / "shut", 1000, 1000)
    (top / "shut").chmod(0o700)
    write(top / "h1", b"two names")
    os.link(top / "h1", top / "sub" / "h2")
    for name, target in (
        ("loop", "loop"),
        ("dangling", "nowhere"),
        ("to-plain", "plain"),
        ("to-sub", "sub"),
        ("long", "l" * 4000),
    ):
        os.symlink(target, top / name)
    os.mknod(top / "null", 0o666 | 0o020000, os.makedev(1, 3))
    (top / "null").chmod(0o666)
    os.mkfifo(top / "fifo")
    for i in range(2000):
        os.close(os.open(top / "many" / f"{'name' * (i % 20)}{i}", os.O_CREAT, 0o644))
    return top


def make_pool(top):
    """Three levels of few names for fs_random.py, as half of them are at its start."""
    top.mkdir(mode=0o777)
    top.chmod(0o777)
    choice = random.Random(1)
    for folder in ("", "a", "b", "a/a", "a/b", "b/a", "b/b"):
        if folder:
            (top / folder).mkdir()
            os.chown(top / folder, choice.choice((0, 1000)), 1000)
            (top / folder).chmod(choice.choice((0o755, 0o777, 0o2775, 0o1777)))
        for name in ("c", "d"):
            path = top / folder / name
            data = os.urandom(choice.choice((0, 10, 5000, 200_000)))
            mode = choice.choice((0o644, 0o666, 0o4755, 0o600))
            write(path, data, mode, choice.choice((0, 1000)), 1000)
            os.setxattr(path, "user.a", b"lower")
    os.symlink("a", top / "b" / "b" / "a")
    for folder, names, files in os.walk(top):
        for name in names + files:
            os.utime(f"{folder}/{name}", ns=(10**17, 10**17), follow_symlinks=False)
    os.utime(top, ns=(10**17, 10**17))
    return top


def make_load(top, n=160):
    """96 MiB or so: larger than the memory that its readers get."""
    sums = {}
    choice = random.Random(2)
    for i in range(n):
        folder = top / str(i % 8) / str(i % 3)
        folder.mkdir(parents=True, exist_ok=True)
        data = choice.randbytes(choice.choice((0, 1000, 4096, 100_000, 1 << 20, (2 << 20) + 1)))
        (folder / str(i)).write_bytes(data)
        sums[f"{i % 8}/{i % 3}/{i}"] = hashlib.sha256(data).hexdigest()
    return sums


class Made:
    """Images of these trees, and where they are mounted."""

    def __init__(self, silo_bin):
        self.one = Instance(silo_bin)
        self.folder = pathlib.Path(self.one.folder)
        self.folder.chmod(0o755)
        self.source = make_tree(self.folder / "source")
        self.pool = make_pool(self.folder / "pool")
        self.sums = make_load(self.folder / "load")
        for name in ("source", "pool", "load"):
            self.one.ok("index", f"dir:{self.folder / name}", "--name", name)
        self.n = 0

    def mount(self, image, rootfs, *more):
        self.n += 1
        root = self.folder / f"root{self.n}"
        root.mkdir()
        self.one.ok("mount", image, root, "--rootfs", rootfs, *more, timeout=60)
        return root

    def umount(self, root):
        self.one.ok("umount", root, timeout=60)
        root.rmdir()

    def server(self):
        """The process that serves the only mount."""
        (record,) = pathlib.Path(self.one.state, "mounts").glob("*/record")
        return json.loads(record.read_text())["server"]

    def mounts(self):
        lines = [line.split() for line in read("/proc/self/mountinfo").splitlines()]
        return [line[4] for line in lines if line[4].startswith(str(self.folder))]

    def clean(self):
        records = pathlib.Path(self.one.state, "mounts")
        wait_for(lambda: self.mounts() == [] and [*records.iterdir()] == [], 20, "the mounts' end")
        wait_for(lambda: not self.one.live(), 20, "the servers' end")

    def check_objects(self):
        for path in pathlib.Path(self.one.state, "objects").glob("??/*"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert digest == path.parent.name + path.name


@pytest.fixture(scope="module")
def made(silo_bin):
    made = Made(silo_bin)
    try:
        yield made
        made.check_objects()
    finally:
        for path in reversed(made.mounts()):
            subprocess.run(["umount", "-l", path], check=False)
        made.one.close()


@pytest.fixture
def silo(made):
    yield made
    for path in reversed(made.mounts()):
        subprocess.run(["umount", "-l", path], check=False)


@pytest.fixture(params=["erofs", "fuse"])
def rootfs(request):
    return request.param


# -- read-only -----------------------------------------------------------------------------


def ask(root, uid, *more):
    done = subprocess.run(
        [sys.executable, HERE / "fs_answers.py", root, str(uid), *more],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def expected(made):
    """What the source answers from an ext4: {"" or "--rw": {uid: answers}}."""
    root, image = made.folder / "ext4", made.folder / "ext4.img"
    root.mkdir()
    image.touch()
    os.truncate(image, 64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-N", "10000", image], check=True)
    options = "nosuid,nodev,noatime"
    subprocess.run(["mount", "-o", f"loop,{options}", image, root], check=True)
    try:
        (root / "lost+found").rmdir()
        subprocess.run(["cp", "-a", f"{made.source}/.", root], check=True)
        writable = {uid: ask(root, uid, "reading") for uid in USERS}
        subprocess.run(["mount", "-o", f"remount,ro,{options}", root], check=True)
        return {"": {uid: ask(root, uid) for uid in USERS}, "--rw": writable}
    finally:
        subprocess.run(["umount", root], check=True)
        root.rmdir()


def kernel_differs(rootfs, rw):
    """What the kernel's file systems are known to answer otherwise: {question: answer}."""
    known = {}
    if rootfs == "erofs" or rw:
        # Overlays give handles only with nfs_export.
        known |= {"handle": "ENOTSUP", "handle of a folder": "ENOTSUP"}
    if rootfs == "erofs":
        # EROFS has nothing to read directly in what is empty.
        known |= {"open empty O_DIRECT": "EINVAL", "read empty": "EINVAL"}
    return known


@pytest.mark.parametrize("rw", ["", "--rw"])
def test_answers(silo, expected, rootfs, rw):
    more = ["reading"] if rw else []
    root = silo.mount("source", rootfs, *filter(None, [rw]))
    for uid in USERS:
        got, wanted = ask(root, uid, *more), dict(expected[rw][uid])
        assert got.keys() == wanted.keys()
        known = kernel_differs(rootfs, rw)
        wanted |= {q: known[q] for q in known if q in wanted}
        assert [(q, got[q], wanted[q]) for q in wanted if got[q] != wanted[q]] == []
    silo.umount(root)
    silo.clean()


def numbers(root):
    os.chdir(root)
    try:
        return {path: os.lstat(path).st_ino for path in fs_answers.walk()}
    finally:
        os.chdir("/")


def test_numbers_stay(silo):
    """Of inodes: the same after a remount, under both plugins, and when looked up in any order."""
    found = []
    for rootfs in ("erofs", "fuse", "fuse", "erofs"):
        root = silo.mount("source", rootfs)
        if len(found) == 1:
            for path in reversed(found[0].keys()):
                os.lstat(root / path)
        found.append(numbers(root))
        silo.umount(root)
    assert found[1] == found[2]
    assert found[0] == found[3]
    assert found[0] == found[1]
    silo.clean()


# -- writable ------------------------------------------------------------------------------


def compare(silo, rootfs, seed, count):
    root = silo.mount("pool", rootfs, "--rw")
    copy = silo.folder / "copy"
    subprocess.run(["cp", "-a", silo.pool, copy], check=True)
    done = subprocess.run(
        [sys.executable, HERE / "fs_random.py", root, copy, str(seed), str(count)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    shutil.rmtree(copy)
    silo.umount(root)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["differences"] == []
    return answer["operations"]


def test_random_operations(silo, rootfs):
    kinds = compare(silo, rootfs, 1, 4000)
    assert len(kinds) == 28
    assert all(done > 0 and done + refused > 20 for done, refused in kinds.values()), kinds
    silo.clean()


def test_as_overlayfs_documents(silo, rootfs):
    """What is otherwise than on a plain file system, and must not become worse."""
    root = silo.mount("source", rootfs, "--rw")
    # Names of one inode part when one is written to.
    (root / "h1").write_bytes(b"changed")
    assert (root / "sub" / "h2").read_bytes() == b"two names"
    # Folders of lower layers can be renamed, though (redirect_dir).
    os.rename(root / "many", root / "sub" / "moved")
    assert len(os.listdir(root / "sub" / "moved")) == 2000
    silo.umount(root)
    silo.clean()


def test_full_upper(silo, rootfs):
    """upper_size is the end of it, for copies of lower files, too; nothing is half there."""
    silo.one.sections["silo"]["upper_size"] = "2M"
    silo.one.write()
    try:
        root = silo.mount("load", rootfs, "--rw")
    finally:
        del silo.one.sections["silo"]["upper_size"]
        silo.one.write()
    large = next(p for p in sorted(silo.sums) if os.stat(root / p).st_size > 2 << 20)
    with pytest.raises(OSError, match="No space left"), open(root / large, "ab"):
        pass
    assert hashlib.sha256((root / large).read_bytes()).hexdigest() == silo.sums[large]
    with pytest.raises(OSError, match="No space left"):
        (root / "fill").write_bytes(bytes(3 << 20))
    assert 1 << 20 <= os.stat(root / "fill").st_size <= 2 << 20
    os.truncate(root / "fill", 0)
    (root / "fill").write_bytes(bytes(1 << 20))
    os.unlink(root / large)
    assert os.path.basename(large) not in os.listdir((root / large).parent)
    silo.umount(root)
    silo.clean()


# -- several -----------------------------------------------------------------------------


def look(root):
    """What a mount of `source` looks like, contents included."""
    os.chdir(root)
    try:
        return {
            path: (
                fs_answers.attributes(path),
                os.path.isfile(path) and pathlib.Path(path).read_bytes(),
            )
            for path in fs_answers.walk()
            if not path.startswith("many/")
        }
    finally:
        os.chdir("/")


def test_writes_are_private(silo):
    """Of mounts of one image, writable and not, by both plugins."""
    plugins = ("erofs", "fuse", "erofs", "fuse")
    roots = [silo.mount("source", p, "--rw") for p in plugins]
    readers = [silo.mount("source", p) for p in plugins[:2]]
    for i, root in enumerate(roots):
        (root / "plain").write_bytes(b"of %d" % i)
        with open(root / "group", "ab") as f:
            f.write(b"more %d" % i)
        os.truncate(root / "sparse", i)
        os.unlink(root / "script")
        os.rename(root / "sub", root / f"sub{i}")
        (root / "new").mkdir()
        (root / "new" / str(i)).write_bytes(b"new")
        os.chmod(root / "private", i)
        os.setxattr(root / "acl", "user.who", b"%d" % i)
    for i, root in enumerate(roots):
        assert (root / "plain").read_bytes() == b"of %d" % i
        assert (root / "group").read_bytes() == b"groupmore %d" % i
        assert os.stat(root / "sparse").st_size == i
        assert sorted(n for n in os.listdir(root) if n.startswith("s")) == [
            "shut", "sparse", f"sub{i}", "suid",
        ]  # fmt: skip
        assert os.listdir(root / "new") == [str(i)]
        assert os.stat(root / "private").st_mode & 0o777 == i
        assert os.getxattr(root / "acl", "user.who") == b"%d" % i
    wanted = look(silo.source)
    for root in readers:
        assert look(root) == wanted
    for root in roots + readers:
        silo.umount(root)
    for rootfs in plugins[:2]:
        root = silo.mount("source", rootfs, "--rw")
        assert look(root) == wanted
        silo.umount(root)
    silo.clean()
    silo.check_objects()


def test_containers_are_private(instance, rootfs):
    """Two warm workers of one image: each keeps what it wrote, neither sees the other's."""
    one = instance(rootfs=rootfs).start()

    def first(word):
        import os
        import sys

        path = os.__file__
        if word:
            with open(path, "a") as f:
                f.write("# " + word)
            os.rename(sys.prefix + "/bin", sys.prefix + "/" + word)
            os.mkdir("/of-" + word)
        with open(path) as f:
            end = f.read().split("# ")[-1]
        return end[:20], sorted(os.listdir("/")), sorted(os.listdir(sys.prefix)), os.getpid()

    def second(word):
        return first(word)

    one_function, other = one.function(first), one.function(second)
    clean = other.remote("")
    written = one_function.remote("one")
    assert written[0] == "one"
    assert "of-one" in written[1]
    assert "one" in written[2]
    assert other.remote("")[:3] == clean[:3]
    assert other.remote("two")[0] == "two"
    assert one_function.remote("")[:3] == written[:3]
    assert len(one.json("ps")["workers"]) == 2
    one.stop()


# -- under pressure ----------------------------------------------------------------------


def memory_group(name, limit):
    """A memory cgroup below /sys/fs/cgroup of this limit, v1 or v2; its folder."""
    for top, key in (("memory", "memory.limit_in_bytes"), (".", "memory.max")):
        group = pathlib.Path("/sys/fs/cgroup", top, name)
        try:
            group.mkdir()
            (group / key).write_text(str(limit))
            return group
        except OSError:
            if group.is_dir():
                group.rmdir()
    pytest.skip("no memory cgroup can be made here")
    return None


def press(silo, rootfs, rounds):
    root = silo.mount("load", rootfs)
    group = memory_group(f"silo-test-{os.getpid()}", 48 << 20)
    try:
        process = subprocess.Popen(
            [sys.executable, HERE / "fs_load.py", root, str(rounds), "4", group / "cgroup.procs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        out, _ = process.communicate(json.dumps(silo.sums), timeout=60 + 10 * rounds)
        assert process.returncode == 0
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), 20, "the readers' end")
        group.rmdir()
    answer = json.loads(out)
    assert answer["wrong"] == []
    assert answer["files"] == 4 * rounds * len(silo.sums)
    silo.umount(root)
    silo.clean()


def test_pressure(silo, rootfs):
    """Four threads read, map and walk more than their memory holds: all bytes are right."""
    press(silo, rootfs, 3)


@pytest.mark.slow
def test_long_pressure(silo, rootfs):
    press(silo, rootfs, 10)


# -- the end of mounts in use ------------------------------------------------------------


def start_readers(silo, root, n=3):
    """Processes that read all over and over until something goes wrong, at work already."""
    readers = []
    for _ in range(n):
        reader = subprocess.Popen(
            [sys.executable, HERE / "fs_load.py", root, "1000000", "1", ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        reader.stdin.write(json.dumps(silo.sums))
        reader.stdin.close()
        readers.append(reader)
    for reader in readers:
        assert reader.stderr.readline() == "round\n"
    return readers


def test_unmount_while_busy(silo, rootfs):
    """It goes at once; who has a large file of it open reads on."""
    root = silo.mount("load", rootfs)
    name = max(silo.sums, key=lambda p: os.stat(root / p).st_size)
    readers = start_readers(silo, root)
    fd = os.open(root / name, os.O_RDONLY)
    try:
        silo.umount(root)
        assert silo.mounts() == []
        # By rootfs/fuse, too: a large file is passed through to its object.
        assert hashlib.sha256(os.pread(fd, 4 << 20, 0)).hexdigest() == silo.sums[name]
    finally:
        os.close(fd)
    for reader in readers:
        assert reader.wait(20) in (1, -signal.SIGBUS)
        reader.stdout.close()
        reader.stderr.close()
    silo.clean()


def test_server_killed_under_load(silo):
    """Whoever reads, maps or looks gets an error or SIGBUS; nobody is stuck."""
    root = silo.mount("load", "fuse")
    readers = start_readers(silo, root, 4)
    os.kill(silo.server(), signal.SIGKILL)
    for reader in readers:
        assert reader.wait(20) in (1, -signal.SIGBUS)
        reader.stdout.close()
        reader.stderr.close()
    with pytest.raises(OSError, match="not connected"):
        os.statvfs(root)
    silo.umount(root)
    silo.clean()
