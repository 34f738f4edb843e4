#!/usr/bin/env python3
"""The same speed question at equal memory: who answers how fast with as many resident bytes a point as ours, or fewer?

    python3 index/benches/peers/memory.py DATA [--only NAME,…] [--rounds N]

Takes, on two free cores, 1 minute on small, 10 on b, 15 on a; on c an hour, most of it building. What counts is own
(anonymous) memory that an open index adds to its process after all queries were answered. Full rows in a mapped file, or
read from one, do not count, for nobody: they are read for a few candidates a query, and the system may drop them.
The peers' forms are those of compact.py; ours are int8 codes and 4-bit codes.

Writes DATA-memory.json, and the table and curves of it; see report.py.
"""

from dataset import DataSet, chosen, parser

import measure
from compact import COMPACT
from results import Results

ROWS = ["moco-index", "moco-index-int4", *COMPACT]


def main():
    arguments = parser(__doc__).parse_args()
    dataset = DataSet(arguments.data)
    rounds = arguments.rounds or (3 if dataset.is_large else 5)
    results = Results(dataset, "memory", rounds)
    measure.compare(dataset, chosen(arguments.only, ROWS), results, arguments.program, rounds)
    results.save(arguments.out)


if __name__ == "__main__":
    main()
