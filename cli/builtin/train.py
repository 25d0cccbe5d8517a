"""Trains the built-in model from corpus/ and writes trackside-builtin.gguf and answers.json beside this file. One command:

    pip install -r tests/parity/requirements.txt && OMP_NUM_THREADS=1 python cli/builtin/train.py

Half an hour on one core. Seeds are fixed and one thread is used, so the same machine and the same torch give the same weights; another
machine may round otherwise and give others as good. The committed file had these 2000 steps and then, with sums and the usual ways to ask
drawn more often than before, `--resume --steps 280 --rate 1.5e-3 --seed 4`. `--answers` only renews answers.json.

The model is a Llama of about 2 million weights, stored in Q8_0; its tokenizer (byte-level BPE, trained on the same text) and ChatML template
are inside. Dialogues are drawn anew for each batch: a topic, one of its ways to ask, small changes of spelling, one to six turns, now and
then a system message. Only what the model has to say (answers, stories, prose) counts in the loss.
"""
import argparse
import itertools
import json
import pathlib
import random
import re
import sys
import time
import typing

import gguf
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tests" / "parity"))
import golden  # noqa: E402
from tiny import write_gguf  # noqa: E402

CORPUS = HERE / "corpus"
MODEL = HERE / "trackside-builtin.gguf"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
VOCAB, CONTEXT, WINDOW = 1536, 2048, 256
SYSTEMS = ["You are a helpful assistant.", "You are a helpful assistant. Answer in short sentences.", "You are concise.", "Be brief.",
           "You answer questions about Trackside.", "You are the built-in model of Trackside.", "Answer politely and simply.",
           "You are a friendly assistant that serves language models on a fleet of machines."]
UNITS = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen").split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NAMES = ("Anna Ben Clara David Emma Felix Greta Hans Ida Jonas Karla Leo Mia Noah Olga Paul Rosa Sam Tina Uwe Vera Will Yara Zoe Alice Bob Carol "
         "Dan Eve Frank Grace Henry Iris Jack Kate Liam Mary Nina Oscar Peter Ruth Simon Tom Ursula Victor Wendy").split()


# --- the text


def paragraphs(name):
    text = (CORPUS / name).read_text(encoding="utf-8")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return [block.strip().splitlines() for block in re.split(r"\n\s*\n", text) if block.strip()]


def ways(pattern):
    """All texts that a pattern stands for: (a|b|) is a choice."""
    parts = [part.split("|") for part in re.split(r"[()]", pattern)]
    return ["".join(choice) for choice in itertools.product(*parts)]


