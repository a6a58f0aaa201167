# SPDX-License-Identifier: Apache-2.0
"""The program inside a container: takes tasks of one function and runs them.

It speaks HTTP/1.1 to the daemon over one unix socket, as docs/formats/bridge.md
says.  It must run in any image with Python 3.8 or newer and start fast, so it
imports only what the interpreter has loaded anyway and a few C modules; json,
traceback, asyncio and cloudpickle are imported when a task needs them.  Plain
functions are unpickled without importing cloudpickle at all (QUICK below).

It runs as process 1 of its container, on the main thread; user code runs on the
same thread.  Nothing here may be imported by the client.
"""

import _io
import _signal
import _socket
import os
import sys

try:
    from _pickle import Unpickler, dumps, loads
except ImportError:  # an interpreter without the C module
    from pickle import Unpickler, dumps, loads

HERE = os.path.dirname(os.path.abspath(__file__))
PROTOCOL = 5
HEADER_LIMIT = 64 << 10  # bytes of a response's head
MESSAGE_LIMIT = 8 << 10  # characters of an error message
TRACEBACK_LIMIT = 256 << 10  # characters of a traceback
SMALL = 64 << 10  # bodies up to this are sent with their head in one write

FunctionType = type(lambda: None)
CodeType = type((lambda: None).__code__)
CellType = type((lambda x: lambda: x)(0).__closure__[0])


async def _nothing():
    pass


_coroutine = _nothing()
CoroutineType = type(_coroutine)
_coroutine.close()


class BridgeError(Exception):
    """The daemon is gone, or says something that is not the protocol."""


class InputCancellation(BaseException):
    """Raised inside user code when the daemon stops its task (SIGTERM)."""


class Failure(Exception):
    """A task that did not get as far as user code: outcome and head are set."""

    def __init__(self, outcome, type_, message, traceback=""):
        super().__init__(message)
        self.outcome = outcome
        self.head = {"type": type_, "message": message, "traceback": traceback}


# -- unpickling ---------------------------------------------------------------
#
# A pickle made by cloudpickle names functions of the module
# cloudpickle.cloudpickle.  Importing that costs more than starting Python does,
# and the few names below are all that a function without classes of its own
# needs.  Any other name, and any failure, falls back to the real module.


def _make_function(code, global_names, name, argdefs, closure):
    global_names["__builtins__"] = __builtins__
    return FunctionType(code, global_names, name, argdefs, closure)


def _function_setstate(function, state):
    attributes, slots = state
    slots = dict(slots)
    function.__dict__.update(attributes)
    function.__globals__.update(slots.pop("__globals__"))
    function.__globals__["__builtins__"] = __builtins__
    closure = slots.pop("__closure__")
    slots.pop("_cloudpickle_submodules")
    for i, cell in enumerate(closure or ()):
        try:
            function.__closure__[i].cell_contents = cell.cell_contents
        except ValueError:  # an empty cell stays empty
            continue
    for name, value in slots.items():
        setattr(function, name, value)


def _builtin_type(name):
    known = {"CodeType": CodeType, "CellType": CellType, "FunctionType": FunctionType}
    if name in known:
        return known[name]
    import types

    return getattr(types, name)


def _subimport(name):
    __import__(name)
    return sys.modules[name]


QUICK = {
    "_make_function": _make_function,
    "_function_setstate": _function_setstate,
    "_builtin_type": _builtin_type,
    "_make_empty_cell": CellType,
    "_make_cell": CellType,
    "subimport": _subimport,
}


def load_cloudpickle():
    """Import cloudpickle: the image's own, unless it is missing or too old."""
    import cloudpickle

    if int(cloudpickle.__version__.split(".")[0]) < 3 and HERE in sys.path:
        for name in [n for n in sys.modules if n.split(".")[0] == "cloudpickle"]:
            del sys.modules[name]
        sys.path.insert(0, HERE)
        try:
            import cloudpickle
        finally:
            sys.path.remove(HERE)
            sys.path.append(HERE)
    return cloudpickle


