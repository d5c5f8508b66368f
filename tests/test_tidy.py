"""The rules of the house, applied to every file, and each rule shown bad examples that it must catch and good ones that
it must pass. A breach is reported as file:line with the rule's reason.
"""

import pytest

from tests.tidy import floors, shape, text
from tests.tidy.sources import Source, read_sources

RULES = {rule.name: rule for rule in (*floors.RULES, *shape.RULES, *text.RULES)}
SOURCES = read_sources()

LONG_FUNCTION = "def f():\n" + "    x = 1\n" * 70
MARKER = "TO" + "DO"
MACHINE = "/wo" + "rk"

# rule -> (path, text) of files that break it
BAD = {
    "a file without a floor": [("router/novelty.py", ""), ("router/odd/part.py", "")],
    "an import upwards": [
        ("router/task.py", "import router.policy.route"),
        ("router/policy/price.py", "from router.flow import queue"),
        ("router/policy/price.py", "from ..flow import queue"),
        ("router/flow/run.py", "import router.store.memory"),
        ("router/flow/run.py", "def f():\n    from providers import load"),
        ("router/api/tasks.py", "from router import daemon"),
        ("router/config/__init__.py", "from router.settings import Settings"),
    ],
    "an import between edges": [
        ("router/api/tasks.py", "from router.store.sqlite import SqliteStore"),
        ("router/store/sqlite.py", "from router import vault"),
        ("router/wire.py", "import providers"),
        ("router/deliver.py", "import router.fetch"),
    ],
    "a stranger on floor 0": [("router/task.py", "import orjson"), ("router/world.py", "from aiohttp import web")],
    "a decision that does something": [
        ("router/policy/route.py", "import asyncio"),
        ("router/policy/route.py", "from random import Random"),
        ("router/policy/route.py", "import time"),
        ("router/config/load.py", "text = open('x').read()"),
        ("router/config/load.py", "import structlog"),
        ("router/policy/route.py", "async def f(): ..."),
    ],
    "flow that reaches outside": [
        ("router/flow/run.py", "import aiohttp"),
        ("router/flow/run.py", "from time import monotonic"),
        ("router/flow/run.py", "import asyncio\nasyncio.wait([])"),
        ("router/flow/run.py", "asyncio.get_running_loop().run_in_executor(None, f)"),
        ("router/flow/rehost.py", "open('x')"),
    ],
    "a clock or dice of one's own": [
        ("router/flow/run.py", "import time\ntime.time()"),
        ("router/daemon.py", "import datetime\ndatetime.datetime.now()"),
        ("router/daemon.py", "from datetime import date\ndate.today()"),
        ("router/api/auth.py", "import uuid\nuuid.uuid4()"),
        ("router/api/auth.py", "from uuid import uuid4"),
        ("router/flow/queue.py", "import random\nrandom.shuffle([])"),
        ("router/flow/queue.py", "from random import random"),
        ("router/watch/logs.py", "from time import time"),
        ("providers/acme.py", "clock = datetime.now"),
    ],
    "an adapter that reaches out": [
        ("providers/acme.py", "from router.store import memory"),
        ("providers/acme.py", "import router.world"),
        ("providers/acme.py", "import providers.openai"),
        ("providers/acme.py", "import providers.simulated.acme"),
        ("providers/acme/__init__.py", "from providers.openai import submit"),
        ("providers/formats/openai_images.py", "import router.policy.price"),
        ("providers/acme.py", "import aiohttp"),
        ("providers/acme.py", "import structlog"),
    ],
    "a simulator that shares code": [
        ("providers/simulated/acme.py", "import providers.acme"),
        ("providers/simulated/acme.py", "from providers.formats import openai_images"),
        ("providers/simulated/acme.py", "from router.task import Nanos"),
        ("providers/simulated/acme.py", "from router import __version__"),
    ],
    "a part named outside the daemon": [
        ("router/cli/serve.py", "from router.store.sqlite import SqliteStore"),
        ("router/reload.py", "import router.wire"),
        ("router/cli/check.py", "import providers.openai"),
    ],
    "a client session elsewhere": [
        ("router/api/tasks.py", "import aiohttp\nsession = aiohttp.ClientSession()"),
        ("router/deliver.py", "from aiohttp import ClientSession"),
        ("router/daemon.py", "import aiohttp\naiohttp.request('GET', url)"),
    ],
    "a file too long": [("tests/test_big.py", "x = 1\n" * 501), ("router/task.py", "x = 1\n" * 500 + "y = 2")],
    "a function too long": [
        ("router/task.py", LONG_FUNCTION),
        ("tests/test_big.py", "async " + LONG_FUNCTION),
    ],
    "a name that says nothing": [
        ("router/utils.py", ""),
        ("router/flow/queue_manager.py", ""),
        ("router/core/task.py", ""),
        ("tests/helpers.py", ""),
        ("providers/base.py", ""),
    ],
    "an update torn by an await": [
        ("router/flow/run.py", "async def f(self):\n    self.n += await g()"),
        ("router/flow/run.py", "async def f(d):\n    d['n'] += 1 + (await g())"),
        ("router/flow/run.py", "def o():\n    n = 0\n    async def f():\n        nonlocal n\n        n += await g()"),
        ("router/flow/run.py", "async def f(self):\n    self.n = self.n + await g()"),
    ],
    "a task that nobody holds": [
        ("router/daemon.py", "asyncio.create_task(f())"),
        ("router/daemon.py", "loop.create_task(f())"),
        ("router/daemon.py", "asyncio.ensure_future(f())"),
    ],
    "a bare except": [("router/task.py", "try:\n    f()\nexcept:\n    pass")],
    "SQL put together from pieces": [
        ("router/store/sqlite.py", "c.execute(f'select {x}')"),
        ("router/store/sqlite.py", "c.executemany('select %s' % x, rows)"),
        ("router/store/postgres.py", "c.fetchrow('select ' + x)"),
        ("router/store/postgres.py", "c.fetch('select {}'.format(x))"),
    ],
    "a queue without a bound": [
        ("router/flow/queue.py", "asyncio.Queue()"),
        ("router/flow/queue.py", "Queue(maxsize=0)"),
        ("router/store/sqlite.py", "queue.SimpleQueue()"),
        ("router/store/sqlite.py", "queue.PriorityQueue(0)"),
    ],
    "an adapter without a transcript": [
        ("providers/no_such_adapter.py", ""),
        ("providers/no_such_adapter/__init__.py", ""),
    ],
    "a test that sleeps": [
        ("tests/test_x.py", "def test_a():\n    time.sleep(1)"),
        ("tests/test_x.py", "async def test_a():\n    while True:\n        await asyncio.sleep(0.1)"),
    ],
    "a test that is skipped": [
        ("tests/test_x.py", "@pytest.mark.skipif(True)\ndef test_a(): ..."),
        ("tests/test_x.py", "pytest.importorskip('x')"),
        ("tests/test_x.py", "@pytest.mark.xfail\ndef test_a(): ..."),
    ],
    "a leftover marker": [("router/task.py", f"# {MARKER}: later"), ("README.md", f"{MARKER} write this")],
    "a path of one machine": [
        ("Makefile", f"PYTHON = {MACHINE}/venv/bin/python"),
        ("tests/test_x.py", f"ROOT = '{MACHINE}'"),
    ],
    "a registry's address": [("requirements.txt", "--index-url https://py" + "pi.org/simple")],
}

