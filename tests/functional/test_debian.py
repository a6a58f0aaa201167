# SPDX-License-Identifier: Apache-2.0
"""debian:SUITE+PACKAGES: images made by mmdebstrap, of packages made here.

mmdebstrap, apt and dpkg are the real ones; only the mirror is a folder with three tiny
packages, so that it takes seconds. Debian's own mirror makes one image, in the last test.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess

import pytest
from instances import TOP, processes_of, read, wait_for

pytestmark = pytest.mark.skipif(
    not shutil.which("mmdebstrap") or not shutil.which("dpkg-deb"),
    reason="mmdebstrap or dpkg-deb is not installed",
)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repo")
    for path in (folder, *list(folder.parents)[:2]):
        os.chmod(path, 0o755)  # apt reads it as another user
    done = subprocess.run(
        [TOP / "tests/debian-repo.sh", folder], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def debian(instance, mirror):
    """debian (**keys of [image.debian]): an instance whose Debian is the little one."""

    def make(**keys):
        one = instance(image=False)
        one.sections["image.debian"] = {"mirror": mirror, "variant": "extract", **keys}
        one.write()
        return one

    return make


def left(one):
    """What an image that failed must not leave."""
    tmp = pathlib.Path(one.state, "tmp")
    images = pathlib.Path(one.state, "images")
    return (
        [p.name for p in tmp.iterdir()] if tmp.exists() else [],
        [p.name for p in images.glob("*.erofs")],
        [line for line in read("/proc/self/mountinfo").splitlines() if one.state in line],
        processes_of(one.state),
    )


@contextlib.contextmanager
def mounted(one, name):
    root = pathlib.Path(one.folder, "root")
    root.mkdir()
    one.ok("mount", name, root)
    try:
        yield root
    finally:
        one.ok("umount", root)
        root.rmdir()


NOTHING = ([], [], [], {})


def alive(one):
    """Processes of the instance that have not ended (who reaps them is init's matter)."""
    return {p: why for p, why in processes_of(one.state).items() if read(f"/proc/{p}/cmdline")}


def test_packages_and_their_dependencies(debian):
    one = debian()
    one.ok("index", "debian:silo+silo-hello,libsilo++6")
    (image,) = one.json("images")
    assert image["name"] == "debian:silo+silo-hello,libsilo++6"
    assert left(one)[0] == []

    with mounted(one, image["name"]) as root:
        share = root / "usr/share/silo"
        assert (root / (share / "hello").read_text().strip()).read_text() == "hello, world\n"
        assert (share / "library").read_text() == "no library\n"
        assert sorted(os.listdir(root / "dev")) == []
        assert "apt" in os.listdir(root / "etc")
        assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    # The same name again is made again, and becomes what the packages are then.
    one.ok("index", "debian:silo+silo-words", "--name", image["name"])
    assert len(one.json("images")) == 1


@pytest.mark.parametrize(
    "reference, keys, words",
    [
        ("debian:silo+no-such", {}, "Unable to locate package no-such"),
        (
            "debian:silo",
            {"mirror": "http://127.0.0.1:1/debian", "variant": "minbase"},
            "Could not connect to 127.0.0.1:1",
        ),
        ("debian:silo", {"variant": "nonsense"}, "invalid variant"),
        ("debian:silo", {"program": "/no/mmdebstrap"}, "apt-get install mmdebstrap"),
        ("debian:silo", {"timeout": "1ms"}, "[image.debian] timeout"),
        ("debian:silo+", {}, '"" is no name of a package'),
        ("debian:silo+-o,apt", {}, '"-o" is no name of a package'),
        ("debian:silo+a/b", {}, '"a/b" is no name of a package'),
        ("debian:Silo", {}, '"Silo" is no name of a suite'),
        ("debian:", {}, '"" is no name of a suite'),
    ],
)
def test_what_cannot_be_made(debian, reference, keys, words):
    one = debian(**keys)
    done = one.run("index", reference)
    wrong_by_itself = "is no name of" in words
    assert done.returncode == (2 if wrong_by_itself else 1), done.stderr
    assert words in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("silo: ")
    assert one.json("images") == [] and left(one) == NOTHING


def test_a_suite_that_a_mirror_does_not_have(debian, tmp_path):
    (tmp_path / "dists").mkdir()
    os.chmod(tmp_path, 0o755)
    one = debian(mirror=f"copy://{tmp_path}", variant="minbase")
    done = one.run("index", "debian:nosuch")
    assert done.returncode == 1 and "nosuch" in done.stderr and "Release" in done.stderr
    assert "docker://debian" in done.stderr and left(one) == NOTHING


def test_another_architecture_is_asked_for_by_its_name(debian):
    one = debian()
    done = one.run("index", "debian:silo+silo-words", "--platform", "windows/amd64")
    assert done.returncode == 2 and "windows/amd64" in done.stderr
    one.ok("index", "debian:silo+silo-words", "--platform", "linux/amd64")


def test_a_program_that_is_not_mmdebstrap(debian, tmp_path):
    """It is not waited for once what it writes is seen to be no tar."""
    program = tmp_path / "other"
    program.write_text("#!/bin/sh\nhead -c 1000000 /dev/zero | tr '\\0' x\nexec sleep 1000\n")
    program.chmod(0o755)
    one = debian(program=program)
    done = one.run("index", "debian:silo", timeout=60)
    assert done.returncode == 1 and "this is no tar" in done.stderr
    wait_for(lambda: not alive(one), 10, "its end")
    assert left(one)[:3] == NOTHING[:3]


@pytest.fixture
def slow(debian, tmp_path):
    """An instance in which mmdebstrap waits, in the middle, for ever."""
    program = tmp_path / "slow"
    program.write_text(
        '#!/bin/sh\nexec mmdebstrap --setup-hook=\'mount -t tmpfs none "$1"; '
        'echo I: installing for ever >&2; exec sleep 1000\' "$@"\n'
    )
    program.chmod(0o755)
    one = debian(program=program)
    indexing = subprocess.Popen(
        [one.silo_bin, "index", "debian:silo+silo-words"],
        env=one.env,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in indexing.stderr:
        if "installing" in line:
            break
    assert indexing.poll() is None
    yield one, indexing
    indexing.stderr.close()


def test_giving_up(slow):
    one, indexing = slow
    assert any("mmdebstrap" in why for why in processes_of(one.state).values())
    indexing.send_signal(signal.SIGINT)
    said = indexing.stderr.read()
    assert indexing.wait(30) == 130 and "stopped" in said
    wait_for(lambda: not alive(one), 10, "mmdebstrap's end")
    assert left(one)[:3] == NOTHING[:3]


def test_killed(slow):
    one, indexing = slow
    indexing.kill()
    indexing.wait()
    wait_for(lambda: not alive(one), 10, "mmdebstrap's end")
    assert left(one)[1:3] == NOTHING[1:3]
    assert left(one)[0] != []
    one.ok("index", "debian:silo+silo-words", env={**one.env, **usual(one)})
    assert left(one)[0] == []


def usual(one):
    """The environment in which this instance has the real mmdebstrap."""
    one.sections["image.debian"]["program"] = "mmdebstrap"
    one.write()
    return {}


@pytest.mark.slow
def test_a_package_of_debian_itself(instance):
    one = instance(image=False)
    one.sections["image.debian"] = {"variant": "extract"}
    one.write()
    one.ok("index", "debian:bookworm+base-files", timeout=600)
    with mounted(one, "debian:bookworm+base-files") as root:
        assert (root / "etc/debian_version").read_text().startswith("12.")
