# SPDX-License-Identifier: Apache-2.0
"""Hostile and broken images: refused by layer and entry, nothing changed.

All of it goes against one state folder beside a running daemon, which must not notice.
"""

import contextlib
import json
import os
import sqlite3
import struct
import subprocess
import tarfile
import tempfile
import time
import zlib

import pytest
import registries
from instances import Instance, processes_of, wait_for
from layouts import OCI, TAR, Layout, gz, layer_tar, sha256

GZIP, ZSTD = TAR + "+gzip", TAR + "+zstd"
LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
FOLDERS = ("images", "layers", "objects", "tmp")
MAX_SIZE, MAX_ENTRIES, MAX_LAYERS = 64 << 20, 20000, 20
MAX_MEMORY = 512 << 20  # resident, with everything that sanitizers keep
MAX_CPU = 30  # seconds, with sanitizers
TIMEOUT = 3  # seconds, of [image.oci], for registries that hang


@pytest.fixture(scope="module")
def victim(silo_bin, base):
    """An instance with a daemon and low limits."""
    one = Instance(
        silo_bin,
        base(),
        max_image_size=MAX_SIZE,
        max_image_entries=MAX_ENTRIES,
        max_image_layers=MAX_LAYERS,
    )
    try:
        one.start()
        yield one
        one.check_works()
    finally:
        one.close()


def listing(state):
    """Every file, with what changes when somebody writes to it."""
    found = {}
    for folder in FOLDERS:
        for path, _, names in os.walk(os.path.join(state, folder)):
            for name in names:
                full = os.path.join(path, name)
                st = os.lstat(full)
                found[full] = (st.st_ino, st.st_size, st.st_mtime_ns, st.st_mode)
    found.pop(f"{state}/images/lock", None)
    return found


def records(state):
    """What storage has, read without silo."""
    with contextlib.closing(sqlite3.connect(f"{state}/silo.db")) as db:
        return db.execute("SELECT * FROM images").fetchall()


def refused(victim, reference, *says, more=()):
    """Index it: an error that says all of this, and nothing changed."""
    before = listing(victim.state), records(victim.state)
    with tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [victim.silo_bin, "index", "--name", "bad", *more, reference],
            env=victim.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        said = err.read()
    assert process.returncode == 1, said
    message = said.splitlines()[-1]
    assert message.startswith("silo: ") and "Sanitizer" not in said, said
    for text in says:
        assert text in message, message
    assert (listing(victim.state), records(victim.state)) == before
    assert usage.ru_maxrss << 10 < MAX_MEMORY
    assert usage.ru_utime + usage.ru_stime < MAX_CPU
    assert victim.daemon.poll() is None, "the daemon has died" + victim.tail()


# -- entries --------------------------------------------------------------------------------


def info(name, **fields):
    one = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(one, key, value)
    return one


ENTRIES = {
    "dotdot": (("../../etc/passwd", b"x"), '".."', "../../etc/passwd"),
    "dotdot inside": (("a/../../b", b"x"), '".."', "a/../../b"),
    "absolute dotdot": (("/../etc/passwd", b"x"), '".."', "/../etc/passwd"),
    "long name": (("x" * 300, b"x"), "255", "xxx"),
    "long path": (("/".join("p" * 3000), b"x"), "4095", "p/p"),
    "hard link out": (("h", HARD, "../../../etc/shadow"), '".."', "../../../etc/shadow"),
    "hard link to nothing": (("h", HARD, "missing"), "does not exist", "missing"),
    "hard link to itself": (("h", HARD, "h"), "h"),
    "hard link to a folder": (("h", HARD, "."), "h"),
    "long link": (("h", LINK, "y" * 5000), "4095", "h"),
    "whiteout of nothing": ((".wh.", b""), "hides nothing", ".wh."),
    "whiteout of dotdot": (("a/.wh...", b""), "hides nothing", "a/.wh..."),
    "device number": (
        info("dev", type=tarfile.CHRTYPE, devmajor=5000, devminor=1),
        "device 5000:1 is not possible",
        "dev",
    ),
    "file size": (info("big", size=1 << 50), "big"),
    "pax name with NUL": (info("x", pax_headers={"path": "a\0b"}), "NUL"),
}


