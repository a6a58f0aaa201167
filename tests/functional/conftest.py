# SPDX-License-Identifier: Apache-2.0
"""Real instances of Silo in temporary folders: silo.ini, state, daemon, image.

`base` indexes Debian's Python 3.11 as python:3.11 once per session and kind of
storage; each instance starts as a copy of that state, objects hard-linked.  An
instance that ends checks that nothing of it is left: no process, mount, cgroup.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

TOP = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(TOP / "python"))

IMAGE = "python:3.11"
READY = 30  # seconds; a sanitized daemon on a busy machine


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes many seconds")


def read(path):
    """The text of a file below /proc; "" when its process is gone."""
    try:
        return pathlib.Path(path).read_text(errors="replace")
    except OSError:
        return ""


def processes_of(folder):
    """Processes that are part of an instance: {pid: why}.

    Its path in their arguments, or mounted in their namespace: containers have the
    bridge, daemons the root file systems of their workers.
    """
    found = {}
    own = read("/proc/self/mountinfo")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        if folder in read(f"/proc/{pid}/cmdline"):
            found[int(pid)] = "cmdline: " + read(f"/proc/{pid}/cmdline").replace("\0", " ")
        elif folder in (mounts := read(f"/proc/{pid}/mountinfo")) and mounts != own:
            found[int(pid)] = "mounts: " + read(f"/proc/{pid}/cmdline").replace("\0", " ")
    return found


def wait_for(condition, seconds=20, what="it"):
    """Until condition () is true; its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.02)
    return value


