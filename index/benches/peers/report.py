#!/usr/bin/env python3
"""Tables and pictures of what the parts of the comparison found.

    python3 index/benches/peers/report.py FOLDER DATA      writes FOLDER/DATA.md and DATA-*.svg again

Every part leaves FOLDER/DATA-PART.json; the report holds the tables of all parts that are there.
"""

import json
import sys
from pathlib import Path

import pictures
from curves import RECALLS, at_recall

OURS = "moco-index"


def is_ours(name):
    return name.startswith(OURS)


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def number(value, digits=0):
    return "never" if value is None else f"{value:,.{digits}f}"


def ratio(mine, theirs):
    return f"{mine / theirs:.2f}" if mine and theirs else "-"


def percent(share):
    return f"{share * 100:.3g} %"


def heading(results, title):
    machine = results["machine"]
    features = ", ".join(name for name in ("avx2", "avx512", "vnni") if machine[name])
    return (f"## {title}\n\n{results['data']}: {results['points']:,} x {results['dim']}, {results['distance']}, {results['queries']} queries, k {results['k']}; "
            f"{machine['cpu']}, {machine['cores']} cores ({features}); load average {results['load_average_before'][0]} before, "
            f"{results['load_average_after'][0]} after; {results['rounds']} alternated rounds, {results['minutes']} minutes.\n\n")


def left_out(results):
    return "".join(f"- {name} was left out: {reason}\n" for name, reason in results["left_out"].items())


def rates_of(results):
    return {name: [at_recall(about["curve"], recall) for recall in RECALLS] for name, about in results["libraries"].items()}


def speed_table(results, rates):
    """Queries a second at the two recalls, and how many times as many ours answers."""
    ours, rows = rates.get(OURS), []
    for name, about in results["libraries"].items():
        nearest = min(about["curve"], key=lambda point: abs(point["recall"] - 0.95))
        most = max(point["recall"] for point in about["curve"])
        ratios = [ratio(mine, theirs) for mine, theirs in zip(ours or [None] * 2, rates[name])]
        rows.append([f"{name} {about['version']}", number(rates[name][0]), number(rates[name][1]), f"{most:.4f}",
                     f"{number(nearest['qps'])} [{number(nearest['qps_q1'])}-{number(nearest['qps_q3'])}]", *ratios])
    return table(["library", "q/s at .95", "q/s at .99", "best recall", "near .95 [quartiles]", "ours ÷ it, .95", ".99"], rows) + "\n"


def best(rates, names, place):
    """The fastest of those at that recall, and its name."""
    return max(((rates[name][place], name) for name in names if rates[name][place]), default=None)


def speed(results):
    kernel = results.get("kernel")
    text = heading(results, "Recall and speed, one search thread" + (f", {kernel} only" if kernel else ""))
    rates, libraries = rates_of(results), results["libraries"]
    text += speed_table(results, rates)
    theirs = [name for name in libraries if not is_ours(name)]
    groups = {"f32": [name for name in theirs if not libraries[name]["quantised"]], "of all": theirs}
    for group, names in groups.items():
        for place, recall in enumerate(RECALLS):
            fastest = best(rates, names, place)
            if fastest and rates.get(OURS) and rates[OURS][place]:
                text += f"- best peer ({group}) at {recall}: {fastest[1]}; ours ÷ it = **{rates[OURS][place] / fastest[0]:.2f}**\n"
    text += "\n"
    if kernel:
        rows = [[name, how or "cannot be told: left out"] for name, how in results["switched"].items()]
        return text + table(["library", f"held to {kernel} by"], rows) + "\n" + left_out(results)
    points, rows = results["points"], []
    raw = 4 * results["dim"]
    for name, about in libraries.items():
        walked = number(about["walked_bytes"] / points) if about.get("walked_bytes") else "-"
        resident = about["resident"]
        rows.append([name, number(about["points_per_second"]), number(about["points_per_second_index_alone"]) if "points_per_second_index_alone" in about else "-",
                     number(resident["anonymous"] / points), walked, number(resident["file"] / points), number(about["file_bytes"] / points),
                     f"{about['file_bytes'] / points / raw:.2f}", str(about.get("segments", "-")), " to ".join(map(str, about["load_average"]))])
    text += table(["library", "built, points/s (2 threads)", "without writing", "own memory, B/point", "of it walked", "mapped and touched", "files, B/point",
                   "÷ raw f32", "segments", "load average while built"], rows) + "\n"
    four_bits = libraries.get("moco-index-int4")
    if four_bits:
        reached = [point for point in four_bits["curve"] if point["recall"] >= 0.99]
        said = f"at ef {reached[0]['parameter']}, {number(reached[0]['qps'])} q/s" if reached else "not reached by these values of ef"
        text += f"- 4-bit codes: {number(four_bits['resident']['anonymous'] / points)} B/point of own memory; recall@{results['k']} ≥ .99 after rescoring: {said}\n"
    return text + left_out(results)


