# SPDX-License-Identifier: Apache-2.0
"""Daemons that are killed, started twice, or asked to end while they work."""

import signal
import threading

import pytest
from instances import wait_for

import silo


def start_call(one, seconds):
    """A call in a thread: (thread, list for its result or exception)."""

    def sleeper(seconds):
        import time

        print("started")
        time.sleep(seconds)
        return "slept"

    result = []

    def call():
        try:
            result.append(one.function(sleeper).remote(seconds))
        except Exception as e:
            result.append(e)

    thread = threading.Thread(target=call)
    thread.start()
    wait_for(
        lambda: any(t["state"] == "running" for t in one.json("ps", "--unfinished")["tasks"]),
        30,
        "the task to run" + one.tail(),
    )
    return thread, result


@pytest.mark.parametrize("container", ["crun", "podman"])
@pytest.mark.parametrize("rootfs", ["erofs", "fuse"])
def test_kill_9_and_restart(instance, rootfs, container):
    one = instance(rootfs=rootfs, container=container).start()
    thread, result = start_call(one, 120)
    one.kill()
    thread.join(30)
    assert isinstance(result[0], silo.ConnectionError)

    one.start()
    assert not one.json("ps", "--unfinished")["tasks"]
    assert one.json("ps")["tasks"][0]["outcome"] == "lost"
    # Nothing of the first daemon's worker is left, beside the new daemon itself.
    wait_for(lambda: set(one.live()) == {one.daemon.pid}, 10, f"the end of {one.live()}")
    assert one.cgroups() == []
    one.check_works()
    one.stop()


def test_kill_9_while_idle(instance):
    one = instance().start()
    one.check_works()
    one.kill()
    one.start()
    one.check_works()
    one.stop()


def test_a_second_daemon(instance):
    one = instance().start()
    done = one.run("serve", timeout=30)
    assert done.returncode == 2
    assert one.state in done.stderr
    assert str(one.daemon.pid) in done.stderr
    one.check_works()
    one.stop()


def test_drain(instance):
    """SIGTERM: what runs may end, what is new is refused, then the daemon goes."""
    one = instance().start()
    thread, result = start_call(one, 2)
    one.daemon.send_signal(signal.SIGTERM)
    wait_for(lambda: one.json("status")["draining"] or result, 10, "draining")
    thread.join(30)
    assert result == ["slept"]
    assert one.daemon.wait(30) == 0
    one.daemon = None
    one.check_nothing_left()
    with pytest.raises(silo.ConnectionError, match="silo serve"):
        one.function(lambda: 1).remote()


def test_drain_has_an_end(instance):
    one = instance(drain="500ms").start()
    thread, result = start_call(one, 120)
    one.stop()
    thread.join(30)
    assert isinstance(result[0], silo.Error)


def test_sigint_ends_it_too(instance):
    one = instance().start()
    one.stop(signal.SIGINT)


def test_a_client_survives_a_restart(instance):
    one = instance().start()
    f = one.function(lambda x: x + 1)
    assert f.remote(1) == 2
    one.stop()
    with pytest.raises(silo.ConnectionError):
        f.remote(1)
    one.start()
    assert f.remote(2) == 3
    one.stop()
