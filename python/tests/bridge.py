# SPDX-License-Identifier: Apache-2.0
"""A bridge for one worker, as docs/formats/bridge.md describes it, and the runner on it."""

import hashlib
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading

import cloudpickle

RUNNER = os.path.join(os.path.dirname(os.path.dirname(__file__)), "silo", "runner.py")
MARK = "0123456789abcdef" * 2
TOKEN = "secret-token"


class Reply:
    """A result that the runner posted, and the output before its marks."""

    def __init__(self, headers, body, out, err):
        import json

        self.outcome = headers["silo-outcome"]
        self.exit_code = int(headers["silo-exit"])
        self.marks = int(headers["silo-marks"])
        head = int(headers["silo-head"])
        self.head = json.loads(body[:head]) if head else None
        self.payload = body[head:]
        self.out, self.err = out, err
        self.headers = headers

    @property
    def value(self):
        assert self.outcome == "success", self.head
        return pickle.loads(self.payload)


class Stream(threading.Thread):
    """Reads a pipe; take () is what came before the next mark."""

    def __init__(self, file):
        super().__init__(daemon=True)
        self.file, self.data, self.ended = file, b"", False
        self.change = threading.Condition()
        self.start()

    def run(self):
        while True:
            data = os.read(self.file.fileno(), 1 << 20)
            with self.change:
                self.data += data
                self.ended = not data
                self.change.notify_all()
            if not data:
                return

    def take(self):
        mark = b"\x1e" + MARK.encode() + b"\n"
        with self.change:
            assert self.change.wait_for(lambda: mark in self.data or self.ended, 20)
            before, found, self.data = self.data.partition(mark)
            assert found, f"no mark after {before[-200:]!r}"
            return before


class Worker:
    """A started runner; the test is the daemon."""

    def __init__(self, folder, python=sys.executable, with_cloudpickle=True, cwd=None, env=None):
        runner = os.path.join(folder, "runner")
        os.mkdir(runner)
        shutil.copy(RUNNER, runner)
        if with_cloudpickle:
            shutil.copytree(os.path.dirname(cloudpickle.__file__), f"{runner}/cloudpickle")
        self.path = os.path.join(folder, "bridge.sock")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(4)
        self.listener.settimeout(20)
        self.process = subprocess.Popen(
            # -S: no site-packages, so that cloudpickle is the one beside the runner.
            [python, "-S", "-B", f"{runner}/runner.py"],
            env={
                "PATH": os.environ["PATH"],
                "SILO_SOCKET": self.path,
                "SILO_TOKEN": TOKEN,
                "SILO_MARK": MARK,
                **(env or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd or folder,
        )
        self.out, self.err = Stream(self.process.stdout), Stream(self.process.stderr)
        self.codes = {}
        self.code_requests = 0
        self.tasks = 0
        self.connection = None
        self.accept()
        self.expect("GET /v1/worker/next")

    def accept(self):
        if self.connection is not None:
            self.connection.close()
        self.connection, _ = self.listener.accept()
        self.connection.settimeout(20)
        self.file = self.connection.makefile("rb")

    def receive(self):
        """(request line without the version, headers, body) or None at the end."""
        line = self.file.readline().decode().rstrip("\r\n")
        if not line:
            return None
        headers = {}
        while text := self.file.readline().decode().rstrip("\r\n"):
            name, _, value = text.partition(": ")
            headers[name.lower()] = value
        assert headers["authorization"] == "Bearer " + TOKEN
        assert "host" in headers
        body = self.file.read(int(headers.get("content-length", 0)))
        method, _, version = line.rpartition(" ")
        assert version == "HTTP/1.1"
        return method, headers, body

    def expect(self, line):
        request = self.receive()
        assert request is not None
        assert request[0] == line
        return request

    def answer(self, status, headers=None, body=b""):
        lines = [f"HTTP/1.1 {status} Whatever"]
        lines += [f"{k}: {v}" for k, v in (headers or {}).items()]
        if status != 204:
            lines.append(f"Content-length: {len(body)}")
        self.connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    def send(self, code, args=(), kwargs=None, args_bytes=None):
        """Hand over a task of `code` (bytes); the requests up to its result are served."""
        digest = hashlib.sha256(code).hexdigest()
        self.codes[digest] = code
        self.tasks += 1
        args_bytes = cloudpickle.dumps(args) if args_bytes is None else args_bytes
        headers = {
            "Silo-Task": self.tasks,
            "Silo-Attempt": 1,
            "Silo-Function": digest,
            "Silo-Args": len(args_bytes),
        }
        self.answer(200, headers, args_bytes + cloudpickle.dumps(kwargs or {}))

    def result(self):
        """The next result; None when the runner is gone."""
        while True:
            request = self.receive()
            if request is None:
                return None
            line, headers, body = request
            if line.startswith("GET /v1/worker/code/"):
                self.code_requests += 1
                self.answer(200, {}, self.codes[line.rsplit("/", 1)[1]])
                continue
            assert line == "POST /v1/worker/result"
            assert headers["silo-next"] == "1"
            assert headers["silo-task"] == str(self.tasks)
            return Reply(headers, body, self.out.take(), self.err.take())

    def call(self, function, *args, **kwargs):
        """Run a function; its Reply."""
        self.send(cloudpickle.dumps(function), args, kwargs)
        return self.result()

    def end(self):
        """Dismiss the worker; its exit status."""
        self.answer(204)
        return self.process.wait(20)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()
        if self.connection is not None:
            self.connection.close()
        self.listener.close()
