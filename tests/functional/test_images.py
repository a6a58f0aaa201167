# SPDX-License-Identifier: Apache-2.0
"""silo index, images and rm: what they make is mounted by the kernel and compared.

A tree with everything that goes wrong in archives is indexed from a folder and from
OCI layers, then mounted as docs/formats/metadata.md says and compared with its source,
entry by entry.  Registries are docker-registry on loopback.
"""

import hashlib
import io
import json
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import time

import pytest

SILO = os.environ.get("SILO", "silo")
LONGEST = "n" * 255


# -- a nasty tree ------------------------------------------------------------------


def acl(*entries):
    """A POSIX ACL as the kernel wants it: (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


ANY = 0xFFFFFFFF
ODD_NAMES = [
    b" sp ",
    b"new\nline",
    b"\xff\xfe",
    "e\u0301".encode(),  # the same letter in two encodings: two files
    "\u00e9".encode(),
    b"!first",
    b"-dash",
    LONGEST.encode(),
    b"..x",
    b'a"b\\c',
    b"~",
]


def make_tree(root, devices=True):
    os.mkdir(root)
    os.chmod(root, 0o751)

    def at(name):
        return os.path.join(root, name)

    def write(name, data=b"x", mode=0o644):
        with open(at(name), "wb") as f:
            f.write(data)
        os.chmod(at(name), mode)

    os.makedirs(at("d/e/f"))
    os.chmod(at("d"), 0o1777)
    write("empty", b"")
    write("one", b"1", 0o600)
    write("big", bytes(range(256)) * 20000)
    write("suid", b"#!", 0o6755)
    write("block", b"a" * 4096)
    write("mib", b"b" * (1 << 20))
    write("mib1", b"b" * ((1 << 20) + 1))
    os.link(at("one"), at("two"))
    os.link(at("one"), at("d/e/f/three"))
    os.symlink("one", at("l1"))
    os.symlink("x" * 4095, at("l2"))
    os.symlink("/abs/" + "y" * 200, at("l3"))
    for name in ODD_NAMES:
        write(os.fsdecode(name), name)
    os.mkdir(at("many"))
    for i in range(20000):
        write(f"many/file{i:05d}", b"")
    os.mkdir(at("links"))
    for i in range(300):
        os.symlink(f"t{i}" + "z" * (i * 13 % 4000), at("links/" + "q" * 200 + f"{i:03d}"))
    deep = ""
    for i in range(60):
        deep = os.path.join(deep, f"deep{i}")
        os.mkdir(at(deep))
    write(os.path.join(deep, "bottom"), b"bottom")
    with open(at("sparse"), "wb") as f:
        f.seek(3 << 20)
        f.write(b"end")
        f.truncate(8 << 20)
    os.mkfifo(at("fifo"), 0o620)
    if devices:
        os.mknod(at("null"), 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(at("blk"), 0o660 | stat.S_IFBLK, os.makedev(4095, 1048575))
    write("acl")
    set_attributes(at)


def set_attributes(at):
    os.setxattr(at("one"), "user.a", b"val")
    os.setxattr(at("one"), "user.none", b"")
    os.setxattr(at("empty"), "user.x", b"on empty")
    os.setxattr(at("d"), "user.big", b"B" * 3000)
    os.setxattr(at("d"), "trusted.t", b"\0\1")
    os.setxattr(at("d/e"), "trusted.overlay.opaque", b"y")
    os.setxattr(at("big"), "trusted.overlay.redirect", b"/elsewhere")
    os.setxattr(at("l1"), "trusted.l", b"link", follow_symlinks=False)
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    os.setxattr(at("suid"), "security.capability", capability)
    access = acl((1, 6, ANY), (2, 6, 1234), (4, 4, ANY), (16, 6, ANY), (32, 4, ANY))
    default = acl((1, 7, ANY), (4, 5, ANY), (8, 5, 55), (16, 5, ANY), (32, 0, ANY))
    os.setxattr(at("acl"), "system.posix_acl_access", access)
    os.setxattr(at("d/e"), "system.posix_acl_default", default)
    os.chown(at("block"), 4000000000, 3999999999)
    os.lchown(at("l1"), 1000, 1001)
    os.chown(at("mib"), 65536, 70000)
    os.utime(at("block"), ns=(0, 123456789012345678))
    os.utime(at("mib"), ns=(0, -5000000000))
    os.utime(at("l1"), ns=(1, 999999999), follow_symlinks=False)
    os.utime(at("many"), ns=(0, 1))
    os.utime(at("d/e/f"), ns=(0, 4000000000123456789))
    os.utime(at("."), ns=(0, 1600000000000000001))


# -- comparing -----------------------------------------------------------------------


def scan(root):
    """{path: fields} of a tree, and which paths are one file."""
    entries, files = {}, {}
    paths = ["."]
    for folder, folders, names in os.walk(root):
        paths += [os.path.relpath(os.path.join(folder, n), root) for n in folders + names]
    for path in paths:
        full = os.path.join(root, path)
        st = os.lstat(full)
        fields = [oct(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns]
        if not stat.S_ISDIR(st.st_mode):
            fields.append(st.st_nlink)
        if stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
            fields.append(st.st_rdev)
        if stat.S_ISREG(st.st_mode):
            with open(full, "rb") as f:
                fields += [st.st_size, hashlib.sha256(f.read()).hexdigest()]
        if stat.S_ISLNK(st.st_mode):
            fields.append(os.readlink(full))
        names = sorted(os.listxattr(full, follow_symlinks=False))
        fields.append([(n, os.getxattr(full, n, follow_symlinks=False)) for n in names])
        entries[path] = fields
        if not stat.S_ISDIR(st.st_mode):
            files.setdefault((st.st_dev, st.st_ino), []).append(path)
    return entries, sorted(sorted(paths) for paths in files.values() if len(paths) > 1)


def compare(source, mounted):
    """Print what differs; the number of differences."""
    want, want_links = scan(source)
    got, got_links = scan(mounted)
    different = [p for p in want.keys() | got.keys() if want.get(p) != got.get(p)]
    for path in sorted(different)[:10]:
        print(ascii(path), "want", str(want.get(path))[:400], "got", str(got.get(path))[:400])
    if want_links != got_links:
        print("hard links: want", want_links, "got", got_links)
    return len(different) + (want_links != got_links)


def mount_and_compare(meta, objects, source, places):
    """In a mount namespace of this process alone."""
    lower, top = os.path.join(places, "lower"), os.path.join(places, "top")
    os.makedirs(lower)
    os.makedirs(top)
    subprocess.run(["mount", "-t", "erofs", "-o", "ro,loop", meta, lower], check=True)
    options = f"ro,metacopy=on,redirect_dir=on,lowerdir={lower}::{objects}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", top], check=True)
    different = compare(source, top)
    subprocess.run(["umount", top], check=True)
    subprocess.run(["umount", lower], check=True)
    return different


# -- an instance -----------------------------------------------------------------------


class Instance:
    def __init__(self, root):
        self.root = str(root)
        self.state = os.path.join(self.root, "state")
        self.ini = os.path.join(self.root, "silo.ini")
        with open(self.ini, "w") as f:
            f.write(f"[silo]\nstate = {self.state}\n[image.oci]\ntimeout = 20s\n")

    def path(self, *parts):
        return os.path.join(self.root, *parts)

    def start(self, *arguments):
        return subprocess.Popen(
            [SILO, "--config", self.ini, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments, status=0):
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == status, f"exit {process.returncode}: {out}{err}"
        return out if status == 0 else err

    def index(self, reference, *more, status=0):
        if status:
            return self.run("index", *more, reference, status=status)
        return json.loads(self.run("index", "--json", *more, reference))

    def images(self):
        return {i["name"]: i for i in json.loads(self.run("images", "--json"))}

    def meta(self, image):
        return os.path.join(self.state, "images", image["meta"] + ".erofs")

    def objects(self):
        found = set()
        for folder, _, names in os.walk(os.path.join(self.state, "objects")):
            found |= {os.path.basename(folder) + n for n in names}
        return found

    def compare(self, image, source):
        mine = [sys.executable, __file__, self.meta(image), f"{self.state}/objects", str(source)]
        places = self.path("mounts-" + image["meta"][:8])
        done = subprocess.run(
            ["unshare", "-m", "--propagation", "private", *mine, places],
            check=False,
            stdout=subprocess.PIPE,
            text=True,
        )
        shutil.rmtree(places)
        assert done.returncode == 0, done.stdout

    def snapshot(self):
        """What an import that fails may not change."""
        seen = [self.run("images", "--json")]
        for name in ("images", "tmp", "objects/staging"):
            folder = os.path.join(self.state, name)
            found = os.listdir(folder) if os.path.exists(folder) else []
            seen.append(sorted(set(found) - {"lock"}))
        return seen


@pytest.fixture
def silo(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    return Instance(tmp_path)


# -- OCI layouts, by hand ------------------------------------------------------------------


def layer_tar(*entries, **more):
    """(name, data), (name, type, target) or a TarInfo each."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT, **more) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
                continue
            info = tarfile.TarInfo(entry[0])
            data = b""
            if len(entry) == 3:
                info.type, info.linkname = entry[1:]
            else:
                data = entry[1]
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def make_layout(path, layers, media_type="application/vnd.oci.image.layer.v1.tar", config=None):
    """An OCI layout of these tar files; the digests of its layers."""
    blobs = os.path.join(path, "blobs", "sha256")
    os.makedirs(blobs)

    def blob(data, kind):
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(blobs, digest), "wb") as f:
            f.write(data)
        return {"mediaType": kind, "digest": "sha256:" + digest, "size": len(data)}

    described = [blob(layer, media_type) for layer in layers]
    image = {
        "architecture": "amd64",
        "os": "linux",
        "config": config or {},
        "rootfs": {"type": "layers", "diff_ids": [d["digest"] for d in described]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(image).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": described,
    }
    top = blob(json.dumps(manifest).encode(), manifest["mediaType"])
    top["annotations"] = {"org.opencontainers.image.ref.name": "t"}
    with open(os.path.join(path, "index.json"), "w") as f:
        json.dump({"schemaVersion": 2, "manifests": [top]}, f)
    with open(os.path.join(path, "oci-layout"), "w") as f:
        json.dump({"imageLayoutVersion": "1.0.0"}, f)
    return [d["digest"][7:] for d in described]


# -- trees through the kernel -----------------------------------------------------------------


def test_folder(silo):
    source = silo.path("tree")
    make_tree(source)
    image = silo.index("dir:" + source, "--name", "nasty")
    silo.compare(image, source)
    for tool in (["fsck.erofs"], ["dump.erofs", "-s"]):
        subprocess.run([*tool, silo.meta(image)], check=True, stdout=subprocess.DEVNULL)
    again = silo.index("dir:" + source, "--name", "nasty")
    assert again["known"] and again["meta"] == image["meta"]


def test_layer_of_tar(silo):
    source = silo.path("tree")
    make_tree(source)
    # What a layer has no way to say: as podman, we take nothing of the root's own entry, and
    # marks of overlayfs are no contents.
    os.chmod(source, 0o555)
    os.utime(source, (0, 0))
    os.removexattr(source + "/d/e", "trusted.overlay.opaque")
    os.removexattr(source + "/big", "trusted.overlay.redirect")
    os.removexattr(source + "/one", "user.none")  # a pax record without a value is none
    tar = silo.path("layer.tar")
    command = ["tar", "--format=pax", "--numeric-owner", "--xattrs", "--xattrs-include=*"]
    subprocess.run([*command, "--sparse", "-cf", tar, "-C", source, "."], check=True)
    layers = []
    with open(tar, "rb") as f:
        layers.append(f.read())
    make_layout(silo.path("oci"), layers)
    image = silo.index(f"oci:{silo.path('oci')}:t")
    assert image["name"] == "oci:t"
    silo.compare(image, source)
    # The same tree by another way is the same image.
    assert silo.index("dir:" + source, "--name", "folder")["meta"] == image["meta"]


def test_whiteout_devices(silo):
    """A device 0/0 of the image does not become a whiteout of ours."""
    source = silo.path("tree")
    os.makedirs(source + "/d")
    os.mknod(source + "/d/out", stat.S_IFCHR | 0o600, 0)
    with open(source + "/d/in", "w") as f:
        f.write("in")
    image = silo.index("dir:" + source, "--name", "x")
    with open(silo.meta(image), "rb") as f:
        assert b"overlay.overlay.whiteout" in f.read()
    dump = ["dump.erofs", "--path=/d/out", silo.meta(image)]
    listing = subprocess.run(dump, check=True, capture_output=True, text=True).stdout
    assert "regular file" in listing.lower(), listing


LINK, HARD, DIR = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


def test_layers(silo):
    below = layer_tar(
        ("./", DIR, ""),
        ("etc/a", b"A"),
        ("etc/b", b"B"),
        ("op/x", b"x"),
        ("d2f/in", b"1"),
        ("f2d", b"file"),
        ("gone/deep/er", b"q"),
        ("ln", LINK, "etc"),
        ("hl/one", b"shared"),
        ("hl/two", HARD, "hl/one"),
        ("dup", b"first"),
        ("dup", b"second"),
    )
    above = layer_tar(
        ("etc/.wh.a", b""),
        ("op/z", b"z"),
        ("op/.wh..wh..opq", b""),
        ("d2f", b"now a file"),
        ("f2d/inside", b"i"),
        (".wh.gone", b""),
        ("ln/real", b"r"),
        ("hl/three", HARD, "hl/one"),
        (".wh.nothing", b""),
        ("same/.wh.s", b""),
        ("same/s", b"s"),
        (".wh..wh.plnk/x", b""),
    )
    make_layout(silo.path("oci"), [below, above], config={"Env": ["PATH=/bin"]})
    image = silo.index(f"oci:{silo.path('oci')}:t", "--name", "layers")
    want = silo.path("want")
    for name, data in {
        "etc/b": "B",
        "op/z": "z",
        "d2f": "now a file",
        "f2d/inside": "i",
        "ln/real": "r",
        "hl/one": "shared",
        "dup": "second",
        "same/s": "s",
        ".wh..wh.plnk/x": "",
    }.items():
        path = os.path.join(want, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(data)
        os.chmod(path, 0o644)
    os.link(want + "/hl/one", want + "/hl/two")
    os.link(want + "/hl/one", want + "/hl/three")
    for folder, folders, names in os.walk(want):
        for name in folders + names:
            os.utime(os.path.join(folder, name), (0, 0))
        os.chmod(folder, 0o755)
    os.chmod(want, 0o555)  # whatever the first layer's "./" says: so does podman
    os.utime(want, (0, 0))
    silo.compare(image, want)


# -- bad input ------------------------------------------------------------------------------


def refused(silo, reference, *says, more=()):
    silo.images()
    before = silo.snapshot()
    message = silo.index(reference, "--name", "bad", *more, status=1)
    assert message.startswith("silo: ") or "\nsilo: " in message
    for text in says:
        assert text in message, message
    assert silo.snapshot() == before


def test_usage(silo):
    for arguments in (["index"], ["index", "--nope", "x"], ["rm"], ["images", "x"]):
        silo.run(*arguments, status=2)
    silo.run("index", "--tls-verify=maybe", "x", status=2)
    silo.run("index", "--platform", "linux", "x", status=2)
    silo.run("index", "what is this?", status=2)
    silo.run("index", "dir:", status=2)
    for verb in ("index", "images", "rm"):
        assert f"usage: silo {verb}" in silo.run(verb, "--help")


def test_relative_paths(silo, tmp_path, monkeypatch):
    (tmp_path / "tree" / "empty").mkdir(parents=True)
    (tmp_path / "tree" / "file").write_text("here")
    monkeypatch.chdir(tmp_path)
    for number, reference in enumerate(("dir:tree", "dir:./tree", "dir:tree/empty/..")):
        silo.index(reference, "--name", f"relative:{number}")
    monkeypatch.chdir(tmp_path / "tree")
    silo.index("dir:.", "--name", "relative:9")
    images = [i for name, i in silo.images().items() if name.startswith("relative:")]
    assert len(images) == 4
    assert len({image["meta"] for image in images}) == 1
    assert {image["source"] for image in images} == {
        f"dir:{tmp_path}/tree",
        f"dir:{tmp_path}/tree/empty/..",
    }


def test_folder_errors(silo):
    refused(silo, "dir:/nowhere/at/all", "/nowhere/at/all")
    listener = socket.socket(socket.AF_UNIX)
    os.mkdir(silo.path("tree"))
    listener.bind(silo.path("tree", "sock"))
    image = silo.index("dir:" + silo.path("tree"), "--name", "socket")
    listener.close()
    assert image["inodes"] == 1  # the socket is left out


# -- registries ----------------------------------------------------------------------------


class Registry:
    def __init__(self, root):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{s.getsockname()[1]}"
        config = os.path.join(root, "registry.yml")
        with open(config, "w") as f:
            f.write(
                "version: 0.1\nlog: {level: error}\n"
                f"storage: {{filesystem: {{rootdirectory: {root}/registry}}}}\n"
                f"http: {{addr: {self.address}}}\n"
            )
        self.process = subprocess.Popen(
            ["docker-registry", "serve", config],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                host, port = self.address.split(":")
                socket.create_connection((host, int(port)), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None
                time.sleep(0.05)

    def push(self, layout, name, *more):
        target = f"docker://{self.address}/{name}"
        command = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", *more]
        subprocess.run([*command, f"oci:{layout}:t", target], check=True)
        return target

    def close(self):
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def registry(tmp_path):
    registry = Registry(str(tmp_path))
    yield registry
    registry.close()


def test_registry(silo, registry):
    tar = layer_tar(("usr/bin/python3", LINK, "python3.11"))
    python = tarfile.TarInfo("usr/bin/python3.11")
    python.mode, python.size = 0o755, 4
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as t:
        t.addfile(python, io.BytesIO(b"#!py"))
    make_layout(silo.path("oci"), [tar, raw.getvalue()])
    for more in ((), ("--format", "v2s2")):
        target = registry.push(silo.path("oci"), "lib/python:3.11", *more)
        image = silo.index(target, "--tls-verify=false")
        assert image["name"] == "lib/python:3.11"
        assert (image["python"], image["python_version"]) == ("/usr/bin/python3.11", "3.11")
        assert not image["known"] or more
        assert silo.index(target, "--tls-verify=false")["known"]
    short = silo.index(f"{registry.address}/lib/python:3.11", "--tls-verify=false")
    assert short["meta"] == image["meta"]
    plain = ("--tls-verify=false",)
    refused(silo, f"docker://{registry.address}/lib/python:9", "manifest unknown", more=plain)
    refused(silo, target, "HTTPS client")
    arm = (*plain, "--platform", "linux/arm64")
    refused(silo, target, "linux/amd64", "linux/arm64", more=arm)


# -- stopping, killing ------------------------------------------------------------------------


def wait_for(process, what):
    """Until a line of the progress says so."""
    for line in process.stderr:
        if what in line:
            return
    raise AssertionError(f"no {what}")


def big_tree(silo):
    source = silo.path("big")
    os.mkdir(source)
    for i in range(3000):
        with open(f"{source}/{i}", "wb") as f:
            f.write(b"%d" % i * 20000)
    return source


def test_interrupt(silo):
    source = big_tree(silo)
    silo.images()
    os.makedirs(silo.path("small"))
    silo.index("dir:" + silo.path("small"), "--name", "small")
    before = silo.snapshot()
    for number in (signal.SIGINT, signal.SIGTERM):
        process = silo.start("index", "dir:" + source, "--name", "x")
        wait_for(process, "reading")
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert silo.snapshot() == before
    assert silo.index("dir:" + source, "--name", "x")["inodes"] == 3001


def test_kill(silo):
    source = big_tree(silo)
    process = silo.start("index", "dir:" + source, "--name", "x")
    wait_for(process, "reading")
    process.kill()
    process.communicate()
    assert silo.images() == {}
    image = silo.index("dir:" + source, "--name", "x")
    silo.compare(image, source)
    assert sorted(os.listdir(silo.state + "/images")) == [image["meta"] + ".erofs", "lock"]


def test_stages_of_the_dead_are_removed(silo):
    silo.images()
    staging = os.path.join(silo.state, "objects", "staging")
    with open(staging + "/0123456789abcdef0123456789abcdef", "w") as f:
        f.write("half of an object")
    silo.images()
    assert os.listdir(staging) == []


# -- removing ----------------------------------------------------------------------------------


def test_remove(silo):
    for name, files in (("one", "ab"), ("two", "bc"), ("three", "bc")):
        os.mkdir(silo.path(name))
        for file in files:
            with open(silo.path(name, file), "w") as f:
                f.write("contents of " + file)
            os.utime(silo.path(name, file), (1, 1))
        os.utime(silo.path(name), (1, 1))
        silo.index("dir:" + silo.path(name))
    one, two, three = (silo.images()[n + ":latest"] for n in ("one", "two", "three"))
    assert two["meta"] == three["meta"] and len(silo.objects()) == 3
    silo.run("rm", "one:latest")
    assert len(silo.objects()) == 2 and not os.path.exists(silo.meta(one))
    silo.compare(two, silo.path("two"))
    silo.run("rm", "two")  # the tag may be left out
    assert len(silo.objects()) == 2 and os.path.exists(silo.meta(three))
    assert "one" in silo.run("rm", "one", status=1)
    silo.run("rm", "three:latest")
    assert silo.objects() == set() and silo.images() == {}
    assert not os.path.exists(silo.meta(three))


def test_parallel(silo):
    """Several processes index and remove at the same time."""
    source = silo.path("tree")
    os.mkdir(source)
    for i in range(200):
        with open(f"{source}/{i}", "w") as f:
            f.write(str(i) * 1000)
    silo.images()
    for _ in range(3):
        names = [f"n{i}" for i in range(4)]
        running = [silo.start("index", "dir:" + source, "--name", n) for n in names]
        running += [silo.start("rm", n) for n in names[:2]]
        for process in running:
            out, err = process.communicate(timeout=120)
            removed = process.args[3] == "rm"
            assert process.returncode == 0 or (removed and "not known" in err), out + err
        for name, image in silo.images().items():
            assert name in names
            silo.compare(image, source)


if __name__ == "__main__":
    sys.exit(1 if mount_and_compare(*sys.argv[1:]) else 0)
