# SPDX-License-Identifier: Apache-2.0
"""Images from where skopeo gets them: registries good and bad, archives, podman's store."""

import base64
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import threading
import time
import uuid

import pytest
import registries
from instances import Instance, Registry, socket_on_loopback, wait_for
from nasty import Layout, file, folder, hard, symlink, tar

PLAIN = "--tls-verify=false"
USER, PASSWORD = "ali", "open sesame"
HTPASSWD = "ali:$2b$04$pPTks7CI/dF.0Eims1DNguoeU9/PWHw4fw94pXLA5TrA3w6R3.ggi\n"


class Silo(Instance):
    """An Instance without images, whose processes can be told from all others."""

    def __init__(self, silo_bin):
        super().__init__(silo_bin)
        self.mark = f"SILO_TEST_MARK={uuid.uuid4()}"
        self.more = {}

    @property
    def env(self):
        name, value = self.mark.split("=")
        return {**super().env, name: value, **self.more}

    def oci(self, **keys):
        self.sections["image.oci"] = keys
        self.write()

    def processes(self):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as f:
                    if self.mark.encode() in f.read().split(b"\0"):
                        found.append(int(pid))
            except OSError:
                continue
        return found

    def traces(self):
        """What an import that fails must not leave."""
        seen = {}
        for name in ("images", "tmp", "objects/staging"):
            path = f"{self.state}/{name}"
            seen[name] = sorted(os.listdir(path)) if os.path.exists(path) else []
        return {**seen, "records": self.json("images")}

    def index(self, reference, *more):
        return json.loads(self.ok("index", reference, *more, "--json"))

    def refused(self, reference, *says, more=(PLAIN,), seconds=60):
        before = self.traces()
        begin = time.monotonic()
        done = self.run("index", reference, "--name", "bad:1", *more)
        took = time.monotonic() - begin
        assert done.returncode in (1, 2), done.stdout + done.stderr
        for text in says:
            assert text in done.stderr, done.stderr
        assert took < seconds
        assert self.processes() == []
        after = self.traces()
        after["images"] = sorted(set(after["images"]) - {"lock"})
        before["images"] = sorted(set(before["images"]) - {"lock"})
        assert after == before
        return done.stderr


@pytest.fixture
def silo(silo_bin):
    one = Silo(silo_bin)
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


def layers(count, size=3000):
    """Archives that share nothing."""
    return [tar(file(b"f%d" % i, os.urandom(size)), folder(b"d%d" % i)) for i in range(count)]


# -- what is fetched ---------------------------------------------------------------


def test_known_layers_are_not_fetched(silo, layout, tmp_path):
    """Counted by what docker-registry logs."""
    base = layers(3)
    first = layout.image(base, "one", how="gzip")
    second = layout.image([*base, *layers(1)], "two", how="gzip")
    (tmp_path / "registry").mkdir()
    registry = Registry(str(tmp_path / "registry"), access_log=True)
    try:
        registry.push(first, "x:1")
        registry.push(second, "x:2")
        registry.requests()
        silo.index(registry.reference("x:1"), PLAIN)
        asked = registry.requests()
        assert len([r for r in asked if "/blobs/" in r]) == 4  # config and layers
        silo.index(registry.reference("x:2"), PLAIN)
        asked = [r for r in registry.requests() if "/blobs/" in r]
        assert len(asked) == 2, asked
        assert silo.index(registry.reference("x:2"), PLAIN)["known"]
        asked = registry.requests()
        assert len([r for r in asked if "/manifests/" in r]) == 1, asked
        assert not [r for r in asked if "/blobs/" in r]
    finally:
        registry.close()


def test_layers_are_fetched_side_by_side(silo, layout, fake):
    """Three must be on their way at once, or none arrives."""
    reference = fake.push("x:1", layout.manifest(layers(3)))
    barrier = threading.Barrier(3)
    manifest = json.loads(open_blob(layout, fake.tags["1"][0]))

    def together(_registry, handler, body):
        barrier.wait(30)
        handler.send(body)

    fake.faults = {layer["digest"]: together for layer in manifest["layers"]}
    assert silo.index(reference, PLAIN)["inodes"] == 7


