"""What the tests of the stores put on stage: tasks, attempts, demands, and short ways to bring a task somewhere."""

from collections import Counter
from dataclasses import dataclass, replace

from router.outbox import webhook_of
from router.outcome import Billed
from router.persistence import Admitted, Demand, Opened, Owner
from router.provider import Handle, Kind, Usage
from router.relays import Charge, Relayed
from router.task import (
    Attempt,
    Error,
    Output,
    Preferences,
    Priority,
    Task,
    apply,
    cancelled,
    delivered,
    ended,
    failed,
    interrupted,
    retried,
    started,
)

NOW = 1_795_176_000_000  # 2026-11-20T12:00:00Z
LATER = NOW + 1_000
KEEP_UNTIL = NOW + 86_400_000
CENT = 10_000_000
PICTURE = Output("k/1/0.png", "image/png", 48_213, "ab" * 32, 1024, 1024, "a cat, revised")
HANDLE = Handle("job-1", {"polling_url": "https://api.example/poll?id=1"})
DAY = "day:2026-11-20"


def a_task(number=1, **changes):
    """Make a task with a bit of everything in it."""
    plain = Task(
        id=f"task_{number:032x}",
        tenant="acme",
        kind=Kind.IMAGE_GENERATION,
        model="gpt-image-2",
        input={"prompt": "ein Käfer 🪲\n", "n": 2, "deep": {"list": [1, 2.5, None, True]}},
        surface="native",
        route="/v1/tasks",
        priority=Priority.NORMAL,
        created_at=NOW + number,
        updated_at=NOW + number,
        digest=f"digest-{number}",
        owner="here",
        fence=1,
        key_id="key-1",
        metadata={"order": "7"},
        preferences=Preferences(order=("openai",), max_price={"image": 5 * CENT}, sort="price"),
        request_id=f"req_{number}",
        deadline=NOW + 600_000,
    )
    return replace(plain, **changes)


def an_attempt(task, **changes):
    """Make the intent of the task's next attempt."""
    plain = Attempt(
        task_id=task.id,
        tenant=task.tenant,
        n=task.tries + 1,
        provider="openai",
        target="openai",
        target_model="gpt-image-2",
        account="OPENAI_API_KEY",
        base_url="https://api.example",
        attempt_key=f"{task.id}-0",
        started_at=LATER,
        timeout_at=LATER + 180_000,
        rules_hash="0123456789abcdef",
        fence=task.fence,
        estimate_nanos=4 * CENT,
    )
    return replace(plain, **changes)


def a_webhook(number=1, **changes):
    """A webhook as its taker knows it; no store has it."""
    task = a_task(number, callback_url="https://hook.example/a", callback_events=("task.running",))
    return replace(webhook_of(task, apply(task, begin())), **changes)


def a_relayed(number=1, **changes):
    """Make a try of a relayed completion that succeeded."""
    plain = Relayed(
        request_id=f"req_{number:032x}",
        n=1,
        tenant="acme",
        key_id="key-1",
        model="gpt-4o",
        provider="openai",
        target="openai",
        target_model="gpt-4o-mini",
        account="OPENAI_API_KEY",
        streamed=True,
        begun=True,
        started_at=NOW,
        ended_at=LATER,
        outcome="succeeded",
        billing=Billed.YES,
        cost_nanos=3 * CENT,
        http_status=200,
        detail="",
        usage=Usage(input_tokens=9, cached_tokens=4, output_tokens=2),
    )
    return replace(plain, **changes)


def charge(budget="tenant:acme", *, held=0, spent=3 * CENT, window=DAY):
    return Charge(budget, window, held, spent)


def demand(budget="tenant:acme", *, unit=4 * CENT, limit=100 * CENT, units=1, window=DAY):
    return Demand(budget, window, unit, limit, units)


def begin(at=LATER):
    return started(at, "openai", "gpt-image-2")


