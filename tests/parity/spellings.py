"""Holds tests/fixtures/spellings.json against transformers: under each spelling of its configuration that is not refused, a tiny checkpoint
answers as its golden.json says. Writes nothing.

    python tests/parity/spellings.py
"""
import json
import pathlib
import shutil
import tempfile

import torch
from transformers import AutoConfig, AutoModelForCausalLM

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures"


def holds(case):
    folder = FIXTURES / "models" / case["model"]
    with tempfile.TemporaryDirectory() as scratch:
        copy = pathlib.Path(scratch) / "model"
        shutil.copytree(folder, copy)
        config = json.loads((copy / "config.json").read_text())
        for key in case.get("remove", []):
            del config[key]
        config.update(case.get("set", {}))
        (copy / "config.json").write_text(json.dumps(config))
        config = AutoConfig.from_pretrained(copy)
        model = AutoModelForCausalLM.from_pretrained(copy, config=config, dtype=torch.float32).eval()
        for golden in json.loads((folder / "golden.json").read_text())["cases"]:
            ids = torch.tensor([golden["prompt_ids"] + golden["output_ids"]])
            with torch.no_grad():
                best = model(ids).logits[0, len(golden["prompt_ids"]) - 1:-1].argmax(-1).tolist()
            if best != golden["output_ids"]:
                return False
    return True


def main():
    cases = json.loads((FIXTURES / "spellings.json").read_text())
    wrong = [case["case"] for case in cases if "refused" not in case and not holds(case)]
    print("\n".join(wrong) or f"{len(cases)} cases hold")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
