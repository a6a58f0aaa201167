# SPDX-License-Identifier: Apache-2.0
"""The store of images as a whole: what is removed, what stays because it is in use.

Real daemons, workers and mounts; objects are counted on the disk.
"""

import fcntl
import hashlib
import json
import os
import pathlib
import pty
import shutil
import signal
import sqlite3
import struct
import subprocess
import termios
import threading

import pytest
from instances import Instance, wait_for

PIN = "pin:1"


def silo_path(one, *names):
    return os.path.join(one.state, *names)


def objects(one):
    """Paths of all objects, by digest."""
    top = pathlib.Path(silo_path(one, "objects"))
    return {p.parent.name + p.name: p for p in top.glob("[0-9a-f][0-9a-f]/*")}


def metas(one):
    return {p.stem for p in pathlib.Path(silo_path(one, "images")).glob("*.erofs")}


def make_tree(folder, files):
    for name, data in files.items():
        path = pathlib.Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data)
    for path in [*pathlib.Path(folder).rglob("*"), pathlib.Path(folder)]:
        os.utime(path, (1, 1))
    return f"dir:{folder}"


def index(one, tree, name, files, fresh=True):
    """An image of a small tree; its record."""
    folder = os.path.join(one.folder, tree)
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    return json.loads(one.ok("index", make_tree(folder, files), "--name", name, "--json"))


@pytest.fixture
def store(silo_bin):
    """An Instance without images."""
    one = Instance(silo_bin)
    yield one
    one.close()


SLIM = ["bin", "lib", "lib64", "usr/bin/python3*", "usr/lib/python3.11", "usr/lib64"]
SLIM += ["usr/lib/*-linux-gnu*/*.so*"]


@pytest.fixture(scope="module")
def trees(tree, tmp_path_factory):
    """What Python needs, in two variants made of hard links: {1: folder, 2: folder}."""
    made = {}
    for number in (1, 2):
        made[number] = folder = tmp_path_factory.mktemp("variant") / "tree"
        for name in ("proc", "sys", "dev", "tmp", f"only/{number}"):
            os.makedirs(folder / name)
        paths = [str(p.relative_to(tree)) for g in SLIM for p in pathlib.Path(tree).glob(g)]
        subprocess.run(["cp", "-al", "--parents", *paths, folder], cwd=tree, check=True)
        (folder / "variant").write_text(f"variant {number}\n")
        (folder / "only" / str(number) / "file").write_text(f"only in {number}\n")
    return made


@pytest.fixture(scope="module")
def pythons(silo_bin, trees):
    """An Instance with both variants as images, PIN being the first; not to be changed."""
    one = Instance(silo_bin)
    one.ok("index", f"dir:{trees[1]}", "--name", PIN, timeout=300)
    one.ok("index", f"dir:{trees[2]}", "--name", "two:1", timeout=300)
    yield one
    one.close()


# -- what goes ------------------------------------------------------------------------


def test_nothing_to_collect(store):
    assert store.ok("gc") == "nothing to free\n"
    report = store.json("gc", "--dry-run")
    assert report.pop("dry_run") is True and set(report.values()) == {0}


def test_images_that_were_replaced(store):
    """Only what nobody needs any more goes, and dry runs change nothing."""
    index(store, "a", "a:1", {"x": "1", "y": "shared"})
    index(store, "b", "b:1", {"x": "2", "y": "shared"})
    old = store.json("images")
    index(store, "a", "a:1", {"x": "3", "y": "shared"})
    assert len(objects(store)) == 4 and len(metas(store)) == 3
    would = store.json("gc", "--dry-run")
    assert len(objects(store)) == 4 and len(metas(store)) == 3
    done = store.json("gc")
    assert would.pop("dry_run") and not done.pop("dry_run")
    assert would == done
    assert (done["objects"], done["object_bytes"], done["metadata_files"]) == (1, 1, 1)
    assert len(objects(store)) == 3
    assert metas(store) == {i["meta"] for i in store.json("images")}
    assert old[0]["meta"] not in metas(store)
    assert store.json("gc")["bytes"] == 0


