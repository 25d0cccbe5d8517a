"""Rooflines as SVG: how near each measured rate comes to what memory and arithmetic of the machine allow (Williams, Waterman, Patterson 2009).

x: multiply-adds and adds per byte of weights read, logarithmic; y: GFLOP/s, logarithmic. One picture for each model and thread count.
"""
import html
import math

import figure

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 720, 380, 60, 40, 50
COLOURS = {"Trackside": "#c2410c", "llama-server": "#1d4ed8", "llama-bench": "#047857"}
SHAPES = {"decode": "●", "prefill": "■", "together": "▲"}


def svg(title, read_gb_s, gflop_s, points):
    """points: [(side, test, FLOP per byte, GFLOP/s)]"""
    xs, ys = [p[2] for p in points] + [0.5, 2 * gflop_s / read_gb_s], [p[3] for p in points] + [gflop_s * 1.5, read_gb_s / 2]
    x0, x1, y0, y1 = math.log10(min(xs)), math.log10(max(xs) * 1.5), math.log10(min(ys)), math.log10(max(ys))

    def at(x, y):
        return (LEFT + (math.log10(x) - x0) / (x1 - x0) * (WIDTH - LEFT - 20), HEIGHT - BOTTOM - (math.log10(y) - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM))

    def text(x, y, words, more=""):
        return f'<text x="{x:.0f}" y="{y:.0f}" {more}>{html.escape(words)}</text>'
    ridge = gflop_s / read_gb_s
    roof = [at(10 ** x0, 10 ** x0 * read_gb_s), at(ridge, gflop_s), at(10 ** x1, gflop_s)]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', text(LEFT, 20, title, 'font-size="14"'),
             f'<polyline fill="none" stroke="#444" stroke-width="2" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in roof)}"/>',
             text(roof[0][0] + 60, roof[0][1] - 50, f"memory: {read_gb_s:.1f} GB/s"), text(roof[1][0] + 10, roof[1][1] - 6, f"f32 multiply-adds: {gflop_s:.0f} GFLOP/s"),
             f'<line x1="{LEFT}" y1="{HEIGHT - BOTTOM}" x2="{WIDTH - 20}" y2="{HEIGHT - BOTTOM}" stroke="#444"/>',
             f'<line x1="{LEFT}" y1="{TOP}" x2="{LEFT}" y2="{HEIGHT - BOTTOM}" stroke="#444"/>']
    for power in range(math.ceil(x0), math.floor(x1) + 1):
        parts.append(text(at(10 ** power, 10 ** y0)[0], HEIGHT - BOTTOM + 16, f"{10.0 ** power:g}", 'text-anchor="middle"'))
    for power in range(math.ceil(y0), math.floor(y1) + 1):
        parts.append(text(LEFT - 6, at(10 ** x0, 10 ** power)[1] + 4, f"{10.0 ** power:g}", 'text-anchor="end"'))
    parts += [text(WIDTH / 2, HEIGHT - 14, "FLOP per byte of weights", 'text-anchor="middle"'), text(4, TOP - 6, "GFLOP/s")]
    for side, test, x, y in points:
        px, py = at(x, y)
        parts.append(f'<text x="{px:.1f}" y="{py + 5:.1f}" text-anchor="middle" font-size="15" fill="{COLOURS.get(side, "#666")}"><title>{html.escape(side)}, {test}: {y:.1f} GFLOP/s</title>{SHAPES.get(test, "◆")}</text>')
    for i, (side, colour) in enumerate(COLOURS.items()):
        parts.append(text(WIDTH - 130, HEIGHT - BOTTOM - 60 + 16 * i, side, f'fill="{colour}"'))
    parts.append(text(WIDTH - 290, HEIGHT - BOTTOM - 12, "● decode  ■ prefill of 512  ▲ 16 requests"))
    return "\n".join([*parts, "</svg>", ""])


def write_all(figures):
    """One picture for each model and thread count that has a decode figure."""
    charts = {}
    for one in figures.values():
        if one.roof and not one.name.endswith("-hog"):
            charts.setdefault((one.roof["model"], one.roof["threads"]), []).append(one)
    for (model, threads), members in charts.items():
        limit = next((one.roof for one in members if one.roof.get("read_gb_s")), None)
        if not limit or not limit.get("f32_gflop_s"):
            continue
        points = []
        for one in members:
            roof = one.roof
            for name, side in one.sides.items():
                rate = figure.quartiles(side["samples"])[1]
                points.append((name, roof["test"], roof["rows"] * roof["flop_per_token"] / roof["bytes_per_step"], roof["flop_per_token"] * rate / 1e9))
        title = f"{model}, {threads} thread{'s' if threads > 1 else ''}"
        (figure.FOLDER / f"roof-{model}-{threads}t.svg").write_text(svg(title, limit["read_gb_s"], limit["f32_gflop_s"], points), encoding="utf-8")