# rule -> (path, text) of files that look like a breach and are none
GOOD = {
    "a file without a floor": [("router/__init__.py", ""), ("router/daemon/start.py", ""), ("tests/test_x.py", "")],
    "an import upwards": [
        ("router/flow/run.py", "from router import task\nfrom router.policy import verdict\nimport router"),
        ("router/cli/serve.py", "from router.daemon import Daemon\nfrom router.settings import Settings"),
    ],
    "an import between edges": [
        ("router/store/sqlite.py", "from router.store import sql\nfrom router.flow import queue"),
        ("router/daemon.py", "import router.store.sqlite, router.wire, providers"),
    ],
    "a stranger on floor 0": [("router/world.py", "import asyncio\nfrom router.task import Nanos")],
    "a decision that does something": [("router/policy/route.py", "import pydantic\nfrom decimal import Decimal")],
    "flow that reaches outside": [("router/flow/run.py", "import asyncio\nasyncio.sleep(1)\nasyncio.wait_for(f, 1)")],
    "a clock or dice of one's own": [
        ("router/world.py", "import time\ntime.time()"),
        ("router/flow/run.py", "world.clock.now()\nloop.time()"),
        ("router/flow/run.py", "from random import Random\nimport random\nx: random.Random"),
        ("providers/simulated/acme.py", "import time\ntime.time()"),
    ],
    "an adapter that reaches out": [
        ("providers/acme.py", "from router import outcome\nfrom router.provider import Job\nimport orjson"),
        ("providers/acme.py", "from providers.formats.openai_images import read"),
        ("providers/acme/__init__.py", "from providers.acme.signing import sign"),
    ],
    "a simulator that shares code": [("providers/simulated/acme.py", "from providers.simulated.faults import Dial")],
    "a part named outside the daemon": [
        ("router/daemon.py", "from router.store.sqlite import SqliteStore\nfrom providers import load"),
        ("router/cli/simulate.py", "import providers.simulated.acme"),
        ("router/cli/check.py", "from providers import load"),
    ],
    "a client session elsewhere": [
        ("router/wire.py", "import aiohttp\naiohttp.ClientSession()"),
        ("router/cli/demo.py", "import aiohttp\naiohttp.ClientSession()"),
    ],
    "a file too long": [("router/task.py", "x = 1\n" * 500)],
    "a function too long": [("router/task.py", LONG_FUNCTION.removesuffix("    x = 1\n"))],
    "a name that says nothing": [("router/store/database.py", ""), ("router/scores.py", "")],
    "an update torn by an await": [
        ("router/flow/run.py", "async def f(self):\n    n = 0\n    n += await g()\n    self.n += n"),
        ("router/flow/run.py", "async def f(self):\n    self.task = await g(self.id)"),
    ],
    "a task that nobody holds": [
        (
            "router/daemon.py",
            "async def f():\n    async with asyncio.TaskGroup() as group:\n        group.create_task(g())",
        ),
        ("router/daemon.py", "task = asyncio.create_task(f())"),
    ],
    "a bare except": [("router/task.py", "try:\n    f()\nexcept ValueError:\n    pass")],
    "SQL put together from pieces": [
        ("router/store/sqlite.py", "c.execute(SELECT, {'id': f'{x}'})\nc.execute(f'select 1')"),
    ],
    "a queue without a bound": [("router/flow/queue.py", "asyncio.Queue(limit)\nQueue(maxsize=5)")],
    "an adapter without a transcript": [("providers/formats/openai_images.py", ""), ("providers/__init__.py", "")],
    "a test that sleeps": [
        ("tests/test_x.py", "async def test_a():\n    await asyncio.sleep(0)"),
        ("tests/test_x.py", "async def test_a():\n    async def slow():\n        await asyncio.sleep(9)"),
    ],
    "a test that is skipped": [("tests/test_x.py", "@pytest.mark.parametrize('a', [])\ndef test_a(a): ...")],
    "a leftover marker": [("router/task.py", f"{MARKER}S = {MARKER.lower()!r}")],
    "a path of one machine": [
        ("README.md", f"see https://example.org{MACHINE}/x and a{MACHINE} and {MACHINE}er and ~{MACHINE}"),
    ],
    "a registry's address": [("README.md", "py" + "pi and npm")],
}