def test_leftovers(store):
    """What killed imports leave, of every kind."""
    index(store, "a", "a:1", {"x": "1"})
    before = objects(store)
    stray = store.state + "/objects/ab/" + "cd" * 31
    os.makedirs(os.path.dirname(stray), exist_ok=True)
    os.makedirs(store.state + "/tmp/dead/inside", exist_ok=True)
    os.makedirs(store.state + "/layers", exist_ok=True)
    os.mkfifo(store.state + "/layers/" + "12" * 32 + ".lock")
    for path in (
        stray,
        store.state + "/images/new-0123",
        store.state + "/layers/" + "12" * 32,
        store.state + "/tmp/dead/inside/file",
    ):
        pathlib.Path(path).write_text("left")
    report = store.json("gc")
    assert (report["objects"], report["layer_records"], report["leftovers"]) == (
        1,
        1,
        2,
    )
    assert objects(store) == before
    assert os.listdir(store.state + "/tmp") == os.listdir(store.state + "/layers") == []
    assert sorted(os.listdir(store.state + "/images"))[1:] == ["lock"]


def test_import_under_way(store):
    """gc waits for it, with its objects not named by any record yet."""
    index(store, "a", "a:1", {"x": "1"})
    image = store.json("images")[0]
    fifo = os.path.join(store.folder, "fifo")
    os.mkfifo(fifo)
    holder = subprocess.Popen(
        ["flock", "-s", silo_path(store, "images", "lock"), "cat", fifo],
        stdout=subprocess.DEVNULL,
    )
    ours, theirs = pty.openpty()
    with open(fifo, "w"):  # opened by cat: the lock is held
        store.ok("images")
        running = subprocess.Popen(
            [store.silo_bin, "gc"],
            env=store.env,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
        )
        os.close(theirs)
        assert b"waiting for an import" in os.read(ours, 4096)
        wait_for(lambda: blocked(running.pid), 20, "gc to wait")
        assert running.poll() is None
        assert metas(store) == {image["meta"]}
    assert holder.wait(20) == 0
    out = running.communicate(timeout=60)[0]
    assert running.returncode == 0 and out == "nothing to free\n"
    os.close(ours)


def blocked(pid):
    """Lines of /proc/locks about locks that a process waits for."""
    lines = pathlib.Path("/proc/locks").read_text().splitlines()
    return "\n".join(x for x in lines if "->" in x and f" {pid} " in x)


