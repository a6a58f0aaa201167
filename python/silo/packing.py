# SPDX-License-Identifier: Apache-2.0
"""Turning functions and arguments into bytes.

cloudpickle stores what lives in an importable module by its name, which a container
that lacks the module cannot resolve.  So modules of the user's own, those below the
launched script's folder or beside the function's module, are registered with
cloudpickle to be stored by value, contents and all.
"""

from __future__ import annotations

import os
import sys
import threading
from types import CodeType, ModuleType
from typing import Any, Callable

from .errors import DeserializationError, SerializationError

SOURCE_LIMIT = 64 << 10  # characters of source text sent along, for people to read

_lock = threading.Lock()
_roots: set[str] = set()  # folders with modules of the user's own; under _lock
_seen: set[str] = set()  # names of modules that were looked at; under _lock


def add_root(folder: str) -> None:
    """Modules below `folder` travel with the functions that use them."""
    folder = os.path.join(os.path.realpath(folder), "")
    with _lock:
        if folder not in _roots:
            _roots.add(folder)
            _seen.clear()


def dumps(value: Any, what: str) -> bytes:
    """Pickled `value`; SerializationError that begins with `what` when it cannot be."""
    import cloudpickle

    _register_own_modules(cloudpickle)
    try:
        return cloudpickle.dumps(value)
    except Exception as e:
        raise SerializationError(f"{what} cannot be pickled: {e}") from e


def dumps_function(function: Callable) -> bytes:
    """Pickled `function`, whole wherever it comes from the user's own modules."""
    import io

    import cloudpickle

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            # Containers have no silo; a module that imports it for its decorators still travels.
            if isinstance(obj, ModuleType) and obj.__name__.split(".")[0] == "silo":
                return ModuleType, (obj.__name__,)
            if isinstance(obj, CodeType) and CodeType in self.dispatch_table:
                make, parts = self.dispatch_table[CodeType](obj)
                return make, tuple(map(_in_order, parts))
            return super().reducer_override(obj)

    module = sys.modules.get(getattr(function, "__module__", None) or "")
    root = _root_of(module)
    if root is not None:
        add_root(root)
    _register_own_modules(cloudpickle)
    buffer = io.BytesIO()
    try:
        Pickler(buffer).dump(function)
    except Exception as e:
        name = getattr(function, "__name__", "?")
        raise SerializationError(f"function {name} cannot be pickled: {e}") from e
    return buffer.getvalue()


class _Ordered:
    """A frozenset that is pickled in the same order by every process."""

    def __init__(self, items: frozenset):
        self.items = items

    def __reduce__(self) -> Any:
        return frozenset, (sorted(self.items, key=repr),)


def _in_order(part: Any) -> Any:
    """Set literals among the constants of a code object, in an order of their own.

    Hashes of strings differ from process to process; without this the same function would
    be another one in the next run of its program, and find no worker that knows it.
    """
    if type(part) is not tuple:
        return part
    return tuple(_Ordered(c) if type(c) is frozenset else c for c in part)


def loads(data: bytes, what: str) -> Any:
    """The object in `data`; DeserializationError that begins with `what`."""
    import pickle

    try:
        return pickle.loads(data)
    except Exception as e:
        name = type(e).__name__
        raise DeserializationError(f"{what} cannot be unpickled here: {name}: {e}") from e


def source_of(function: Callable) -> str:
    """Its source text, or "" when there is none to be had (REPL, exec)."""
    import inspect

    try:
        return inspect.getsource(function)[:SOURCE_LIMIT]
    except (OSError, TypeError, SyntaxError, IndexError):
        return ""


def is_own_file(path: str) -> bool:
    """Is this Python file a user's, not the interpreter's, an installed package's or ours?"""
    if not path.endswith(".py") or not os.path.isabs(path):
        return False
    parts = path.split(os.sep)
    if "site-packages" in parts or "dist-packages" in parts:
        return False
    return not path.startswith(_foreign_folders())


def _foreign_folders() -> tuple[str, ...]:
    import sysconfig

    paths = sysconfig.get_paths()
    folders = {paths[k] for k in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders.add(os.path.dirname(os.path.dirname(os.__file__) + os.sep))
    folders.add(os.path.dirname(__file__))
    return tuple(os.path.join(p, "") for f in folders for p in {f, os.path.realpath(f)})


def _root_of(module: ModuleType | None) -> str | None:
    """The folder that a module's top-level package lies in; None for foreign ones."""
    path = getattr(module, "__file__", None)
    if not path or not is_own_file(os.path.realpath(path)):
        return None
    levels = module.__name__.count(".") if module.__name__ != "__main__" else 0
    if os.path.basename(path) == "__init__.py":
        levels += 1
    folder = os.path.dirname(os.path.realpath(path))
    for _ in range(levels):
        folder = os.path.dirname(folder)
    return folder


def _register_own_modules(cloudpickle: ModuleType) -> None:
    """Register modules that were imported since the last time."""
    root = _root_of(sys.modules.get("__main__"))
    if root is not None:
        add_root(root)
    with _lock:
        names = set(sys.modules) - _seen
        _seen.update(names)
        roots = tuple(_roots)
    if not names or not roots:
        return
    for name in names:
        module = sys.modules.get(name)
        path = getattr(module, "__file__", None)
        if not isinstance(module, ModuleType) or not isinstance(path, str):
            continue
        path = os.path.realpath(path)
        if path.startswith(roots) and is_own_file(path) and name != "__main__":
            cloudpickle.register_pickle_by_value(module)


def register(module: ModuleType) -> None:
    """Store this module by value, wherever it lies."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(module)