class Instance:
    """One silo.ini with its state folder, and perhaps a daemon."""

    def __init__(self, silo, base=None, keep_grace=False, **settings):
        """settings: keys of [silo].  base: an instance whose state is copied."""
        self.silo_bin = silo
        # Short: paths of unix sockets are at most 107 bytes long.
        self.folder = tempfile.mkdtemp(prefix="silo-f.")
        self.state = f"{self.folder}/state"
        self.ini = f"{self.folder}/silo.ini"
        self.log = f"{self.folder}/log"
        self.url = f"unix://{self.state}/grpc.sock"
        self.daemon = None
        self.sections = {
            "silo": {"state": self.state, "kill_grace": "1s", **settings},
            "transport.grpc": {"listen": "127.0.0.1:0 unix:grpc.sock"},
            "transport.http": {"listen": "127.0.0.1:0 unix:http.sock"},
        }
        self.write()
        if base is not None:
            copy_state(base.state, self.state)

    def write(self):
        """silo.ini from `sections`."""
        with open(self.ini, "w") as f:
            for name, keys in self.sections.items():
                f.write(f"[{name}]\n" + "".join(f"{k} = {v}\n" for k, v in keys.items()))

    @property
    def env(self):
        return {**os.environ, "SILO_CONFIG": self.ini, "SILO_URL": self.url}

    def run(self, *arguments, timeout=120, **options):
        """Run `silo ARGUMENTS`; the CompletedProcess, output as text."""
        options = {"capture_output": True, "text": True, "env": self.env, **options}
        return subprocess.run([self.silo_bin, *arguments], timeout=timeout, **options)

    def ok(self, *arguments, **options):
        """The same, which must end with 0; its stdout."""
        done = self.run(*arguments, **options)
        assert done.returncode == 0, f"silo {arguments}: {done.stderr}"
        return done.stdout

    def json(self, *arguments):
        return json.loads(self.ok(*arguments, "--json"))

    # -- the daemon --------------------------------------------------------------

    def start(self):
        with open(self.log, "ab") as log:
            self.daemon = subprocess.Popen(
                [self.silo_bin, "serve", "--config", self.ini],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        waiting = subprocess.Popen(
            [self.silo_bin, "status", "--wait", str(READY)],
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(
                lambda: waiting.poll() is not None or self.daemon.poll() is not None,
                2 * READY,
                "silo status --wait",
            )
            status = self.daemon.poll()
            assert status is None, f"silo serve ended with {status}" + self.tail()
            assert waiting.returncode == 0, "silo serve is not ready" + self.tail()
        finally:
            waiting.kill()
            waiting.wait()
        return self

    def tail(self):
        """The end of the daemon's log, for messages."""
        return "\n--- log:\n" + read(self.log)[-4000:]

    def stop(self, sig=signal.SIGTERM, seconds=60):
        """Ask the daemon to end; it must, with 0, and leave nothing behind."""
        self.daemon.send_signal(sig)
        status = self.daemon.wait(seconds)
        self.daemon = None
        assert status == 0, f"silo serve ended with {status}" + self.tail()
        self.check_nothing_left()

    def kill(self):
        """kill -9, as a crash."""
        self.daemon.kill()
        self.daemon.wait()
        self.daemon = None

    def check_nothing_left(self):
        # A killed container's processes take a moment to be gone.
        wait_for(lambda: not processes_of(self.folder), 10, f"the end of {self.live()}")
        self.check_no_mounts()
        assert self.cgroups() == []
        workers = pathlib.Path(self.state, "run", "workers")
        assert not workers.exists() or list(workers.iterdir()) == []

    def live(self):
        return processes_of(self.folder)

    def check_no_mounts(self):
        assert self.folder not in read("/proc/self/mountinfo")

    def cgroups(self):
        """Folders below /sys/fs/cgroup that belong to containers of this instance."""
        prefix = f"silo-{hashlib.sha256(self.state.encode()).hexdigest()[:12]}-"
        found = []
        for folder, names, _ in os.walk("/sys/fs/cgroup"):
            found += [os.path.join(folder, n) for n in names if prefix in n]
        return found

    def quiet(self, seconds=20):
        """Wait until no task is under way and no worker is being made or removed."""

        def idle():
            status = self.json("status")
            return status["tasks"]["live"] == 0 and all(
                w["state"] == "idle" for w in self.json("ps")["workers"]
            )

        wait_for(idle, seconds, "the daemon to be quiet" + self.tail())

    def rss(self):
        """Bytes of memory of the daemon."""
        for line in read(f"/proc/{self.daemon.pid}/status").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the daemon is gone" + self.tail())

    def close(self):
        """At the end of a test, however it ended."""
        try:
            if self.daemon is not None and self.daemon.poll() is None:
                self.stop()
        finally:
            if self.daemon is not None:
                self.kill()
            for pid in processes_of(self.folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- calls --------------------------------------------------------------------

    def server(self, **options):
        import silo

        return silo.Server(self.url, **options)

    def function(self, function, image=IMAGE, **options):
        """A RemoteFunction on a connection of its own."""
        return self.server().function(image=image, **options)(function)

    def check_works(self):
        """What every bad thing must leave intact: the next call."""
        assert self.function(lambda x: x + 1).remote(41) == 42


def copy_state(source, target):
    """Objects by hard links: nobody writes to them."""
    for folder, names, files in os.walk(source):
        there = os.path.join(target, os.path.relpath(folder, source))
        os.makedirs(there, mode=0o700, exist_ok=True)
        if os.path.basename(folder) == "run":
            names.clear()
            continue
        for name in files:
            path, copy = os.path.join(folder, name), os.path.join(there, name)
            if os.path.islink(path):
                os.symlink(os.readlink(path), copy)
            elif not os.path.isfile(path):
                continue  # a socket
            elif os.stat(path).st_mode & 0o222:
                shutil.copy2(path, copy)
            else:
                os.link(path, copy)


@pytest.fixture(scope="session")
def silo_bin():
    """The program under test: $SILO."""
    path = os.environ.get("SILO")
    if not path:
        pytest.skip("SILO is not set: the path of the silo program to test")
    assert os.access(path, os.X_OK), f"SILO={path} is not a program"
    if sys.version_info[:2] != (3, 11):
        pytest.fail("these tests need Python 3.11, that of the image")
    return os.path.abspath(path)


@pytest.fixture(scope="session")
def tree():
    """A folder with Debian and its Python 3.11."""
    done = subprocess.run(
        [TOP / "script/debian-tree"], stdout=subprocess.PIPE, text=True, check=True, timeout=600
    )
    return done.stdout.strip()


@pytest.fixture(scope="session")
def base(silo_bin, tree):
    """base (storage): an Instance in which python:3.11 is indexed; not to be changed."""
    made = {}

    def make(storage="sqlite"):
        if storage not in made:
            made[storage] = instance = Instance(silo_bin, storage=storage)
            instance.ok("index", f"dir:{tree}", "--name", IMAGE, timeout=300)
        return made[storage]

    yield make
    for instance in made.values():
        instance.close()


@pytest.fixture
def instance(silo_bin, base):
    """instance (**settings): an Instance with python:3.11 and no daemon yet."""
    made = []

    def make(image=True, **settings):
        start = base(settings.get("storage", "sqlite")) if image else None
        made.append(Instance(silo_bin, start, **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def shared(silo_bin, base):
    """A daemon that the tests of a module share; it must survive each of them."""
    one = Instance(silo_bin, base())
    try:
        yield one.start()
    finally:
        one.close()


@pytest.fixture
def daemon(shared):
    """The shared daemon; after the test it must be quiet, and the next call must work."""
    pid = shared.daemon.pid
    yield shared
    assert shared.daemon.poll() is None, "the daemon has died" + shared.tail()
    shared.quiet()
    shared.check_works()
    shared.check_no_mounts()
    assert shared.daemon.pid == pid


class Registry:
    """docker-registry on a port of loopback."""

    def __init__(self, folder):
        self.folder = folder
        config = f"{folder}/config.yml"
        with socket_on_loopback() as s:
            self.port = s.getsockname()[1]
        with open(config, "w") as f:
            f.write(
                "version: 0.1\nlog: {level: warn, accesslog: {disabled: true}}\n"
                f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
                f"http: {{addr: '127.0.0.1:{self.port}'}}\n"
            )
        self.process = subprocess.Popen(
            ["docker-registry", "serve", config],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self.answers, 20, "docker-registry")

    def answers(self):
        import urllib.error
        import urllib.request

        assert self.process.poll() is None, "docker-registry has ended"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v2/", timeout=5):
                return True
        except urllib.error.URLError:
            return False

    def reference(self, name):
        return f"docker://127.0.0.1:{self.port}/{name}"

    def push(self, source, name):
        """Copy any image that skopeo can name, "oci:DIR:TAG" say, to the registry."""
        subprocess.run(
            ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", source, self.reference(name)],
            check=True,
            timeout=300,
        )

    def close(self):
        self.process.terminate()
        self.process.wait(20)


def socket_on_loopback():
    import socket

    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    return s


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    for program in ("docker-registry", "skopeo", "umoci"):
        if not shutil.which(program):
            pytest.skip(f"no {program} here")
    one = Registry(str(tmp_path_factory.mktemp("registry")))
    yield one
    one.close()