def test_a_layer_twice_and_none_at_all(silo, layout, fake):
    twice, other = layers(2)
    reference = fake.push("x:1", layout.manifest([twice, other, twice]))
    assert silo.index(reference, PLAIN)["inodes"] == 5
    asked = fake.fetched()
    assert len(asked) == 3 and len(set(asked)) == 3, asked  # with the config
    assert silo.index(fake.push("none:1", layout.manifest([])), PLAIN)["inodes"] == 1


class Holding:
    """A fault: who asks for the blob waits until it is let go."""

    def __init__(self):
        self.asked = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, registry, handler, body):
        self.asked.release()
        while not self.go.wait(0.1):
            if registry.over.is_set():
                return
        handler.send(body)


def start(silo, reference, name):
    return subprocess.Popen(
        [silo.silo_bin, "index", PLAIN, reference, "--name", name],
        env=silo.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("how", ["both", "first is killed", "second is stopped"])
def test_two_at_once(silo, layout, fake, how):
    """The second waits for the first, and does what is left to be done."""
    descriptor = layout.manifest(layers(1, 100000))
    reference = fake.push("x:1", descriptor)
    layer = json.loads(open_blob(layout, descriptor))["layers"][0]["digest"]
    holding = Holding()
    fake.faults = {layer: holding}
    first = start(silo, reference, "first:1")
    assert holding.asked.acquire(timeout=30)
    fake.requests.clear()
    second = start(silo, reference, "second:1")
    # It has the manifest and the config, what comes next is the layer.
    wait_for(lambda: [r for r in fake.requests if "/blobs/" in r], 30, "the second")
    if how == "first is killed":
        first.kill()
        assert holding.asked.acquire(timeout=30), "the second takes over"
    elif how == "second is stopped":
        second.send_signal(signal.SIGINT)
        assert second.wait(30) == 130
    holding.go.set()
    said = [process.communicate(timeout=60) for process in (first, second)]
    assert first.returncode == (-signal.SIGKILL if how == "first is killed" else 0), said
    assert second.returncode == (130 if how == "second is stopped" else 0), said
    assert not holding.asked.acquire(blocking=False), "fetched once"
    names = {i["name"] for i in silo.json("images")}
    assert (
        names
        == {
            "both": {"first:1", "second:1"},
            "first is killed": {"second:1"},
            "second is stopped": {"first:1"},
        }[how]
    )
    wait_for(lambda: silo.processes() == [], 10, "skopeo's end")


def test_one_connection(silo, layout, fake):
    silo.oci(connections=1)
    busy = threading.Lock()

    def alone(_registry, handler, body):
        assert busy.acquire(blocking=False)
        handler.send(body[:1], length=len(body))
        handler.wfile.write(body[1:])
        busy.release()

    reference = fake.push("x:1", layout.manifest(layers(4)))
    fake.faults = {"/blobs/": alone}
    assert silo.index(reference, PLAIN)["inodes"] == 9


def open_blob(layout, descriptor):
    with open(f"{layout.path}/blobs/{descriptor['digest'].replace(':', '/')}", "rb") as f:
        return f.read()


def test_a_tag_that_moves(silo, layout, fake):
    """What identify has seen is imported, not what the tag names a moment later."""
    one, two = (layout.manifest(layers(1)) for _ in range(2))
    reference = fake.push("x:1", one)
    fake.tags["1"] = [one, two]
    image = silo.index(reference, PLAIN)
    assert image["source_id"] == one["digest"]
    wanted = json.loads(open_blob(layout, one))["layers"][0]["digest"]
    assert wanted in fake.fetched()
    again = silo.index(reference, PLAIN)
    assert not again["known"] and again["source_id"] == two["digest"]
    assert again["meta"] != image["meta"]


def test_references(silo, layout, fake):
    one = layout.manifest(layers(1))
    meta = silo.index(fake.push("a/b/x:1", one), PLAIN, "--name", "same:1")["meta"]
    host = fake.reference("").removeprefix("docker://").rstrip("/")
    for reference in (
        f"{host}/a/b/x:1",
        f"docker://{host}/a/b/x@{one['digest']}",
        f"docker://{host}/a/b/x:1@{one['digest']}",
        f"{host}/a/b/x:9@{one['digest']}",
    ):
        silo.ok("rm", "same:1")
        image = silo.index(reference, PLAIN, "--name", "same:1")
        assert image["meta"] == meta and not image["known"]
    for reference in ("oci:", "oci-archive:", "docker-archive:"):
        silo.refused(reference, "absolute path", more=())
    silo.refused(f"{host}/a/b/x@sha256:12", "name@sha256:")
    silo.refused(f"{host}/a/b/x@sha256:{'0' * 64}", "manifest unknown")


def test_platforms(silo, layout, fake):
    found = {}
    for arch in ("amd64", "arm64"):
        one = layout.manifest(layers(1), architecture=arch)
        found[arch] = {**one, "platform": {"os": "linux", "architecture": arch}}
    found["arm64"]["platform"]["variant"] = "v8"
    attest = layout.manifest(layers(1), architecture="amd64")
    attest["platform"] = {"os": "unknown", "architecture": "unknown"}
    kind = "application/vnd.oci.image.index.v1+json"
    document = {
        "schemaVersion": 2,
        "mediaType": kind,
        "manifests": [*found.values(), attest],
    }
    index = layout.blob(json.dumps(document).encode(), kind)
    for reference in (fake.push("x:1", index), layout.tag(index, "t")):
        images = {}
        for arch, one in found.items():
            platform = ("--platform", f"linux/{arch}", "--name", f"{arch}:1")
            images[arch] = silo.index(reference, PLAIN, *platform)
            wanted = json.loads(open_blob(layout, one))["layers"][0]["digest"]
            if reference.startswith("docker:"):
                assert images[arch]["source_id"] == f"{index['digest']}+linux/{arch}"
                assert wanted in fake.fetched()
        assert images["amd64"]["meta"] != images["arm64"]["meta"]
        here = silo.index(reference, PLAIN)
        assert here["meta"] in (images["amd64"]["meta"], images["arm64"]["meta"])
        if reference.startswith("docker:"):
            fake.faults = {f"manifests/{found['arm64']['digest']}": registries.longer}
            other = (PLAIN, "--platform", "linux/arm64")
            silo.ok("rm", "arm64:1")
            silo.refused(reference, "x:1", "digest", more=other)
            fake.faults = {}
        other = (PLAIN, "--platform", "linux/s390x")
        said = silo.refused(reference, "no image for linux/s390x", "linux/amd64", more=other)
        assert "linux/arm64/v8" in said and "unknown" not in said


# -- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    "where, fault, says",
    [
        ("/v2/", "status 500", ["500"]),
        ("manifests", "status 500", ["500"]),
        ("manifests", "garbage", ["x:1"]),
        ("manifests", "cut", ["EOF"]),
        ("blobs", "status 500", ["500"]),
        ("blobs", "garbage", ["layer sha256:", "bytes"]),
        ("blobs", "cut", ["layer sha256:", "EOF"]),
        ("blobs", "other bytes", ["layer sha256:", "corrupted blob"]),
        ("blobs", "endless", ["layer sha256:", "more than its"]),
        ("blobs", "status 404", ["layer sha256:", "404"]),
        ("manifests", "status 404", ["x:1"]),
        ("manifests/sha256:", "longer", ["x:1", "digest"]),
        ("manifests", "never", ["no answer for 1 s"]),
        ("blobs", "never", ["layer sha256:", "no answer for 1 s"]),
        ("blobs", "hang", ["layer sha256:", "no answer for 1 s"]),
    ],
)
def test_bad_registries(silo, layout, fake, where, fault, says):
    silo.oci(stall="1s")
    reference = fake.push("x:1", layout.manifest(layers(2, 400000), how="gzip"))
    number = fault.partition(" ")[2]
    how = registries.status(int(number)) if number.isdigit() else None
    how = how or getattr(registries, fault.replace(" ", "_"))
    if where == "blobs":  # not the config
        manifest = json.loads(open_blob(layout, fake.tags["1"][0]))
        where = manifest["layers"][1]["digest"]
    fake.faults = {where: how}
    silo.refused(reference, *says, seconds=20)
    fake.faults = {}
    assert silo.index(reference, PLAIN)["inodes"] == 5, "the next time it works"