@pytest.mark.parametrize("what", ENTRIES)
def test_entry(victim, tmp_path, what):
    entry, *says = ENTRIES[what]
    layout = Layout([layer_tar(("fine", b"1")), layer_tar(("good", b"1"), entry)])
    refused(victim, layout.write(tmp_path), "layer " + layout.names()[1], *says)


def test_links_are_not_followed(victim, tmp_path):
    """The classic: a symlink out of the tree, then a file through it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for link in (str(outside), "../../../../../.." + str(outside)):
        tar = layer_tar(("evil", LINK, link), ("evil/file", b"gotcha"))
        layout = Layout([tar])
        says = ("layer " + layout.names()[0], "evil")
        refused(victim, layout.write(tmp_path / "oci"), *says)
        assert list(outside.iterdir()) == []


def test_absolute_names_are_inside(victim, tmp_path):
    """As every other tool takes them."""
    outside = tmp_path / "file"
    layout = Layout([layer_tar((str(outside), b"x"), ("/top", b"y"))])
    victim.ok("index", layout.write(tmp_path / "oci"), "--name", "absolute")
    assert not outside.exists()
    victim.ok("rm", "absolute")


def test_devices_and_set_id(victim, tmp_path):
    """They are kept as entries, as podman shows them; where they are mounted they do nothing."""
    null = info("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
    sudo = info("sudo", mode=0o6755)
    with open("/usr/bin/id", "rb") as f:
        layout = Layout([layer_tar(null, (sudo, f.read()))])
    victim.ok("index", layout.write(tmp_path / "oci"), "--name", "devices")
    place = tmp_path / "mounted"
    place.mkdir()
    script = (
        f'"$0" mount devices {place} >/dev/null && cd {place} && stat -c %a:%t:%T null sudo && '
        'grep " $PWD " /proc/mounts && cat null; cd / && "$0" umount ' + str(place)
    )
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script, victim.silo_bin],
        env=victim.env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[:2] == ["666:1:3", "6755:0:0"]
    options = done.stdout.splitlines()[2].split()[3].split(",")
    assert {"nodev", "nosuid"} <= set(options)
    assert "ermission denied" in done.stderr
    victim.ok("rm", "devices")


# -- damage -----------------------------------------------------------------------------------


DAMAGE = ("missing", "short", "flipped", "longer", "no tar", "folder", "fifo")


@pytest.mark.parametrize("kind", [TAR, GZIP])
@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_blob(victim, tmp_path, how, kind):
    layer = os.urandom(30000) if how == "no tar" else layer_tar(("file", os.urandom(300000)))
    layout = Layout([layer if kind == TAR else gz(layer)], kind)
    reference = layout.write(tmp_path)
    digest = layout.names()[0]
    blob = tmp_path / "blobs/sha256" / layout.layers[0]["digest"][7:]
    data = bytearray(blob.read_bytes())
    if how in ("missing", "folder", "fifo"):
        blob.unlink()
    if how == "folder":
        blob.mkdir()
    elif how == "fifo":
        os.mkfifo(blob)
    elif how == "short":
        blob.write_bytes(data[:20000])
    elif how == "longer":
        blob.write_bytes(data + b"x")
    elif how == "flipped":
        data[len(data) // 2] ^= 1
        blob.write_bytes(data)
    refused(victim, reference, digest)


@pytest.mark.parametrize("kind", [TAR, GZIP, ZSTD])
def test_tar_cut_short(victim, tmp_path, kind):
    """With a digest that is right."""
    tar = layer_tar(("file", os.urandom(300000)))[:200000]
    layout = Layout([compress(tar, kind)], kind)
    refused(victim, layout.write(tmp_path), "layer " + layout.names()[0])


@pytest.mark.parametrize("kind", [GZIP, ZSTD])
def test_stream_cut_short(victim, tmp_path, kind):
    blob = compress(layer_tar(("file", os.urandom(300000))), kind)[:200000]
    layout = Layout([blob], kind)
    refused(victim, layout.write(tmp_path), "layer " + layout.names()[0])


def compress(data, kind):
    if kind == ZSTD:
        return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=-1, check=True).stdout
    return gz(data) if kind == GZIP else data


# -- bombs and limits ---------------------------------------------------------------------------


def header(name, size, type=tarfile.REGTYPE):
    return info(name, size=size, type=type).tobuf(tarfile.GNU_FORMAT)


def gzip_bomb(start, size, piece=bytes(16 << 20), end=b""):
    """start, so many bytes of repeated piece, end: the compressed piece is repeated."""
    out = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = out.compress(start) + out.flush(zlib.Z_FULL_FLUSH)
    out = zlib.compressobj(9, zlib.DEFLATED, -15)
    again = out.compress(piece) + out.flush(zlib.Z_FULL_FLUSH)
    out = zlib.compressobj(9, zlib.DEFLATED, -15)
    last = out.compress(end) + out.flush(zlib.Z_FINISH)
    n = size // len(piece)
    crc = zlib.crc32(start)
    if n < 64:  # else nobody gets as far
        for _ in range(n):
            crc = zlib.crc32(piece, crc)
        crc = zlib.crc32(end, crc)
    total = len(start) + n * len(piece) + len(end)
    head = b"\x1f\x8b\x08\0\0\0\0\0\0\x03"
    return head + first + again * n + last + struct.pack("<II", crc, total & 0xFFFFFFFF)


def zstd_bomb(start, size):
    """start, then zeros: four bytes for each 128 KiB."""

    def block(kind, length, last=0):
        return struct.pack("<I", last | kind << 1 | length << 3)[:3]

    raw, repeat = 0, 1
    zeros = (block(repeat, 128 << 10) + b"\0") * (size >> 17)
    return b"\x28\xb5\x2f\xfd\x00\x38" + block(raw, len(start)) + start + zeros + block(raw, 0, 1)


HUGE = 10 << 30


def long_name(size):
    """The header of GNU's long names, with a name of so many bytes to come."""
    return header("././@LongLink", size, tarfile.GNUTYPE_LONGNAME)


