# SPDX-License-Identifier: Apache-2.0
"""The launcher: `python silo/cli.py launch SCRIPT`, `python -m silo launch`, `silo launch`.

Runs a script that calls remote functions, as a module named "script".  Exit status: 0,
that of sys.exit, 1 for an exception, 2 for wrong usage, 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
import types
from typing import Any, Callable

if __package__ in (None, ""):
    # Started by its path: Python has put the inside of the package on sys.path.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

MODULE = "script"
PACKAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="silo", description="Client side of Silo.", allow_abbrev=False
    )
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    launch = verbs.add_parser("launch", help="run a script that calls remote functions")
    add_launch_arguments(launch)
    return top


def add_launch_arguments(launch: argparse.ArgumentParser) -> None:
    launch.description = (
        "Run SCRIPT as a module, then its @server.entry() function, or main(), if it has one."
    )
    launch.add_argument("script", metavar="SCRIPT", help="a Python file")
    launch.add_argument(
        "args", metavar="ARG", nargs=argparse.REMAINDER, help="arguments, in its sys.argv"
    )


def main(argv: list[str] | None = None) -> int:
    """The program `silo` of this package; its exit status."""
    options = parser().parse_args(argv)
    return launch(options.script, options.args)


def main_launch(argv: list[str] | None = None) -> int:
    """The program `silo-launch`, which `silo launch` runs."""
    alone = argparse.ArgumentParser(prog="silo launch", allow_abbrev=False)
    add_launch_arguments(alone)
    options = alone.parse_args(argv)
    return launch(options.script, options.args)


def launch(path: str, args: list[str]) -> int:
    """Run the script at `path`; the exit status."""
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as e:
        print(f"silo launch: {path}: {e.strerror}", file=sys.stderr)
        return 2
    path = os.path.abspath(path)
    module = prepare(path, args)
    try:
        exec(compile(source, path, "exec"), module.__dict__)
        entry = entry_of(module)
        result = entry() if entry is not None else None
        if isinstance(result, types.CoroutineType):
            import asyncio

            asyncio.run(result)
        return 0
    except KeyboardInterrupt:
        print("silo launch: interrupted", file=sys.stderr)
        return 130
    except Exception as e:
        print_exception(e)
        return 1


def prepare(path: str, args: list[str]) -> types.ModuleType:
    """A fresh module for the script, and the surroundings that Python gives a script."""
    from silo import packing

    folder = os.path.dirname(path)
    module = types.ModuleType(MODULE)
    module.__file__ = path
    # In sys.modules, where dataclasses and typing look, yet stored by value: the
    # containers have no module of this name.
    sys.modules[MODULE] = module
    packing.add_root(folder)
    packing.register(module)
    sys.path.insert(0, folder)
    sys.argv = [path, *args]
    return module


def entry_of(module: types.ModuleType) -> Callable[[], Any] | None:
    """The function marked with @server.entry(), else main; None if there is neither."""
    for value in list(vars(module).values()):
        if isinstance(value, types.FunctionType) and getattr(value, "__silo_entry__", False):
            return value
    entry = getattr(module, "main", None)
    return entry if isinstance(entry, types.FunctionType) else None


def print_exception(exception: BaseException) -> None:
    """As Python would, without the frames of this package."""
    import traceback

    seen: set[int] = set()
    current: BaseException | None = exception
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        current.__traceback__ = without_own_frames(current.__traceback__)
        current = current.__cause__ or current.__context__
    traceback.print_exception(type(exception), exception, exception.__traceback__)


def without_own_frames(frames: types.TracebackType | None) -> types.TracebackType | None:
    if frames is None:
        return None
    rest = without_own_frames(frames.tb_next)
    if frames.tb_frame.f_code.co_filename.startswith(PACKAGE):
        return rest
    return types.TracebackType(rest, frames.tb_frame, frames.tb_lasti, frames.tb_lineno)


if __name__ == "__main__":
    sys.exit(main())
