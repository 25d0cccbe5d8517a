"""Tiny random checkpoints of the other architectures and rotations, with goldens, into tests/fixtures/models. One command, minutes:

    pip install -r tests/parity/requirements.txt && python tests/parity/architectures.py [NAME …]

As tiny.py, whose tokenizer, prompts and rules they share. What each is there for:

    qwen2            biases on q, k, v; tied; a window in the later layers; a list of eos ids
    qwen2-yarn-f16   yarn as transformers 4 spelled it (`type`), f16; prompts far beyond the original context
    qwen3            norms of heads before rotation; head_dim unlike hidden/heads; untied
    qwen3-linear-bf16  linear scaling, `attention_bias`, transformers 4, bf16
    qwen3-moe        8 experts, 3 per token, renormalised; one dense layer by `mlp_only_layers`
    qwen3-moe-bf16   weights of experts not renormalised; every second layer dense; `num_experts`, as transformers 4 wrote it; windows everywhere
    mixtral          4 experts, 2 per token; window; transformers 4 (`rope_theta` at the top, `rope_scaling: null`)
    gemma3           norms of 1 + w before and after layers, windows in two of three layers, two bases of rotation, one scaled; another scale of
                     attention; sqrt(hidden) no number of few bits; tied by default
    gemma3-bf16      as transformers 4 spelled it (rope_local_base_freq, sliding_window_pattern), bf16: the embedding's factor rounded
    llama-yarn       yarn with all that it can be told: attention_factor, betas, truncate
    llama-yarn-mscale  yarn with mscale and mscale_all_dim
    llama-linear     linear scaling
    mistral          a window in every layer; untied; the same blocks as llama
    gguf-split-q8_0  a llama in three files
    gguf-ARCHITECTURE-TYPE  files as llama.cpp's converter writes them: merged experts, Gemma's norms with their 1 added, yarn
"""
import copy
import json
import shutil
import sys

import gguf
import golden
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny import CHATML, LLAMA3_LIKE, OUT, VOCAB, gguf_rows, make_tokenizer, prompts
from transformers import (AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, MistralConfig,
                          MistralForCausalLM, MixtralConfig, MixtralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM)

CLASSES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM),
           "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM), "mixtral": (MixtralConfig, MixtralForCausalLM),
           "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM), "mistral": (MistralConfig, MistralForCausalLM)}
BASE = dict(vocab_size=VOCAB, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=1024, rms_norm_eps=1e-6, bos_token_id=0, eos_token_id=3, pad_token_id=1, initializer_range=0.2)
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
WIDE = dict(hidden_size=64, intermediate_size=96)                        # whole quantisation blocks
NEW_TOKENS = 40


def make_model(architecture, seed, **config):
    configuration, model = CLASSES[architecture]
    torch.manual_seed(seed)
    model = model(configuration(**{**BASE, **config})).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                # Gemma stores the distance from 1, biases that from 0.
                centre = 0.0 if architecture == "gemma3" or name.endswith("bias") else 1.0
                parameter.normal_(centre, 0.2)
            elif name.endswith("gate.weight"):
                parameter.normal_(0.0, 0.5)                               # routers that choose, not nearly all alike
        if architecture == "gemma3":
            # Scaled up and tied, the embedding would outweigh all layers, and every token be followed by itself.
            model.model.embed_tokens.weight.normal_(0.0, 0.025)
    return model


def write_goldens(folder, tokenizer, load, shortest_ids, wanted=4):
    cases, rejected = golden.collect(load(torch.float32), load(torch.float64), tokenizer, prompts(tokenizer, shortest_ids), wanted, NEW_TOKENS)
    golden.write(folder / "golden.json", rejected_prompts=rejected, cases=cases)
    size = sum(f.stat().st_size for f in folder.iterdir()) // 1024
    print(f"{folder.name}: {size} KiB, {rejected} prompts rejected, prompts of {[len(c['prompt_ids']) for c in cases]} tokens, "
          f"gaps {[c['min_gap'] for c in cases]}, different tokens {[len(set(c['output_ids'])) for c in cases]}", flush=True)


