"""What quantised arithmetic costs: mean KL(f32 ‖ quantised), ours beside llama.cpp's, same GGUF and same text.

    target/bench-venv/bin/python tests/bench/quality.py [MODEL ...] [--write]      MODEL: smollm2, gemma3

Both compare with a run of the same weights dequantised to f32: ours with `--dtype float32` (engine/cpu/examples/divergence.rs), llama.cpp with
an F32 GGUF that this makes of the file (KV cache in f32, too), by its own `llama-perplexity --kl-divergence`. Windows of 512 tokens, of which
the second half counts, on both sides. The text is fixed: the licence, the parity tests' corpus, the built-in model's.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import tempfile

import gguf
import numpy

import figure
import llama
import machine
import page

ROOT = figure.ROOT
MODELS = {"smollm2": ("SmolLM2 135M Q4_1", "tests/real/fetch-smollm2.sh"), "gemma3": ("Gemma 3 270M Q4_K_M", "tests/real/fetch-gemma3.sh")}
TEXT = [ROOT / "LICENSE", ROOT / "tests/parity/corpus.txt", *(ROOT / f"cli/builtin/corpus/{name}.txt" for name in ["stories", "world", "facts"])]
WINDOW = 512


def dequantised(path, dest):
    """The same model with every tensor in f32."""
    reader = gguf.GGUFReader(path)
    architecture = reader.get_field("general.architecture").contents()
    writer = gguf.GGUFWriter(dest, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type", "general.quantization_version"):
            continue
        kind = field.types[0]
        writer.add_key_value(field.name, field.contents(), kind, sub_type=field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, numpy.ascontiguousarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def theirs(path, text, work):
    """{mean, error, p99, same: % of positions with the same most likely token, windows}"""
    base, whole = work / "base.logits", work / "f32.gguf"
    dequantised(path, whole)
    common = [llama.folder() / "llama-perplexity", "-c", str(WINDOW), "-b", str(WINDOW), "-t", str(os.cpu_count()), "--kl-divergence-base", base]
    subprocess.run([*common, "-m", whole, "-f", text, "-ctk", "f32", "-ctv", "f32", "-fa", "off"], check=True, capture_output=True)
    said = subprocess.run([*common, "-m", path, "-f", text, "--kl-divergence"], check=True, capture_output=True, text=True)
    found = {}
    for name, pattern in [("mean", r"Mean\s+KLD:\s+(\S+)"), ("error", r"Mean\s+KLD:\s+\S+\s+±\s+(\S+)"), ("p99", r"99\.0%\s+KLD:\s+(\S+)"), ("same", r"Same top p:\s+(\S+)")]:
        match = re.search(pattern, said.stdout)
        if not match:
            raise RuntimeError(f"llama-perplexity told no {name}: {said.stdout[-2000:]}")
        found[name] = float(match.group(1))
    chunks = re.search(r"over (\d+) chunks|(\d+) chunks", said.stdout + said.stderr)
    return found | {"windows": int(next(filter(None, chunks.groups()))) if chunks else 0}


def mine(path, text, work):
    import contextlib
    import ours
    with contextlib.ExitStack() as stack:
        engine = ours.Ours(stack, path, os.cpu_count())
        ids = ours.trackside.post(engine.address, "/tokenize", {"prompt": text.read_text(encoding="utf-8"), "add_special_tokens": False})["tokens"]
    file = work / "ids"
    file.write_text(" ".join(map(str, ids)))
    binary = ROOT / "target/release/examples/divergence"
    said = subprocess.run([binary, path, file, "--window", str(WINDOW)], check=True, capture_output=True, text=True)
    return json.loads(said.stdout) | {"tokens": len(ids)}


def measure(name):
    what, script = MODELS[name]
    path = subprocess.run([ROOT / script], check=True, capture_output=True, text=True).stdout.strip()
    steal = machine.Steal()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        text = work / "text"
        text.write_text("".join(part.read_text(encoding="utf-8") for part in TEXT), encoding="utf-8")
        own = mine(path, text, work)
        peer = theirs(path, text, work)
    notes = [f"Trackside: standard error {own['error']:.1e}, p99 {own['p99']:.2e}, same most likely token {own['same_top']:.1%}, perplexity {own['perplexity']:.3f} against "
             f"{own['perplexity_f32']:.3f} in f32, {own['positions']} positions of {own['tokens']} tokens",
             f"llama.cpp: standard error {peer['error']:.1e}, p99 {peer['p99']:.2e}, same most likely token {peer['same']:.1f}%, {peer['windows']} windows; {llama.version()}"]
    return figure.Figure(f"{name}-divergence", group="quality", what=f"{what}: mean KL divergence, ours over llama.cpp's", unit="×", bar="≤ 1.0", samples=[own["mean"] / peer["mean"]],
                         sides={"Trackside": {"unit": "nats", "samples": [own["mean"]]}, "llama.cpp": {"unit": "nats", "samples": [peer["mean"]]}}, notes=notes, cpu=machine.cpu(), steal=steal.share())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[])
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    for name in given.models or MODELS:
        one = measure(name)
        print(f"{one.what}: {one.line()} [{one.seen()}]", *one.notes, sep="\n  ", flush=True)
        if given.write:
            one.write()
            page.main([])


if __name__ == "__main__":
    main()