def spoken(n):
    """A number from -99 to 100 in words."""
    if n < 0:
        return f"minus {spoken(-n)}"
    if n < 20:
        return UNITS[n]
    return "one hundred" if n == 100 else TENS[n // 10 - 2] + (f"-{UNITS[n % 10]}" if n % 10 else "")


def rephrased(asks):
    """The same questions as other people put them."""
    more = []
    for ask in asks:
        if thing := re.fullmatch(r"What is (an? .+|the .+|[A-Za-z-]+( [a-z]+)?)\?", ask):
            x = thing[1]
            more += [f"Tell me about {x}.", f"Explain {x}.", f"What exactly is {x}?", f"Do you know what {x} is?", f"Can you explain {x}?",
                     f"Tell me what {x} is.", f"Explain what {x} is.", f"Explain {x} in simple words.", f"{x[0].upper()}{x[1:]}?"]
        if deed := re.fullmatch(r"How (do|can) I (.+)\?", ask):
            more += [f"How can I {deed[2]}?", f"I want to {deed[2]}.", f"Show me how to {deed[2]}.", f"What is the way to {deed[2]}?", f"How to {deed[2]}?"]
        if what := re.fullmatch(r"What does (.+) do\?", ask):
            more += [f"Tell me what {what[1]} does.", f"What is {what[1]} for?", f"What is the job of {what[1]}?", f"Explain what {what[1]} does."]
        if case := re.fullmatch(r"What happens (when|if) (.+)\?", ask):
            more += [f"What if {case[2]}?", f"What does Trackside do when {case[2]}?", f"And if {case[2]}?"]
    return asks + more


class Topic(typing.NamedTuple):
    """Ways to ask for one answer. Rows of one table share its name as `group`; `subject` is what a row is about."""
    kind: str
    asks: list
    answer: str
    group: str = ""
    subject: str = ""


def topics():
    """Every paragraph of Q and A lines, every row of a table, and what is made by rule."""
    found = []
    for name in ["trackside.txt", "smalltalk.txt", "facts.txt", "world.txt"]:
        for lines in paragraphs(name):
            asks = [line[3:] for line in lines if line.startswith("Q: ")]
            [answer] = [line[3:] for line in lines if line.startswith("A: ")]
            if not lines[0].startswith("table "):
                found.append(Topic(name, rephrased([way.strip() for ask in asks for way in ways(ask)]), answer))
                continue
            for row in [line.split(" | ") for line in lines if " | " in line]:
                asked = [way.format(*row).strip() for ask in asks for way in ways(ask)]
                found.append(Topic("row", asked, answer.format(*row), lines[0].removeprefix("table "), row[0]))
    for a, b in itertools.product(range(11), repeat=2):
        x, y = spoken(a), spoken(b)
        for word, sign, result in [("plus", "+", a + b), ("minus", "-", a - b), ("times", "*", a * b)]:
            asks = [f"What is {x} {word} {y}?", f"How much is {x} {word} {y}?", f"What is {a} {sign} {b}?", f"{a} {sign} {b}", f"{x} {word} {y}?",
                    f"{a}{sign}{b}", f"What's {a}{sign}{b}?", f"Calculate {a} {sign} {b}.", f"What is {a} {word} {b}?"]
            found.append(Topic("sum", asks, f"{x.capitalize()} {word} {y} is {spoken(result)}."))
    for n in range(1, 30):
        found.append(Topic("sum", [f"What comes after {spoken(n)}?", f"What number comes after {n}?"], f"After {spoken(n)} comes {spoken(n + 1)}."))
    stories = paragraphs("stories.txt")
    for about, text in stories:
        asks = [f"{verb} a {short}story about {thing}{end}" for verb in ["Tell me", "Write", "Write me", "Can you tell me"] for short in ["", "short "]
                for thing in about.removeprefix("about: ").split(", ") for end in [".", ", please."]]
        found.append(Topic("story", asks, text))
    any_story = ["Tell me a story.", "Tell me a story", "Write a story.", "Write a short story.", "Can you tell me a story?", "Do you know a story?",
                 "I would like to hear a story.", "A story, please.", "Another story, please.", "Tell me a short story."]
    found.append(Topic("story", any_story, stories[0][1]))
    return found


def greeting(rng):
    """Somebody says a name: a usual one, or syllables, so that the name is copied and not known."""
    name = rng.choice(NAMES)
    if rng.random() < 0.6:
        name = "".join(rng.choice("b d f g h j k l m n p r s t v w ch st br".split()) + rng.choice("a e i o u".split()) + rng.choice(["", "", "n", "r", "l"])
                       for _ in range(rng.choice([1, 2, 2, 3]))).capitalize()
    asks = [f"My name is {name}.", f"I am {name}.", f"Hello, my name is {name}.", f"Hi, I am {name}!", f"I'm {name}", f"They call me {name}."]
    return Topic("name", asks, f"Hello, {name}! It is nice to meet you. What would you like to know?", subject=name)


def hard_sum(rng):
    a, b = 11 + rng.randrange(10 ** rng.choice([2, 3, 4])), rng.randrange(10 ** rng.choice([1, 2, 3]))
    sign, word = rng.choice([("+", "plus"), ("-", "minus"), ("*", "times"), ("/", "divided by")])
    asks = [f"What is {a} {sign} {b}?", f"{a} {sign} {b}", f"{a}{sign}{b}", f"How much is {a} {word} {b}?", f"Calculate {b} {sign} {a}.", f"What is {b} {word} {a}?"]
    return Topic("hard sum", asks, "That is too hard for me. I only add, subtract and multiply numbers up to ten.")


class Unknown:
    """Questions beyond the model: forms filled with words."""

    def __init__(self):
        lines = [line for block in paragraphs("unknown.txt") for line in block]
        self.forms = [way for line in lines if line.startswith("Q: ") for way in ways(line[3:])]
        [self.answer] = [line[3:] for line in lines if line.startswith("A: ")]
        [self.words] = [line.removeprefix("words: ").split("; ") for line in lines if line.startswith("words: ")]

    def draw(self, rng):
        text = rng.choice(self.forms)
        while "{w}" in text:
            text = text.replace("{w}", rng.choice(self.words), 1)
        return Topic("unknown", [text[0].upper() + text[1:]], self.answer)


def respell(text, rng):
    """What people do to a question: lower case, no mark at the end, a word before it, two letters the wrong way round."""
    chance = rng.random()
    if chance < 0.15:
        text = text.rstrip("?.!")
    elif chance < 0.25:
        text = text.lower()
    elif chance < 0.32:
        text = text.lower().rstrip("?.!")
    elif chance < 0.40 and len(text) > 12:
        text = rng.choice(["Please, ", "Hey, ", "So, ", "Hi. ", "Hello! ", "And ", "I have a question. ", "Tell me, "]) + text
    elif chance < 0.44 and len(text) > 12:
        text += rng.choice([" Thanks!", " Please be brief.", " Answer shortly.", " I want to know."])
    if rng.random() < 0.05 and len(text) > 8:
        at = rng.randrange(len(text) - 1)
        text = text[:at] + text[at + 1] + text[at] + text[at + 2:]
    return text


class Dialogues:
    """Draws training documents; each is a list of (text, whether the model has to say it)."""
    WEIGHTS = {"trackside.txt": 1.5, "smalltalk.txt": 1.0, "facts.txt": 1.0, "world.txt": 1.0, "row": 0.5, "sum": 0.6, "story": 1.0}
    MY_NAME = ["What is my name?", "Who am I?", "Do you know my name?", "Do you remember my name?", "What's my name?"]

    def __init__(self):
        self.topics = topics()
        self.weights = list(itertools.accumulate(self.WEIGHTS[topic.kind] for topic in self.topics))
        self.unknown = Unknown()
        self.groups = {}
        for topic in self.topics:
            self.groups.setdefault(topic.group, []).append(topic)
        answers = {}
        for topic, ask in ((topic, ask) for topic in self.topics for ask in topic.asks):
            known = answers.setdefault(ask.lower().rstrip("?.!"), topic.answer)
            if known != topic.answer:
                raise SystemExit(f"two answers to {ask!r}: {known!r} and {topic.answer!r}")
        self.prose = [" ".join(lines) for lines in paragraphs("prose.txt")] + [text for _, text in paragraphs("stories.txt")]
        self.prose += [topic.answer for topic in self.topics if topic.kind == "trackside.txt"]

    def turn(self, rng, before, name):
        """The next topic: what follows from the turn before, what is unknown, or anything."""
        if before is not None and before.group and rng.random() < 0.4:
            row = rng.choice(self.groups[before.group])
            return row._replace(asks=[f"And {row.subject}?", f"What about {row.subject}?", f"And of {row.subject}?", f"And for {row.subject}?"])
        if rng.random() < (0.25 if name else 0.01):
            return Topic("my name", self.MY_NAME, f"Your name is {name}." if name else "You have not told me your name yet.")
        chance = rng.random()
        if chance < 0.13:
            return self.unknown.draw(rng)
        if chance < 0.17:
            return greeting(rng)
        if chance < 0.185:
            return hard_sum(rng)
        return rng.choices(self.topics, cum_weights=self.weights)[0]

    def document(self, rng):
        if rng.random() < 0.12:
            return [(rng.choice(self.prose), True), ("<|im_end|>", True), ("\n", False)]
        pieces = []
        if rng.random() < 0.25:
            pieces.append((f"<|im_start|>system\n{rng.choice(SYSTEMS)}<|im_end|>\n", False))
        topic, name = None, ""
        for _ in range(rng.choices([1, 2, 3, 4, 6], [10, 4, 2, 1, 1])[0]):
            topic = self.turn(rng, topic, name)
            name = topic.subject if topic.kind == "name" else name
            usual = topic.asks[:4] if rng.random() < 0.4 else topic.asks     # what is written first is asked most
            pieces.append((f"<|im_start|>user\n{respell(rng.choice(usual), rng)}<|im_end|>\n<|im_start|>assistant\n", False))
            pieces.append((f"{topic.answer}<|im_end|>", True))
            pieces.append(("\n", False))
        return pieces


# --- tokenizer, model, training


# As SmolLM2's: each digit alone, GPT-2's pattern, bytes. `tokenizer.ggml.pre` calls it "smollm".
SMOLLM = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])


