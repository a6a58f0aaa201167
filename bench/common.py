# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: a namespace of their own, medians, the file of results."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent


def own_namespace(inner: str, *options: str) -> None:
    """Run this program again in a private mount namespace, after the shell commands `inner`.
    `options` are further ones for unshare."""
    if os.environ.get("SILO_BENCH_NAMESPACE"):
        return
    os.environ["SILO_BENCH_NAMESPACE"] = "1"
    argv = ["unshare", "-m", "--propagation", "private", *options]
    argv += ["sh", "-c", f'{inner}; exec "$@"', "sh", sys.executable, *sys.argv]
    os.execvp("unshare", argv)


def spread(values: list[float], digits: int = 2) -> str:
    """median (smallest-largest)"""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def write_json(path: str, results: dict) -> None:
    """The results and the machine that they are from."""
    machine = {"kernel": platform.release(), "cpus": os.cpu_count(), "python": sys.version}
    Path(path).write_text(json.dumps({"machine": machine, **results}, indent=1) + "\n")
