"""LoRA adapters of the tiny checkpoints, with goldens, into tests/fixtures/adapters. One command, seconds:

    pip install -r tests/parity/requirements.txt && python tests/parity/lora.py

Made and saved by PEFT; golden.json is what transformers answers with the adapter merged into the weights, in f32.

    qwen3-all      q, k, v, o, gate, up and down; alpha / rank
    qwen3-rslora   q, v and down alone, another rank, alpha / sqrt(rank), bf16
"""
import json
import pathlib
import shutil

import golden
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import HERE, OUT, prompts
from transformers import AutoModelForCausalLM, AutoTokenizer

ADAPTERS = HERE.parent / "fixtures" / "adapters"
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def write(name, base, seed, dtype=torch.float32, **config):
    folder = ADAPTERS / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(OUT / base, dtype=torch.float32), LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name:                     # PEFT begins with B = 0, an adapter that changes nothing
                parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    file = folder / "adapter_model.safetensors"
    save_file({key: tensor.to(dtype) for key, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = base
    settings["target_modules"] = sorted(settings["target_modules"])
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    for other in folder.glob("README.md"):
        other.unlink()
    tokenizer = AutoTokenizer.from_pretrained(OUT / base)

    def load(precision):
        plain = AutoModelForCausalLM.from_pretrained(OUT / base, dtype=torch.float32)
        return PeftModel.from_pretrained(plain, folder).merge_and_unload().eval().to(precision)
    cases, rejected = golden.collect(load(torch.float32), load(torch.float64), tokenizer, prompts(tokenizer, 0), 3, 32)
    golden.write(folder / "golden.json", base=base, rejected_prompts=rejected, cases=cases)
    print(name, sum(f.stat().st_size for f in folder.iterdir()) // 1024, "KiB", [(len(c["prompt_ids"]), c["min_gap"]) for c in cases])


if __name__ == "__main__":
    write("qwen3-all", "qwen3", 91, r=4, lora_alpha=8, target_modules=ALL)
    write("qwen3-rslora", "qwen3", 92, dtype=torch.bfloat16, r=3, lora_alpha=4, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"])
