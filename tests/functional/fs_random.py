# SPDX-License-Identifier: Apache-2.0
"""The same random operations on two folders; what they answer must be the same.

fs_random.py A B SEED COUNT: A is under test, B a plain copy of it on a local file system.
Prints JSON: {"operations": of each kind [done, refused], "differences": [...]}.

Paths are relative to a folder that is entered before each operation, and symlinks lead
only to names in it: nothing outside is ever touched.  Half of the operations are those
of user 1000.  What overlayfs documents to be otherwise is not asked:
- names of one lower inode part when one is written to (no index): none is in the pool;
- what is open for reading only may show the old bytes after another open wrote to it:
  files are opened for writing, or to be read at once;
- link counts and sizes of folders;
- copy_file_range between the lower and the upper layer is EXDEV: copied as cp does then.
"""

import collections
import ctypes
import errno
import hashlib
import json
import mmap
import os
import random
import stat
import sys

libc = ctypes.CDLL(None, use_errno=True)
NAMES = ["a", "b", "c", "d"]
TIME = 10**18  # older than every operation
SLOTS = 4


def attempt(function, *arguments):
    try:
        return function(*arguments)
    except OSError as e:
        return errno.errorcode[e.errno]


def renameat2(source, target, flags):
    ctypes.set_errno(0)
    if libc.renameat2(-100, os.fsencode(source), -100, os.fsencode(target), flags) < 0:
        raise OSError(ctypes.get_errno(), source)


class Side:
    """One of the two folders, and the files that are open in it."""

    def __init__(self, path):
        self.top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.open = [None] * SLOTS

    def do(self, name, uid, arguments):
        os.fchdir(self.top)
        os.seteuid(uid)
        try:
            return attempt(getattr(self, "do_" + name), *arguments)
        finally:
            os.seteuid(0)

    # -- names --

    def do_mkdir(self, path, mode):
        os.mkdir(path, mode)

    def do_rmdir(self, path):
        os.rmdir(path)

    def do_unlink(self, path):
        os.unlink(path)

    def do_rename(self, source, target):
        os.rename(source, target)

    def do_exchange(self, source, target):
        renameat2(source, target, 2)

    def do_noreplace(self, source, target):
        renameat2(source, target, 1)

    def do_link(self, source, target):
        os.link(source, target, follow_symlinks=False)

    def do_symlink(self, target, path):
        os.symlink(target, path)

    def do_mknod(self, path, mode):
        os.mknod(path, mode)

    def do_list(self, path):
        return sorted(os.listdir(path))

    def do_lookup(self, path):
        return described(path, os.stat(path))

    # -- attributes --

    def do_chmod(self, path, mode):
        os.chmod(path, mode)

    def do_chown(self, path, uid, gid):
        os.chown(path, uid, gid, follow_symlinks=False)

    def do_utime(self, path, ns):
        os.utime(path, ns=(ns, ns), follow_symlinks=False)

    def do_access(self, path, mode):
        return os.access(path, mode, effective_ids=True)

    def do_setxattr(self, path, name, value, flags):
        os.setxattr(path, name, value.encode(), flags)

    def do_removexattr(self, path, name):
        os.removexattr(path, name)

    # -- bytes --

    def do_truncate(self, path, size):
        os.truncate(path, size)

    def do_write(self, path, flags, at, data):
        fd = os.open(path, flags | os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)
        try:
            n = os.write(fd, data.encode()) if at is None else os.pwrite(fd, data.encode(), at)
            os.fsync(fd)
            return n
        finally:
            os.close(fd)

    def do_read(self, path):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return hashlib.sha256(os.pread(fd, 1 << 22, 0)).hexdigest()
        finally:
            os.close(fd)

    def do_copy(self, source, target):
        more = os.O_NONBLOCK | os.O_CLOEXEC
        a = os.open(source, os.O_RDONLY | more)
        try:
            b = os.open(target, os.O_RDWR | more)
        except OSError:
            os.close(a)
            raise
        try:
            return os.copy_file_range(a, b, 1 << 20, 100, 50)
        except OSError as e:
            if e.errno != errno.EXDEV:
                raise
            return os.pwrite(b, os.pread(a, 1 << 20, 100), 50)
        finally:
            os.close(a)
            os.close(b)

    # -- files that stay open --

    def do_open(self, slot, path, flags):
        fd = os.open(path, flags | os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC, 0o604)
        if self.open[slot] is not None:
            os.close(self.open[slot])
        self.open[slot] = fd

    def fd(self, slot):
        if self.open[slot] is None:
            raise OSError(errno.EBADF, "slot")
        return self.open[slot]

    def do_fread(self, slot):
        st = os.fstat(self.fd(slot))
        return [hashlib.sha256(os.pread(self.fd(slot), 1 << 22, 0)).hexdigest(), st.st_nlink]

    def do_fwrite(self, slot, at, data):
        return os.pwrite(self.fd(slot), data.encode(), at)

    def do_ftruncate(self, slot, size):
        os.ftruncate(self.fd(slot), size)

    def do_fchmod(self, slot, mode):
        os.fchmod(self.fd(slot), mode)

    def do_fallocate(self, slot, at, size):
        os.posix_fallocate(self.fd(slot), at, size)

    def do_mapped(self, slot, at, data):
        """Written through memory, seen by read, and the other way round."""
        fd = self.fd(slot)
        if os.fstat(fd).st_size < at + len(data):
            return "short"
        with mmap.mmap(fd, at + len(data)) as memory:
            memory[at : at + len(data)] = data.encode()
            seen = os.pread(fd, len(data), at) == data.encode()
            os.pwrite(fd, b"!", at)
            return [seen, memory[at : at + 1] == b"!"]


