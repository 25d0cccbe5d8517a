"""All benchmarks, row by row, with a progress bar. tests/bench/run.sh makes the environment and runs this.

    tests/bench/run.sh                                  everything that this commit has not measured yet: about 45 minutes on two cores
    tests/bench/run.sh --only '1b-*' --skip '*-hog'     rows by name or pattern; a figure's name means the row that shows it

    --list         names the rows, what each takes and what it has shown
    --again        measures rows anew that this commit has measured (an interrupted run otherwise goes on where it was)
    --no-write     keeps figures in target/bench/ only; otherwise docs/figures/, docs/benchmarks.md and docs/SPECIFICATION.md are written
    --rounds N     alternated rounds of a row beside llama.cpp, at least 7
    --hold FILE    hold an exclusive lock (flock) on FILE during each round: for machines that others use, who lock it too
    --no-flame     no flame graphs
    --no-build     what is in target/release/ is what is measured

A row that fails is told and does not keep the others from running; the exit status is 1 then.
"""
import argparse
import dataclasses
import fnmatch
import functools
import json
import os
import pathlib
import subprocess
import sys
import time

import engine
import figure
import ledger
import llama
import memory
import page
import quality

# One set for all: what is built apart is built with other features of what it shares.
PRODUCT = ("--package", "trackside", "--bin", "trackside", "--package", "engine-cpu", "--example", "bandwidth", "--example", "divergence")
SECONDS = figure.KEPT / "seconds.json"
BAR_WIDTH = 30


@dataclasses.dataclass(frozen=True)
class Row:
    name: str
    figures: tuple
    seconds: float
    packages: tuple  # what cargo builds for it
    run: object  # (given, tick) -> figures
    llama: bool = False


def fleet(name, given, tick):
    said = subprocess.run([figure.ROOT / "target/release/bench", name, "--json"], check=True, capture_output=True, text=True).stdout
    yield page.told(name, "fleet", said)


def rows():
    for row in engine.rows():
        yield Row(row.name, tuple(row.figures), row.seconds, PRODUCT, functools.partial(engine.measure, row), llama=True)
    for name in quality.MODELS:
        yield Row(f"{name}-divergence", (f"{name}-divergence",), 150, PRODUCT, functools.partial(quality.measure, name), llama=True)
    yield Row("ledger", ("ledger",), 90, PRODUCT, ledger.measure)
    yield Row("memory", ("memory",), 200, PRODUCT, memory.measure)
    for name, seconds in [("gateway", 120), ("agent", 80), ("up", 20)]:
        yield Row(name, (name,), seconds, ("--package", "tests", "--bins"), functools.partial(fleet, name))


class Progress:
    """One line that is written over where a terminal shows it; seconds are what each row took here last, or a guess."""

    def __init__(self, chosen):
        self.known = json.loads(SECONDS.read_text()) if SECONDS.exists() else {}
        self.left = {row.name: self.known.get(row.name, row.seconds) for row in chosen}
        self.total = sum(self.left.values())
        self.row = None

    def begin(self, row):
        self.row, self.begun = row.name, time.monotonic()
        self.tick(0)

    def tick(self, share):
        left = sum(self.left.values()) - self.left[self.row] * share
        done = 1 - left / self.total
        filled = int(done * BAR_WIDTH)
        line = f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {done:4.0%}, about {left / 60:.0f} min left: {self.row}"
        if sys.stderr.isatty():
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        elif share == 0:
            print(line, file=sys.stderr, flush=True)

    def clear(self):
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def end(self, measured):
        self.clear()
        self.left[self.row] = 0
        if measured:
            self.known[self.row] = round(time.monotonic() - self.begun, 1)
            SECONDS.parent.mkdir(parents=True, exist_ok=True)
            SECONDS.write_text(json.dumps(self.known, indent=1) + "\n")


def build(chosen):
    for packages in dict.fromkeys(row.packages for row in chosen):
        subprocess.run(["cargo", "build", "--release", "--locked", *packages], cwd=figure.ROOT, check=True)
    if any(row.llama for row in chosen):
        llama.folder()


def measured(row):
    """The figures of this row, if this very code has shown them all."""
    paths = [figure.KEPT / f"{name}.json" for name in row.figures]
    found = [figure.read(path) for path in paths if path.exists()]
    return found if len(found) == len(paths) and all(one.commit == figure.commit() for one in found) else None


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--skip", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--hold", type=pathlib.Path, action="append", default=[])
    for flag in ["list", "again", "no-write", "no-flame", "no-build"]:
        parser.add_argument(f"--{flag}", action="store_true")
    given = parser.parse_args()
    given.write = not given.no_write
    if given.write and given.rounds < 7:
        parser.error("a figure that is written down needs at least 7 rounds")

    def matches(row, patterns):
        return any(fnmatch.fnmatch(name, pattern) for name in row.figures for pattern in patterns)
    everything = list(rows())
    for pattern in given.only + given.skip:
        if not any(matches(row, [pattern]) for row in everything):
            parser.error(f"no row {pattern}; there are: {', '.join(row.name for row in everything)}")
    return given, [row for row in everything if matches(row, given.only or ["*"]) and not matches(row, given.skip)]


def main():
    given, chosen = options()
    if given.list:
        known = Progress(chosen).left
        for row in chosen:
            shown = measured(row)
            print(f"{row.name:28} {known[row.name]:5.0f} s  {', '.join(row.figures[1:])}", *[f"    {one.what}: {one.line()}" for one in shown or []], sep="\n")
        return
    todo = [row for row in chosen if given.again or not measured(row)]
    if len(todo) < len(chosen):
        print(f"measured at this commit already (--again measures anew): {', '.join(row.name for row in chosen if row not in todo)}")
    if not given.no_build:
        build(todo)
    progress, failed = Progress(todo), []
    for row in todo:
        progress.begin(row)
        try:
            for one in row.run(given, progress.tick):
                progress.clear()
                print(f"{one.what}: {one.line()} [{one.seen()}]", flush=True)
                one.write(figure.KEPT)
                if given.write:
                    one.write()
            progress.end(True)
        except (AssertionError, RuntimeError, OSError, subprocess.SubprocessError) as error:
            failed.append(row.name)
            for name in row.figures:
                (figure.KEPT / f"{name}.json").unlink(missing_ok=True)
            progress.end(False)
            print(f"{row.name}: FAILED: {error}", flush=True)
        if given.write:
            page.main([])
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    os.environ.setdefault("TRACKSIDE", str(figure.ROOT / "target/release/trackside"))
    main()
