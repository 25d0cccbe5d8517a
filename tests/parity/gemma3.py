"""Goldens of Gemma 3 270M (Q4_K_M: Q5_0, Q8_0, Q4_K, Q6_K; dequantised to f32), into tests/fixtures/gemma3. One command, some minutes on one core:

    pip install -r tests/parity/requirements.txt && python tests/parity/gemma3.py "$(tests/real/fetch-gemma3.sh)"

golden.json: completions (it is the pretrained model, without a chat template), 32 greedy tokens each, one of them after more tokens than
the window of 512. tokenize.json: what the tokenizer makes of strings that are easy to get wrong. The model file itself is not committed.
"""
import pathlib
import sys

import golden
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "gemma3"
CORPUS = (pathlib.Path(__file__).parent / "corpus.txt").read_text(encoding="utf-8")
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    \"\"\"Returns the n-th Fibonacci number.\"\"\"\n",
    "Once upon a time there was a small train that",
    "The three laws of thermodynamics are:\n\n1.",
    "Q: What is a railway signal for?\nA:",
    "Die Hauptstadt von Deutschland ist",
    "電車は",
    "1, 2, 3, 4, 5,",
    "In computer science, a cache is",
    "Dear Sir or Madam,\n\n",
    "The moon is",
    "Water boils at",
]


def main():
    path = pathlib.Path(sys.argv[1])
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    OUT.mkdir(parents=True, exist_ok=True)
    golden.write(OUT / "tokenize.json", cases=golden.tokenizations(tokenizer, golden.TRICKY))
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    print(model.config)
    model64 = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval().double()
    prompts = [(text, tokenizer(text).input_ids) for text in PROMPTS]
    long = [(text, tokenizer(text).input_ids) for text in [CORPUS[:2600], CORPUS[:2500]]]
    assert all(len(ids) > 560 for _, ids in long), [len(ids) for _, ids in long]
    cases, rejected = golden.collect(model, model64, tokenizer, prompts, 8, 32)
    after_window, more = golden.collect(model, model64, tokenizer, long, 1, 32)
    golden.write(OUT / "golden.json", rejected_prompts=rejected + more, cases=cases + after_window)
    for case in cases + after_window:
        print(case["min_gap"], len(case["prompt_ids"]), repr(case["text"][:100]))


if __name__ == "__main__":
    main()
