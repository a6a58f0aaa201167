# SPDX-License-Identifier: Apache-2.0
"""Reads, maps and walks a tree in threads and checks every byte.

fs_load.py ROOT ROUNDS THREADS GROUP: stdin is JSON of {path: SHA-256}, GROUP the
cgroup.procs of a memory cgroup to enter, or "".  Each thread does ROUNDS rounds over all
files in an order of its own.  Pages are given back after use, so that the next round asks
the file system again.  Prints {"files": checked, "wrong": [...]}; "round" to stderr
whenever a thread has finished its first.  Ends with 1 at the first error.
"""

import concurrent.futures
import hashlib
import json
import mmap
import os
import random
import sys


def by_read(fd, size):
    digest = hashlib.sha256()
    at = 0
    while data := os.pread(fd, 300_000, at):
        digest.update(data)
        at += len(data)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return digest.hexdigest() if at == size else f"{at} bytes of {size}"


def by_map(fd, size):
    if size == 0:
        return by_read(fd, size)
    with mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ) as memory:
        digest = hashlib.sha256(memory).hexdigest()
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return digest


def walk(root, sums):
    """Are exactly these files there?"""
    found = []
    for folder, _, files in os.walk(root, onerror=fail):
        found += [os.path.relpath(os.path.join(folder, name), root) for name in files]
    return [] if sorted(found) == sorted(sums) else ["the walk"]


def fail(error):
    raise error


def work(root, sums, rounds, number):
    choice = random.Random(number)
    wrong, checked = [], 0
    for i in range(rounds):
        wrong += walk(root, sums)
        paths = list(sums)
        choice.shuffle(paths)
        for path in paths:
            fd = os.open(os.path.join(root, path), os.O_RDONLY)
            try:
                size = os.fstat(fd).st_size
                got = (by_map if choice.random() < 0.4 else by_read)(fd, size)
            finally:
                os.close(fd)
            checked += 1
            if got != sums[path]:
                wrong.append(path)
        if i == 0:
            print("round", file=sys.stderr, flush=True)
    return wrong, checked


def main():
    root, rounds, threads, group = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    sums = json.load(sys.stdin)
    if group:
        with open(group, "w") as f:
            f.write(str(os.getpid()))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(lambda n: work(root, sums, rounds, n), range(threads)))
    wrong = sorted({path for paths, _ in done for path in paths})
    json.dump({"files": sum(n for _, n in done), "wrong": wrong}, sys.stdout)


if __name__ == "__main__":
    main()
