#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mounted images against the same tree in a folder and other file systems, interleaved.

    bench/rootfs.py [--build build] [--rounds 5] [--json FILE] [--only TEXT] [--keep FOLDER]

The tree is Debian with Python, NumPy and pandas, and one random file of 500 MiB:

    native          unpacked in a folder
    erofs, fuse     indexed and mounted by `silo mount --rw`, as containers have it
    fuse-overlayfs  over the folder (Debian package fuse-overlayfs)
    squashfuse      from a zstd image (packages squashfuse and squashfs-tools)

Rows: starts of Python in a chroot, walks with lstat, reads.  Warm: the fastest is not counted,
the median of some runs right after another; cold and fresh: mounted after the kernel's caches
were dropped, the time of mounting left out.  Within a row all take turns, and who begins changes
from round to round.  Ratios are taken within a round.

Mounts are timed in one process that stays, on images of many small inodes.  Memory is what a
memory cgroup says that a second container has brought into the page cache.  Requests are the
reads of the process that serves rootfs/fuse: one for each request and one for each piece of an
object.

Runs as root, in mount and process namespaces of its own: all that it has mounted and started ends
with it, however it ends.  Needs some 4 GB of disk in $TMPDIR, or in the folder that --keep names,
which is made and not removed: another run does not have to make trees and images again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import TOP, own_namespace, spread, write_json

PACKAGES = "python3,python3-numpy,python3-pandas"
MIB = 1 << 20
BIG = "big.bin"
BIG_SIZE = 500 * MIB
INODES = (10_000, 50_000, 200_000)
MOUNTS = 30  # mounts per image and round
WARM_RUNS = 3

# A row's name, and how many times native it may take.
GOALS = {
    "python warm": {"erofs": 1.05, "fuse": 1.2},
    "python cold": {"erofs": 1.05, "fuse": 1.2},
    "pandas warm": {"erofs": 1.05, "fuse": 1.25},
    "pandas cold": {"erofs": 1.15, "fuse": 1.6},
    "walk warm": {"erofs": 1.4, "fuse": 1.2},
    "walk fresh": {"erofs": 1.6, "fuse": 1.5},
    "sequential warm": {"erofs": 1.05, "fuse": 3.0},
    "random warm": {"erofs": 1.15, "fuse": 1.2},
}
MOUNT_GOALS = {"erofs": 0.25, "fuse": 0.5}  # milliseconds
MEMORY_GOALS = {"erofs": 2.0}  # MB


def run(*argv, **options) -> str:
    argv = [str(word) for word in argv]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


# -- what is mounted -----------------------------------------------------------------------


class Native:
    """The folder itself.  The others mount on a folder of theirs, `target`."""

    name = "native"
    pid = 0  # of the process that serves it

    def __init__(self, bench: Bench):
        self.bench = bench
        self.target = bench.tree

    def mount(self) -> None:
        pass

    def unmount(self) -> None:
        pass

    def another(self) -> Native:
        """What a second container has of the same."""
        return self

    def __enter__(self):
        self.mount()
        return self

    def __exit__(self, *_exception) -> None:
        self.unmount()


class Mounted(Native):
    """One that a program mounts which may stay to serve it."""

    n = 0

    def __init__(self, bench: Bench):
        super().__init__(bench)
        Mounted.n += 1
        self.target = bench.folder / f"mount.{Mounted.n}"
        self.process: subprocess.Popen | None = None

    def start(self, *argv) -> None:
        words = [str(word) for word in argv]
        # Ctrl-C is for us alone; we unmount.
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.pid = self.process.pid

    def mount(self) -> None:
        self.target.mkdir(exist_ok=True)
        self.start(*self.command())
        try:
            self.await_mount()
        except BaseException:
            self.process.terminate()
            self.unmount()
            raise

    def await_mount(self) -> None:
        deadline = time.monotonic() + 30
        while not os.path.ismount(self.target):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.name} did not mount {self.target}")
            time.sleep(0.001)

    def unmount(self) -> None:
        if self.process is None:
            return
        subprocess.run([str(word) for word in self.unmount_command()], check=False)
        if os.path.ismount(self.target):
            run("umount", "--lazy", self.target)
        self.process.wait()
        self.process.stdout.close()
        self.process = None
        self.target.rmdir()

    def unmount_command(self) -> list:
        return ["umount", self.target]

    def command(self) -> list:
        raise NotImplementedError

    def another(self) -> Mounted:
        return type(self)(self.bench)


