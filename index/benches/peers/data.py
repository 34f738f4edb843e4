#!/usr/bin/env python3
"""Makes the vectors that the comparison runs on, under `target/bench-data/NAME/`: base.npy, queries.npy, truth.npy.

    python3 index/benches/peers/data.py a --cifar10 FOLDER     59,000 x 512   features of CIFAR-10, half whitened
    python3 index/benches/peers/data.py plain --cifar10 FOLDER 59,000 x 512   the same, not whitened: easier
    python3 index/benches/peers/data.py b                      100,000 x 128  256 Gaussian clusters
    python3 index/benches/peers/data.py c --cifar10 FOLDER     1,003,000 x 512  17 crops of each picture, same features
    python3 index/benches/peers/data.py small                  20,000 x 64    clusters, for a quick look

FOLDER holds the pictures at any depth. All vectors have length one; 1,000 queries (200 for `small`) are held out, and for
`c` no crop of a query's picture is in the base. `c` takes 10 minutes of one free core, 2.1 GB of disk and 1 GB of memory
(OMP_NUM_THREADS=1 keeps it to one); the others a minute or less. truth.npy holds the 100 nearest rows of each query by dot product,
nearest first, ties by row, computed exactly in blocks. Data that is there already is left alone.
"""

import argparse
import sys
import time
from pathlib import Path

PEERS = Path(__file__).resolve().parents[3] / ".native" / "peers"
sys.path.insert(0, str(PEERS))

import numpy as np

from features import Features

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / "target" / "bench-data"
TRUTH = 100
QUERIES = 1_000
DIM = 512
CROPS = 17


def say(text):
    print(f"data: {text}", file=sys.stderr, flush=True)


def pictures_of(folder):
    """All pictures, N x 32 x 32 x 3 bytes, in an order drawn by a fixed seed."""
    from PIL import Image

    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(paths) <= 2 * QUERIES:
        sys.exit(f"data: {folder} holds {len(paths)} pictures, too few")
    np.random.default_rng(1).shuffle(paths)
    pictures = np.empty((len(paths), 32, 32, 3), np.uint8)
    for row, path in enumerate(paths):
        picture = Image.open(path).convert("RGB")
        pictures[row] = np.asarray(picture if picture.size == (32, 32) else picture.resize((32, 32)))
    return pictures


def fitted(pictures, whitening=0.5):
    features = Features(pictures, seed=1)
    raw = features.raw(pictures)
    features.fit_components(raw, DIM, whitening)
    return features, raw


def exact(base, queries, wanted, block=20_000, euclid=False):
    """The `wanted` nearest rows of each query, by dot product or length of the difference: Q x wanted, u32. `base` may be mapped."""
    best_rows = np.zeros((len(queries), 0), np.int64)
    best_scores = np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(base), block):
        rows_of_block = np.asarray(base[start : start + block])
        scores = queries @ rows_of_block.T
        if euclid:
            scores -= 0.5 * (rows_of_block**2).sum(1)
        keep = min(wanted, scores.shape[1])
        rows = np.argpartition(-scores, keep - 1, axis=1)[:, :keep]
        best_scores = np.concatenate([best_scores, np.take_along_axis(scores, rows, 1)], 1)
        best_rows = np.concatenate([best_rows, rows + start], 1)
        order = np.lexsort((best_rows, -best_scores), axis=1)[:, :wanted]
        best_scores, best_rows = (np.take_along_axis(values, order, 1) for values in (best_scores, best_rows))
    return best_rows.astype(np.uint32)


def make_a(cifar10, whitening=0.5):
    pictures = pictures_of(cifar10)
    features, raw = fitted(pictures, whitening)
    rows = features.reduced(raw)
    return rows[:-QUERIES], rows[-QUERIES:]


def make_plain(cifar10):
    return make_a(cifar10, whitening=0.0)


def make_b(_):
    return clusters(100_000, QUERIES, dim=128, centres=256)


def make_small(_):
    return clusters(20_000, 200, dim=64, centres=64)


def clusters(count, queries, dim, centres):
    rng = np.random.default_rng(7)
    centre = rng.standard_normal((centres, dim)).astype(np.float32)
    rows = centre[rng.integers(0, centres, count + queries)] + 0.7 * rng.standard_normal((count + queries, dim)).astype(np.float32)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return rows[:count], rows[count:]


def crops(pictures, rng):
    """One random 32 x 32 window of each picture extended by 4 reflected pixels, half of them mirrored."""
    padded = np.pad(pictures, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    out = np.empty_like(pictures)
    for row, (top, left, mirror) in enumerate(zip(rng.integers(0, 9, len(pictures)), rng.integers(0, 9, len(pictures)), rng.random(len(pictures)) < 0.5)):
        window = padded[row, top : top + 32, left : left + 32]
        out[row] = window[:, ::-1] if mirror else window
    return out


def make_c(cifar10, folder):
    """Streams: holds the pictures and one block of features at a time, besides what `a` needs for the fit."""
    pictures = pictures_of(cifar10)
    features, raw = fitted(pictures)
    queries = features.reduced(raw[-QUERIES:])
    shown = pictures[:-QUERIES]
    base = np.lib.format.open_memmap(folder / "base.npy.part", mode="w+", dtype=np.float32, shape=(len(shown) * CROPS, DIM))
    base[: len(shown)] = features.reduced(raw[:-QUERIES])
    del raw
    rng = np.random.default_rng(17)
    for crop in range(1, CROPS):
        for start in range(0, len(shown), 5_000):
            block = features.raw(crops(shown[start : start + 5_000], rng)) - features.centre
            base[crop * len(shown) + start :][: len(block)] = features.reduced(block)
        say(f"crop {crop} of {CROPS - 1}")
    base.flush()
    return base, queries


def make(name, cifar10=None):
    """Makes one data set unless it is there. Returns its folder."""
    folder = DATA / name
    if (folder / "truth.npy").exists():
        return folder
    if name in ("a", "plain", "c") and cifar10 is None:
        sys.exit(f"data: {name} is made of CIFAR-10: name its folder with --cifar10")
    folder.mkdir(parents=True, exist_ok=True)
    start = time.time()
    base, queries = make_c(cifar10, folder) if name == "c" else {"a": make_a, "plain": make_plain, "b": make_b, "small": make_small}[name](cifar10)
    truth = exact(base, queries, TRUTH)
    if name == "c":
        (folder / "base.npy.part").rename(folder / "base.npy")
    else:
        np.save(folder / "base.npy", np.ascontiguousarray(base))
    np.save(folder / "queries.npy", np.ascontiguousarray(queries))
    # Written last: its presence says that the others are whole.
    np.save(folder / "truth.npy", truth)
    say(f"{name}: {len(base)} x {base.shape[1]} and {len(queries)} queries in {time.time() - start:.0f} s, in {folder}")
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=["a", "plain", "b", "c", "small"])
    parser.add_argument("--cifar10", metavar="FOLDER")
    arguments = parser.parse_args()
    for name in arguments.names:
        make(name, arguments.cifar10)


if __name__ == "__main__":
    main()
