# SPDX-License-Identifier: Apache-2.0
"""Layers and images by hand, byte for byte: what no well-behaved tool would write.

`tar ()` makes a pax archive of entries: names and links are bytes, times are
nanoseconds of any sign, xattrs have any value.  `Layout` is an OCI layout.
`layers ()` are those of an image that has everything that podman takes.
"""

import dataclasses
import gzip
import hashlib
import json
import os
import struct
import subprocess

FILE, HARD, LINK, CHAR, BLOCK, DIR, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
MEDIA = "application/vnd.oci.image.layer.v1.tar"


@dataclasses.dataclass
class Entry:
    name: bytes
    type: bytes = FILE
    data: bytes = b""
    link: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 0  # nanoseconds
    dev: tuple = (0, 0)
    xattrs: dict = dataclasses.field(default_factory=dict)


def file(name, data=b"", **more):
    return Entry(name, data=data, **more)


def folder(name, mode=0o755, **more):
    return Entry(name, DIR, mode=mode, **more)


def symlink(name, target, **more):
    return Entry(name, LINK, link=target, mode=0o777, **more)


def hard(name, target):
    return Entry(name, HARD, link=target)


def device(name, major, minor, kind=CHAR, **more):
    return Entry(name, kind, dev=(major, minor), **more)


def fifo(name, **more):
    return Entry(name, FIFO, **more)


# -- archives ------------------------------------------------------------------


def record(key, value):
    """One record of a pax header; its length counts itself."""
    body = b" " + key + b"=" + value + b"\n"
    size = len(body) + 1
    while size != len(body) + len(str(size)):
        size = len(body) + len(str(size))
    return str(size).encode() + body


