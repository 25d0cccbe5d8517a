"""Writes docs/benchmarks.md and the last column of docs/SPECIFICATION.md from docs/figures/. By itself: python3 tests/bench/page.py

    page.py                      writes both
    page.py --check              says what is not as it would be written, and changes nothing
    page.py --store NAME GROUP   first takes a figure of `bench … --json` on stdin into docs/figures/NAME.json

A cell of the specification that begins with `<!-- figures: NAME ... -->` belongs to those figures; all others are left as they are.
"""
import json
import re
import sys

import figure
import roofline

PAGE = figure.ROOT / "docs/benchmarks.md"
SPECIFICATION = figure.ROOT / "docs/SPECIFICATION.md"
GROUPS = {
    "engine": ("The engine beside llama.cpp", "Same GGUF, same threads, one run. A ratio is the median of the ratios of alternated pairs, Trackside's rate over the faster of "
               "the peer's programs in the same round; quartiles in brackets. Trackside is measured by its client over HTTP (decode: first token to last; prefill: "
               "sending to first token; 16 requests: sending to last answer), `llama-server` by its own timings (16 requests: as Trackside), `llama-bench` in process. "
               "“With a hog”: one busy thread of another process on the same cores."),
    "quality": ("What quantised arithmetic costs", "Mean KL divergence of the next token's distribution from that of the same weights dequantised to f32, over a fixed text."),
    "load": ("Under load", ""),
    "fleet": ("Scheduler, gateway, agent", ""),
}
MARK = re.compile(r"<!-- figures: ([\w\-. ]+) -->")


def page(figures):
    lines = ["# Benchmarks", "", "Written by `tests/bench/run.sh` from `docs/figures/`; do not edit. "
             "Bars are those of [SPECIFICATION.md](SPECIFICATION.md).", ""]
    for group, (title, method) in GROUPS.items():
        mine = sorted((one for one in figures.values() if one.group == group), key=order)
        if not mine:
            continue
        lines += [f"## {title}", ""]
        if method:
            lines += [method, ""]
        cpus = {one.cpu for one in mine}
        if len(cpus) == 1:
            lines += [f"On {cpus.pop()}.", ""]
        lines += ["| what | figure | bar | beside | seen |", "|---|---|---|---|---|"]
        for one in mine:
            seen = one.seen() + (f", {one.cpu}" if cpus else "")
            lines.append(f"| {one.what} | {figure.shown(one.samples, one.unit)} | {one.bar} | {one.beside()} | {seen} |")
        lines.append("")
        notes = {}
        for one in mine:
            for note in one.notes:
                notes.setdefault(note, []).append(one.name)
        lines += [f"* {note}" + (f" ({', '.join(names)})" if len(names) < len(mine) else "") for note, names in notes.items()]
        pictures = [path for one in mine for path in [figure.FOLDER / f"{one.name}.svg"] if path.exists()]
        roofs = sorted(figure.FOLDER.glob("roof-*.svg")) if group == "engine" else []
        if roofs:
            lines += ["", "Rooflines: " + ", ".join(f"[{path.stem.removeprefix('roof-')}](figures/{path.name})" for path in roofs) + "."]
        if pictures:
            lines += ["", "Flame graphs of Trackside during one more sample: " + ", ".join(f"[{path.stem}](figures/{path.name})" for path in pictures) + "."]
        lines.append("")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def order(one):
    """Tables read by model, then by test; names carry both."""
    tests = ["decode", "bandwidth", "prefill", "together"]
    test = next((i for i, word in enumerate(tests) if word in one.name), len(tests))
    return one.name.split("-")[0], test, one.name


def specification(text, figures):
    def cell(match):
        names = match.group(1).split()
        known = [figures[name] for name in names if name in figures]
        if not known:
            return match.group(0)
        missing = [name for name in names if name not in figures]
        parts = [(f"{one.what}: " if len(names) > 1 else "") + f"{one.line()} [{one.seen()}]" for one in known]
        parts += [f"{' '.join(missing)}: not yet measured"] if missing else []
        return f"{MARK.search(match.group(0)).group(0)} {'; '.join(parts)} |"
    return re.sub(MARK.pattern + r"[^|\n]*\|", cell, text)


def told(name, group, text):
    """A figure as the Rust benchmarks print it (`--json`)."""
    given = json.loads(text)
    beside = {label: {"unit": "", "samples": [value]} for label, value in given["beside"].items()}
    return figure.Figure(name=name, group=group, what=given["name"], unit=given["unit"], bar=given["bar"], samples=given["samples"], sides=beside,
                         cpu=f"{given['cpu']}, {given['cores']} cores", steal=given["steal"])


def main(arguments):
    if arguments[:1] == ["--store"]:
        told(*arguments[1:3], sys.stdin.read()).write()
    check = arguments[:1] == ["--check"]
    figures = figure.everything()
    if not check:
        roofline.write_all(figures)
    stale = []
    for path, text in [(PAGE, page(figures)), (SPECIFICATION, specification(SPECIFICATION.read_text(encoding="utf-8"), figures))]:
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if not check:
                path.write_text(text, encoding="utf-8")
    if check and stale:
        sys.exit(f"{', '.join(stale)}: not as docs/figures/ says; run python3 tests/bench/page.py")


if __name__ == "__main__":
    main(sys.argv[1:])