BOMBS = {
    "gzip": (GZIP, lambda: gzip_bomb(header("zeros", HUGE), HUGE), "zeros"),
    "zstd": (ZSTD, lambda: zstd_bomb(header("zeros", HUGE), HUGE), "zeros"),
    "many files": (
        GZIP,
        lambda: gzip_bomb(b"", 1 << 30, header("mib", 1 << 20) + bytes(1 << 20)),
        "mib",
    ),
    "sparse file": (
        TAR,
        lambda: layer_tar(
            info(
                "GNUSparseFile.0/hole",
                pax_headers={
                    "GNU.sparse.major": "0",
                    "GNU.sparse.minor": "1",
                    "GNU.sparse.name": "hole",
                    "GNU.sparse.size": str(HUGE),
                    "GNU.sparse.map": f"{HUGE},0",
                },
            )
        ),
        "hole",
    ),
    "pax header": (
        GZIP,
        lambda: gzip_bomb(header("pax", HUGE, tarfile.XHDTYPE), HUGE, b"9 path=x\n" * (1 << 20)),
        "",
    ),
    "long name": (GZIP, lambda: gzip_bomb(long_name(HUGE), HUGE, b"n" * (16 << 20)), ""),
    "long name, zstd": (ZSTD, lambda: zstd_bomb(long_name(HUGE), HUGE), ""),
    "entries": (
        GZIP,
        lambda: gzip_bomb(b"", 1000001 * 512, header("entry", 0) * 8192),
        f"{MAX_ENTRIES} entries",
    ),
}


@pytest.mark.parametrize("what", BOMBS)
def test_bomb(victim, tmp_path, what):
    kind, blob, says = BOMBS[what]
    layout = Layout([layer_tar(("fine", b"1"))])
    layout.layers.append(layout.add(blob(), kind))
    reference = layout.write(tmp_path)
    name = "" if what == "entries" else "layer " + layout.names()[1]
    refused(victim, reference, name, says)


