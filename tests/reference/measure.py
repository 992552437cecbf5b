#!/usr/bin/env python3
"""Runs commands one after the other, and prints what they took: seconds, MiB, bytes.

    measure.py DIR... -- COMMAND... [-- COMMAND...]...

Prints `SECONDS WORK PEAK INTERMEDIATE`: wall seconds of all commands; seconds of processor
that they took; the largest resident set of any process, in MiB (pages of mapped files included); and how much was written below the
folders DIR in files that are not there at the end, by whatever name: the largest size of
each, added up. Folders are looked at every 20 ms.
"""

import os
import subprocess
import sys
import threading
import time


def main() -> None:
    split = sys.argv.index("--")
    watched, rest = sys.argv[1:split], sys.argv[split + 1 :]
    commands: list[list[str]] = [[]]
    for word in rest:
        if word == "--":
            commands.append([])
        else:
            commands[-1].append(word)

    sizes, done = {}, threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for file, size in look(watched).items():
                sizes[file] = max(size, sizes.get(file, 0))

    watcher = threading.Thread(target=watch)
    watcher.start()
    peak, work, begun = 0, 0.0, time.monotonic()
    for command in commands:
        child = subprocess.Popen(command, stdout=sys.stderr)
        _, status, usage = os.wait4(child.pid, 0)
        peak = max(peak, usage.ru_maxrss)
        work += usage.ru_utime + usage.ru_stime
        if status:
            done.set()
            sys.exit(f"{' '.join(command)}: ended with {status}")
    seconds = time.monotonic() - begun
    done.set()
    watcher.join()
    left = look(watched)
    between = sum(size for file, size in sizes.items() if file not in left)
    print(f"{seconds:.2f} {work:.2f} {peak / 1024:.0f} {between}")


def look(folders) -> dict[tuple[int, int], int]:
    """Returns the sizes of all files below the folders, by device and number."""
    found = {}
    for folder in folders:
        for root, _, names in os.walk(folder):
            for name in names:
                try:
                    stat = os.lstat(os.path.join(root, name))
                except FileNotFoundError:
                    continue
                found[stat.st_dev, stat.st_ino] = stat.st_size
    return found


if __name__ == "__main__":
    main()
