# SPDX-License-Identifier: Apache-2.0
"""The transports of a real daemon, spoken to by clients that are not ours.

Requests are written by hand, byte by byte where it matters: the original Silo's
gRPC and HTTP, half messages, garbage, keys right and wrong, clients that go away.
"""

import base64
import http.client
import json
import os
import pickle
import select
import signal
import ssl
import subprocess
import sys
import time

import cloudpickle
import grpc
import pytest
from transports import (
    CALL,
    GET_PACKAGE,
    HELLO,
    KEY,
    WITH_KEY,
    Daemon,
    connect,
    exchange,
    field,
    parse,
)

cloudpickle.register_pickle_by_value(sys.modules[__name__])

SOURCE = os.environ.get(
    "SILO_TEST_SOURCE", os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
)


# -- daemons ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def daemon():
    d = Daemon()
    yield d
    d.stop()


@pytest.fixture(scope="module")
def keyed():
    d = Daemon(KEY)
    yield d
    d.stop()


@pytest.fixture(scope="module")
def image(daemon):
    """A Debian with Python 3.11, indexed from its unpacked tree."""
    made = subprocess.run(
        [f"{SOURCE}/script/debian-tree"], check=True, capture_output=True, text=True
    )
    daemon.run("index", "dir:" + made.stdout.strip(), "--name", "python:3.11")
    return "python:3.11"


def b64(data):
    return base64.b64encode(data).decode()


def package(function, args=(), image="python:3.11"):
    """The original client's GetPackageRequest."""
    return (
        field(1, 7)
        + field(2, "def function(): ...")
        + field(3, b64(cloudpickle.dumps(function)))
        + field(4, b64(cloudpickle.dumps(args)))
        + field(5, b64(cloudpickle.dumps({})))
        + field(6, image)
    )


def call_request(function, args=(), image="python:3.11"):
    return (
        field(2, cloudpickle.dumps(function))
        + field(3, "function")
        + field(4, image)
        + field(7, cloudpickle.dumps(args))
        + field(8, cloudpickle.dumps({}))
    )


# -- the original Silo's gRPC ------------------------------------------------------


def test_get_package(daemon, image):
    def add(a, b):
        import sys

        print("adding")
        print("carefully", file=sys.stderr)
        return a + b

    answer = parse(daemon.unary(GET_PACKAGE, package(add, (40, 2))))
    assert pickle.loads(base64.b64decode(answer[1])) == 42
    assert answer[2] == b"adding\n"
    assert answer[3] == b"carefully\n"


def test_get_package_output_that_is_no_text(daemon, image):
    def write():
        import os

        os.write(1, b"a\xff\x00b\xc3\xa4")

    answer = parse(daemon.unary(GET_PACKAGE, package(write)))
    assert answer[2].decode() == "a\ufffd\ufffdb\u00e4"


def test_get_package_raises(daemon, image):
    def fail():
        raise ValueError("not today")

    status, details = daemon.unary(GET_PACKAGE, package(fail))
    assert status == "UNKNOWN"
    assert details.startswith("ValueError: not today\nTraceback (most recent call last):")


def test_get_package_long_traceback(daemon, image):
    def fail():
        raise ValueError("\u20ac" * 20000)

    status, details = daemon.unary(GET_PACKAGE, package(fail))
    assert status == "UNKNOWN"
    assert details.startswith("ValueError: \u20ac\u20ac")


def test_get_package_unknown_image(daemon):
    status, details = daemon.unary(GET_PACKAGE, package(print, image="nowhere:9"))
    assert status == "NOT_FOUND"
    assert "nowhere:9" in details and "silo index" in details


def test_get_package_bad_base64(daemon):
    status, details = daemon.unary(GET_PACKAGE, field(3, "a*c=") + field(6, "python:3.11"))
    assert status == "INVALID_ARGUMENT"
    assert details.startswith("func: ")


# -- malformed gRPC --------------------------------------------------------------------


@pytest.mark.parametrize("method", [HELLO, CALL, GET_PACKAGE, "/silo.v1.Silo/GetFunction"])
@pytest.mark.parametrize(
    "message",
    [
        b"\x0a\x20abc",
        b"\x0a",
        b"\xff" * 20,
        b"\x53" * 1000,
        b"\x00\x00",
        field(1, b"x") * 100,
        b"\x0a\x7f" * 60000,
    ],
    ids=["half", "no length", "endless number", "groups", "field 0", "fields", "nested"],
)
def test_malformed(daemon, method, message):
    status, details = daemon.unary(method, message)
    assert status == "INVALID_ARGUMENT", details
    daemon.alive()