def deliver(at=LATER, expires_at=KEEP_UNTIL):
    return delivered(at, (PICTURE,), Usage(input_tokens=10, output_tokens=100), ("one image is missing",), expires_at)


def fail_with(word="provider_error", at=LATER, expires_at=KEEP_UNTIL):
    error = Error(word, "It went wrong.", word, billing=Billed.UNKNOWN, retryable=True, details={"tried": ["openai"]})
    return failed(at, error, expires_at)


def cancel_it(at=LATER):
    return cancelled(at, KEEP_UNTIL)


def interrupt(at=LATER):
    return interrupted(at)


def retry(at=LATER, not_before=None):
    return retried(at, at if not_before is None else not_before)


def end(attempt, *, billing=Billed.YES, cost=4 * CENT, outcome=None, at=LATER, **more):
    """End an attempt in memory: succeeded when billed, overloaded when not, unknown when unknown."""
    words = {Billed.YES: "succeeded", Billed.NO: "overloaded", Billed.UNKNOWN: "unknown"}
    costs = {Billed.YES: cost, Billed.NO: 0, Billed.UNKNOWN: None}
    return ended(attempt, at, outcome or words[billing], billing, costs[billing], http_status=200, **more)


@dataclass
class Cast:
    """Short ways through a task's life, each asserting that the store said yes."""

    store: object

    async def admit(self, task=None, *demands):
        answer = await self.store.admit(task or a_task(), demands)
        assert isinstance(answer, Admitted), answer
        return answer.task

    async def open(self, task, *demands, **changes):
        answer = await self.store.open_attempt(task, an_attempt(task, **changes), begin(), demands)
        assert isinstance(answer, Opened), answer
        return answer

    async def close(self, opened, move=None, *, attempt=None, **bill):
        task = await self.store.close_attempt(opened.task, end(attempt or opened.attempt, **bill), move or deliver())
        assert task.version == opened.task.version + 1, task
        return task

    async def succeed(self, task=None, *demands, move=None):
        return await self.close(await self.open(await self.admit(task, *demands)), move)

    async def own(self, replica="here", now=NOW):
        """Register a life and say which it is."""
        owner = await self.store.register(replica, now)
        assert isinstance(owner, Owner)
        return owner


def kinds(answers):
    """Count the answers by their kind."""
    return Counter(type(answer).__name__ for answer in answers)


async def count_deadlocks(connection):
    """How many transactions the server has ended because they waited for each other."""
    await connection.execute("select pg_stat_clear_snapshot()")
    return await connection.fetchval("select deadlocks from pg_stat_database where datname = current_database()")


async def picture_of(store, *tasks):
    """Everything that can be read about these tasks, to see that a refused verb changed nothing."""
    views = [await store.view(task.tenant, task.id) for task in tasks]
    lines = [await store.ledger(task.id) for task in tasks]
    pairs = sorted({(line.budget, line.window) for each in lines for line in each if line.budget})
    return views, lines, await store.balances(pairs)


async def check_books(store, *tasks):
    """I8: each balance is the sum of its lines; each attempt's hold ends at most once, and only after it began."""
    _views, lines, balances = await picture_of(store, *tasks)
    every = [line for each in lines for line in each]
    for balance in balances:
        mine = [line for line in every if (line.budget, line.window) == (balance.budget, balance.window)]
        assert balance.held == sum(line.held_delta for line in mine)
        assert balance.spent == sum(line.spent_delta for line in mine)
        assert balance.held >= 0
    for each in lines:
        for key in {(line.n, line.budget, line.window) for line in each if line.n and line.budget}:
            words = [line.entry for line in each if (line.n, line.budget, line.window) == key]
            # Several holds under one number come only from attempts that were withdrawn: released, then made anew.
            assert words[0::2] == ["hold"] * len(words[0::2]), words
            assert set(words[1::2]) <= {"release", "settle"}, words
            assert "settle" not in words[1:-1], words
