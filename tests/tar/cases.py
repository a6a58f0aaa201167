# SPDX-License-Identifier: Apache-2.0
"""The reader of layers against tars made by hand; prints TAP.

Each case is a blob and what comes out: entries, of which the named fields are compared, or an
error. Each is read twice: in pieces of a few bytes with a thread that decompresses ahead, and
in large ones on one processor, where there is no such thread.
"""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zlib

from make import (
    BLOCK,
    END,
    GNU,
    file,
    header,
    long_name,
    old_sparse,
    padded,
    pax,
)

FILE, DIR, SYMLINK, HARDLINK, CHAR, BLOCKDEV, FIFO, WHITEOUT, OPAQUE = range(1, 10)
CASES = []


def case(title, blob, *entries, error=None, **options):
    CASES.append((title, blob, entries, error, options))


def entry(path, type=FILE, data=None, **fields):
    fields.update(path=path.hex(), type=type)
    if "target" in fields:
        fields["target"] = fields["target"].hex()
    if "xattrs" in fields:
        fields["xattrs"] = {k: v.hex() for k, v in fields["xattrs"].items()}
    if data is not None:
        fields.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    return fields


def zstd(data):
    return subprocess.run(["zstd", "-cq"], input=data, stdout=subprocess.PIPE, check=True).stdout


# -- names ----------------------------------------------------------------------------

LONG = b"n" * 255
DEEP = b"/".join([b"d%03d" % i for i in range(100)]) + b"/f"
ODD = [b"new\nline", b"\xff\xfe\x80", b" ", b"a\\b\"c'", b"e\xcc\x81", b"\xc3\xa9", b"\x1b[2J"]

case("odd names in headers", b"".join(file(n) for n in ODD) + END, *[entry(n) for n in ODD])
case(
    "odd names in pax headers",
    b"".join(pax((b"path", n)) + file(b"x") for n in ODD) + END,
    *[entry(n) for n in ODD],
)
case(
    "a name of 255 bytes and a path 100 deep, in pax and GNU headers",
    b"".join(pax((b"path", n)) + file(b"x") + long_name(n) + file(b"x") for n in (LONG, DEEP))
    + END,
    *[entry(n) for n in (LONG, LONG, DEEP, DEEP)],
)
case(
    "prefix and name fill their fields, without NULs",
    file(b"n" * 100, prefix=b"p" * 155) + END,
    entry(b"p" * 155 + b"/" + b"n" * 100),
)
case(
    "star's shorter prefix",
    file(b"n", prefix=b"p" * 131 + b"00000000000\0", at={508: b"tar\0"}) + END,
    entry(b"p" * 131 + b"/n"),
)
case(
    "GNU headers have times where others have a prefix",
    file(b"n", magic=GNU, prefix=b"12345670123\00012345670123\0") + END,
    entry(b"n"),
)
case(
    "but Go before 1.8 wrote a prefix there",
    file(b"n", magic=GNU, prefix=b"some/where") + END,
    entry(b"some/where/n"),
)
case(
    "long targets, GNU's and pax",
    long_name(b"t" * 300, b"K") + file(b"l", type=b"2", link=b"short")
    + pax((b"linkpath", b"\xff/" * 200)) + file(b"m", type=b"1", link=b"short") + END,
    entry(b"l", SYMLINK, target=b"t" * 300),
    entry(b"m", HARDLINK, target=b"\xff/" * 200),
)  # fmt: skip
case(
    "a long name wins over pax, and both are for one entry only",
    pax((b"path", b"pax")) + long_name(b"gnu") + file(b"block") + file(b"next") + END,
    entry(b"gnu"),
    entry(b"next"),
)
case(
    "of two pax headers the last, of two records the last, an empty one takes back",
    pax((b"path", b"a"), (b"uid", b"7")) + pax((b"path", b"b"), (b"path", b"c")) + file(b"x")
    + pax((b"path", b"a"), (b"path", b"")) + file(b"y") + END,
    entry(b"c", uid=0),
    entry(b"y"),
)  # fmt: skip
case(
    "global headers change nothing",
    pax((b"path", b"all"), (b"uid", b"5"), type=b"g") + file(b"x", b"y") + END,
    entry(b"x", data=b"y", uid=0),
)
case("v7", file(b"old", b"x", type=b"\0", magic=bytes(8)) + END, entry(b"old", data=b"x"))
case(
    "a folder of v7 is one by its slash",
    file(b"d/", type=b"\0", magic=bytes(8), mode=0o755) + END,
    entry(b"d/", DIR, mode=0o755),
)
case("the root says nothing", file(b"./", type=b"5") + file(b"/", type=b"5") + END)
case("a checksum of signed bytes", file(b"\xff\xff", signed=True) + END, entry(b"\xff\xff"))

