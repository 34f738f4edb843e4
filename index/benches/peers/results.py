"""Where figures are kept: a JSON file a part, with the machine and what else it did, from which report.py makes tables."""

import json
import os
import platform
import time
from pathlib import Path

import numpy as np

from dataset import K, say


def load_average():
    return [round(value, 2) for value in os.getloadavg()]


def machine():
    cpu = Path("/proc/cpuinfo").read_text().splitlines()
    field = lambda name: next((line.split(":", 1)[1].strip() for line in cpu if line.startswith(name)), "?")
    flags = field("flags").split()
    return {"cpu": field("model name"), "cores": os.cpu_count(), "avx2": "avx2" in flags, "avx512": "avx512f" in flags,
            "vnni": "avx512_vnni" in flags, "python": platform.python_version(), "numpy": np.__version__, "system": platform.platform()}


class Results(dict):
    """What one part found on one data set."""

    def __init__(self, dataset, part, rounds):
        super().__init__(data=dataset.name, part=part, points=len(dataset), dim=dataset.dim, queries=len(dataset.queries), k=K,
                         distance=dataset.distance, rounds=rounds, machine=machine(), load_average_before=load_average(), left_out={})
        self.start = time.time()

    def save(self, out):
        """Writes it, and the report of all parts that are there."""
        import report

        self["load_average_after"], self["minutes"] = load_average(), round((time.time() - self.start) / 60, 1)
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self['data']}-{self['part']}.json").write_text(json.dumps(self, indent=1) + "\n")
        print(report.write(folder, self["data"], only=self["part"]))
        say(f"{self['minutes']} minutes; written to {folder}")
