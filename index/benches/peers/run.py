#!/usr/bin/env python3
"""Makes the data that is missing and measures on each set: what `make bench-index` runs.

    python3 index/benches/peers/run.py [--small] [--cifar10 FOLDER] [--million] [--only NAME,…] [--program FILE]
"""

import argparse
import subprocess
import sys
from pathlib import Path

import data

HERE = Path(__file__).resolve().parent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="20,000 vectors and 3 rounds")
    parser.add_argument("--cifar10", metavar="FOLDER", help="pictures for the sets `a` and `c`")
    parser.add_argument("--million", action="store_true", help="measure `c` too: some 4 GiB of disk and hours")
    parser.add_argument("--only", default="")
    parser.add_argument("--program", default=str(HERE.parents[2] / "target" / "release" / "moco-index"))
    arguments = parser.parse_args()
    names = ["small"] if arguments.small else ["b", "a"] + (["c"] if arguments.million else [])
    failed = []
    for name in names:
        if name in ("a", "c") and not arguments.cifar10 and not (data.DATA / name / "truth.npy").exists():
            print(f"skipped: {name}, there is no CIFAR-10 (CIFAR10=FOLDER)")
            continue
        folder = data.make(name, arguments.cifar10)
        command = [sys.executable, str(HERE / "measure.py"), str(folder), "--program", arguments.program, "--only", arguments.only]
        if subprocess.call(command + (["--rounds", "3"] if arguments.small else [])):
            failed.append(name)
    if failed:
        sys.exit(f"peers: {', '.join(failed)} could not be measured")


if __name__ == "__main__":
    main()
