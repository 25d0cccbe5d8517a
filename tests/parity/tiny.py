"""Tiny random Llama checkpoints with goldens, into tests/fixtures/models. One command, about a minute:

    pip install -r tests/parity/requirements.txt && python tests/parity/tiny.py

Each folder is a model as a user would have it (Hugging Face layout, or one model.gguf) with golden.json beside it; folders with a
tokenizer of their own also have tokenize.json and chat.json. What each is there for:

    llama          two shards and an index, untied head, grouped-query attention 4/2; chat template in a file of its own
    llama31        llama3 rope scaling with prompts far beyond the original context, tied head, head_dim unlike hidden/heads, widths that
                   no vector length divides, a tokenizer that adds a first token, a list of eos ids
    llama31-bf16   the same weights rounded to bf16; config and template as transformers 4 spelled them (rope_theta, rope_scaling,
                   torch_dtype; template inside tokenizer_config.json)
    llama-f16      llama rounded to f16, one file
    gguf-*         one file with tokenizer inside. f32: llama3 rope as `rope_freqs.weight`. q4_1, bf16: tied (no output.weight)

Low precision is rounding of the weights only: goldens are computed in f32 from the rounded (dequantised) values. Initialisation
leaves RMS norm weights at 1, where a forgotten one would pass unseen, so all one-dimensional weights are randomised.
"""
import copy
import json
import pathlib
import shutil

import gguf
import golden
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).parent
OUT = HERE.parent / "fixtures" / "models"
CORPUS = (HERE / "corpus.txt").read_text(encoding="utf-8")
SPECIALS = ["<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"]
CHATML = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
# As Llama 3 does it: the first token comes from the template, a default system message, content stripped.
LLAMA3_LIKE = ("{{ bos_token }}{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}{%- set rest = messages[1:] %}"
               "{%- else %}{%- set system = 'You are tiny.' %}{%- set rest = messages %}{%- endif %}"
               "<|im_start|>system\n\n{{ system }}<|im_end|>{% for m in rest %}<|im_start|>{{ m['role'] }}\n\n{{ m['content'] | trim }}<|im_end|>{% endfor %}"
               "{%- if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}")
VOCAB = 761


def make_tokenizer(add_begin, template):
    tk = Tokenizer(models.BPE())
    tk.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tk.decoder = decoders.ByteLevel()
    tk.train_from_iterator([CORPUS], trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=SPECIALS, show_progress=False,
                                                         initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if add_begin:
        tk.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tk, bos_token="<|begin|>", eos_token="<|im_end|>", pad_token="<|end|>",
                                   clean_up_tokenization_spaces=False)
    fast.chat_template = template
    assert len(fast) == VOCAB, len(fast)
    return fast


def make_model(seed, **config):
    base = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                max_position_embeddings=1024, rms_norm_eps=1e-6, bos_token_id=0, eos_token_id=3, pad_token_id=1, initializer_range=0.2,
                tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**base, **config})).eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.normal_(1.0, 0.2)
    return model


def prompts(tokenizer, shortest_ids):
    """Pieces of the corpus that begin at each of its lines. Without a least length they are a few short ones, then pieces of about
    20, 50, 90 … tokens in turn, so that prompts end inside and beyond several KV blocks."""
    if shortest_ids == 0:
        for text in ["def main():\n    return", "🚂"]:
            yield text, tokenizer(text).input_ids
    lines = CORPUS.splitlines(keepends=True)
    for start in range(len(lines)):
        least = shortest_ids or (50, 20, 90, 130)[start % 4]
        for end in range(start + 1, len(lines) + 1):
            text = "".join(lines[start:end])
            ids = tokenizer(text).input_ids
            if len(ids) >= least:
                yield text, ids
                break


def write_goldens(folder, tokenizer, load, shortest_ids=0, wanted=5):
    cases, rejected = golden.collect(load(torch.float32), load(torch.float64), tokenizer, prompts(tokenizer, shortest_ids), wanted, 48)
    golden.write(folder / "golden.json", rejected_prompts=rejected, cases=cases)
    size = sum(f.stat().st_size for f in folder.iterdir()) // 1024
    print(f"{folder.name}: {size} KiB, {rejected} prompts rejected, prompts of {[len(c['prompt_ids']) for c in cases]} tokens, "
          f"gaps {[c['min_gap'] for c in cases]}, different tokens {[len(set(c['output_ids'])) for c in cases]}", flush=True)


def write_folder(name, model, tokenizer, dtype=None, shards=1, transformers4=False, eos=3, shortest_ids=0, text_goldens=False):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model.generation_config.eos_token_id = eos
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    whole = folder / "model.safetensors"
    tensors = {k: v.to(dtype) if dtype else v for k, v in load_file(whole).items()}
    if shards == 1:
        save_file(tensors, whole, metadata={"format": "pt"})
    else:
        whole.unlink()
        names, index = sorted(tensors), {}
        for i in range(shards):
            part = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            mine = names[i * len(names) // shards:(i + 1) * len(names) // shards]
            save_file({n: tensors[n] for n in mine}, folder / part, metadata={"format": "pt"})
            index.update({n: part for n in mine})
        total = sum(t.numel() * t.element_size() for t in tensors.values())
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1) + "\n")
    config = json.loads((folder / "config.json").read_text())
    if dtype:
        config["dtype"] = str(dtype).removeprefix("torch.")
    if transformers4:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope
        config["torch_dtype"] = config.pop("dtype")
        config["transformers_version"] = "4.46.0"
        template = folder / "chat_template.jinja"
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings["chat_template"] = template.read_text()
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
        template.unlink()
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if text_goldens:
        golden.write(folder / "tokenize.json", cases=golden.tokenizations(tokenizer, golden.TRICKY))
        golden.write(folder / "chat.json", cases=golden.chats(tokenizer, golden.CONVERSATIONS))
    write_goldens(folder, tokenizer, lambda d: AutoModelForCausalLM.from_pretrained(folder, dtype=d).eval(), shortest_ids)


