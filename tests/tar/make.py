# SPDX-License-Identifier: Apache-2.0
"""Tars made by hand, block by block: also those that no program would write."""

BLOCK = 512
END = bytes(2 * BLOCK)


def octal(value, width):
    """A number as a header has it; negative or large ones are binary."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return bytes([0xFF if value < 0 else 0x80]) + value.to_bytes(width - 1, "big", signed=True)


def field(value, width):
    return value if isinstance(value, bytes) else octal(value, width)


def header(name, type=b"0", size=0, **given):
    """One block. Numbers may be given as bytes, to be taken as they are."""
    magic = given.get("magic", b"ustar\x0000")
    block = bytearray(BLOCK)

    def put(at, data, width):
        assert len(data) <= width, data
        block[at : at + len(data)] = data

    put(0, name, 100)
    put(100, field(given.get("mode", 0o644), 8), 8)
    put(108, field(given.get("uid", 0), 8), 8)
    put(116, field(given.get("gid", 0), 8), 8)
    put(124, field(size, 12), 12)
    put(136, field(given.get("mtime", 0), 12), 12)
    put(148, b" " * 8, 8)
    put(156, type, 1)
    put(157, given.get("link", b""), 100)
    put(257, magic, 8)
    put(329, field(given.get("major", 0), 8), 8)
    put(337, field(given.get("minor", 0), 8), 8)
    put(345, given.get("prefix", b""), 155)
    for at, data in given.get("at", {}).items():
        put(at, data, BLOCK - at)
    sum_ = sum(c - 256 if c > 127 and given.get("signed") else c for c in block)
    put(148, given.get("checksum", b"%06o\0 " % sum_), 8)
    return bytes(block)


def padded(data):
    return data + bytes(-len(data) % BLOCK)


def file(name, data=b"", type=b"0", **given):
    return header(name, type, len(data), **given) + padded(data)


def record(key, value):
    """LENGTH KEY=VALUE, the length counting itself."""
    body = b" " + key + b"=" + value + b"\n"
    size = len(body)
    while len(b"%d" % size) + len(body) != size:
        size = len(b"%d" % size) + len(body)
    return b"%d" % size + body


def pax(*records, type=b"x"):
    return file(b"PaxHeaders/x", b"".join(record(k, v) for k, v in records), type)


GNU = b"ustar  \0"


def long_name(name, type=b"L"):
    return file(b"././@LongLink", name + b"\0", type, magic=GNU)


def old_sparse(name, parts, size, data, more=(), **given):
    """GNU's own sparse file: up to four parts in the header, 21 in each block of more."""

    def pairs(parts):
        return b"".join(field(o, 12) + field(n, 12) for o, n in parts)

    at = {386: pairs(parts), 482: b"\1" if more else b"\0", 483: field(size, 12)}
    blocks = b""
    for i, these in enumerate(more):
        blocks += pairs(these).ljust(504, b"\0") + (b"\1" if i + 1 < len(more) else b"\0")
        blocks = padded(blocks)
    return header(name, b"S", len(data), magic=GNU, at=at, **given) + blocks + padded(data)
