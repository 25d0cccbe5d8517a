"""A figure: what was measured, beside what, where and when; as JSON in docs/figures/, from which the pages are written.

    name     one word with dashes, the file's name
    group    the table of docs/benchmarks.md that it stands in
    what     one line for a person
    samples  what is compared with the bar, in `unit`; a ratio has one sample for each alternated pair
    sides    name -> {unit, samples, more}: what each side showed
    notes    lines: flags, limits
"""
import dataclasses
import datetime
import json
import math
import pathlib
import statistics
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs/figures"
# What this machine has measured, whether it was written down or not.
KEPT = ROOT / "target/bench"
# A side whose quartiles lie further apart than this share of its median is called unsteady.
STEADY = 0.10


def commit():
    """The last commit that touched code of what is measured; `+` where the tree has changes of such beyond it."""
    code = ["*.rs", "*.toml", "Cargo.lock", ":!tests/*", ":!*/tests/*"]

    def git(*arguments):
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *code)
    return git("log", "-1", "--format=%h", "--", *code) + ("+" if changed else "")


def quartiles(samples):
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    return tuple(statistics.quantiles(samples, n=4, method="inclusive"))


def shown(samples, unit=""):
    """The median with its quartiles, as many digits as mean something."""
    low, middle, high = quartiles(samples)
    digits = 0 if abs(middle) >= 100 or not middle else 1 if abs(middle) >= 10 else 2 if abs(middle) >= 1 else 2 - math.floor(math.log10(abs(middle)))
    spread = f" ({low:.{digits}f}–{high:.{digits}f})" if len(samples) > 1 else ""
    return f"{middle:.{digits}f}{' ' + unit if unit else ''}{spread}"


@dataclasses.dataclass
class Figure:
    name: str
    group: str
    what: str
    unit: str
    bar: str
    samples: list
    cpu: str
    steal: float
    sides: dict = dataclasses.field(default_factory=dict)
    notes: list = dataclasses.field(default_factory=list)
    roof: dict | None = None
    commit: str = dataclasses.field(default_factory=commit)
    date: str = dataclasses.field(default_factory=lambda: str(datetime.date.today()))

    def unsteady(self):
        """Names of the sides that varied too much for their comparison to be trusted."""
        def wide(samples):
            low, middle, high = quartiles(samples)
            return middle and (high - low) / abs(middle) > STEADY
        return [name for name, side in self.sides.items() if wide(side["samples"])]

    def beside(self):
        return "; ".join(f"{name} {shown(side['samples'], side['unit'])}{side.get('more', '')}" for name, side in self.sides.items())

    def line(self):
        return f"{shown(self.samples, self.unit)}" + (f": {self.beside()}" if self.sides else "")

    def seen(self):
        return f"{self.commit}, {self.date}, steal {self.steal:.1%}" + (f", unsteady: {', '.join(self.unsteady())}" if self.unsteady() else "")

    def write(self, folder=FOLDER):
        folder.mkdir(parents=True, exist_ok=True)
        rounded = json.loads(json.dumps(dataclasses.asdict(self)), parse_float=lambda text: float(f"{float(text):.5g}"))
        (folder / f"{self.name}.json").write_text(json.dumps(rounded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path):
    return Figure(**json.loads(pathlib.Path(path).read_text(encoding="utf-8")))


def everything(folder=FOLDER):
    return {path.stem: read(path) for path in sorted(folder.glob("*.json"))}