class Silo(Mounted):
    rootfs = ""

    def command(self) -> list:
        words = ["mount", "--rw", "--foreground", "--rootfs", self.rootfs, "tree", self.target]
        return [self.bench.silo, "--config", self.bench.config, *words]

    def await_mount(self) -> None:
        line = self.process.stdout.readline()
        if not line.startswith("mounted "):
            raise SystemExit(f"silo mount --rootfs {self.rootfs} did not mount")

    def unmount_command(self) -> list:
        return [self.bench.silo, "--config", self.bench.config, "umount", self.target]


class Erofs(Silo):
    name = rootfs = "erofs"


class Fuse(Silo):
    name = rootfs = "fuse"


class FuseOverlayfs(Mounted):
    name = "fuse-overlayfs"
    needs = ("fuse-overlayfs",)

    def command(self) -> list:
        for path in self.layers():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        upper, work = self.layers()
        layers = f"lowerdir={self.bench.tree},upperdir={upper},workdir={work}"
        return ["fuse-overlayfs", "-f", "-o", layers, self.target]

    def layers(self) -> list[Path]:
        return [self.target.with_name(f"{self.target.name}.{name}") for name in ("upper", "work")]

    def unmount(self) -> None:
        super().unmount()
        for path in self.layers():
            shutil.rmtree(path, ignore_errors=True)


class Squashfuse(Mounted):
    name = "squashfuse"
    needs = ("squashfuse_ll", "mksquashfs")
    image = "tree.squashfs"

    def command(self) -> list:
        return ["squashfuse_ll", "-f", self.bench.folder / self.image, self.target]


PEERS = {FuseOverlayfs: "fuse-overlayfs", Squashfuse: "squashfuse squashfs-tools"}


def systems() -> list[type[Native]]:
    found: list = [Native, Erofs, Fuse]
    for peer, packages in PEERS.items():
        if all(shutil.which(program) for program in peer.needs):
            found.append(peer)
        else:
            print(f"{peer.name} is left out: apt-get install {packages}", file=sys.stderr)
    return found


# -- what is done to it --------------------------------------------------------------------


