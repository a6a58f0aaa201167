# SPDX-License-Identifier: Apache-2.0
"""What test_transports.py is made of: protobuf by hand, a daemon, raw sockets."""

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile

import grpc

SILO = os.environ.get("SILO", "silo")
KEY = "sesame"
WITH_KEY = (("x-api-key", KEY),)
HELLO = "/silo.v1.Silo/Hello"
CALL = "/silo.v1.Silo/Call"
GET_PACKAGE = "/silo.Silo/GetPackage"


# -- protobuf by hand ------------------------------------------------------------


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number, value):
    """A length-delimited field, or a number."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def parse(data):
    """{number: value} of a message; the last one of each number."""
    fields, at = {}, 0

    def number():
        nonlocal at
        shift = value = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = number()
        if tag & 7 == 0:
            fields[tag >> 3] = number()
        else:
            assert tag & 7 == 2, f"wire type {tag & 7}"
            size = number()
            fields[tag >> 3] = data[at : at + size]
            at += size
    return fields


# -- the daemon ---------------------------------------------------------------------


class Daemon:
    """silo serve on a state folder of its own; ports are the kernel's choice."""

    def __init__(self, key="", more=""):
        self.state = tempfile.mkdtemp(prefix="silo-tr.")
        self.log = os.path.join(self.state, "log")
        self.ini = os.path.join(self.state, "silo.ini")
        with open(self.ini, "w") as f:
            f.write(
                f"[silo]\nstate = {self.state}/state\n"
                f"[transport.grpc]\nlisten = 127.0.0.1:0 unix:grpc.sock\napi_key = {key}\n"
                f"max_message = 1M\nreceive_timeout = 2s\n{more}"
                f"[transport.http]\nlisten = 127.0.0.1:0 unix:http.sock\napi_key = {key}\n"
                f"max_body = 1M\nreceive_timeout = 2s\n{more}"
            )
        self.process = None
        try:
            self.start()
        except BaseException:
            if self.process:
                self.process.kill()
                self.process.wait()
            shutil.rmtree(self.state)
            raise

    def start(self):
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [SILO, "serve", "--config", self.ini], stdin=subprocess.DEVNULL, stderr=log
            )
        subprocess.run([SILO, "status", "--wait", "30", "--config", self.ini], check=True)
        with open(self.log) as f:
            text = f.read()
        self.grpc = re.search(r'transport\.grpc msg="listening on (127\S+?)"', text)[1]
        self.http = re.search(r'transport\.http msg="listening on (127\S+?)"', text)[1]
        self.grpc_socket = f"{self.state}/state/grpc.sock"
        self.http_socket = f"{self.state}/state/http.sock"
        self.bridge_socket = f"{self.state}/state/run/bridge/bridge.sock"
        self.channel = grpc.insecure_channel(
            self.grpc, options=[("grpc.use_local_subchannel_pool", 1)]
        )

    def run(self, *args):
        return subprocess.run(
            [SILO, *args, "--config", self.ini], check=True, capture_output=True, text=True
        ).stdout

    def stop(self):
        self.channel.close()
        self.process.terminate()
        status = self.process.wait(60)
        with open(self.log) as f:
            log = f.read()
        shutil.rmtree(self.state)
        assert status == 0, log
        assert "Sanitizer" not in log, log

    def unary(self, method, message, metadata=(), channel=None, **kwargs):
        """The response's bytes, or (status, details)."""
        try:
            return (channel or self.channel).unary_unary(method)(
                message, metadata=metadata, timeout=60, **kwargs
            )
        except grpc.RpcError as e:
            return e.code().name, e.details()

    def call(self, message, metadata=()):
        return self.channel.unary_stream(CALL)(message, metadata=metadata, timeout=60)

    def request(self, method, path, body=None, headers=None, address=None):
        """(status, body) over HTTP; JSON is parsed."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = connect(address or self.http)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            data = answer.read()
            if answer.getheader("content-type") == "application/json":
                data = json.loads(data)
            return answer.status, data
        finally:
            connection.close()

    def alive(self):
        assert self.unary(HELLO, b"")[:1] == b"\x0a"
        assert self.request("GET", "/healthz") == (200, b"ok\n")
        assert self.process.poll() is None


def connect(address):
    if address.startswith("/"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(address)
        return sock
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), 20)


def exchange(address, data, end=False):
    """Send raw bytes, and that there are no more; what comes back until the other side closes."""
    with connect(address) as sock:
        answer = b""
        try:
            sock.sendall(data)
            if end:
                with contextlib.suppress(OSError):  # the other side may have closed already
                    sock.shutdown(socket.SHUT_WR)
            while more := sock.recv(65536):
                answer += more
        except (ConnectionResetError, BrokenPipeError):
            pass
        return answer
