# SPDX-License-Identifier: Apache-2.0
"""The verbs of `silo`: output for people and machines, exit statuses, broken silo.ini files."""

import json
import os
import threading
import time

import pytest
from instances import IMAGE, Instance, wait_for

VERBS = (
    *("serve", "index", "images", "rm", "mount", "umount"),
    *("ps", "logs", "cancel", "status", "plugins", "check", "doctor"),
)
NEED_A_DAEMON = (["ps"], ["logs", "1"], ["cancel", "1"], ["status"])


@pytest.fixture(scope="module")
def idle(silo_bin):
    """An instance without image and daemon."""

    one = Instance(silo_bin)
    yield one
    one.close()


@pytest.mark.parametrize("verb", VERBS)
def test_help(idle, verb):
    out = idle.ok(verb, "--help")
    assert out.startswith(f"usage: silo {verb}")
    assert verb in idle.ok("--help")


@pytest.mark.parametrize("verb", VERBS)
def test_unknown_options_and_arguments(idle, verb):
    for arguments in ([verb, "--no-such-option"], [verb, "--json=3", "x", "y", "z"]):
        done = idle.run(*arguments)
        assert done.returncode == 2, arguments
        assert done.stderr
        assert done.stdout == ""


def test_unknown_verbs(idle):
    done = idle.run("no-such-verb")
    assert done.returncode == 2
    assert "silo-no-such-verb" in done.stderr
    done = idle.run()
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_verbs_from_path(idle, tmp_path):
    program = tmp_path / "silo-thing"
    program.write_text('#!/bin/sh\necho "$SILO_CONFIG $*"\nexit 5\n')
    program.chmod(0o755)
    env = {**idle.env, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = idle.run("--config", idle.ini, "thing", "a", "b", env=env)
    assert (done.stdout, done.returncode) == (f"{idle.ini} a b\n", 5)


@pytest.mark.parametrize("arguments", NEED_A_DAEMON, ids=lambda a: a[0])
def test_without_a_daemon(idle, arguments):
    done = idle.run(*arguments)
    assert done.returncode == 1
    assert "silo serve" in done.stderr


def test_status_wait(instance):
    """Returns when the daemon is ready; gives up after the time that was given."""
    one = instance(image=False)
    start = time.monotonic()
    assert one.run("status", "--wait", "1").returncode == 1
    assert 0.9 < time.monotonic() - start < 15
    waited = []
    waiter = threading.Thread(
        target=lambda: waited.append(one.run("status", "--wait", "60").returncode)
    )
    waiter.start()
    one.start()
    waiter.join()
    assert waited == [0]
    assert one.run("status", "--wait", "x").returncode == 2
    one.stop()


def test_status(daemon):
    status = daemon.json("status")
    assert status["pid"] == daemon.daemon.pid
    assert status["state"] == daemon.state
    assert status["draining"] is False
    text = daemon.ok("status")
    assert text.startswith("ready: silo ")
    assert daemon.state in text


def test_ps_and_logs(daemon):
    def talk():
        import sys

        print("to stdout")
        print("to stderr", file=sys.stderr)
        return 1

    def fail():
        raise ValueError("on purpose")

    daemon.function(talk).remote()
    with pytest.raises(ValueError, match="on purpose"):
        daemon.function(fail).remote()
    tasks = daemon.json("ps")["tasks"]
    failed, talked = tasks[:2]
    assert (failed["name"], failed["outcome"], failed["image"]) == ("fail", "exception", IMAGE)
    assert (talked["name"], talked["outcome"]) == ("talk", "success")
    assert len(daemon.json("ps", "--limit", "1")["tasks"]) == 1
    assert daemon.json("ps", "--unfinished")["tasks"] == []
    assert "talk" in daemon.ok("ps")

    done = daemon.run("logs", str(talked["id"]))
    assert (done.returncode, done.stdout, done.stderr) == (0, "to stdout\n", "to stderr\n")
    done = daemon.run("logs", str(failed["id"]))
    assert "ValueError: on purpose" in done.stderr
    record = daemon.json("logs", str(failed["id"]))
    assert record["type"] == "ValueError"
    assert "Traceback" in record["traceback"]

    steps = [
        line.split()[0] for line in daemon.ok("logs", "--timeline", str(talked["id"])).splitlines()
    ]
    wanted = ["STEP", "submit", "stored", "run", "result", "output"]
    assert [s for s in steps if s in wanted] == wanted
    times = list(daemon.json("logs", str(talked["id"]))["timeline"].values())
    assert times == sorted(times)

    done = daemon.run("logs", "999999")
    assert done.returncode == 1
    assert "999999" in done.stderr
    for bad in ("x", "-1", "", "9" * 30):
        assert daemon.run("logs", bad).returncode == 2


def test_logs_keep_the_beginning_of_a_flood(instance):
    one = instance(output_limit="4096").start()

    def f():
        print("first")
        print("x" * 100000)

    one.function(f).remote()
    done = one.run("logs", str(one.json("ps")["tasks"][0]["id"]))
    assert done.stdout.startswith("first\nxxx")
    assert len(done.stdout) == 4096
    assert "output_limit" in done.stderr
    one.stop()


def test_cancel(daemon):
    def f():
        import time

        time.sleep(120)

    errors = []

    def call():
        try:
            daemon.function(f).remote()
        except Exception as e:
            errors.append(type(e).__name__)

    thread = threading.Thread(target=call)
    thread.start()
    task = wait_for(lambda: daemon.json("ps", "--unfinished")["tasks"], 30, "the task")[0]["id"]
    assert str(task) in daemon.ok("cancel", str(task))
    thread.join(30)
    assert errors == ["InputCancellation"]
    done = daemon.run("cancel", str(task))
    assert done.returncode == 1
    assert str(task) in done.stderr


def test_images_and_rm(instance, tmp_path):
    """While no daemon runs, and while one does."""
    one = instance()
    for running in (False, True):
        if running:
            one.start()
        (tmp_path / "file").write_text(f"contents {running}")
        one.ok("index", f"dir:{tmp_path}", "--name", "small:1")
        names = {i["name"] for i in one.json("images")}
        assert names == {IMAGE, "small:1"}
        assert "small:1" in one.ok("images")
        one.ok("rm", "small:1")
        assert {i["name"] for i in one.json("images")} == {IMAGE}
        done = one.run("rm", "small:1")
        assert done.returncode == 1
        assert "small:1" in done.stderr
    one.check_works()
    one.stop()


def test_an_image_indexed_while_the_daemon_runs(instance, tree):
    one = instance(image=False).start()
    one.ok("index", f"dir:{tree}", "--name", "late:1", timeout=300)
    assert one.function(lambda: 5, image="late:1").remote() == 5
    one.ok("rm", "late:1")
    import silo

    with pytest.raises(silo.NotFoundError, match="late:1"):
        one.function(lambda: 6, image="late:1").remote()
    one.stop()


def test_plugins(idle):
    listed = idle.json("plugins")
    assert all(p["usable"] for p in listed)
    kinds = {(p["kind"], p["name"]) for p in listed}
    assert {("storage", "sqlite"), ("rootfs", "erofs"), ("container", "crun")} <= kinds
    text = idle.ok("plugins")
    assert "sqlite" in text
    for form in ("ini", "json", "man"):
        assert "storage" in idle.ok("plugins", f"--describe={form}")
    assert idle.run("plugins", "--describe=xml").returncode == 2


def test_doctor(idle):
    done = idle.run("doctor", "--json")
    checks = json.loads(done.stdout)
    checks = checks["checks"] if isinstance(checks, dict) else checks
    assert done.returncode == (1 if any(c["verdict"] == "fail" for c in checks) else 0)
    assert done.returncode == 0, done.stdout
    assert "kernel" in idle.ok("doctor")


def test_check(instance):
    one = instance(image=False)
    assert one.ok("check").startswith("ok")
    assert os.listdir(one.folder) == ["silo.ini"], "silo check wrote something"


# line of the fault, text of silo.ini, words of the message
BROKEN = {
    "unknown key": (3, "[silo]\nstate = state\nstroage = sqlite\n", ["stroage", "storage"]),
    "unknown key of a plugin": (4, "[silo]\nstate = s\n[storage.sqlite]\npaht = x\n", ["paht"]),
    "key of a section that nobody uses": (
        4,
        "[silo]\nstate = s\n[storage.files]\nnonsense = x\n",
        ["nonsense"],
    ),
    "not a number": (3, "[silo]\nstate = s\nmax_workers = many\n", ["max_workers", "many"]),
    "out of range": (3, "[silo]\nstate = s\nmax_workers = 999999999\n", ["max_workers"]),
    "not a duration": (3, "[silo]\nstate = s\ntimeout = 5 bananas\n", ["timeout", "bananas"]),
    "not a size": (3, "[silo]\nstate = s\nmemory = lots\n", ["memory", "lots"]),
    "not a truth value": (
        4,
        "[silo]\nstate = s\n[transport.grpc]\ninsecure = maybe\n",
        ["insecure", "maybe"],
    ),
    "missing plugin": (3, "[silo]\nstate = s\nstorage = nosuch\n", ["storage", "nosuch"]),
    "missing plugin of a section": (
        4,
        "[silo]\nstate = s\n[storage.sqlite]\nplugin = nosuch\n",
        ["nosuch"],
    ),
    "plugin of another kind": (
        4,
        "[silo]\nstate = s\n[storage.sqlite]\nplugin = {lib}/rootfs-erofs.so\n",
        ["rootfs"],
    ),
    "no plugin at all": (
        4,
        "[silo]\nstate = s\n[storage.sqlite]\nplugin = {ini}\n",
        ["silo.ini"],
    ),
    "unknown kind": (3, "[silo]\nstate = s\n[stroage.sqlite]\npath = x\n", ["stroage"]),
    "key before any section": (1, "state = s\n", ["state"]),
    "no key": (2, "[silo]\nwhat is this\n", []),
    "duplicate key": (3, "[silo]\nstate = s\nstate = t\n", ["state"]),
    "off loopback": (4, "[silo]\nstate = s\n[transport.grpc]\nlisten = 0.0.0.0:0\n", []),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_files(instance, what):
    """serve and check: file, line, what is wrong, exit 2, and nothing was started or made."""
    line, text, words = BROKEN[what]
    one = instance(image=False)
    lib = os.path.join(os.path.dirname(os.path.dirname(one.silo_bin)), "lib", "silo")
    with open(one.ini, "w") as f:
        f.write(text.format(lib=lib, ini=one.ini))
    verbs = ("serve",) if what == "off loopback" else ("check", "serve")
    for verb in verbs:
        done = one.run(verb, timeout=30)
        assert done.returncode == 2, (verb, done.stderr)
        if what != "off loopback":
            assert f"{one.ini}:{line}:" in done.stderr
        for word in words:
            assert word in done.stderr
        assert "\n" not in done.stderr.strip()
        if verb == "check":
            assert os.listdir(one.folder) == ["silo.ini"]
    assert one.live() == {}
    assert not os.path.exists(f"{one.folder}/s/silo.sock")


def test_a_file_that_is_not_there(idle):
    for verb in ("check", "serve", "status", "images"):
        done = idle.run(verb, "--config", "/no/such/silo.ini")
        assert done.returncode == 2
        assert "/no/such/silo.ini" in done.stderr


def test_a_port_in_use(instance):
    import socket

    one = instance(image=False)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        address = f"127.0.0.1:{s.getsockname()[1]}"
        one.sections["transport.grpc"]["listen"] = address
        one.write()
        done = one.run("serve", timeout=30)
    assert done.returncode != 0
    assert address in done.stderr
    one.check_nothing_left()