# -- numbers ----------------------------------------------------------------------------

case(
    "times before 1970, with fractions",
    b"".join(
        pax((b"mtime", t)) + file(b"x", mtime=99)
        for t in (b"-0.5", b"-1.5", b"-1", b"-1.000000001", b"0.0000000019", b"1.", b"1e9"[:1])
    )
    + END,
    entry(b"x", mtime=-1, nsec=500000000),
    entry(b"x", mtime=-2, nsec=500000000),
    entry(b"x", mtime=-1, nsec=0),
    entry(b"x", mtime=-2, nsec=999999999),
    entry(b"x", mtime=0, nsec=1),
    entry(b"x", mtime=1, nsec=0),
    entry(b"x", mtime=1, nsec=0),
)
case(
    "binary numbers: a time before 1970, owners of 32 bits",
    file(b"x", mtime=-5, uid=4294967294, gid=3000000000, magic=GNU) + END,
    entry(b"x", mtime=-5, uid=4294967294, gid=3000000000),
)
case(
    "a binary size",
    header(b"x", size=b"\x80" + (3).to_bytes(11, "big")) + padded(b"abc") + END,
    entry(b"x", data=b"abc"),
)
case(
    "owners of 32 bits in pax",
    pax((b"uid", b"4294967295"), (b"gid", b"2147483648")) + file(b"x") + END,
    entry(b"x", uid=4294967295, gid=2147483648),
)
case(
    "set-id and sticky bits; bits of the type are left out",
    file(b"x", mode=0o107755) + file(b"d", type=b"5", mode=0o1777) + END,
    entry(b"x", mode=0o7755),
    entry(b"d", DIR, mode=0o1777),
)
case(
    "devices with 12 and 20 bits, fifos",
    file(b"c", type=b"3", major=4095, minor=1048575)
    + file(b"b", type=b"4", major=8, minor=1)
    + file(b"p", type=b"6")
    + END,
    entry(b"c", CHAR, major=4095, minor=1048575),
    entry(b"b", BLOCKDEV, major=8, minor=1),
    entry(b"p", FIFO, major=0, minor=0),
)
case(
    "fields with spaces, without numbers, with rubbish behind a NUL",
    file(b"x", b"abc", mode=b"  644 \0 ", uid=b"\0" * 8, gid=b"7\0rubbis", mtime=b" 17 \0") + END,
    entry(b"x", data=b"abc", mode=0o644, uid=0, gid=7, mtime=15),
)

# -- kinds -----------------------------------------------------------------------------

case(
    "links, folders and devices have no bytes, whatever their size",
    b"".join(
        header(b"x", t, 1000, link=b"y", major=1) for t in (b"1", b"2", b"3", b"4", b"5", b"6")
    ) + file(b"z", b"end") + END,
    *[entry(b"x", t, size=0) for t in (HARDLINK, SYMLINK, CHAR, BLOCKDEV, DIR, FIFO)],
    entry(b"z", data=b"end"),
)  # fmt: skip
case("a contiguous file", file(b"x", b"abc", type=b"7") + END, entry(b"x", data=b"abc"))
case(
    "extended attributes: binary, empty, the last of two, bsdtar's other spelling left out",
    pax(
        (b"SCHILY.xattr.user.b", b"\0\n=\xff"),
        (b"SCHILY.xattr.user.e", b""),
        (b"SCHILY.xattr.user.t", b"1"),
        (b"SCHILY.xattr.user.t", b"2"),
        (b"LIBARCHIVE.xattr.user.b", b"AAo9/w"),
    )
    + file(b"x")
    + file(b"y")
    + END,
    entry(b"x", xattrs={"user.b": b"\0\n=\xff", "user.t": b"2"}),
    entry(b"y", xattrs={}),
)
case(
    "whiteouts, with and without slash and bytes",
    file(b"d/.wh.a", b"ignored") + file(b".wh.b/", type=b"5") + file(b"d/.wh..wh..opq")
    + file(b".wh..wh..opq") + file(b".wh..wh.plnk/1") + file(b"d/.wh..wh.aufs")
    + file(b".whx") + END,
    entry(b"d/a", WHITEOUT),
    entry(b"b", WHITEOUT),
    entry(b"d/.", OPAQUE),
    entry(b".", OPAQUE),
    entry(b".wh..wh.plnk/1"),
    entry(b"d/.wh.aufs", WHITEOUT),
    entry(b".whx"),
)  # fmt: skip