def flatten(table):
    """Return one parameter set for each example, named by its rule."""
    return [
        pytest.param(name, *case, id=f"{name}-{n}") for name, cases in table.items() for n, case in enumerate(cases)
    ]


@pytest.mark.parametrize("name", RULES)
def test_the_house_is_free_of(name):
    complaints = RULES[name].complaints(SOURCES)

    assert not complaints, "\n".join([name, *complaints])


@pytest.mark.parametrize(("name", "path", "example"), flatten(BAD))
def test_a_breach_is_reported_with_its_place_and_the_reason(name, path, example):
    complaints = RULES[name].complaints([Source(path, example)])

    assert complaints
    assert complaints[0].startswith(f"{path}:")
    assert complaints[0].endswith(f"({RULES[name].reason})")


@pytest.mark.parametrize(("name", "path", "example"), flatten(GOOD))
def test_what_only_looks_like_a_breach_passes(name, path, example):
    assert RULES[name].complaints([Source(path, example)]) == []


def test_every_rule_has_bad_and_good_examples():
    assert set(RULES) == set(BAD) == set(GOOD)


def test_the_walk_reads_the_whole_project():
    paths = {source.path for source in SOURCES}

    assert {"router/__init__.py", "providers/__init__.py", "tests/test_tidy.py", "Makefile", "pyproject.toml"} <= paths
    assert not {path for path in paths if path.startswith(".venv/") or path.endswith(".lock")}
