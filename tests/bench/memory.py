"""What an engine keeps in memory: what is anonymous, what is the KV cache, and whether it grows with requests. Exits with 1 if it does.

    cargo build --release --package trackside
    python3 tests/bench/memory.py MODEL [--requests 10000] [--kv-cache-mib 64] [--arguments ...]

RssAnon of /proc/PID/status after a warm-up, after half of the requests and after all of them, and RssShmem, which is the KV cache. All of
the cache is taken from the system at the start; the kernel counts a page there when the engine first writes to it.
Requests are short and many, 16 at a time, each with its own prompt, streamed or not, some of them broken off.
"""
import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import random
import sys
import threading

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ.setdefault("TRACKSIDE", str(ROOT / "target/release/trackside"))
sys.path.insert(0, str(ROOT / "tests/clients"))
import trackside  # noqa: E402

CLIENTS = 16
GROWTH_MIB_MAX = 4


def memory_mib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status)
    return {name: int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile", "RssShmem")}


class Client(threading.local):
    connection = None

    def ask(self, address, model, number, tokens):
        dice = random.Random(number)
        words = " ".join(dice.choice(["signal", "train", "points", "track", "lever", "lamp"]) for _ in range(dice.randrange(1, 40)))
        body = {"model": model, "prompt": f"{number}: {words}", "max_tokens": tokens, "ignore_eos": True, "stream": number % 2 == 0}
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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--kv-cache-mib", type=int, default=64)
    parser.add_argument("--arguments", nargs=argparse.REMAINDER, default=[])
    given = parser.parse_args()
    client = Client()
    arguments = ["engine", "--model", given.model, "--port", "0", "--no-kv-events", "--kv-cache-mib", str(given.kv_cache_mib), *given.arguments]
    with trackside.running(*arguments) as engine:
        address = engine["address"]
        trackside.until("an engine that is ready", lambda: trackside.ready(address))
        model = json.loads(trackside.get(address, "/v1/models")[1])["data"][0]["id"]
        rows = [("ready", memory_mib(engine["pid"]))]
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            def requests(numbers):
                for done in concurrent.futures.as_completed([pool.submit(client.ask, address, model, number, given.tokens) for number in numbers]):
                    done.result()

            bounds = [0, given.requests // 10, given.requests * 55 // 100, given.requests]
            for first, last in zip(bounds, bounds[1:]):
                requests(range(first, last))
                rows.append((f"after {last} requests", memory_mib(engine["pid"])))
    print("| moment | RssAnon MiB | RssFile MiB | RssShmem MiB |\n| --- | ---: | ---: | ---: |")
    for moment, sizes in rows:
        print(f"| {moment} | {sizes['RssAnon']:.1f} | {sizes['RssFile']:.1f} | {sizes['RssShmem']:.1f} |")
    growth = rows[-1][1]["RssAnon"] - rows[1][1]["RssAnon"]
    print(f"\nanonymous memory grew by {growth:.1f} MiB after the first tenth")
    return 1 if growth > GROWTH_MIB_MAX else 0


if __name__ == "__main__":
    sys.exit(main())
