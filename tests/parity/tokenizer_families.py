"""What Hugging Face's tokenizers make of texts, for the kinds of tokenizers that models come with: python tests/parity/tokenizer_families.py

Each family is a small tokenizer, trained here on tests/parity/corpus.txt, with the splitting, the normaliser, the post-processor and the added
tokens of the models that it stands for. Byte-level families share one vocabulary. Into engine/text/tests/goldens/tokenizers.json, where `decoded` is
the text, `shown` (without special tokens) what is decoded, and `around` (with them put around) the ids, unless it says otherwise.
"""
import json
import pathlib
import random

import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
OUT = HERE.parent.parent / "engine" / "text" / "tests" / "goldens" / "tokenizers.json"
SPECIAL = ["<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"]
TEXTS = [
    "", " ", "a", " a", "Hello world", "  two  spaces  ", "don't I'LL we'Ve 'sO", "camelCaseWords andALLCAPSThen iPhone XMLHttp", "a\nb\r\nc\n\n\nd \n e\t\tf \r",
    "1 12 123 1234 12345 1234567 3.14 1,000 ½ ² ٣٤", "x=1;if(a!=b){return a[i]+=2;} // done\n    indented\n\tTab", "https://ex.org/a/b?c=d&e=%20#f ../x//y", "$5 + 3 <= 9 ~ ^ | `code` ... !!! ?! \"q\" (p) [b] {c}",
    "Größe café naïve Ünïcode e\u0301a\u0308 \u0301x", "日本語のテキスト、中文字符。한국어 문장", "中文abc123中文 テスト！", "हिन्दी पाठ العربية עברית ไทย", "🚂👩‍👩‍👧🇩🇪 ok 👍🏽", "\u00a0nbsp\u2003em\u200bzw\u2028ls", "\x00\x01\x7f", "▁ lower ▁one",
    "a<|im_start|>b", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>", " <|im_end|> x", "<|im_", "<|begin|><|end|>", "the signal shows the line " * 6, "a" * 40, " " * 17 + "x" + "\n" * 5,
]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = QWEN2.replace(r"]?\p{L}+", r"]?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]+", r"[^\s\p{L}\p{M}\p{N}]+")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}|{REST}"
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{SHORT}|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{SHORT}|\p{{N}}{{1,3}}|{REST}"
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]


def split(*regexes):
    return {"type": "Sequence", "pretokenizers": [*({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False} for regex in regexes), byte_level(False)]}