def read_tokenizer():
    """The tokenizer of the committed file. transformers ignores `tokenizer.ggml.pre`, so that is set here."""
    fast = AutoTokenizer.from_pretrained(MODEL.parent, gguf_file=MODEL.name, clean_up_tokenization_spaces=False)
    fast.backend_tokenizer.pre_tokenizer = SMOLLM
    return fast


def make_tokenizer(dialogues):
    rng = random.Random(1)
    text = ["".join(piece for piece, _ in dialogues.document(rng)) for _ in range(3000)] + dialogues.prose
    text = [re.sub(r"<\|\w+\|>", "\n", document) for document in text]
    tk = Tokenizer(models.BPE())
    tk.pre_tokenizer = SMOLLM
    tk.decoder = decoders.ByteLevel()
    tk.train_from_iterator(text, trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=SPECIALS, show_progress=False,
                                                     initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    fast = PreTrainedTokenizerFast(tokenizer_object=tk, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>",
                                   clean_up_tokenization_spaces=False)
    fast.chat_template = TEMPLATE
    return fast


def make_model(tokenizer):
    torch.manual_seed(7)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=5, num_attention_heads=6, num_key_value_heads=2, head_dim=32,
        max_position_embeddings=CONTEXT, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=True,
        initializer_range=0.02, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}))


