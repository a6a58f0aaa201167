# SPDX-License-Identifier: Apache-2.0
"""The daemon as a service: what it tells its manager, where it lives, what it costs idle."""

import os
import signal
import socket
import threading
from pathlib import Path

import pytest
from instances import IMAGE, read, wait_for

IDLE_SECONDS = 3  # how long idleness is measured: not a wait for anything


def test_the_service_manager_is_told(instance, tmp_path, monkeypatch):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        one = instance().start()
        assert manager.recv(100) == b"READY=1"
        one.daemon.send_signal(signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"
        one.stop()


@pytest.mark.parametrize("path", ["relative", "/no/such/socket"])
def test_a_manager_that_cannot_be_told(instance, monkeypatch, path):
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    one = instance().start()
    one.check_works()
    one.stop()


def test_it_lives_in_a_mount_namespace_of_its_own(instance):
    one = instance().start()
    theirs = os.readlink(f"/proc/{one.daemon.pid}/ns/mnt")
    assert theirs != os.readlink("/proc/self/ns/mnt")
    # A worker is mounted there, and only there.
    one.check_works()
    assert f"{one.folder}/state/run/workers" in read(f"/proc/{one.daemon.pid}/mountinfo")
    one.check_no_mounts()
    one.stop()


def wakeups(pid):
    """How often threads of the process went to sleep of their own accord, so far."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def test_an_idle_daemon_sleeps(instance):
    one = instance().start()
    before = wakeups(one.daemon.pid)
    threading.Event().wait(IDLE_SECONDS)
    assert wakeups(one.daemon.pid) == before
    if "detect_leaks" not in os.environ.get(
        "ASAN_OPTIONS", ""
    ):  # a sanitizer's own memory is not the daemon's
        assert one.rss() < 40 << 20
    one.stop()


def test_grpc_rests_when_its_clients_have_gone(instance):
    one = instance(scaledown_window="100ms")
    one.sections["transport.grpc"]["rest_after"] = "200ms"
    one.write()
    one.start()

    def threads():
        tasks = Path(f"/proc/{one.daemon.pid}/task").glob("*/comm")
        return [t for t in map(read, tasks) if t.startswith(("timer_manager", "grpc_global"))]

    for _ in range(3):
        server = one.server()
        assert server.function(image=IMAGE)(lambda: 42).remote() == 42
        assert threads()
        server.close()
        wait_for(lambda: not threads(), 20, "gRPC's threads to end")
    wait_for(lambda: one.json("status")["workers"]["live"] == 0, 20, "the last worker")
    before = wakeups(one.daemon.pid)
    threading.Event().wait(IDLE_SECONDS)
    assert wakeups(one.daemon.pid) == before
    one.stop()


def test_idle_workers_are_told_to_go(instance):
    one = instance(scaledown_window="100ms").start()
    one.check_works()
    wait_for(lambda: one.json("status")["workers"]["live"] == 0, 20, "the last worker" + one.tail())
    assert list(Path(one.state, "run", "workers").iterdir()) == []
    assert one.cgroups() == []
    one.check_works()
    one.stop()
