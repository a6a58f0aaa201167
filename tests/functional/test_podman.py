# SPDX-License-Identifier: Apache-2.0
"""Every image looks as `podman image mount` shows it: entry by entry, all that stat says.

Each image is indexed by silo and mounted by `silo mount`, pulled into a podman store of its
own and mounted by podman, and both trees are compared.  Podman's store is a tmpfs, the only
file system that keeps all that the nasty image has; it and all mounts are in a mount
namespace that ends with the comparison (this file, run as a program).
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time

import nasty
import pytest
from instances import TOP, Instance

PLACE = "/mnt"  # hidden by a tmpfs in the namespace; podman takes no odd names in a path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


# -- what a tree is ------------------------------------------------------------


def entry(path, st):
    """All that can be equal.

    Not sizes of folders, which are the file system's; nor their link count: overlayfs says 1
    for those that are in several layers, and Silo's tree is one layer; nor numbers of inodes.
    """
    kind = stat.S_IFMT(st.st_mode)
    found = {
        "mode": oct(st.st_mode),
        "uid": st.st_uid,
        "gid": st.st_gid,
        "mtime": st.st_mtime_ns,
    }
    if kind != stat.S_IFDIR:
        found.update(nlink=st.st_nlink, size=st.st_size)
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        found["rdev"] = st.st_rdev
    if kind == stat.S_IFLNK:
        found["target"] = os.readlink(path)
    if kind == stat.S_IFREG:
        with open(path, "rb") as f:
            found["sha256"] = hashlib.file_digest(f, "sha256").hexdigest()
    names = os.listxattr(path, follow_symlinks=False)
    found["xattrs"] = {n: os.getxattr(path, n, follow_symlinks=False) for n in sorted(names)}
    return found


def scan(root):
    """{path: entry}, both bytes; the paths that share an inode are in each of their entries."""
    root = os.fsencode(root)
    entries, same, folders = {}, {}, [b""]
    while folders:
        folder = folders.pop()
        paths = [folder] if not folder else []
        paths += [os.path.join(folder, e.name) for e in os.scandir(os.path.join(root, folder))]
        for path in paths:
            full = os.path.join(root, path)
            try:
                st = os.lstat(full)
            except FileNotFoundError:
                # Overlayfs lists a whiteout of nothing in a folder that only one layer has.
                continue
            entries[path] = entry(full, st)
            if stat.S_ISDIR(st.st_mode):
                folders += [path] if path else []
            elif st.st_nlink > 1:
                same.setdefault((st.st_dev, st.st_ino), []).append(path)
    for paths in same.values():
        for path in paths:
            entries[path]["same"] = sorted(paths)
    return entries


def adjust(path, want, start, end):
    """What is podman's own."""
    if stat.S_ISDIR(int(want["mode"], 8)) and start <= want["mtime"] <= end:
        # A folder that no entry lists, and the root, have the time of unpacking.  Here it is 0.
        want["mtime"] = 0
    if want.get("nlink", 1) > 1 and want["nlink"] > len(want["same"]):
        # Overlayfs counts names in lower layers that upper ones hide.  Here only what is there.
        want["nlink"] = len(want["same"])
        if want["nlink"] == 1:
            del want["same"]
    if path in nasty.TIMES and want["mtime"] == 0:
        # Outside of 1970 to 2262 Go's os.Chtimes is given 0; Silo has the layer's time.
        want["mtime"] = nasty.TIMES[path]


def differences(want, got):
    return [
        f"{path!r}: podman {want.get(path)} silo {got.get(path)}"[:1500]
        for path in sorted(want.keys() | got.keys())
        if want.get(path) != got.get(path)
    ]


# -- in the namespace ------------------------------------------------------------


def run(*command, **more):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def podman(*arguments):
    return run(
        *("podman", "--root", f"{PLACE}/root", "--runroot", f"{PLACE}/run"),
        *("--tmpdir", f"{PLACE}/tmp", "--storage-driver", "overlay"),
        *("--cgroup-manager", "cgroupfs", "--events-backend", "file", *arguments),
    )


