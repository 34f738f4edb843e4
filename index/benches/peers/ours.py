"""`moco-index` as the comparison drives it: built by its program, searched through `moco-index bench --child`.

The child is a process of its own that is told by lines what to search and counts with its own clock, so neither the pipe
nor Python is in what is timed. Its queries go through the call that a server makes.
"""

import json
import subprocess

import numpy as np

import kernels
from libraries import EF_CONSTRUCTION, EFS, M

#: Name -> options of `moco-index build`. What is not said is the program's default.
VARIANTS = {
    # After `compact`: one segment, int8 codes.
    "moco-index": [],
    # The segments that writing and the default merges leave.
    "moco-index-merged": ["--keep-segments"],
    "moco-index-int4": ["--codes", "int4"],
    # What filters need; see attributes.py.
    "moco-index-payloads": [],
}


class Ours:
    PARAMETERS = EFS
    PARAMETER = "ef"
    QUANTISED = True

    def __init__(self, program, environment=None):
        self.program, self.environment = str(program), kernels.natural() if environment is None else environment
        self.child = None

    def version(self):
        return subprocess.run([self.program, "--version"], stdout=subprocess.PIPE, check=True).stdout.decode().split()[-1]

    def build(self, folder, dataset, options=()):
        """The figures that the program prints: seconds until all is written, and until all is built."""
        command = [self.program, "build", str(dataset.folder / "base.npy"), "-o", str(folder), "--collection", "bench",
                   "--distance", dataset.distance, "-m", str(M), "--ef-construction", str(EF_CONSTRUCTION), "--json", *options]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, env=self.environment).stdout)

    def open(self, folder, queries, scratch, options=()):
        """What it says when its first query is answered."""
        self.scratch = scratch
        command = [self.program, "bench", str(folder), "--queries", str(queries), "--child", *options]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environment)
        return self._answer("opening")

    def ask(self, line):
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()
        return self._answer(line)

    def _answer(self, asked):
        answer = self.child.stdout.readline()
        if not answer:
            raise RuntimeError(f"moco-index ended at `{asked}`")
        return json.loads(answer)

    def search(self, k, ef, options=""):
        """Seconds and ids of all queries."""
        ids = self.scratch / f"ids-{self.child.pid}.npy"
        answer = self.ask(f"search ef={ef} k={k} out={ids} {options}".rstrip())
        return answer["ns"] / 1e9, np.load(ids)

    def timed_search(self, k, ef, options=""):
        """Nanoseconds of each query, and ids."""
        latencies = self.scratch / f"latencies-{self.child.pid}.npy"
        _, ids = self.search(k, ef, f"latencies={latencies} {options}".rstrip())
        return np.load(latencies).astype(np.float64), ids

    def close(self):
        if self.child is None or self.child.poll() is not None:
            return
        self.child.stdin.write("quit\n")
        self.child.stdin.flush()
        self.child.wait(timeout=120)
