#!/usr/bin/env python3
"""Measures `moco-index` beside other libraries on one data set: recall, speed, memory, files, opening, filters.

    python3 index/benches/peers/measure.py DATA [--program target/release/moco-index] [--only NAME,…] [--out FOLDER]

DATA is a folder with base.npy, queries.npy and truth.npy (see data.py and hdf5_to_npy.py), or the name of one under
target/bench-data. How it is done:

- Each index is built, saved and weighed in a process of its own (two threads), and opened in another one, so that no
  library's memory is taken for another's. Bytes are those of anonymous memory and, apart, of mapped files.
- Then all are open at once, and rounds are alternated: each value of the search parameter is measured library by library,
  one thread, and then again, five times; the median counts, the quartiles are kept. Queries a second at a recall are read
  log-linearly between two values.
- Ours runs as a child process with its own clock, the others through their own call for many queries.
- Filters pass a share of the rows, drawn at random or lying along one direction of the space (correlated). Truth is
  computed for each. Faiss is the only one of them that filters without a Python callback a row.

Writes NAME.json (everything), NAME.md (tables) and NAME.svg (curves).
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT / ".native" / "peers"))
# Before NumPy: its threads would disturb what is measured.
os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np

import report
from data import DATA, exact
from libraries import LIBRARIES, Ours, timed

K = 10
PASS = [0.5, 0.1, 0.03, 0.01, 0.001]
FILTER_QUERIES = 200
FILTER_EF = 160
BUILD_THREADS = 2
OURS = "moco-index"
NONE = np.uint64(2**64 - 1)


def say(text):
    print(f"peers: {text}", file=sys.stderr, flush=True)


def load_average():
    return [round(value, 2) for value in os.getloadavg()]


def recall(found, truth):
    return float(np.mean([len(set(map(int, a)) & set(map(int, b))) / len(b) for a, b in zip(found, truth)]))


def memory():
    """Resident bytes of this process: anonymous and of mapped files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {name: int(fields[key].split()[0]) * 1024 for name, key in (("anonymous", "RssAnon"), ("file", "RssFile"))}


def since(before):
    after = memory()
    return {name: after[name] - before[name] for name in after}


# -- A process for one library -----------------------------------------------------------------------------------------


def child_build(name, data, file, distance):
    base = np.load(data / "base.npy")
    library = LIBRARIES[name](base.shape[1], distance)
    __import__({"faiss-cpu": "faiss", "ngt": "ngtpy"}.get(library.PACKAGE, library.PACKAGE))
    before = memory()
    seconds, _ = timed(lambda: library.build(base, BUILD_THREADS))
    print(json.dumps({"points_per_second": len(base) / seconds, "resident": since(before), "file_bytes": library.save(file)}))


def child_open(name, data, file, distance):
    queries = np.load(data / "queries.npy")
    library = LIBRARIES[name](queries.shape[1], distance)
    __import__({"faiss-cpu": "faiss", "ngt": "ngtpy"}.get(library.PACKAGE, library.PACKAGE))
    before = memory()

    def first_answer():
        library.open(file)
        library.answer(queries[:1], K, library.PARAMETERS[2])

    seconds, _ = timed(first_answer)
    library.answer(queries, K, library.PARAMETERS[2])
    print(json.dumps({"first_answer_ms": seconds * 1e3, "resident": since(before)}))


def in_child(what, name, data, file, distance):
    """The figures of `what` in a process of its own, or why there are none."""
    command = [sys.executable, str(HERE / "measure.py"), str(data), "--child", what, name, str(file), "--distance", distance]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    lines = [line for line in result.stdout.decode(errors="replace").splitlines() if line.startswith("{")]
    if result.returncode or not lines:
        said = result.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(said[-1] if said else f"exit status {result.returncode}")
    return json.loads(lines[-1])


# -- The whole comparison ----------------------------------------------------------------------------------------------