def inside(silo, ini, name, reference, folder, *rootfs):
    """Compare; the differences as JSON on stdout."""
    if os.path.ismount("/sys/fs/cgroup/unified"):
        run("umount", "/sys/fs/cgroup/unified")  # crun's quarrel with hybrid cgroups
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", PLACE)
    os.mkdir(f"{PLACE}/source")
    os.mkdir(f"{PLACE}/silo")
    run("mount", "--bind", folder, f"{PLACE}/source")
    reference = reference.replace(folder, f"{PLACE}/source")
    start = time.time_ns()
    image = podman(
        "pull",
        "-q",
        *(["--tls-verify=false"] if "docker://" in reference else []),
        reference,
    )
    want = scan(podman("image", "mount", image))
    for path, fields in want.items():
        adjust(path, fields, start, time.time_ns())
    found = {"entries": len(want), "different": {}}
    for how in rootfs:
        run(silo, "--config", ini, "mount", name, f"{PLACE}/silo", "--rootfs", how)
        if how == "fuse":
            # Hidden there: over a writable mount lies an overlay, which would obey them.
            for fields in want.values():
                for name in [n for n in fields["xattrs"] if n.startswith("trusted.overlay.")]:
                    del fields["xattrs"][name]
        found["different"][how] = differences(want, scan(f"{PLACE}/silo"))
        run(silo, "--config", ini, "umount", f"{PLACE}/silo")
    podman("image", "umount", image)
    print(json.dumps(found))


# -- outside -----------------------------------------------------------------------


