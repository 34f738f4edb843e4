"""Indexes that were built once, with what their making cost: kept under target/bench-indexes/DATA/NAME for all parts.

One is built anew when the library's version, the settings or the data have changed. Building, and weighing the memory of
an open index, each happen in a process of their own, so that no library's memory is taken for another's.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from dataset import K, ROOT, DataSet, say

import kernels
from attributes import INDEXES, Attributes
from compact import COMPACT
from libraries import EF_CONSTRUCTION, LIBRARIES, M, timed
from ours import VARIANTS, Ours
from results import load_average

HERE = Path(__file__).resolve().parent
KEPT = ROOT / "target" / "bench-indexes"
BUILD_THREADS = 2
ALL = {**LIBRARIES, **COMPACT}


def memory():
    """Resident bytes of this process: anonymous and of mapped files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {name: int(fields[key].split()[0]) * 1024 for name, key in (("anonymous", "RssAnon"), ("file", "RssFile"))}


def since(before):
    after = memory()
    return {name: after[name] - before[name] for name in after}


class Built:
    """An index on disk: `file` is what the library opens, `figures` what building it cost."""

    def __init__(self, name, folder, figures):
        self.name, self.folder, self.file, self.figures = name, folder, folder / "index", figures


def key_of(dataset, name, program):
    base = (dataset.folder / "base.npy").stat()
    key = {"data": [len(dataset), dataset.dim, base.st_size, base.st_mtime_ns], "distance": dataset.distance, "settings": [M, EF_CONSTRUCTION, BUILD_THREADS]}
    if name in VARIANTS:
        about = Path(program).stat()
        return {**key, "program": [about.st_size, about.st_mtime_ns], "options": VARIANTS[name]}
    return {**key, "version": ALL[name].version()}


def built(dataset, name, program):
    """The index of that name, made unless it is there."""
    folder = KEPT / dataset.name / name
    note, key = folder / "built.json", key_of(dataset, name, program)
    if note.exists():
        noted = json.loads(note.read_text())
        if noted["key"] == key:
            return Built(name, folder, noted["figures"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    say(f"building {name}")
    before = load_average()[0]
    try:
        if name in VARIANTS:
            figures = build_ours(dataset, name, folder, program)
        else:
            if dataset.distance not in ALL[name].DISTANCES:
                raise RuntimeError(f"it has no distance {dataset.distance}")
            figures = in_child("build", dataset, name, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    figures["load_average"] = [before, load_average()[0]]
    # Written last: its presence says that the index is whole.
    note.write_text(json.dumps({"key": key, "figures": figures}, indent=1) + "\n")
    return Built(name, folder, figures)


def build_ours(dataset, name, folder, program):
    options = list(VARIANTS[name])
    if name == "moco-index-payloads":
        payloads = folder / "payloads.jsonl"
        Attributes(dataset).write_payloads(payloads)
        options += ["--payloads", str(payloads), *(word for index in INDEXES for word in ("--payload-index", index))]
    figures = Ours(program).build(folder / "index", dataset, options)
    (folder / "payloads.jsonl").unlink(missing_ok=True)
    index_seconds = max(figures["seconds"] - figures["write_seconds"], 1e-9)
    return {"points_per_second": len(dataset) / figures["seconds"], "points_per_second_index_alone": len(dataset) / index_seconds,
            "file_bytes": sum(file.stat().st_size for file in (folder / "index").rglob("*") if file.is_file())}


def in_child(what, dataset, name, folder, *more):
    """The figures of `what` in a process of its own, or why there are none."""
    command = [sys.executable, str(HERE / "indexes.py"), what, str(dataset.folder), name, str(folder), *map(str, more)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=kernels.natural())
    lines = [line for line in result.stdout.decode(errors="replace").splitlines() if line.startswith("{")]
    if result.returncode or not lines:
        said = result.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(said[-1] if said else f"exit status {result.returncode}")
    return json.loads(lines[-1])


def weighed(dataset, index, program):
    """Resident bytes that an open index adds to its process, once all queries were answered by a middling parameter."""
    if index.name not in VARIANTS:
        return in_child("weigh", dataset, index.name, index.folder)
    ours = Ours(program)
    opened = ours.open(index.file, dataset.folder / "queries.npy", index.folder)
    try:
        ours.ask("settle")
        ours.search(K, Ours.PARAMETERS[3])
        info = ours.ask("info")
    finally:
        ours.close()
    before, after = opened["resident_before"], info["resident_bytes"]
    resident = {kind: after[kind] - before[kind] for kind in ("anonymous", "file")}
    return {"resident": resident, "walked_bytes": info["walked_bytes"], "segments": info["segments"], "indexed": info["indexed"]}


def library_for(dataset, name, folder):
    return ALL[name](dataset.dim, dataset.distance, folder)


def main():
    what, data, name, folder = sys.argv[1:5]
    dataset, folder = DataSet(data), Path(folder)
    library = library_for(dataset, name, folder)
    library.load()
    if what == "build":
        import numpy as np

        base = np.load(dataset.folder / "base.npy")
        before = memory()
        seconds, _ = timed(lambda: library.build(base, BUILD_THREADS))
        resident = since(before)
        print(json.dumps({"points_per_second": len(base) / seconds, "resident_build": resident, "file_bytes": library.save(folder / "index")}))
    elif what == "weigh":
        # The queries and the answer's arrays are no part of the index.
        dataset.queries.sum()
        before = memory()
        library.open(folder / "index")
        library.answer(dataset.queries, K, library.PARAMETERS[3])
        print(json.dumps({"resident": since(before)}))


if __name__ == "__main__":
    main()
