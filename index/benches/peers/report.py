"""Tables and curves of what `measure.py` found. Also a program: `report.py FILE.json` writes both again."""

import json
import math
import sys
from pathlib import Path

OURS = "moco-index"
RECALLS = [0.95, 0.99]
COLOURS = ["#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#ff7f0e", "#7f7f7f"]


def at_recall(curve, recall):
    """Queries a second, log-linear between the values around; the fastest point if all exceed it; None if none reaches it."""
    points = sorted((point["recall"], -point["qps"]) for point in curve)
    points = [(recall_, -qps) for recall_, qps in points]
    for place, (r1, q1) in enumerate(points):
        if r1 >= recall:
            if place == 0:
                return q1
            r0, q0 = points[place - 1]
            return math.exp(math.log(q0) + (math.log(q1) - math.log(q0)) * (recall - r0) / (r1 - r0))
    return None


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def number(value, digits=0):
    return "never" if value is None else f"{value:,.{digits}f}"


def markdown(results):
    points, libraries, machine = results["points"], results["libraries"], results["machine"]
    features = ", ".join(name for name in ("avx2", "avx512", "vnni") if machine[name])
    text = (f"# {results['data']}: {points:,} x {results['dim']}, {results['distance']}, recall@{results['k']}\n\n"
            f"{machine['cpu']}, {machine['cores']} cores ({features}); load average {results['load_average_before'][0]} before, "
            f"{results['load_average_after'][0]} after; {results['queries']} queries, one search thread, median of {results['rounds']} "
            f"alternated rounds, quartiles in brackets at the parameter nearest to .95.\n\n")
    rates = {name: [at_recall(about["curve"], recall) for recall in RECALLS] for name, about in libraries.items()}
    ours = rates.get(OURS)
    rows = []
    for name, about in libraries.items():
        nearest = min(about["curve"], key=lambda point: abs(point["recall"] - 0.95))
        ratios = [number(mine / theirs, 2) if ours and mine and theirs else "-" for mine, theirs in zip(ours or [None] * 2, rates[name])]
        rows.append([f"{name} {about['version']}", number(rates[name][0]), number(rates[name][1]),
                     f"{number(nearest['qps'])} [{number(nearest['qps_q1'])}-{number(nearest['qps_q3'])}]", *ratios])
    text += table(["library", "q/s at .95", "q/s at .99", "near .95 [quartiles]", "ours ÷ it, .95", ".99"], rows) + "\n"
    groups = {"f32": [name for name, about in libraries.items() if name != OURS and not about["quantised"]],
              "of all": [name for name in libraries if name != OURS]}
    for group, names in groups.items():
        for place, recall in enumerate(RECALLS):
            best = max(((rates[name][place], name) for name in names if rates[name][place]), default=None)
            if best and ours and ours[place]:
                text += f"- best peer ({group}) at {recall}: {best[1]}; ours ÷ it = **{ours[place] / best[0]:.2f}**\n"
    text += "\n"
    rows = []
    for name, about in libraries.items():
        per_point = {kind: value / points for kind, value in about["resident_open"].items()}
        rows.append([name, number(about["points_per_second"]), number(about.get("points_per_second_index_alone")) if name == OURS else "-",
                     number(per_point["anonymous"]), number(per_point["file"]), number(about["file_bytes"] / points), number(about["first_answer_ms"], 1)])
    text += table(["library", "built, points/s (2 threads)", "without writing", "resident B/point, own", "mapped", "file B/point",
                   "open to first answer, ms"], rows) + "\n"
    if results.get("filters"):
        rows = [[row["kind"], f"{row['pass']:.1%}", row["library"], f"{row['recall']:.3f}", number(row["us"])] for row in results["filters"]]
        text += table(["filter", "passes", "library", "recall", "µs a query"], rows) + "\n"
    for name, reason in results["left_out"].items():
        text += f"- {name} was left out: {reason}\n"
    return text


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 520, 80, 210, 40, 60


def svg(results):
    """Recall to the right, stretched towards 1, and queries a second upwards, logarithmic."""
    curves = {name: sorted((point["recall"], point["qps"]) for point in about["curve"]) for name, about in results["libraries"].items()}
    rates = [qps for curve in curves.values() for _, qps in curve]
    low, high = math.log10(min(rates)) - 0.05, math.log10(max(rates)) + 0.05
    least, most = -math.log10(1 - 0.7), 4.0

    def x(recall):
        # Each nine takes the same room.
        return LEFT + (min(max(-math.log10(max(1 - recall, 1e-9)), least), most) - least) / (most - least) * (WIDTH - LEFT - RIGHT)

    def y(qps):
        return HEIGHT - BOTTOM - (math.log10(qps) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
             f'<text x="{LEFT}" y="24" font-size="15">{results["data"]}: {results["points"]:,} × {results["dim"]}, one thread</text>']
    for recall in (0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999):
        parts.append(f'<line x1="{x(recall):.1f}" x2="{x(recall):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#e6e6e6"/>')
        parts.append(f'<text x="{x(recall):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{recall:g}</text>')
    for power in range(math.floor(low), math.ceil(high) + 1):
        for digit in (1, 2, 5):
            qps = digit * 10**power
            if low <= math.log10(qps) <= high:
                parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(qps):.1f}" y2="{y(qps):.1f}" stroke="#e6e6e6"/>')
                parts.append(f'<text x="{LEFT - 8}" y="{y(qps) + 4:.1f}" text-anchor="end">{qps:,g}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 16}" text-anchor="middle">recall@{results["k"]}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="18" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 18 {middle:.0f})">queries per second</text>')
    for place, (name, curve) in enumerate(sorted(curves.items(), key=lambda item: item[0] != OURS)):
        colour = COLOURS[place % len(COLOURS)]
        line = " ".join(f"{x(recall):.1f},{y(qps):.1f}" for recall, qps in curve)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="{3 if name == OURS else 1.6}"/>')
        parts += [f'<circle cx="{x(recall):.1f}" cy="{y(qps):.1f}" r="3" fill="{colour}"/>' for recall, qps in curve]
        height = TOP + 14 + 20 * place
        parts.append(f'<line x1="{WIDTH - RIGHT + 16}" x2="{WIDTH - RIGHT + 40}" y1="{height}" y2="{height}" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 46}" y="{height + 4}">{name}</text>')
    return "\n".join(parts + ["</svg>", ""])


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    path = Path(sys.argv[1])
    results = json.loads(path.read_text())
    path.with_suffix(".md").write_text(markdown(results))
    path.with_suffix(".svg").write_text(svg(results))


if __name__ == "__main__":
    main()
