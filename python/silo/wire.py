# SPDX-License-Identifier: Apache-2.0
"""The messages of silo.v1 (plugins/transport/grpc/silo_v1.proto) as bytes.

A small protobuf codec, so that the client needs no protobuf package: a message is
a dict, described by a table {field number: (name, kind)}.  Kinds: "int" (int32 and
int64), "bytes", "string", or another table for a nested message.  Fields at their
default are not sent; absent ones read as the default, absent messages as None;
unknown fields are skipped.
"""

from __future__ import annotations

from typing import Any, Union

Table = dict[int, tuple[str, Union[str, "Table"]]]
Message = dict[str, Any]

HELLO_REQUEST: Table = {
    1: ("client", "string"),
    2: ("python", "string"),
    3: ("cloudpickle", "string"),
}
HELLO_REPLY: Table = {1: ("daemon", "string"), 2: ("max_message", "int")}
CALL_REQUEST: Table = {
    1: ("function", "bytes"),
    2: ("code", "bytes"),
    3: ("name", "string"),
    4: ("image", "string"),
    5: ("python", "string"),
    6: ("source", "string"),
    7: ("args", "bytes"),
    8: ("kwargs", "bytes"),
    9: ("timeout_ms", "int"),
}
ACCEPTED: Table = {1: ("task", "int")}
OUTPUT: Table = {1: ("stream", "int"), 2: ("data", "bytes")}
RESULT: Table = {
    1: ("outcome", "string"),
    2: ("exit_code", "int"),
    3: ("value", "bytes"),
    4: ("exception", "bytes"),
    5: ("type", "bytes"),
    6: ("message", "bytes"),
    7: ("traceback", "bytes"),
    8: ("task", "int"),
}
CALL_EVENT: Table = {1: ("accepted", ACCEPTED), 2: ("output", OUTPUT), 3: ("result", RESULT)}
GET_FUNCTION_REQUEST: Table = {1: ("name", "string")}
FUNCTION: Table = {
    1: ("name", "string"),
    2: ("digest", "bytes"),
    3: ("image", "string"),
    4: ("python", "string"),
    5: ("source", "string"),
    6: ("timeout_ms", "int"),
}

DEFAULTS = {"int": 0, "bytes": b"", "string": ""}
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """Bytes that are no message of the expected shape."""


def put_varint(out: bytearray, value: int) -> None:
    """Append `value`, an integer of 64 bits, negative ones in two's complement."""
    value &= 0xFFFFFFFFFFFFFFFF
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def get_varint(data: memoryview, at: int) -> tuple[int, int]:
    """(unsigned value, offset behind it)."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise WireError(f"a number that does not end at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7


def encode(table: Table, message: Message) -> bytes:
    """The bytes of `message`; KeyError for a name that the table does not have."""
    out = bytearray()
    known = 0
    for number, (name, kind) in table.items():
        if name not in message:
            continue
        known += 1
        value = message[name]
        if kind == "int":
            if value:
                put_varint(out, number << 3 | VARINT)
                put_varint(out, value)
            continue
        if isinstance(kind, dict):
            if value is None:
                continue
            value = encode(kind, value)
        elif not value:
            continue
        elif kind == "string":
            value = value.encode("utf-8", "replace")
        put_varint(out, number << 3 | LENGTH)
        put_varint(out, len(value))
        out += value
    if known != len(message):
        raise KeyError(
            f"not fields of this message: {set(message) - {n for n, _ in table.values()}}"
        )
    return bytes(out)


def decode(table: Table, data: bytes | memoryview) -> Message:
    """The message in `data`; WireError when it is malformed."""
    data = memoryview(data)
    message: Message = {
        name: None if isinstance(kind, dict) else DEFAULTS[kind] for name, kind in table.values()
    }
    at = 0
    while at < len(data):
        key, at = get_varint(data, at)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise WireError(f"field number 0 at byte {at}")
        start, at = field_end(data, at, wire_type)
        if number not in table:
            continue
        name, kind = table[number]
        if wire_type != (VARINT if kind == "int" else LENGTH):
            raise WireError(f"field {name} has wire type {wire_type}")
        if kind == "int":
            value, _ = get_varint(data, start)
            message[name] = value - (1 << 64) if value >> 63 else value
        else:
            message[name] = field_value(kind, data[start:at], message[name])
    return message


def field_end(data: memoryview, at: int, wire_type: int) -> tuple[int, int]:
    """(where the contents of a field start, where they end)."""
    if wire_type == VARINT:
        return at, get_varint(data, at)[1]
    if wire_type == LENGTH:
        size, at = get_varint(data, at)
    elif wire_type == FIXED64:
        size = 8
    elif wire_type == FIXED32:
        size = 4
    else:
        raise WireError(f"wire type {wire_type} at byte {at}")
    if size > len(data) - at:
        raise WireError(f"a field of {size} bytes at byte {at} of {len(data)}")
    return at, at + size


def field_value(kind: str | Table, data: memoryview, before: Any) -> Any:
    """A length-delimited field; a message that comes twice is merged, as protobuf does."""
    if kind == "bytes":
        return bytes(data)
    if kind == "string":
        return bytes(data).decode("utf-8", "replace")
    value = decode(kind, data)
    if before is not None:
        sent = decode_names(kind, data)
        value = {n: v if n in sent else before[n] for n, v in value.items()}
    return value


def decode_names(table: Table, data: memoryview) -> set[str]:
    """The names of the fields that are there."""
    names, at = set(), 0
    while at < len(data):
        key, at = get_varint(data, at)
        _, at = field_end(data, at, key & 7)
        if key >> 3 in table:
            names.add(table[key >> 3][0])
    return names
