# SPDX-License-Identifier: Apache-2.0
"""What an import keeps, shares with others at work, and leaves behind when it fails.

Registries are threads of the test, so that a layer can be held back halfway while two
`silo index` want it.
"""

import json
import os
import pathlib
import signal
import subprocess
import threading

import pytest
import registries
from instances import Instance, wait_for
from nasty import Layout, file, folder, tar

PLAIN = "--tls-verify=false"


def layers(count, size=100000):
    """Archives that share nothing."""
    return [tar(file(b"f%d" % i, os.urandom(size)), folder(b"d%d" % i)) for i in range(count)]


def digests(layout, descriptor):
    path = f"{layout.path}/blobs/{descriptor['digest'].replace(':', '/')}"
    return [layer["digest"] for layer in json.loads(pathlib.Path(path).read_bytes())["layers"]]


class Gate:
    """A fault: half of a blob, the rest when the test says so; only for the first who asks."""

    def __init__(self, then=None):
        self.reached = threading.Event()
        self.open = threading.Event()
        self.then = then or (lambda body: body)

    def __call__(self, _registry, handler, body):
        if self.reached.is_set():
            return handler.send(body)
        body, half = self.then(body), len(body) // 2
        handler.send(body[:half], length=len(body))
        self.reached.set()
        assert self.open.wait(60)
        handler.wfile.write(body[half:])


def spoilt(body):
    return body[:-1] + bytes([body[-1] ^ 1])


class Place(Instance):
    def start_index(self, reference, name):
        return subprocess.Popen(
            [self.silo_bin, "index", PLAIN, reference, "--name", name],
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def files(self):
        """All that imports may leave: objects, stages, records, metadata files."""
        found = set()
        for top in ("objects", "layers", "images", "tmp"):
            for where, _, names in os.walk(f"{self.state}/{top}"):
                found |= {os.path.join(where, name) for name in names if name != "lock"}
        return found

    def waits(self, process):
        """Does this process wait for a blob that another imports?"""
        folder = f"/proc/{process.pid}/fd"
        found = []
        for fd in os.listdir(folder):
            try:
                found.append(
                    (
                        os.readlink(f"{folder}/{fd}"),
                        os.stat(f"{folder}/{fd}", follow_symlinks=False),
                    )
                )
            except FileNotFoundError:
                continue
        return any(
            link.endswith(".lock") and "/layers/" in link and not st.st_mode & 0o200
            for link, st in found
        )


@pytest.fixture
def place(silo_bin):
    one = Place(silo_bin)
    one.json("images")
    yield one
    one.close()


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "layout")


@pytest.fixture
def fake(layout):
    one = registries.Misbehaving(layout)
    yield one
    one.close()


# -- two at once ---------------------------------------------------------------------


@pytest.fixture
def two(layout, fake):
    """Two images that share their lowest layer: references, digest of it, of the others."""
    shared, a, b = layers(3)
    one, other = layout.manifest([shared, a]), layout.manifest([shared, b])
    fake.tags = {"1": [one], "2": [other]}
    base, own = digests(layout, one)
    return (
        fake.reference("x:1"),
        fake.reference("x:2"),
        base,
        own,
        digests(layout, other)[1],
    )


def both_at_once(place, fake, two, gate):
    """Two imports, the second of which waits for the blob that the first is at."""
    fake.faults = {two[2]: gate}
    first = place.start_index(two[0], "one")
    assert gate.reached.wait(30)
    second = place.start_index(two[1], "two")
    wait_for(lambda: place.waits(second), what="the second import to wait")
    # It holds nothing that others could need, and goes on with the rest.
    wait_for(lambda: any(two[4] in r for r in fake.requests), what="the other layer")
    return first, second


def test_shared_layers_are_imported_once(place, fake, two):
    gate = Gate()
    first, second = both_at_once(place, fake, two, gate)
    gate.open.set()
    for process in (first, second):
        assert (process.wait(60), process.stderr.read()[-300:])[0] == 0
    assert sorted(r for r in fake.fetched() if r in two[2:]) == sorted(two[2:])
    one, other = place.json("images")
    assert (one["inodes"], other["inodes"]) == (5, 5)
    place.ok("fsck")
    assert not [f for f in place.files() if f.endswith(".lock") or "/new-" in f]


