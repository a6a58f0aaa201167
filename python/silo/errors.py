# SPDX-License-Identifier: Apache-2.0
"""Everything that the client raises by itself, and how outcomes become exceptions.

What user code raises is raised as it is (same type), with a RemoteTraceback as its
cause.  All the others derive from silo.Error.
"""

from __future__ import annotations

import builtins
import signal


class Error(Exception):
    """Base of Silo's own exceptions.  `task`: the task's id, 0 when there is none."""

    task: int = 0


class RemoteError(Error):
    """User code ended badly, and its exception cannot be raised here as it is.

    type: name of the exception's type.  message: its text.  traceback: as Python printed it
    in the container ("" if none).  exit_code: for sys.exit and crashes, else None.
    """

    def __init__(
        self, message: str, type: str = "", traceback: str = "", exit_code: int | None = None
    ):
        super().__init__(message)
        self.type = type
        self.message = message
        self.traceback = traceback
        self.exit_code = exit_code

    def __str__(self) -> str:
        text = f"{self.type}: {self.message}" if self.type else self.message
        return f"{text}\n\n{self.traceback.rstrip()}" if self.traceback else text


class CrashError(RemoteError):
    """The process in the container died; exit_code is 128 + signal, or what it exited with."""


class FunctionTimeoutError(Error, TimeoutError):
    """The function ran longer than its timeout."""


class OutOfMemoryError(Error):
    """The container used more memory than it may."""


class InputCancellation(Error):
    """The task was cancelled (silo cancel, or its caller went away)."""


class VersionError(Error):
    """Python of caller and image differ in their minor version."""


class AuthError(Error):
    """No API key, or one that the daemon does not accept."""


class NotFoundError(Error):
    """An image or a function that the daemon does not know."""


class InvalidError(Error):
    """The request is wrong: what is asked cannot work."""


class ResourceExhaustedError(Error):
    """A limit was reached: sizes, queue length, disk."""


class ConnectionError(Error, builtins.ConnectionError):
    """The daemon cannot be reached, or went away during the call."""


class SerializationError(Error):
    """A function, an argument or a result cannot be pickled."""


class DeserializationError(Error):
    """What was pickled on one side cannot be unpickled on the other."""


class InternalFailure(Error):
    """The daemon's fault: its message says what went wrong."""


class RemoteTraceback(Exception):
    """The traceback of the container, as the __cause__ of what was raised there."""

    def __init__(self, text: str):
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return "in the container:\n" + self.text.rstrip()


# Outcomes (include/silo/task.h) whose message is all there is to say.
PLAIN = {
    "timeout": FunctionTimeoutError,
    "cancelled": InputCancellation,
    "start": InternalFailure,
    "version": VersionError,
    "no_image": NotFoundError,
    "no_python": InvalidError,
    "no_code": NotFoundError,
    "lost": ConnectionError,
    "oom": OutOfMemoryError,
    "invalid": InvalidError,
    "exhausted": ResourceExhaustedError,
    "internal": InternalFailure,
    "bad_code": DeserializationError,
    "bad_result": SerializationError,
    "missing_module": DeserializationError,
}

# gRPC statuses other than OK: the request was not taken.
STATUS = {
    "UNAVAILABLE": ConnectionError,
    "UNAUTHENTICATED": AuthError,
    "PERMISSION_DENIED": AuthError,
    "NOT_FOUND": NotFoundError,
    "INVALID_ARGUMENT": InvalidError,
    "OUT_OF_RANGE": InvalidError,
    "FAILED_PRECONDITION": InvalidError,
    "RESOURCE_EXHAUSTED": ResourceExhaustedError,
    "DEADLINE_EXCEEDED": FunctionTimeoutError,
    "CANCELLED": InputCancellation,
}


def from_outcome(result: dict, image: str) -> Error:
    """The exception for a Result other than "success" and "exception"."""
    outcome = result["outcome"]
    message = text(result["message"])
    if outcome == "exit":
        code = result["exit_code"]
        error: Error = RemoteError(f"the function called sys.exit ({code})", "SystemExit", "", code)
    elif outcome == "crash":
        error = CrashError(message or crash_message(result["exit_code"]))
        error.exit_code = result["exit_code"]
    else:
        kind = PLAIN.get(outcome, InternalFailure)
        if not message:
            message = f"the daemon answered {outcome!r}"
        if outcome == "no_image":
            hint = f"silo index {image}"
            if image not in message:
                message = f"{message}: {image}"
            if hint not in message:
                message = f"{message} (to add it: {hint})"
        error = kind(message)
        traceback = text(result["traceback"])
        if traceback:
            error.__cause__ = RemoteTraceback(traceback)
    error.task = result["task"]
    return error


def crash_message(code: int) -> str:
    if code > 128:
        try:
            return f"the function's process was killed by {signal.Signals(code - 128).name}"
        except ValueError:
            pass
    return f"the function's process exited with status {code} before it had a result"


def text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


for _class in list(globals().values()):
    if isinstance(_class, type) and _class.__module__ == __name__:
        _class.__module__ = "silo"  # as users import it, and as tracebacks show it