def memory(results):
    text = heading(results, "Speed at equal memory")
    points, libraries, rates = results["points"], results["libraries"], rates_of(results)
    weight = {name: about["resident"]["anonymous"] / points for name, about in libraries.items()}
    rows = []
    for name, about in libraries.items():
        most = max(point["recall"] for point in about["curve"])
        rows.append([f"{name} {about['version']}", number(weight[name]), number(about["resident"]["file"] / points), number(rates[name][0]),
                     number(rates[name][1]), f"{most:.4f}"])
    text += table(["library", "own memory, B/point", "mapped and touched", "q/s at .95", "q/s at .99", "best recall"], rows) + "\n"
    for mine in (name for name in libraries if is_ours(name)):
        fitting = [name for name in libraries if not is_ours(name) and weight[name] <= weight[mine]]
        for place, recall in enumerate(RECALLS):
            fastest = best(rates, fitting, place)
            if rates[mine][place] is None:
                said = f"{mine} does not reach it"
            elif fastest is None:
                said = f"none of the {len(fitting)} that fit reaches it"
            else:
                said = f"{fastest[1]}; ours ÷ it = **{rates[mine][place] / fastest[0]:.2f}**"
            text += f"- best peer within the {number(weight[mine])} B/point of {mine}, at {recall}: {said}\n"
    return text + "\n" + left_out(results)


def filters(results):
    text = heading(results, f"Filters, ef {results['ef']}")
    text += ("The bound is twice the cheaper of two medians: an exact search of ours under the filter, and the unfiltered walk ÷ the share that passes. "
             "The strict one takes a flat scan by faiss of so many rows that lie together instead of the exact search. "
             "Of medians: the p99 of each query's median of the rounds, without what the machine adds to some of them.\n\n")
    rows, cells = [], [cell for cell in results["cells"] if "ours" in cell]
    for cell in results["cells"]:
        ours, theirs = cell.get("ours"), cell.get("faiss")
        row = [cell["kind"], str(cell["clauses"]), percent(cell["share"]), percent(cell["passes"])]
        if ours:
            row += [f"{ours['recall']:.3f}", number(ours["p50_us"]), number(ours["p99_us"]), number(cell["exact"]["p50_us"]),
                    number(cell.get("flat_us")) if "flat_us" in cell else "-", number(cell["plain"]["p50_us"] / max(cell["passes"], 1e-9)),
                    ratio(ours["p50_us"], cell["bound_us"]), ratio(ours["p99_us"], cell["bound_us"]),
                    ratio(ours["p99_of_medians_us"], cell["bound_us"]), ratio(ours["p99_us"], cell.get("strict_bound_us"))]
        else:
            row += ["-"] * 10
        row += [f"{theirs['recall']:.3f}", number(theirs["p50_us"]), number(theirs["p99_us"])] if theirs else ["-"] * 3
        rows.append(row)
    text += table(["kind", "clauses", "meant", "passes", "recall", "p50 µs", "p99 µs", "exact", "flat scan", "walk ÷ pass", "p50 ÷ bound", "p99 ÷ bound", "of medians", "÷ strict",
                   "faiss: recall", "p50", "p99"], rows) + "\n"
    if cells:
        least = min(cell["ours"]["recall"] for cell in cells)
        within = lambda figure, bound: sum(cell["ours"][figure] <= cell.get(bound, 0) for cell in cells)
        text += (f"- least recall of ours: **{least:.3f}**; of {len(cells)} cells, within the bound: p50 in {within('p50_us', 'bound_us')}, "
                 f"p99 in **{within('p99_us', 'bound_us')}**, and of each query's median of the rounds in {within('p99_of_medians_us', 'bound_us')}; "
                 f"p99 within the strict one in {within('p99_us', 'strict_bound_us')}\n")
    return text + left_out(results)


def opening(results):
    text = heading(results, f"Opening, warm and cold, ef {results['ef']}")
    found = {(one["cache"], one["row"]): one for one in results["openings"]}
    for cache, against in (("warm", "faiss-hnsw mapped"), ("cold", "faiss-hnsw mapped")):
        other = found.get((cache, against))
        rows = []
        for (its_cache, row), one in found.items():
            if its_cache != cache:
                continue
            ratios = [ratio(one[figure], other[figure]) if other else "-" for figure in ("first_answer_ms", "p50_us", "p99_us")]
            rows.append([row, number(one["open_ms"], 1), number(one["first_answer_ms"], 1), number(one["p50_us"]), number(one["p99_us"]),
                         number(one["first_answer_ms"] + one["all_queries_ms"]), f"{one['recall']:.3f}", *ratios])
        text += table([f"{cache} page cache", "opened, ms", "to first answer, ms", f"p50 µs of the first {results['queries']:,}", "p99 µs",
                       "all of it, ms", "recall", "÷ faiss mapped: first answer", "p50", "p99"], rows) + "\n"
    return text + left_out(results)


PARTS = {"speed": speed, "speed-avx2": speed, "memory": memory, "filters": filters, "opening": opening}
PICTURES = {"speed": pictures.curves, "speed-avx2": pictures.curves, "memory": pictures.curves, "filters": pictures.filters, "opening": pictures.bars}


def write(folder, data, only=None):
    """Writes the report and pictures of all parts that are there. Returns the tables, or those of one part."""
    texts = {}
    for part, make in PARTS.items():
        file = Path(folder) / f"{data}-{part}.json"
        if file.exists():
            results = json.loads(file.read_text())
            texts[part] = make(results)
            file.with_suffix(".svg").write_text(PICTURES[part](results))
    (Path(folder) / f"{data}.md").write_text(f"# {data}\n\n" + "\n".join(texts.values()))
    return texts[only] if only else "\n".join(texts.values())


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(write(*sys.argv[1:]))


if __name__ == "__main__":
    main()
