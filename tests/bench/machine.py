"""The machine that a figure was seen on: its CPU, what others took of it, and a process that takes some on purpose."""
import contextlib
import os
import pathlib
import subprocess
import sys


def cpu():
    """Model, cores and the widest instructions that matter here."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    widest = next((text for flag, text in [("avx512_vnni", "AVX-512 VNNI"), ("avx512f", "AVX-512"), ("avx2", "AVX2")] if flag in flags), "no AVX2")
    return f"{name} ({widest}), {os.cpu_count()} cores"


def stolen():
    """(stolen by the hypervisor, all) jiffies of the machine so far."""
    fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[7], sum(fields)


class Steal:
    """Share of the machine's time that the hypervisor gave to others, since this was made."""

    def __init__(self):
        self.begun = stolen()

    def share(self):
        now = stolen()
        return (now[0] - self.begun[0]) / max(1, now[1] - self.begun[1])


def cpu_s(pid):
    """Processor time of a process's threads so far, seconds."""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


@contextlib.contextmanager
def hog():
    """One busy thread of another process, at usual priority, that touches no memory to speak of."""
    process = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