def test_remove_reports(store):
    index(store, "a", "a:1", {"x": "1", "y": "shared"})
    index(store, "b", "b:1", {"x": "22", "y": "shared"})
    done = store.run("rm", "a:1", "missing", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1 and "image missing is not known here" in done.stderr
    assert report["removed"] == ["a:1"] and report["objects"] == 1
    assert store.ok("rm", "b:1").startswith("freed 4.")
    assert objects(store) == {} and metas(store) == set()
    assert store.run("rm").returncode == 2


def test_damaged_metadata_keeps_objects(store):
    """Without it nobody knows what the image needs: in doubt objects stay."""
    index(store, "a", "a:1", {"x": "1"})
    image = store.json("images")[0]
    index(store, "a", "b:1", {"x": "2"})
    path = silo_path(store, "images", image["meta"] + ".erofs")
    os.truncate(path, 1024)
    done = store.run("rm", "b:1")
    assert done.returncode == 1
    assert "removed, but not" in done.stderr and "fsck" in done.stderr
    assert image["meta"] in done.stderr and len(objects(store)) == 2
    store.ok("rm", "a:1")
    assert objects(store) == {} and metas(store) == set()


# -- what takes how much -------------------------------------------------------------------


def three_images(store):
    index(store, "a", "a:1", {"x": "1" * 1000, "y": "shared" * 1000, "empty": ""})
    index(store, "b", "b:1", {"x": "2" * 300, "y": "shared" * 1000})
    index(store, "b", "b:2", {}, fresh=False)


def test_images(store):
    """What an image has for itself is what its removal frees."""
    three_images(store)
    a, b, b2 = store.json("images")
    assert (a["size"], a["unique"], a["shared"], a["regular_files"]) == (7000, 1000, 6000, 3)
    assert (b["size"], b["unique"], b["shared"], b["regular_files"]) == (6300, 0, 6300, 2)
    assert (b2["unique"], b2["shared"]) == (0, 6300)
    assert not a["damaged"] and a["layers"] == []
    report = json.loads(store.ok("rm", "a:1", "--json"))
    assert report["object_bytes"] == a["unique"] and report["objects"] == a["unique_objects"]
    store.ok("rm", "b:2")
    (b,) = store.json("images")
    assert (b["unique"], b["shared"]) == (6300, 0)


def terminal(one, columns, *arguments):
    """What a terminal of so many columns shows."""
    pid, fd = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.execve(one.silo_bin, [one.silo_bin, *arguments], one.env)
    shown = b""
    try:
        while data := os.read(fd, 4096):
            shown += data
    except OSError:  # EIO: the terminal is closed
        pass
    os.close(fd)
    assert os.waitpid(pid, 0)[1] == 0, shown
    return shown.decode().splitlines()


def test_images_on_terminals(store):
    index(store, "a", "registry.example/some/longer/name:2026-11", {"x": "1"})
    for columns in (80, 100):
        lines = terminal(store, columns, "images")
        assert len(lines) == 2 and max(map(len, lines)) <= columns
        assert "SIZE" in lines[0] and "UNIQUE" in lines[0] and "SOURCE" not in lines[0]
    everything = ["DIGEST", "PYTHON", "SIZE", "UNIQUE", "SHARED", "FILES", "LAYERS"]
    for text in (terminal(store, 200, "images")[0], store.ok("images")):
        assert all(word in text for word in ["NAME", *everything, "INDEXED", "SOURCE"])


def test_du(store):
    three_images(store)
    store.ok("rm", "b:1")
    du = store.json("du")
    assert [(i["name"], i["unique"], i["shared"]) for i in du["images"]] == [
        ("a:1", 1000, 6000),
        ("b:2", 300, 6000),
    ]
    assert (du["objects"]["count"], du["objects"]["bytes"]) == (3, 7300)
    blocks = sum(p.stat().st_blocks for p in objects(store).values())
    assert du["objects"]["disk"] == 512 * blocks
    assert du["metadata_files"]["count"] == 2 and du["layer_records"]["count"] == 0
    # While it is open there are files beside it.
    assert du["database"] >= os.stat(silo_path(store, "silo.db")).st_size
    assert du["unreferenced"] == 0
    index(store, "b", "b:2", {"x": "3" * 10, "y": "shared" * 1000})
    would = store.json("gc", "--dry-run")["bytes"]
    assert store.json("du")["unreferenced"] == would > 300
    # One that is damaged is said to be, the others are counted.
    meta = store.json("images")[0]["meta"]
    os.truncate(silo_path(store, "images", meta + ".erofs"), 1024)
    du = store.json("du")
    assert [i["damaged"] for i in du["images"]] == [True, False]
    assert du["unreferenced"] is None and "fsck" in store.ok("du")


# -- what is damaged ------------------------------------------------------------------------


def push(registry, folder, name, *layers):
    """An image of so many layers, each {path: contents}, in the registry; its reference."""
    oci = pathlib.Path(folder, "oci")
    shutil.rmtree(oci, ignore_errors=True)

    def umoci(*arguments):
        subprocess.run(["umoci", *arguments], check=True, timeout=60)

    umoci("init", "--layout", oci)
    umoci("new", "--image", f"{oci}:t")
    for number, files in enumerate(layers):
        tree = pathlib.Path(folder, f"layer{number}")
        shutil.rmtree(tree, ignore_errors=True)
        make_tree(tree, files)
        (tree / "z").mkdir()  # umoci 0.4.7 does not pad the last file of a layer
        umoci("insert", "--image", f"{oci}:t", tree, "/srv")
    registry.push(f"oci:{oci}:t", name)
    return registry.reference(name)


BIG = "".join(f"{i}\n" for i in range(5000))
LAYERS = ({"a": BIG, "b": "two"}, {"c": "three", "sub/a": BIG, "d": "four"})
PLAIN = "--tls-verify=false"


@pytest.fixture
def app(store, registry):
    """An image app:1 from the registry, and two: from a folder that shares an object."""
    reference = push(registry, store.folder, "app:1", *LAYERS)
    store.ok("index", reference, PLAIN)
    index(store, "two", "two:1", {"e": BIG, "f": "six"})
    return store


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def flip(path):
    os.chmod(path, 0o644)
    with open(path, "r+b") as f:
        f.seek(os.path.getsize(path) // 2)
        byte = f.read(1)
        f.seek(-1, 1)
        f.write(bytes([byte[0] ^ 1]))
    os.chmod(path, 0o444)


def fsck(one, *arguments, status=0):
    done = one.run("fsck", "--json", PLAIN, *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def tree_of(one, image):
    """{path: contents} of all files of an image, as it is mounted."""
    place = os.path.join(one.folder, "look")
    os.makedirs(place, exist_ok=True)
    one.ok("mount", image, place)
    try:
        files = [p for p in pathlib.Path(place).rglob("*") if p.is_file()]
        return {str(p.relative_to(place)): p.read_text() for p in files}
    finally:
        one.ok("umount", place)


def test_all_is_well(app):
    report = fsck(app)
    assert report["flaws"] == report["unexpected"] == report["failures"] == []
    assert report["objects"] == len(objects(app)) == 5 and report["images"] == 2
    assert report["metadata_files"] == 2 and report["bad"] == 0
    assert app.ok("fsck", "--dry-run").endswith("of 2 images: all is well\n")


@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "longer"])
def test_damaged_object(app, how):
    """Named with the images and files that it hurts, and fetched again."""
    before = app.json("images")
    files = tree_of(app, "app:1")
    path = objects(app)[digest(BIG)]
    if how == "flipped":
        flip(path)
    elif how == "cut":
        os.truncate(path, 100)
    elif how == "gone":
        path.unlink()
    else:
        with open(path, "ab") as f:
            f.write(b"x")
    seen = fsck(app, "--dry-run", status=1)
    (flaw,) = seen["flaws"]
    assert flaw["kind"] == ("object missing" if how == "gone" else "object damaged")
    assert flaw["digest"] == digest(BIG) and not flaw["healed"] and seen["bad"] == 1
    hurt = {i["name"]: (sorted(i["paths"]), i["path_count"]) for i in flaw["images"]}
    assert hurt == {"app:1": (["/srv/a", "/srv/sub/a"], 2), "two:1": (["/e"], 1)}
    text = app.run("fsck", "--dry-run")
    assert text.returncode == 1 and "/srv/sub/a" in text.stdout and "1 bad" in text.stdout
    healed = fsck(app)
    assert [f["healed"] for f in healed["flaws"]] == [True] and healed["failures"] == []
    assert fsck(app)["flaws"] == [] and app.json("images") == before
    assert path.read_text() == BIG and path.stat().st_mode & 0o777 == 0o444
    assert tree_of(app, "app:1") == files


def test_damaged_object_of_no_image(app):
    """An object that no image has is removed, and nothing is fetched."""
    stray = app.state + "/objects/ab/" + "cd" * 31
    os.makedirs(os.path.dirname(stray), exist_ok=True)
    pathlib.Path(stray).write_text("not what it says")
    (flaw,) = fsck(app, "--dry-run", status=1)["flaws"]
    assert flaw["images"] == [] and os.path.exists(stray)
    assert fsck(app)["flaws"][0]["healed"] and not os.path.exists(stray)


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_damaged_metadata(app, how):
    image = next(i for i in app.json("images") if i["name"] == "app:1")
    files = tree_of(app, "app:1")
    path = silo_path(app, "images", image["meta"] + ".erofs")
    if how == "flipped":
        flip(path)
    elif how == "cut":
        os.truncate(path, 2000)
    else:
        os.unlink(path)
    (flaw,) = fsck(app, "--dry-run", status=1)["flaws"]
    assert flaw["kind"] == f"metadata file {'missing' if how == 'gone' else 'damaged'}"
    assert flaw["digest"] == image["meta"] and [i["name"] for i in flaw["images"]] == ["app:1"]
    assert fsck(app)["bad"] == 0
    assert fsck(app)["flaws"] == [] and tree_of(app, "app:1") == files
    assert app.json("gc")["objects"] == 0


def test_damaged_layer_record(app):
    """It hurts nobody: it goes, and the blob is fetched again by whoever wants it."""
    image = next(i for i in app.json("images") if i["name"] == "app:1")
    assert len(image["layers"]) == 2 and set(os.listdir(app.state + "/layers")) == set(
        image["layers"]
    )
    flip(silo_path(app, "layers", image["layers"][0]))
    (flaw,) = fsck(app, "--dry-run", status=1)["flaws"]
    assert (flaw["kind"], flaw["digest"]) == ("layer record damaged", image["layers"][0])
    assert fsck(app)["bad"] == 0
    assert os.listdir(app.state + "/layers") == image["layers"][1:]
    assert fsck(app)["flaws"] == []


def test_tag_that_moved(app, registry):
    """The contents are had by their digest; the tag's new ones are another image."""
    before = app.json("images")
    push(registry, app.folder, "app:1", {"new": "contents"})
    objects(app)[digest("three")].unlink()
    assert fsck(app)["bad"] == 0
    assert app.json("images") == before
    assert objects(app)[digest("three")].read_text() == "three"
    assert digest("contents") not in objects(app)


def test_source_that_is_gone(app, registry, tmp_path):
    """What it can, it says; what is lost is removed and stays named."""
    other = app.ok("index", push(registry, app.folder, "gone:1", {"g": "seven"}), PLAIN)
    assert other.startswith("gone:1")
    push(registry, app.folder, "gone:1", {"h": "eight"})
    shutil.rmtree(pathlib.Path(registry.folder, "data/docker/registry/v2/repositories/gone"))
    shutil.rmtree(os.path.join(app.folder, "two"))
    flip(objects(app)[digest("seven")])
    flip(objects(app)[digest("six")])
    report = fsck(app, status=1)
    assert report["bad"] == 2 and not any(f["healed"] for f in report["flaws"])
    assert [f["image"] for f in report["failures"]] == ["gone:1", "two:1"]
    assert "gone" in report["failures"][0]["message"]
    assert "two" in report["failures"][1]["message"]
    assert digest("seven") not in objects(app)
    again = fsck(app, "--dry-run", status=1)
    assert {f["kind"] for f in again["flaws"]} == {"object missing"}
    app.ok("rm", "gone:1", "two:1")
    assert fsck(app)["flaws"] == []


def test_folder_that_changed(app):
    """It would be another image: nothing of it is taken."""
    before = app.json("images")
    make_tree(os.path.join(app.folder, "two"), {"f": "new here"})
    objects(app)[digest("six")].unlink()
    report = fsck(app, status=1)
    assert "other contents now" in report["failures"][0]["message"]
    assert app.json("images") == before and digest("new here") not in objects(app)
    assert len(metas(app)) == 2
    make_tree(os.path.join(app.folder, "two"), {"f": "six"})
    assert fsck(app)["bad"] == 0 and fsck(app)["flaws"] == []


def test_unexpected_files(app):
    """Somebody has put them there: they are named, and stay."""
    strays = ["images/notes", "layers/x", "objects/ab/short"]
    os.makedirs(silo_path(app, "objects/ab"), exist_ok=True)
    for name in strays:
        pathlib.Path(silo_path(app, name)).write_text("mine")
    report = fsck(app)
    assert sorted(report["unexpected"]) == [silo_path(app, n) for n in strays]
    assert all(os.path.exists(silo_path(app, n)) for n in strays)


def test_paths_that_terminals_would_obey(store):
    tree = os.path.join(store.folder, "odd")
    os.makedirs(tree)
    for name in (b"new\nline", b"\xff\x1b[2J"):
        with open(os.path.join(tree.encode(), name), "w") as f:
            f.write("odd")
    store.ok("index", f"dir:{tree}", "--name", "odd:1")
    flip(objects(store)[digest("odd")])
    (flaw,) = fsck(store, "--dry-run", status=1)["flaws"]
    assert sorted(flaw["images"][0]["paths"]) == ["/\\377\\033[2J", "/new\\012line"]


def test_fsck_beside_a_worker(busy):
    """Healed while a worker has the image mounted, which sees the file again."""
    call = Waiting(busy)
    path = objects(busy)[digest("only in 1\n")]
    path.unlink()
    assert fsck(busy)["bad"] == 0
    assert call.end() == ONE


# -- what is in use -----------------------------------------------------------------------


@pytest.fixture
def busy(silo_bin, pythons):
    """A daemon with both variants."""
    one = Instance(silo_bin, pythons, scaledown_window="60s", max_workers=2)
    yield one.start()
    one.close()


def variant(wait=False):
    """What the image says of itself; the second file is first opened after the wait."""
    from pathlib import Path

    seen = [Path("/variant").read_text()]
    if wait:
        Path("/.silo/bridge/go").read_text()
    return seen + [path.read_text() for path in sorted(Path("/only").glob("*/file"))]


ONE, TWO = ([f"variant {n}\n", f"only in {n}\n"] for n in (1, 2))


class Waiting:
    """A call of `variant` that is in its container and waits."""

    def __init__(self, one, image=PIN):
        sock = next(pathlib.Path(one.state, "run").glob("**/bridge.sock"))
        self.fifo = sock.parent / "go"
        if not self.fifo.exists():
            os.mkfifo(self.fifo)
        self.result = None
        self.thread = threading.Thread(target=self.call, args=(one.function(variant, image),))
        self.thread.start()
        self.fd = wait_for(self.open, 60, "the call to wait" + one.tail())

    def call(self, function):
        try:
            self.result = function.remote(True)
        except Exception as e:
            self.result = e

    def open(self):
        try:
            return os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK) + 1
        except OSError:
            return 0

    def end(self):
        """Let it go on; what it returned."""
        os.close(self.fd - 1)
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.result


