# SPDX-License-Identifier: Apache-2.0
"""RemoteFunction.map: reads as a list, in order, never hangs."""

import gc
import threading
import warnings

import pytest

import silo
from silo import map as silo_map


@pytest.fixture
def double(server):
    @server.function()
    def double(x):
        if x == 13:
            raise ValueError("unlucky")
        return 2 * x

    return double


def test_reads_as_a_list(double):
    result = double.map(i for i in range(5))
    assert repr(result) == "[0, 2, 4, 6, 8]"
    assert str(result) == "[0, 2, 4, 6, 8]"
    assert result == [0, 2, 4, 6, 8]
    assert result == [0, 2, 4, 6, 8]
    assert result != [0]
    assert result == double.map(range(5))
    assert len(result) == 5
    assert (result[1], result[-1], result[1:3]) == (2, 8, [2, 4])
    assert list(result) == list(result)
    assert 4 in result
    assert result.index(6) == 3
    joined = result + [1]  # noqa: RUF005
    assert joined == [0, 2, 4, 6, 8, 1]
    assert sum(result) == 20
    with pytest.raises(IndexError):
        result[5]
    with pytest.raises(IndexError):
        result[-6]


def test_empty_input_returns_at_once(double, fake):
    assert double.map([]) == []
    assert not double.map(iter(()))
    assert fake.calls == []


def test_not_iterable(double):
    with pytest.raises(TypeError):
        double.map(3)


def test_order_is_that_of_the_items(server, fake):
    """Later items end first."""
    release = [threading.Event() for _ in range(4)]
    run = fake.run

    def answer(request):
        import pickle

        index = pickle.loads(request["args"])[0]
        events = list(run(request))
        yield events[0]
        if index < 3:
            assert release[index + 1].wait(10)
        release[index].set()
        yield from events[1:]

    fake.answer = answer
    assert server.function()(lambda x: x).map(range(4)) == [0, 1, 2, 3]


def test_concurrent_and_bounded(server, fake):
    full = threading.Event()
    run = fake.run

    def answer(request):
        events = list(run(request))
        yield events[0]
        if fake.active >= silo_map.CONCURRENT:
            full.set()
        assert full.wait(20)
        yield from events[1:]

    fake.answer = answer
    n = silo_map.CONCURRENT * 2
    assert server.function()(lambda x: x).map(range(n)) == list(range(n))
    assert fake.peak == silo_map.CONCURRENT
    assert sum(bool(c["code"]) for c in fake.calls) == 1


def test_an_exception_comes_when_its_item_is_reached(double):
    result = double.map([1, 13, 3])
    assert result[0] == 2
    assert result[2] == 6
    with pytest.raises(ValueError, match="unlucky"):
        result[1]
    iterator = iter(result)
    assert next(iterator) == 2
    with pytest.raises(ValueError, match="unlucky"):
        next(iterator)
    assert next(iterator) == 6
    with pytest.raises(ValueError, match="unlucky"):
        list(result)
    with pytest.raises(ValueError, match="unlucky"):
        repr(result)


def test_stop_iteration_does_not_end_the_loop(server):
    @server.function()
    def f(x):
        raise StopIteration(x)

    with pytest.raises(silo.RemoteError, match="StopIteration"):
        list(f.map([1]))


def test_errors_of_the_input_propagate(double):
    def items():
        yield 1
        yield 2
        raise OSError("input")

    result = double.map(items())
    iterator = iter(result)
    assert [next(iterator), next(iterator)] == [2, 4]
    with pytest.raises(OSError, match="input"):
        next(iterator)
    with pytest.raises(StopIteration):
        next(iterator)


def test_results_come_while_the_input_goes_on(double):
    go_on = threading.Event()

    def items():
        yield 1
        assert go_on.wait(10)
        yield 2

    result = double.map(items())
    assert result[0] == 2
    go_on.set()
    assert result == [2, 4]


def test_endless_input_is_read_as_far_as_needed(double):
    taken = []

    def items():
        i = 100
        while True:
            taken.append(i)
            yield i
            i += 1

    result = double.map(items())
    for got, want in zip(result, range(200, 210, 2)):
        assert got == want
    result.cancel()
    assert len(taken) <= silo_map.UNREAD + silo_map.CONCURRENT + 10


def test_cancel(server, fake):
    def answer(request):
        yield {"accepted": {"task": 1}}
        fake.cancelled.wait(10)

    fake.answer = answer
    result = server.function()(lambda x: x).map([1, 2])
    result.cancel()
    with pytest.raises(silo.InputCancellation):
        result[0]
    with pytest.raises(silo.InputCancellation):
        result[1]


def test_dropping_an_unread_result_cancels_and_warns(server, fake):
    started = threading.Event()

    def answer(request):
        yield {"accepted": {"task": 1}}
        started.set()
        fake.cancelled.wait(10)

    fake.answer = answer
    result = server.function()(lambda x: x).map([1])
    assert started.wait(10)
    with pytest.warns(RuntimeWarning, match="before it was read"):
        del result
        gc.collect()
    assert fake.cancelled.wait(10)


def test_dropping_a_read_result_is_silent(double):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = double.map([1, 2])
        assert result == [2, 4]
        del result
        gc.collect()
