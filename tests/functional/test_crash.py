# SPDX-License-Identifier: Apache-2.0
"""kill -9, Ctrl-C and a full disk at every step of the verbs that change the store.

Builds with fault points (--enable-faults) say which steps a verb passes.  For each of
them a copy of the state is made, the verb runs there and is killed right before the
step.  Then: the state is the old one or the new one, whatever is listed is complete,
the same verb ends well when it is run again, and after `silo gc` the files are exactly
those of a run that nobody disturbed.
"""

import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
from collections import Counter

import pytest
from instances import Instance, processes_of, wait_for
from layouts import Layout, gz, layer_tar, sha256

pytestmark = pytest.mark.slow

FOLDERS = ("images", "layers", "objects", "tmp")
FILES = 12  # per layer
MOUNTED = ("recorded", "rm-dropped", "gc-settle")  # where images are also mounted


def layer(number, files=FILES):
    """A layer of its own files, one of them large, one empty, and one that others have, too.

    No two layers that are imported at the same time share one: both might store it, and then
    a fault point is passed more often in one run than in the next.
    """
    shared = [] if number in (1, 2) else [("shared", b"the same everywhere")]
    return gz(
        layer_tar(
            *[(f"l{number}/{i}", b"%d %d " % (number, i) * 40) for i in range(files)],
            (f"l{number}/big", b"%d" % number * (3 << 19)),
            (f"l{number}/empty", b""),
            *shared,
        )
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """References: b shares two layers with a, a2 is where a's tag will point."""
    top = tmp_path_factory.mktemp("layouts")
    kind = "application/vnd.oci.image.layer.v1.tar+gzip"
    layers = [layer(n) for n in range(6)]
    return {
        "a": Layout(layers[:3], kind).write(top / "a"),
        "a2": Layout([layers[0], layers[3]], kind).write(top / "a2"),
        "b": Layout([*layers[:2], layers[4]], kind).write(top / "b"),
        "c": Layout([layers[0], layers[5]], kind).write(top / "c"),
    }


@pytest.fixture(scope="module", autouse=True)
def faults(silo_bin):
    done = subprocess.run([silo_bin, "--version"], capture_output=True, text=True, check=True)
    if "fault points" not in done.stdout:
        pytest.skip("this silo was built without fault points: configure --enable-faults")


@contextlib.contextmanager
def instance(silo_bin, base=None):
    """base: whose state is copied, without hard links: locks are of inodes."""
    one = Instance(silo_bin)
    try:
        if base is not None:
            shutil.copytree(base.state, one.state, symlinks=True)
        yield one
        wait_for(lambda: not processes_of(one.folder), 10, f"the end of {one.live()}")
    finally:
        one.close()


# -- looking at a state without silo ------------------------------------------------------


def files(state):
    """What a crash may leave too much of."""
    found = set()
    for folder in FOLDERS:
        for path, _, names in os.walk(os.path.join(state, folder)):
            found |= {os.path.relpath(os.path.join(path, name), state) for name in names}
    return found - {"images/lock"}


def objects_of(meta):
    """The digests that a metadata file refers to, found without knowing its format."""
    found = re.findall(rb"/([0-9a-f]{2})/([0-9a-f]{62})", meta)
    return {(a + b).decode() for a, b in found}


def object_path(state, digest):
    return f"{state}/objects/{digest[:2]}/{digest[2:]}"


def check_complete(state, listed, damaged=()):
    """Every image that is listed has its metadata file and all its objects, unharmed."""
    for image in listed.values():
        meta = pathlib.Path(state, "images", image["meta"] + ".erofs").read_bytes()
        assert sha256(meta) == image["meta"]
        objects = objects_of(meta)
        assert len(objects) > FILES
        for digest in objects:
            if digest in damaged:
                continue
            data = pathlib.Path(object_path(state, digest)).read_bytes()
            assert sha256(data) == digest


def check_mounts(one):
    """Every image mounts, and its files are those objects that its metadata names."""
    place = f"{one.folder}/mounted"
    os.makedirs(place, exist_ok=True)
    for name, image in listed(one).items():
        script = (
            f'"$0" mount {name} {place} >/dev/null && cd {place} && '
            f'find . -type f -size +0 -exec sha256sum "{{}}" + && cd / && "$0" umount {place}'
        )
        done = subprocess.run(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", script, one.silo_bin],
            env=one.env,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        mounted = {line.split()[0] for line in done.stdout.splitlines()}
        meta = pathlib.Path(one.state, "images", image["meta"] + ".erofs").read_bytes()
        assert mounted == objects_of(meta)


def listed(one):
    """What `silo images` lists, but for the time."""
    found = {}
    for image in one.json("images"):
        image.pop("created")
        found[image["name"]] = image
    return found


# -- the matrix -----------------------------------------------------------------------------


@dataclasses.dataclass
class Scenario:
    """A verb, what there is before it, and what there is after it when nobody disturbs it."""

    name: str
    base: Instance
    command: list
    again: bool = True  # may it be run again when it has succeeded?
    damaged: tuple = ()  # objects that are bad before it
    old: dict = None
    new: dict = None
    old_files: set = None
    new_files: set = None  # after gc
    points: list = None  # (point, n): what is passed, in order

    def measure(self):
        self.old, self.old_files = listed(self.base), files(self.base.state)
        with instance(self.base.silo_bin, self.base) as one:
            log = f"{one.folder}/points"
            one.ok(*self.command, env={**one.env, "SILO_FAULT_LOG": log})
            passed = pathlib.Path(log).read_text().split()
            self.new = listed(one)
            check_complete(one.state, self.new)
            one.ok("gc")
            self.new_files = files(one.state)
        self.points = chosen(passed)
        return self

    def run(self, point, n):
        """Kill it there; what was seen: (old or new, files too many)."""
        with instance(self.base.silo_bin, self.base) as one:
            fault = {"SILO_FAULT": f"{point}@{n}=kill"}
            done = one.run(*self.command, env={**one.env, **fault})
            assert done.returncode == -signal.SIGKILL, f"{point}@{n}: {done}"
            there = files(one.state)
            now = listed(one)
            assert now in (self.old, self.new), f"{point}@{n}: {now}"
            is_new = now == self.new and now != self.old
            check_complete(one.state, now, () if is_new else self.damaged)
            if point in MOUNTED:
                check_mounts(one)
            if self.again or not is_new:
                one.ok(*self.command)
            one.ok("gc")
            assert listed(one) == self.new
            assert files(one.state) == self.new_files, f"{point}@{n}"
            check_complete(one.state, self.new)
            outcome = "new" if is_new else "old" if self.old != self.new else "same"
            return outcome, len(there - (self.old_files if outcome == "old" else self.new_files))


def chosen(passed):
    """Each point at its first, middle and last pass."""
    total, points = Counter(passed), []
    for point in dict.fromkeys(passed):
        n = total[point]
        points += [(point, i) for i in sorted({1, (n + 1) // 2, n})]
    return points


def matrix(scenario):
    """Kill it at every point; the rows of a table."""
    scenario.measure()
    assert scenario.points
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(pool.map(lambda p: scenario.run(*p), scenario.points))
    rows = []
    for (point, n), (outcome, strays) in zip(scenario.points, outcomes, strict=True):
        rows.append(f"{scenario.name:20} {point:28} {n:4}  {outcome:5} {strays:6}")
        print(rows[-1])
    if build := os.environ.get("SILO_TEST_BUILD"):
        with open(f"{build}/crash-matrix.txt", "a") as f:
            f.write("\n".join(rows) + "\n")
    return dict(zip(scenario.points, outcomes, strict=True))


@pytest.fixture(scope="module")
def two(silo_bin, images):
    """An instance with images a and b."""
    with instance(silo_bin) as one:
        one.ok("index", images["a"], "--name", "a")
        one.ok("index", images["b"], "--name", "b")
        yield one


@pytest.fixture(scope="module")
def empty(silo_bin):
    with instance(silo_bin) as one:
        one.ok("images")
        yield one


@pytest.fixture(scope="module")
def only_a(silo_bin, images):
    with instance(silo_bin) as one:
        one.ok("index", images["a"], "--name", "a")
        yield one


def check_index(seen):
    """The record is what makes an image: before it all is old, behind it all is new."""
    outcomes = [outcome for outcome, _ in seen.values()]
    assert set(outcomes) == {"old", "new"}
    assert outcomes == sorted(outcomes, reverse=True)
    assert any(strays for outcome, strays in seen.values() if outcome == "old")


def test_first_index(empty, images):
    check_index(matrix(Scenario("first index", empty, ["index", images["a"], "--name", "a"])))


def test_moved_tag(only_a, images):
    check_index(matrix(Scenario("moved tag", only_a, ["index", images["a2"], "--name", "a"])))


def test_shared_layers(only_a, images):
    command = ["index", images["b"], "--name", "b"]
    check_index(matrix(Scenario("shared layers", only_a, command)))


def test_rm(two):
    seen = matrix(Scenario("rm", two, ["rm", "b"], again=False))
    assert {outcome for outcome, _ in seen.values()} == {"old", "new"}


def test_gc(silo_bin, two, images):
    """Of what a killed index and a moved tag have left."""
    with instance(silo_bin, two) as one:
        one.ok("index", images["a2"], "--name", "a")
        before = files(one.state)
        done = one.run(
            *("index", images["c"], "--name", "c"),
            env={**one.env, "SILO_FAULT": "record"},
        )
        assert done.returncode == -signal.SIGKILL
        assert files(one.state) > before
        seen = matrix(Scenario("gc", one, ["gc"]))
    assert {outcome for outcome, _ in seen.values()} == {"same"}


def test_fsck(silo_bin, two):
    """Of an object with other bytes and one that is missing."""
    with instance(silo_bin, two) as one:
        image = listed(one)["a"]
        meta = f"{one.state}/images/{image['meta']}.erofs"
        objects = sorted(objects_of(pathlib.Path(meta).read_bytes()))
        with open(object_path(one.state, objects[0]), "r+b") as f:
            f.write(b"not this")
        os.unlink(object_path(one.state, objects[1]))
        assert one.run("fsck", "--dry-run").returncode == 1
        seen = matrix(Scenario("fsck", one, ["fsck"], damaged=tuple(objects[:2])))
        one.ok("fsck")
        one.ok("fsck", "--dry-run")
        check_complete(one.state, listed(one))
    assert {outcome for outcome, _ in seen.values()} == {"same"}


# -- errors and Ctrl-C ------------------------------------------------------------------------

COMMITTED = ("record", "recorded")  # from here on Ctrl-C comes too late


def unchanged(scenario, one, what):
    assert listed(one) == scenario.old, what
    assert files(one.state) == scenario.old_files, what
    wait_for(lambda: not processes_of(one.folder), 10, f"the end of {one.live()}")


def fails(scenario, fault, says):
    """The verb says so and leaves no trace."""
    with instance(scenario.base.silo_bin, scenario.base) as one:
        done = one.run(*scenario.command, env={**one.env, "SILO_FAULT": fault})
        assert done.returncode == 1 and says in done.stderr, f"{fault}: {done}"
        unchanged(scenario, one, fault)


def test_errors(empty, images):
    """A step that fails, for want of space say, leaves no trace."""
    index = Scenario("errors", empty, ["index", images["a"], "--name", "a"]).measure()
    tries = []
    for point, last in dict(index.points).items():
        if point != "recorded":
            tries.append((index, f"{point}@1=error", f"fault point {point}"))
            tries.append((index, f"{point}@{last}=enospc", "No space left"))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda one: fails(*one), tries))


def interrupt(scenario, point, number):
    """Send it a signal while it waits at the point."""
    with instance(scenario.base.silo_bin, scenario.base) as one:
        gate, log = f"{one.folder}/gate", pathlib.Path(one.folder, "log")
        os.mkfifo(gate)
        fault = {"SILO_FAULT": f"{point}=wait", "SILO_FAULT_GATE": gate, "SILO_FAULT_LOG": str(log)}
        process = subprocess.Popen(
            [one.silo_bin, *scenario.command],
            env={**one.env, **fault},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

        def at_the_gate():
            assert process.poll() is None, process.stdout.read()
            with contextlib.suppress(OSError):  # until somebody reads there
                return os.open(gate, os.O_WRONLY | os.O_NONBLOCK)

        fd = wait_for(at_the_gate, 20, point)
        process.send_signal(number)
        wait_for(lambda: "index-stopping" in log.read_text(), 20, "silo to see the signal")
        os.close(fd)
        out, _ = process.communicate(timeout=60)
        if point in COMMITTED:
            assert process.returncode == 0, f"{point}: {out}"
            assert listed(one) == scenario.new
        else:
            assert process.returncode == 130, f"{point}: {out}"
            assert "nothing was changed" in out
            unchanged(scenario, one, point)


def test_interrupt(only_a, images):
    index = Scenario("Ctrl-C", only_a, ["index", images["a2"], "--name", "a"]).measure()
    points = list(dict.fromkeys(point for point, _ in index.points))
    assert points[-2:] == list(COMMITTED)
    for point in points:
        interrupt(index, point, signal.SIGINT)
    interrupt(index, points[0], signal.SIGTERM)
