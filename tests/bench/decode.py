"""Decode at batch 1 beside llama.cpp: same file, same threads, same tokens. Prints a table in Markdown.

    python3 -m venv target/bench-venv && target/bench-venv/bin/pip install llama-cpp-python==0.3.36 numpy
    cargo build --release --package trackside
    target/bench-venv/bin/python tests/bench/decode.py "$(tests/real/fetch-smollm2.sh)" [--threads 1 2] [--pairs 9] [--write FILE.md]

Alternated pairs in one run. Ours is measured over HTTP and server-sent events, as a client has it: (tokens - 1) / (last token - first
token), so that the prefill does not count. Theirs is measured where it is fastest:

    native     llama-cpp-python, compiled on this machine for this machine (about ten minutes): llama_decode and an argmax in process
    prebuilt   xllamacpp==2026.10.11549, ready made for AVX2: llama.cpp's own server, by its own timings. Fair where the CPU has no AVX-512

Both generate greedily from the same prompt ids, which our tokenizer makes of one fixed sentence. The ratio is the median of the pairs'
ratios. A side whose own samples lie more than 10 % apart (quartiles around the median) makes the row "unsteady": run it again on a quieter
machine.
"""
import argparse
import contextlib
import datetime
import http.client
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ.setdefault("TRACKSIDE", str(ROOT / "target/release/trackside"))
sys.path.insert(0, str(ROOT / "tests/clients"))
import trackside  # noqa: E402

SENTENCE = "<|im_start|>user\nExplain step by step how a railway signal keeps two trains apart.<|im_end|>\n<|im_start|>assistant\n"
CONTEXT = 1024


class Ours:
    def __init__(self, stack, model, threads):
        arguments = ["engine", "--model", model, "--threads", str(threads), "--port", "0", "--no-kv-events", "--max-model-len", str(CONTEXT)]
        self.address = stack.enter_context(trackside.running(*arguments))["address"]
        trackside.until("an engine that is ready", lambda: trackside.ready(self.address))
        self.model = json.loads(trackside.get(self.address, "/v1/models")[1])["data"][0]["id"]
        self.connection = http.client.HTTPConnection(self.address)

    def tokenize(self, text):
        return trackside.post(self.address, "/tokenize", {"prompt": text})["tokens"]

    def sample(self, prompt, tokens):
        body = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                "stream_options": {"include_usage": True}, "return_token_ids": True}
        self.connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        answer = self.connection.getresponse()
        assert answer.status == 200, answer.read()
        first, last, ids = None, None, []
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            now = time.perf_counter()
            choices = json.loads(line[6:])["choices"]
            if choices and choices[0].get("token_ids"):
                first = first or now
                last = now
                first_ids = len(choices[0]["token_ids"]) if not ids else first_ids
                ids += choices[0]["token_ids"]
        assert len(ids) == tokens, (len(ids), tokens)
        return (tokens - first_ids) / (last - first), ids


class Native:
    def __init__(self, stack, model, threads):
        import llama_cpp
        import numpy
        self.llama_cpp, self.numpy = llama_cpp, numpy
        self.name = f"llama.cpp of llama-cpp-python {llama_cpp.__version__}, compiled for this machine, in process"
        self.llama = llama_cpp.Llama(model, n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, n_batch=512, verbose=False)
        stack.callback(self.llama.close)

    def sample(self, prompt, tokens):
        llama, c = self.llama, self.llama_cpp
        llama.reset()
        llama.eval(prompt)
        vocabulary, context = llama.n_vocab(), llama.ctx
        batch = c.llama_batch_init(1, 0, 1)
        batch.n_tokens, batch.n_seq_id[0], batch.seq_id[0][0], batch.logits[0] = 1, 1, 0, 1

        def best():
            return int(self.numpy.ctypeslib.as_array(c.llama_get_logits_ith(context, -1), (vocabulary,)).argmax())
        ids = [best()]
        first = time.perf_counter()
        for position in range(len(prompt), len(prompt) + tokens - 1):
            batch.token[0], batch.pos[0] = ids[-1], position
            assert c.llama_decode(context, batch) == 0
            ids.append(best())
        last = time.perf_counter()
        c.llama_batch_free(batch)
        return (tokens - 1) / (last - first), ids