@pytest.mark.parametrize(
    "text", [b"a\0b", b"\xc3\x28", b"\xed\xa0\x80"], ids=["nul", "cut", "half"]
)
def test_strings(daemon, text):
    status, details = daemon.unary(HELLO, field(1, text))
    assert status == "INVALID_ARGUMENT"
    assert "client" in details


@pytest.mark.parametrize(
    "message, word",
    [
        (field(1, b"123"), "SHA-256"),
        (field(4, "python:3.11"), "code"),
        (field(2, b"c") + field(3, "n" * 70000), "name"),
        (field(2, b"c") + field(9, (1 << 64) - 1), "timeout_ms"),
        (field(1, b"1" * 32) + field(2, b"c") + field(4, "python:3.11"), "digest"),
    ],
)
def test_wrong_calls(daemon, message, word):
    with pytest.raises(grpc.RpcError) as e:
        list(daemon.call(message))
    assert e.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert word in e.value.details()


def test_unknown_method(daemon):
    start = time.monotonic()
    assert daemon.unary("/silo.v1.Silo/Nothing", b"")[0] == "UNIMPLEMENTED"
    assert time.monotonic() - start < 5


def test_too_large(daemon):
    assert daemon.unary(HELLO, field(1, "a" * (2 << 20)))[0] == "RESOURCE_EXHAUSTED"
    daemon.alive()


def test_compressed(daemon):
    answer = daemon.unary(HELLO, field(1, "a" * 1000), compression=grpc.Compression.Gzip)
    assert answer[0] == "UNIMPLEMENTED"
    daemon.alive()


def test_health(daemon):
    assert daemon.unary("/grpc.health.v1.Health/Check", b"") == b"\x08\x01"
    assert daemon.unary("/grpc.health.v1.Health/Check", field(1, "silo.Silo")) == b"\x08\x01"
    assert daemon.unary("/grpc.health.v1.Health/Check", field(1, "x"))[0] == "NOT_FOUND"


def frame(kind, flags, stream, payload):
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")


def test_half_a_message_is_given_up(daemon):
    def literal(name, value):
        return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value

    headers = b"".join(
        literal(n, v)
        for n, v in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", HELLO.encode()),
            (b":authority", b"x"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        )
    )
    with connect(daemon.grpc) as sock:
        sock.sendall(PREFACE + frame(1, 4, 1, headers) + frame(0, 0, 1, b"\0\0\0\1\0half"))
        heard = b""
        while b"did not arrive in time" not in heard:
            more = sock.recv(4096)
            assert more, heard
            heard += more
    daemon.alive()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        os.urandom(4096),
        PREFACE + os.urandom(4096),
        PREFACE + frame(0, 0, 1, b"x") * 50,
        PREFACE + b"\xff\xff\xff" + b"\0" * 6,
    ],
    ids=["http/1.1", "noise", "noise in http/2", "data without a call", "huge frame"],
)
def test_garbage_to_grpc(daemon, data):
    exchange(daemon.grpc, data, end=True)
    daemon.alive()


def test_silence_is_cut_off(daemon):
    start = time.monotonic()
    with connect(daemon.grpc) as sock:
        assert sock.recv(1) == b""
    with connect(daemon.http) as sock:
        assert sock.recv(1) == b""
    assert time.monotonic() - start < 15


# -- keys -------------------------------------------------------------------------------


def test_grpc_keys(keyed):
    assert keyed.unary(HELLO, b"")[0] == "UNAUTHENTICATED"
    assert keyed.unary(HELLO, b"", (("x-api-key", KEY + "!"),))[0] == "UNAUTHENTICATED"
    assert keyed.unary(HELLO, b"", (("x-api-key", ""),))[0] == "UNAUTHENTICATED"
    assert keyed.unary(HELLO, b"", WITH_KEY + WITH_KEY)[0] == "UNAUTHENTICATED"
    assert b"silo" in keyed.unary(HELLO, b"", WITH_KEY)
    assert keyed.unary("/grpc.health.v1.Health/Check", b"") == b"\x08\x01"
    with grpc.insecure_channel("unix:" + keyed.grpc_socket) as local:
        assert b"silo" in keyed.unary(HELLO, b"", channel=local)