def test_remove_while_a_worker_runs(busy):
    busy.ok("rm", "two:1")
    call = Waiting(busy)
    assert "1 removed image is still in use" in busy.ok("rm", PIN)
    assert busy.json("images") == []
    report = busy.json("gc")
    assert report["in_use"] == 1 and report["bytes"] == 0
    assert call.end() == ONE
    # The worker is warm still, and the image in use.
    assert busy.json("gc")["in_use"] == 1
    with pytest.raises(Exception, match="not known here"):
        busy.function(variant, PIN).remote()
    busy.stop()
    report = busy.json("gc")
    assert report["in_use"] == 0 and report["metadata_files"] == 1
    assert objects(busy) == {} and metas(busy) == set()


def test_replaced_while_a_worker_runs(busy, trees):
    """A moved tag: the old worker keeps its tree, new calls get the new one."""
    busy.ok("rm", "two:1")
    call = Waiting(busy)
    busy.ok("index", f"dir:{trees[2]}", "--name", PIN, timeout=300)
    assert busy.json("gc")["in_use"] == 1
    assert busy.function(variant, PIN).remote() == TWO
    assert call.end() == ONE
    assert busy.function(variant, PIN).remote() == TWO
    busy.stop()
    report = busy.json("gc")
    assert (report["metadata_files"], report["in_use"]) == (1, 0)
    assert report["objects"] == 2  # all others are shared
    busy.start()
    assert busy.function(variant, PIN).remote() == TWO


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_replaced_while_a_call_is_queued(silo_bin, pythons, trees, change):
    """It was accepted with an image that is collected before it gets a worker."""
    one = Instance(silo_bin, pythons, max_workers=1)
    try:
        one.start()
        first = Waiting(one)
        results = []

        def call():
            try:
                results.append(one.function(variant, "two:1").remote())
            except Exception as e:
                results.append(str(e))

        second = threading.Thread(target=call)
        second.start()
        wait_for(
            lambda: one.json("status")["tasks"]["live"] == 2,
            20,
            "the call to be queued",
        )
        if change == "replaced":
            one.ok("index", f"dir:{trees[1]}", "--name", "two:1", timeout=300)
            one.ok("gc")
        else:
            one.ok("rm", "two:1")
        assert len(metas(one)) == 1
        assert first.end() == ONE
        second.join(60)
        assert not second.is_alive()
        if change == "replaced":
            assert results == [ONE]
        else:
            assert "image two:1 was removed while this waited" in results[0]
    finally:
        one.close()


