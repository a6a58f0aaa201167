# SPDX-License-Identifier: Apache-2.0
"""What a file system answers: run on two trees that should be equal, compare the JSON.

fs_answers.py ROOT UID [reading]: prints {question: answer}.  Runs as that user, with ROOT
as its current folder, so that paths above ROOT need not be open to it.  Errors are answers:
names of errnos.  "reading": nothing that would change a writable ROOT.  A program of its
own: who hangs in a file system is killed with it.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import itertools
import json
import mmap
import os
import select
import stat
import struct
import subprocess
import sys

libc = ctypes.CDLL(None, use_errno=True)
for name in ("opendir", "readdir"):
    getattr(libc, name).restype = ctypes.c_void_p
for name in ("readdir", "telldir", "rewinddir", "closedir"):
    getattr(libc, name).argtypes = [ctypes.c_void_p]
libc.telldir.restype = ctypes.c_long
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
for name in ("lgetxattr", "llistxattr"):
    getattr(libc, name).restype = ctypes.c_ssize_t

PATHS = [
    "plain", "empty", "sub", "sub/", "plain/", "plain/x", "absent", "absent/x", "loop", "loop/x",
    "dangling", "to-plain", "to-sub", "to-sub/in", "sub/..", "sub/../plain", "null", "fifo",
    "private", "group", "shut", "shut/in", "acl", "script", "h1", ".", "n" * 256,
    "sub" + "/" * 4087 + "in", "sub" + "/" * 4200 + "in", "",
]  # fmt: skip
FLAGS = [
    "O_RDONLY", "O_WRONLY", "O_RDWR", "O_TRUNC", "O_CREAT", "O_CREAT|O_EXCL", "O_CREAT|O_WRONLY",
    "O_DIRECTORY", "O_PATH", "O_PATH|O_NOFOLLOW", "O_NOFOLLOW", "O_NOATIME", "O_WRONLY|O_APPEND",
    "O_TMPFILE|O_RDWR", "O_DIRECT", "O_SYNC", "O_PATH|O_DIRECTORY", "O_CREAT|O_DIRECTORY",
]  # fmt: skip


def short(path):
    return path if len(path) < 20 else f"{path[:6]}...{len(path)}"


def attempt(function, *arguments):
    """What it returns, or why it does not."""
    try:
        return function(*arguments)
    except OSError as e:
        return errno.errorcode[e.errno]


@contextlib.contextmanager
def opened(path, flags=os.O_RDONLY):
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def sha(data):
    return hashlib.sha256(data).hexdigest()


def call(function, *arguments):
    ctypes.set_errno(0)
    r = function(*arguments)
    return r if r >= 0 else errno.errorcode[ctypes.get_errno()]


# -- names and attributes ---------------------------------------------------------


def attributes(path):
    st = os.lstat(path)
    size = st.st_size if not stat.S_ISDIR(st.st_mode) else None
    links = st.st_nlink if not stat.S_ISDIR(st.st_mode) else None
    return [st.st_mode, st.st_uid, st.st_gid, size, links, st.st_mtime_ns, st.st_rdev]


def walk():
    yield "."
    for folder, names, files in os.walk("."):
        for name in sorted(names + files):
            yield os.path.relpath(os.path.join(folder, name), ".")


def every_entry():
    for path in walk():
        yield f"lstat {path}", attempt(attributes, path)
        yield f"readlink {path}", attempt(os.readlink, path)
        yield f"xattrs {path}", attempt(xattrs, path)


def xattrs(path):
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return {
        n: attempt(lambda n=n: os.getxattr(path, n, follow_symlinks=False).hex()) for n in names
    }


def open_one(path, flags):
    with opened(path, flags | os.O_NONBLOCK) as fd:
        st = os.fstat(fd)
        return [stat.S_IFMT(st.st_mode), fcntl.fcntl(fd, fcntl.F_GETFL)]


def opens():
    for path, names in itertools.product(PATHS, FLAGS):
        flags = 0
        for name in names.split("|"):
            flags |= getattr(os, name)
        yield f"open {short(path)} {names}", attempt(open_one, path, flags)


def accesses():
    for path, mode, effective in itertools.product(PATHS, range(8), (False, True)):
        answer = attempt(lambda p=path, m=mode, e=effective: os.access(p, m, effective_ids=e))
        yield f"access {short(path)} {mode} {effective}", answer


def changes():
    """All refused on a read-only file system; which error comes first is an answer, too."""
    for path in PATHS:
        tries = {
            "mkdir": lambda p: os.mkdir(p),
            "rmdir": lambda p: os.rmdir(p),
            "unlink": lambda p: os.unlink(p),
            "rename-to": lambda p: os.rename("plain", p),
            "rename-from": lambda p: os.rename(p, "new"),
            "link-to": lambda p: os.link("plain", p),
            "link-from": lambda p: os.link(p, "new"),
            "symlink": lambda p: os.symlink("x", p),
            "mknod": lambda p: os.mknod(p, 0o644 | stat.S_IFREG),
            "mkfifo": lambda p: os.mkfifo(p),
            "chmod": lambda p: os.chmod(p, 0o600),
            "chown": lambda p: os.chown(p, 0, 0, follow_symlinks=False),
            "utime": lambda p: os.utime(p, ns=(1, 1)),
            "truncate": lambda p: os.truncate(p, 1),
            "setxattr": lambda p: os.setxattr(p, "user.x", b"1"),
            "removexattr": lambda p: os.removexattr(p, "user.a"),
            "chdir": lambda p: os.close(os.open(p, os.O_PATH | os.O_DIRECTORY)),
        }
        for name, function in tries.items():
            yield f"{name} {short(path)}", attempt(function, path)


# -- folders ------------------------------------------------------------------------


class Dirent(ctypes.Structure):
    _fields_ = (
        ("ino", ctypes.c_uint64),
        ("off", ctypes.c_int64),
        ("reclen", ctypes.c_uint16),
        ("type", ctypes.c_uint8),
        ("name", ctypes.c_char * 256),
    )


def next_name(stream):
    at = libc.readdir(stream)
    return Dirent.from_address(at).name if at else None


def rest(stream):
    return list(iter(lambda: next_name(stream), None))


def seeking(path):
    """telldir before each name; from there on a seek gives the same names again."""
    stream = libc.opendir(os.fsencode(path))
    assert stream
    try:
        positions, names = [], []
        while True:
            positions.append(libc.telldir(stream))
            name = next_name(stream)
            if name is None:
                break
            names.append(name)
        wrong = []
        step = max(1, len(positions) // 40)
        for i in [*range(0, len(positions), step), len(positions) - 1, 1]:
            libc.seekdir(stream, positions[i])
            if rest(stream) != names[i:]:
                wrong.append(i)
        libc.rewinddir(stream)
        again = rest(stream) == names
        twice = len(names) - len(set(names))
        return [len(names), sha(b"\0".join(sorted(names))), wrong, again, twice]
    finally:
        libc.closedir(stream)


def types(path):
    """Entries whose d_type or d_ino is not what lstat says."""
    stream = libc.opendir(os.fsencode(path))
    wrong = []
    try:
        while at := libc.readdir(stream):
            entry = Dirent.from_address(at)
            name, ino, kind = entry.name, entry.ino, entry.type
            if path == "." and name == b"..":
                continue  # outside
            st = os.lstat(os.path.join(os.fsencode(path), name))
            if ino != st.st_ino or kind != stat.S_IFMT(st.st_mode) >> 12:
                wrong.append([name.decode("latin1"), ino, st.st_ino, kind])
    finally:
        libc.closedir(stream)
    return wrong


def folders():
    for path in ("many", "sub", ".", "hollow"):
        yield f"seekdir {path}", attempt(seeking, path)
        yield f"d_ino and d_type {path}", attempt(types, path)
    yield "handle", handle("plain")
    yield "handle of a folder", handle("sub/deep")
    yield "parent", os.stat("sub/..").st_ino == os.stat(".").st_ino
    yield "parent of deeper", os.stat("sub/deep/..").st_ino == os.stat("sub").st_ino
    yield "devices", len({os.lstat(p).st_dev for p in walk()})
    yield "hard links", os.stat("h1").st_ino == os.stat("sub/h2").st_ino
    numbers = [os.lstat(p).st_ino for p in walk()]
    yield "numbers", len(numbers) - len(set(numbers))
    st = os.statvfs("plain")
    yield "statfs", [st.f_namemax, st.f_flag & os.ST_RDONLY, st.f_flag & os.ST_NOSUID, st.f_frsize]


def handle(path):
    """A file handle leads back to the inode, where handles are given at all."""
    buffer = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136)
    mount = ctypes.c_int()
    got = call(libc.name_to_handle_at, -100, path.encode(), buffer, ctypes.byref(mount), 0)
    if got != 0:
        return got
    with opened(".") as top:
        fd = call(libc.open_by_handle_at, top, buffer, os.O_RDONLY | os.O_CLOEXEC)
    if isinstance(fd, str):
        return fd
    same = os.path.samestat(os.fstat(fd), os.stat(path))
    os.close(fd)
    return "same" if same else "another"


# -- bytes ---------------------------------------------------------------------------


def seeks(path):
    size = os.stat(path).st_size
    with opened(path) as fd:
        tries = [(0, os.SEEK_END), (-1, os.SEEK_SET), (5, os.SEEK_END)]
        tries += [(at, os.SEEK_HOLE) for at in (size, size + 1)]
        tries += [(at, os.SEEK_DATA) for at in (size, size + 1)]
        plain = [attempt(os.lseek, fd, at, whence) for at, whence in tries]
        # Where holes are is the file system's matter; outside of data there is none.
        at, hidden = 0, False
        data = os.pread(fd, size, 0)
        while at < size:
            start = attempt(os.lseek, fd, at, os.SEEK_DATA)
            end = size if start == "ENXIO" else start
            hidden |= any(data[at:end])
            at = size if start == "ENXIO" else os.lseek(fd, start, os.SEEK_HOLE)
        return [plain, hidden]


def reads(path):
    """Odd offsets and lengths, behind the end, by pread and preadv, O_DIRECT included."""
    answers = []
    for flags in (os.O_RDONLY, os.O_RDONLY | os.O_DIRECT):
        with opened(path, flags) as fd:
            buffer = mmap.mmap(-1, 1 << 16)
            for at in (0, 4096, 65536, 1 << 20, 1 << 40):
                n = attempt(os.preadv, fd, [buffer], at)
                answers.append([n, sha(buffer[:n]) if isinstance(n, int) else ""])
    with opened(path) as fd:
        for at, n in ((0, 1), (4095, 2), (131071, 131073), (299_990, 100), (300_000, 1), (-1, 1)):
            data = attempt(os.pread, fd, n, at)
            answers.append(sha(data) if isinstance(data, bytes) else data)
    return answers


def maps(path):
    with opened(path) as fd:
        shared = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
        private = mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        code = mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
        before = [sha(shared), sha(private), sha(code)]
        private[100:200] = b"x" * 100
        shared.madvise(mmap.MADV_DONTNEED)
        after = [sha(shared), sha(private), sha(os.pread(fd, 1 << 20, 0))]
        write = attempt(mmap.mmap, fd, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        return [before, after, write if isinstance(write, str) else "mapped"]


def copies(path):
    size = os.stat(path).st_size
    found = []
    for how in ("sendfile", "copy_file_range", "splice"):
        out = os.memfd_create("copy")
        with opened(path) as fd:
            if how == "sendfile":
                n = attempt(os.sendfile, out, fd, 0, size)
            elif how == "copy_file_range":
                n = attempt(os.copy_file_range, fd, out, size)
            else:
                n = attempt(spliced, fd, out)
        found.append([how, n, sha(os.pread(out, size, 0))])
        os.close(out)
    return found


def spliced(fd, out):
    r, w = os.pipe()
    total = 0
    while n := os.splice(fd, w, 65536):
        while n:
            done = os.splice(r, out, n)
            n -= done
            total += done
    os.close(r)
    os.close(w)
    return total


def locks(path):
    with opened(path) as a, opened(path) as b:
        found = [attempt(fcntl.flock, a, fcntl.LOCK_EX | fcntl.LOCK_NB)]
        found.append(attempt(fcntl.flock, b, fcntl.LOCK_SH | fcntl.LOCK_NB))
        found.append(attempt(fcntl.flock, a, fcntl.LOCK_UN))
        found.append(attempt(fcntl.flock, b, fcntl.LOCK_SH | fcntl.LOCK_NB))
        for kind in (fcntl.F_RDLCK, fcntl.F_WRLCK):
            lock = struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)
            for command in (fcntl.F_SETLK, fcntl.F_OFD_SETLK):
                answer = attempt(fcntl.fcntl, a, command, lock)
                found.append(answer if isinstance(answer, str) else "locked")
        found.append(attempt(fcntl.fcntl, a, fcntl.F_SETLEASE, fcntl.F_RDLCK))
        return found


def watched():
    """The events of reading a file and listing a folder."""
    fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    for path in (b"plain", b"sub"):
        assert call(libc.inotify_add_watch, fd, path, 0xFFF) != "EINVAL"
    with opened("plain") as f:
        os.read(f, 10)
    os.listdir("sub")
    events = []
    while select.select([fd], [], [], 0)[0]:
        data = os.read(fd, 65536)
        while data:
            wd, mask, _, length = struct.unpack("iIII", data[:16])
            events.append([wd, mask])
            data = data[16 + length :]
    os.close(fd)
    return sorted(map(list, {tuple(e) for e in events}))


ATTRIBUTES = ["user.a", "user.large", "user.empty", "user.absent", "absent", "user." + "n" * 300]


def short_buffers(path):
    """Lengths of xattrs and of their list, with buffers of every size around the right one."""
    found = []
    buffer = ctypes.create_string_buffer(65536)
    for name in ATTRIBUTES:
        length = call(libc.lgetxattr, path.encode(), name.encode(), None, ctypes.c_size_t(0))
        found.append(length)
        sizes = [length - 1, length, length + 1, 65536] if isinstance(length, int) else [1]
        for n in filter(None, sizes):
            got = call(libc.lgetxattr, path.encode(), name.encode(), buffer, ctypes.c_size_t(n))
            found.append([n, got, sha(buffer.raw[:got]) if isinstance(got, int) else ""])
    # An overlay's length for the list counts its own attributes in, which the list has not.
    length = call(libc.llistxattr, path.encode(), None, ctypes.c_size_t(0))
    lists = []
    for n in (length, length + 1, 65536) if isinstance(length, int) and length > 0 else (65536,):
        got = call(libc.llistxattr, path.encode(), buffer, ctypes.c_size_t(n))
        names = sorted(buffer.raw[:got].split(b"\0")) if isinstance(got, int) else []
        if (answer := [got, [x.decode() for x in names]]) not in lists:
            lists.append(answer)
    if lists[0][0]:
        found.append(call(libc.llistxattr, path.encode(), buffer, ctypes.c_size_t(1)))
    found.append(lists)
    return found


def contents():
    for path in ("plain", "sparse", "empty"):
        yield f"seek {path}", attempt(seeks, path)
        yield f"read {path}", attempt(reads, path)
        yield f"copy {path}", attempt(copies, path)
        yield f"lock {path}", attempt(locks, path)
    yield "map plain", attempt(maps, "plain")
    yield "map sparse", attempt(maps, "sparse")
    yield "inotify", attempt(watched)
    for path in ("plain", "attributes", "to-plain", "sub", "acl", "shut/in"):
        yield f"xattr {path}", attempt(short_buffers, path)
    for path in ("script", "suid", "capable", "plain", "private"):
        yield f"run {path}", attempt(run, path)


def run(path):
    """suid and capable are cat: what they may do is in their status."""
    done = subprocess.run(
        [f"./{path}", "/proc/self/status"], capture_output=True, text=True, check=False
    )
    seen = [x for x in done.stdout.splitlines() if x.startswith(("Uid", "Gid", "Cap", "said"))]
    return [done.returncode, seen]


def main():
    os.chdir(sys.argv[1])
    uid = int(sys.argv[2])
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    questions = [every_entry(), accesses(), folders(), contents()]
    if sys.argv[3:] != ["reading"]:
        questions += [opens(), changes()]
    answers = dict(itertools.chain(*questions))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
