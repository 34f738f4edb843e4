#!/usr/bin/env python3
"""Trains the recipe `cifar` with the libtorch of a Python installation: the way to try a GPU on a machine where nothing is built.

    cargo build --release -p moco-train
    python3 train/gpu/cifar.py pack FOLDER --pictures cifar10.tar.xz      here: the stripped program and the pictures, one folder
    python3 FOLDER/cifar.py run FOLDER [--device cuda] [--minutes 8] [--set key=value]...      there

The other machine needs Linux on x86_64 and a Python with torch 2.11 (for a GPU its CUDA 13 build, `torch==2.11.0` of PyPI);
no Rust, no compiler, no network. The pictures are a tar file of an image folder, `*/train/CLASS/*` and `*/test/CLASS/*`.
Printed first: the system's C library, where torch lies, and what the loader makes of the program. Then the run, and what came
of it: pairs a second, time spent waiting for data, and k-NN of features and projection.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PROGRAM = "moco-train"
TORCH = "2.11."


def pack(folder, program, pictures):
    """Puts everything that the other machine needs into one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["strip", "-o", str(folder / PROGRAM), str(program)], check=True)
    shutil.copy(pictures, folder / pictures.name)
    shutil.copy(__file__, folder / "cifar.py")
    total = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}, {total / 1e6:.1f} MB")


def find_torch():
    """The folder with torch's libraries; they belong to the Python that runs this."""
    try:
        import torch
    except ImportError:
        sys.exit(f"{sys.executable} has no torch: run this with a Python that has torch 2.11")
    print(f"torch     {torch.__version__} in {Path(torch.__file__).parent}")
    if not torch.__version__.startswith(TORCH):
        sys.exit(f"torch is {torch.__version__}; the program was built for {TORCH}x")
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none that torch sees"
    print(f"GPU       {gpu}")
    return Path(torch.__file__).parent / "lib"


def unpack(folder, into):
    """Unpacks the pictures, and returns the folder that holds `train` and `test`."""
    archives = sorted(folder.glob("*.tar*"))
    if len(archives) != 1:
        sys.exit(f"{folder} holds {len(archives)} tar files; it should be one, the pictures")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(into, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    for train in sorted(Path(into).rglob("train")):
        if (train.parent / "test").is_dir():
            return train.parent
    sys.exit(f"{archives[0].name} holds no folders `train` and `test` side by side")


def run(folder, arguments):
    print(f"system    {platform.platform()}, {' '.join(platform.libc_ver())}, {len(os.sched_getaffinity(0))} CPUs")
    libraries = find_torch()
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}", "MOCO_TORCH_CUDA": str(libraries)}
    program = folder / PROGRAM
    program.chmod(0o755)
    loaded = subprocess.run(["ldd", str(program)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(loaded.stdout.rstrip())
    if loaded.returncode or "not found" in loaded.stdout:
        sys.exit("the loader does not find everything that the program needs")
    if not (libraries / "libtorch_cuda.so").exists():
        print("there is no libtorch_cuda.so: torch is the build without CUDA")
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        pictures = unpack(folder, scratch)
        out = Path(arguments.out or Path(scratch) / "run")
        command = [str(program), "pretrain", "--recipe", "cifar", "--data", str(pictures / "train"), "--held-out", str(pictures / "test"),
                   "--out", str(out), "--device", arguments.device]
        if arguments.minutes:
            command += ["--max-minutes", str(arguments.minutes)]
        for setting in arguments.set:
            command += ["--set", setting]
        print(" ".join(command), flush=True)
        status = subprocess.run(command, env=environment).returncode
        if status:
            return status
        report(out / "metrics.jsonl")
    return 0


def report(metrics):
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    training = [line for line in lines if line["kind"] == "train"]
    # The first lines hold the libraries' warming up.
    steady = training[len(training) // 10:]
    quartiles = statistics.quantiles([line["pairs_per_second"] for line in steady], n=4) if len(steady) > 1 else [steady[0]["pairs_per_second"]] * 3
    print(f"{training[-1]['step']} steps, {training[-1]['epoch']:.1f} epochs in {training[-1]['seconds']:.0f} s, loss {training[-1]['loss']:.3f}")
    print(f"pairs/s   median {quartiles[1]:.0f}, quartiles {quartiles[0]:.0f} to {quartiles[2]:.0f}; "
          f"{100 * statistics.mean(line['data_wait'] for line in steady):.1f} % of the time waiting for data")
    for space in ("features", "projection"):
        curve = [line for line in lines if line["kind"] == "knn" and line["space"] == space]
        points = ", ".join(f"{100 * line['accuracy']:.2f} % at {line['epoch']:.0f}" for line in curve[:: max(1, len(curve) // 10)])
        print(f"k-NN      of {space}, k = {curve[-1]['k']}, temperature {curve[-1]['temperature']}, bank {curve[-1]['bank_images']}: "
              f"{100 * curve[-1]['accuracy']:.2f} % at the end; {points}")


def built_program():
    """Where `cargo build --release` leaves it, seen from the root of the workspace."""
    return Path(os.environ.get("CARGO_TARGET_DIR", "target")) / "release" / PROGRAM


def main():
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="make the folder that travels")
    packing.add_argument("folder", type=Path)
    packing.add_argument("--pictures", type=Path, required=True, help="tar file of an image folder with `train` and `test`")
    packing.add_argument("--program", type=Path, default=built_program(), help="moco-train as it was built")
    running = commands.add_parser("run", help="train on this machine")
    running.add_argument("folder", type=Path)
    running.add_argument("--device", default="cuda")
    running.add_argument("--minutes", type=float, help="end after so many minutes, with the schedule at its end")
    running.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    running.add_argument("--out", help="keep the run folder here; it must not exist")
    running.add_argument("--scratch", help="where the pictures are unpacked; the system's temporary folder unless stated")
    arguments = parser.parse_args()
    if arguments.command == "pack":
        pack(arguments.folder, arguments.program, arguments.pictures)
        return 0
    return run(arguments.folder.resolve(), arguments)


if __name__ == "__main__":
    sys.exit(main())
