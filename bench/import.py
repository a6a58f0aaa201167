#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Imports of images against podman and skopeo, interleaved, from a registry on loopback.

    bench/import.py [--silo build/root/bin/silo] [--rounds 5] [--json FILE] [--only TEXT]

Each round runs, for each variant of the image and with one CPU and with two:

    skopeo        `skopeo copy` to a folder: the bytes alone
    podman        `podman pull` from an empty store, silo likewise
    podman again  the same once more, silo likewise: the image is known
    podman 95 %   a second image that has all files of the first and a few more

Stores are new in every round and on one disk, and are kept until the end, some 1 GB for each
round of a case: ext4 is slow to give out inodes of files that were just removed.  What was
written before is synced first; who begins changes from round to round.  Ratios are taken within
a round.  Prints medians, smallest and largest, and whether the goals are met.  Runs as root, in
a mount namespace of its own.
"""

from __future__ import annotations

import argparse
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from common import TOP, own_namespace, spread, write_json

sys.path.insert(0, str(TOP / "tests/functional"))

import images
from instances import Registry

MIB = 1024 * 1024

# Ratio to what podman takes for the first import of the same round, at most.
GOALS = {"first": 0.40, "again": 0.15, "95 %": 0.25}
PEAK = 128 * MIB


# -- one program, measured ---------------------------------------------------------------


@dataclass
class Sample:
    seconds: float
    cpu: float  # of it and of all its children
    peak: int  # bytes of resident memory of the process that was started
    child: int  # of the largest one that it started
    together: int  # of all at the same time, as often as was looked


def family(pid: int) -> list[int]:
    """A process and those below it."""
    found = [pid]
    for one in found:
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:
                pass  # the thread has ended
    return found


def memory(pid: int) -> tuple[int, int]:
    """Resident bytes: now, and the most so far.  Both 0 when it has ended."""
    now = peak = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                now = int(line.split()[1]) * 1024
            elif line.startswith("VmHWM:"):
                peak = int(line.split()[1]) * 1024
    except OSError:
        pass
    return now, peak


def measure(argv: list[str], env: dict[str, str], cpus: int) -> Sample:
    """Run it to its end on so many CPUs."""
    os.sync()
    argv = ["taskset", "-c", "0" if cpus == 1 else f"0-{cpus - 1}", *argv]
    with tempfile.TemporaryFile() as output:
        peaks: dict[int, int] = {}
        together = 0
        started = time.perf_counter()
        pid = os.posix_spawnp(
            argv[0],
            argv,
            {**os.environ, **env},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
            ],
        )
        ended = os.pidfd_open(pid)
        while not select.select([ended], [], [], 0.02)[0]:
            total = 0
            for one in family(pid):
                now, peak = memory(one)
                total += now
                peaks[one] = max(peaks.get(one, 0), peak)
            together = max(together, total)
        _, status, usage = os.wait4(pid, 0)
        seconds = time.perf_counter() - started
        os.close(ended)
        if status != 0:
            output.seek(0)
            text = output.read().decode(errors="replace")
            raise SystemExit(f"{' '.join(argv)}: status {status}\n{text}")
    return Sample(
        seconds=seconds,
        cpu=usage.ru_utime + usage.ru_stime,
        peak=peaks.pop(pid, 0),
        child=max(peaks.values(), default=0),
        together=together,
    )


# -- the programs that are compared ---------------------------------------------------------


class Skopeo:
    name = "skopeo"

    def __init__(self, folder: Path):
        self.folder = folder
        self.env = {"TMPDIR": str(folder)}

    def fetch(self, reference: str) -> list[str]:
        target = f"dir:{self.folder}/{reference.rpartition('/')[2].replace(':', '-')}"
        return ["skopeo", "copy", "--quiet", "--src-tls-verify=false", reference, target]


class Podman:
    name = "podman"

    def __init__(self, folder: Path):
        self.folder = folder
        self.env = {"TMPDIR": str(folder)}
        # podman wants less than 50 characters
        self.stores = ["--root", f"{folder}/root", "--runroot", f"{folder}/run"]

    def fetch(self, reference: str) -> list[str]:
        podman = ["podman", *self.stores, "--storage-driver", "overlay"]
        return [*podman, "pull", "--quiet", "--tls-verify=false", reference]


class Silo:
    name = "silo"

    def __init__(self, folder: Path, binary: str):
        self.binary = binary
        self.env = {"SILO_CONFIG": f"{folder}/silo.ini", "TMPDIR": str(folder)}
        Path(self.env["SILO_CONFIG"]).write_text(f"[silo]\nstate = {folder}/state\n")

    def fetch(self, reference: str) -> list[str]:
        return [self.binary, "index", "--tls-verify=false", reference]


# -- rounds ---------------------------------------------------------------------------------


def steps(program, image: str, other: str):
    """What one of them does in a round, in this order."""
    yield "first", program.fetch(image)
    if program.name != "skopeo":
        yield "again", program.fetch(image)
        yield "95 %", program.fetch(other)


def run_round(
    number: int, folder: Path, silo: str, references: tuple[str, str], cpus: int
) -> dict[str, Sample]:
    samples = {}
    for name in ("podman", "silo", "skopeo"):
        (folder / name).mkdir()
    programs = [
        Podman(folder / "podman"),
        Silo(folder / "silo", silo),
        Skopeo(folder / "skopeo"),
    ]
    try:
        for n in range(len(programs)):
            program = programs[(n + number) % len(programs)]
            for step, argv in steps(program, *references):
                samples[f"{program.name} {step}"] = measure(argv, program.env, cpus)
    finally:  # podman keeps a bind mount on its store
        subprocess.run(["umount", "-q", f"{folder}/podman/root/overlay"], check=False)
    return samples


def measure_all(args, registry: Registry, folder: str) -> dict[str, list[dict[str, Sample]]]:
    """ "layers, gzip; 2 CPUs" -> its rounds."""
    cases = [
        (f"{variant}; {cpus} CPU{'s' * (cpus > 1)}", pair, cpus)
        for variant, pair in images.VARIANTS.items()
        for cpus in (2, 1)
    ]
    cases = [case for case in cases if args.only in case[0]]
    rounds: dict = {case[0]: [] for case in cases}
    for number in range(args.rounds):
        for n, (title, pair, cpus) in enumerate(cases):
            print(f"round {number + 1} of {args.rounds}: {title}", file=sys.stderr, flush=True)
            references = tuple(registry.reference(f"bench/{name}:1") for name in pair)
            stores = Path(folder, f"{number}.{n}")
            stores.mkdir()
            rounds[title].append(run_round(number, stores, args.silo, references, cpus))
    return rounds


# -- report ----------------------------------------------------------------------------------


def ratios(rounds: list[dict[str, Sample]], one: str, other: str) -> list[float]:
    return [samples[one].seconds / samples[other].seconds for samples in rounds]


def report_case(title: str, rounds: list[dict[str, Sample]]) -> None:
    print(f"\n{title}")
    print(f"{'':14}{'seconds':>20}{'to podman':>20}{'same step':>20}{'CPU s':>8}", end="")
    print(f"{'peak MiB':>10}{'child':>7}{'all':>7}")
    for step in rounds[0]:
        samples = [one[step] for one in rounds]
        same = f"podman {step.split(' ', 1)[1]}"
        print(f"{step:14}{spread([s.seconds for s in samples]):>20}", end="")
        print(f"{spread(ratios(rounds, step, 'podman first')):>20}", end="")
        print(f"{spread(ratios(rounds, step, same)):>20}", end="")
        print(f"{statistics.median(s.cpu for s in samples):>8.2f}", end="")
        for field in ("peak", "child", "together"):
            value = max(getattr(s, field) for s in samples) / MIB
            print(f"{value:>{10 if field == 'peak' else 7}.0f}", end="")
        print()


def verdicts(rounds: dict[str, list[dict[str, Sample]]]) -> list[dict]:
    found = []
    for title, case in rounds.items():
        for step, goal in GOALS.items():
            ratio = statistics.median(ratios(case, f"silo {step}", "podman first"))
            found.append({"case": title, "step": step, "ratio": ratio, "goal": goal})
        peak = max(samples[f"silo {step}"].peak for samples in case for step in GOALS)
        found.append({"case": title, "step": "peak MiB", "ratio": peak / MIB, "goal": PEAK / MIB})
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--silo", default=str(TOP / "build/root/bin/silo"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help='cases whose name has this: "gzip; 2"')
    parser.add_argument("--dir", help="where the stores are made; default: $TMPDIR")
    parser.add_argument("--json", metavar="FILE", help="also write samples and machine there")
    args = parser.parse_args()
    own_namespace("umount /sys/fs/cgroup/unified 2>/dev/null")  # podman's mounts stay in it
    layouts = images.layouts()
    with tempfile.TemporaryDirectory(prefix="silo-bench-", dir=args.dir) as folder:
        registry = Registry(folder)
        try:
            for name in sorted({name for pair in images.VARIANTS.values() for name in pair}):
                registry.push(f"oci:{layouts[name]}:latest", f"bench/{name}:1")
            rounds = measure_all(args, registry, folder)
        finally:
            registry.close()

    for title, case in rounds.items():
        report_case(title, case)
    print()
    found = verdicts(rounds)
    for one in found:
        good = "met" if one["ratio"] <= one["goal"] else "MISSED"
        print(f"{good:7}{one['case']}; {one['step']}: {one['ratio']:.2f}, goal {one['goal']:.2f}")
    if args.json:
        shape = {name: images.describe(layouts[name]) for name in layouts}
        samples = {
            title: [{step: asdict(s) for step, s in one.items()} for one in case]
            for title, case in rounds.items()
        }
        write_json(args.json, {"images": shape, "samples": samples, "verdicts": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
