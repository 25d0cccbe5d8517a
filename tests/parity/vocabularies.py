"""llama.cpp's own vocabularies and what they make of its test texts, as JSON that the tests read: python tests/parity/vocabularies.py FOLDER OUT

FOLDER is `models` of llama.cpp's source. They are not ours to commit; TRACKSIDE_VOCABULARIES=OUT shows OUT to engine/text's tests.
"""
import json
import pathlib
import sys

import gguf


def main():
    folder, out = map(pathlib.Path, sys.argv[1:3])
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("ggml-vocab-*.gguf")):
        inputs, outputs = path.with_name(path.name + ".inp"), path.with_name(path.name + ".out")
        if not inputs.exists():
            continue
        fields = gguf.GGUFReader(path).fields

        def value(name, default=None):
            field = fields.get(f"tokenizer.ggml.{name}")
            return default if field is None else field.contents()

        texts = inputs.read_bytes().decode().split("\n__ggml_vocab_test__\n")
        ids = [[int(id) for id in line.split()] for line in outputs.read_text().splitlines()]
        tokenizer = {"model": value("model"), "pre": value("pre"), "tokens": value("tokens"), "kinds": value("token_type"), "scores": value("scores", []), "merges": value("merges", []), "space": value("add_space_prefix")}
        out.joinpath(path.stem + ".json").write_text(json.dumps({"tokenizer": tokenizer, "cases": [{"text": text, "ids": of} for text, of in zip(texts, ids)]}))


main()