def test_one_bad_layer_ends_the_others(silo, layout, fake):
    """One does not exist, the other ones hang for as long as the test would wait."""
    reference = fake.push("x:1", layout.manifest(layers(3, 100000)))
    manifest = json.loads(open_blob(layout, fake.tags["1"][0]))
    digests = [layer["digest"] for layer in manifest["layers"]]

    def after(registry, handler, _body):
        assert registry.reached.wait(30)
        handler.send(b"gone", 410)

    fake.faults = {
        digests[0]: registries.hang,
        digests[1]: registries.hang,
        digests[2]: after,
    }
    silo.refused(reference, f"layer {digests[2][:19]}", "410", seconds=30)


def test_a_bad_tar_ends_its_fetch(silo, layout, fake):
    """No need to wait for the rest of a layer that has a bad entry."""
    bad = tar(file(b"../out", b"x"), file(b"big", os.urandom(1 << 20)))
    reference = fake.push("x:1", layout.manifest([bad]))
    manifest = json.loads(open_blob(layout, fake.tags["1"][0]))
    fake.faults = {manifest["layers"][0]["digest"]: registries.hang}
    silo.refused(reference, '".."', seconds=30)


def test_wrong_descriptors(silo, layout, fake):
    one = json.loads(open_blob(layout, layout.manifest(layers(2))))

    def refused(change, *says):
        document = json.loads(json.dumps(one))
        change(document)
        descriptor = layout.blob(json.dumps(document).encode(), document["mediaType"])
        silo.refused(fake.push("x:1", descriptor), *says)
        silo.refused(layout.tag(descriptor, f"t{len(layout.manifests)}"), *says)

    second = one["layers"][1]
    name = "layer " + second["digest"][:19]
    digest = "sha256:" + "0" * 64
    helm = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
    refused(lambda d: d["layers"][1].update(size=second["size"] + 1), name.partition(" ")[2])
    refused(lambda d: d["layers"][1].update(size=second["size"] - 1), name.partition(" ")[2])
    refused(lambda d: d["layers"][1].update(size=-7), "layer 2", "size")
    refused(lambda d: d["layers"][1].update(digest=digest), "sha256:000000000000")
    refused(lambda d: d["layers"][1].update(digest="md5:1"), "layer 2", "md5:1")
    refused(lambda d: d["layers"][1].update(mediaType=helm), name, helm)
    refused(lambda d: d.update(layers=[second] * 501), "501", "500")


