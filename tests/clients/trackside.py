"""Starts the binary under test and ends it by process id."""
import contextlib
import json
import os
import pathlib
import select
import signal
import subprocess
import tempfile
import time
import urllib.request

BINARY = os.environ["TRACKSIDE"]
ROOT = pathlib.Path(__file__).resolve().parents[2]
START_S = 60


@contextlib.contextmanager
def running(*arguments):
    """`trackside *arguments`; yields what it says it bound, the JSON object of its first line on stdout, and its `pid`."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([BINARY, *arguments], stdout=subprocess.PIPE, stderr=log)
        try:
            readable, _, _ = select.select([process.stdout], [], [], START_S)
            line = process.stdout.readline() if readable else b""
            if not line.startswith(b"{"):
                log.seek(0)
                raise AssertionError(f"trackside {' '.join(arguments)} bound nothing: {line!r} {log.read().decode(errors='replace')}")
            yield json.loads(line) | {"pid": process.pid}
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def get(address, path):
    with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
        return answer.status, answer.read().decode()


def post(address, path, body, timeout_s=60):
    request = urllib.request.Request(f"http://{address}{path}", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        return json.load(answer)


def events(address, path, body, timeout_s=60):
    """The data of every server-sent event of a stream."""
    request = urllib.request.Request(f"http://{address}{path}", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [line[6:].rstrip(b"\r\n").decode() for line in answer if line.startswith(b"data: ")]


def until(what, condition):
    """Polls until `condition()` is true; a bound, not a pause: it ends at once where the thing has happened."""
    end = time.monotonic() + START_S
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come about within {START_S} s"
        time.sleep(0.01)
    return value


def ready(address):
    try:
        return get(address, "/health")[0] == 200
    except OSError:
        return False
