"""Tiny random embedding models with the vectors that sentence-transformers makes, into tests/fixtures/models. One command, a minute:

    pip install -r tests/parity/requirements.txt && python tests/parity/embeddings.py

    qwen3-embedding  as Qwen3-Embedding is published: modules.json, the last token's vector, normalised; a tokenizer that ends each text; names
                     of tensors without `model.`
    mistral-mean     a body without a head (`MistralModel`), windows, the mean of all tokens, not normalised; two sizes to cut vectors to
    gguf-qwen3-embedding-q8_0  pooling named in the metadata

Each folder has vectors.json beside the model: texts, ids and vectors in f32, before and after normalisation.
"""
import copy
import json
import shutil

import gguf
import golden
import torch
from architectures import PLAIN_ROPE, WIDE, make_model, write_gguf_folder
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, models
from tiny import CHATML, CORPUS, OUT, make_tokenizer
from tokenizers import processors
from transformers import AutoModel

# sentence-transformers strips white space, so that these have none at their ends.
TEXTS = [text.strip() for text in ["def main():\n    return", "🚂", "The quick brown fox", CORPUS[:150], CORPUS[:600], CORPUS[100:900]]]


def plain_tokenizer(add_begin):
    """Without a chat template, which sentence-transformers 6 would put around each text."""
    tokenizer = make_tokenizer(add_begin, CHATML)
    tokenizer.chat_template = None
    return tokenizer


def ending_tokenizer():
    tokenizer = plain_tokenizer(False)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A <|end|>", special_tokens=[("<|end|>", 1)])
    return tokenizer


def write_vectors(folder, tokenizer, states, pooling):
    """`states`: ids to the last hidden states. The plain vectors are pooled here; sentence-transformers' own are compared with them."""
    cases = []
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        with torch.no_grad():
            hidden = states(torch.tensor([ids]))[0].float()
        vector = hidden[-1] if pooling == "lasttoken" else hidden.mean(0)
        cases.append({"text": text, "ids": ids, "vector": [round(float(x), 7) for x in vector]})
    golden.write(folder / "vectors.json", pooling=pooling, cases=cases)
    return cases


def spelled_of_old(folder, pooling):
    """What sentence-transformers wrote before version 6."""
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules:
        module["type"] = "sentence_transformers.models." + module["type"].rsplit(".", 1)[1]
    (folder / "modules.json").write_text(json.dumps(modules, indent=2) + "\n")
    dimension = json.loads((folder / "1_Pooling" / "config.json").read_text())["embedding_dimension"]
    modes = {f"pooling_mode_{mode}": mode == {"mean": "mean_tokens"}.get(pooling, pooling) for mode in ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken"]}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": dimension, **modes}, indent=2) + "\n")


def write_folder(name, causal, tokenizer, pooling, normalise, extra=None, spell=None):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    scratch = folder / "scratch"
    causal.model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    body = models.Transformer(str(scratch))
    modules = [body, models.Pooling(causal.config.hidden_size, pooling_mode=pooling)] + ([models.Normalize()] if normalise else [])
    made = SentenceTransformer(modules=modules, device="cpu")
    made.save(str(folder), create_model_card=False)
    shutil.rmtree(scratch)
    if spell:
        spell(folder, pooling)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config.update(extra or {})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    read = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    cases = write_vectors(folder, tokenizer, lambda ids: read(ids).last_hidden_state, pooling)
    theirs = SentenceTransformer(str(folder), device="cpu").encode([case["text"] for case in cases], convert_to_tensor=True)
    ours = torch.tensor([case["vector"] for case in cases])
    ours = torch.nn.functional.normalize(ours, dim=-1) if normalise else ours
    assert torch.allclose(ours, theirs.float(), atol=2e-5), (ours - theirs).abs().max()


def main():
    tokenizer = ending_tokenizer()
    qwen3 = make_model("qwen3", 91, head_dim=20, tie_word_embeddings=True, rope_parameters=dict(PLAIN_ROPE))
    write_folder("qwen3-embedding", qwen3, tokenizer, "lasttoken", True, {"architectures": ["Qwen3ForCausalLM"]})
    mistral = make_model("mistral", 92, hidden_size=32, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2, sliding_window=24,
                         rope_parameters=dict(PLAIN_ROPE))
    write_folder("mistral-mean", mistral, plain_tokenizer(True), "mean", False, {"matryoshka_dimensions": [8, 16, 32]}, spelled_of_old)
    small = make_model("qwen3", 93, **{**WIDE, "num_hidden_layers": 2}, head_dim=32, tie_word_embeddings=True, rope_parameters=dict(PLAIN_ROPE))
    name = "gguf-qwen3-embedding-q8_0"
    read = write_gguf_folder(name, small, make_tokenizer(False, CHATML), gguf.GGMLQuantizationType.Q8_0, pooling=gguf.PoolingType.LAST)
    (OUT / name / "golden.json").unlink(missing_ok=True)
    write_vectors(OUT / name, make_tokenizer(False, CHATML), lambda ids: read.model(ids).last_hidden_state, "lasttoken")


if __name__ == "__main__":
    main()
