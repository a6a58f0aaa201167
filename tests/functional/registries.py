# SPDX-License-Identifier: Apache-2.0
"""Registries that misbehave: the blobs of a Layout, served by threads of the test."""

import http.server
import json
import os
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def send(
        self,
        body,
        status=200,
        kind="application/octet-stream",
        length=None,
        digest=None,
    ):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def do_GET(self):
        try:
            self.server.registry.answer(self)
        except OSError:  # skopeo was ended
            self.close_connection = True


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, *_):
        pass


class Misbehaving:
    """http://127.0.0.1:port of one Layout.

    tags: {tag: [descriptor, ...]}; each request takes the first, the last one stays.
    faults: {part of a path: what to do instead of sending the body}.
    """

    def __init__(self, layout):
        self.layout = layout
        self.tags = {}
        self.faults = {}
        self.requests = []
        self.reached = threading.Event()  # a fault that waits
        self.over = threading.Event()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.registry = self
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def reference(self, name):
        return f"docker://127.0.0.1:{self.server.server_port}/{name}"

    def push(self, name, descriptor):
        self.tags[name.partition(":")[2]] = [descriptor]
        return self.reference(name)

    def close(self):
        self.over.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def fetched(self, what="/blobs/"):
        """What was asked for since the last time."""
        found = [r.rpartition("/")[2] for r in self.requests if what in r]
        self.requests.clear()
        return found

    def answer(self, handler):
        path = handler.path
        self.requests.append(path)
        if path == "/v2/":
            return handler.send(b"{}", kind="application/json")
        _, what, name = path.rsplit("/", 2)
        kind = "application/octet-stream"
        if what == "manifests" and name in self.tags:
            many = self.tags[name]
            name = (many.pop(0) if len(many) > 1 else many[0])["digest"]
        file = f"{self.layout.path}/blobs/{name.replace(':', '/')}"
        body = b""
        if os.path.exists(file):
            with open(file, "rb") as f:
                body = f.read()
        if what == "manifests" and body:
            kind = json.loads(body).get("mediaType", kind)
        for part, fault in self.faults.items():
            if part in path:
                return fault(self, handler, body)
        if not body:
            code = {"manifests": "MANIFEST_UNKNOWN", "blobs": "BLOB_UNKNOWN"}[what]
            message = {"code": code, "message": code.replace("_", " ").lower()}
            return handler.send(json.dumps({"errors": [message]}).encode(), 404)
        return handler.send(body, kind=kind, digest=name)


# -- faults --------------------------------------------------------------------


def status(number, text=b"out of order"):
    return lambda registry, handler, body: handler.send(text, number)


def garbage(_registry, handler, _body):
    handler.send(b"<html>welcome to the hotel</html>", kind="text/html")


def cut(_registry, handler, body):
    """The connection breaks in the middle."""
    handler.send(body[: len(body) // 2], length=len(body))
    handler.close_connection = True
    handler.connection.close()


def other_bytes(_registry, handler, body):
    handler.send(body[:-1] + bytes([body[-1] ^ 1]))


def redirects(_registry, handler, _body):
    """To itself, for ever."""
    handler.send_response(307)
    handler.send_header("Location", handler.path)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def padded(_registry, handler, body):
    """A manifest of megabytes."""
    handler.send(body + b" " * (5 << 20), kind=json.loads(body)["mediaType"])


def padded_a_little(_registry, handler, body):
    """The same manifest, but not of its digest."""
    handler.send(body + b" ", kind=json.loads(body)["mediaType"])


def longer(_registry, handler, body):
    """Good JSON, but another document."""
    handler.send(body + b" ", kind=json.loads(body)["mediaType"])


def endless(_registry, handler, body):
    """More than was promised, without a length."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True
    while True:
        handler.wfile.write(body + bytes(1 << 20))


def hang(registry, handler, body):
    """Half of it, then nothing until the test is over."""
    handler.send(body[: len(body) // 2], length=len(body))
    registry.reached.set()
    registry.over.wait()


def never(registry, _handler, _body):
    """Not even a header."""
    registry.reached.set()
    registry.over.wait()