def gguf_rows(weight, heads):
    """GGUF files of Llama pair neighbouring rows for rotation, Hugging Face ones pair halves."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path, model, tokenizer, kind, template, pre="gpt-2", rope_freqs=None, name="tiny"):
    """One GGUF file. `kind` is a gguf.GGMLQuantizationType for all matrices; vectors stay f32."""
    config = model.config
    w = gguf.GGUFWriter(path, "llama")
    w.add_name(name)
    w.add_file_type({"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "BF16": 32}[kind.name])
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_key_length(config.head_dim)
    w.add_value_length(config.head_dim)
    w.add_rope_dimension_count(config.head_dim)
    w.add_rope_freq_base(config.rope_parameters["rope_theta"])
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_vocab_size(config.vocab_size)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = {t["id"] for t in state["added_tokens"] if t["special"]}
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list([token for token, _ in vocab])
    w.add_token_types([int(gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL) for _, i in vocab])
    w.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
    w.add_bos_token_id(tokenizer.bos_token_id)
    w.add_eos_token_id(tokenizer.eos_token_id)
    w.add_pad_token_id(tokenizer.pad_token_id)
    w.add_add_bos_token(False)
    w.add_chat_template(template)
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
             "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for layer in range(config.num_hidden_layers):
        names.update({f"model.layers.{layer}.{hf}.weight": f"blk.{layer}.{ggml}.weight" for hf, ggml in parts.items()})
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        data = tensor.float().numpy()
        if "q_proj" in key:
            data = gguf_rows(data, config.num_attention_heads)
        if "k_proj" in key:
            data = gguf_rows(data, config.num_key_value_heads)
        data = np.ascontiguousarray(data)
        if data.ndim == 1:
            w.add_tensor(names[key], data)
        else:
            w.add_tensor(names[key], gguf.quants.quantize(data, kind), raw_dtype=kind)
    if rope_freqs is not None:
        w.add_tensor("rope_freqs.weight", rope_freqs)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_gguf_folder(kind, model, tokenizer, rope_freqs=None, golden_model=None, shortest_ids=0):
    """`golden_model`: where transformers cannot read what the file says (it ignores rope_freqs.weight), the model with equal weights."""
    folder = OUT / f"gguf-{kind.name.lower()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_gguf(folder / "model.gguf", model, tokenizer, kind, CHATML, rope_freqs=rope_freqs)
    if golden_model is None:
        def load(dtype):
            return AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32).eval().to(dtype)
    else:
        def load(dtype):
            return copy.deepcopy(golden_model).to(dtype)
    write_goldens(folder, tokenizer, load, shortest_ids)


def llama3_factors(rope, head_dim):
    """llama3 scaling as the divisor of each frequency, the form in which GGUF files carry it."""
    freqs = 1.0 / rope["rope_theta"] ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    old, low, high, factor = (rope[k] for k in ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor", "factor"))
    wave = 2 * np.pi / freqs
    smooth = np.clip((old / wave - low) / (high - low), 0, 1)
    return (1.0 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def main():
    plain, beginning = make_tokenizer(False, CHATML), make_tokenizer(True, LLAMA3_LIKE)
    llama3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 128}
    odd = dict(hidden_size=72, intermediate_size=148, num_attention_heads=3, num_key_value_heads=1, head_dim=20, num_hidden_layers=2,
               tie_word_embeddings=True, rope_parameters=llama3, rms_norm_eps=1e-5)
    write_folder("llama", make_model(1), plain, shards=2, text_goldens=True)
    write_folder("llama31", make_model(2, **odd), beginning, eos=[1, 3], shortest_ids=300, text_goldens=True)
    write_folder("llama31-bf16", make_model(2, **odd), beginning, dtype=torch.bfloat16, transformers4=True, shortest_ids=140)
    write_folder("llama-f16", make_model(1), plain, dtype=torch.float16)
    small = dict(num_hidden_layers=2)
    Q = gguf.GGMLQuantizationType
    scaled = make_model(3, **small, rope_parameters=llama3)
    write_gguf_folder(Q.F32, scaled, plain, rope_freqs=llama3_factors(llama3, scaled.config.head_dim), golden_model=scaled, shortest_ids=300)
    for kind, tied in [(Q.F16, False), (Q.BF16, True), (Q.Q8_0, False), (Q.Q4_0, False), (Q.Q4_1, True)]:
        write_gguf_folder(kind, make_model(4, **small, tie_word_embeddings=tied), plain)
    total = sum(f.stat().st_size for f in OUT.rglob("*") if f.is_file())
    print(f"in all {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
