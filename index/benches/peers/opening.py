#!/usr/bin/env python3
"""Measures opening, and searching on a cold page cache: each time in a fresh process, rounds alternated.

    python3 index/benches/peers/opening.py DATA [--only NAME,…] [--rounds N]

Takes, on two free cores, half a minute on small, 2 on b and a, 10 on c, once the indexes are built.

- Warm: all files were read just before. Counted is from opening to the first answer, without starting the process and
  loading its code.
- Cold: the pages of all files were dropped before, and the kernel asked whether they are gone; see pages.py. Counted is
  opening apart, then each of the first thousand queries; the first of them is the one that the opening brought.
- Ours hashes codes and full rows of a segment when a query first reads them, and all else when it opens it; `eager` is the
  same store opened with `Verify::Eager`, which hashes all of it first. faiss and usearch check nothing.
- Both of ours copy codes and links into memory of their own when a segment is opened, one sequential read; only rows for
  rescoring are then read from the file as queries ask for them.

All search at ef 100; the recall stands beside. Writes DATA-opening.json, and the table and bars of it; see report.py.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dataset import K, ROOT, DataSet, chosen, parser, recall, say

import numpy as np

import kernels
import pages
from indexes import built, library_for
from ours import Ours
from results import Results

EF = 100
#: Row -> the index it opens, and how.
ROWS = {
    "moco-index": ("moco-index", "on-read"), "moco-index eager": ("moco-index", "eager"),
    "faiss-hnsw mapped": ("faiss-hnsw", "mapped"), "faiss-hnsw read": ("faiss-hnsw", "read"),
    "usearch mapped": ("usearch", "mapped"), "hnswlib read": ("hnswlib", "read"),
}
#: usearch's build alone takes a quarter of an hour on a million rows.
LARGE_ROWS = [row for row in ROWS if not row.startswith("usearch")]


def open_ours(dataset, index, how, program, scratch):
    ours = Ours(program)
    try:
        opened = ours.open(index.file, dataset.folder / "queries.npy", scratch, ["--verify", how, "--ef", str(EF)])
        latencies, ids = ours.timed_search(K, EF)
    finally:
        ours.close()
    latencies[0] = opened["first_answer_ns"] - opened["open_ns"]
    return opened["open_ns"], opened["first_answer_ns"], latencies, ids


def open_theirs(dataset, index, how, scratch):
    out = scratch / "theirs.npz"
    command = [sys.executable, __file__, str(dataset.folder), "--child", index.name, how, str(index.folder), str(out)]
    subprocess.run(command, check=True, env=kernels.natural())
    found = np.load(out)
    return int(found["open_ns"]), int(found["first_answer_ns"]), found["latencies"].astype(np.float64), found["ids"]


def child(dataset, name, how, folder, out):
    """One opening of a library, in the process that is this one."""
    library = library_for(dataset, name, Path(folder))
    library.load()
    queries = dataset.queries
    queries.sum()
    clock = time.perf_counter_ns
    start = clock()
    (library.open_mapped if how == "mapped" else library.open)(Path(folder) / "index")
    opened = clock() - start
    library.answer(queries[:1], K, EF)
    first = clock() - start
    latencies, ids = [], []
    for row in range(len(queries)):
        begun = clock()
        ids.append(library.answer(queries[row : row + 1], K, EF)[0])
        latencies.append(clock() - begun)
    latencies[0] = first - opened
    np.savez(out, open_ns=opened, first_answer_ns=first, latencies=latencies, ids=np.asarray(ids).astype(np.int64))


def measured(dataset, row, index, program, scratch, cold):
    (pages.drop if cold else pages.fill)(index.file)
    kind, how = ROWS[row]
    opening = open_ours(dataset, index, how, program, scratch) if kind == "moco-index" else open_theirs(dataset, index, how, scratch)
    open_ns, first_answer_ns, latencies, ids = opening
    p50, p99 = np.quantile(latencies, [0.5, 0.99])
    return {"open_ms": open_ns / 1e6, "first_answer_ms": first_answer_ns / 1e6, "p50_us": p50 / 1e3, "p99_us": p99 / 1e3,
            "all_queries_ms": latencies.sum() / 1e6, "recall": recall(ids, dataset.truth), "in_cache_after": pages.resident(index.file)}


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--child", nargs=4, metavar=("NAME", "HOW", "FOLDER", "OUT"))
    arguments = arguments.parse_args()
    dataset = DataSet(arguments.data)
    if arguments.child:
        child(dataset, *arguments.child)
        return
    rows = chosen(arguments.only, ROWS) if arguments.only or not dataset.is_large else LARGE_ROWS
    rounds = arguments.rounds or (3 if dataset.is_large else 5)
    results = Results(dataset, "opening", rounds)
    results["ef"], found, indexes = EF, {}, {}
    for name in {ROWS[row][0]: None for row in rows}:
        try:
            indexes[name] = built(dataset, name, arguments.program)
        except Exception as error:
            results["left_out"][name] = str(error)
            say(f"{name} is left out: {error}")
    with tempfile.TemporaryDirectory(prefix="opening-", dir=ROOT / "target") as scratch:
        for cache in ("warm", "cold"):
            for round_number in range(rounds):
                for row in rows:
                    if ROWS[row][0] in indexes:
                        index = indexes[ROWS[row][0]]
                        found.setdefault((cache, row), []).append(measured(dataset, row, index, arguments.program, Path(scratch), cache == "cold"))
                say(f"{cache}, round {round_number + 1} of {rounds}")
    # Medians of the rounds, figure by figure.
    results["openings"] = [
        {"cache": cache, "row": row, "file_bytes": indexes[ROWS[row][0]].figures["file_bytes"],
         **{figure: float(np.median([one[figure] for one in ones])) for figure in ones[0]}, "rounds": ones}
        for (cache, row), ones in found.items()
    ]
    results.save(arguments.out)


if __name__ == "__main__":
    main()