def test_config_that_changed(busy):
    """The same tree with another config: calls do not go to workers with the old one."""

    def colour():
        import os

        return os.environ.get("COLOUR")

    assert busy.function(colour, PIN).remote() is None
    database = sqlite3.connect(silo_path(busy, "silo.db"), timeout=20)
    with database:
        database.execute('UPDATE images SET config = \'{"Env": ["COLOUR=blue"]}\'')
    database.close()
    assert busy.function(colour, PIN).remote() == "blue"


def test_killed_daemon(busy):
    """Its pins end with it, and with the containers that outlived it."""
    call = Waiting(busy)
    busy.ok("rm", PIN, "two:1")
    busy.kill()
    busy.start()  # removes what the one before has left
    assert isinstance(call.end(), Exception)
    wait_for(lambda: busy.json("gc")["in_use"] == 0, 20, "the pins to go")
    assert objects(busy) == {} and metas(busy) == set()


@pytest.mark.parametrize("rootfs", ["erofs", "fuse"])
def test_mounted(store, rootfs):
    image = index(store, "a", "a:1", {"x": "1", "y": "2"})
    place = os.path.join(store.folder, "mnt")
    os.mkdir(place)
    store.ok("mount", "a:1", place, "--rootfs", rootfs)
    try:
        assert "still in use" in store.ok("rm", "a:1")
        assert pathlib.Path(place, "x").read_text() == "1"
        # Again under another name: the file that is mounted is the one that stays.
        index(store, "a", "a:2", {}, fresh=False)
        store.ok("rm", "a:2")
        assert store.json("gc")["in_use"] == 1
        assert metas(store) == {image["meta"]} and len(objects(store)) == 2
        # Taken from its folder, but somebody is in it still.
        with open(os.path.join(place, "x")) as file:
            store.ok("umount", place)
            if rootfs == "erofs":
                assert store.json("gc")["in_use"] == 1
                assert file.read() == "1"
    finally:
        subprocess.run(["umount", "-l", place], stderr=subprocess.DEVNULL, check=False)
    wait_for(lambda: store.json("gc")["in_use"] == 0, 20, "the mount to end")
    assert objects(store) == {} and metas(store) == set()


