# SPDX-License-Identifier: Apache-2.0
"""The README's program: one function, run here, in a container, and in many."""

import silo

server = silo.Server("0.0.0.0:50051", api_key="...")


@server.function(image="python:3.11")
def hello(name):
    print(f"Hello, {name}!")
    return f"Bye, {name}!"


print(hello.local(name="Local"))
print(hello.remote(name="Remote"))
print(hello.map(f"Remote {i}" for i in range(10)))
