#!/usr/bin/env python3
"""Turns a data set of ann-benchmarks (HDF5: train, test, neighbors) into the files that `measure.py` and `moco-index` read.

    python3 index/benches/peers/hdf5_to_npy.py sift-128-euclidean.hdf5 target/bench-data/sift

Writes base.npy, queries.npy, truth.npy (rows of the base, nearest first) and distance.txt. Rows are copied in blocks, so
the file may be larger than memory; those of angular sets are scaled to length one. The files are at <https://github.com/erikbern/ann-benchmarks>.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / ".native" / "peers"))

import numpy as np

BLOCK = 50_000
DISTANCES = {"angular": "cosine", "euclidean": "euclid", "dot": "dot"}


def copied(source, path, dtype, to_length_one=False):
    out = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=source.shape)
    for start in range(0, len(source), BLOCK):
        block = np.asarray(source[start : start + BLOCK], dtype)
        if to_length_one:
            # A zero vector stays one.
            block /= np.maximum(np.linalg.norm(block, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        out[start : start + BLOCK] = block
    out.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("hdf5")
    parser.add_argument("folder")
    arguments = parser.parse_args()
    try:
        import h5py
    except ImportError:
        sys.exit("hdf5_to_npy: h5py is not installed: python3 index/benches/peers/install.py")
    folder = Path(arguments.folder)
    try:
        file = h5py.File(arguments.hdf5, "r")
    except OSError as error:
        sys.exit(f"hdf5_to_npy: cannot read {arguments.hdf5}: {error}")
    with file:
        missing = [name for name in ("train", "test", "neighbors") if name not in file]
        if missing:
            sys.exit(f"hdf5_to_npy: {arguments.hdf5} holds no {', '.join(missing)}")
        distance = file.attrs.get("distance", "")
        distance = distance.decode() if isinstance(distance, bytes) else distance
        if distance not in DISTANCES:
            sys.exit(f"hdf5_to_npy: the distance `{distance}` is none of {', '.join(DISTANCES)}")
        folder.mkdir(parents=True, exist_ok=True)
        angular = DISTANCES[distance] == "cosine"
        copied(file["train"], folder / "base.npy", np.float32, angular)
        copied(file["test"], folder / "queries.npy", np.float32, angular)
        (folder / "distance.txt").write_text(DISTANCES[distance] + "\n")
        # Written last: its presence says that the others are whole.
        copied(file["neighbors"], folder / "truth.npy", np.uint32)
        print(f"{folder}: {len(file['train'])} x {file['train'].shape[1]}, {len(file['test'])} queries, {DISTANCES[distance]}")


if __name__ == "__main__":
    main()