def test_mounted_elsewhere(store):
    """In a mount namespace that cannot be seen from here, whose maker is gone."""
    index(store, "a", "a:1", {"x": "1"})
    place = os.path.join(store.folder, "mnt")
    os.mkdir(place)
    script = '"$1" mount a:1 "$2" --rootfs erofs && echo mounted && exec cat - "$2/x"'
    with subprocess.Popen(
        [
            "unshare",
            "-m",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "-",
            store.silo_bin,
            place,
        ],
        env=store.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as inside:
        assert "mounted" in inside.stdout.readline() + inside.stdout.readline()
        store.ok("rm", "a:1")
        assert store.json("gc")["in_use"] == 1
        inside.stdin.close()
        assert inside.stdout.read().endswith("1")
    wait_for(lambda: store.json("gc")["in_use"] == 0, 20, "the mount namespace to end")
    assert objects(store) == {}


@pytest.mark.parametrize("rootfs", ["erofs", "fuse"])
def test_killed_while_mounted(store, rootfs):
    """Whoever serves the mount is killed: a dead FUSE mount needs nothing, EROFS goes on."""
    index(store, "a", "a:1", {"x": "1"})
    place = os.path.join(store.folder, "mnt")
    os.mkdir(place)
    store.ok("mount", "a:1", place, "--rootfs", rootfs)
    try:
        for pid in store.live():
            os.kill(pid, signal.SIGKILL)
        store.ok("rm", "a:1")
        if rootfs == "erofs":
            assert store.json("gc")["in_use"] == 1
            assert pathlib.Path(place, "x").read_text() == "1"
        else:
            wait_for(lambda: store.json("gc")["in_use"] == 0, 20, "the server to end")
            assert objects(store) == {}
    finally:
        store.ok("umount", place)
    assert store.json("gc")["in_use"] == 0 and objects(store) == {}