def drop_caches(what: int = 3) -> None:
    """1: pages, 2: folders and inodes, 3: both."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text(str(what))


def python_in(root: Path, code: str) -> list[str]:
    """Without writing .pyc files: a fresh upper layer would have to do it each time."""
    return ["/usr/sbin/chroot", str(root), "/usr/bin/python3", "-B", "-c", code]


class Bench:
    def __init__(self, args: argparse.Namespace, folder: Path):
        self.folder = folder
        self.silo = args.silo or f"{args.build}/root/bin/silo"
        self.driver = Path(args.build, "bench").resolve()
        self.only = args.only
        self.tree = folder / "tree"
        self.config = folder / "silo.ini"
        self.config.write_text(f"[silo]\nstate = {folder}/state\nrootfs = erofs fuse\n")
        self.systems = systems()

    # each gives seconds

    def load(self, what: str, path: Path) -> float:
        nanoseconds, n = run(self.driver / "rootfs-load", what, path).split()
        if int(n) < 1000:
            raise SystemExit(f"{what} {path}: only {n}")
        return int(nanoseconds) / 1e9

    def python(self, root: Path, code: str) -> float:
        started = time.perf_counter()
        subprocess.run(python_in(root, code), check=True, env={"PATH": "/usr/bin:/bin"})
        return time.perf_counter() - started

    def actions(self) -> dict:
        return {
            "python": lambda root: self.python(root, "pass"),
            "pandas": lambda root: self.python(root, "import pandas"),
            "walk": lambda root: self.load("walk", root),
            "sequential": lambda root: self.load("sequential", root / BIG),
            "random": lambda root: self.load("random", root / BIG),
        }

    # preparation

    def index(self, source: Path, name: str) -> None:
        run(
            self.silo,
            "--config",
            self.config,
            "index",
            f"dir:{source}",
            "--name",
            name,
            stderr=subprocess.DEVNULL,
        )

    def prepare(self) -> None:
        """Trees and images, unless an earlier run has made them."""
        self.once("tree", self.make_tree)
        for inodes in INODES:
            if self.wanted(f"mount {inodes // 1000}k"):
                self.once(f"flat{inodes}", lambda inodes=inodes: self.make_flat(inodes))

    def once(self, what: str, make) -> None:
        done = self.folder / f"{what}.made"
        if not done.exists():
            make()
            done.touch()

    def make_tree(self) -> None:
        say("unpacking and indexing the tree")
        script = str(TOP / "script/debian-tree")
        tar = run(script, "--tar", "--include", PACKAGES).strip()
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir()
        run("tar", "-C", self.tree, "--numeric-owner", "-xpf", tar)
        with open(self.tree / BIG, "wb") as file:
            file.writelines(os.urandom(MIB) for _ in range(BIG_SIZE // MIB))
        self.index(self.tree, "tree")
        if Squashfuse in self.systems:
            image = self.folder / Squashfuse.image
            image.unlink(missing_ok=True)
            run("mksquashfs", self.tree, image, "-comp", "zstd", "-quiet", "-no-progress")

    def make_flat(self, inodes: int) -> None:
        """An image with so many inodes, 500 to a folder.  They are symlinks, which are soon made
        and indexed; files would make its metadata file 1.4 times as large."""
        say(f"indexing an image of {inodes} inodes")
        with tempfile.TemporaryDirectory(dir=self.folder) as source:
            left = inodes - 1
            while left > 0:
                folder = Path(source, f"d{left}")
                folder.mkdir()
                left -= 1
                for n in range(min(left, 500)):
                    os.symlink(f"{n:059}", folder / f"file{n}")
                left -= min(left, 500)
            self.index(Path(source), f"flat{inodes}")

    def wanted(self, row: str) -> bool:
        return self.only in row

    def turns(self, things: list, number: int) -> list:
        """In another order in each round."""
        first = number % len(things)
        return things[first:] + things[:first]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# -- rows ----------------------------------------------------------------------------------


def warm_rows(bench: Bench, number: int) -> dict[str, dict[str, float]]:
    """All are mounted; each row's runs take turns; medians of them."""
    actions = {
        f"{name} warm": fn for name, fn in bench.actions().items() if bench.wanted(f"{name} warm")
    }
    found: dict = {}
    if not actions:
        return found
    with contextlib.ExitStack() as stack:
        mounts = [stack.enter_context(system(bench)) for system in bench.systems]
        for row, fn in actions.items():
            times: dict = {one.name: [] for one in mounts}
            for n in range(WARM_RUNS + 1):
                for one in bench.turns(mounts, number + n):
                    seconds = fn(one.target)
                    if n:  # the first brings it into memory
                        times[one.name].append(seconds)
            found[row] = {name: statistics.median(values) for name, values in times.items()}
    return found


def fresh_rows(bench: Bench, number: int) -> dict[str, dict[str, float]]:
    """Mounted anew for each run."""
    actions = bench.actions()
    rows = {
        "python cold": (3, actions["python"]),
        "pandas cold": (3, actions["pandas"]),
        "walk fresh": (2, actions["walk"]),
    }
    found: dict = {}
    for row, (what, fn) in rows.items():
        if not bench.wanted(row):
            continue
        found[row] = {}
        for system in bench.turns(bench.systems, number):
            if what == 2:  # what is on disk is in memory
                with system(bench) as one:
                    fn(one.target)
            drop_caches(what)
            with system(bench) as one:
                # our own programs are not what is measured
                run("/usr/sbin/chroot", "/", "true")
                run(bench.driver / "rootfs-load", "walk", "/etc")
                found[row][one.name] = fn(one.target)
    return found