def test_http_keys(keyed):
    assert keyed.request("GET", "/api/tasks/1")[0] == 401
    assert keyed.request("GET", "/api/tasks/1", headers={"X-API-Key": "x"})[0] == 401
    assert keyed.request("GET", "/api/tasks/1", headers={"X-API-Key": KEY})[0] == 404
    assert keyed.request("GET", "/api/tasks/1", address=keyed.http_socket)[0] == 404
    assert keyed.request("GET", "/healthz")[0] == 200


def test_sockets_are_private(daemon):
    assert os.stat(daemon.grpc_socket).st_mode & 0o777 == 0o600
    assert os.stat(daemon.http_socket).st_mode & 0o777 == 0o600
    assert os.stat(f"{daemon.state}/state").st_mode & 0o777 == 0o700


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """Reachable from elsewhere, as a certificate and a key allow it."""
    path = tmp_path_factory.mktemp("tls")
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
        " -keyout key.pem -out cert.pem -subj /CN=localhost"
        " -addext subjectAltName=DNS:localhost,IP:127.0.0.1",
        shell=True,
        check=True,
        cwd=path,
        capture_output=True,
    )
    d = Daemon(KEY, f"tls_cert = {path}/cert.pem\ntls_key = {path}/key.pem\n")
    d.certificate = (path / "cert.pem").read_bytes()
    yield d
    d.stop()


def test_grpc_tls(tls):
    trust = grpc.ssl_channel_credentials(tls.certificate)
    with grpc.secure_channel(tls.grpc, trust) as channel:
        assert b"silo" in tls.unary(HELLO, b"", WITH_KEY, channel)
        assert tls.unary(HELLO, b"", (), channel)[0] == "UNAUTHENTICATED"
    assert tls.unary(HELLO, b"", WITH_KEY)[0] == "UNAVAILABLE"  # in the clear
    with grpc.insecure_channel("unix:" + tls.grpc_socket) as local:
        assert b"silo" in tls.unary(HELLO, b"", channel=local)


