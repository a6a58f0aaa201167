# SPDX-License-Identifier: Apache-2.0
"""Real instances of Silo in temporary folders: silo.ini, state, daemon; a registry.

An instance that ends checks that nothing of it is left: no process, mount, cgroup.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

TOP = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(TOP / "python"))

import silo  # noqa: E402

IMAGE = "python:3.11"
READY = 30  # seconds; a sanitized daemon on a busy machine


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


class Registry:
    """docker-registry on a port of loopback."""

    def __init__(self, folder, access_log=False, htpasswd=None):
        self.folder = folder
        self.log = f"{folder}/log"
        self.seen = 0
        config = f"{folder}/config.yml"
        with socket_on_loopback() as s:
            self.port = s.getsockname()[1]
        with open(config, "w") as f:
            quiet = "false" if access_log else "true"
            f.write(
                f"version: 0.1\nlog: {{level: warn, accesslog: {{disabled: {quiet}}}}}\n"
                f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
                f"http: {{addr: '127.0.0.1:{self.port}'}}\n"
            )
            if htpasswd:
                f.write(f"auth: {{htpasswd: {{realm: test, path: '{htpasswd}'}}}}\n")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["docker-registry", "serve", config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.DEVNULL,
            )
        wait_for(self.answers, 20, "docker-registry")

    def answers(self):
        assert self.process.poll() is None, "docker-registry has ended"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v2/", timeout=5):
                return True
        except urllib.error.HTTPError:
            return True  # who does not log in is sent away
        except urllib.error.URLError:
            return False

    def requests(self):
        """Paths that were asked for (GET) since the last time; needs access_log."""
        with open(self.log) as f:
            f.seek(self.seen)
            lines = f.readlines()
            self.seen = f.tell()
        return [line.split('"GET ')[1].split()[0] for line in lines if '"GET ' in line]

    def reference(self, name):
        return f"docker://127.0.0.1:{self.port}/{name}"

    def push(self, source, name, *more):
        """Copy any image that skopeo can name, "oci:DIR:TAG" say, to the registry."""
        copy = [
            "skopeo",
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
        ]
        subprocess.run(
            [*copy, *more, source, self.reference(name)],
            check=True,
            timeout=300,
        )

    def close(self):
        self.process.terminate()
        self.process.wait(20)


def socket_on_loopback():
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    return s