class Comparer:
    """One instance of silo with all images of this file."""

    def __init__(self, silo, folder):
        self.instance = Instance(silo)
        self.folder = folder
        self.layout = nasty.Layout(folder / "oci")

    def index(self, name, reference, *more):
        """Index; the record.  erofs-utils must accept what was written."""
        record = json.loads(
            self.instance.ok("index", reference, "--name", name, "--json", *more, timeout=300)
        )
        meta = f"{self.instance.state}/images/{record['meta']}.erofs"
        for tool in (["fsck.erofs"], ["dump.erofs", "-s"]):
            done = subprocess.run([*tool, meta], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{tool}: {done.stdout}{done.stderr}"
        return record

    def compare(self, name, reference, folder=None, rootfs=("erofs",)):
        where = str(folder or self.layout.path)
        job = [self.instance.silo_bin, self.instance.ini, name, reference, where, *rootfs]
        unshare = ["unshare", "-m", "--propagation", "private"]
        done = subprocess.run(
            [*unshare, sys.executable, __file__, *job],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        for how, different in found["different"].items():
            print(*different[:20], sep="\n")
            assert not different, f"{len(different)} entries differ through rootfs.{how}"
        return found["entries"]

    def check(self, name, reference, *more, **options):
        record = self.index(name, reference, *more)
        return record, self.compare(name, reference, **options)


@pytest.fixture(scope="module")
def images(silo_bin, tmp_path_factory):
    for program in ("podman", "skopeo", "fsck.erofs", "dump.erofs", "zstd"):
        if not shutil.which(program):
            pytest.skip(f"no {program} here")
    one = Comparer(silo_bin, tmp_path_factory.mktemp("podman"))
    yield one
    one.instance.close()
    shutil.rmtree(one.folder)  # half a gigabyte, which pytest would keep


def debian(*arguments):
    command = [TOP / "script/debian-tree", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=900)
    return done.stdout.strip()


def read(path):
    with open(path, "rb") as f:
        return f.read()


def test_debian(images):
    """Debian 12 with Python, one gzip layer; through both kinds of rootfs."""
    reference = images.layout.image([read(debian("--tar"))], "debian", how="gzip")
    record, entries = images.check("debian", reference, rootfs=("erofs", "fuse"))
    assert entries > 5000
    assert (record["python"], record["python_version"]) == (
        "/usr/bin/python3.11",
        "3.11",
    )


REMOVE = r"""
set -e
mount -t overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" overlay "$4"
chroot "$4" dpkg --purge --force-all tzdata mawk libpython3-stdlib >/dev/null
rm -r "$4/usr/share/doc"
mkdir -m 700 "$4/usr/share/doc"
echo new >"$4/usr/share/doc/new"
mv "$4/bin/ls" "$4/bin/list"
ln "$4/bin/list" "$4/usr/bin/list2"
chmod 711 "$4/etc"
rm -r "$4/var/lib/dpkg/info"
ln -s nowhere "$4/var/lib/dpkg/info"
umount "$4"
"""


def layer_of(upper):
    """The layer of an overlay's upper folder."""
    entries, seen = [], {}
    for folder, folders, names in os.walk(os.fsencode(upper)):
        for name in sorted(folders) + sorted(names):
            full = os.path.join(folder, name)
            path = os.path.relpath(full, os.fsencode(upper))
            st = os.lstat(full)
            parent = os.path.dirname(path)
            if stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
                entries.append(nasty.file(os.path.join(parent, b".wh." + name)))
                continue
            more = {"mode": st.st_mode & 0o7777, "uid": st.st_uid, "gid": st.st_gid}
            more["mtime"] = st.st_mtime_ns
            opaque = b""
            with contextlib.suppress(OSError):
                opaque = os.getxattr(full, "trusted.overlay.opaque", follow_symlinks=False)
            if stat.S_ISDIR(st.st_mode):
                entries.append(nasty.folder(path, **more))
                if opaque == b"y":
                    entries.append(nasty.file(path + b"/.wh..wh..opq"))
            elif stat.S_ISLNK(st.st_mode):
                entries.append(nasty.Entry(path, nasty.LINK, link=os.readlink(full), **more))
            elif st.st_ino in seen:
                entries.append(nasty.Entry(path, nasty.HARD, link=seen[st.st_ino], **more))
            else:
                seen[st.st_ino] = path
                entries.append(nasty.file(path, read(full), **more))
    return nasty.tar(*entries)


def test_other_release(images):
    """Debian 11: three layers compressed by zstd, packages removed by dpkg in the second."""
    base = debian("--suite", "bullseye")
    places = [str(images.folder / name) for name in ("upper", "work", "merged")]
    for place in places:
        os.mkdir(place)
    script = ["sh", "-c", REMOVE, "sh", base, *places]
    subprocess.run(["unshare", "-m", "--propagation", "private", *script], check=True, timeout=120)
    top = nasty.tar(
        nasty.folder(b"usr/share/doc/again", mtime=nasty.TIME),
        nasty.file(b"usr/share/zoneinfo/UTC", b"UTC"),
        nasty.file(b"etc/.wh.debian_version"),
    )
    tar = read(debian("--tar", "--suite", "bullseye"))
    stack = [tar, layer_of(places[0]), top]
    reference = images.layout.image(stack, "bullseye", how="zstd")
    record, entries = images.check("bullseye", reference)
    assert entries > 4000
    assert (record["python"], record["python_version"]) == ("/usr/bin/python3.9", "3.9")


@pytest.fixture(scope="module")
def nasty_image(images):
    return images.layout.image(nasty.layers(), "nasty", how="gzip")


def test_nasty(images, nasty_image):
    """By hand, all that a layer can hold; see nasty.py."""
    record, entries = images.check("nasty", nasty_image, rootfs=("erofs", "fuse"))
    assert entries > 30000
    assert record["python"] == ""


def test_same_bytes(images, nasty_image, silo_bin):
    """Whatever thread was first: another store has the same metadata file."""
    want = images.index("nasty", nasty_image)["meta"]
    other = Instance(silo_bin)
    try:
        for name in ("one", "two"):
            made = json.loads(other.ok("index", nasty_image, "--name", name, "--json"))
            assert made["meta"] == want
    finally:
        other.close()


def test_docker_archive(images):
    """Docker's schema 2, in an archive as `docker save` makes it."""
    stack = [nasty.tar(*nasty.links(), *nasty.below()), nasty.tar(*nasty.first_above())]
    reference = images.layout.image(stack, "docker")
    archive = images.folder / "archives"
    archive.mkdir()
    target = f"docker-archive:{archive}/image.tar"
    copy = [
        "skopeo",
        "--insecure-policy",
        "copy",
        "-q",
        reference,
        target + ":x/docker:1",
    ]
    subprocess.run(copy, check=True, timeout=60)
    images.check("docker", target, folder=archive)


def python_layer(minor):
    return nasty.tar(
        nasty.file(b"usr/bin/python3.%d" % minor, b"#!", mode=0o755),
        nasty.symlink(b"usr/bin/python3", b"python3.%d" % minor),
        nasty.symlink(b"usr/local/bin/python3", b"../../bin/python3"),
    )


def test_several_platforms(images, registry):
    """An index in a registry: both take what is for this machine."""
    here = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    other = {"amd64": "arm64", "arm64": "amd64"}[here]
    layout = nasty.Layout(images.folder / "several")
    listed = []
    for architecture, minor in ((other, 9), (here, 12)):
        stack = [nasty.tar(*nasty.below()), python_layer(minor)]
        made = layout.manifest(stack, how="gzip", architecture=architecture)
        listed.append({**made, "platform": {"os": "linux", "architecture": architecture}})
    kind = "application/vnd.oci.image.index.v1+json"
    index = {"schemaVersion": 2, "mediaType": kind, "manifests": listed}
    source = layout.tag(layout.blob(json.dumps(index).encode(), kind), "t")
    target = registry.reference("several:1")
    copy = [
        "skopeo",
        "--insecure-policy",
        "copy",
        "-q",
        "--all",
        "--dest-tls-verify=false",
    ]
    subprocess.run([*copy, source, target], check=True, timeout=60)
    record, _ = images.check("several", target, "--tls-verify=false")
    assert record["python_version"] == "3.12"
    record = images.index("other", target, "--tls-verify=false", "--platform", f"linux/{other}")
    assert record["python_version"] == "3.9"


# -- what is refused -----------------------------------------------------------------


@pytest.mark.parametrize(
    "entries, says",
    [
        (
            [nasty.symlink(b"out", b"/tmp"), nasty.file(b"out/x")],
            "out/x: the symlink out leads",
        ),
        (
            [nasty.symlink(b"a/up", b"../../.."), nasty.file(b"a/up/x")],
            "a/up/x: the symlink up",
        ),
        (
            [nasty.symlink(b"l", b"gone"), nasty.file(b"l/x")],
            "l/x: the symlink l leads to no",
        ),
        ([nasty.symlink(b"l", b"l"), nasty.file(b"l/x")], "too many"),
        (
            [nasty.symlink(b"out", b"/etc"), nasty.hard(b"h", b"out/passwd")],
            "out/passwd",
        ),
        (
            [nasty.symlink(b"out", b"/etc"), nasty.file(b"out/.wh.passwd")],
            "the symlink out",
        ),
        ([nasty.file(b"f"), nasty.file(b"f/x")], "f/x"),
        ([nasty.file(b"../x")], '".."'),
        ([nasty.file(b"a/../../x")], '".."'),
        ([nasty.hard(b"h", b"../../etc/passwd")], '".."'),
        ([nasty.folder(b"d"), nasty.hard(b"h", b"d")], "is a folder"),
    ],
)
def test_out_of_the_tree(images, entries, says):
    layout = nasty.Layout(images.folder / f"bad{len(os.listdir(images.folder))}")
    reference = layout.image([nasty.tar(nasty.folder(b"good"), *entries)])
    before = images.instance.json("images")
    done = images.instance.run("index", reference, "--name", "bad")
    assert done.returncode == 1 and says in done.stderr and "layer " in done.stderr, done.stderr
    assert [i["meta"] for i in images.instance.json("images")] == [i["meta"] for i in before]


if __name__ == "__main__":
    inside(*sys.argv[1:])