def byte_level(use_regex=True, prefix=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def added(id, content, **flags):
    return {"id": id, "content": content, **{flag: flags.get(flag, False) for flag in ("single_word", "lstrip", "rstrip", "normalized")}, "special": flags.get("special", True)}


def template(first=(), last=()):
    around = lambda tokens: [{"SpecialToken": {"id": token, "type_id": 0}} for token in tokens]
    return {"type": "TemplateProcessing", "single": [*around(first), {"Sequence": {"id": "A", "type_id": 0}}, *around(last)], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {token: {"id": token, "ids": [SPECIAL.index(token)], "tokens": [token]} for token in [*first, *last]}}


def train_byte_level(corpus):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=640, special_tokens=SPECIAL, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    # A word that no merge makes: only where merges are ignored is it one token.
    return [*tokens, "Ġworld"] if "Ġworld" not in tokens else tokens, model["merges"]


def train_sentence_piece(corpus, kind):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True) if kind == "BPE" else models.Unigram())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=520, special_tokens=special, show_progress=False, limit_alphabet=90) if kind == "BPE" else trainers.UnigramTrainer(vocab_size=420, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    if kind != "BPE":
        model["byte_fallback"] = True
    return model


def families(corpus):
    bpe = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    special = [added(id, token) for id, token in enumerate(SPECIAL)]
    bytes_decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    base = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None, "pre_tokenizer": byte_level(), "post_processor": None, "decoder": bytes_decoder, "model": bpe}
    nfc, keep = {"type": "NFC"}, {**bpe, "ignore_merges": True}
    digits = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level()]}
    bos, around = template(["<|begin|>"]), template(["<|begin|>"], ["<|end|>"])
    # name, tokenizer.ggml.pre, what is changed
    yield "gpt2", "gpt-2", base
    yield "smollm", "smollm", {**base, "pre_tokenizer": digits}
    yield "llama3", "llama-bpe", {**base, "pre_tokenizer": split(LLAMA3), "model": keep, "post_processor": {"type": "Sequence", "processors": [byte_level(), bos]}}
    yield "qwen2", "qwen2", {**base, "pre_tokenizer": split(QWEN2), "normalizer": nfc}
    yield "qwen3.5", "qwen35", {**base, "pre_tokenizer": split(QWEN35), "normalizer": nfc}
    yield "tekken", "tekken", {**base, "pre_tokenizer": split(TEKKEN), "model": keep, "post_processor": bos}
    yield "gpt-4o", "gpt-4o", {**base, "pre_tokenizer": split(O200K)}
    yield "deepseek-v3", "deepseek-v3", {**base, "pre_tokenizer": split(*DEEPSEEK), "post_processor": bos}
    yield "a space before", None, {**base, "pre_tokenizer": byte_level(prefix=True), "post_processor": {"type": "RobertaProcessing", "cls": ["<|begin|>", 0], "sep": ["<|end|>", 1], "trim_offsets": True, "add_prefix_space": True}}
    yield "added tokens", None, {**base, "post_processor": around, "added_tokens": [special[0], special[1], added(2, "<|im_start|>", lstrip=True), added(3, "<|im_end|>", rstrip=True), added(642, "signal", single_word=True, special=False), added(643, "two", normalized=True, special=False), added(644, "\n\n", special=False)]}
    yield "added tokens, normalised", None, {**base, "normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, nfc]}, "added_tokens": [*special, added(642, "Café", normalized=True, special=False), added(643, "Hello", normalized=False, special=False)]}
    sp = [added(0, "<unk>"), *(added(id + 1, token) for id, token in enumerate(SPECIAL))]
    marks = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    unmark = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    spoken = lambda *more: {"type": "Sequence", "decoders": [unmark, {"type": "ByteFallback"}, {"type": "Fuse"}, *more]}
    prefix = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    piece, unigram = train_sentence_piece(corpus, "BPE"), train_sentence_piece(corpus, "Unigram")
    yield "llama2, legacy", None, {**base, "added_tokens": sp, "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, marks]}, "pre_tokenizer": None, "decoder": spoken(prefix), "model": piece}
    metaspace = lambda scheme, split: {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}
    yield "llama2", None, {**base, "added_tokens": sp, "pre_tokenizer": metaspace("first", False), "decoder": spoken(prefix), "model": "llama2, legacy"}
    yield "gemma", None, {**base, "added_tokens": sp, "normalizer": marks, "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}, "decoder": spoken(), "model": "llama2, legacy"}
    yield "unigram", None, {**base, "added_tokens": sp, "pre_tokenizer": metaspace("always", True), "decoder": metaspace("always", True), "model": unigram}


def main():
    corpus = [line for line in (HERE / "corpus.txt").read_text().splitlines() if line]
    tokens, merges = train_byte_level(corpus)
    byte_level_model = {"vocab": {token: id for id, token in enumerate(tokens)}, "merges": merges}
    rng = random.Random(7)
    lines, known = [], {}
    for name, pre, spec in families(corpus):
        whole = {**spec, "model": known[spec["model"]] if isinstance(spec["model"], str) else {**spec["model"], **(byte_level_model if "vocab" not in spec["model"] else {})}}
        known[name] = whole["model"]
        tokenizer = Tokenizer.from_str(json.dumps(whole))
        cases = []
        for text in TEXTS:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            around, decoded, shown = tokenizer.encode(text, add_special_tokens=True).ids, tokenizer.decode(ids, skip_special_tokens=False), tokenizer.decode(ids, skip_special_tokens=True)
            # What is as one expects is left out.
            unexpected = {"around": (around, ids), "decoded": (decoded, text), "shown": (shown, decoded)}
            cases.append({"text": text, "ids": ids, **{key: got for key, (got, expected) in unexpected.items() if got != expected}})
        size = tokenizer.get_vocab_size()
        streams = []
        for length in (1, 2, 5, 40, 40):
            ids = [rng.randrange(size) for _ in range(length)]
            streams.append({"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)})
        lines.append(json.dumps({"name": name, "pre": pre, "json": spec, "cases": cases, "streams": streams}, ensure_ascii=False))
    body = ",\n".join(lines)
    head = f'"tokenizers": "{tokenizers.__version__}",\n"tokens": {json.dumps(tokens, ensure_ascii=False)},\n"merges": {json.dumps(merges, ensure_ascii=False)}'
    OUT.write_text(f'{{\n{head},\n"cases": [\n{body}\n]}}\n')


main()
