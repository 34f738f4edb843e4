"""A data set as the measurements read it: base, queries, truth and distance; and what is said while they run."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PEERS = ROOT / ".native" / "peers"
sys.path.insert(0, str(PEERS))
# Before NumPy: its threads would disturb what is measured.
os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np

from data import DATA

PROGRAM = ROOT / "target" / "release" / "moco-index"
K = 10


def say(text):
    print(f"peers: {text}", file=sys.stderr, flush=True)


class DataSet:
    def __init__(self, name):
        """`name` is a folder with base.npy, queries.npy and truth.npy, or the name of one under target/bench-data."""
        self.folder = Path(name).resolve() if Path(name).is_dir() else DATA / name
        self.name = self.folder.name
        if not (self.folder / "truth.npy").exists():
            sys.exit(f"peers: {self.folder} holds no truth.npy: make it with data.py or hdf5_to_npy.py")
        distance = self.folder / "distance.txt"
        self.distance = distance.read_text().strip() if distance.exists() else "cosine"
        # Mapped: a million rows are read by those who need them.
        self.base = np.load(self.folder / "base.npy", mmap_mode="r")
        self.queries = np.load(self.folder / "queries.npy")
        self.truth = np.load(self.folder / "truth.npy")[:, :K]
        lengths = np.linalg.norm(self.base[:1000], axis=1)
        if self.distance == "cosine" and np.abs(lengths[lengths > 0] - 1).max(initial=0) > 1e-3:
            sys.exit(f"peers: the vectors of {self.folder} are not of length one, which the others need for cosine")

    @property
    def dim(self):
        return self.base.shape[1]

    def __len__(self):
        return len(self.base)

    @property
    def is_large(self):
        """So large that rounds and queries are fewer."""
        return len(self) > 500_000


def recall(found, truth):
    """The share of the true neighbours that were found. -1 in the truth stands for none."""
    hits = wanted = 0
    for a, b in zip(found, truth):
        true = {int(row) for row in b if row >= 0}
        hits += len(true & {int(row) for row in a})
        wanted += len(true)
    return hits / max(wanted, 1)


def parser(description):
    """The arguments that all parts have."""
    import argparse

    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder, or the name of one under target/bench-data")
    parser.add_argument("--program", default=str(PROGRAM))
    parser.add_argument("--only", default="", metavar="NAME,…")
    parser.add_argument("--out", default=str(ROOT / "target" / "bench-results"))
    parser.add_argument("--rounds", type=int, default=0, help="5, or 3 above 500,000 vectors")
    return parser


def chosen(only, known):
    """The names that `--only` holds, or all."""
    names = [name for name in only.split(",") if name] or list(known)
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"peers: {', '.join(unknown)}: there is {', '.join(known)}")
    return names
