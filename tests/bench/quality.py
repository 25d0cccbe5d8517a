"""What quantised arithmetic costs: mean KL(f32 ‖ quantised), ours beside llama.cpp's, same GGUF and same tokens.

Both compare with a run of the same weights dequantised to f32: ours with `--dtype float32` (engine/cpu/examples/divergence.rs), llama.cpp with
an F32 GGUF that this makes of the file (KV cache in f32, too), by its own `llama-perplexity --kl-divergence`. Both run quantised as they come,
with their KV caches in half precision; ours is run with its cache in f32 as well, which tells what that costs. Windows of 512 tokens, of
which the second half counts, on both sides. The text is fixed: the parity tests' corpus, the built-in model's, the licence.
"""
import json
import os
import pathlib
import re
import struct
import subprocess
import tempfile

import gguf
import numpy

import figure
import llama
import machine

ROOT = figure.ROOT
MODELS = {"smollm2": ("SmolLM2 135M Q4_1", "tests/real/fetch-smollm2.sh"), "gemma3": ("Gemma 3 270M Q4_K_M", "tests/real/fetch-gemma3.sh")}
TEXT = [ROOT / "tests/parity/corpus.txt", *(ROOT / f"cli/builtin/corpus/{name}.txt" for name in ["stories", "world", "prose"]), ROOT / "LICENSE"]
WINDOW, WINDOWS = 512, 8


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


def base_logits(path, text, work):
    """llama.cpp's f32 run: the file of its logits, and the tokens that it ran."""
    base, whole = work / "base.logits", work / "f32.gguf"
    dequantised(path, whole)
    run = subprocess.run([*perplexity(base), "-m", whole, "-f", text, "-ctk", "f32", "-ctv", "f32", "-fa", "off"], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"llama-perplexity: {run.stderr[-2000:]}")
    whole.unlink()
    with base.open("rb") as file:
        magic, length, _, found = struct.unpack("<8s3i", file.read(20))
        assert magic == b"_logits_" and length == WINDOW, (magic, length)
        return base, list(struct.unpack(f"<{found * length}i", file.read(4 * found * length)))


def perplexity(base):
    return [llama.folder() / "llama-perplexity", "-c", str(WINDOW), "-b", str(WINDOW), "-t", str(os.cpu_count()), "--chunks", str(WINDOWS), "--kl-divergence-base", base]


def theirs(path, text, base):
    """{mean, error, p99, same: % of positions with the same most likely token}"""
    said = subprocess.run([*perplexity(base), "-m", path, "-f", text, "--kl-divergence"], check=True, capture_output=True, text=True)
    found = {}
    for name, pattern in [("mean", r"Mean\s+KLD:\s+(\S+)"), ("error", r"Mean\s+KLD:\s+\S+\s+±\s+(\S+)"), ("p99", r"99\.0%\s+KLD:\s+(\S+)"), ("same", r"Same top p:\s+(\S+)")]:
        match = re.search(pattern, said.stdout)
        if not match:
            raise RuntimeError(f"llama-perplexity told no {name}: {said.stdout[-2000:]}")
        found[name] = float(match.group(1))
    return found


def mine(path, ids, first, work):
    """{auto, auto_kv_float32}: as the example prints it."""
    file = work / "ids"
    file.write_text(" ".join(map(str, ids)))
    binary = ROOT / "target/release/examples/divergence"
    command = [binary, path, file, "--window", str(WINDOW), *([] if first is None else ["--first", str(first)])]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def begins_with(path):
    """The token that llama.cpp puts before every text, so at the head of every window."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name in ["tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id"] if (field := reader.get_field(name))}
    return fields["tokenizer.ggml.bos_token_id"] if fields.get("tokenizer.ggml.add_bos_token") else None


def measure(name, given, tick):
    what, script = MODELS[name]
    path = subprocess.run([ROOT / script], check=True, capture_output=True, text=True).stdout.strip()
    steal = machine.Steal()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        text = work / "text"
        text.write_text("".join(part.read_text(encoding="utf-8") for part in TEXT), encoding="utf-8")
        base, ids = base_logits(path, text, work)
        tick(0.3)
        peer = theirs(path, text, base)
        tick(0.5)
        own = mine(path, ids, begins_with(path), work)
    own, exact_kv = own["auto"], own["auto_kv_float32"]
    notes = [f"{what}, Trackside: standard error {own['error']:.1e}, p99 {own['p99']:.2e}, same most likely token {own['same_top']:.1%}, perplexity {own['perplexity']:.3f} against "
             f"{own['perplexity_f32']:.3f} in f32, {own['positions']} positions; with the KV cache in f32 mean {exact_kv['mean']:.2e}",
             f"{what}, llama.cpp: standard error {peer['error']:.1e}, p99 {peer['p99']:.2e}, same most likely token {peer['same']:.1f}%", llama.version()]
    sides = {"Trackside": own, "Trackside, KV cache in f32": exact_kv, "llama.cpp": peer}
    yield figure.Figure(f"{name}-divergence", group="quality", what=f"{what}: mean KL divergence, ours over llama.cpp's", unit="×", bar="≤ 1.0", samples=[own["mean"] / peer["mean"]],
                         sides={side: {"unit": "nats", "samples": [found["mean"]]} for side, found in sides.items()}, notes=notes, cpu=machine.cpu(), steal=steal.share())
