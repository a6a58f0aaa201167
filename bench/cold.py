#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Cold calls against bare crun, interleaved, on the same tree.

    bench/cold.py [--silo build/root/bin/silo] [--runs 30] [--json FILE]

A: `crun run` of `python3 -c pass` on the unpacked folder, until it has ended.
B: `.remote()` of a function that no worker has run yet: image indexed, page cache warm, the
client's channel open.  Each B sends a function of its own, so that a new container starts.
C: `.remote()` of a function whose worker is there.

Prints medians and ratios to A, and what the idle daemon costs.  Runs as root, in a mount
namespace of its own (on hosts with the hybrid cgroup layout crun refuses to run without).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import TOP, own_namespace, write_json

sys.path.insert(0, str(TOP / "python"))

import silo

CRUN = ["crun", "--cgroup-manager=cgroupfs"]


def make_bundle(folder: Path, tree: str) -> None:
    """crun's own default configuration, running `python3 -c pass` on the tree."""
    subprocess.run([*CRUN, "spec"], cwd=folder, check=True)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["process"]["terminal"] = False
    config["process"]["args"] = ["/usr/bin/python3", "-c", "pass"]
    config["process"].pop("rlimits", None)
    config["root"] = {"path": tree, "readonly": True}
    path.write_text(json.dumps(config))


class Daemon:
    def __init__(self, binary: str, state: Path, tree: str):
        self.binary = binary
        self.config = state / "silo.ini"
        self.config.write_text(
            f"[silo]\nstate = {state}/state\nmax_workers = 4\n"
            "[transport.grpc]\nlisten = unix:grpc.sock\n"
            "[transport.http]\nlisten = unix:http.sock\n"
        )
        self.url = f"unix://{state}/state/grpc.sock"
        self.run("index", f"dir:{tree}", "--name", "bench")
        self.process = subprocess.Popen(
            [binary, "serve", "--config", str(self.config)], stderr=subprocess.DEVNULL
        )
        self.run("status", "--wait", "30")

    def run(self, *argv: str) -> str:
        argv = (self.binary, *argv, "--config", str(self.config))
        return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout

    def pid(self) -> int:
        return json.loads(self.run("status", "--json"))["pid"]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def milliseconds(fn) -> float:
    started = time.perf_counter()
    fn()
    return (time.perf_counter() - started) * 1000


def idle_cost(pid: int, seconds: float = 5) -> dict:
    """RSS in MiB, and context switches and CPU ticks of all threads over some idle seconds."""

    def switches() -> int:
        total = 0
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            for line in status.read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    total += int(line.split()[1])
        return total

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    before = switches(), ticks()
    time.sleep(seconds)
    after = switches(), ticks()
    rss = next(
        int(line.split()[1]) / 1024
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    return {
        "rss_mib": round(rss, 1),
        "wakeups_per_s": round((after[0] - before[0]) / seconds, 1),
        "cpu_ticks": after[1] - before[1],
    }


def measure(daemon: Daemon, bundle: Path, runs: int) -> dict:
    server = silo.Server(daemon.url)

    def another(n: int):
        # What it closes over makes other bytes of it each time: no worker has it.
        @server.function(image="bench")
        def function():
            return n

        return function

    def crun(n: int) -> None:
        subprocess.run(
            [*CRUN, "run", "-b", str(bundle), f"silo-bench-{os.getpid()}-{n}"], check=True
        )

    warm = another(-1)
    warm.remote()
    samples: dict = {"crun": [], "cold": [], "warm": []}
    for n in range(runs + 1):
        function = another(n)
        a = milliseconds(functools.partial(crun, n))
        b = milliseconds(function.remote)
        warm.remote()  # the cold call may have taken its place
        c = milliseconds(warm.remote)
        if n:  # the first round is a warm-up
            samples["crun"].append(a)
            samples["cold"].append(b)
            samples["warm"].append(c)
    return samples


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--silo", default=str(TOP / "build/root/bin/silo"))
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--json", metavar="FILE", help="also write samples and machine there")
    args = parser.parse_args()
    unified = "/sys/fs/cgroup/unified"  # crun makes folders of its own in what it finds there
    own_namespace(f"umount {unified} 2>/dev/null && mount -t tmpfs none {unified}")
    tree = subprocess.run(
        [str(TOP / "script/debian-tree")], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
    folder = Path(tempfile.mkdtemp(prefix="silo-bench-"))
    try:
        make_bundle(folder, tree)
        daemon = Daemon(args.silo, folder, tree)
        try:
            idle = idle_cost(daemon.pid())
            samples = measure(daemon, folder, args.runs)
        finally:
            daemon.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)

    base = statistics.median(samples["crun"])
    print(f"{'':34}{'median':>10}{'min':>10}{'p95':>10}{'ratio':>8}")
    names = {
        "crun": "crun run python3 -c pass, folder",
        "cold": "cold .remote()",
        "warm": "warm .remote()",
    }
    for key, name in names.items():
        values = sorted(samples[key])
        median, p95 = statistics.median(values), values[int(len(values) * 0.95)]
        print(f"{name:34}{median:8.2f}ms{values[0]:8.2f}ms{p95:8.2f}ms{median / base:8.2f}")
    print(
        f"idle daemon: {idle['rss_mib']} MiB RSS, {idle['wakeups_per_s']} wake-ups/s, "
        f"{idle['cpu_ticks']} CPU ticks in 5 s"
    )
    if args.json:
        write_json(args.json, {"idle": idle, "ms": samples})
    return 0


if __name__ == "__main__":
    sys.exit(main())