case(
    "overlayfs' own marks",
    file(b"d/a", type=b"3") + pax((b"SCHILY.xattr.trusted.overlay.opaque", b"y"),
    (b"SCHILY.xattr.trusted.overlay.origin", b"x"), (b"SCHILY.xattr.user.a", b"b"))
    + file(b"d", type=b"5") + END,
    entry(b"d/a", WHITEOUT),
    entry(b"d", OPAQUE),
    entry(b"d", DIR, xattrs={"user.a": b"b"}),
)  # fmt: skip

# -- ends ------------------------------------------------------------------------------

ONE = file(b"a", b"some bytes")
case("nothing at all", b"")
case("1024 zeros", END)
case("one block of zeros", bytes(BLOCK))
case("no end", ONE, entry(b"a", data=b"some bytes"))
case("half an end", ONE + bytes(BLOCK), entry(b"a"))
case("a last file without padding", ONE[: BLOCK + 10], entry(b"a", data=b"some bytes"))
case("half its padding", ONE[: BLOCK + 100], entry(b"a", data=b"some bytes"))
case("padding to a record, and rubbish", ONE + END + bytes(8192) + b"rubbish", entry(b"a"))
case("cut within bytes", ONE[: BLOCK + 9], error="L: a: the tar is cut short")
case("cut within a header", ONE[:300], error="its first entry: the tar is cut short")
case("cut after an entry", ONE + ONE[:300], error="after a: the tar is cut short")
case("cut within the end", ONE + bytes(700), error="after a: the tar is cut short")
case("cut behind a pax header", ONE + pax((b"path", b"b")), error="the tar is cut short")
case("cut within a pax header", ONE + pax((b"path", b"b"))[:520], error="the tar is cut short")
case("zeros, then not", ONE + bytes(BLOCK) + ONE, error="after a: one block of zeros")
case("no tar", b"<!DOCTYPE html>" * 99, error="this is no tar")
case("a damaged header", ONE + ONE[:9] + b"!" + ONE[10:], error="after a: .* wrong checksum")

# -- nonsense ----------------------------------------------------------------------------

for kind, what in ((b"path", "path"), (b"linkpath", "linkpath")):
    case(
        f"a NUL in a pax {what}",
        pax((kind, b"evil\0name")) + file(b"innocent") + END,
        error=f"L: innocent: its {what} holds a NUL",
    )
for text in (
    b"5 a=",
    b"99999 a=b\n",
    b"6 a=b!",
    b"6 =bb\n",
    b"x a=b\n",
    b"6  a=b\n5 ab\n",
    b"5 a=b",
    b"99999999999999999999999 a=b\n",
    b"7 a\0=b\n",
    b"0 a=b\n",
    b"-6 a=b\n",
):
    case(
        f"a pax header of {text!r}",
        file(b"p", text, type=b"x") + file(b"victim") + END,
        error="victim: its pax header is damaged",
    )
