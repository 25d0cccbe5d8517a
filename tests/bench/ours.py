"""Trackside's engine as a benchmark meets it: over HTTP, measured by the client."""
import concurrent.futures
import http.client
import json
import os
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ.setdefault("TRACKSIDE", str(ROOT / "target/release/trackside"))
sys.path.insert(0, str(ROOT / "tests/clients"))
import trackside  # noqa: E402


class Ours:
    name = "Trackside"

    def __init__(self, stack, model, threads, rows=1, context=1024, flags=()):
        self.flags = ["--threads", str(threads), "--max-model-len", str(context), "--max-num-seqs", str(max(rows, 1)), *flags]
        bound = stack.enter_context(trackside.running("engine", "--model", str(model), "--port", "0", "--no-kv-events", *self.flags))
        self.address, self.pid = bound["address"], bound["pid"]
        trackside.until("an engine that is ready", lambda: trackside.ready(self.address))
        self.model = json.loads(trackside.get(self.address, "/v1/models")[1])["data"][0]["id"]

    def _ask(self, prompt, tokens, **more):
        connection = http.client.HTTPConnection(self.address, timeout=600)
        body = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "return_token_ids": True, **more}
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        return answer

    def _stream(self, prompt, tokens):
        """[(seconds since sending, tokens so far)]"""
        begun, seen = time.perf_counter(), []
        made = 0
        for line in self._ask(prompt, tokens, stream=True):
            if line.startswith(b"data: {"):
                now = time.perf_counter() - begun
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0].get("token_ids"):
                    made += len(choices[0]["token_ids"])
                    seen.append((now, made))
        assert made == tokens, (made, tokens)
        return seen

    def decode(self, prompt, tokens):
        """Tokens per second from the first token to the last: the prefill does not count."""
        seen = self._stream(prompt, tokens)
        return (tokens - seen[0][1]) / (seen[-1][0] - seen[0][0])

    def prefill(self, prompt):
        """Prompt tokens per second, from sending to the first token: HTTP and the first token's sampling count."""
        return len(prompt) / self._stream(prompt, 1)[0][0]

    def together(self, prompts, tokens):
        """Tokens per second of all, from the first request's sending to the last answer's end."""
        def one(prompt):
            answer = json.load(self._ask(prompt, tokens))
            return answer["usage"]["completion_tokens"]
        begun = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
            made = sum(pool.map(one, prompts))
        assert made == tokens * len(prompts), made
        return made / (time.perf_counter() - begun)
