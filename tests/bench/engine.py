"""The engine beside llama.cpp: same GGUF, same threads, one run, alternated. `tests/bench/run.sh` runs the rows; its --list names them.

Each round takes one sample of every side in turning order; a ratio is Trackside's rate over the best peer's of that round. The peer is what
tests/bench/llama.sh builds (or LLAMA=folder), Trackside is target/release/trackside (or TRACKSIDE=path). All prompts are token ids drawn from
a seed, new in each round, so that no cache helps anybody and nobody's tokenizer counts.
"""
import contextlib
import dataclasses
import fcntl
import json
import os
import random
import subprocess
import time

import figure
import flame
import llama
import machine
import model
import ours

ROOT = figure.ROOT


@dataclasses.dataclass(frozen=True)
class Model:
    what: str
    path: object
    decode_tokens: int
    together: tuple  # prompt tokens, answer tokens
    seconds: dict  # of a row of one thread, about, on two cores of an EPYC


def smollm2():
    return subprocess.run([ROOT / "tests/real/fetch-smollm2.sh"], check=True, capture_output=True, text=True).stdout.strip()


MODELS = {
    "smollm2": Model("SmolLM2 135M Q4_1", smollm2, 128, (64, 64), {"decode": 60, "prefill": 110, "together": 240}),
    # What a minute of one core does with a thousand million weights is little: few tokens, many rounds.
    "1b": Model("1B random Q8_0", lambda: model.made("1b-q8_0"), 24, (16, 16), {"decode": 130, "prefill": 350, "together": 440}),
    "small4k": Model("170M random Q4_K", lambda: model.made("small-q4_k"), 64, (64, 32), {"decode": 60, "prefill": 110, "together": 240}),
}
DECODE_PROMPT, PREFILL_PROMPT, WARM_PROMPT, ROWS = 24, 512, 32, 16


@dataclasses.dataclass(frozen=True)
class Row:
    model: str
    test: str  # decode, prefill or together: a method of every side
    threads: int
    hog: bool

    @property
    def name(self):
        return f"{self.model}-{self.test}-{self.threads}t" + ("-hog" if self.hog else "")

    @property
    def figures(self):
        """Names of what it shows besides itself."""
        bandwidth = [f"{self.model}-bandwidth-{self.threads}t"] if self.test == "decode" and not self.hog else []
        return [self.name, *bandwidth, *([f"{self.name}-kept"] if self.hog else [])]

    @property
    def seconds(self):
        return MODELS[self.model].seconds[self.test] / self.threads * (1.5 if self.hog else 1)

    @property
    def share(self):
        """A peer that spins falls far behind a hog: its samples are shorter by this factor."""
        return (3 if self.model == "1b" and self.test == "decode" else 4) if self.hog else 1

    def what(self):
        tests = {"decode": "decode at batch 1", "prefill": f"prefill of {PREFILL_PROMPT // self.share}", "together": f"{ROWS} requests at once"}
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{MODELS[self.model].what}: {tests[self.test]}, {threads}" + (", with a hog" if self.hog else "")


def rows():
    most = os.cpu_count()
    for name in ["smollm2", "1b"]:
        for threads in sorted({1, most}):
            yield Row(name, "decode", threads, False)
            yield Row(name, "prefill", threads, False)
        yield Row(name, "together", most, False)
        for test in ["decode", "prefill", "together"]:
            yield Row(name, test, most, True)
    for test in ["decode", "prefill"]:
        yield Row("small4k", test, most, False)


BARS = {"decode": "≥ 1.0", "prefill": "≥ 0.9", "together": "≥ 1.3"}