@pytest.mark.parametrize("kind", [GZIP, ZSTD])
def test_zeros_after_the_end(victim, tmp_path, kind):
    """Padding, as tar writes it; but not ten gigabytes."""
    tar = layer_tar(("file", b"x"))

    def padded(size):
        return gzip_bomb(tar, size) if kind == GZIP else zstd_bomb(tar, size)

    good, bad = Layout([padded(32 << 20)], kind), Layout([padded(HUGE)], kind)
    image = json.loads(victim.ok("index", good.write(tmp_path), "--name", "padded", "--json"))
    assert image["inodes"] == 2
    victim.ok("rm", "padded")
    says = ("layer " + bad.names()[0], "belong to no file")
    refused(victim, bad.write(tmp_path), *says)


def test_too_many_layers(victim, tmp_path):
    layout = Layout([layer_tar((f"f{i}", b"1")) for i in range(MAX_LAYERS + 1)])
    refused(victim, layout.write(tmp_path), str(MAX_LAYERS), "layers")


def test_size_of_all_layers(victim, tmp_path):
    """The limit is of the image, not of each layer."""
    layers = [layer_tar((f"f{i}", bytes(MAX_SIZE // 3))) for i in range(4)]
    layout = Layout([gz(layer) for layer in layers], GZIP)
    refused(victim, layout.write(tmp_path), "64")


# -- documents ---------------------------------------------------------------------------------


def test_media_type(victim, tmp_path):
    kind = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
    layout = Layout([layer_tar(("a", b"1"))], kind)
    refused(victim, layout.write(tmp_path), kind, layout.names()[0])


def changed(**fields):
    """The manifest with other fields."""

    def change(layout):
        return json.dumps({**json.loads(layout.manifest()), **fields}).encode()

    return change


def changed_layer(**fields):
    def change(layout):
        layout.layers[0] = {**layout.layers[0], **fields}
        return layout.manifest()

    return change


MANIFESTS = {
    "no JSON": (lambda _: b"{", "JSON"),
    "no object": (lambda _: b"[]", "JSON"),
    "nested": (lambda _: b"[" * 100000, "JSON"),
    "schema 1": (changed(schemaVersion=1), "schema"),
    "no layers": (changed(layers=None), "layers"),
    "a layer that is none": (changed(layers=[1]), "layer 1"),
    "no digest": (changed_layer(digest=None), "layer 1", "digest"),
    "other digest": (changed_layer(digest="md5:00"), "layer 1", "md5:00"),
    "path as digest": (changed_layer(digest="sha256:../../../etc/passwd"), "layer 1", "digest"),
    "no size": (changed_layer(size=None), "size"),
    "negative size": (changed_layer(size=-5), "size"),
    "huge size": (changed_layer(size=1 << 60), "sha256:"),
    "wrong size": (changed_layer(size=5), "sha256:"),
    "large": (lambda layout: layout.manifest() + b" " * (5 << 20), "larger than"),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_manifest(victim, tmp_path, what):
    change, *says = MANIFESTS[what]
    layout = Layout([layer_tar(("a", b"1"))])
    refused(victim, layout.write(tmp_path, manifest=change(layout)), *says)


CONFIGS = {
    "no JSON": (b"{", "config"),
    "no object": (b"[]", "config"),
    "not UTF-8": (b'{"config": {"Env": ["\xff"]}}', "config"),
    "large": (b" " * (5 << 20) + b"{}", "config"),
    "nested": (b"[" * 100000, "config"),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_config(victim, tmp_path, what):
    layout = Layout([layer_tar(("a", b"1"))])
    layout.config, *says = CONFIGS[what]
    refused(victim, layout.write(tmp_path), *says)


def test_config_with_wrong_digest(victim, tmp_path):
    layout = Layout([layer_tar(("a", b"1"))])
    reference = layout.write(tmp_path)
    digest = sha256(layout.config_bytes())
    (tmp_path / "blobs/sha256" / digest).write_bytes(layout.config_bytes()[:-1] + b" ")
    refused(victim, reference, "config", digest[:12])


def test_indexes_in_indexes(victim, tmp_path):
    kind = OCI + "index.v1+json"
    layout = Layout([layer_tar(("a", b"1"))])
    inner = layout.add(layout.manifest(), OCI + "manifest.v1+json")
    for _ in range(20):
        text = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [inner]}).encode()
        inner = layout.add(text, kind)
    refused(victim, layout.write(tmp_path, manifest=text, top_type=kind), "index")


def test_layout_index(victim, tmp_path):
    reference = Layout([layer_tar(("a", b"1"))]).write(tmp_path)
    index = tmp_path / "index.json"
    for text, says in (
        ("{", "JSON"),
        ("[]", "JSON"),
        ('{"schemaVersion": 1}', "schema"),
        ('{"schemaVersion": 2, "manifests": []}', '"t"'),
        (" " * (5 << 20), "larger than"),
    ):
        index.write_text(text)
        refused(victim, reference, says)
    index.unlink()
    refused(victim, reference, "index.json")


# -- registries --------------------------------------------------------------------------------
# More of them, without a daemon, are in test_fetch.py.


@pytest.fixture
def layout(tmp_path):
    """An image whose layer is large enough to be cut in the middle."""
    one = Layout([gz(layer_tar(("file", os.urandom(3 << 20))))], GZIP)
    one.write(tmp_path)
    return one


@pytest.fixture
def fake(layout):
    one = registries.Misbehaving(layout)
    yield one
    one.close()


def from_registry(victim, layout, fake, where, fault, *says):
    """where: "manifest", "config" or "layer"; LAYER in `says`: its name."""
    reference = fake.push("x:t", layout.top)
    config = sha256(layout.config_bytes())
    part = {"manifest": "manifests", "config": config, "layer": layout.layers[0]["digest"]}[where]
    fake.faults = {part: fault}
    says = ["layer " + layout.names()[0] if text == "LAYER" else text for text in says]
    start = time.monotonic()
    refused(victim, reference, *says, more=["--tls-verify=false"])
    took = time.monotonic() - start
    assert fake.requests
    idle = {victim.daemon.pid}
    wait_for(lambda: processes_of(victim.folder).keys() == idle, 10, "skopeo to end")
    return took


REGISTRIES = {
    ("manifest", "redirects"): ("redirect",),
    ("manifest", "padded"): (str(4 << 20),),
    ("config", "status"): ("500",),
    ("config", "other_bytes"): ("sha256:",),
    ("config", "cut"): (),
    ("layer", "redirects"): ("LAYER", "redirect"),
    ("layer", "status"): ("LAYER", "500"),
    ("layer", "cut"): ("LAYER",),
    ("layer", "other_bytes"): ("LAYER", "corrupted blob"),
}


@pytest.mark.parametrize("where, fault", REGISTRIES)
def test_registry(victim, layout, fake, where, fault):
    how = registries.status(500) if fault == "status" else getattr(registries, fault)
    from_registry(victim, layout, fake, where, how, *REGISTRIES[where, fault])


def test_registry_gives_another_manifest(victim, layout, fake):
    """Than the digest that was asked for."""
    reference = fake.push("x:t", layout.top).removesuffix(":t") + "@" + layout.top["digest"]
    fake.faults = {"manifests": registries.padded_a_little}
    refused(victim, reference, "does not have this digest", more=["--tls-verify=false"])


@pytest.mark.parametrize("where", ["manifest", "config", "layer"])
def test_registry_hangs(victim, layout, fake, where):
    victim.sections["image.oci"] = {"timeout": f"{TIMEOUT}s"}
    victim.write()
    says = ["no answer in time"] + ["LAYER"] * (where == "layer")
    try:
        took = from_registry(victim, layout, fake, where, registries.never, *says)
    finally:
        del victim.sections["image.oci"]
        victim.write()
    assert took >= TIMEOUT


def test_nobody_listens(victim):
    refused(victim, "docker://127.0.0.1:1/x:t", "127.0.0.1:1")
