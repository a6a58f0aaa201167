# SPDX-License-Identifier: Apache-2.0
"""Layers and images by hand, byte for byte: what no well-behaved tool would write.

`tar ()` makes a pax archive of entries: names and links are bytes, times are
nanoseconds of any sign, xattrs have any value.  `layout ()` makes an OCI layout.
"""

import dataclasses
import gzip
import hashlib
import json
import os
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
    records = [record(b"mtime", seconds(entry.mtime))]
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
        more = pax(entry)
        parts += [block(Entry(b"pax", b"x"), len(more)), padded(more)]
        parts += [block(entry, len(entry.data)), padded(entry.data)]
    return b"".join(parts) + b"\0" * 1024


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