@contextlib.contextmanager
def holding(files):
    with contextlib.ExitStack() as stack:
        for path in files:
            file = stack.enter_context(open(path, "a"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    if files:
        # Whoever waits for the locks by trying now and then shall find them free.
        time.sleep(1)


def prompt(row, tokens, *seed):
    """Ordinary tokens of any of the models' vocabularies, the same for every side."""
    draw = random.Random(f"{row.name} {seed}")
    return [draw.randrange(300, 900) for _ in range(tokens)]


def warm(row, side):
    """One small sample of a side that stays: pages are mapped, threads are there."""
    if side.pid:
        side.prefill(prompt(row, WARM_PROMPT, "warm"))


def sample(row, side, round_, share=None):
    """(rate, processor seconds per token or None)"""
    spec = MODELS[row.model]
    share = share or row.share
    before = machine.cpu_s(side.pid) if side.pid else None
    if row.test == "decode":
        made = spec.decode_tokens // share
        rate = side.decode(prompt(row, DECODE_PROMPT, round_), made)
    elif row.test == "prefill":
        made = PREFILL_PROMPT // share
        rate = side.prefill(prompt(row, made, round_))
    else:
        length, tokens = spec.together
        made = ROWS * (tokens // share)
        rate = side.together([prompt(row, length, round_, i) for i in range(ROWS)], tokens // share)
    return rate, None if before is None else (machine.cpu_s(side.pid) - before) / made


def probe(threads):
    """What memory and arithmetic of this machine give now: {read_gb_s, f32_gflop_s}."""
    binary = ROOT / "target/release/examples/bandwidth"
    if not binary.exists():
        raise RuntimeError(f"no {binary}: cargo build --release -p engine-cpu --example bandwidth")
    said = subprocess.run([binary, "--threads", str(threads), "--repeats", "1", "--mib", "1024"], check=True, capture_output=True, text=True)
    return json.loads(said.stdout)


def weights(path):
    """(bytes of weights that a step reads, multiply-adds of a token times two); an embedding that is not the head is looked up, not read."""
    import gguf
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    if "output.weight" in tensors:
        tensors.pop("token_embd.weight")
    return sum(int(t.n_bytes) for t in tensors.values()), 2 * sum(int(t.n_elements) for t in tensors.values())


def peers(row, stack, path, rounds_hold):
    """The peer's programs that can run this row, each at its best."""
    if row.model == "1b" and (row.test == "prefill" or row.hog):
        # `llama-bench` loads the file and warms up for every sample; a minute for each tells nothing that the server does not.
        return [llama.Server(stack, path, row.threads)]
    if row.test != "together":
        return [llama.Server(stack, path, row.threads), llama.Bench(stack, path, row.threads)]
    best = None
    for threads in range(1, os.cpu_count() + 1):
        with contextlib.ExitStack() as trial, holding(rounds_hold), machine.hog() if row.hog else contextlib.nullcontext():
            side = llama.Server(trial, path, threads, ROWS)
            warm(row, side)
            rate, _ = sample(row, side, f"trial {threads}", 2 * row.share)
        print(f"  llama-server with {threads} threads: {rate:.1f} tok/s", flush=True)
        best = max(best or (0, 0), (rate, threads))
    return [llama.Server(stack, path, best[1], ROWS)]


def measure(row, given, tick):
    """Yields the row's figures; `tick(share)` says how much of it is done."""
    path = str(MODELS[row.model].path())
    bytes_per_step, flop_per_token = weights(path)
    with contextlib.ExitStack() as stack:
        mine = ours.Ours(stack, path, row.threads, ROWS if row.test == "together" else 1)
        theirs = peers(row, stack, path, given.hold)
        sides = [mine, *theirs]
        for side in sides:
            warm(row, side)
        steal = machine.Steal()
        rates, cpu, quiet, probes = {side.name: [] for side in sides}, {side.name: [] for side in sides}, [], []
        for round_ in range(given.rounds):
            with holding(given.hold):
                if row.hog:
                    quiet.append(sample(row, mine, f"quiet {round_}")[0])
                elif row.test == "decode":
                    probes.append(probe(row.threads))
                with machine.hog() if row.hog else contextlib.nullcontext():
                    for side in sides[round_ % len(sides):] + sides[:round_ % len(sides)]:
                        rate, per_token = sample(row, side, round_)
                        rates[side.name].append(rate)
                        cpu[side.name] += [per_token] if per_token is not None else []
            tick((round_ + 1) / given.rounds)
        steal = steal.share()
        if not given.no_flame and not row.hog:
            out = (figure.FOLDER if given.write else figure.KEPT) / f"{row.name}.svg"
            out.parent.mkdir(parents=True, exist_ok=True)
            with flame.recorded(mine.pid, out):
                sample(row, mine, "flame")
        flags = [f"{side.name}: `{' '.join(map(str, side.flags))}`" for side in sides]
    more = {name: f", {figure.quartiles(seconds)[1] * 1e3:.2f} ms of CPU a token" if seconds else "" for name, seconds in cpu.items()}
    best = [max(rates[side.name][i] for side in theirs) for i in range(given.rounds)]
    common = {"group": "engine", "cpu": machine.cpu(), "steal": steal}
    roof = {"model": row.model, "test": row.test, "threads": row.threads, "rows": {"decode": 1, "prefill": PREFILL_PROMPT, "together": ROWS}[row.test],
            "bytes_per_step": bytes_per_step, "flop_per_token": flop_per_token}
    if probes:
        roof |= {"read_gb_s": figure.quartiles([p["read_gb_s"] for p in probes])[1], "f32_gflop_s": figure.quartiles([p["f32_gflop_s"] or 0 for p in probes])[1]}
    yield figure.Figure(row.name, what=row.what(), unit="×", bar=BARS[row.test] if not row.hog else "reported",
                        samples=[a / b for a, b in zip(rates[mine.name], best)], notes=[llama.version(), *flags], roof=roof,
                        sides={name: {"unit": "tok/s", "samples": samples, "more": more[name]} for name, samples in rates.items()}, **common)
    if row.hog:
        kept = [a / b for a, b in zip(rates[mine.name], quiet)]
        yield figure.Figure(f"{row.name}-kept", what=f"{row.what()}: share of its quiet speed", unit="×", bar="≥ 0.6" if row.test == "decode" else "reported", samples=kept,
                            sides={"quiet": {"unit": "tok/s", "samples": quiet}, "with the hog": {"unit": "tok/s", "samples": rates[mine.name]}}, **common)
    if probes:
        read = [p["read_gb_s"] for p in probes]
        sides = {"memory reads": {"unit": "GB/s", "samples": read}}
        for name, samples in rates.items():
            share = [bytes_per_step * rate / 1e9 / limit * 100 for rate, limit in zip(samples, read)]
            sides[name] = {"unit": "%", "samples": share}
        yield figure.Figure(f"{row.model}-bandwidth-{row.threads}t", what=f"{row.what()}: share of the machine's read bandwidth", unit="%",
                            bar="≥ 85" if row.model == "1b" else "reported", samples=sides[mine.name]["samples"], sides=sides,
                            notes=[f"{MODELS[row.model].what} reads {bytes_per_step / 1e6:.0f} MB of weights for a token"], **common)
