"""What transformers makes of a SentencePiece vocabulary from GGUF metadata: python tests/parity/sentence_piece.py, with transformers installed.

The vocabulary is the most frequent substrings of the words of a text. transformers builds several tokenizers from such metadata; the
one it takes for Phi-3 prefixes a space always, as SentencePiece and llama.cpp do, and is the one asked here.
"""
import collections
import json
import pathlib

import transformers
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

TEXT = """A signal stands beside the track and tells the driver whether the line ahead is free. The signals of one line hang together:
what the first shows depends on what the second shows, and nothing is shown that has not been proved. Trains, points and signals: the
trains run, the points turn, the signals speak. Größe, café, naïve, 日本語, 12 34 567.""".split()
INPUTS = ["", "a", " a", "  two  spaces ", "signal", "The signals of the line", "trains\nrun", "Größe", "日本語", "🚂", "unseen wörds!", "12345", "\t", "the" * 20,
          "a<s>b", "<s>", "</s> the", "<mark>x", "▁", "é"]


def main():
    counts = collections.Counter(piece for word in TEXT for word in ["▁" + word] for i in range(len(word)) for piece in [word[i:j] for j in range(i + 1, len(word) + 1)])
    pieces = sorted(counts, key=lambda piece: (-counts[piece] * len(piece), piece))[:260]
    singles = sorted({c for word in TEXT for c in "▁" + word if c not in "日本語"} - set(pieces))
    vocab = [("<unk>", 2, 0.0), ("<s>", 3, 0.0), ("</s>", 3, 0.0)] + [(f"<0x{byte:02X}>", 6, 0.0) for byte in range(256)]
    vocab += [(piece, 1, -float(rank // 2)) for rank, piece in enumerate(pieces + singles)] + [("<mark>", 4, 0.0)]
    tokens, kinds, scores = map(list, zip(*vocab))
    tokenizer, _ = convert_gguf_tokenizer("phi3", {"tokenizer_type": "llama", "tokens": tokens, "scores": scores, "token_type": kinds, "bos_token_id": 1, "eos_token_id": 2, "unk_token_id": 0})
    cases = []
    for text in INPUTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)})
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    head = ",\n".join(f'"{key}": {json.dumps(value, ensure_ascii=False)}' for key, value in [("transformers", transformers.__version__), ("tokens", tokens), ("kinds", kinds), ("scores", scores)])
    (pathlib.Path(__file__).parent.parent.parent / "engine" / "text" / "tests" / "goldens" / "sentence_piece.json").write_text(f'{{\n{head},\n"cases": [\n{lines}\n]}}\n')


main()
