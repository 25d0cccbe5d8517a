"""SmolLM2 behind `trackside up`: goldens of tokenizer, chat template and 20 × 64 greedy tokens. Needs Python's standard library only.

    TRACKSIDE=target/debug/trackside python3 tests/real/check.py MODEL.gguf
"""
import concurrent.futures
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/clients"))
import trackside  # noqa: E402

GOLDENS = ROOT / "tests/fixtures/smollm2"
# 20 × 64 tokens of a 135 M model by an unoptimised build on a busy core.
ANSWER_S = 900


def cases(name):
    return json.loads((GOLDENS / name).read_text(encoding="utf-8"))["cases"]


def tokenizer(engine):
    for case in cases("tokenize.json"):
        found = trackside.post(engine, "/tokenize", {"prompt": case["text"]})["tokens"]
        yield f"tokens of {case['text'][:40]!r}", found, case["ids_with_special"]
        text = trackside.post(engine, "/detokenize", {"tokens": case["ids"]})["prompt"]
        yield f"text of {case['text'][:40]!r}", text, case["decoded"]
    for case in cases("chat.json"):
        body = {"messages": case["messages"], "add_generation_prompt": case["add_generation_prompt"]}
        yield f"chat {case['messages']}", trackside.post(engine, "/tokenize", body)["tokens"], case["ids"]


def generation(gateway, model):
    """All 20 at once: what they share of batches and cache must not change a token."""
    def ask(case):
        body = {"model": model, "messages": case["messages"], "max_tokens": len(case["output_ids"]), "temperature": 0, "ignore_eos": True,
                "return_token_ids": True}
        return case, trackside.post(gateway, "/v1/chat/completions", body, ANSWER_S)
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        for case, answer in pool.map(ask, cases("golden.json")):
            [choice] = answer["choices"]
            question = case["messages"][-1]["content"]
            yield f"prompt of {question!r}", answer["prompt_token_ids"], case["prompt_ids"]
            yield f"answer to {question!r}", choice["token_ids"], case["output_ids"]
            yield f"text to {question!r}", choice["message"]["content"], case["text"]


def main():
    with trackside.running("up", "--json", "--any-port", "--model", sys.argv[1], "--", "--dtype", "float32") as bound:
        listed = trackside.until("a gateway that has a model", lambda: json.loads(trackside.get(bound["gateway"], "/v1/models")[1])["data"])
        checks = failed = 0
        for what, found, expected in [*tokenizer(bound["engines"][0]["address"]), *generation(bound["gateway"], listed[0]["id"])]:
            checks += 1
            if found != expected:
                failed += 1
                print(f"{what}:\n  found    {found}\n  expected {expected}")
        print(f"{checks - failed} of {checks} checks hold")
        sys.exit(failed > 0)


if __name__ == "__main__":
    main()