def test_the_first_of_two_is_killed(place, fake, two):
    gate = Gate()
    first, second = both_at_once(place, fake, two, gate)
    first.kill()
    first.wait()
    assert second.wait(60) == 0, second.stderr.read()
    gate.open.set()
    assert [i["name"] for i in place.json("images")] == ["two"]
    assert fake.fetched().count(two[2]) == 2
    place.ok("gc")
    kept = place.files()
    place.ok("rm", "two")
    place.ok("gc")
    assert kept and not place.files()


def test_the_first_of_two_fails(place, fake, two):
    gate = Gate(spoilt)
    first, second = both_at_once(place, fake, two, gate)
    gate.open.set()
    assert first.wait(60) == 1 and two[2].partition(":")[2][:12] in first.stderr.read()
    assert second.wait(60) == 0, second.stderr.read()
    assert [i["name"] for i in place.json("images")] == ["two"]
    # What the first had brought went with the end of the second, or with its own.
    kept = place.files()
    assert json.loads(place.ok("gc", "--json"))["bytes"] == 0
    assert place.files() == kept


def test_waiting_can_be_stopped(place, fake, two):
    gate = Gate()
    first, second = both_at_once(place, fake, two, gate)
    second.send_signal(signal.SIGINT)
    assert second.wait(10) == 130
    gate.open.set()
    assert first.wait(60) == 0, first.stderr.read()
    assert [i["name"] for i in place.json("images")] == ["one"]
    assert json.loads(place.ok("gc", "--json"))["bytes"] == 0


# -- failures ------------------------------------------------------------------------------


def test_failed_imports_leave_no_trace(place, layout):
    place.ok("index", layout.image(layers(1), "good"), "--name", "good")
    before = place.files()
    assert before
    reference = layout.image(layers(3), "bad")
    last = digests(layout, layout.manifests[-1])[-1]
    path = pathlib.Path(layout.path, "blobs", last.replace(":", "/"))
    path.write_bytes(spoilt(path.read_bytes()))
    done = place.run("index", reference, "--name", "bad")
    assert done.returncode == 1 and last.partition(":")[2][:12] in done.stderr
    assert place.files() == before
    path.write_bytes(spoilt(path.read_bytes()))
    place.ok("index", reference, "--name", "bad")
    assert before < place.files()


@pytest.mark.parametrize(
    "option, value, says",
    [
        ("max_image_layers", "1", "more than 1 layers"),
        ("max_image_entries", "3", "more than 3 entries"),
        ("max_image_size", "150000", "more than 150000 bytes"),
        ("max_image_names", "200", "more than 200 bytes of names"),
    ],
)
def test_limits(silo_bin, layout, option, value, says):
    place = Place(silo_bin, **{option: value})
    try:
        place.json("images")
        done = place.run("index", layout.image(layers(2)))
        assert done.returncode == 1, done.stdout
        assert says in done.stderr and f"[silo] {option}" in done.stderr
        assert not place.files()
    finally:
        place.close()


# -- what is known ----------------------------------------------------------------------------


def test_an_image_known_by_another_name(place, layout, fake):
    reference = fake.push("x:1", layout.manifest(layers(2)))
    one = json.loads(place.ok("index", PLAIN, reference, "--name", "one", "--json"))
    files = place.files()
    fake.fetched()
    other = json.loads(place.ok("index", PLAIN, reference, "--name", "other", "--json"))
    assert not one["known"] and other["known"]
    assert fake.fetched() == [] and place.files() == files
    assert other["meta"] == one["meta"] and other["layers"] == one["layers"]
    assert [i["name"] for i in place.json("images")] == ["one", "other"]
    place.ok("rm", "one")
    assert place.files() == files


def test_a_damaged_metadata_file(place, layout):
    reference = layout.image(layers(2))
    one = json.loads(place.ok("index", reference, "--json"))
    path = pathlib.Path(place.state, "images", one["meta"] + ".erofs")
    whole = path.read_bytes()
    for damage in (b"", whole[:4096], b"x" * len(whole)):
        path.unlink()
        path.write_bytes(damage)
        again = json.loads(place.ok("index", reference, "--json"))
        assert again["meta"] == one["meta"] and path.read_bytes() == whole
    path.unlink()
    place.ok("index", reference)
    assert path.read_bytes() == whole