def mount_rows(bench: Bench, number: int) -> dict[str, dict[str, float]]:
    """Milliseconds; of an image that is mounted nowhere, and of one that is already."""
    found: dict = {}
    for inodes in INODES:
        row = f"mount {inodes // 1000}k"
        if not bench.wanted(row):
            continue
        for rootfs in bench.turns(["erofs", "fuse"], number):
            with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
                driver = bench.driver / "rootfs-mount"
                image = f"flat{inodes}"
                out = run(driver, bench.config, image, rootfs, "time", str(MOUNTS), folder)
            lines = [[int(word) / 1e6 for word in line.split()] for line in out.splitlines()]
            first, second, bare, unmount = (statistics.median(c) for c in zip(*lines[1:]))
            found.setdefault(row, {})[rootfs] = first
            found.setdefault(f"{row}, again", {})[rootfs] = second
            found.setdefault(f"{row}, bare overlay", {})[rootfs] = bare
            found.setdefault(f"{row}, both unmounts", {})[rootfs] = unmount
    return found


class Group:
    """A memory cgroup."""

    def __init__(self, name: str):
        v1 = Path("/sys/fs/cgroup/memory")
        self.field = "cache" if v1.is_dir() else "file"
        self.path = (v1 if v1.is_dir() else Path("/sys/fs/cgroup")) / f"silo-bench-{name}"
        self.path.mkdir()

    def run(self, argv: list[str]) -> None:
        run("sh", "-c", 'echo 0 >"$0/cgroup.procs"; exec "$@"', str(self.path), *argv)

    def page_cache(self) -> float:
        """MB"""
        for line in (self.path / "memory.stat").read_text().splitlines():
            name, value = line.split()
            if name == self.field:
                return int(value) / 1e6
        raise SystemExit(f"{self.path}/memory.stat has no {self.field}")

    def remove(self) -> None:
        self.path.rmdir()


@contextlib.contextmanager
def two_containers(bench: Bench, system: type[Native]):
    """Two roots of one image, of one process where that is how it is in the daemon."""
    if not issubclass(system, Silo):
        with system(bench) as first, first.another() as second:
            yield first.target, second.target
        return
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        driver = str(bench.driver / "rootfs-mount")
        words = [driver, str(bench.config), "tree", system.rootfs, "hold", folder]
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        if process.stdout.readline() != b"mounted\n":
            raise SystemExit("rootfs-mount did not mount")
        try:
            yield Path(folder, "first"), Path(folder, "second")
        finally:
            process.communicate()  # its stdin ends, and so does it


def memory_rows(bench: Bench, number: int) -> dict[str, dict[str, float]]:
    """MB of page cache that `import pandas` in the first and in the second container brought."""
    found: dict = {}
    if not bench.wanted("page cache"):
        return found
    for system in bench.turns(bench.systems, number):
        drop_caches()
        with two_containers(bench, system) as roots:
            groups = []
            try:
                for n, (which, root) in enumerate(zip(("first", "second"), roots)):
                    groups.append(Group(f"{time.time_ns()}"))
                    groups[n].run(python_in(root, "import pandas"))
                    row = f"page cache, {which} container"
                    found.setdefault(row, {})[system.name] = groups[n].page_cache()
            finally:
                for group in groups:
                    group.remove()
    return found


def reads_of(pid: int) -> int:
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("syscr:"):
            return int(line.split()[1])
    raise SystemExit(f"/proc/{pid}/io has no syscr")