def attributes(base):
    """For each row a random number and its place along one direction, both in [0, 1)."""
    rng = np.random.default_rng(11)
    direction = rng.standard_normal(base.shape[1]).astype(np.float32)
    along = np.empty(len(base), np.float64)
    along[np.argsort(base @ direction, kind="stable")] = np.arange(len(base)) / len(base)
    return {"random": rng.random(len(base)), "correlated": along}


def curves(runs, truth, rounds):
    """`runs`: name -> (parameters, answer(parameter) -> seconds, ids). Alternated library by library."""
    steps = max(len(parameters) for parameters, _ in runs.values())
    seconds, recalls = {}, {}
    for step in range(steps):
        for round_number in range(rounds + 1):
            for name, (parameters, answer) in runs.items():
                if step >= len(parameters):
                    continue
                took, ids = answer(parameters[step])
                if round_number == 0:
                    # Warms up, and tells the recall.
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


def filters(libraries, ours, queries, base, distance, shares, columns):
    """Recall and time a query of filtered searches, for the libraries that can."""
    rows = []
    for kind, values in columns.items():
        for share in shares:
            mask = values < share
            allowed = np.flatnonzero(mask)
            if len(allowed) < K:
                continue
            truth = allowed[exact(base[allowed], queries, K, euclid=distance == "euclid")]
            for name, library in libraries.items():
                if getattr(library, "answer_filtered", None) is None:
                    continue
                library.answer_filtered(queries, K, FILTER_EF, mask)
                took, ids = timed(lambda: library.answer_filtered(queries, K, FILTER_EF, mask))
                rows.append({"kind": kind, "pass": share, "library": name, "recall": recall(ids, truth), "us": took / len(queries) * 1e6})
            if ours is not None:
                condition = json.dumps({"must": [{"key": kind, "range": {"lt": share}}]}, separators=(",", ":"))
                try:
                    ours.search(K, FILTER_EF, f"first={len(queries)} filter={condition}")
                    took, ids = ours.search(K, FILTER_EF, f"first={len(queries)} filter={condition}")
                except RuntimeError as error:
                    say(f"no filtered search of ours: {error}")
                    return rows
                rows.append({"kind": kind, "pass": share, "library": OURS, "recall": recall(ids, truth), "us": took / len(queries) * 1e6})
    return rows