class QuickUnpickler(Unpickler):
    used = False  # anything of QUICK

    def find_class(self, module, name):
        if module == "cloudpickle.cloudpickle" and module not in sys.modules:
            if name in QUICK:
                self.used = True
                return QUICK[name]
            load_cloudpickle()
        return super().find_class(module, name)


def unpickle(body, start=0, end=None):
    """The object in body[start:end] (a bytearray)."""
    data = memoryview(body)[start:end]
    # The scan costs little beside the slower unpickler, which large plain arguments avoid.
    if body.find(b"cloudpickle", start, len(body) if end is None else end) < 0:
        return loads(data)
    unpickler = QuickUnpickler(_io.BytesIO(data))
    try:
        return unpickler.load()
    except ModuleNotFoundError:
        raise
    except Exception:
        if not unpickler.used:
            raise
        load_cloudpickle()
        return loads(data)


def pickle(value):
    """Pickled `value`; what plain pickle refuses goes to cloudpickle."""
    try:
        return dumps(value, PROTOCOL)
    except Exception as e:
        try:
            cloudpickle = load_cloudpickle()
        except ImportError:
            raise e from None
        return cloudpickle.dumps(value, PROTOCOL)


# -- the bridge -----------------------------------------------------------------


class Answer:
    """status (int), headers (dict, lower case), body (bytearray)."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body


class Bridge:
    """One kept-alive connection to the daemon; reconnects once when it was closed."""

    def __init__(self, path, token):
        self.path = path
        self.auth = "Host: silo\r\nAuthorization: Bearer %s\r\n" % token
        self.sock = None
        self.rest = b""

    def connect(self):
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            sock.connect(self.path)
        except OSError as e:
            sock.close()
            raise BridgeError("%s: %s" % (self.path, e.strerror)) from None
        self.sock = sock
        self.rest = b""

    def close(self):
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def request(self, line, headers="", parts=()):
        """Send one request, return its Answer.

        line: "GET /path".  headers: text, each line ended by CRLF.  parts: the body's
        bytes.  BridgeError when there is no daemon any more.
        """
        size = sum(len(p) for p in parts)
        head = "%s HTTP/1.1\r\n%s%s" % (line, self.auth, headers)
        if line.startswith("POST"):
            head += "Content-Length: %d\r\n" % size
        head = (head + "\r\n").encode("latin-1")
        for last in (False, True):
            if self.sock is None:
                self.connect()
            try:
                refused = self._send(head, parts, size)
                return self._receive() if refused is None else self._refusal(refused)
            except (OSError, EOFError) as e:
                self.close()
                if last:
                    raise BridgeError("%s: %s" % (self.path, e)) from None

    def _send(self, head, parts, size):
        """Send; the error when the daemon stopped reading half way, else None."""
        if size <= SMALL:
            self.sock.sendall(b"".join((head, *parts)))
            return None
        self.sock.sendall(head)
        try:
            for part in parts:
                self.sock.sendall(part)
        except OSError as e:
            return e
        return None

    def _refusal(self, error):
        """What the daemon said before it stopped reading a large body."""
        try:
            answer = self._receive()
        except (OSError, EOFError):
            raise error from None
        self.close()
        return answer

    def _receive(self):
        data = self.rest
        while True:
            end = data.find(b"\r\n\r\n")
            if end >= 0:
                break
            if len(data) > HEADER_LIMIT:
                raise BridgeError("a response's head is over %d bytes" % HEADER_LIMIT)
            more = self.sock.recv(65536)
            if not more:
                raise EOFError("connection closed by the daemon")
            data += more
        lines = data[:end].decode("latin-1").split("\r\n")
        headers = {}
        for text in lines[1:]:
            name, _, value = text.partition(":")
            headers[name.strip().lower()] = value.strip()
        try:
            status = int(lines[0].split(" ", 2)[1])
            size = int(headers.get("content-length", "0"))
        except (ValueError, IndexError):
            raise BridgeError("not an HTTP response: %.80r" % lines[0]) from None
        data = data[end + 4 :]
        body = bytearray(size)
        got = min(len(data), size)
        body[:got] = data[:got]
        self.rest = data[got:]
        view = memoryview(body)
        while got < size:
            n = self.sock.recv_into(view[got:])
            if n == 0:
                raise EOFError("connection closed by the daemon")
            got += n
        view.release()
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, headers, body)


# -- standard output --------------------------------------------------------------


def write_all(fd, data):
    """Write all of `data` even where user code made the pipe non-blocking."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            import select

            select.select((), (fd,), ())


