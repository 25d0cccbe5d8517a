"""Ten thousand requests of all kinds through the gateway to two engines, and a ledger of every one of them on the client's side.

Short ones, long ones, streamed and whole; ones whose client goes away in the middle; ones that are refused. At the end the engines' counters
must say what the ledger says, nothing may run or wait or hold a block, and anonymous memory may not have grown since the first fifth.
What does not hold is raised.
"""
import collections
import concurrent.futures
import http.client
import json
import os
import pathlib
import random
import sys
import threading
import time

import figure
import machine

os.environ.setdefault("TRACKSIDE", str(figure.ROOT / "target/release/trackside"))
sys.path.insert(0, str(figure.ROOT / "tests/clients"))
import trackside  # noqa: E402

CLIENTS, ENGINES, REQUESTS, MODEL = 16, 2, 10_000, "builtin"
GROWTH_MIB_MAX = 8
WORDS = ["signal", "train", "points", "track", "lever", "lamp", "rail", "cabin"]
KINDS = {"short": 60, "long": 10, "stream": 15, "gone": 8, "bad": 7}


class Ledger:
    """What the client knows of its requests."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counts = collections.Counter()
        self.wrong = []

    def enter(self, kind, **counts):
        with self.lock:
            self.counts.update({kind: 1, **counts})

    def complain(self, number, what):
        with self.lock:
            self.wrong.append(f"request {number}: {what}")


class Client(threading.local):
    connection = None

    def post(self, address, body):
        if self.connection is None:
            self.connection = http.client.HTTPConnection(address, timeout=120)
        self.connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        return self.connection.getresponse()

    def leave(self):
        self.connection.close()
        self.connection = None


def text(dice, words):
    return " ".join(dice.choice(WORDS) for _ in range(words))


def one(client, ledger, address, model, number):
    dice = random.Random(number)
    [kind] = dice.choices([*KINDS], [*KINDS.values()])
    words = 400 if kind == "long" else dice.randrange(2, 40)
    tokens = dice.randrange(1, 24)
    body = {"model": model, "prompt": f"{number} {text(dice, words)}", "max_tokens": tokens, "ignore_eos": True, "temperature": dice.choice([0, 1])}
    if kind == "bad":
        status, change = dice.choice([(404, {"model": "nobody"}), (400, {"temperature": -1}), (400, {"prompt": text(dice, 9000)}), (400, {"max_tokens": "many"})])
        answer = client.post(address, {**body, **change, "stream": dice.random() < 0.5})
        said = answer.read()
        if answer.status != status or b'"error"' not in said:
            ledger.complain(number, f"{change.keys()} gave {answer.status}, not {status}: {said[:200]!r}")
        return ledger.enter(kind)
    if kind == "gone":
        # Long enough that it cannot have ended by itself.
        answer = client.post(address, {**body, "max_tokens": 1500, "stream": True})
        for _ in range(dice.randrange(1, 6)):
            answer.readline()
        client.leave()
        return ledger.enter(kind)
    if kind == "stream":
        answer = client.post(address, {**body, "stream": True, "stream_options": {"include_usage": True}})
        events = [line[6:].strip() for line in answer if line.startswith(b"data: ")]
        if answer.status != 200 or not events or events[-1] != b"[DONE]":
            ledger.complain(number, f"status {answer.status}, end {events[-1:]}")
            return ledger.enter(kind)
        usage = json.loads(events[-2])["usage"]
    else:
        answer = client.post(address, body)
        said = json.loads(answer.read())
        if answer.status != 200 or said["choices"][0]["finish_reason"] != "length":
            ledger.complain(number, f"status {answer.status}: {str(said)[:200]}")
            return ledger.enter(kind)
        usage = said["usage"]
    if usage["completion_tokens"] != tokens:
        ledger.complain(number, f"{usage['completion_tokens']} tokens, not {tokens}")
    ledger.enter(kind, prompt_tokens=usage["prompt_tokens"], generation_tokens=usage["completion_tokens"])


def metrics(engines):
    """Sums over all engines: {series without model and engine: value}"""
    found = collections.Counter()
    for engine in engines:
        for line in trackside.get(engine["address"], "/metrics")[1].splitlines():
            if line.startswith("vllm:"):
                series, value = line.rsplit(" ", 1)
                name, _, labels = series.partition("{")
                kept = [label for label in labels.rstrip("}").split(",") if label.startswith("finished_reason")]
                found["".join([name, *kept])] += float(value)
    return found


def anonymous_mib(engines):
    def of(pid):
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))
    return [of(engine["pid"]) for engine in engines]


def measure(given, tick):
    steal, ledger, client = machine.Steal(), Ledger(), Client()
    with trackside.running("up", "--json", "--any-port", "--engines", str(ENGINES), "--model", MODEL) as bound:
        listed = trackside.until("a gateway that has a model", lambda: json.loads(trackside.get(bound["gateway"], "/v1/models")[1])["data"])
        model, engines = listed[0]["id"], bound["engines"]
        trackside.until("engines that are ready", lambda: all(trackside.ready(engine["address"]) for engine in engines))

        def send(numbers):
            with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
                for done in concurrent.futures.as_completed([pool.submit(one, client, ledger, bound["gateway"], model, number) for number in numbers]):
                    done.result()
                    tick(sum(ledger.counts[kind] for kind in KINDS) / REQUESTS)

        def idle():
            now = metrics(engines)
            return now if now["vllm:num_requests_running"] + now["vllm:num_requests_waiting"] + now["vllm:kv_cache_usage_perc"] == 0 else None
        before, begun = metrics(engines), time.monotonic()
        fifth = REQUESTS // 5
        send(range(fifth))
        trackside.until("idle engines", idle)
        warm = anonymous_mib(engines)
        send(range(fifth, REQUESTS))
        seconds = time.monotonic() - begun
        after = trackside.until("idle engines, no block held", idle)
        growth = max(end - start for start, end in zip(warm, anonymous_mib(engines)))
    told = {name: after[name] - before[name] for name in after}
    answered = sum(ledger.counts[kind] for kind in ["short", "long", "stream"])
    reason = 'vllm:request_success_totalfinished_reason="{}"'.format
    gone = ledger.counts["gone"]
    checks = {
        "every request has an outcome": sum(ledger.counts[kind] for kind in KINDS) == REQUESTS,
        "answered": told[reason("length")] == answered,
        "aborted": told[reason("abort")] == gone,
        "prompt tokens of those answered": told["vllm:prompt_tokens_total"] >= ledger.counts["prompt_tokens"],
        "generated tokens of those answered": told["vllm:generation_tokens_total"] >= ledger.counts["generation_tokens"],
        "latencies": told["vllm:e2e_request_latency_seconds_count"] == answered + told[reason("abort")],
        f"memory grew by at most {GROWTH_MIB_MAX} MiB": growth <= GROWTH_MIB_MAX,
    }
    wrong = ledger.wrong + [f"does not hold: {what}" for what, holds in checks.items() if not holds]
    counts = ", ".join(f"{ledger.counts[kind]} {kind}" for kind in KINDS)
    one_figure = figure.Figure("ledger", group="load", what=f"{REQUESTS:,} mixed requests through the gateway to {ENGINES} engines ({MODEL}): growth of anonymous memory since the first fifth",
                               unit="MiB", bar=f"≤ {GROWTH_MIB_MAX}, every request and every counter as the client's ledger says", samples=[growth],
                               sides={"all": {"unit": "requests/s", "samples": [REQUESTS / seconds]}, "wrong": {"unit": "", "samples": [len(wrong)]}},
                               notes=[f"Ledger: {counts}; engines' counters: {told[reason('length')]:.0f} length, {told[reason('abort')]:.0f} abort"], cpu=machine.cpu(), steal=steal.share())
    assert not wrong, "; ".join(wrong[:20])
    yield one_figure
