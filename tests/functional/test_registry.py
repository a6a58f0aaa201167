# SPDX-License-Identifier: Apache-2.0
"""An image from a registry, as users have them: pushed there with skopeo, indexed, run."""

import json
import shutil
import subprocess

import pytest


@pytest.fixture(scope="module")
def pushed(registry, tree, tmp_path_factory):
    """library/python:3.11 in the registry, with a layer on top that says so."""
    folder = tmp_path_factory.mktemp("oci")
    oci, bundle = folder / "image", folder / "bundle"

    def umoci(*arguments):
        subprocess.run(["umoci", *arguments], check=True, timeout=300)

    umoci("init", "--layout", oci)
    umoci("new", "--image", f"{oci}:3.11")
    umoci("insert", "--image", f"{oci}:3.11", tree, "/")
    bundle.mkdir()
    (bundle / "marker").write_text("from the registry\n")
    (bundle / "z").mkdir()  # umoci 0.4.7 does not pad the last file of a layer that it inserts
    umoci("insert", "--image", f"{oci}:3.11", bundle, "/srv")
    umoci(
        "config",
        "--image",
        f"{oci}:3.11",
        "--config.env",
        "COLOUR=blue",
        "--config.workingdir",
        "/srv",
        "--config.user",
        "1000:1000",
    )
    registry.push(f"oci:{oci}:3.11", "library/python:3.11")
    shutil.rmtree(folder)
    return registry.reference("library/python:3.11")


def test_hello_from_a_registry(instance, pushed):
    one = instance(image=False)
    one.ok("index", pushed, "--name", "mine:1", "--tls-verify=false", timeout=300)
    assert [i["name"] for i in one.json("images")] == ["mine:1"]
    one.start()

    def look():
        import os

        return (
            os.environ["COLOUR"],
            os.getcwd(),
            os.getuid(),
            os.getgid(),
            open("marker").read(),
        )

    assert one.function(look, image="mine:1").remote() == (
        "blue",
        "/srv",
        1000,
        1000,
        "from the registry\n",
    )
    # Again, from a daemon that runs: nothing to fetch, the same image.
    again = one.ok("index", pushed, "--name", "mine:2", "--tls-verify=false")
    assert "mine:2" in again
    assert one.function(look, image="mine:2").remote()[0] == "blue"
    one.stop()


def test_references_that_do_not_exist(instance, registry):
    one = instance(image=False)
    for reference, words in (
        (registry.reference("no/such:1"), "no/such"),
        ("docker://127.0.0.1:1/x:1", "127.0.0.1:1"),
        ("dir:/no/such/folder", "/no/such/folder"),
        ("oci:/no/such/layout:1", "/no/such/layout"),
    ):
        done = one.run("index", reference, "--tls-verify=false")
        assert done.returncode in (1, 2), reference
        assert words in done.stderr
        assert json.loads(one.ok("images", "--json")) == []