class Prebuilt:
    def __init__(self, stack, model, threads):
        import xllamacpp
        self.name = f"llama.cpp's server of xllamacpp {xllamacpp.__version__}, ready made for AVX2, by its own timings"
        parameters = xllamacpp.CommonParams()
        parameters.model.path, parameters.n_ctx, parameters.n_parallel, parameters.port = model, CONTEXT, 1, 0
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        self.server = xllamacpp.Server(parameters)
        self.address = self.server.listening_address.removeprefix("http://")

    def sample(self, prompt, tokens):
        body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False, "return_tokens": True}
        answer = trackside.post(self.address, "/completion", body, 600)
        return answer["timings"]["predicted_per_second"], answer["tokens"]


PEERS = {"native": Native, "prebuilt": Prebuilt}


def steal():
    """(stolen, all) jiffies of the machine so far."""
    fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[7], sum(fields)


def cpu():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    return f"{name}, {os.cpu_count()} cores, {'AVX-512' if 'avx512f' in flags else 'AVX2' if 'avx2' in flags else 'no AVX2'}"


def spread(samples):
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, middle, high


def measure(model, threads, pairs, tokens, peer):
    with contextlib.ExitStack() as stack:
        ours, theirs = Ours(stack, model, threads), peer(stack, model, threads)
        prompt = ours.tokenize(SENTENCE)
        _, our_ids = ours.sample(prompt, tokens)                 # warms both, and shows that they do the same work
        _, their_ids = theirs.sample(prompt, tokens)
        alike = next((i for i, (a, b) in enumerate(zip(our_ids, their_ids)) if a != b), tokens)
        stolen, total = steal()
        a, b = [], []
        for pair in range(pairs):
            for side, samples in [(ours, a), (theirs, b)] if pair % 2 == 0 else [(theirs, b), (ours, a)]:
                samples.append(side.sample(prompt, tokens)[0])
        stolen_now, total_now = steal()
    stolen = (stolen_now - stolen) / max(1, total_now - total)
    ratios = [x / y for x, y in zip(a, b)]
    unsteady = any((high - low) / middle > 0.10 for low, middle, high in [spread(a), spread(b)])

    def cell(samples, form):
        low, middle, high = spread(samples)
        return f"{middle:{form}} ({low:{form}}–{high:{form}})"
    print(f"threads {threads}: first {alike} of {tokens} tokens equal; steal {stolen:.1%}; load {os.getloadavg()[0]:.2f}", flush=True)
    return theirs.name, f"| {threads} | {cell(a, '.1f')} | {cell(b, '.1f')} | {cell(ratios, '.2f')} | {stolen:.1%} | {'unsteady' if unsteady else 'steady'} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--peer", choices=PEERS, default="native")
    parser.add_argument("--write", type=pathlib.Path)
    given = parser.parse_args()
    if given.pairs < 7:
        parser.error("a ratio needs at least 7 pairs")
    names, rows = zip(*(measure(given.model, threads, given.pairs, given.tokens, PEERS[given.peer]) for threads in given.threads))
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    table = "\n".join([
        "| threads | Trackside, tok/s | llama.cpp, tok/s | ratio | steal | run |", "|---|---|---|---|---|---|", *rows, "",
        f"{pathlib.Path(given.model).name}, batch 1, {given.tokens} tokens, median and quartiles of {given.pairs} alternated pairs; ratio is the median of the "
        f"pairs' ratios. {datetime.date.today()}, commit {commit}, {cpu()}. {names[0]}, "
        f"threads as given, else defaults. Tokens by Trackside's tokenizer.", ""])
    print(table)
    if given.write:
        given.write.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
