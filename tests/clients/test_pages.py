"""The pages say what the figures say: nobody has written a number by hand."""
import subprocess
import sys

import trackside


def test_pages_are_as_written_from_the_figures():
    said = subprocess.run([sys.executable, trackside.ROOT / "tests/bench/page.py", "--check"], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