def write_folder(name, model, tokenizer, dtype=None, spell=None, eos=3, shortest_ids=0):
    """`spell` changes config.json into what another version of transformers would have written."""
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model.generation_config.eos_token_id = eos
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = folder / "model.safetensors"
    tensors = {k: v.to(dtype) if dtype else v for k, v in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    if dtype:
        config["dtype"] = str(dtype).removeprefix("torch.")
    if spell:
        spell(config)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    def load(precision):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, experts_implementation="eager").eval().to(precision)
        if dtype and hasattr(model.model.embed_tokens, "embed_scale"):
            # In the model's own precision transformers rounds the factor; here only weights are rounded otherwise.
            scale = model.model.embed_tokens.embed_scale
            model.model.embed_tokens.embed_scale = scale.to(dtype).to(precision)
        return model
    write_goldens(folder, tokenizer, load, shortest_ids)


def transformers4(config, kind="type"):
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    rope_type = rope.pop("rope_type")
    config["rope_scaling"] = None if rope_type == "default" else {kind: rope_type, **rope}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.46.0"


def gemma_transformers4(config):
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["full_attention"]["rope_theta"]
    config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    config["rope_scaling"] = {"rope_type": "linear", "factor": rope["full_attention"]["factor"]}
    for key in ["layer_types", "tie_word_embeddings", "_sliding_window_pattern"]:
        config.pop(key, None)
    config["sliding_window_pattern"] = 3
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.50.0"


def other_name_of_experts(config):
    config["num_experts"] = config.pop("num_local_experts")


def merged(tensors):
    """Experts as GGUF has them: one tensor for all of a layer."""
    out, experts = {}, {}
    for name, tensor in tensors.items():
        if ".experts." in name:
            before, after = name.split(".experts.")
            number, projection = after.split(".", 1)
            experts.setdefault(f"{before}.experts.{projection}", {})[int(number)] = tensor
        else:
            out[name] = tensor
    out.update({name: torch.stack([parts[i] for i in range(len(parts))]) for name, parts in experts.items()})
    return out


def quantised(data, kind):
    """The stored form; rows that are no whole number of blocks stay f32, as the converter leaves them."""
    block = gguf.GGML_QUANT_SIZES[kind][0]
    if data.ndim == 1 or data.shape[-1] % block:
        return data.astype(np.float32), gguf.GGMLQuantizationType.F32
    return gguf.quants.quantize(data, kind), kind


