# SPDX-License-Identifier: Apache-2.0
"""RemoteFunction.map: many calls side by side, read in order.

Worker threads take items from the input one at a time and make one call each; there
are as many threads as there are calls under way, up to CONCURRENT.  Work holds all
that they share; MapResult, which the caller holds, stops them when it is dropped.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .call import run_call
from .errors import InputCancellation, RemoteError

if TYPE_CHECKING:
    from .client import RemoteFunction

CONCURRENT = 64  # calls of one map under way
UNREAD = 1000  # items that are started ahead of the one that the caller reads


class Work:
    """State of one map.  `ready` guards every field but `input`."""

    def __init__(self, function: RemoteFunction, iterable: Iterable[Any]):
        self.function = function
        self.input = iter(iterable)
        self.input_lock = threading.Lock()  # taken before `ready`
        self.ready = threading.Condition()
        self.outcomes: dict[int, tuple[bool, Any]] = {}  # index -> (succeeded, value or exception)
        self.started = 0  # items taken from the input
        self.wanted = 0  # items that the caller has asked for
        self.total: int | None = None  # known when the input has ended
        self.workers = 0
        self.waiting = 0  # workers that wait for an item
        self.streams: set[Any] = set()
        self.cancelled = False
        self.finished_reading = False

    def add_worker(self) -> None:
        """Called with `ready` held."""
        if self.workers < CONCURRENT and self.waiting == 0 and self.total is None:
            self.workers += 1
            self.waiting += 1
            threading.Thread(target=self.work, name="silo-map", daemon=True).start()

    def work(self) -> None:
        """One worker: items until there are no more."""
        while True:
            item = self.take()
            if item is None:
                break
            index, value = item
            streams: list[Any] = []
            try:
                outcome = (
                    True,
                    run_call(
                        self.function,
                        (value,),
                        {},
                        whole_lines=True,
                        on_start=lambda stream, streams=streams: self.track(stream, streams),
                    ),
                )
            except BaseException as e:
                outcome = False, e
            with self.ready:
                self.streams.difference_update(streams)
                self.outcomes[index] = outcome
                self.waiting += 1
                self.ready.notify_all()
            del item, value, outcome
        with self.ready:
            self.workers -= 1

    def take(self) -> tuple[int, Any] | None:
        """The next item and its index; None: no more.  The caller is counted as waiting."""
        with self.input_lock:
            with self.ready:
                while not self.cancelled and self.started - self.wanted >= UNREAD:
                    self.ready.wait()
                if self.cancelled or self.total is not None:
                    self.waiting -= 1
                    return None
            try:
                value = next(self.input)
                failure: BaseException | None = None
            except StopIteration:
                value, failure = None, None
                ended = True
            except BaseException as e:
                value, failure, ended = None, e, True
            else:
                ended = False
            with self.ready:
                self.waiting -= 1
                index = self.started
                if ended:
                    if failure is not None:
                        self.outcomes[index] = False, failure
                        self.started += 1
                    self.total = self.started
                    self.ready.notify_all()
                    return None
                self.started += 1
                self.add_worker()
                return index, value

    def track(self, stream: Any, streams: list[Any]) -> None:
        with self.ready:
            streams.append(stream)
            self.streams.add(stream)
            cancelled = self.cancelled
        if cancelled:
            stream.cancel()

    def cancel(self) -> None:
        """Stop everything; what has no outcome yet ends as cancelled."""
        with self.ready:
            self.cancelled = True
            streams = list(self.streams)
            self.ready.notify_all()
        for stream in streams:
            stream.cancel()

    def get(self, index: int) -> tuple[bool, Any] | None:
        """Wait for the outcome of one item; None: there are not so many."""
        with self.ready:
            if index >= self.wanted:
                self.wanted = index + 1
                self.ready.notify_all()
            while True:
                if index in self.outcomes:
                    return self.outcomes[index]
                if self.total is not None and index >= self.total:
                    return None
                if self.cancelled:
                    return False, InputCancellation("the map was cancelled")
                self.ready.wait()

    def count(self) -> int:
        """Wait for the end of the input; how many items it had.  Its error is raised."""
        with self.ready:
            self.wanted = max(self.wanted, 1 << 62)
            self.ready.notify_all()
            while self.total is None:
                if self.cancelled:
                    raise InputCancellation("the map was cancelled")
                self.ready.wait()
            return self.total

    def dropped(self) -> None:
        """Nobody can read the results any more."""
        with self.ready:
            unfinished = self.total is None or len(self.outcomes) < self.total
            unread = self.wanted == 0
        if unfinished:
            self.cancel()
            if unread:
                warnings.warn(
                    f"the result of {self.function.name}.map() was dropped before it was read: "
                    "its calls are cancelled",
                    RuntimeWarning,
                    stacklevel=2,
                )


class MapResult(Sequence):
    """Results of a map in the order of its items; reads as the list of them.

    Each access waits for what it needs.  A call that raised raises when its item is reached.
    """

    def __init__(self, function: RemoteFunction, iterable: Iterable[Any]):
        self._work = Work(function, iterable)
        weakref.finalize(self, self._work.dropped)
        with self._work.ready:
            self._work.add_worker()

    def cancel(self) -> None:
        """Stop the calls that still run; items without a result raise InputCancellation."""
        self._work.cancel()

    def _get(self, index: int) -> Any:
        """The result of one item; raises what its call raised, IndexError behind the end."""
        try:
            outcome = self._work.get(index)
        except KeyboardInterrupt:
            self._work.cancel()
            raise
        if outcome is None:
            raise IndexError("map index out of range")
        succeeded, value = outcome
        if not succeeded:
            raise value
        return value

    def __len__(self) -> int:
        try:
            return self._work.count()
        except KeyboardInterrupt:
            self._work.cancel()
            raise

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(self)[index]
        if index < 0:
            index += len(self)
            if index < 0:
                raise IndexError("map index out of range")
        return self._get(index)

    def __iter__(self) -> Iterator[Any]:
        return MapIterator(self)

    def __repr__(self) -> str:
        return repr(list(self))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (list, MapResult)):
            return list(self) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: list) -> list:
        return list(self) + list(other)

    def __radd__(self, other: list) -> list:
        return list(other) + list(self)


class MapIterator:
    """Goes on behind an item that raised, which a generator could not."""

    def __init__(self, results: MapResult):
        self._results = results
        self._index = 0

    def __iter__(self) -> MapIterator:
        return self

    def __next__(self) -> Any:
        outcome = None
        try:
            outcome = self._results._work.get(self._index)
        except KeyboardInterrupt:
            self._results.cancel()
            raise
        if outcome is None:
            raise StopIteration
        self._index += 1
        succeeded, value = outcome
        if succeeded:
            return value
        if isinstance(value, StopIteration):  # would end the loop without a word
            raise RemoteError(str(value), "StopIteration") from value
        raise value