for key, value, why in (
    (b"size", b"abc", "size is no number"),
    (b"size", b"-1", "size is negative"),
    (b"size", b"9223372036854775808", "size is no number"),
    (b"uid", b"1.5", "uid is no number"),
    (b"uid", b"4294967296", "owner 4294967296:0 is out of range"),
    (b"gid", b"-1", "owner 0:-1 is out of range"),
    (b"mtime", b"1.5x", "mtime is no time"),
    (b"mtime", b".5", "mtime is no time"),
    (b"mtime", b"99999999999999999999", "mtime is no time"),
):
    case(f"pax {key.decode()}={value.decode()}", pax((key, value)) + file(b"v") + END, error=why)
case("a size that is no number", header(b"v", size=b"12x4567") + END, error="this is no tar|none")
case("a size of 2^80", ONE + header(b"v", size=b"\x80\x01" + bytes(10)) + END, error="a number")
case("a type of other systems", ONE + file(b"v", type=b"V") + END, error="v: type 'V' is none")
case("a device out of range", file(b"v", type=b"3", major=-1, magic=GNU) + END, error="device")
case("a whiteout of nothing", file(b"d/.wh.") + END, error="hides nothing")
case("a whiteout of ..", file(b"d/.wh...") + END, error="hides nothing")
case("a thousand headers", pax((b"path", b"x")) * 1000 + file(b"x") + END, error="more than 64")
case(
    "a long name of 2 MiB",
    long_name(b"n" * (2 << 20)) + file(b"x") + END,
    error="2097153 bytes, at most 1048576",
)
case(
    "more attributes than anybody has",
    pax(*((b"SCHILY.xattr.user.%d" % i, b"x") for i in range(1100))) + file(b"v") + END,
    error="v: more than 1024 extended attributes",
)
case(
    "a bomb behind the end",
    gzip.compress(ONE + END + bytes(70 << 20), 1),
    error="belong to no file",
    pieces=False,
)
case(
    "a bomb in a whiteout",
    gzip.compress(header(b".wh.x", size=1 << 40) + bytes(70 << 20), 1),
    error="belong to no file",
    pieces=False,
)
case(
    "a bomb of global headers",
    gzip.compress((file(b"g", bytes(8 << 20), type=b"g") + file(b"f")) * 20, 1),
    error="belong to no file",
    pieces=False,
)

# -- sparse files ---------------------------------------------------------------------------

SPARSE = bytes(1000) + b"abc" + bytes(4000) + b"defg" + bytes(93)
PARTS = [(1000, 3), (5003, 4)]
KNOWN = (b"GNU.sparse.size", b"%d" % len(SPARSE))
COUNT = (b"GNU.sparse.numblocks", b"2")
MAP_1_0 = padded(b"2\n1000\n3\n5003\n4\n") + b"abcdefg"
case(
    "a sparse file of GNU's",
    old_sparse(b"s", PARTS, len(SPARSE), b"abcdefg") + file(b"next") + END,
    entry(b"s", data=SPARSE),
    entry(b"next"),
)
MANY = [(i * 1000, 1) for i in range(40)]
case(
    "a sparse file of GNU's with more parts than its header holds",
    old_sparse(b"s", MANY[:4], 40000, b"x" * 40, [MANY[4:25], MANY[25:]]) + file(b"next") + END,
    entry(b"s", data=(b"x" + bytes(999)) * 40),
    entry(b"next"),
)
case(
    "pax 0.0",
    pax(KNOWN, COUNT, *((k, b"%d" % v) for part in PARTS for k, v in
        zip((b"GNU.sparse.offset", b"GNU.sparse.numbytes"), part)))
    + file(b"s", b"abcdefg") + file(b"next") + END,
    entry(b"s", data=SPARSE),
    entry(b"next"),
)  # fmt: skip
case(
    "pax 0.1",
    pax(KNOWN, COUNT, (b"GNU.sparse.map", b"1000,3,5003,4"), (b"GNU.sparse.name", b"s"))
    + file(b"GNUSparseFile.1/s", b"abcdefg") + file(b"next") + END,
    entry(b"s", data=SPARSE),
    entry(b"next"),
)  # fmt: skip
ONE_ZERO = ((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"s"))
case(
    "pax 1.0",
    pax(*ONE_ZERO, (b"GNU.sparse.realsize", b"%d" % len(SPARSE))) + file(b"x", MAP_1_0)
    + file(b"next") + END,
    entry(b"s", data=SPARSE),
    entry(b"next"),
)  # fmt: skip
WIDE = b"".join(b"%d\n%d\n" % part for part in MANY * 1)
case(
    "pax 1.0, its map over several blocks, a hole of 5 MB at the end",
    pax(*ONE_ZERO, (b"GNU.sparse.realsize", b"5000000"))
    + file(b"x", padded(b"40\n" + WIDE) + b"x" * 40) + END,
    entry(b"s", data=((b"x" + bytes(999)) * 40).ljust(5000000, b"\0")),
)  # fmt: skip
case(
    "a hole and nothing else",
    pax(*ONE_ZERO, (b"GNU.sparse.realsize", b"70000")) + file(b"x", padded(b"0\n")) + END,
    entry(b"s", data=bytes(70000)),
)
for title, parts in (
    ("overlap", b"1000,3,1002,4"),
    ("run backwards", b"5000,3,1000,4"),
    ("end behind the file", b"1000,3,%d,4" % (len(SPARSE) - 3)),
    ("are negative", b"1000,-3,5000,10"),
    ("overflow", b"1000,3,9223372036854775807,4"),
    ("are more than the bytes", b"1000,3,5000,5"),
    ("are less than the bytes", b"1000,3,5000,3"),
    ("are no numbers", b"1000,3,x,4"),
    ("come to half a pair", b"1000,3,5000"),
):
    case(
        f"parts that {title}",
        pax(KNOWN, COUNT, (b"GNU.sparse.map", parts)) + file(b"v", b"abcdefg") + END,
        error="v: its map of a sparse file makes no sense",
    )