def machine():
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?")
    flags = next((line.split(":", 1)[1].split() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")), [])
    return {"cpu": model, "cores": os.cpu_count(), "avx2": "avx2" in flags, "avx512": "avx512f" in flags, "vnni": "avx512_vnni" in flags,
            "python": platform.python_version(), "numpy": np.__version__, "system": platform.platform()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--program", default=str(ROOT / "target" / "release" / "moco-index"))
    parser.add_argument("--only", default="", metavar="NAME,…", help=f"of {OURS}, {', '.join(LIBRARIES)}")
    parser.add_argument("--out", default=str(ROOT / "target" / "bench-results"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kernel", default="", help="instruction set of ours: sets MOCO_INDEX_KERNEL")
    parser.add_argument("--distance", default="")
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "NAME", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    data = Path(arguments.data) if Path(arguments.data).is_dir() else DATA / arguments.data
    if not (data / "truth.npy").exists():
        sys.exit(f"peers: {data} holds no truth.npy: make it with data.py or hdf5_to_npy.py")
    distance_file = data / "distance.txt"
    distance = arguments.distance or (distance_file.read_text().strip() if distance_file.exists() else "cosine")
    if arguments.child:
        what, name, file = arguments.child
        {"build": child_build, "open": child_open}[what](name, data, Path(file), distance)
        return
    wanted = [name for name in arguments.only.split(",") if name] or [OURS, *LIBRARIES]
    unknown = [name for name in wanted if name != OURS and name not in LIBRARIES]
    if unknown:
        sys.exit(f"peers: {', '.join(unknown)}: no such library")
    base, queries = np.load(data / "base.npy", mmap_mode="r"), np.load(data / "queries.npy")
    truth = np.load(data / "truth.npy")[:, :K]
    lengths = np.linalg.norm(base[:1000], axis=1)
    if distance == "cosine" and np.abs(lengths[lengths > 0] - 1).max(initial=0) > 1e-3:
        sys.exit(f"peers: the vectors of {data} are not of length one, which the others need for cosine")
    results = {"data": data.name, "points": len(base), "dim": base.shape[1], "queries": len(queries), "k": K, "distance": distance,
               "rounds": arguments.rounds, "machine": machine(), "load_average_before": load_average(), "libraries": {}, "left_out": {}}
    scratch = Path(tempfile.mkdtemp(prefix="peers-", dir=ROOT / "target"))
    ours, libraries, runs = None, {}, {}
    columns = attributes(base)
    try:
        if OURS in wanted:
            say(f"building {OURS}")
            ours = Ours(arguments.program, {"MOCO_INDEX_KERNEL": arguments.kernel} if arguments.kernel else None)
            payloads = scratch / "payloads.jsonl"
            with open(payloads, "w") as out:
                for random, along in zip(columns["random"], columns["correlated"]):
                    out.write(json.dumps({"random": random, "correlated": along}) + "\n")
            built = ours.build(scratch / "ours", data, distance, payloads)
            opened = ours.open(scratch / "ours", data / "queries.npy", scratch)
            settled = ours.ask("settle")
            ours.search(K, Ours.PARAMETERS[2])
            info = ours.ask("info")
            index_seconds = max(built["seconds"] - built["write_seconds"], 1e-9)
            results["libraries"][OURS] = {
                "version": ours.version(), "quantised": True, "points_per_second": len(base) / built["seconds"],
                "points_per_second_index_alone": len(base) / index_seconds, "settle_after_open_s": settled["ns"] / 1e9,
                "file_bytes": info["disk_bytes"], "first_answer_ms": opened["first_answer_ns"] / 1e6,
                "resident_open": {"anonymous": info["resident_bytes"]["anonymous"], "file": info["resident_bytes"]["file"]}, "info": info,
            }
            runs[OURS] = (Ours.PARAMETERS, lambda ef: ours.search(K, ef))
        for name in (name for name in wanted if name != OURS):
            say(f"building {name}")
            file = scratch / name
            try:
                if distance not in LIBRARIES[name].DISTANCES:
                    raise RuntimeError(f"it has no distance {distance}")
                built = in_child("build", name, data, file, distance)
                opened = in_child("open", name, data, file, distance)
                library = LIBRARIES[name](base.shape[1], distance)
                library.open(file)
            except Exception as error:
                # Whatever a foreign library throws, the others are measured.
                results["left_out"][name] = str(error)
                say(f"{name} is left out: {error}")
                continue
            results["libraries"][name] = {
                "version": library.version(), "quantised": library.QUANTISED, "parameter": library.PARAMETER,
                "points_per_second": built["points_per_second"], "resident_build": built["resident"], "file_bytes": built["file_bytes"],
                "first_answer_ms": opened["first_answer_ms"], "resident_open": opened["resident"],
            }
            libraries[name] = library
            runs[name] = (library.PARAMETERS, lambda value, library=library: timed(lambda: library.answer(queries, K, value)))
        for name, points in curves(runs, truth, arguments.rounds).items():
            results["libraries"][name]["curve"] = points
        say("filters")
        results["filters"] = filters(libraries, ours, queries[:FILTER_QUERIES], np.asarray(base), distance, PASS, columns)
    finally:
        if ours is not None and getattr(ours, "child", None) is not None and ours.child.poll() is None:
            ours.close()
        shutil.rmtree(scratch, ignore_errors=True)
    results["load_average_after"] = load_average()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{data.name}.json").write_text(json.dumps(results, indent=1) + "\n")
    text = report.markdown(results)
    (out / f"{data.name}.md").write_text(text)
    (out / f"{data.name}.svg").write_text(report.svg(results))
    print(text)
    say(f"written to {out}")


if __name__ == "__main__":
    main()
