#!/usr/bin/env python3
"""Measures filtered searches: recall, p50 and p99, beside what they may cost at most, and beside faiss.

    python3 index/benches/peers/filters.py DATA [--only moco-index,faiss-hnsw] [--rounds N]

Takes, on two free cores, 1 minute on small, 10 on b and a, an hour on c (200 queries there), once the indexes are built.

- A filter passes 50, 10, 3, 1 or 0.1 % of the rows: drawn at random; in a slice of the space around the query (near); in
  the slice that is farthest from it (far, where no neighbour of the unfiltered query passes). See attributes.py.
- One clause is one range. Two clauses are two ranges that pass the square root of the share each: two random columns, or
  the slice and a random column.
- Beside stand, of the same rounds: an exact search of ours under the same filter, and the unfiltered walk of ours divided
  by the share that passes. The bound is twice the cheaper of the two medians. The strict one, of which ours is no part,
  takes instead of the exact search a flat scan by faiss over so many rows that lie together: no filter is resolved there.
- Faiss walks with an IDSelectorBitmap that was made before its clock started; ours resolves the filter within its time.
  hnswlib and usearch filter through a Python callback a row, which would measure Python, and are left out.

All walk at ef 160. Writes DATA-filters.json, and the table and curves of it; see report.py.
"""

import json
import tempfile
import time
from pathlib import Path

from dataset import K, ROOT, DataSet, chosen, parser, recall, say

import numpy as np

from attributes import Attributes
from indexes import built, library_for
from ours import Ours
from results import Results, load_average

SHARES = [0.5, 0.1, 0.03, 0.01, 0.001]
KINDS = ["random", "near", "far"]
EF = 160
#: Queries on a million rows, where a scan takes long.
LARGE_QUERIES = 200
FLAT_QUERIES = 50
NAMES = ["moco-index", "faiss-hnsw"]


def window(kind, place, share):
    """The slice [low, high) of the component: around the query's place, or at the end that is farther from it."""
    if kind == "far":
        return (1 - share, 1.0) if place < 0.5 else (0.0, share)
    low = min(max(place - share / 2, 0.0), 1 - share)
    return low, low + share


def clauses_of(kind, clauses, share, place):
    """Column -> range, for a query."""
    each = share if clauses == 1 else share**0.5
    first = {"random": (0.0, each)} if kind == "random" else {"along": window(kind, place, each)}
    second = {} if clauses == 1 else {"other" if kind == "random" else "random": (0.0, each)}
    return {**first, **second}


class Cell:
    """One kind of filter: for each query the rows it passes, the true neighbours among them, and the filter as JSON."""

    def __init__(self, attributes, kind, clauses, share, scores, places):
        self.kind, self.clauses, self.share = kind, clauses, share
        self.truth = np.full((len(places), K), -1, np.int64)
        self.masks, self.filters, passing = [], [], []
        for row, place in enumerate(places):
            ranges = clauses_of(kind, clauses, share, place)
            if row == 0 or kind != "random":
                mask = np.ones(scores.shape[1], bool)
                for column, (low, high) in ranges.items():
                    values = getattr(attributes, column)
                    mask &= (values >= low) & (values < high)
                allowed = np.flatnonzero(mask)
            self.masks.append(mask)
            passing.append(len(allowed))
            self.filters.append({"must": [{"key": column, "range": {"gte": low, "lt": high}} for column, (low, high) in ranges.items()]})
            keep = min(K, len(allowed))
            if keep:
                near = np.argpartition(-scores[row, allowed], keep - 1)[:keep]
                self.truth[row, :keep] = allowed[near]
        self.passes = float(np.mean(passing)) / scores.shape[1]


def by_query(queries, parameters, answer):
    """Nanoseconds of each query, and ids."""
    took, ids = [], []
    for query, parameter in zip(queries, parameters):
        start = time.perf_counter_ns()
        found = answer(query[None], parameter)
        took.append(time.perf_counter_ns() - start)
        ids.append(found[0])
    return np.asarray(took, np.float64), ids


def flat_scan(base, queries, share):
    """Median microseconds of a flat scan by faiss over so many rows that lie together."""
    import faiss

    rows = np.ascontiguousarray(base[: max(K, int(len(base) * share))])
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    took, _ = by_query(queries[:FLAT_QUERIES], [None] * FLAT_QUERIES, lambda query, _: index.search(query, K)[1])
    return float(np.median(took)) / 1e3


def micros(rounds):
    """p50 and p99 in microseconds, each the median of the rounds."""
    return [float(np.median([np.quantile(took, share) for took in rounds])) / 1e3 for share in (0.5, 0.99)]


def p99_of_medians(rounds):
    """Of each query the median of the rounds, of these the 99th in a hundred: what the queries take, without what the machine adds to
    some of them (an interrupt of 40 us makes the p99 of a search of 20)."""
    return float(np.quantile(np.median(rounds, axis=0), 0.99)) / 1e3


