"""Each test of the contract runs once per engine, and the run ends with a line that counts them."""

from collections import Counter

import pytest

from tests.store.engines import ENGINES

passed: Counter[str] = Counter()


@pytest.fixture(params=sorted(ENGINES))
async def store(request, tmp_path):
    """A fresh, empty store of each engine."""
    async with ENGINES[request.param](tmp_path) as opened:
        yield opened
        await opened.close()


def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed and "/test_contract" in report.nodeid:
        passed.update(name for name in ENGINES if f"[{name}" in report.nodeid)


def pytest_terminal_summary(terminalreporter):
    if passed:
        counts = ", ".join(f"{name} {passed[name]}" for name in ("memory", "sqlite", "postgres"))
        terminalreporter.write_line(f"store contract: {counts}")
