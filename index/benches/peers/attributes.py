"""What the filters of filters.py ask about: three numbers a row in [0, 1), as arrays and as payloads.

`random` and `other` are drawn; `along` is the row's rank along the first principal component of the set, so that a range
of it is a slice of the space: neighbours of a query lie in the slice around the query's own place and not in one far off.
"""

import json

import numpy as np

INDEXES = ["random=float", "other=float", "along=float"]
SAMPLE = 20_000


class Attributes:
    def __init__(self, dataset):
        rng = np.random.default_rng(11)
        base = dataset.base
        sample = np.asarray(base[np.sort(rng.choice(len(base), min(SAMPLE, len(base)), replace=False))], np.float64)
        _, vectors = np.linalg.eigh(np.cov(sample.T))
        self.direction = vectors[:, -1].astype(np.float32)
        projected = base @ self.direction
        self.sorted = np.sort(projected)
        self.along = np.empty(len(base))
        self.along[np.argsort(projected, kind="stable")] = np.arange(len(base)) / len(base)
        self.random, self.other = rng.random(len(base)), rng.random(len(base))

    def places(self, queries):
        """Where along the component each query would stand among the rows, in [0, 1]."""
        return np.searchsorted(self.sorted, queries @ self.direction) / len(self.sorted)

    def write_payloads(self, path):
        with open(path, "w") as out:
            for random, other, along in zip(self.random, self.other, self.along):
                out.write(json.dumps({"random": random, "other": other, "along": along}) + "\n")
