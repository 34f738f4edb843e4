#!/usr/bin/env python3
"""Makes the data that is missing and measures every part on each set: what `make bench-index` runs.

    python3 index/benches/peers/run.py [--small] [--cifar10 FOLDER] [--million] [--parts PART,…] [--only NAME,…] [--program FILE]

On two free cores: 3 minutes with --small, 35 without, two hours more with --million. Each part can be started alone.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import data

HERE = Path(__file__).resolve().parent
#: Part -> program and arguments, in the order in which they run.
PARTS = {"speed": ["measure.py"], "avx2": ["measure.py", "--kernel", "avx2"], "memory": ["memory.py"], "filters": ["filters.py"], "opening": ["opening.py"]}
#: On a million rows: what is asked of it, in an hour.
LARGE_PARTS = ["speed", "opening"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="20,000 vectors and 2 rounds: shows that everything works")
    parser.add_argument("--cifar10", metavar="FOLDER", help="pictures for the sets `a` and `c`")
    parser.add_argument("--million", action="store_true", help="measure `c` too: some 20 GiB of disk and hours")
    parser.add_argument("--parts", default="", metavar="PART,…", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--only", default="", metavar="NAME,…", help="libraries of the speed parts")
    parser.add_argument("--program", default=str(HERE.parents[2] / "target" / "release" / "moco-index"))
    arguments = parser.parse_args()
    asked = [part for part in arguments.parts.split(",") if part]
    if unknown := [part for part in asked if part not in PARTS]:
        sys.exit(f"peers: {', '.join(unknown)}: there is {', '.join(PARTS)}")
    names = ["small"] if arguments.small else ["b", "a"] + (["c"] if arguments.million else [])
    failed = []
    for name in names:
        if name in ("a", "c") and not arguments.cifar10 and not (data.DATA / name / "truth.npy").exists():
            print(f"skipped: {name}, there is no CIFAR-10 (CIFAR10=FOLDER)")
            continue
        folder = data.make(name, arguments.cifar10)
        for part in asked or (LARGE_PARTS if name == "c" else list(PARTS)):
            script, *options = PARTS[part]
            command = [sys.executable, str(HERE / script), str(folder), "--program", arguments.program, *options]
            command += ["--rounds", "2"] if arguments.small else []
            command += ["--only", arguments.only] if arguments.only and script == "measure.py" else []
            if subprocess.call(command):
                failed.append(f"{part} of {name}")
    if failed:
        sys.exit(f"peers: {', '.join(failed)} could not be measured")


if __name__ == "__main__":
    main()
