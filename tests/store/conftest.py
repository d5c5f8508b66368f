"""Each test of the contract runs once per engine, and the run ends with a line that counts them."""

from collections import Counter

import asyncpg
import pytest

from tests.store.engines import ENGINES, new_database, open_stores

passed: Counter[str] = Counter()


@pytest.fixture(params=sorted(ENGINES))
async def store(request, tmp_path):
    """A fresh, empty store of each engine."""
    async with ENGINES[request.param](tmp_path) as opened:
        yield opened
        await opened.close()


@pytest.fixture
async def url():
    """The address of an empty PostgreSQL database with the schema."""
    async with new_database() as made:
        yield made


@pytest.fixture
async def pair(url):
    """Two stores on it, which go by the caller's time."""
    async with open_stores(url) as opened:
        yield opened


@pytest.fixture
async def connection(url):
    """A connection beside the stores, to look at the server and to stand in their way."""
    opened = await asyncpg.connect(url)
    yield opened
    await opened.close()


def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed and "/test_contract" in report.nodeid:
        passed.update(name for name in ENGINES if f"[{name}" in report.nodeid)


def pytest_terminal_summary(terminalreporter):
    if passed:
        counts = ", ".join(f"{name} {passed[name]}" for name in ("memory", "sqlite", "postgres"))
        terminalreporter.write_line(f"store contract: {counts}")