case(
    "an offset without length",
    pax(KNOWN, COUNT, (b"GNU.sparse.offset", b"5")) + file(b"v", b"abcdefg") + END,
    error="v: its map of a sparse file is cut short",
)
for text in (b"", b"2", b"2\n1000\n3\n", b"9999999999\n" + b"1\n1\n" * 200, b"-1\n5\n", b"1" * 600):
    case(
        f"a map of {text[:12]!r}",
        pax(*ONE_ZERO, (b"GNU.sparse.realsize", b"9000")) + file(b"v", padded(text)) + END,
        error="its map of a sparse file makes no sense",
    )
case(
    "a map that continues behind the tar's end",
    old_sparse(b"v", MANY[:4], 40000, b"", [MANY[4:25], MANY[25:]])[: BLOCK * 2],
    error="v: the tar is cut short",
)

# -- compression --------------------------------------------------------------------------

TAR = b"".join(file(b"f%d" % i, os.urandom(700) + bytes(9000)) for i in range(40)) + END
LIST = [entry(b"f%d" % i, size=9700) for i in range(40)]
GZ, ZS = gzip.compress(TAR), zstd(TAR)
SKIP = b"\x55\x2a\x4d\x18\x04\0\0\0skip"
case("gzip", GZ, *LIST)
case("zstd", ZS, *LIST)
case("gzip in members, some empty", b"".join(
    gzip.compress(TAR[i : i + 50001]) + gzip.compress(b"") for i in range(0, len(TAR), 50001)
), *LIST)  # fmt: skip
case("zstd in frames, some to be skipped", SKIP + zstd(TAR[:70001]) + SKIP + zstd(b"")
     + zstd(TAR[70001:]) + SKIP, *LIST)  # fmt: skip
case("gzip that is stored, not compressed", gzip.compress(TAR, 0), *LIST)
named = io.BytesIO()
with gzip.GzipFile("layer.tar", "wb", fileobj=named, mtime=1) as out:
    out.write(TAR)
