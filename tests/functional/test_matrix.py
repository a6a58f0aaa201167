# SPDX-License-Identifier: Apache-2.0
"""Hello under every combination of storage, rootfs and container: an edit of silo.ini each."""

import itertools

import pytest

COMBINATIONS = list(itertools.product(("sqlite", "files"), ("erofs", "fuse"), ("crun", "podman")))


@pytest.mark.parametrize(
    ("storage", "rootfs", "container"), COMBINATIONS, ids=["-".join(c) for c in COMBINATIONS]
)
def test_hello(instance, capfd, storage, rootfs, container):
    one = instance(storage=storage, rootfs=rootfs, container=container).start()
    status = one.json("status")
    assert (status["storage"], status["rootfs"], status["container"]) == (
        storage,
        rootfs,
        container,
    )

    def hello(name):
        print(f"Hello, {name}!")
        with open("/root-is-writable", "w") as f:
            f.write("x")
        return f"Bye, {name}!"

    def fails():
        raise ValueError("as expected")

    remote = one.function(hello)
    assert remote.remote("you") == "Bye, you!"
    assert remote.map("abc") == ["Bye, a!", "Bye, b!", "Bye, c!"]
    assert "Hello, you!\n" in capfd.readouterr().out
    with pytest.raises(ValueError, match="as expected"):
        one.function(fails).remote()
    tasks = one.json("ps")["tasks"]
    assert [t["outcome"] for t in tasks].count("success") == 4
    one.stop()

    # All that a restart needs is in the state folder.
    one.start()
    assert one.server().get_func("hello").remote("again") == "Bye, again!"
    assert len(one.json("ps")["tasks"]) == 6
    one.stop()