def test_large_manifests(silo, layout, fake):
    def padded(size):
        document = json.loads(open_blob(layout, layout.manifest(layers(1))))
        document["annotations"] = {"x": "y" * size}
        return layout.blob(json.dumps(document).encode(), document["mediaType"])

    silo.index(fake.push("x:1", padded(1 << 20)), PLAIN)
    silo.refused(fake.push("x:1", padded(5 << 20)), "4194304")
    silo.refused(layout.tag(padded(5 << 20), "large"), "larger than 4194304")
    silo.oci(max_manifest="8M")
    silo.index(f"oci:{layout.path}:large")
    silo.oci(max_manifest="64K")
    silo.refused(fake.push("x:1", padded(1 << 20)), "larger than 65536")


def test_the_whole_takes_too_long(silo, layout, fake):
    """Bytes arrive, but slowly: the one limit is not the other."""
    silo.oci(stall="20s", timeout="2s")

    def trickle(registry, handler, body):
        handler.send(b"", length=len(body))
        for byte in body:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if registry.over.wait(0.01):
                return

    reference = fake.push("x:1", layout.manifest(layers(1, 100000)))
    manifest = json.loads(open_blob(layout, fake.tags["1"][0]))
    fake.faults = {manifest["layers"][0]["digest"]: trickle}
    silo.refused(reference, "no answer in time", seconds=15)


