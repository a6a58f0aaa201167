# SPDX-License-Identifier: Apache-2.0
"""Silo: run Python functions in containers of a Silo daemon.

import silo

server = silo.Server("127.0.0.1:50051")

@server.function(image="python:3.11")
def hello(name):
    return f"Hello, {name}!"

print(hello.remote("world"))
"""

from .client import RemoteFunction, Server
from .connection import VERSION as __version__
from .errors import (
    AuthError,
    ConnectionError,
    CrashError,
    DeserializationError,
    Error,
    FunctionTimeoutError,
    InputCancellation,
    InternalFailure,
    InvalidError,
    NotFoundError,
    OutOfMemoryError,
    RemoteError,
    RemoteTraceback,
    ResourceExhaustedError,
    SerializationError,
    VersionError,
)
from .map import MapResult

__all__ = [
    "AuthError",
    "ConnectionError",
    "CrashError",
    "DeserializationError",
    "Error",
    "FunctionTimeoutError",
    "InputCancellation",
    "InternalFailure",
    "InvalidError",
    "MapResult",
    "NotFoundError",
    "OutOfMemoryError",
    "RemoteError",
    "RemoteFunction",
    "RemoteTraceback",
    "ResourceExhaustedError",
    "SerializationError",
    "Server",
    "VersionError",
    "__version__",
]
