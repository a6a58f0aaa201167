# SPDX-License-Identifier: Apache-2.0
"""The images that bench/import.py measures with, made once of Debian's packages.

Each is made as users make theirs: umoci puts the difference to the image below into a layer
and compresses it; skopeo makes the zstd variant.  Kept as OCI layouts, one folder per image
below ${XDG_CACHE_HOME:-~/.cache}/silo-tests; a few minutes and 1 GB the first time.
"""

from __future__ import annotations

import fcntl
import filecmp
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent

PYTHON = "python3"
PANDAS = "python3,python3-numpy,python3-pandas"
MORE = f"{PANDAS},python3-networkx"  # 5 % more

# What is below the last layer, and the packages that the image has then.
LAYERS = {
    "minbase": (None, ""),
    "python": ("minbase", PYTHON),
    "pandas": ("python", PANDAS),
    "more": ("pandas", MORE),
    "pandas-single": (None, PANDAS),
    "more-single": (None, MORE),
}
ZSTD = {"pandas-zstd": "pandas", "more-zstd": "more"}

# The image that is imported, and the one imported after it that has 95 % of its files.
VARIANTS = {
    "layers, gzip": ("pandas", "more"),
    "layers, zstd": ("pandas-zstd", "more-zstd"),
    "one layer, gzip": ("pandas-single", "more-single"),
}


def run(*argv) -> None:
    subprocess.run([str(a) for a in argv], check=True, stdout=subprocess.DEVNULL)


def tree_tar(packages: str) -> str:
    argv = [TOP / "script/debian-tree", "--tar", "--include", packages]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def keep_times(old: Path, new: Path) -> None:
    """Files that are as they were have their times too, as if packages had been added to it."""
    for folder, _, names in os.walk(new):
        for name in names:
            path = Path(folder, name)
            before = old / path.relative_to(new)
            if path.is_symlink() or not path.is_file() or before.is_symlink():
                continue
            if before.is_file() and filecmp.cmp(before, path, shallow=False):
                stat = before.stat()
                os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def add_layer(layout: Path, packages: str) -> None:
    """A layer on top of the image that makes it Debian with these packages."""
    image = f"{layout}:latest"
    bundle = layout.with_suffix(".bundle")
    run("umoci", "unpack", "--image", image, bundle)
    rootfs = bundle / "rootfs"
    below = bundle / "below"
    rootfs.rename(below)
    rootfs.mkdir()
    tar = ["tar", "-C", rootfs, "--numeric-owner", "--xattrs", "--xattrs-include=*"]
    run(*tar, "-xpf", tree_tar(packages))
    keep_times(below, rootfs)
    run("umoci", "repack", "--image", image, bundle)
    run("umoci", "gc", "--layout", layout)
    shutil.rmtree(bundle)


def make(name: str, cache: Path, layout: Path) -> None:
    if name in ZSTD:
        source, target = f"oci:{cache}/{ZSTD[name]}:latest", f"oci:{layout}:latest"
        run("skopeo", "copy", "--dest-compress-format", "zstd", source, target)
        return
    below, packages = LAYERS[name]
    if below:
        shutil.copytree(cache / below, layout)
    else:
        run("umoci", "init", "--layout", layout)
        run("umoci", "new", "--image", f"{layout}:latest")
    add_layer(layout, packages)


def layouts() -> dict[str, Path]:
    """The folder of each image, made if it is not there yet."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = home / "silo-tests/bench-1"  # another number when the recipe changes
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in (*LAYERS, *ZSTD):
            if (cache / name).exists():
                continue
            print(f"making the image {name}", flush=True)
            with tempfile.TemporaryDirectory(dir=cache) as tmp:
                layout = Path(tmp, name)
                make(name, cache, layout)
                layout.rename(cache / name)
    return {name: cache / name for name in (*LAYERS, *ZSTD)}


def describe(layout: Path) -> dict:
    """Sizes of its layers as they are fetched."""

    def blob(digest: str) -> dict:
        return json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())

    index = json.loads((layout / "index.json").read_text())
    manifest = blob(index["manifests"][0]["digest"])
    return {
        "layers_mb": [round(layer["size"] / 1e6, 1) for layer in manifest["layers"]],
        "media_types": sorted({layer["mediaType"] for layer in manifest["layers"]}),
    }


if __name__ == "__main__":
    for one_name, one_layout in layouts().items():
        print(one_name, one_layout, describe(one_layout))