def described(path, st):
    kind = stat.S_IFMT(st.st_mode)
    folder = kind == stat.S_IFDIR
    return [
        oct(st.st_mode),
        st.st_uid,
        st.st_gid,
        None if folder else st.st_size,
        None if folder else st.st_nlink,
        st.st_mtime_ns if st.st_mtime_ns <= TIME else "later",
        attempt(lambda: {n: os.getxattr(path, n).hex() for n in sorted(os.listxattr(path))}),
    ]


def tree(side):
    """Everything that there is: {path: description}."""
    os.fchdir(side.top)
    found = {}
    inodes = collections.defaultdict(list)
    for folder, names, files in os.walk("."):
        for name in sorted(names + files):
            path = os.path.join(folder, name)
            st = os.lstat(path)
            more = ""
            if stat.S_ISLNK(st.st_mode):
                more = os.readlink(path)
            elif stat.S_ISREG(st.st_mode):
                with open(path, "rb") as f:
                    more = hashlib.sha256(f.read()).hexdigest()
            found[path] = [*described(path, st)[: -1 if stat.S_ISLNK(st.st_mode) else None], more]
            if not stat.S_ISDIR(st.st_mode):
                inodes[st.st_dev, st.st_ino].append(path)
    for paths in inodes.values():
        for path in paths:
            found[path].append(sorted(paths))
    return found


# -- what to do ------------------------------------------------------------------------


