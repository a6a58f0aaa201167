# SPDX-License-Identifier: Apache-2.0
"""The codec, alone and against protoc's own idea of the messages."""

import pathlib
import random
import shutil
import subprocess

import pytest

from silo import wire

PROTO = pathlib.Path(__file__).parents[2] / "plugins/transport/grpc/silo_v1.proto"

CALL = {
    "function": b"\x01" * 32,
    "code": b"\0\xff" * 300,
    "name": "hällo",
    "image": "python:3.11",
    "args": b"a",
    "timeout_ms": 1 << 40,
}
RESULT = {"outcome": "exit", "exit_code": -3, "value": b"v" * 200, "task": (1 << 63) - 1}


def filled(table, message):
    return {**wire.decode(table, b""), **message}


def test_round_trip():
    data = wire.encode(wire.CALL_REQUEST, CALL)
    assert wire.decode(wire.CALL_REQUEST, data) == filled(wire.CALL_REQUEST, CALL)
    event = wire.decode(wire.CALL_EVENT, wire.encode(wire.CALL_EVENT, {"result": RESULT}))
    assert event == {"accepted": None, "output": None, "result": filled(wire.RESULT, RESULT)}


def test_defaults_are_not_sent():
    assert wire.encode(wire.RESULT, {"outcome": "", "value": b"", "task": 0}) == b""
    assert wire.encode(wire.CALL_EVENT, {"accepted": {}}) == b"\x0a\x00"


def test_unknown_fields_are_skipped():
    # field 99: varint, fixed64, bytes, fixed32
    unknown = b"\x98\x06\x96\x01" + b"\x99\x06" + b"8" * 8 + b"\x9a\x06\x03abc" + b"\x9d\x064444"
    known = wire.encode(wire.ACCEPTED, {"task": 5})
    assert wire.decode(wire.ACCEPTED, unknown + known + unknown) == {"task": 5}


def test_a_message_that_comes_twice_is_merged():
    a = wire.encode(wire.CALL_EVENT, {"result": {"outcome": "exit", "task": 1}})
    b = wire.encode(wire.CALL_EVENT, {"result": {"task": 2}})
    merged = wire.decode(wire.CALL_EVENT, a + b)["result"]
    assert (merged["outcome"], merged["task"]) == ("exit", 2)


def test_unknown_names_are_refused():
    with pytest.raises(KeyError):
        wire.encode(wire.ACCEPTED, {"tsak": 1})


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",  # no value
        b"\x08" + b"\xff" * 10 + b"\x01",  # a number of 11 bytes
        b"\x0a\x05abc",  # longer than what is there
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # 2**64 - 1 bytes
        b"\x0b",  # start of a group
        b"\x02\x00",  # field number 0
        b"\x0d\x00\x00\x00\x00",  # outcome as fixed32
        b"\x19\x00",  # value as a cut fixed64
    ],
)
def test_malformed(data):
    with pytest.raises(wire.WireError):
        wire.decode(wire.RESULT, data)


def test_every_prefix_and_random_bytes_end_well():
    whole = wire.encode(wire.CALL_EVENT, {"result": RESULT})
    rng = random.Random(1)
    inputs = [whole[:i] for i in range(len(whole))]
    inputs += [rng.randbytes(rng.randrange(40)) for _ in range(2000)]
    for data in inputs:
        try:
            wire.decode(wire.CALL_EVENT, data)
        except wire.WireError:
            pass


def protoc(direction, message, data):
    command = ["protoc", f"--{direction}=silo.v1.{message}", f"-I{PROTO.parent}", PROTO.name]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


@pytest.mark.skipif(not shutil.which("protoc"), reason="no protoc")
def test_against_protoc():
    text = protoc("decode", "CallRequest", wire.encode(wire.CALL_REQUEST, CALL)).decode()
    assert 'name: "h\\303\\244llo"' in text
    assert "timeout_ms: 1099511627776" in text
    data = protoc("encode", "CallRequest", text.encode())
    assert wire.decode(wire.CALL_REQUEST, data) == filled(wire.CALL_REQUEST, CALL)
    text = protoc("decode", "CallEvent", wire.encode(wire.CALL_EVENT, {"result": RESULT})).decode()
    assert "exit_code: -3" in text
    data = protoc("encode", "CallEvent", text.encode())
    assert wire.decode(wire.CALL_EVENT, data)["result"] == filled(wire.RESULT, RESULT)


@pytest.mark.skipif(not shutil.which("protoc"), reason="no protoc")
@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("HelloRequest", wire.HELLO_REQUEST),
        ("HelloReply", wire.HELLO_REPLY),
        ("CallRequest", wire.CALL_REQUEST),
        ("Accepted", wire.ACCEPTED),
        ("Output", wire.OUTPUT),
        ("Result", wire.RESULT),
        ("GetFunctionRequest", wire.GET_FUNCTION_REQUEST),
        ("Function", wire.FUNCTION),
    ],
)
def test_tables_agree_with_the_proto(name, table):
    """Each field, by its number, name and kind: protoc prints what it was given."""
    values = {"int": 3, "bytes": b"x", "string": "x"}
    message = {field: values[kind] for field, kind in table.values()}
    printed = protoc("decode", name, wire.encode(table, message)).decode().split("\n")
    wanted = {f"{f}: {3 if k == 'int' else chr(34) + 'x' + chr(34)}" for f, k in table.values()}
    assert set(filter(None, printed)) == wanted
