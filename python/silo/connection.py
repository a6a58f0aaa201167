# SPDX-License-Identifier: Apache-2.0
"""One gRPC channel to a daemon: addresses, the greeting, errors in our own words.

grpc is imported at the first connection: it costs more than everything else here.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import errors, wire

if TYPE_CHECKING:
    import grpc

VERSION = "0.1.0"
DEFAULT_PORT = 50051
HELLO_SECONDS = 30.0
_first_user: dict[str, int] = {}  # "pid": the process that opened the first channel
ANY_HOST = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}


def state_folder() -> str:
    """Where a local daemon keeps everything."""
    folder = os.environ.get("SILO_STATE")
    if folder:
        return os.path.abspath(folder)
    if os.geteuid() == 0:
        return "/var/lib/silo"
    return os.path.expanduser("~/.local/state/silo")


def parse_url(url: str | None) -> tuple[str, str]:
    """(what gRPC dials, what messages call it).  ValueError for what is no address."""
    url = url or os.environ.get("SILO_URL") or f"unix://{state_folder()}/grpc.sock"
    if url.startswith("unix:"):
        path = url[5:]
        if path.startswith("//"):
            path = path[2:]
        if not path.startswith("/"):
            raise ValueError(f"{url!r}: a socket needs its whole path, as in unix:///run/silo.sock")
        return f"unix:{path}", f"unix://{path}"
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "grpc":
        raise ValueError(f"{url!r}: only grpc:// and unix:// addresses can be dialled")
    address = (rest if separator else url).rstrip("/")
    host, port = address, str(DEFAULT_PORT)
    if not address.endswith("]") and ":" in address:
        host, _, port = address.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536 or (":" in host and host[0] != "["):
        raise ValueError(f"{url!r}: expected host:port, as in 127.0.0.1:{DEFAULT_PORT}")
    address = f"{ANY_HOST.get(host, host)}:{int(port)}"
    return address, address


class Connection:
    """A channel, the functions that its daemon is known to have, its limits.

    Any number of threads may use it.  After a fork it belongs to the parent.
    """

    def __init__(self, target: str, address: str, api_key: str | None):
        self.address = address
        self.daemon = ""
        self.max_message = 0  # bytes of a request; 0: not known
        self.failed = False  # the daemon went away: do not wait for gRPC's back-off
        self._pid = os.getpid()
        self._metadata = self._key_metadata(api_key)
        self._lock = threading.Lock()
        self._codes: dict[bytes, threading.Event] = {}  # under _lock; see claim_code
        self._channel = self._open(target)
        self._hello = self._channel.unary_unary("/silo.v1.Silo/Hello")
        self._get_function = self._channel.unary_unary("/silo.v1.Silo/GetFunction")
        self._call = self._channel.unary_stream("/silo.v1.Silo/Call")

    @staticmethod
    def _key_metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
        if not api_key:
            return ()
        if not api_key.isascii() or not api_key.isprintable():
            raise errors.AuthError("the API key has characters that no key can have")
        return (("x-api-key", api_key),)

    @staticmethod
    def _open(target: str) -> grpc.Channel:
        # Threads of gRPC's do not survive a fork, and what waits for them would wait for ever.
        if _first_user.setdefault("pid", os.getpid()) != os.getpid():
            raise errors.ConnectionError(
                "this process was forked from one that had used Silo already, which gRPC cannot "
                'do: start it with multiprocessing.get_context("spawn"), or fork before the '
                "first call"
            )
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else it tells of each lost connection
        import grpc

        local = target.startswith(("unix:", "127.", "localhost:", "[::1]"))
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0 if local else 1),
            ("SingleThreadedUnaryStream", 1),
        ]
        return grpc.insecure_channel(target, options=options)

    def usable(self) -> bool:
        return not self.failed and self._pid == os.getpid()

    def close(self) -> None:
        if self._pid == os.getpid():
            self._channel.close()

    def hello(self) -> None:
        """Say who we are, learn who answers."""
        import cloudpickle

        request = {
            "client": f"silo-python {VERSION}",
            "python": sys.version.split()[0].rstrip("+"),
            "cloudpickle": cloudpickle.__version__,
        }
        reply = self._unary(self._hello, wire.HELLO_REQUEST, request, wire.HELLO_REPLY)
        self.daemon = reply["daemon"]
        self.max_message = reply["max_message"]

    def get_function(self, name: str) -> wire.Message:
        """The Function of that name; NotFoundError."""
        return self._unary(
            self._get_function, wire.GET_FUNCTION_REQUEST, {"name": name}, wire.FUNCTION
        )

    def _unary(self, method: Any, ask: wire.Table, message: wire.Message, answer: wire.Table):
        import grpc

        try:
            data = method(wire.encode(ask, message), metadata=self._metadata, timeout=HELLO_SECONDS)
            return wire.decode(answer, data)
        except grpc.RpcError as e:
            raise self.error(e, called=False) from None
        except wire.WireError as e:
            raise errors.InternalFailure(f"{self.address} answers nonsense: {e}") from None

    def start_call(self, message: wire.Message) -> Any:
        """Send a CallRequest; the gRPC stream of its events (bytes), which can be cancelled."""
        data = wire.encode(wire.CALL_REQUEST, message)
        if self.max_message and len(data) > self.max_message:
            raise errors.ResourceExhaustedError(
                f"the call takes {len(data)} bytes (code, arguments), the daemon at "
                f"{self.address} accepts {self.max_message}"
            )
        return self._call(data, metadata=self._metadata)

    def events(self, stream: Any) -> Iterator[wire.Message]:
        """The CallEvents of a stream; silo errors instead of gRPC's."""
        import grpc

        try:
            for data in stream:
                yield wire.decode(wire.CALL_EVENT, data)
        except grpc.RpcError as e:
            raise self.error(e, called=True) from None
        except wire.WireError as e:
            raise errors.InternalFailure(f"{self.address} answers nonsense: {e}") from None

    def end_call(self, stream: Any) -> None:
        """Read a stream behind its result: until its end gRPC keeps the call's memory, and the
        connection even when it was closed."""
        import grpc

        with contextlib.suppress(grpc.RpcError):
            for _ in stream:
                pass

    def error(self, failure: Any, called: bool) -> errors.Error:
        """A gRPC status as one of our exceptions."""
        code, details = failure.code().name, failure.details() or ""
        if code == "UNAVAILABLE":
            self.failed = True
            if called and details.startswith(("Socket closed", "recvmsg")):
                return errors.ConnectionError(
                    f"the connection to the Silo daemon at {self.address} was lost"
                )
            return errors.ConnectionError(
                f"no Silo daemon answers at {self.address} ({details}); to start one: silo serve"
            )
        if code == "UNAUTHENTICATED":
            return errors.AuthError(
                f"the daemon at {self.address} does not accept the API key: {details}"
            )
        if code == "UNIMPLEMENTED":
            return errors.InternalFailure(
                f"what answers at {self.address} does not speak silo.v1: {details}"
            )
        kind = errors.STATUS.get(code, errors.InternalFailure)
        return kind(details or f"the daemon at {self.address} answered {code}")

    # Code of a function is sent by one call; those that start meanwhile wait until the
    # daemon has it, and then leave it out.

    def claim_code(self, digest: bytes) -> bool:
        """True: send the code and say how it went with code_sent.  False: leave it out."""
        while True:
            with self._lock:
                event = self._codes.get(digest)
                if event is None:
                    self._codes[digest] = threading.Event()
                    return True
            event.wait()
            with self._lock:
                if self._codes.get(digest) is event:
                    return False

    def code_sent(self, digest: bytes, known: bool) -> None:
        """The daemon has the code now (known), or has not, or has lost it."""
        with self._lock:
            event = self._codes.get(digest) if known else self._codes.pop(digest, None)
        if event is not None:
            event.set()
