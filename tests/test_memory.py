"""Twenty answers of 20 MB base64 at once: the whole path from socket to disk holds each of them once (issue 2, I13)."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

COUNT = 20
BYTES = 20_000_000
MAX_RATIO = 1.2
ROOT = Path(__file__).parents[1]


@contextmanager
def serving(form):
    command = [sys.executable, "-m", "tests.weighing", "serve", str(COUNT), str(BYTES), form]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/"
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


@pytest.mark.parametrize("form", ["announced", "chunked"])
def test_twenty_large_answers_at_once_are_held_once_each(form, tmp_path):
    with serving(form) as url:
        command = [sys.executable, "-m", "tests.weighing", "weigh", str(COUNT), url, str(tmp_path)]
        weighed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures = json.loads(weighed.stdout)

    assert figures["stored"] > COUNT * BYTES * 0.74
    assert figures["peak"] - figures["before"] <= MAX_RATIO * COUNT * BYTES, figures