case("gzip with a file's name", named.getvalue(), *LIST)
case("gzip of nothing", gzip.compress(b""))
case("zstd of nothing", zstd(b""))
for title, blob in (("gzip", GZ), ("zstd", ZS)):
    for cut in (2, 5, len(blob) // 2, len(blob) - 1):
        if cut > 4:
            case(f"{title} cut to {cut} bytes", blob[:cut], error="compressed data are cut short")
    case(f"{title}, then zeros", blob + bytes(512), error="compressed data")
    case(f"{title}, then rubbish", blob + b"rubbish", error="compressed data")
    half = len(blob) // 2
    damaged = blob[:half] + bytes([blob[half] ^ 0x55]) + blob[half + 1 :]
    case(f"{title} with a wrong byte", damaged, error="compressed data|L: ")
case("gzip with a wrong checksum", GZ[:-8] + bytes(4) + GZ[-4:], error="compressed data")
case("gzip with a wrong length", GZ[:-4] + bytes(4), error="compressed data")
case("zstd with a wrong checksum", ZS[:-4] + bytes(4), error="compressed data")
case("zlib without gzip", zlib.compress(TAR), error="this is no tar")
case("xz", lzma.compress(TAR), error="compressed by xz")
case("bzip2", bz2.compress(TAR), error="this is no tar|cut short")
case("somebody gives up", GZ, error="stopped", arguments=["--stop-after", "7"])


# -- what programs write --------------------------------------------------------------------


def written(format):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, data in (("a" * 90 + "/" + "b" * 99, b"1"), ("\u00e9", b"22")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.uid = 2000000 if format == tarfile.USTAR_FORMAT else 3000000000
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


for name, format in (("ustar", 0), ("GNU", 1), ("pax", 2)):
    uid = 3000000000 if format else 2000000
    case(
        f"Python's tarfile, {name}",
        written(format),
        entry(b"a" * 90 + b"/" + b"b" * 99, data=b"1", uid=uid),
        entry("\u00e9".encode(), data=b"22", uid=uid),
    )


def sparse_by_tar():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "s")
        data = bytearray(600000)
        with open(path, "wb") as f:
            f.truncate(len(data))
            for i in range(0, 590000, 32768):
                f.seek(i)
                f.write(b"part")
                data[i : i + 4] = b"part"
        for arguments in (
            ["gnu"],
            *(["pax", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0")),
        ):
            command = ["tar", "-C", folder, "-S", "--format=" + arguments[0], *arguments[1:]]
            blob = subprocess.run([*command, "-c", "s"], stdout=subprocess.PIPE, check=True).stdout
            assert len(blob) < len(data)
            title = "GNU tar -S, " + " ".join(arguments)
            case(title, blob, entry(b"s", data=bytes(data)), pieces=False)


sparse_by_tar()

# -- running ----------------------------------------------------------------------------------


def listed(program, path, *arguments, prefix=()):
    done = subprocess.run([*prefix, program, *arguments, path], stdout=subprocess.PIPE, timeout=120)
    lines = [json.loads(line) for line in done.stdout.decode("utf-8", "replace").splitlines()]
    if not lines or done.returncode not in (0, 1):
        return None, f"{os.path.basename(program)} ended with {done.returncode}"
    return lines[:-1], lines[-1]["error"]


def wrong(blob, entries, error, got, message):
    """What is not as expected, or None."""
    if got is None:
        return message
    if error is not None:
        return None if re.search(error, message) else f"expected {error!r}, got {message!r}"
    if message:
        return message
    if len(got) != len(entries):
        return f"{len(got)} entries, expected {len(entries)}"
    for have, want in zip(got, entries):
        for key, value in want.items():
            if have.get(key) != value:
                return f"{bytes.fromhex(want['path'])!r}: {key} {have.get(key)!r}, not {value!r}"
    return None


def main(program):
    one_cpu = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "blob")
        failed = 0
        for number, (title, blob, entries, error, options) in enumerate(CASES, 1):
            with open(path, "wb") as f:
                f.write(blob)
            more = options.get("arguments", [])
            pieces = ["--chunk", "3"] if options.get("pieces", True) else []
            runs = {
                "two threads": listed(program, path, *more, *pieces),
                "one thread": listed(program, path, *more, prefix=one_cpu),
            }
            said = {how: wrong(blob, entries, error, *run) for how, run in runs.items()}
            bad = {how: what for how, what in said.items() if what}
            failed += bool(bad)
            print(f"{'not ok' if bad else 'ok'} {number} - {title}", flush=True)
            for how, what in bad.items():
                print(f"# {how}: {what}", flush=True)
    print(f"1..{len(CASES)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
