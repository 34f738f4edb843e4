"""The pictures of the report, as SVG without any library: curves of speed, of filters, bars of opening."""

import math

COLOURS = ["#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#ff7f0e", "#7f7f7f", "#393b79", "#637939"]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 520, 80, 250, 40, 60


class Plot:
    """Axes, lines and a legend. `x` and `y` turn values into places; y is logarithmic."""

    def __init__(self, title, x, x_marks, x_name, values, y_name):
        self.x = lambda value: LEFT + x(value) * (WIDTH - LEFT - RIGHT)
        self.low, self.high = math.log10(min(values)) - 0.05, math.log10(max(values)) + 0.05
        self.legend = 0
        self.parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
                      f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', f'<text x="{LEFT}" y="24" font-size="15">{title}</text>']
        for value, name in x_marks:
            self.parts.append(f'<line x1="{self.x(value):.1f}" x2="{self.x(value):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#e6e6e6"/>')
            self.parts.append(f'<text x="{self.x(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{name}</text>')
        for power in range(math.floor(self.low), math.ceil(self.high) + 1):
            for digit in (1, 2, 5):
                value = digit * 10.0**power
                if self.low <= math.log10(value) <= self.high:
                    self.parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{self.y(value):.1f}" y2="{self.y(value):.1f}" stroke="#e6e6e6"/>')
                    self.parts.append(f'<text x="{LEFT - 8}" y="{self.y(value) + 4:.1f}" text-anchor="end">{value:,g}</text>')
        self.parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 16}" text-anchor="middle">{x_name}</text>')
        middle = (TOP + HEIGHT - BOTTOM) / 2
        self.parts.append(f'<text x="18" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 18 {middle:.0f})">{y_name}</text>')

    def y(self, value):
        return HEIGHT - BOTTOM - (math.log10(value) - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def line(self, name, points, colour, width=1.6, dashes=""):
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}/>')
        self.parts += [f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="3" fill="{colour}"/>' for x, y in points]
        height = TOP + 14 + 20 * self.legend
        self.legend += 1
        self.parts.append(f'<line x1="{WIDTH - RIGHT + 16}" x2="{WIDTH - RIGHT + 40}" y1="{height}" y2="{height}" stroke="{colour}" stroke-width="3"{dashed}/>')
        self.parts.append(f'<text x="{WIDTH - RIGHT + 46}" y="{height + 4}">{name}</text>')

    def svg(self):
        return "\n".join(self.parts + ["</svg>", ""])


def titled(results, what):
    return f"{results['data']}: {results['points']:,} × {results['dim']}, {what}"


def curves(results):
    """Recall to the right, each nine taking the same room, and queries a second upwards."""
    found = {name: sorted((point["recall"], point["qps"]) for point in about["curve"]) for name, about in results["libraries"].items()}
    least, most = -math.log10(1 - 0.7), 4.0
    x = lambda recall: (min(max(-math.log10(max(1 - recall, 1e-9)), least), most) - least) / (most - least)
    marks = [(recall, f"{recall:g}") for recall in (0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999)]
    kernel = f", {results['kernel']}" if results.get("kernel") else ""
    weight = lambda about: about["resident"]["anonymous"] / results["points"]
    of = lambda name, about: f"{name} ({weight(about):,.0f} B/point)" if results["part"] == "memory" else name
    plot = Plot(titled(results, f"one thread{kernel}"), x, marks, f"recall@{results['k']}", [qps for curve in found.values() for _, qps in curve], "queries per second")
    order = sorted(found, key=lambda name: not name.startswith("moco-index"))
    for colour, name in zip(COLOURS, order):
        plot.line(of(name, results["libraries"][name]), found[name], colour, 3 if name == "moco-index" else 1.6)
    return plot.svg()


def filters(results):
    """p99 against the share that passes, of each kind of filter, and the bound."""
    cells = [cell for cell in results["cells"] if "ours" in cell] or results["cells"]
    shares = sorted({cell["share"] for cell in cells})
    low, high = math.log10(shares[0]), math.log10(shares[-1])
    x = lambda share: (math.log10(share) - low) / max(high - low, 1e-9)
    lines = {}
    for cell in sorted(cells, key=lambda cell: cell["share"]):
        kind = f"{cell['kind']}, {cell['clauses']} clause{'s' if cell['clauses'] > 1 else ''}"
        if "ours" in cell:
            lines.setdefault(f"ours, {kind}", []).append((cell["share"], cell["ours"]["p99_us"]))
            lines.setdefault(f"bound, {kind}", []).append((cell["share"], cell["bound_us"]))
        if "faiss" in cell:
            lines.setdefault(f"faiss, {kind}", []).append((cell["share"], cell["faiss"]["p99_us"]))
    # One clause at random stands for the bounds and for faiss: twelve more lines would hide the six that matter.
    shown = {name: points for name, points in lines.items() if name.startswith("ours") or name.endswith("random, 1 clause")}
    marks = [(share, f"{share * 100:g} %") for share in shares]
    plot = Plot(titled(results, f"filtered, ef {results['ef']}"), x, marks, "rows that pass", [y for points in shown.values() for _, y in points], "p99, µs")
    for colour, (name, points) in zip(COLOURS, shown.items()):
        plot.line(name, points, colour, dashes="" if name.startswith("ours") else "6 4")
    return plot.svg()


def bars(results):
    """p99 of the first queries on a cold cache and time to the first answer, a pair of bars a row."""
    rows = [one for one in results["openings"]]
    figures = [("first_answer_ms", "to the first answer, ms", COLOURS[1]), ("p99_us", "p99 of the queries, µs", COLOURS[0])]
    height = 70 + 44 * len(rows)
    values = [max(row[figure], 1e-3) for row in rows for figure, _, _ in figures]
    low, high = math.floor(math.log10(min(values))), math.log10(max(values)) + 0.2
    wide = lambda value: (math.log10(max(value, 1e-3)) - low) / (high - low) * 520
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{height}" fill="white"/>', f'<text x="20" y="24" font-size="15">{titled(results, "opening (logarithmic)")}</text>']
    for place, (_, name, colour) in enumerate(figures):
        parts.append(f'<rect x="{20 + 220 * place}" y="34" width="14" height="12" fill="{colour}"/><text x="{40 + 220 * place}" y="45">{name}</text>')
    for place, row in enumerate(rows):
        top = 60 + 44 * place
        parts.append(f'<text x="220" y="{top + 22}" text-anchor="end">{row["cache"]}: {row["row"]}</text>')
        for line, (figure, _, colour) in enumerate(figures):
            parts.append(f'<rect x="230" y="{top + 2 + 17 * line}" width="{wide(row[figure]):.1f}" height="15" fill="{colour}"/>')
            parts.append(f'<text x="{236 + wide(row[figure]):.1f}" y="{top + 14 + 17 * line}">{row[figure]:,.1f}</text>')
    return "\n".join(parts + ["</svg>", ""])