def test_http_tls(tls):
    trust = ssl.create_default_context(cadata=tls.certificate.decode())
    for headers, status in (({"X-API-Key": KEY}, 404), ({}, 401)):
        with trust.wrap_socket(connect(tls.http), server_hostname="localhost") as sock:
            connection = http.client.HTTPConnection("localhost")
            connection.sock = sock
            connection.request("GET", "/api/tasks/1", headers=headers)
            assert connection.getresponse().status == status
    assert exchange(tls.http, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")[:5] != b"HTTP/"


# -- the original Silo's HTTP ---------------------------------------------------------


def post_task(daemon, **fields):
    body = {"func": b64(b"code"), "args": b64(b"args"), "kwargs": "", "func_str": "def f"}
    return daemon.request("POST", "/api/tasks", json.dumps({**body, **fields}))


def test_http_round_trip(daemon):
    status, text = post_task(daemon)
    assert status == 200
    task = int(text)
    assert daemon.request("GET", f"/api/tasks/{task}") == (
        200,
        {
            "id": task,
            "func": b64(b"code"),
            "args": b64(b"args"),
            "kwargs": "",
            "func_str": "def f",
        },
    )
    assert daemon.request("GET", f"/api/results/{task}")[0] == 404
    assert daemon.request("POST", f"/api/results/{task}", b64(b"result"))[0] == 200
    assert daemon.request("GET", f"/api/results/{task}") == (
        200,
        {"task_id": task, "output": b64(b"result")},
    )
    assert daemon.request("POST", f"/api/results/{task}", b64(b"other"))[0] == 409


def wait_for_result(daemon, task):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        status, answer = daemon.request("GET", f"/api/results/{task}")
        if status == 200:
            return answer
        assert status == 404, answer
        select.select((), (), (), 0.05)
    raise AssertionError(f"task {task} had no result in time")


def test_http_task_with_an_image(daemon, image):
    def double(x):
        return 2 * x

    status, text = post_task(
        daemon,
        func=b64(cloudpickle.dumps(double)),
        args=b64(cloudpickle.dumps((21,))),
        kwargs=b64(cloudpickle.dumps({})),
        image_name=image,
    )
    assert status == 200
    answer = wait_for_result(daemon, int(text))
    assert pickle.loads(base64.b64decode(answer["output"])) == 42
    # It ran here, so nobody else may say what came out.
    assert daemon.request("POST", f"/api/results/{int(text)}", "QQ==")[0] in (403, 409)


def test_http_task_that_fails(daemon, image):
    def fail():
        raise KeyError("gone")

    _, text = post_task(
        daemon,
        func=b64(cloudpickle.dumps(fail)),
        args=b64(cloudpickle.dumps(())),
        kwargs=b64(cloudpickle.dumps({})),
        image_name=image,
    )
    answer = wait_for_result(daemon, int(text))
    assert answer["output"] is None
    assert answer["outcome"] == "exception"
    assert answer["type"] == "KeyError"
    assert "gone" in answer["traceback"]


def test_http_unknown_image(daemon):
    status, answer = post_task(daemon, image_name="nowhere:9")
    assert status == 404
    assert "nowhere:9" in answer["error"]["message"]


@pytest.mark.parametrize(
    "method, path, body, status",
    [
        ("GET", "/", None, 404),
        ("GET", "/v1/worker/next", None, 404),
        ("DELETE", "/api/tasks", None, 405),
        ("GET", "/api/tasks", None, 405),
        ("GET", "/api/tasks/x", None, 400),
        ("GET", "/api/tasks/-1", None, 400),
        ("GET", "/api/tasks/%31", None, 400),
        ("GET", "/api/tasks/99999999999999999999", None, 400),
        ("GET", "/api/tasks/1/2", None, 404),
        ("GET", "/api/tasks/123456", None, 404),
        ("GET", "/api/results/123456", None, 404),
        ("POST", "/api/results/123456", "QQ==", 404),
        ("POST", "/api/results/1", "!!!!", 400),
        ("POST", "/api/tasks", "", 400),
        ("POST", "/api/tasks", "{", 400),
        ("POST", "/api/tasks", "[]", 400),
        ("POST", "/api/tasks", "{}", 400),
        ("POST", "/api/tasks", '{"func": 3}', 400),
        ("POST", "/api/tasks", '{"func": "***="}', 400),
        ("POST", "/api/tasks", b'{"func": "\xff"}', 400),
        ("POST", "/api/tasks", '{"func": "QQ\\u0000="}', 400),
        ("POST", "/api/tasks", "[" * 100000, 400),
        ("POST", "/api/tasks", '{"func": "QQ==", "x": [' + "0," * 100000 + "0]}", 400),
        ("POST", "/api/tasks", "x" * (2 << 20), 413),
    ],
    ids=lambda v: str(v)[:24],
)
def test_http_bad_requests(daemon, method, path, body, status):
    got, answer = daemon.request(method, path, body)
    assert (got, set(answer)) == (status, {"error"}), answer
    daemon.alive()


HOST = b"Host: localhost\r\n"


@pytest.mark.parametrize(
    "data, status",
    [
        (
            b"POST /api/tasks HTTP/1.1\r\n"
            + HOST
            + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
            400,
        ),
        (
            b"POST /api/tasks HTTP/1.1\r\n"
            + HOST
            + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST /api/tasks HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST /api/tasks HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", 400),
        (b"POST /api/tasks HTTP/1.1\r\n" + HOST + b"Content-Length: 999999999999\r\n\r\n", 413),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz\r\n\r\n", 400),
        (b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 100000 + b"\r\n" + HOST + b"\r\n", 431),
        (os.urandom(3000), None),
        (b"\0" * 3000, None),
    ],
    ids=[
        "two lengths",
        "length and chunks",
        "gzip",
        "negative",
        "huge",
        "no host",
        "0.9",
        "url",
        "header",
        "noise",
        "zeros",
    ],
)
def test_http_garbage(daemon, data, status):
    answer = exchange(daemon.http, data)
    if status:
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    else:
        assert not answer.startswith(b"HTTP/1.1 2")
    daemon.alive()


@pytest.mark.parametrize(
    "start", [b"GET /", b"POST /api/tasks HTTP/1.1\r\n" + HOST + b"Content-Length: 9999\r\n\r\n"]
)
def test_http_dribble_is_cut_off(daemon, start):
    """A byte now and then does not keep a connection: 2 s are allowed here."""
    begin = time.monotonic()
    with connect(daemon.http) as sock:
        sock.sendall(start)
        while time.monotonic() - begin < 30:
            if select.select([sock], (), (), 0.2)[0]:
                break
            sock.sendall(b"x")
    assert time.monotonic() - begin < 20
    daemon.alive()


def test_web_pages_are_refused(daemon):
    def status(headers, **kwargs):
        return daemon.request("GET", "/api/tasks/123456", headers=headers, **kwargs)[0]

    assert status({"Origin": "http://example.org"}) == 403
    assert status({"Host": "example.org"}) == 403
    assert status({"Host": "127.0.0.1:8000"}) == 404
    assert status({"Host": "[::1]:8000"}) == 404
    assert status({"Origin": "http://example.org"}, address=daemon.http_socket) == 404


# -- the bridge, as a hostile worker sees it ----------------------------------------------


def test_bridge_needs_a_token(daemon):
    def ask(path, headers, method="GET", body=None):
        return daemon.request(method, path, body, headers, daemon.bridge_socket)[0]

    wrong = {"Authorization": "Bearer " + "0" * 64}
    assert ask("/v1/worker/next", {}) == 401
    assert ask("/v1/worker/next", {"Authorization": "Basic x"}) == 401
    assert ask("/v1/worker/next", {"Authorization": "Bearer " + "a" * 5000}) == 401
    assert ask("/v1/worker/next", wrong) == 401
    assert ask("/v1/worker/code/" + "ab" * 32, wrong) == 401
    result = {"Silo-Task": "1", "Silo-Attempt": "1", "Silo-Outcome": "success"}
    assert ask("/v1/worker/result", {**wrong, **result}, "POST", b"x") == 401
    assert ask("/v1/worker/result", wrong, "POST", b"x") == 400
    assert ask("/api/tasks/1", wrong) == 404
    daemon.alive()


# -- clients that go away -------------------------------------------------------------------


def wait_until_idle(daemon):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        tasks = json.loads(daemon.run("ps", "--json"))["tasks"]
        tasks = [task for task in tasks if task["state"] != "done" and task["image"]]
        if not tasks:
            return
        select.select((), (), (), 0.05)
    raise AssertionError(f"a task still runs: {tasks}")


def sleeper():
    import time

    print("begun", flush=True)
    time.sleep(600)


def first_output(events):
    for event in events:
        if output := parse(event).get(2):
            return parse(output)[2]
    raise AssertionError("no output")


@pytest.mark.parametrize("how", ["cancel", "close", "deadline", "kill"])
def test_client_gone(daemon, image, how):
    channel = grpc.insecure_channel(daemon.grpc, options=[("grpc.use_local_subchannel_pool", 1)])
    if how == "kill":
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, daemon.grpc],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as client:
            client.stdin.write(call_request(sleeper))
            client.stdin.close()
            assert client.stdout.readline() == b"begun\n"
            client.send_signal(signal.SIGKILL)
    else:
        timeout = 3 if how == "deadline" else 60
        events = channel.unary_stream(CALL)(call_request(sleeper), timeout=timeout)
        assert first_output(events) == b"begun\n"
        if how == "cancel":
            events.cancel()
        elif how == "deadline":
            with pytest.raises(grpc.RpcError) as e:
                list(events)
            assert e.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    channel.close()
    wait_until_idle(daemon)
    daemon.alive()


KILLED = """
import sys, grpc
channel = grpc.insecure_channel(sys.argv[1])
for event in channel.unary_stream("/silo.v1.Silo/Call")(sys.stdin.buffer.read()):
    if b"begun" in event:
        print("begun", flush=True)
"""


def test_slow_reader_gets_everything(daemon, image):
    def flood():
        import sys

        for i in range(3000):
            sys.stdout.write(f"{i:09}\n" * 1000)

    events = daemon.call(call_request(flood))
    received, n = b"", 0
    for event in events:
        fields = parse(event)
        if 2 in fields:
            received += parse(fields[2])[2]
            n += 1
            if n < 20:
                select.select((), (), (), 0.05)
        last = fields
    assert received == b"".join(f"{i:09}\n".encode() * 1000 for i in range(3000))
    assert parse(last[3])[1] == b"success"