def write_gguf_folder(name, model, tokenizer, kind, shortest_ids=0, split_max_tensors=0, pooling=None):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = model.config
    scratch = folder / "scratch"
    model.save_pretrained(scratch)
    tensors = merged(load_file(scratch / "model.safetensors"))
    shutil.rmtree(scratch)
    architecture = {"gemma3_text": "gemma3", "qwen3_moe": "qwen3moe", "mixtral": "llama"}.get(config.model_type, config.model_type)
    w = gguf.GGUFWriter(folder / "model.gguf", architecture, split_max_tensors=split_max_tensors)
    w.add_name(name)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if architecture != "qwen2":                                           # whose converter leaves it out
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_vocab_size(config.vocab_size)
    if pooling is not None:
        w.add_pooling_type(pooling)
    rope = config.rope_parameters
    if architecture == "gemma3":
        w.add_sliding_window(config.sliding_window)
        w.add_rope_freq_base(rope["full_attention"]["rope_theta"])
        rope = rope["full_attention"]
    else:
        w.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] != "default":
        w.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        w.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if getattr(config, "num_local_experts", None):
        w.add_expert_count(config.num_local_experts)
        w.add_expert_used_count(config.num_experts_per_tok)
    if config.model_type == "qwen3_moe":
        w.add_expert_feed_forward_length(config.moe_intermediate_size)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = {t["id"] for t in state["added_tokens"] if t["special"]}
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list([token for token, _ in vocab])
    w.add_token_types([int(gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL) for _, i in vocab])
    w.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
    w.add_eos_token_id(tokenizer.eos_token_id)
    w.add_add_bos_token(False)
    w.add_chat_template(CHATML)
    names = gguf.get_tensor_name_map({v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[architecture], config.num_hidden_layers)
    rounded = {}
    for key, tensor in tensors.items():
        data = tensor.float().numpy()
        if architecture == "gemma3" and key.endswith("norm.weight"):
            data = data + 1
        if architecture == "llama" and "q_proj" in key:
            data = gguf_rows(data, config.num_attention_heads)
        if architecture == "llama" and "k_proj" in key:
            data = gguf_rows(data, config.num_key_value_heads)
        stored, stored_kind = quantised(np.ascontiguousarray(data), gguf.GGMLQuantizationType.F32 if "gate.weight" in key else kind)
        called = names.get_name(key, try_suffixes=(".weight", ".bias"))
        w.add_tensor(called, stored, raw_dtype=stored_kind)
        # The same values for transformers: blocks run along rows, so that the order of rows does not matter.
        plain, plain_kind = quantised(tensor.float().numpy(), stored_kind)
        rounded[key] = torch.from_numpy(gguf.quants.dequantize(plain, plain_kind).reshape(tensor.shape).copy())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    split = {}
    for key, tensor in rounded.items():
        if ".experts." in key:
            before, projection = key.split(".experts.")
            split.update({f"{before}.experts.{i}.{projection}": part.clone() for i, part in enumerate(tensor)})
        else:
            split[key] = tensor
    model.save_pretrained(scratch)
    save_file(split, scratch / "model.safetensors", metadata={"format": "pt"})
    read = AutoModelForCausalLM.from_pretrained(scratch, dtype=torch.float32, experts_implementation="eager").eval()
    shutil.rmtree(scratch)
    if pooling is not None:
        return read
    write_goldens(folder, tokenizer, lambda precision: copy.deepcopy(read).to(precision), shortest_ids)


def checkpoints():
    plain, beginning = make_tokenizer(False, CHATML), make_tokenizer(True, LLAMA3_LIKE)
    windows = dict(use_sliding_window=True, sliding_window=24)
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    moe = dict(head_dim=20, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=28)
    gemma = dict(hidden_size=52, head_dim=20, num_hidden_layers=4, query_pre_attn_scalar=28, sliding_window=24, sliding_window_pattern=3,
                 rope_parameters={"full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000000.0},
                                  "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}})
    qwen2 = dict(tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, max_window_layers=1, **windows)
    yield "qwen2", lambda name: write_folder(name, make_model("qwen2", 21, **qwen2), plain, eos=[3, 1], shortest_ids=70)
    yield "qwen2-yarn-f16", lambda name: write_folder(name, make_model("qwen2", 22, rope_parameters=dict(yarn), tie_word_embeddings=True), plain,
                                                      dtype=torch.float16, spell=transformers4, shortest_ids=150)
    yield "qwen3", lambda name: write_folder(name, make_model("qwen3", 31, head_dim=20, rope_parameters=dict(PLAIN_ROPE)), beginning)
    yield "qwen3-linear-bf16", lambda name: write_folder(
        name, make_model("qwen3", 32, head_dim=20, attention_bias=True, tie_word_embeddings=True,
                         rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
        plain, dtype=torch.bfloat16, spell=transformers4, shortest_ids=110)
    yield "qwen3-moe", lambda name: write_folder(
        name, make_model("qwen3_moe", 41, **moe, norm_topk_prob=True, mlp_only_layers=[1], rope_parameters=dict(PLAIN_ROPE)), plain)
    yield "qwen3-moe-bf16", lambda name: write_folder(
        name, make_model("qwen3_moe", 42, **moe, norm_topk_prob=False, decoder_sparse_step=2, rope_parameters=dict(PLAIN_ROPE), tie_word_embeddings=True, **windows),
        plain, dtype=torch.bfloat16, spell=other_name_of_experts, shortest_ids=70)
    yield "mixtral", lambda name: write_folder(
        name, make_model("mixtral", 51, num_local_experts=4, num_experts_per_tok=2, sliding_window=24, rope_parameters=dict(PLAIN_ROPE), num_hidden_layers=2),
        plain, spell=transformers4, shortest_ids=70)
    yield "gemma3", lambda name: write_folder(name, make_model("gemma3", 61, **copy.deepcopy(gemma)), plain, shortest_ids=70)
    yield "gemma3-bf16", lambda name: write_folder(name, make_model("gemma3", 62, **copy.deepcopy(gemma)), plain, dtype=torch.bfloat16,
                                                   spell=gemma_transformers4, shortest_ids=70)
    small = dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2, tie_word_embeddings=True)
    told = {**yarn, "attention_factor": 1.3, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False}
    yield "llama-yarn", lambda name: write_folder(name, make_model("llama", 71, **small, rope_parameters=told), plain, shortest_ids=150)
    mscale = {**yarn, "mscale": 1.5, "mscale_all_dim": 0.75}
    yield "llama-yarn-mscale", lambda name: write_folder(name, make_model("llama", 72, **small, rope_parameters=mscale), plain, shortest_ids=150)
    linear = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5}
    yield "llama-linear", lambda name: write_folder(name, make_model("llama", 73, **small, rope_parameters=linear), plain, shortest_ids=110)
    Q = gguf.GGMLQuantizationType
    yield "gguf-qwen2-q8_0", lambda name: write_gguf_folder(name, make_model("qwen2", 81, **WIDE, tie_word_embeddings=True, rope_parameters=dict(yarn)), plain,
                                                            Q.Q8_0, 150)
    yield "gguf-qwen3-q4_0", lambda name: write_gguf_folder(name, make_model("qwen3", 82, **WIDE, head_dim=24, rope_parameters=dict(PLAIN_ROPE)), plain, Q.Q4_0)
    yield "gguf-qwen3moe-q8_0", lambda name: write_gguf_folder(
        name, make_model("qwen3_moe", 83, **WIDE, **{**moe, "head_dim": 24, "moe_intermediate_size": 32}, norm_topk_prob=True, tie_word_embeddings=True,
                         rope_parameters=dict(PLAIN_ROPE)), plain, Q.Q8_0)
    yield "gguf-mixtral-q4_1", lambda name: write_gguf_folder(
        name, make_model("mixtral", 84, **WIDE, num_local_experts=4, num_experts_per_tok=2, rope_parameters=dict(PLAIN_ROPE), num_hidden_layers=2), plain, Q.Q4_1)
    yield "mistral", lambda name: write_folder(
        name, make_model("mistral", 86, **{**small, "tie_word_embeddings": False}, sliding_window=24, rope_parameters=dict(PLAIN_ROPE)), plain, shortest_ids=70)
    yield "gguf-split-q8_0", lambda name: write_gguf_folder(
        name, make_model("llama", 87, **small, rope_parameters=dict(PLAIN_ROPE)), plain, Q.Q8_0, split_max_tensors=8)
    six = {**copy.deepcopy(gemma), **WIDE, "num_hidden_layers": 7, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window_pattern": 6}
    yield "gguf-gemma3-q8_0", lambda name: write_gguf_folder(name, make_model("gemma3", 85, **six), plain, Q.Q8_0, 70)


def main():
    wanted = set(sys.argv[1:])
    for name, write in checkpoints():
        if not wanted or name in wanted:
            write(name)
    total = sum(f.stat().st_size for f in OUT.rglob("*") if f.is_file())
    print(f"in all {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
