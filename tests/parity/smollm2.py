"""Goldens of SmolLM2-135M-Instruct (Q4_1, dequantised to f32), into tests/fixtures/smollm2. One command, some minutes on one core:

    pip install -r tests/parity/requirements.txt && python tests/parity/smollm2.py "$(tests/real/fetch-smollm2.sh)"

golden.json: 20 chat prompts, 64 greedy tokens each, not ended at the end token. tokenize.json: what the tokenizer makes of strings that
are easy to get wrong. chat.json: conversations as the model's own template renders them. The model file itself is not committed.
"""
import pathlib
import sys

import golden
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "smollm2"
SYSTEM = "You answer in one short sentence."
CHATS = [
    [("user", "What is a railway signal for?")],
    [("user", "Write a short story about a train that could not stop.")],
    [("user", "Explain what a cache is to a child.")],
    [("user", "List three uses of steel.")],
    [("system", SYSTEM), ("user", "Why is the sky blue?")],
    [("user", "Hello! Who are you?")],
    [("user", "What is 12 + 30?")],
    [("user", "Write a Python function that returns the median of a list.")],
    [("user", "Translate to French: The train is late.")],
    [("user", "What does a scheduler in an operating system do?")],
    [("user", "Tell me about the moon."), ("assistant", "The moon is the only natural satellite of the Earth."), ("user", "How far away is it?")],
    [("user", "Give me a recipe for bread.")],
    [("user", "What is the difference between a process and a thread?")],
    [("system", "You are a pirate."), ("user", "Where is the treasure?")],
    [("user", "Summarize: A node reported an error, so no new work was sent to it until somebody had looked at it.")],
    [("user", "Name the planets of the solar system in order.")],
    [("user", "Why do leaves change their colour in autumn?")],
    [("user", "How does a bicycle stay upright?")],
    [("user", "Write a polite email that asks for a day off.")],
    [("user", "What is the capital of Japan, and what is it known for?")],
    [("user", "Describe the sound of rain.")],
    [("user", "Count from one to twenty in words.")],
    [("user", "What is photosynthesis?")],
    [("user", "Who was Isaac Newton?")],
    [("user", "Write a haiku about mountains.")],
    [("user", "How do I sort a list in Rust?")],
    [("user", "What should I do when my computer is slow?")],
    [("user", "Tell me a fact about elephants.")],
    [("user", "Why is the sea salty?")],
    [("user", "What is the purpose of a database index?")],
    [("system", SYSTEM), ("user", "What is a GPU?"), ("assistant", "A GPU is a processor for many equal sums at once."), ("user", "And a CPU?")],
    [("user", "Explain gravity in simple words.")],
]


def main():
    path = pathlib.Path(sys.argv[1])
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # transformers ignores the file's `tokenizer.ggml.pre`; "smollm" means: each digit alone, then GPT-2's pattern.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    OUT.mkdir(parents=True, exist_ok=True)
    golden.write(OUT / "tokenize.json", cases=golden.tokenizations(tokenizer, golden.TRICKY))
    golden.write(OUT / "chat.json", cases=golden.chats(tokenizer, golden.CONVERSATIONS))
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    model64 = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval().double()
    prompts, conversations = [], {}
    for chat in CHATS:
        messages = [{"role": role, "content": content} for role, content in chat]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompts.append((prompt, tokenizer(prompt, add_special_tokens=False).input_ids))
        conversations[prompt] = messages
    cases, rejected = golden.collect(model, model64, tokenizer, prompts, 20, 64)
    cases = [{"messages": conversations[case["prompt"]], **case} for case in cases]
    golden.write(OUT / "golden.json", rejected_prompts=rejected, cases=cases)
    for case in cases:
        print(case["min_gap"], repr(case["text"][:100]))
    print(f"{len(cases)} cases, {rejected} prompts rejected, smallest gap {min(c['min_gap'] for c in cases)}")


if __name__ == "__main__":
    main()