class Streams:
    """Descriptors 1 and 2: private copies for the marks, repair for the next task."""

    def __init__(self, mark):
        self.mark = b"\x1e" + mark.encode("latin-1") + b"\n"
        self.copies = {}
        for fd in (1, 2):
            try:
                self.copies[fd] = os.dup(fd)
            except OSError:  # started without it: no output, no mark
                pass
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.reconfigure(line_buffering=True)
        self.stdout, self.stderr = sys.stdout, sys.stderr

    def flush(self):
        theirs = (getattr(sys, "stdout", None), getattr(sys, "stderr", None))
        for stream in {id(s): s for s in (*theirs, self.stdout, self.stderr)}.values():
            try:
                stream.flush()
            except BaseException:  # None, closed, or user code's own idea of a stream
                pass

    def end_task(self):
        """Flush and mark both streams; how many marks were written."""
        self.flush()
        marks = 0
        for fd in self.copies.values():
            try:
                write_all(fd, self.mark)
                marks += 1
            except OSError:
                pass
        return marks

    def repair(self):
        """Undo what the last task did to the standard streams."""
        self.stdout = sys.stdout = self._repaired(1, self.stdout)
        self.stderr = sys.stderr = self._repaired(2, self.stderr)

    def _repaired(self, fd, stream):
        copy = self.copies.get(fd)
        if copy is None or stream is None:
            return stream
        here, there = None, os.fstat(copy)
        try:
            here = os.fstat(fd)
        except OSError:
            pass
        if here is None or (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            os.dup2(copy, fd)
        if not stream.closed:
            return stream
        errors = "backslashreplace" if fd == 2 else "strict"
        return open(fd, "w", buffering=1, encoding=stream.encoding, errors=errors, closefd=False)


# -- one task -----------------------------------------------------------------------


class Outcome:
    """What goes into a result: name, exit code, head (dict or None), value (bytes)."""

    __slots__ = ("exit_code", "head", "name", "value")

    def __init__(self, name, head=None, value=b"", exit_code=0):
        self.name = name
        self.exit_code = exit_code
        self.head = head
        self.value = value


def type_name(type_):
    if type_.__module__ in ("builtins", "__main__", None):
        return type_.__qualname__
    return "%s.%s" % (type_.__module__, type_.__qualname__)


def text_of(value, limit=MESSAGE_LIMIT):
    """str (value), whatever its __str__ does; at most `limit` characters."""
    try:
        text = str(value)
    except BaseException as e:
        text = "<%s in __str__>" % type(e).__name__
    return text if len(text) <= limit else text[:limit] + "..."


def format_exception(exception, skip):
    """The traceback as Python prints it, without its `skip` outermost frames."""
    try:
        import traceback

        frames = exception.__traceback__
        while frames is not None and skip > 0:
            frames, skip = frames.tb_next, skip - 1
        asyncio = os.sep + "asyncio" + os.sep
        while frames is not None and asyncio in frames.tb_frame.f_code.co_filename:
            frames = frames.tb_next
        lines = traceback.format_exception(type(exception), exception, frames)
        text = "".join(lines)
    except BaseException as e:  # out of memory, or a hostile exception class
        text = "%s\n(no traceback: %s)\n" % (type_name(type(exception)), type(e).__name__)
    return text if len(text) <= TRACEBACK_LIMIT else text[-TRACEBACK_LIMIT:]


def describe(exception, skip):
    return {
        "type": type_name(type(exception)),
        "message": text_of(exception),
        "traceback": format_exception(exception, skip),
    }


def pickle_exception(exception):
    """Pickled exception, or b"" when it cannot be pickled and unpickled again."""
    try:
        data = pickle(exception)
        if type(loads(data)) is type(exception):
            return data
    except BaseException:
        pass
    return b""


def pickle_result(value):
    name = type_name(type(value))
    if name in ("generator", "async_generator"):
        message = "the function returned a %s; return a list of its items instead" % name
        raise Failure("bad_result", name, message)
    try:
        return pickle(value)
    except BaseException as e:
        message = "a result of type %s cannot be pickled: %s" % (name, text_of(e))
        raise Failure("bad_result", name, message) from None


class Runner:
    def __init__(self, bridge, streams):
        self.bridge = bridge
        self.streams = streams
        self.pid = os.getpid()
        self.digest = None
        self.function = None
        self.in_user_code = False

    def on_term(self, signum, frame):
        """SIGTERM: process 1 has no default action for it."""
        if not self.in_user_code:
            os._exit(128 + signum)
        self.in_user_code = False
        raise InputCancellation

    def unpickled(self, what, body, start=0, end=None):
        """body[start:end] unpickled, or Failure with the outcome that fits."""
        try:
            return unpickle(body, start, end)
        except ModuleNotFoundError as e:
            name = e.name or text_of(e)
            raise Failure(
                "missing_module",
                "ModuleNotFoundError",
                "%s needs the module %r, which the image does not have: install it in the "
                "image, or keep it next to the script that is launched" % (what, name),
                format_exception(e, 2),
            ) from None
        except BaseException as e:
            raise Failure(
                "bad_code",
                type_name(type(e)),
                "%s does not unpickle: %s: %s" % (what, type_name(type(e)), text_of(e)),
                format_exception(e, 2),
            ) from None

    def load(self, digest):
        """Fetch and unpickle the function, once per digest."""
        if digest == self.digest:
            return
        answer = self.bridge.request("GET /v1/worker/code/" + digest)
        if answer.status != 200:
            message = "no code for function %.12s (HTTP %d)" % (digest, answer.status)
            raise Failure("bad_code", "", message)
        function = self.unpickled("the function", answer.body)
        if not callable(function):
            message = "the code is a %s, not a function" % type_name(type(function))
            raise Failure("bad_code", "", message)
        self.function, self.digest = function, digest

    def call(self, args, kwargs):
        """Run user code; its result, or whatever it raises."""
        result = self.function(*args, **kwargs)
        if type(result) is CoroutineType:
            import asyncio

            result = asyncio.run(result)
        return result

    def run(self, task):
        """The Outcome of one task."""
        try:
            split = int(task.headers["silo-args"])
            self.load(task.headers["silo-function"])
            args = self.unpickled("the arguments", task.body, 0, split)
            kwargs = self.unpickled("the arguments", task.body, split)
            task.body = None
            return self.outcome(args, kwargs)
        except Failure as e:
            return Outcome(e.outcome, e.head)

    def outcome(self, args, kwargs):
        """Call the function and say how it ended; Failure for an odd result."""
        try:
            self.in_user_code = True
            try:
                result = self.call(args, kwargs)
            finally:
                self.in_user_code = False
        except InputCancellation:
            self.leave(128 + _signal.SIGTERM)
        except SystemExit as e:
            outcome = self.exited(e)
            self.leave_if_forked(outcome.exit_code)
            return outcome
        except BaseException as e:
            head = describe(e, 2)
            if os.getpid() != self.pid:
                print(head["traceback"], end="", file=sys.stderr)
            self.leave_if_forked(1)
            return Outcome("exception", head, pickle_exception(e))
        self.leave_if_forked(0)
        return Outcome("success", None, pickle_result(result))

    def leave(self, status):
        self.streams.flush()
        os._exit(status)

    def leave_if_forked(self, status):
        """A child that user code forked came back out of the function: it ends here."""
        if os.getpid() != self.pid:
            self.leave(status)

    def exited(self, exit_):
        """sys.exit (): the exit status that the interpreter would have given."""
        code = exit_.code
        if code is None:
            code = 0
        elif not isinstance(code, int):
            print(text_of(code), file=sys.stderr)
            code = 1
        head = {"type": "SystemExit", "message": text_of(exit_), "traceback": ""}
        return Outcome("exit", head, exit_code=code & 0xFF)

    def post(self, task, outcome, marks):
        """Deliver the outcome; the Answer holds the next task."""
        head = b""
        if outcome.head is not None:
            import json

            # What JSON parsers in C refuse: NUL, and halves of surrogate pairs.
            clean = {
                k: v.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
                for k, v in outcome.head.items()
            }
            head = json.dumps(clean).encode("ascii")
        headers = (
            "Silo-Task: %s\r\nSilo-Attempt: %s\r\nSilo-Outcome: %s\r\nSilo-Exit: %d\r\n"
            "Silo-Marks: %d\r\nSilo-Head: %d\r\nSilo-Next: 1\r\n"
            "Content-Type: application/octet-stream\r\n"
            % (
                task.headers["silo-task"],
                task.headers["silo-attempt"],
                outcome.name,
                outcome.exit_code,
                marks,
                len(head),
            )
        )
        return self.bridge.request("POST /v1/worker/result", headers, (head, outcome.value))

    def next(self):
        """Wait for a task.  Just after its start, or when an older request of ours is still
        open at the daemon, it says 409: try again soon."""
        for delay in (0.005, 0.02, 0.1, 0.5, 1, 1, 1, 1, 0):
            answer = self.bridge.request("GET /v1/worker/next")
            if answer.status != 409:
                break
            import time

            time.sleep(delay)
        return answer

    def serve(self):
        """Take tasks until there are no more; the exit status."""
        answer = self.next()
        while answer.status == 200:
            outcome = self.run(answer)
            marks = self.streams.end_task()
            self.streams.repair()
            task, answer = answer, self.post(answer, outcome, marks)
            del outcome, task
            if answer.status in (403, 409):  # too late for this one; the next may be ours
                answer = self.next()
        if answer.status == 204:
            return 0
        text = bytes(answer.body[:200]).decode("utf-8", "replace").strip()
        raise BridgeError("the daemon answered HTTP %d: %s" % (answer.status, text))


def arrange_interpreter():
    """Give user code the surroundings of an ordinary script; hide this one."""
    if sys.path and os.path.abspath(sys.path[0]) == HERE:
        del sys.path[0]
    try:
        cwd = os.getcwd()
    except OSError:
        cwd = "/"
    if cwd != "/":
        sys.path.insert(0, cwd)
    sys.path.append(HERE)
    sys.argv = [""]
    own = sys.modules["__main__"]
    sys.modules["_silo_runner"] = own
    sys.modules["__main__"] = type(sys)("__main__")
    sys.modules["__main__"].__builtins__ = __builtins__


def main():
    environ = os.environ
    try:
        path = environ.pop("SILO_SOCKET")
        token = environ.pop("SILO_TOKEN")
        mark = environ.pop("SILO_MARK")
    except KeyError as e:
        print("silo runner: %s is not set; only silo serve can start this" % e, file=sys.stderr)
        return 2
    streams = Streams(mark)
    arrange_interpreter()
    runner = Runner(Bridge(path, token), streams)
    _signal.signal(_signal.SIGTERM, runner.on_term)
    try:
        return runner.serve()
    except BridgeError as e:
        print("silo runner: %s" % e, file=sys.__stderr__)
        return 1


if __name__ == "__main__":
    _status = main()
    for _stream in (sys.stdout, sys.stderr):
        try:
            _stream.flush()
        except BaseException:
            pass
    # Not sys.exit: threads and pools that user code left running must not keep the container.
    os._exit(_status)
