# SPDX-License-Identifier: Apache-2.0
"""Tasks that nobody waits for, submitted over HTTP: they outlive clients and daemons.

With image_name they run here, and again when their daemon ended in their middle;
without they are kept for whoever posts their result, once.
"""

import base64
import http.client
import json
import pickle
import signal
import sys

import cloudpickle
import pytest
from instances import IMAGE, wait_for
from transports import connect

cloudpickle.register_pickle_by_value(sys.modules[__name__])

LONG = 8  # seconds that a task runs which is to be interrupted, well before its end


def b64(value):
    return base64.b64encode(value).decode()


def request(one, method, path, body=None):
    """(status, body) on a connection of its own, gone when this returns."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = connect(f"{one.state}/http.sock")
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        data = answer.read()
        if answer.getheader("content-type") == "application/json":
            data = json.loads(data)
        return answer.status, data
    finally:
        connection.close()


def task_body(function, *args, image=IMAGE):
    body = {
        "func": b64(cloudpickle.dumps(function)),
        "args": b64(pickle.dumps(args)),
        "kwargs": b64(pickle.dumps({})),
        "func_str": function.__name__,
    }
    return json.dumps({**body, "image_name": image} if image else body)


def submit(one, function, *args, image=IMAGE):
    """A new task; its id."""
    status, text = request(one, "POST", "/api/tasks", task_body(function, *args, image=image))
    assert status == 200, text
    return int(text)


def result(one, task):
    """What GET /api/results answers once there is one."""

    def answered():
        status, answer = request(one, "GET", f"/api/results/{task}")
        assert status in (200, 404), answer
        return status == 200 and answer

    return wait_for(answered, 60, f"the result of task {task}" + one.tail())


def value(one, task):
    answer = result(one, task)
    assert answer["output"], answer
    return pickle.loads(base64.b64decode(answer["output"]))


def listed(one, task):
    """The task as `silo ps` has it."""
    return next(t for t in one.json("ps")["tasks"] if t["id"] == task)


def wait_until_running(one, task):
    wait_for(lambda: listed(one, task)["state"] == "running", 30, "the task to run" + one.tail())


def crash(one):
    one.kill()
    one.start()


def drained_too_long(one):
    one.stop()
    one.start()


ENDS = pytest.mark.parametrize("end", [crash, drained_too_long])
STORAGES = pytest.mark.parametrize("storage", ["sqlite", "files"])


def double(x):
    return 2 * x


def slow(seconds):
    import time

    time.sleep(seconds)
    return "slept"


def fail():
    raise KeyError("gone")


# -- clients that go away -----------------------------------------------------------


def test_it_survives_its_client(daemon):
    """The connection is closed while the task runs."""
    task = submit(daemon, slow, 1)
    wait_until_running(daemon, task)
    assert value(daemon, task) == "slept"
    assert listed(daemon, task)["detached"] is True


def test_it_survives_a_client_that_does_not_read(daemon):
    """It goes, without having read the answer, when the task is there.  (libmicrohttpd may drop
    a request whose sender is gone before all of it has been looked at.)"""
    before = {task["id"] for task in daemon.json("ps")["tasks"]}
    body = task_body(double, 4).encode()

    def arrived():
        return {task["id"] for task in daemon.json("ps")["tasks"]} - before

    with connect(f"{daemon.state}/http.sock") as sock:
        head = f"POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        wait_for(arrived, 30, "the task to arrive" + daemon.tail())
    assert value(daemon, arrived().pop()) == 8


# -- daemons that end -----------------------------------------------------------------


@ENDS
@STORAGES
def test_it_is_run_again(instance, storage, end):
    one = instance(storage=storage, drain="300ms").start()
    task = submit(one, slow, LONG)
    wait_until_running(one, task)
    end(one)
    assert value(one, task) == "slept"
    assert listed(one, task)["attempt"] == 2
    assert request(one, "POST", f"/api/results/{task}", b64(b"other"))[0] in (403, 409)
    one.stop()


@ENDS
def test_one_of_each(instance, end):
    """Done ones keep their results, one in its middle and those that wait are all run."""
    one = instance(max_workers=1, drain="300ms").start()
    done, failed = submit(one, double, 1), submit(one, fail)
    assert value(one, done) == 2
    first = result(one, failed)
    middle = submit(one, slow, LONG)
    wait_until_running(one, middle)
    waiting = [submit(one, double, n) for n in range(5)]
    end(one)
    assert [value(one, task) for task in waiting] == [0, 2, 4, 6, 8]
    assert value(one, middle) == "slept"
    assert [listed(one, task)["attempt"] for task in (done, failed, middle)] == [1, 1, 2]
    assert value(one, done) == 2
    assert result(one, failed) == first
    assert first["type"] == "KeyError"
    one.stop()


def test_it_ends_within_the_drain(instance):
    one = instance(drain="30s").start()
    task = submit(one, slow, 2)
    wait_until_running(one, task)
    one.stop()
    one.start()
    assert value(one, task) == "slept"
    assert listed(one, task)["attempt"] == 1
    one.stop()


def test_its_image_is_gone(instance):
    """A task that cannot be run again gets a result that says so."""
    one = instance(max_workers=1).start()
    task = submit(one, slow, 120)
    wait_until_running(one, task)
    one.kill()
    one.ok("rm", IMAGE)
    one.start()
    answer = result(one, task)
    assert answer["outcome"] == "no_image"
    assert IMAGE in answer["message"]
    one.stop()


# -- tasks that run elsewhere -------------------------------------------------------------


@ENDS
@STORAGES
def test_external_tasks(instance, storage, end):
    one = instance(image=False, storage=storage).start()
    tasks = [submit(one, double, n, image=None) for n in range(2)]
    end(one)
    for task in tasks:
        status, kept = request(one, "GET", f"/api/tasks/{task}")
        assert status == 200
        function = cloudpickle.loads(base64.b64decode(kept["func"]))
        args = pickle.loads(base64.b64decode(kept["args"]))
        assert request(one, "GET", f"/api/results/{task}")[0] == 404
        path, posted = f"/api/results/{task}", b64(pickle.dumps(function(*args)))
        assert request(one, "POST", path, posted)[0] == 200
        status, answer = request(one, "POST", path, b64(b"another"))
        assert (status, answer["error"]["code"]) == (409, "ALREADY_EXISTS")
    end(one)
    assert [value(one, task) for task in tasks] == [0, 2]
    assert request(one, "POST", f"/api/results/{tasks[0]}", b64(b"another"))[0] == 409
    one.stop()


def test_external_tasks_do_not_hold_up_the_end(instance):
    """Nobody may ever post their results: a drain does not wait for that."""
    one = instance(image=False, drain="1h").start()
    submit(one, double, 1, image=None)
    assert one.json("status")["tasks"]["live"] == 0
    one.stop(signal.SIGTERM, seconds=30)
