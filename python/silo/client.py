# SPDX-License-Identifier: Apache-2.0
"""Server and RemoteFunction: the API.  One call's way over the wire is in call.py."""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import threading
from collections.abc import Iterable
from typing import Any, Callable

from . import packing, wire
from .call import run_call
from .connection import Connection, parse_url
from .errors import InvalidError
from .map import MapResult


def local_python() -> str:
    """Minor version of this interpreter, "3.11"."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


class Server:
    """A Silo daemon.  Nothing is connected before the first call.

    url: "host:port", "grpc://host:port" or "unix:///path"; None: $SILO_URL, else the socket
    of the local daemon.  api_key: sent with every call.  ValueError for any other url.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None):
        self.target, self.address = parse_url(url)
        self._api_key = api_key
        self._lock = threading.Lock()
        self._connection: Connection | None = None  # under _lock

    def __repr__(self) -> str:
        return f"silo.Server({self.address!r})"

    def __reduce__(self) -> Any:
        # A module of helpers may define its own Server; the key stays here.
        import types

        return types.SimpleNamespace, (), {"silo": "a silo.Server; not usable in a container"}

    def connect(self) -> Connection:
        """The connection, made and greeted if need be.  ConnectionError, AuthError."""
        with self._lock:
            connection = self._connection
            if connection is None or not connection.usable():
                connection = Connection(self.target, self.address, self._api_key)
                connection.hello()
                self._connection = connection
            return connection

    def close(self) -> None:
        """Close the connection; the next call opens another one."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def function(
        self,
        image: str | None = None,
        timeout: float | None = None,
        name: str | None = None,
    ) -> Callable[[Callable], RemoteFunction]:
        """Decorator: run this function in containers of `image`.

        image: name of an indexed image; None: "python:X.Y" of the local Python's version.
        timeout: seconds per call; None: the daemon's default.  name: for get_func and
        listings; None: the function's own.
        """
        if callable(image):
            raise TypeError('write @server.function(image="python:3.11"), with parentheses')
        if image is not None and not isinstance(image, str):
            raise TypeError(f"image must be a name such as 'python:3.11', not {image!r}")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be seconds above 0, not {timeout!r}")
        image = image or f"python:{local_python()}"

        def decorate(function: Callable) -> RemoteFunction:
            if not callable(function):
                raise TypeError(f"a function is needed, not {type(function).__name__}")
            return RemoteFunction(self, image, timeout, name, function)

        return decorate

    def entry(self, function: Callable | None = None) -> Callable:
        """Decorator: what `silo launch` runs here, on the caller's machine."""

        def decorate(function: Callable) -> Callable:
            function.__silo_entry__ = True  # type: ignore[attr-defined]
            return function

        return decorate if function is None else decorate(function)

    def get_func(self, name: str, key: str | None = None) -> RemoteFunction:
        """The function last sent to this daemon as `name`; no local code is needed.

        key: accepted for programs written for the original Silo, not used.  NotFoundError.
        """
        found = self.connect().get_function(name)
        return RemoteFunction.from_message(self, found)


class RemoteFunction:
    """A function that runs in containers; made by Server.function and Server.get_func."""

    def __init__(
        self,
        server: Server,
        image: str,
        timeout: float | None,
        name: str | None,
        function: Callable | None,
    ):
        if function is not None:
            functools.update_wrapper(self, function)
        self.server = server
        self.image = image
        self.timeout = timeout
        self.name = name or getattr(function, "__name__", "function")
        self._function = function
        self._lock = threading.Lock()
        self._package: dict[str, Any] | None = None  # what is sent of the code; under _lock

    @classmethod
    def from_message(cls, server: Server, found: wire.Message) -> RemoteFunction:
        """From a silo.v1 Function."""
        timeout = found["timeout_ms"] / 1000 or None
        self = cls(server, found["image"], timeout, found["name"], None)
        self.__name__ = self.__qualname__ = found["name"]
        self._package = {
            "function": found["digest"],
            "python": found["python"],
            "source": found["source"],
        }
        return self

    def __repr__(self) -> str:
        return f"<silo function {self.name} in {self.image}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{self.name} runs in a container: call {self.name}.remote(...), "
            f"or {self.name}.local(...) to run it here"
        )

    def __reduce__(self) -> Any:
        """Inside a container, a function that refers to another one calls it directly."""
        function = self._need_local("sent along with another function")
        return functools.partial, (function,), (function, (), {}, {"local": function})

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Run in a container, wait, return the result or raise what it raised."""
        return run_call(self, args, kwargs)

    def map(self, iterable: Iterable[Any]) -> MapResult:
        """Call the function once per item, many at a time.

        Returns at once.  The result gives the results in the order of the items, waiting for
        each; it can be iterated, indexed, compared, printed and measured as the list of them.
        """
        return MapResult(self, iterable)

    def local(self, *args: Any, **kwargs: Any) -> Any:
        """Run here, on a copy made through pickle as the container would get it."""
        function = self._need_local("run here")
        return packing.loads(packing.dumps_function(function), self.name)(*args, **kwargs)

    def _need_local(self, purpose: str) -> Callable:
        if self._function is None:
            raise InvalidError(
                f"{self.name} comes from get_func: its code is at the daemon and cannot be "
                f"{purpose}"
            )
        return self._function

    def package(self) -> dict[str, Any]:
        """Fields of CallRequest about the code; pickled once, at the first call."""
        with self._lock:
            if self._package is None:
                assert self._function is not None
                code = packing.dumps_function(self._function)
                self._package = {
                    "function": hashlib.sha256(code).digest(),
                    "code": code,
                    "python": local_python(),
                    "source": packing.source_of(self._function),
                }
            return self._package

    def request(self, args: tuple, kwargs: dict[str, Any]) -> wire.Message:
        """A CallRequest with everything, code included where there is any."""
        return {
            **self.package(),
            "name": self.name,
            "image": self.image,
            "args": packing.dumps(args, f"arguments of {self.name}"),
            "kwargs": packing.dumps(kwargs, f"arguments of {self.name}"),
            "timeout_ms": max(1, round(self.timeout * 1000)) if self.timeout else 0,
        }

    def files(self) -> set[str]:
        """Paths of the Python files that the code comes from, as tracebacks name them."""
        code = getattr(self._function, "__code__", None)
        files = {code.co_filename} if code is not None else set()
        for module in list(sys.modules.values()):
            path = getattr(module, "__file__", None)
            if isinstance(path, str) and packing.is_own_file(os.path.abspath(path)):
                files.add(path)
        return files
