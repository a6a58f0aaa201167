# SPDX-License-Identifier: Apache-2.0
"""`silo index` in front of a user: its progress on terminals and elsewhere, Ctrl-C, --json.

A gate stands before the registry: it lets so many bytes of each layer pass, and so keeps an
import where a test wants to look at it.
"""

import fcntl
import http.client
import http.server
import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading

import nasty
import pytest
from instances import Instance, read, wait_for
from terminal import Terminal

SIZE = 400_000  # of each layer
LAYERS = 4


class Gate:
    """A proxy that stops answers to paths with `part` in them after `most` bytes."""

    def __init__(self, port):
        self.upstream = port
        self.changed = threading.Condition()
        self.holds = {}
        self.waiting = set()
        handler = type("Handler", (GateHandler,), {"gate": self})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def hold(self, part, most):
        with self.changed:
            self.holds[part] = most

    def open(self, part=None):
        with self.changed:
            if part is None:
                self.holds.clear()
            else:
                del self.holds[part]
            self.changed.notify_all()

    def pass_through(self, path, done):
        """How many more bytes of it may pass now; waits until some may."""
        with self.changed:
            while True:
                left = [most for part, most in self.holds.items() if part in path]
                left = min(left, default=1 << 40) - done
                if left > 0:
                    self.waiting.discard(path)
                    return left
                self.waiting.add(path)
                self.changed.notify_all()
                self.changed.wait()

    def close(self):
        self.open()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class GateHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.gate.upstream)
        try:
            connection.putrequest(self.command, self.path, skip_host=True)
            for key, value in self.headers.items():
                connection.putheader(key, value)
            connection.endheaders()
            answer = connection.getresponse()
            self.gate.pass_through(self.path, 0)
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                self.send_header(key, value)
            self.end_headers()
            self.copy(answer)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # whoever asked has gone
        finally:
            connection.close()

    do_HEAD = do_GET

    def copy(self, answer):
        done = 0
        while self.command == "GET":
            data = answer.read(min(65536, self.gate.pass_through(self.path, done)))
            if not data:
                return
            self.wfile.write(data)
            done += len(data)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def image(registry, tmp_path_factory):
    """The digests of the layers of library/layers:1 in the registry."""
    folder = tmp_path_factory.mktemp("layers")
    rng = random.Random(4)
    layout = nasty.Layout(folder / "layout")
    layers = [
        nasty.tar(nasty.file(b"file%d" % i, rng.randbytes(SIZE - 1000 * i)))
        for i in range(LAYERS)  # the largest is fetched first
    ]
    registry.push(layout.image(layers, how="gzip"), "library/layers:1")
    shutil.rmtree(folder)
    with_digests = json.loads(
        subprocess.run(
            ["skopeo", "inspect", "--tls-verify=false", registry.reference("library/layers:1")],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    return with_digests["Layers"]


@pytest.fixture
def gate(registry):
    one = Gate(registry.port)
    yield one
    one.close()


@pytest.fixture
def one(silo_bin):
    instance = Instance(silo_bin)
    yield instance
    instance.close()


def argv(one, gate, *more):
    reference = f"docker://127.0.0.1:{gate.port}/library/layers:1"
    return [one.silo_bin, "index", reference, "--name", "x", "--tls-verify=false", *more]


def short(digest):
    return digest[: len("sha256:") + 12]


def test_terminal(one, image, gate):
    """A line for each layer, which becomes one that stays; no picture is left at the end."""
    for digest in image:
        gate.hold(digest, SIZE // 2)
    with Terminal(argv(one, gate), 100, 24, SILO_CONFIG=one.ini) as terminal:
        # Three layers at a time, half of each.
        for digest in image[:3]:
            terminal.wait_for(
                rf"(?m)^{short(digest)} \[=+> +\]  50%  200\.0 kB of \d+\.\d kB  "
                r"hashed .* B  new .* B$"
            )
        terminal.wait_for(rf"(?m)^layers: 0 of {LAYERS} done, 600\.0 kB of 1\.6 MB")
        # Nothing arrives, which is no news but shown.
        terminal.wait_for(r"of 1\.6 MB, nothing for [3-9] s$")
        gate.open(image[0])
        terminal.wait_for(
            rf"(?m)\Alayer {short(image[0])}: 40\d\.\d kB, 400\.0 kB new\n(.*\n)+layers: 1 of"
        )
        gate.open()
        assert terminal.end() == 0
        lines = terminal.screen.text().split("\n")
        rate = len(terminal.pictures) / (terminal.pictures[-1] - terminal.pictures[0] + 0.1)
    for digest in image:
        assert any(line.startswith(f"layer {short(digest)}: ") for line in lines)
    assert len(lines) == LAYERS + 1, lines
    assert re.match(r"x: \d+ entries, 1\.6 MB, no Python .*, 1\.6 MB new in", lines[-1])
    assert rate <= 10.5, "redrawn too often"


def test_layers_that_are_known(one, image, gate):
    with Terminal(argv(one, gate), SILO_CONFIG=one.ini) as terminal:
        assert terminal.end() == 0
    with Terminal(argv(one, gate, "--force"), SILO_CONFIG=one.ini) as terminal:
        assert terminal.end() == 0
        lines = terminal.screen.text().split("\n")
    assert [line for line in lines if line.endswith(": known")] == [
        f"layer {short(digest)}: known" for digest in image
    ]


def test_small_terminal(one, image, gate):
    """Fewer lines than layers, and short ones; then it becomes another one."""
    for digest in image:
        gate.hold(digest, SIZE // 2)
    with Terminal(argv(one, gate), 40, 3, SILO_CONFIG=one.ini) as terminal:
        terminal.wait_for(r"(?m)^and \d more\nlayers: 0 of 4 done")
        assert len(terminal.screen.text().split("\n")) <= 3
        terminal.resize(100, 24)
        terminal.wait_for(rf"(?m)^{short(image[0])} +\[=+> +\]  .* new  *\d+")
        assert terminal.screen.wrapped == 0
        gate.open()
        assert terminal.end() == 0


def test_no_terminal(one, image, gate):
    """A line per stage and layer, and no control characters."""
    done = subprocess.run(argv(one, gate), env=one.env, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not re.search(rb"[^\n -~]", done.stderr)
    lines = done.stderr.decode().splitlines()
    for digest in image:
        assert [line for line in lines if line.startswith(f"layer {short(digest)}: ")]
    assert "writing to disk" in lines
    assert len(lines) < LAYERS + 8
    assert done.stdout.count(b"\n") == 1


def test_dumb_terminal(one, image, gate):
    environment = {"SILO_CONFIG": one.ini, "TERM": "dumb"}
    with Terminal(argv(one, gate), **environment) as terminal:
        assert terminal.end() == 0
        assert terminal.pictures == []
        assert f"layer {short(image[0])}: 40" in terminal.screen.text()


def test_quiet_and_json(one, image, gate):
    done = subprocess.run(
        argv(one, gate, "--quiet", "--json"), env=one.env, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    record = json.loads(done.stdout)
    assert record["layers"] == [digest.removeprefix("sha256:") for digest in image]
    assert record["new"] == record["size"] == LAYERS * SIZE - 6000
    assert record["known"] is False
    assert 0 < record["seconds"] < 60
    again = one.json("index", *argv(one, gate)[2:])
    assert again["known"] is True
    assert again["new"] == 0
    assert again["meta"] == record["meta"]


@pytest.mark.parametrize("where", ["manifests", "layers"])
def test_ctrl_c(one, image, gate, where):
    """While the registry hangs: it ends at once, the terminal is clean, nothing is kept."""
    parts = ["/manifests/"] if where == "manifests" else image
    for part in parts:
        gate.hold(part, 0)
    with Terminal(argv(one, gate), SILO_CONFIG=one.ini) as terminal:
        with gate.changed:
            assert gate.changed.wait_for(lambda: gate.waiting, 60)
        terminal.wait_for("looking" if where == "manifests" else r"(?m)^layers: 0 of 4")
        terminal.type(b"\x03")
        assert terminal.end(20) == 130
        text = terminal.screen.text()
    assert text == "silo: stopped, nothing was changed"
    assert one.json("images") == []
    gate.open()
    one.ok("index", *argv(one, gate)[2:])


def pending(process, number):
    """Was the signal sent and has nobody taken it yet?"""
    found = re.search(r"ShdPnd:\t(\w+)", read(f"/proc/{process.pid}/status"))
    return found and int(found[1], 16) & 1 << (number - 1)


def test_second_ctrl_c(one, image, gate):
    """Kills, also when the first cannot end it: here somebody holds the lock of the images."""
    one.json("images")  # makes the state folder
    os.makedirs(f"{one.state}/images", exist_ok=True)
    with open(f"{one.state}/images/lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(argv(one, gate), env=one.env, stderr=subprocess.PIPE)
        try:
            waits = rf"-> FLOCK .* {process.pid} "
            wait_for(lambda: re.search(waits, read("/proc/locks")), what="the lock")
            for _ in range(2):
                process.send_signal(signal.SIGINT)
                wait_for(lambda: not pending(process, signal.SIGINT), what="it to be seen")
            assert process.wait(20) == -signal.SIGINT
        finally:
            process.kill()
            process.communicate(timeout=20)
    assert one.json("images") == []
