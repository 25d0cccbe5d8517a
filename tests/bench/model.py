"""Makes GGUF models of random weights for benchmarks: the shape counts, not the text. Seeded: the same bytes on every machine.

    python3 tests/bench/model.py 1b-q8_0|small-q4_k [DEST]      DEST: a folder, default target/models; prints the path

Needs numpy and gguf (tests/bench/requirements.txt). A file that is there already is kept.
"""
import dataclasses
import os
import pathlib
import sys

import gguf
import numpy

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Shape:
    hidden: int
    layers: int
    feed_forward: int
    heads: int
    heads_kv: int
    vocabulary: int
    quant: gguf.GGMLQuantizationType


SHAPES = {
    "1b-q8_0": Shape(2048, 16, 8192, 32, 8, 32000, gguf.GGMLQuantizationType.Q8_0),
    "small-q4_k": Shape(1024, 12, 4096, 16, 4, 32000, gguf.GGMLQuantizationType.Q4_K),
}
STD = 0.02


def blocks(random, quant, rows, columns):
    """Raw blocks of a matrix whose weights have about the deviation STD."""
    weights, size = gguf.GGML_QUANT_SIZES[quant]
    count = rows * columns // weights
    raw = numpy.frombuffer(random.bytes(count * size), numpy.uint8).reshape(count, size).copy()
    if quant == gguf.GGMLQuantizationType.Q8_0:
        # f16 scale, 32 signed bytes: uniform bytes deviate by 74.
        raw[:, :2] = numpy.frombuffer(numpy.float16(STD / 74).tobytes(), numpy.uint8)
    elif quant == gguf.GGMLQuantizationType.Q4_K:
        # f16 scale of scales and of minima, 12 bytes of eight 6-bit scales and minima, 128 bytes of nibbles. Uniform scales have the mean
        # 31.5 as nibbles have 7.5: minima of 7.5 times the scales' unit centre the weights, which then deviate by about 170 units.
        raw[:, :2] = numpy.frombuffer(numpy.float16(STD / 170).tobytes(), numpy.uint8)
        raw[:, 2:4] = numpy.frombuffer(numpy.float16(STD / 170 * 7.5).tobytes(), numpy.uint8)
    else:
        raise ValueError(quant)
    return raw.reshape(rows, columns // weights * size)


def byte_tokens():
    """The 256 bytes as GPT-2 writes them, in its order."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) for byte in visible] + [chr(256 + i) for i in range(len(others))]


def write(shape, path):
    random = numpy.random.default_rng(20261125)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(path.stem.removesuffix(".part"))
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads_kv)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_rope_freq_base(500_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    tokens = byte_tokens()
    merges = [f"{a} {b}" for a in tokens for b in tokens if a.isascii() and a.isalpha() and b.isascii() and b.isalpha()]
    tokens += [merge.replace(" ", "") for merge in merges]
    tokens += [f"<unused{i}>" for i in range(shape.vocabulary - len(tokens) - 1)] + ["<eos>"]
    kinds = [gguf.TokenType.NORMAL] * (256 + len(merges))
    kinds += [gguf.TokenType.UNUSED] * (shape.vocabulary - len(kinds) - 1) + [gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(shape.vocabulary - 1)
    writer.add_eos_token_id(shape.vocabulary - 1)
    writer.add_chat_template("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}")

    def matrix(name, rows, columns):
        writer.add_tensor(f"{name}.weight", blocks(random, shape.quant, rows, columns), raw_dtype=shape.quant)

    def norm(name):
        writer.add_tensor(f"{name}.weight", (1 + 0.1 * random.standard_normal(shape.hidden)).astype(numpy.float32))

    kv = shape.hidden // shape.heads * shape.heads_kv
    matrix("token_embd", shape.vocabulary, shape.hidden)
    matrix("output", shape.vocabulary, shape.hidden)
    norm("output_norm")
    for layer in range(shape.layers):
        for name, rows, columns in [
                ("attn_q", shape.hidden, shape.hidden), ("attn_k", kv, shape.hidden), ("attn_v", kv, shape.hidden), ("attn_output", shape.hidden, shape.hidden),
                ("ffn_gate", shape.feed_forward, shape.hidden), ("ffn_up", shape.feed_forward, shape.hidden), ("ffn_down", shape.hidden, shape.feed_forward)]:
            matrix(f"blk.{layer}.{name}", rows, columns)
        norm(f"blk.{layer}.attn_norm")
        norm(f"blk.{layer}.ffn_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def made(name, dest=ROOT / "target/models"):
    """Path of the model of this name, made if it is not there."""
    path = pathlib.Path(dest) / f"random-{name}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.gguf")
        write(SHAPES[name], part)
        os.replace(part, path)
    return path


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in SHAPES:
        sys.exit(__doc__)
    print(made(*sys.argv[1:]))