def block(entry, size):
    """The 512 bytes of a header; what does not fit is in the pax header before it."""

    def octal(number, width):
        return b"%0*o\0" % (width - 1, number if 0 <= number < 8 ** (width - 1) else 0)

    parts = [
        entry.name[:100].ljust(100, b"\0"),
        octal(entry.mode, 8),
        octal(entry.uid, 8),
        octal(entry.gid, 8),
        octal(size, 12),
        octal(entry.mtime // 10**9, 12),
        b" " * 8,
        entry.type,
        entry.link[:100].ljust(100, b"\0"),
        b"ustar\00000",
        b"\0" * 64,
        octal(entry.dev[0], 8),
        octal(entry.dev[1], 8),
    ]
    raw = b"".join(parts).ljust(512, b"\0")
    return raw[:148] + b"%06o\0 " % sum(raw) + raw[156:]


def seconds(ns):
    """Nanoseconds as pax writes them: "-1.5" is half a second before -1."""
    sign, ns = (b"-", -ns) if ns < 0 else (b"", ns)
    return b"%s%d.%09d" % (sign, ns // 10**9, ns % 10**9)


def pax(entry):
    records = []
    if not 0 <= entry.mtime < 8**11 * 10**9 or entry.mtime % 10**9:
        records.append(record(b"mtime", seconds(entry.mtime)))
    if len(entry.name) > 100:
        records.append(record(b"path", entry.name))
    if len(entry.link) > 100:
        records.append(record(b"linkpath", entry.link))
    for key, number in ((b"uid", entry.uid), (b"gid", entry.gid)):
        if number >= 8**7:
            records.append(record(key, b"%d" % number))
    for name, value in entry.xattrs.items():
        records.append(record(b"SCHILY.xattr." + name.encode(), value))
    return b"".join(records)


def padded(data):
    return data + b"\0" * (-len(data) % 512)


def tar(*entries):
    parts = []
    for entry in entries:
        if more := pax(entry):
            parts += [block(Entry(b"pax", b"x"), len(more)), padded(more)]
        parts += [block(entry, len(entry.data)), padded(entry.data)]
    return b"".join(parts) + b"\0" * 1024


# -- the nasty image -----------------------------------------------------------

TIME = 1234567890_123456789
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
BINARY = bytes(range(256))
# user::rw-, user:1234:rw-, group::r--, mask::rw-, other::r--
ACL = b"".join(
    [
        struct.pack("<I", 2),
        *(struct.pack("<HHI", tag, may, who) for tag, may, who in (
            (1, 6, 0xFFFFFFFF), (2, 6, 1234), (4, 4, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF),
            (32, 4, 0xFFFFFFFF))),
    ]
)  # fmt: skip
NAMES = [
    b" ", b"new\nline", b"\xff\xfe", b"tab\t", b"back\\slash", b'"quoted"', b"*?[", b"-dash",
    b"!", b"~", b"...", b"..x", b".wh", "e\u0301".encode(), "\u00e9".encode(), b"\x01\x7f",
    b"n" * 255, b"\xff" * 255,
]  # fmt: skip
# podman sets times outside of 1970 to 2262 to 0, but for symlinks; here they are kept.
TIMES = {
    b"times/before": -1,
    b"times/half": -1_500000000,
    b"times/long-before": -(10**10) * 10**9 + 1,
    b"times/after": 10**10 * 10**9,
    b"times/folder": -123_000000001,
}
DEEP = b"/".join([b"deep"] + [b"d%d" % i for i in range(100)])


def simple():
    """Every kind of entry and what it can be."""
    yield folder(b"./", 0o751, uid=5, mtime=TIME, xattrs={"user.root": b"1"})
    yield folder(b"plain", 0o700, uid=1, gid=2, mtime=TIME)
    yield file(b"plain/file", BINARY * 300, mode=0o640, mtime=TIME + 1)
    yield file(b"plain/empty", mtime=1)
    yield file(b"plain/mib", b"m" * (1 << 20), mtime=999999999)
    yield file(b"plain/zeros", bytes(3 << 20))
    yield file(b"plain/suid", b"#!", mode=0o6755, uid=70000, gid=4294967294)
    yield file(b"plain/none", b"x", mode=0)
    yield folder(b"plain/sticky", 0o7777, uid=4294967294, mtime=8589934592_000000001)
    yield file(b"plain/capable", b"x", mode=0o755, xattrs={"security.capability": CAPABILITY})
    yield fifo(b"dev/fifo", mode=0o620, mtime=TIME, xattrs={"trusted.t": b"1"})
    yield device(b"dev/null", 1, 3, mode=0o666, uid=3, mtime=TIME)
    yield device(b"dev/high", 4095, 1048575, mode=0o600, xattrs={"trusted.t": b"2"})
    yield device(b"dev/disk", 8, 300, BLOCK, mode=0o660, gid=6)
    for i, name in enumerate(NAMES):
        yield file(b"names/" + name, name, mtime=i)
        yield folder(b"names-d/" + name, mtime=i)
    yield file(DEEP + b"/bottom", b"bottom")
    yield file(b"implied/by/its/path", b"x", mtime=TIME)
    for i in range(30000):
        yield file(b"many/%d" % (i * 7919 % 30000))


def attributes():
    yield file(
        b"x/binary",
        b"x",
        xattrs={"user.b": BINARY, "user.e": b"", "trusted.n": b"\n=0\0"},
    )
    yield file(b"x/many", xattrs={f"user.n{i}": b"%d" % i * i for i in range(100)})
    yield file(b"x/large", b"x", xattrs={"user.l": BINARY * 200, "trusted.l": BINARY * 128})
    yield file(b"x/name", xattrs={"user." + "n" * 250: b"1"})
    yield folder(b"x/folder", xattrs={"user.f": b"f", "trusted.f": BINARY})
    yield symlink(b"x/link", b"many", xattrs={"trusted.l": b"on the link"}, mtime=TIME)
    yield file(b"x/odd", b"x", xattrs={"foo.bar": b"no file system takes this"})
    yield file(b"x/marked", b"x", xattrs={"trusted.overlay.redirect": b"/plain/file"})
    nested = {"trusted.overlay.overlay.opaque": b"y", "trusted.overlay.overlay.x": b"1"}
    yield folder(b"x/nested", xattrs=nested)
    yield file(b"x/acl", b"x", mode=0o664, xattrs={"system.posix_acl_access": ACL})
    yield folder(b"x/acls", xattrs={"system.posix_acl_default": ACL})


def links():
    for i in (1, 59, 60, 100, 101, 3000, 4094, 4095):
        yield symlink(b"l/%d" % i, b"t" * i, mtime=-TIME - i, uid=i)
    for target in (
        b"/",
        b".",
        b"..",
        b"/../..",
        b"../../../x",
        b"a//b/",
        b"\xff\n",
        b"/etc/passwd",
    ):
        yield symlink(b"l/to-" + target.replace(b"/", b"|"), target)
    yield file(b"h/one", b"shared", mode=0o600, mtime=5)
    yield hard(b"h/two", b"h/one")
    yield hard(b"h/other/folder/three", b"./h/two")
    yield symlink(b"h/link", b"one", mtime=7)
    yield Entry(b"h/link2", HARD, link=b"h/link", uid=9, mtime=8)
    yield fifo(b"h/fifo")
    yield hard(b"h/fifo2", b"h/fifo")
    yield file(b"h/caps", b"x", xattrs={"security.capability": CAPABILITY, "user.a": b"1"})
    more = {"security.capability": CAPABILITY, "user.b": b"2"}
    yield Entry(b"h/caps2", HARD, link=b"h/caps", mode=0o4711, uid=8, mtime=TIME, xattrs=more)
    # Through symlinks of the same layer.
    yield folder(b"usr/lib", 0o711, mtime=TIME)
    yield symlink(b"lib", b"usr/lib")
    yield file(b"lib/x", b"through")
    yield file(b"lib/made/on/the/way", b"through")
    yield symlink(b"usr/up", b"../usr/./lib/../lib")
    yield symlink(b"chain", b"usr/up/made")
    yield file(b"chain/y", b"through three")
    yield hard(b"h/through", b"lib/x")
    # Children first, odd spellings.
    yield file(b"late/child", b"x")
    yield folder(b"late", 0o710, uid=4, mtime=TIME, xattrs={"user.late": b"1"})
    yield file(b"/slash", b"x")
    yield file(b".//./dots/./x", b"x")
    for name, ns in TIMES.items():
        yield (folder(name, mtime=ns) if name.endswith(b"folder") else file(name, b"x", mtime=ns))


def below():
    """What the layers above change."""
    for name in b"gone file tofile tolink opaque late-opaque same kept marked meta implied".split():
        yield folder(b"c/" + name, 0o700, uid=7, mtime=TIME, xattrs={"user.lower": b"1"})
        yield file(b"c/" + name + b"/old", b"old " + name)
        yield file(b"c/" + name + b"/deep/old", b"old " + name)
    yield file(b"c/todir", b"a file")
    yield symlink(b"c/linked", b"kept")
    yield file(b"c/back", b"a file")
    yield file(b"c/cdev", b"hidden by a device 0/0")
    yield file(b"c/under", b"a file")
    yield file(b"c/hard", b"two names")
    yield hard(b"c/hard2", b"c/hard")
    yield hard(b"c/hard3", b"c/hard")


def first_above():
    yield file(b"c/.wh.gone")
    yield file(b"c/tofile", b"now a file", mtime=TIME)
    yield symlink(b"c/tolink", b"kept")
    yield file(b"c/todir/new", b"now a folder")
    yield file(b"c/linked/new", b"the link is a folder now")
    yield folder(b"c/back", 0o711)
    yield file(b"c/back/new", b"a folder")
    yield file(b"c/opaque/.wh..wh..opq")
    yield file(b"c/opaque/new", b"new")
    yield file(b"c/late-opaque/new", b"new")
    yield folder(b"c/late-opaque", 0o700, mtime=TIME)
    yield file(b"c/late-opaque/.wh..wh..opq")
    yield folder(b"c/marked", xattrs={"trusted.overlay.opaque": b"y"})
    yield file(b"c/.wh.same")
    yield folder(b"c/same", 0o750, mtime=TIME)  # shows what is below again
    yield file(b"c/same/new", b"new")
    yield folder(b"c/meta", 0o1777, gid=9, mtime=TIME + 5, xattrs={"user.upper": b"2"})
    yield file(b"c/implied/new", b"c/implied has no entry here")
    yield device(b"c/cdev", 0, 0)
    yield file(b"c/.wh.file/")
    yield file(b"c/.wh.absent")
    yield file(b"c/made/by/.wh.whiteout")
    yield file(b"c/under/.wh.x")  # makes a folder of the file
    yield file(b"c/kept/deep/.wh.old")
    yield file(b"c/kept/.wh.deep2")
    yield file(b"c/.wh.hard2")
    yield folder(b".wh..wh.plnk")
    yield file(b".wh..wh.plnk/x", b"aufs")
    yield file(b".wh..wh..opq")  # the root cannot be
    yield symlink(b"c/way", b"kept")  # in the place of nothing
    yield folder(b"c/kept", 0o700)
    yield file(b"c/way/through", b"x")
    yield file(b"c/way/.wh.never")


def second_above():
    yield file(b"c/back", b"a file again")
    yield file(b"c/gone/again", b"new folder of an old name")
    yield folder(b"c/tofile", 0o711, mtime=3)
    yield file(b"c/tofile/in", b"a folder again")
    yield file(b"c/.wh.tolink")
    yield file(b"c/.wh.made")
    yield file(b"c/hard", b"no longer two names")
    yield file(b"many/.wh.15000")
    yield file(b"many/29999", b"changed")
    yield file(b"lib/z", b"lib is a folder now")


def layers():
    return [
        tar(*simple(), *attributes()),
        tar(*links(), *below()),
        tar(*first_above()),
        tar(*second_above()),
    ]


# -- images --------------------------------------------------------------------


def compressed(data, how):
    if how == "gzip":
        return gzip.compress(data, 1, mtime=0)
    if how == "zstd":
        return subprocess.run(
            ["zstd", "-q", "-1"], input=data, capture_output=True, check=True
        ).stdout
    return data


class Layout:
    """An OCI layout that grows: images by tag."""

    def __init__(self, path):
        self.path = str(path)
        self.manifests = []
        os.makedirs(f"{self.path}/blobs/sha256")
        with open(f"{self.path}/oci-layout", "w") as f:
            json.dump({"imageLayoutVersion": "1.0.0"}, f)

    def blob(self, data, kind):
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{self.path}/blobs/sha256/{digest}", "wb") as f:
            f.write(data)
        return {"mediaType": kind, "digest": "sha256:" + digest, "size": len(data)}

    def index(self):
        with open(f"{self.path}/index.json", "w") as f:
            json.dump({"schemaVersion": 2, "manifests": self.manifests}, f)

    def manifest(self, layers, how="", config=None, architecture="amd64"):
        """An image of these archives, not tagged yet; its descriptor."""
        diffs = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
        image = {
            "architecture": architecture,
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": diffs},
        }
        kind = MEDIA + (f"+{how}" if how else "")
        document = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob(
                json.dumps(image).encode(), "application/vnd.oci.image.config.v1+json"
            ),
            "layers": [self.blob(compressed(layer, how), kind) for layer in layers],
        }
        return self.blob(json.dumps(document).encode(), document["mediaType"])

    def tag(self, descriptor, tag):
        """Name it; the reference that skopeo, podman and silo take."""
        name = {"org.opencontainers.image.ref.name": tag}
        self.manifests.append({**descriptor, "annotations": name})
        self.index()
        return f"oci:{self.path}:{tag}"

    def image(self, layers, tag="t", **more):
        return self.tag(self.manifest(layers, **more), tag)
