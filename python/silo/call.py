# SPDX-License-Identifier: Apache-2.0
"""One call: request out, events in, a value or an exception at the end."""

from __future__ import annotations

import linecache
import re
from typing import TYPE_CHECKING, Any, Callable

from . import errors, packing, wire
from .connection import Connection
from .output import Output

if TYPE_CHECKING:
    from .client import RemoteFunction

FRAME = re.compile(r'^  File "([^"]+)", line (\d+), in ')


def run_call(
    function: RemoteFunction,
    args: tuple,
    kwargs: dict[str, Any],
    whole_lines: bool = False,
    on_start: Callable[[Any], None] | None = None,
) -> Any:
    """Call and wait; what the function returned.  Raises what it raised, or silo.Error.

    whole_lines: see Output.  on_start: is given the gRPC stream, to cancel it from
    another thread.
    """
    request = function.request(args, kwargs)
    connection = function.server.connect()
    result = exchange(connection, request, whole_lines, on_start)
    if result["outcome"] == "no_code" and "code" in request:
        # Another client's calls, or the daemon's own clean-up, have made it forget.
        result = exchange(connection, request, whole_lines, on_start)
    return unpack(function, result)


def exchange(
    connection: Connection,
    request: wire.Message,
    whole_lines: bool,
    on_start: Callable[[Any], None] | None,
) -> wire.Message:
    """Send one request, show its output, return the Result."""
    digest = request["function"]
    claimed = "code" in request and connection.claim_code(digest)
    if not claimed:
        request = {k: v for k, v in request.items() if k != "code"}
    stream = None
    try:
        stream = connection.start_call(request)
        if on_start is not None:
            on_start(stream)
        output = Output(whole_lines)
        for event in connection.events(stream):
            if event["output"] is not None:
                output.write(event["output"]["stream"], event["output"]["data"])
            elif event["accepted"] is not None and claimed:
                connection.code_sent(digest, known=True)
                claimed = False
            elif event["result"] is not None:
                connection.end_call(stream)
                output.finish()
                if event["result"]["outcome"] == "no_code":
                    connection.code_sent(digest, known=False)
                return event["result"]
        raise errors.InternalFailure(f"{connection.address} ended the call without a result")
    except BaseException:
        if stream is not None:
            stream.cancel()
        raise
    finally:
        if claimed:
            connection.code_sent(digest, known=False)


def unpack(function: RemoteFunction, result: wire.Message) -> Any:
    """The value of a Result, or the exception that it stands for, raised."""
    outcome = result["outcome"]
    if outcome == "success":
        try:
            return packing.loads(result["value"], f"the result of {function.name}")
        except errors.Error as e:
            e.task = result["task"]
            raise
    if outcome == "exception":
        raise user_exception(function, result)
    error = errors.from_outcome(result, function.image)
    raise error


def user_exception(function: RemoteFunction, result: wire.Message) -> BaseException:
    """What user code raised, with the remote traceback as its cause."""
    text = with_source(errors.text(result["traceback"]), function.files())
    exception = None
    if result["exception"]:
        try:
            exception = packing.loads(result["exception"], "the exception")
        except errors.DeserializationError:
            pass
    # A remote KeyboardInterrupt must not look like one of the caller's own.
    if isinstance(exception, Exception):
        exception.__cause__ = errors.RemoteTraceback(text)
        return exception
    error = errors.RemoteError(errors.text(result["message"]), errors.text(result["type"]), text)
    error.task = result["task"]
    return error


def with_source(text: str, files: set[str]) -> str:
    """Add the source lines that the container could not know to a traceback.

    files: only these are read; the text comes from the container.
    """
    lines = text.splitlines()
    out = []
    for i, line in enumerate(lines):
        out.append(line)
        frame = FRAME.match(line)
        bare = i + 1 == len(lines) or not lines[i + 1].startswith("    ")
        if frame and bare and frame[1] in files:
            source = linecache.getline(frame[1], int(frame[2])).strip()
            if source:
                out.append("    " + source)
    return "\n".join(out) + "\n"