def measure_cell(cell, queries, ours, faiss_index, scratch, rounds, flat_us):
    """The rows of the table that belong to one cell."""
    figures = {"kind": cell.kind, "clauses": cell.clauses, "share": cell.share, "passes": cell.passes}
    took = {name: [] for name in ("ours", "exact", "plain", "faiss")}
    file = scratch / "filters.jsonl"
    file.write_text("\n".join(json.dumps(one) for one in cell.filters) + "\n")
    if faiss_index is not None:
        shared = faiss_index.selector(cell.masks[0]) if cell.kind == "random" else None
        selectors = [shared or faiss_index.selector(mask) for mask in cell.masks]
    for _ in range(rounds + 1):
        first = f"first={len(queries)}"
        if ours is not None:
            # Each once unmeasured, as in measure.py: what comes second would find the rows that the first brought near.
            (plain, _), (found, ids), (exact, exact_ids) = (
                [ours.timed_search(K, EF, f"{first} {options}") for _ in range(2)][1]
                for options in ("", f"filters={file}", f"exact=1 filters={file}")
            )
            took["plain"].append(plain), took["ours"].append(found), took["exact"].append(exact)
        if faiss_index is not None:
            found, theirs = by_query(queries, selectors, lambda query, selector: faiss_index.answer_filtered(query, K, EF, selector))
            took["faiss"].append(found)
    # The first round warms up.
    took = {name: values[1:] for name, values in took.items() if values}
    if ours is not None:
        (p50, p99), (exact_p50, exact_p99), (plain_p50, plain_p99) = micros(took["ours"]), micros(took["exact"]), micros(took["plain"])
        passes = max(cell.passes, 1 / cell.masks[0].size)
        figures["ours"] = {"recall": recall(ids, cell.truth), "p50_us": p50, "p99_us": p99, "p99_of_medians_us": p99_of_medians(took["ours"])}
        figures["exact"] = {"recall": recall(exact_ids, cell.truth), "p50_us": exact_p50, "p99_us": exact_p99}
        figures["plain"] = {"p50_us": plain_p50, "p99_us": plain_p99}
        figures["bound_us"] = 2 * min(exact_p50, plain_p50 / passes)
        if flat_us:
            figures["strict_bound_us"] = 2 * min(flat_us, plain_p50 / passes)
    if flat_us:
        figures["flat_us"] = flat_us
    if faiss_index is not None:
        p50, p99 = micros(took["faiss"])
        figures["faiss"] = {"recall": recall(theirs, cell.truth), "p50_us": p50, "p99_us": p99}
    return figures


def main():
    arguments = parser(__doc__).parse_args()
    dataset = DataSet(arguments.data)
    names = chosen(arguments.only, NAMES)
    rounds = arguments.rounds or (2 if dataset.is_large else 3)
    queries = dataset.queries[: LARGE_QUERIES if dataset.is_large else len(dataset.queries)]
    results = Results(dataset, "filters", rounds)
    results["ef"], results["queries"], results["cells"] = EF, len(queries), []
    attributes = Attributes(dataset)
    # Larger is nearer; for lengths of a difference, up to what is the same for all rows.
    scores = queries @ dataset.base.T
    if dataset.distance == "euclid":
        scores -= 0.5 * np.einsum("ij,ij->i", dataset.base, dataset.base)
    places = attributes.places(queries)
    ours, faiss_index = None, None
    with tempfile.TemporaryDirectory(prefix="filters-", dir=ROOT / "target") as scratch:
        scratch = Path(scratch)
        try:
            if "moco-index" in names:
                index = built(dataset, "moco-index-payloads", arguments.program)
                ours = Ours(arguments.program)
                ours.open(index.file, dataset.folder / "queries.npy", scratch)
                ours.ask("settle")
            if "faiss-hnsw" in names:
                try:
                    index = built(dataset, "faiss-hnsw", arguments.program)
                    faiss_index = library_for(dataset, "faiss-hnsw", index.folder)
                    faiss_index.open(index.file)
                except Exception as error:
                    results["left_out"]["faiss-hnsw"] = str(error)
                    say(f"faiss-hnsw is left out: {error}")
            for share in SHARES:
                flat_us = flat_scan(dataset.base, queries, share) if faiss_index is not None else None
                for kind in KINDS:
                    for clauses in (1, 2):
                        cell = Cell(attributes, kind, clauses, share, scores, places)
                        results["cells"].append(measure_cell(cell, queries, ours, faiss_index, scratch, rounds, flat_us))
                say(f"filters that pass {share:.1%}, load average {load_average()[0]}")
        finally:
            if ours is not None:
                ours.close()
    results.save(arguments.out)


if __name__ == "__main__":
    main()
