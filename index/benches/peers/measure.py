#!/usr/bin/env python3
"""Measures `moco-index` beside other libraries on one data set: recall against speed, building, memory, files.

    python3 index/benches/peers/measure.py DATA [--only NAME,…] [--rounds N] [--parameters EF,…] [--kernel avx2]

Takes, on two free cores, 1 minute on small, 10 on b, 15 on a, under 40 on c (there by default: ours, hnswlib, faiss and
SymphonyQG; most of it is building). What was built is kept and costs nothing the second time; see indexes.py. How it is done:

- Each index is built (two threads), saved and weighed in a process of its own.
- Then all are open at once, and rounds are alternated: each value of the search parameter is measured library by library,
  one thread, and then again, five times; the median counts, the quartiles are kept. Before each measurement the library
  answers the same queries once unmeasured (cold caches are what opening.py looks at). Queries a second at a recall are
  read log-linearly between two values.
- Ours runs as a child process with its own clock, the others through their own call for many queries.
- Rows of ours: after `compact` (moco-index), as the default merges leave it (-merged), with 4-bit codes (-int4).
- `--kernel avx2` hides AVX-512 from all of them; see kernels.py.

Writes DATA-speed.json (DATA-speed-avx2.json), and the tables and curves of it; see report.py.
"""

from dataset import K, DataSet, chosen, parser, recall, say

import numpy as np

import kernels
from indexes import built, library_for, weighed
from libraries import LIBRARIES, timed
from ours import VARIANTS, Ours
from results import Results, load_average

ROWS = ["moco-index", "moco-index-merged", "moco-index-int4", *LIBRARIES]
#: Of a million rows: what fits into memory together, and is built in half an hour.
LARGE_ROWS = ["moco-index", "hnswlib", "faiss-hnsw", "symphonyqg"]
LARGE_EFS = [40, 80, 160, 320, 640]


def curves(runs, truth, rounds):
    """`runs`: name -> (parameters, answer(parameter) -> seconds, ids). Alternated library by library."""
    steps = max(len(parameters) for parameters, _ in runs.values())
    seconds, recalls = {}, {}
    for step in range(steps):
        for round_number in range(rounds + 1):
            for name, (parameters, answer) in runs.items():
                if step >= len(parameters):
                    continue
                # Once unmeasured: what the others left in the caches is not what is asked about, and a thousand queries of the
                # fastest are over before they have their own.
                answer(parameters[step])
                took, ids = answer(parameters[step])
                if round_number == 0:
                    # Tells the recall.
                    recalls[name, step] = recall(ids, truth)
                else:
                    seconds.setdefault((name, step), []).append(took)
        say(f"step {step + 1} of {steps}, load average {load_average()[0]}")
    points = {}
    for (name, step), took in seconds.items():
        qps = sorted(len(truth) / value for value in took)
        q1, median, q3 = np.quantile(qps, [0.25, 0.5, 0.75])
        parameter = runs[name][0][step]
        points.setdefault(name, []).append({"parameter": parameter, "recall": recalls[name, step], "qps": median, "qps_q1": q1, "qps_q3": q3})
    return points


def compare(dataset, names, results, program, rounds, parameters=(), kernel=""):
    """Builds, weighs and measures those; fills `results`."""
    runs, children = {}, []
    results["libraries"] = {}
    try:
        for name in names:
            try:
                index = built(dataset, name, program)
                # Weighing another instruction set would tell nothing new.
                weight = {} if kernel else weighed(dataset, index, program)
                if name in VARIANTS:
                    ours = Ours(program, kernels.of_ours(kernel))
                    children.append(ours)
                    ours.open(index.file, dataset.folder / "queries.npy", index.folder)
                    ours.ask("settle")
                    about = {"version": ours.version(), "quantised": True, "parameter": "ef"}
                    usual, answer = Ours.PARAMETERS, lambda ef, ours=ours: ours.search(K, ef)
                else:
                    library = library_for(dataset, name, index.folder)
                    library.open(index.file)
                    about = {"version": library.version(), "quantised": library.QUANTISED, "parameter": library.PARAMETER}
                    usual, answer = library.PARAMETERS, lambda value, library=library: timed(lambda: library.answer(dataset.queries, K, value))
            except Exception as error:
                # Whatever a foreign library throws, the others are measured.
                results["left_out"][name] = str(error)
                say(f"{name} is left out: {error}")
                continue
            runs[name] = (list(parameters) if parameters and about["parameter"] == "ef" else usual, answer)
            results["libraries"][name] = {**about, **index.figures, **weight}
        for name, points in curves(runs, dataset.truth, rounds).items():
            results["libraries"][name]["curve"] = points
    finally:
        for ours in children:
            ours.close()


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--parameters", default="", metavar="EF,…", help="values of ef instead of the usual ones")
    arguments.add_argument("--kernel", default="", choices=["", "avx2"], help="hide what is newer from all libraries")
    arguments = arguments.parse_args()
    kernels.switch(arguments.kernel)
    dataset = DataSet(arguments.data)
    names = chosen(arguments.only, ROWS) if arguments.only or not dataset.is_large else LARGE_ROWS
    parameters = [int(value) for value in arguments.parameters.split(",") if value] or (LARGE_EFS if dataset.is_large else [])
    rounds = arguments.rounds or (3 if dataset.is_large else 5)
    results = Results(dataset, f"speed-{arguments.kernel}" if arguments.kernel else "speed", rounds)
    if arguments.kernel:
        results["kernel"], results["switched"] = arguments.kernel, {name: kernels.how(name) for name in names}
        names = [name for name in names if results["switched"][name]]
        results["left_out"] = {name: "it cannot be told to" for name, how in results["switched"].items() if not how}
    compare(dataset, names, results, arguments.program, rounds, parameters, arguments.kernel)
    results.save(arguments.out)


if __name__ == "__main__":
    main()