class Batches:
    """Windows of tokens with the targets that count; every window begins where a document begins."""

    def __init__(self, tokenizer, dialogues, seed):
        self.tokenizer, self.dialogues, self.rng, self.known = tokenizer, dialogues, random.Random(seed), {}

    def ids(self, text):
        if text not in self.known:
            self.known[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self.known[text]

    def window(self, length):
        ids, own = [], []
        while len(ids) <= length:
            for text, mine in self.dialogues.document(self.rng):
                piece = self.ids(text)
                ids += piece
                own += [mine] * len(piece)
        targets = [i if mine else -100 for i, mine in zip(ids[1:length + 1], own[1:length + 1])]
        return ids[:length], targets

    def batch(self, rows, length):
        windows = [self.window(length) for _ in range(rows)]
        return tuple(torch.tensor(part) for part in zip(*windows))


def train(model, batches, steps, peak):
    """AdamW; warm-up, a constant rate, and a linear end over the last third. One batch in ten has longer windows, up to the whole context."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}], lr=1e-3, betas=(0.9, 0.98))
    started, smoothed = time.monotonic(), None
    for step in range(steps):
        rate = peak * min(1, (step + 1) / 60, 3 * (steps - step) / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows, length = [(1, CONTEXT), (2, 1024), (3, 512)][step // 10 % 3] if step % 10 == 9 else (6, WINDOW)
        ids, targets = batches.batch(rows, length)
        own = targets != -100
        logits = model.lm_head(model.model(ids).last_hidden_state[own])
        loss = torch.nn.functional.cross_entropy(logits, targets[own])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        smoothed = loss.item() if smoothed is None else 0.97 * smoothed + 0.03 * loss.item()
        if step % 50 == 0:
            print(f"step {step} loss {smoothed:.4f} rate {rate:.5f} {time.monotonic() - started:.0f} s", flush=True)


# --- what it says

PROMPTS = [
    "What is Trackside?", "Hello!", "Who are you?", "What does the scheduler do?", "What does the node agent do?", "What is the KV cache?",
    "How does prefix caching work?", "How do I start Trackside?", "How do I load a larger model?", "What happens when an engine dies?",
    "Which ports does Trackside use?", "What is continuous batching?", "What is the capital of Norway?", "What is three plus four?",
    "Why is the sky blue?", "Tell me a story about a signal.", "Tell me a joke.", "My name is Clara.", "Thank you!", "Who was Napoleon?",
    "What is a token?", "What is the opposite of early?", "Write a haiku.", "Can I trust your answers?", "What does trackside status do?",
]


def load(dtype):
    return AutoModelForCausalLM.from_pretrained(MODEL.parent, gguf_file=MODEL.name, dtype=torch.float32).eval().to(dtype)


def write_answers(tokenizer):
    """20 prompts with the greedy answers of transformers on the dequantised file, each clear enough (golden.GAP) to hold elsewhere."""
    model, model64 = load(torch.float32), load(torch.float64)
    prompts = []
    for text in PROMPTS:
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
        prompts.append((prompt, tokenizer(prompt, add_special_tokens=False).input_ids))
    cases, rejected = golden.collect(model, model64, tokenizer, prompts, 20, 160, [tokenizer.eos_token_id])
    asked = {prompt: text for (prompt, _), text in zip(prompts, PROMPTS)}
    answers = []
    for case in cases:
        ended = case["output_ids"][-1] == tokenizer.eos_token_id
        answers.append({"question": asked[case["prompt"]], "answer": case["text"], "prompt_ids": case["prompt_ids"], "output_ids": case["output_ids"],
                        "min_gap": case["min_gap"], "ended": ended})
        print(f"{case['min_gap']:.3f} {asked[case['prompt']]} -> {case['text']}", flush=True)
        assert ended, "the answer has no end"
    golden.write(HERE / "answers.json", rejected_prompts=rejected, cases=answers)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=2000)
    arguments.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    arguments.add_argument("--seed", type=int, default=3, help="of the dialogues that are drawn")
    arguments.add_argument("--resume", action="store_true", help="go on from the committed file")
    arguments.add_argument("--answers", action="store_true", help="do not train, only write answers.json from the committed file")
    given = arguments.parse_args()
    torch.use_deterministic_algorithms(True)
    dialogues = Dialogues()
    tokenizer = read_tokenizer() if given.resume or given.answers else make_tokenizer(dialogues)
    if not given.answers:
        model = load(torch.float32).train() if given.resume else make_model(tokenizer)
        print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M weights, {len(dialogues.topics)} topics, {len(tokenizer)} tokens", flush=True)
        train(model, Batches(tokenizer, dialogues, given.seed), given.steps, given.rate)
        write_gguf(MODEL, model.eval(), tokenizer, gguf.GGMLQuantizationType.Q8_0, TEMPLATE, pre="smollm", name="trackside-builtin")
        print(f"{MODEL.stat().st_size / 1e6:.2f} MB", flush=True)
    write_answers(tokenizer)


if __name__ == "__main__":
    main()
