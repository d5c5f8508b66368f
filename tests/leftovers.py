"""Finds the processes that a test run started and that still live: its descendants, and those that lost their parent
but still carry the run's mark in their environment.
"""

import os
from collections.abc import Iterator

import psutil

MARK = "POINTSMAN_TESTS_MARK"


def list_leftovers(mark: str) -> list[str]:
    """Return one line, number and command, for each living process of the run with this mark, oldest first."""
    this = psutil.Process(os.getpid())
    found = {process.pid: process for process in (*this.children(recursive=True), *_marked(mark))}
    found.pop(this.pid, None)
    return [line for _, process in sorted(found.items()) if (line := _describe(process))]


def _marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                yield process
        except psutil.Error:
            continue  # it has just ended, or it is another user's and so not ours


def _describe(process: psutil.Process) -> str | None:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None  # it has ended; only its exit code has not been read
        return f"{process.pid} {' '.join(process.cmdline()) or process.name()}"
    except psutil.Error:
        return None
