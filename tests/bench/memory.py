"""What a real engine keeps in memory over 10,000 requests: anonymous memory beside what the weights, the tokenizer and 64 MB account for.

RssAnon of /proc/PID/status after the first tenth, the half and all of the requests. The KV cache is shared memory (RssShmem), all of it taken
from the system at the start, so that it is its own line. Weights: as long as in the file, which is what repacking makes of them. Tokenizer,
with the tables that grammars need of it: what an engine that computes nothing (`--backend fake`) keeps for this model beyond what it keeps
for the built-in one. Requests are short and many, 16 at a time, each with its own prompt, streamed or not, some of them long, some broken
off. What does not hold is raised.
"""
import concurrent.futures
import http.client
import json
import os
import random
import sys
import threading

import engine
import figure
import machine

os.environ.setdefault("TRACKSIDE", str(figure.ROOT / "target/release/trackside"))
sys.path.insert(0, str(figure.ROOT / "tests/clients"))
import trackside  # noqa: E402

CLIENTS, REQUESTS, KV_CACHE_MIB = 16, 10_000, 64
# Beyond weights and tokenizer: 64 MB; and what may come and go after the first tenth.
REST_MIB_MAX, GROWTH_MIB_MAX = 64e6 / 2**20, 4
WORDS = ["signal", "train", "points", "track", "lever", "lamp"]


def memory_mib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status)
    return {name: int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssShmem")}


class Client(threading.local):
    connection = None

    def ask(self, address, model, number):
        dice = random.Random(number)
        words = 500 if number % 200 == 0 else dice.randrange(1, 12)
        text = " ".join(dice.choice(WORDS) for _ in range(words))
        body = {"model": model, "prompt": f"{number}: {text}", "max_tokens": 3, "ignore_eos": True, "stream": number % 2 == 0}
        if self.connection is None:
            self.connection = http.client.HTTPConnection(address, timeout=120)
        self.connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        answer = self.connection.getresponse()
        if number % 50 == 0:
            # A client that goes away in the middle.
            self.connection.close()
            self.connection = None
            return
        text = answer.read()
        assert answer.status == 200, text


def engine_of(model, *more):
    return trackside.running("engine", "--model", str(model), "--port", "0", "--no-kv-events", "--kv-cache-mib", str(KV_CACHE_MIB), *more)


def idle_mib(model):
    """Anonymous memory of an engine of this model that computes nothing."""
    with engine_of(model, "--backend", "fake") as bound:
        ready(bound["address"])
        return memory_mib(bound["pid"])["RssAnon"]


def ready(address):
    """Name of the model, once a grammar has been followed: its tables are made after all else."""
    trackside.until("an engine that is ready", lambda: trackside.ready(address))
    model = json.loads(trackside.get(address, "/v1/models")[1])["data"][0]["id"]
    trackside.post(address, "/v1/completions", {"model": model, "prompt": "a", "max_tokens": 4, "structured_outputs": {"choice": ["a", "b"]}})
    return model


def over_requests(path, tick):
    """[memory after a tenth, after 55 %, after all of the requests]"""
    client, found = Client(), []
    with engine_of(path) as bound:
        address = bound["address"]
        model = ready(address)
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            bounds = [0, REQUESTS // 10, REQUESTS * 55 // 100, REQUESTS]
            for first, last in zip(bounds, bounds[1:]):
                sent = [pool.submit(client.ask, address, model, number) for number in range(first, last)]
                for done, future in enumerate(concurrent.futures.as_completed(sent)):
                    future.result()
                    tick((first + done) / REQUESTS)
                found.append(memory_mib(bound["pid"]))
    return found


def measure(given, tick):
    import gguf
    steal, path = machine.Steal(), engine.smollm2()
    weights_mib = sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors) / 2**20
    tokenizer_mib = idle_mib(path) - idle_mib("builtin")
    seen = over_requests(path, tick)
    anonymous = [moment["RssAnon"] for moment in seen]
    rest, growth, kv = max(anonymous) - weights_mib - tokenizer_mib, anonymous[-1] - anonymous[0], seen[-1]["RssShmem"]
    sides = {"anonymous after a tenth, half and all": anonymous, "weights": [weights_mib], "tokenizer": [tokenizer_mib], "KV cache (shared)": [kv], "growth": [growth]}
    yield figure.Figure("memory", group="load", what=f"SmolLM2 135M Q4_1 over {REQUESTS:,} requests: anonymous memory beyond weights and tokenizer", unit="MiB",
                        bar=f"≤ {REST_MIB_MAX:.0f}, and at most {GROWTH_MIB_MAX} more at the end than after the first tenth", samples=[rest],
                        sides={name: {"unit": "MiB", "samples": samples} for name, samples in sides.items()}, cpu=machine.cpu(), steal=steal.share())
    assert rest <= REST_MIB_MAX, f"{rest:.1f} MiB beyond weights and tokenizer"
    assert growth <= GROWTH_MIB_MAX, f"anonymous memory grew by {growth:.1f} MiB after the first tenth"
    assert kv <= KV_CACHE_MIB + 1, f"{kv:.1f} MiB of shared memory for a KV cache of {KV_CACHE_MIB}"