def test_skopeo_that_is_none(silo, tmp_path, layout, fake):
    reference = fake.push("x:1", layout.manifest(layers(1)))
    for text, says in (
        ("#!/bin/sh\nexit 0\n", "empty manifest"),
        ("#!/bin/sh\necho 'broken thing' >&2\nexit 3\n", "broken thing"),
        (
            '#!/bin/sh\ncase "$*" in *proxy*) echo "unknown command" >&2; exit 1;; esac\n'
            'exec skopeo "$@"\n',
            "1.9 or newer",
        ),
        (
            '#!/bin/sh\ncase "$*" in *proxy*) kill -9 $$;; esac\nexec skopeo "$@"\n',
            "ended",
        ),
    ):
        program = tmp_path / "skopeo"
        program.write_text(text)
        program.chmod(0o755)
        silo.oci(skopeo=program)
        silo.refused(reference, says)
    silo.oci(skopeo="/nowhere/skopeo")
    silo.refused(reference, "/nowhere/skopeo", "installed")


# -- giving up ----------------------------------------------------------------------


@pytest.mark.parametrize("where", ["manifests", "layers"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_while_the_registry_hangs(silo, layout, fake, where, how):
    reference = fake.push("x:1", layout.manifest(layers(3, 100000)))
    manifest = json.loads(open_blob(layout, fake.tags["1"][0]))
    if where == "layers":
        fake.faults = {layer["digest"]: registries.hang for layer in manifest["layers"]}
    else:
        fake.faults = {where: registries.never}
    silo.json("images")
    process = start(silo, reference, "x:1")
    assert fake.reached.wait(30)
    assert len(silo.processes()) >= 2
    begin = time.monotonic()
    process.send_signal(how)
    _, said = process.communicate(timeout=30)
    if how == signal.SIGINT:
        assert process.returncode == 130 and "nothing was changed" in said
        assert time.monotonic() - begin < 10
        assert silo.processes() == []
    else:
        wait_for(lambda: silo.processes() == [], 10, "skopeo's end")
    assert silo.json("images") == []
    fake.faults = {}
    assert silo.index(reference, PLAIN)["inodes"] == 7


# -- logins -------------------------------------------------------------------------


def test_logins(silo, layout, tmp_path):
    """Where skopeo looks for them."""
    (tmp_path / "registry").mkdir()
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    registry = Registry(str(tmp_path / "registry"), htpasswd=tmp_path / "htpasswd")
    host = f"127.0.0.1:{registry.port}"
    source = layout.image(layers(2))
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    good = json.dumps({"auths": {host: {"auth": auth}}})
    wrong = json.dumps({"auths": {host: {"auth": base64.b64encode(b"ali:baba").decode()}}})
    folder = tmp_path / "run" / "containers"
    folder.mkdir(parents=True)
    try:
        registry.push(source, "x:1", "--dest-creds", f"{USER}:{PASSWORD}")
        silo.more = {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}
        silo.refused(registry.reference("x:1"), "x:1", "skopeo login")
        (tmp_path / "auth.json").write_text(wrong)
        silo.refused(registry.reference("x:1"), "x:1", "skopeo login")
        (tmp_path / "auth.json").write_text(good)
        image = silo.index(registry.reference("x:1"), PLAIN)
        silo.ok("rm", image["name"])
        silo.more = {"XDG_RUNTIME_DIR": str(tmp_path / "run")}
        silo.refused(registry.reference("x:1"), "skopeo login")
        (folder / "auth.json").write_text(good)
        assert silo.index(registry.reference("x:1"), PLAIN)["meta"] == image["meta"]
    finally:
        registry.close()


# -- not registries -------------------------------------------------------------------


def skopeo_copy(source, target):
    subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", source, target], check=True)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_while_an_archive_is_read(silo, tmp_path, how):
    """What skopeo has unpacked goes, at the latest with the next start."""
    os.mkfifo(tmp_path / "x.tar")
    silo.json("images")
    process = subprocess.Popen(
        [silo.silo_bin, "index", f"oci-archive:{tmp_path}/x.tar"],
        env=silo.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with open(tmp_path / "x.tar", "wb") as fifo:  # skopeo has opened it
        fifo.write(tar(file(b"oci-layout", b"{}"))[:-1024])
        fifo.flush()
        wait_for(lambda: list(pathlib.Path(silo.state, "tmp").glob("*/*/oci-layout")))
        process.send_signal(how)
        process.wait(30)
        wait_for(lambda: silo.processes() == [], 10, "skopeo's end")
    if how == signal.SIGKILL:
        assert os.listdir(f"{silo.state}/tmp") != []
    else:
        assert process.returncode == 130
        assert os.listdir(f"{silo.state}/tmp") == []
    assert silo.json("images") == []
    assert os.listdir(f"{silo.state}/tmp") == []


def test_archives(silo, layout, tmp_path):
    source = layout.image(layers(3), how="gzip", config={"Env": ["A=b"], "WorkingDir": "/w"})
    want = silo.index(source, "--name", "layout:1")
    archives = {
        f"oci-archive:{tmp_path}/o.tar:t": [f"oci-archive:{tmp_path}/o.tar"],
        f"docker-archive:{tmp_path}/d.tar:x/y:1": [
            f"docker-archive:{tmp_path}/d.tar",
            f"docker-archive:{tmp_path}/d.tar:@0",
        ],
    }
    for target, shorter in archives.items():
        skopeo_copy(source, target)
        for reference in (target, *shorter):
            image = silo.index(reference, "--name", "archive:1")
            assert (image["meta"], image["source_id"]) == (want["meta"], "")
            assert os.listdir(f"{silo.state}/tmp") == []
    silo.refused(f"docker-archive:{tmp_path}/d.tar:x/y:2", "x/y:2")
    silo.refused(f"oci-archive:{tmp_path}/o.tar:u", '"u"')
    silo.refused(f"oci-archive:{tmp_path}/no.tar", "no such file")
    silo.refused(f"docker-archive:{tmp_path}/no.tar", "no such file")
    with open(f"{tmp_path}/d.tar", "r+b") as f:
        f.truncate(5000)
    silo.refused(f"docker-archive:{tmp_path}/d.tar", "d.tar")
    (tmp_path / "junk.tar").write_bytes(os.urandom(100000))
    silo.refused(f"docker-archive:{tmp_path}/junk.tar", "junk.tar")
    silo.refused(f"oci-archive:{tmp_path}/junk.tar", "junk.tar")


@pytest.fixture
def store(tmp_path):
    """containers/storage of its own; skopeo and podman leave a mount on it, always."""
    yield f"[overlay@{tmp_path}/root+{tmp_path}/runroot]"
    subprocess.run(["umount", f"{tmp_path}/root/overlay"], check=True)


def test_podman_s_store(silo, layout, store):
    """Layers are there as trees; they must come back as the digests that the config has."""
    low = tar(
        folder(b"d"),
        file(b"d/a", b"a" * 10000),
        symlink(b"l", b"d/a"),
        hard(b"h", b"d/a"),
    )
    source = layout.image([low, *layers(2), tar(file(b"d/.wh.a"))], how="gzip")
    want = silo.index(source, "--name", "layout:1")
    reference = f"containers-storage:{store}localhost/mine:1"
    skopeo_copy(source, reference)
    silo.ok("rm", "layout:1")  # the same manifest, so it would be known
    image = silo.index(reference)
    assert image["meta"] == want["meta"] and not image["known"]
    assert image["name"] == "mine:1"
    digest = hashlib.sha256(open_blob(layout, layout.manifests[0])).hexdigest()
    assert image["source_id"] == f"sha256:{digest}"
    assert silo.index(reference)["known"]
    assert os.listdir(f"{silo.state}/tmp") == []
    silo.refused(f"containers-storage:{store}localhost/mine:2", "mine:2")


def test_layouts_need_no_skopeo(silo, layout):
    silo.oci(skopeo="/nowhere/skopeo")
    reference = layout.image(layers(1), "docker.io/library/x:1")
    assert silo.index(reference, "--name", "x:1")["inodes"] == 3
    assert silo.index(f"oci:{layout.path}", "--name", "x:2")["inodes"] == 3


def test_nobody_listens(silo):
    with socket_on_loopback() as s:
        port = s.getsockname()[1]
    silo.refused(f"docker://127.0.0.1:{port}/x:1", "refused")
    silo.refused("docker://no-such-host.invalid/x:1", "no-such-host.invalid", more=())
