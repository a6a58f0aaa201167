# SPDX-License-Identifier: Apache-2.0
"""A daemon in the test's own process, as far as a client can see one."""

import threading
from concurrent import futures

from silo import wire


class FakeDaemon:
    """silo.v1 in this process.  `answer` (request) yields events; it may run the function.

    calls: the CallRequests that came.  hellos: likewise.  refuse: (status name, details).
    """

    def __init__(self, tmp_path):
        import grpc

        self.grpc = grpc
        self.calls, self.hellos, self.keys = [], [], []
        self.codes = {}
        self.names = {}
        self.refuse = None
        self.max_message = 1 << 30
        self.cancelled = threading.Event()
        self.answer = self.run
        self.active = self.peak = 0
        self.lock = threading.Lock()
        self.server = grpc.server(
            futures.ThreadPoolExecutor(80),
            options=[("grpc.max_receive_message_length", -1)],
        )
        self.url = f"unix://{tmp_path}/d.sock"
        self.server.add_generic_rpc_handlers((self,))
        assert self.server.add_insecure_port(f"unix:{tmp_path}/d.sock")
        self.server.start()

    def service(self, details):
        name = details.method.rsplit("/", 1)[1]
        if not details.method.startswith("/silo.v1.Silo/"):
            return None
        self.keys.append(dict(details.invocation_metadata).get("x-api-key"))
        if name == "Call":
            return self.grpc.unary_stream_rpc_method_handler(self.call)
        handler = {"Hello": self.hello, "GetFunction": self.get_function}[name]
        return self.grpc.unary_unary_rpc_method_handler(handler)

    def check(self, context):
        if self.refuse:
            context.abort(getattr(self.grpc.StatusCode, self.refuse[0]), self.refuse[1])

    def hello(self, data, context):
        self.check(context)
        self.hellos.append(wire.decode(wire.HELLO_REQUEST, data))
        return wire.encode(wire.HELLO_REPLY, {"daemon": "fake 1", "max_message": self.max_message})

    def get_function(self, data, context):
        name = wire.decode(wire.GET_FUNCTION_REQUEST, data)["name"]
        if name not in self.names:
            context.abort(self.grpc.StatusCode.NOT_FOUND, f"function {name} was never sent")
        return wire.encode(wire.FUNCTION, self.names[name])

    def call(self, data, context):
        self.check(context)
        request = wire.decode(wire.CALL_REQUEST, data)
        context.add_callback(self.cancelled.set)
        with self.lock:
            self.calls.append(request)
            self.active += 1
            self.peak = max(self.peak, self.active)
        try:
            for event in self.answer(request):
                yield wire.encode(wire.CALL_EVENT, event)
        finally:
            with self.lock:
                self.active -= 1

    def run(self, request):
        """Run the function here, as a worker would."""
        import cloudpickle

        digest = request["function"]
        if request["code"]:
            self.codes[digest] = request["code"]
        if digest not in self.codes:
            yield {"result": {"outcome": "no_code"}}
            return
        self.names[request["name"]] = {
            "name": request["name"],
            "digest": digest,
            "image": request["image"],
            "python": request["python"],
        }
        yield {"accepted": {"task": 7}}
        try:
            function = cloudpickle.loads(self.codes[digest])
            value = function(
                *cloudpickle.loads(request["args"]), **cloudpickle.loads(request["kwargs"])
            )
        except Exception as e:
            yield {
                "result": {
                    "outcome": "exception",
                    "task": 7,
                    "type": type(e).__name__.encode(),
                    "message": str(e).encode(),
                    "traceback": b"Traceback (most recent call last):\n  here\n",
                    "exception": cloudpickle.dumps(e),
                }
            }
            return
        yield {"result": {"outcome": "success", "task": 7, "value": cloudpickle.dumps(value)}}

    def result(self, **fields):
        """An `answer` that only ends."""

        def answer(request):
            yield {"accepted": {"task": 7}}
            yield {"result": {"task": 7, **fields}}

        return answer

    def stop(self):
        self.server.stop(None).wait()