class Choice:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def path(self):
        """Few names, so that they meet: mostly they are there, often they are not."""
        depth = self.random.choices((1, 2, 3, 4), (3, 5, 3, 1))[0]
        return "/".join(self.random.choice(NAMES) for _ in range(depth))

    def data(self):
        return self.random.choice("xyz") * self.random.choice((1, 100, 5000, 70000))

    def at(self):
        return self.random.choice((0, 1, 4096, 5000, 100_000))

    def mode(self):
        return self.random.choice((0o755, 0o644, 0o700, 0o000, 0o4755, 0o2770, 0o1777, 0o666))

    def slot(self):
        return self.random.randrange(SLOTS)

    def owner(self):
        return self.random.choice((-1, 0, 1000, 70000))

    def attribute(self):
        return self.random.choice(("user.a", "user.b", "user.c", "trusted.t", "none.n"))

    def open_flags(self):
        r = self.random
        return r.choice(
            (0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_CREAT | os.O_TRUNC)
        )

    def write_flags(self):
        return self.open_flags() | self.random.choice((0, os.O_APPEND))

    def operation(self):
        r = self.random
        path = self.path
        makers = [
            (5, "mkdir", lambda: (path(), self.mode())),
            (2, "rmdir", lambda: (path(),)),
            (3, "unlink", lambda: (path(),)),
            (6, "rename", lambda: (path(), path())),
            (2, "exchange", lambda: (path(), path())),
            (2, "noreplace", lambda: (path(), path())),
            (4, "link", lambda: (path(), path())),
            (2, "symlink", lambda: (r.choice(NAMES), path())),
            (1, "mknod", lambda: (path(), r.choice((0o644 | stat.S_IFREG, 0o600 | stat.S_IFIFO)))),
            (5, "list", lambda: (path(),)),
            (5, "lookup", lambda: (path(),)),
            (3, "chmod", lambda: (path(), self.mode())),
            (3, "chown", lambda: (path(), self.owner(), self.owner())),
            (2, "utime", lambda: (path(), r.randrange(TIME))),
            (2, "access", lambda: (path(), r.randrange(8))),
            (4, "setxattr", lambda: (path(), self.attribute(), r.choice(("", "1", "v" * 900)),
                                     r.choice((0, os.XATTR_CREATE, os.XATTR_REPLACE)))),
            (2, "removexattr", lambda: (path(), self.attribute())),
            (3, "truncate", lambda: (path(), self.at())),
            (6, "write", lambda: (path(), self.write_flags(), r.choice((None, self.at())),
                                  self.data())),
            (5, "read", lambda: (path(),)),
            (2, "copy", lambda: (path(), path())),
            (4, "open", lambda: (self.slot(), path(), self.open_flags())),
            (4, "fread", lambda: (self.slot(),)),
            (4, "fwrite", lambda: (self.slot(), self.at(), self.data())),
            (2, "ftruncate", lambda: (self.slot(), self.at())),
            (2, "fchmod", lambda: (self.slot(), self.mode())),
            (1, "fallocate", lambda: (self.slot(), self.at(), 5000)),
            (4, "mapped", lambda: (self.slot(), self.at(), r.choice("pq") * 10)),
        ]  # fmt: skip
        _, name, make = r.choices(makers, [m[0] for m in makers])[0]
        return name, r.choice((0, 1000)), make()


def shortened(value):
    text = repr(value)
    return text if len(text) < 300 else text[:300] + "..."


def compare_trees(sides, what):
    one, two = map(tree, sides)
    paths = sorted(one.keys() | two.keys())
    return [
        f"{what}: {p}: {one.get(p)} instead of {two.get(p)}"
        for p in paths
        if one.get(p) != two.get(p)
    ]


def main():
    sides = [Side(path) for path in sys.argv[1:3]]
    choice = Choice(int(sys.argv[3]))
    count = int(sys.argv[4])
    os.umask(0o22)
    kinds = collections.defaultdict(lambda: [0, 0])
    found = compare_trees(sides, "before")
    for i in range(count):
        name, uid, arguments = choice.operation()
        one, two = (side.do(name, uid, arguments) for side in sides)
        kinds[name][isinstance(two, str) and two.startswith("E")] += 1
        if one != two:
            said = f"{i}: {name} by {uid} {shortened(arguments)}"
            found.append(f"{said}: {shortened(one)} instead of {shortened(two)}")
        if i % 500 == 499 or i == count - 1:
            found += compare_trees(sides, f"after {i}")
        if len(found) > 20:
            break
    json.dump({"operations": kinds, "differences": found}, sys.stdout)


if __name__ == "__main__":
    main()
