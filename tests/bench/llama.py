"""llama.cpp as its users run it: `llama-server` over HTTP by its own timings, and `llama-bench` in process.

tests/bench/llama.sh builds both; LLAMA names the folder of another build.
"""
import concurrent.futures
import json
import os
import pathlib
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]


def folder():
    if given := os.environ.get("LLAMA"):
        return pathlib.Path(given)
    return pathlib.Path(subprocess.run([ROOT / "tests/bench/llama.sh"], check=True, capture_output=True, text=True).stdout.strip())


def version():
    """What the build says of itself, and the archive that it was made of."""
    binaries = folder()
    said = subprocess.run([binaries / "llama-bench", "--version"], capture_output=True, text=True)
    lines = [line.strip() for line in (said.stdout + said.stderr).splitlines() if "version" in line]
    archive = next((part for part in binaries.parts if part.startswith("llama_cpp_python")), "unknown archive")
    return f"llama.cpp of {archive} ({lines[0] if lines else 'no version'}), GGML_NATIVE"


def post(address, path, body, timeout_s=600):
    request = urllib.request.Request(f"http://{address}{path}", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        return json.load(answer)


def free_port():
    import socket
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class Server:
    name = "llama-server"

    def __init__(self, stack, model, threads, rows=1, context=1024, flags=()):
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.flags = ["-t", str(threads), "-tb", str(threads), "-np", str(rows), "-cb", "-c", str(context * rows), *flags]
        log = stack.enter_context(tempfile.TemporaryFile())
        command = [folder() / "llama-server", "-m", str(model), "--host", "127.0.0.1", "--port", str(port), "--no-ui", *self.flags]
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.pid = self.process.pid
        stack.callback(self._end)
        end = time.monotonic() + 120
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > end:
                log.seek(0)
                raise RuntimeError(f"llama-server did not start: {log.read().decode(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def _ready(self):
        try:
            with urllib.request.urlopen(f"http://{self.address}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def _end(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _ask(self, prompt, tokens):
        body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        answer = post(self.address, "/completion", body)
        assert answer["tokens_predicted"] == tokens, answer["tokens_predicted"]
        return answer["timings"]

    def decode(self, prompt, tokens):
        return self._ask(prompt, tokens)["predicted_per_second"]

    def prefill(self, prompt):
        timings = self._ask(prompt, 1)
        assert timings["prompt_n"] == len(prompt), timings
        return timings["prompt_per_second"]

    def together(self, prompts, tokens):
        begun = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
            list(pool.map(lambda prompt: self._ask(prompt, tokens), prompts))
        return tokens * len(prompts) / (time.perf_counter() - begun)


class Bench:
    name = "llama-bench"
    pid = None

    def __init__(self, stack, model, threads, rows=1, context=1024, flags=()):
        self.command = [folder() / "llama-bench", "-m", str(model), "-t", str(threads), "-r", "1", "-o", "json", *flags]
        self.flags = self.command[3:]

    def _run(self, *test):
        said = subprocess.run([*self.command, *test], check=True, capture_output=True, text=True).stdout
        [result] = json.loads(said)
        return result["avg_ts"]

    def decode(self, prompt, tokens):
        return self._run("-p", "0", "-n", str(tokens), "-d", str(len(prompt)))

    def prefill(self, prompt):
        return self._run("-p", str(len(prompt)), "-n", "0")