def request_rows(bench: Bench) -> dict[str, dict[str, float]]:
    found: dict = {}
    if not bench.wanted("requests"):
        return found
    with Fuse(bench) as one:
        for row in ("first", "second", "third"):  # the second still ends what the first began
            before = reads_of(one.pid)
            bench.python(one.target, "import pandas")
            found[f"requests, {row} import pandas"] = {one.name: reads_of(one.pid) - before}
    return found


# -- report --------------------------------------------------------------------------------


def values_of(rounds: list[dict], row: str, name: str) -> list[float]:
    return [one[row][name] for one in rounds]


def ratios_of(rounds: list[dict], row: str, name: str) -> list[float]:
    return [one[row][name] / one[row]["native"] for one in rounds]


def report(bench: Bench, rounds: list[dict]) -> None:
    names = [system.name for system in bench.systems]
    print(f"{'times native':32}{'native, ms':>22}", end="")
    print("".join(f"{name:>20}" for name in names[1:]))
    for row in (row for row in GOALS if row in rounds[0]):
        native = [value * 1000 for value in values_of(rounds, row, "native")]
        print(f"{row:32}{spread(native, 1):>22}", end="")
        print("".join(f"{spread(ratios_of(rounds, row, name)):>20}" for name in names[1:]))
    for title, start, digits in (
        ("milliseconds", "mount", 3),
        ("MB", "page cache", 1),
        ("reads by the server", "requests", 0),
    ):
        rows = [row for row in rounds[0] if row.startswith(start)]
        if rows:
            print(f"\n{title}")
        for row in rows:
            values = (
                f"{name} {spread(values_of(rounds, row, name), digits)}"
                for name in names
                if name in rounds[0][row]
            )
            print(f"{row:32}{'  '.join(values)}")


def verdicts(rounds: list[dict]) -> list[dict]:
    found = []

    def add(row: str, name: str, value: float, goal: float) -> None:
        found.append({"row": row, "rootfs": name, "value": value, "goal": goal})

    for row in rounds[0]:
        for name, goal in GOALS.get(row, {}).items():
            add(row, name, statistics.median(ratios_of(rounds, row, name)), goal)
        absolute: dict = {}
        if row.startswith("mount") and "," not in row.replace(", again", ""):
            absolute = MOUNT_GOALS
        elif row == "page cache, second container":
            absolute = MEMORY_GOALS
        for name, goal in absolute.items():
            add(row, name, statistics.median(values_of(rounds, row, name)), goal)
    return found


def measure(bench: Bench, n_rounds: int) -> list[dict]:
    rounds = []
    for number in range(n_rounds):
        found: dict = {}
        for rows in (warm_rows, fresh_rows, mount_rows, memory_rows):
            say(f"round {number + 1} of {n_rounds}: {rows.__name__.replace('_', ' ')}")
            found.update(rows(bench, number))
        found.update(request_rows(bench))
        rounds.append(found)
    return rounds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", default=str(TOP / "build"), help="where make has run")
    parser.add_argument("--silo", help="default: root/bin/silo in there")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help='rows whose name has this: "pandas"')
    parser.add_argument("--keep", metavar="FOLDER", help="make trees and images there, once")
    parser.add_argument("--json", metavar="FILE", help="also write values and machine there")
    args = parser.parse_args()
    own_namespace("true", "--pid", "--fork", "--kill-child", "--mount-proc")
    run("make", "-C", args.build, "bench-programs")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with contextlib.ExitStack() as stack:
        if args.keep:
            Path(args.keep).mkdir(exist_ok=True)
            folder = args.keep
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="silo-bench-"))
        Path(folder).chmod(0o755)
        bench = Bench(args, Path(folder).resolve())
        bench.prepare()
        rounds = measure(bench, args.rounds)

    report(bench, rounds)
    print()
    found = verdicts(rounds)
    for one in found:
        good = "met" if one["value"] <= one["goal"] else "MISSED"
        print(f"{good:7}{one['row']}, {one['rootfs']}: {one['value']:.2f}, goal {one['goal']:.2f}")
    if args.json:
        write_json(args.json, {"rounds": rounds, "verdicts": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
