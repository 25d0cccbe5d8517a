"""A flame graph of a running process (Gregg 2011): `perf record`, stacks folded, one SVG. Width is time on the processor.

    python3 tests/bench/flame.py PID SECONDS OUT.svg
"""
import collections
import contextlib
import html
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

WIDTH, ROW = 1200, 15
# What is narrower than this share of the whole is left out.
SHARE_MIN = 0.004
FREQUENCY_HZ = 499


@contextlib.contextmanager
def recorded(pid, out):
    """Records the process while the block runs, and writes the picture at its end. Without perf: nothing, and says so."""
    if not shutil.which("perf"):
        print("no flame graph: perf is not installed (Debian: apt-get install linux-perf)", file=sys.stderr)
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "perf.data"
        command = ["perf", "record", "--quiet", "-F", str(FREQUENCY_HZ), "-e", "cpu-clock:u", "--call-graph", "dwarf,4096", "-p", str(pid), "-o", data]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            process.terminate()
            process.wait()
        stacks = folded(data)
        if stacks:
            pathlib.Path(out).write_text(svg(stacks, pathlib.Path(out).stem), encoding="utf-8")


def folded(data):
    """Samples of each stack, outermost frame first."""
    said = subprocess.run(["perf", "script", "--no-inline", "-F", "comm,ip,sym", "-i", data], capture_output=True, text=True, errors="replace").stdout
    stacks = collections.Counter()
    for sample in said.split("\n\n"):
        lines = [line for line in sample.splitlines() if line.strip()]
        if not lines:
            continue
        frames = [short(line.strip().partition(" ")[2] or "?") for line in lines[1:]]
        stacks[(lines[0].strip(), *reversed(frames))] += 1
    return stacks


def short(symbol):
    """A Rust symbol without hash, generic arguments and the way to it: the last two parts of its path."""
    symbol = re.sub(r"::h[0-9a-f]{16}$|\[[0-9a-f]{16}\]", "", symbol)
    while (plain := re.sub(r"<[^<>]*>", "", symbol)) != symbol:
        symbol = plain
    return "::".join(part for part in symbol.split("::") if part)[-60:]


def svg(stacks, title):
    total = sum(stacks.values())
    tree = {}
    for stack, count in stacks.items():
        level = tree
        for name in stack:
            node = level.setdefault(name, [0, {}])
            node[0] += count
            level = node[1]

    def depth(level):
        return max((1 + depth(node[1]) for node in level.values() if node[0] / total >= SHARE_MIN), default=0)
    height = (depth(tree) + 2) * ROW + 10
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="10">',
             f'<rect width="{WIDTH}" height="{height}" fill="white"/>', f'<text x="4" y="12" font-size="12">{html.escape(title)}: {total} samples</text>']

    def draw(level, x, row):
        for name, (count, below) in sorted(level.items()):
            width = count / total * WIDTH
            if count / total >= SHARE_MIN:
                y = height - (row + 1) * ROW - 4
                hue = sum(name.encode()) % 40
                fits = int(width / 6.2)
                label = html.escape(name if len(name) <= fits else name[-fits:]) if fits > 3 else ""
                parts.append(f'<g><title>{html.escape(name)} {count / total:.1%}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}" '
                             f'fill="hsl({hue + 10},80%,65%)"/>' + (f'<text x="{x + 2:.1f}" y="{y + 10}">{label}</text>' if label else "") + "</g>")
                draw(below, x, row + 1)
            x += width
    draw(tree, 0, 0)
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    import time
    with recorded(int(sys.argv[1]), sys.argv[3]):
        time.sleep(float(sys.argv[2]))
