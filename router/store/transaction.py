"""Verbs on a PostgreSQL connection: many in one transaction and few round trips, or one by one.

**Together.** Verbs called at the same moment advance in step: whatever statement several of them ask for goes to the
server once, with all their values, and its rows are told apart by a number that is added to each. So a crowd of
submits costs as many round trips as one. Verbs that decide about money (they lock balances) wait until the others are
through; then one after the other decides by what the ones before it have left in the `till`, and what they only write
goes to the server together.

**One by one.** If any verb of the crowd must be undone, or fails, everything is rolled back and done again, each verb
in a savepoint of its own. Guards make that safe: nothing was written. Verbs that first read what is there and then take
it (tasks, places, a right) are never done together, for a lock does not keep the verbs of one transaction apart.

What the server or the network cannot do is raised, for the whole batch. If the connection breaks while the commit is on
its way, the server is asked later what became of the transaction: an answer is never guessed. Floor 3.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from time import perf_counter
from typing import Any, TypeVar

import asyncpg

from router.persistence import Demand, Unavailable
from router.store import sql
from router.store.lane import Job
from router.store.line import TROUBLE, is_trouble
from router.store.mark import BEGIN, Mark
from router.store.rows import Row
from router.store.steps import Query, Steps, Undone
from router.store.till import Pair, Till
from router.task import Attempt, Task

A = TypeVar("A")
Asking = tuple[Job, Steps[Any], Query]  # a verb and what it asks for

TRIES_MAX = 4
PLACE = re.compile(r"\$(\d+)")
SKIP_LOCKED = re.compile(r"/\*( for update of \w+ skip locked )\*/")
NUL, REPLACEMENT = "\x00", "\ufffd"

# Statements whose answers no verb waits for, in the order in which they may be done for many.
ONLY_WRITE = (sql.APPEND_LINE, sql.DELETE_HOLD, sql.PUT_HOLD)

# Somebody else was quicker: nothing is wrong, and it may work the next time. A number taken meanwhile is of that kind.
QUICKER = (
    asyncpg.exceptions.TransactionRollbackError,
    asyncpg.exceptions.LockNotAvailableError,
    asyncpg.exceptions.UniqueViolationError,
)
# Asks whether the transaction that was marked last has been committed.
Settle = Callable[[], Awaitable[bool]]


class Redo(Exception):  # noqa: N818 - it names what happens next
    """A verb of the crowd must be undone or has failed, so that all are done again one by one."""


async def write(connection: Any, batch: Sequence[Job], mark: Mark, settle: Settle, *, in_step: bool = True) -> float:
    """Execute verbs in one transaction, the first time together if `in_step`; returns the seconds of its commit.

    Raises what kept the server from committing (`is_trouble`, or `QUICKER` too often); then nothing was written.
    """
    if in_step:
        batch = sorted(batch, key=_place_of)
    for number in range(TRIES_MAX):
        alone = number > 0 or not (in_step or len(batch) == 1)
        try:
            return await _transact(connection, batch, mark, settle, alone=alone)
        except Redo:
            await _roll_back(connection)
        except QUICKER:
            await _roll_back(connection)
            if number == TRIES_MAX - 1:
                raise
        except BaseException:
            connection.terminate()
            raise
    raise AssertionError("verbs that are done one by one are not done again for one of them")


async def _transact(connection: Any, batch: Sequence[Job], mark: Mark, settle: Settle, *, alone: bool) -> float:
    await connection.execute(BEGIN)
    await mark.leave(connection)
    till = Till(connection)
    await (_do_one_by_one if alone else _do_together)(connection, batch, till)
    await till.close()
    began = perf_counter()
    try:
        await connection.execute("commit")
    except Exception as lost:
        if not is_trouble(connection, lost):
            raise
        connection.terminate()  # so that the server ends the transaction, if it has not yet
        if not await settle():
            raise
    return perf_counter() - began


async def read(connection: Any, batch: Sequence[Job]) -> None:
    """Execute reads, each statement in a moment of its own; raises what keeps the server from answering."""
    try:
        try:
            await _do_together(connection, batch, Till(connection))
        except Redo:
            for job in batch:
                await _do_alone(connection, job, Till(connection))
    except BaseException:
        connection.terminate()
        raise


def fail(batch: Sequence[Job], failure: Unavailable) -> None:
    """Tell everybody in a batch that nothing is known to have been written."""
    for job in batch:
        job.answer, job.failure = None, failure


# -- together ---------------------------------------------------------------------------------------------------------


async def _do_together(connection: Any, batch: Sequence[Job], till: Till) -> None:
    """Advance all verbs in step, then let those decide that lock money; `Redo` when that cannot be."""
    try:
        waiting = await _advance_all(connection, batch, till)
        if waiting:
            await till.lock(pair for job, _steps, _query in waiting for pair in _pairs_of(job))
            await _decide_all(connection, waiting, till)
    except (*QUICKER, *TROUBLE):
        raise
    except (asyncpg.exceptions.PostgresError, asyncpg.exceptions.InterfaceError) as wrong:
        if connection.is_closed():
            raise
        raise Redo from wrong


async def _advance_all(connection: Any, batch: Sequence[Job], till: Till) -> list[Asking]:
    """Bring every verb to its end, or to the balance that it wants to lock; returns the latter."""
    waiting: list[Asking] = []
    asking: list[Asking] = []
    for job in batch:
        _advance(asking, job, job.begin(), None)
    while asking:
        coming: list[Asking] = []
        crowds: dict[str, list[Asking]] = {}
        for one in asking:
            job, steps, (text, values) = one
            if text is sql.LOCK_BALANCE:
                waiting.append(one)
            elif text is sql.POST_BALANCE:
                till.add(*values)
                _advance(coming, job, steps, [])
            else:
                crowds.setdefault(text, []).append(one)
        for text, crowd in crowds.items():
            answers = await _ask_for_all(connection, text, [query[1] for _job, _steps, query in crowd])
            for (job, steps, _query), rows in zip(crowd, answers, strict=True):
                _advance(coming, job, steps, rows)
        asking = coming
    return waiting


async def _decide_all(connection: Any, waiting: Sequence[Asking], till: Till) -> None:
    """Bring one verb after the other to its end."""
    later: dict[str, list[tuple[Any, ...]]] = {text: [] for text in ONLY_WRITE}
    for one in waiting:
        coming = [one]
        while coming:
            ((job, steps, (text, values)),) = coming
            rows: list[Row] = []
            if text is sql.LOCK_BALANCE:
                rows = [await till.read(values)]
            elif text is sql.POST_BALANCE:
                till.add(*values)
            elif text in later:
                later[text].append(values)
            else:
                await _write_all(connection, later)
                rows = await _ask(connection, text, values)
            coming = []
            _advance(coming, job, steps, rows)
    await _write_all(connection, later)


async def _write_all(connection: Any, later: dict[str, list[tuple[Any, ...]]]) -> None:
    for text, values in later.items():
        if values:
            await connection.executemany(text, values)
            values.clear()


def _place_of(job: Job) -> tuple[str, str, str]:
    """The place of a verb in the order in which keys and tasks are taken, the same in every daemon.

    Two crowds with the same keys in opposite orders would wait for each other again at each try.
    """
    match job.values:
        case (Task() as task, *_):
            return task.tenant, task.idempotency_key or "", task.id
        case (Attempt() as attempt, *_):
            return attempt.tenant, "", attempt.task_id
        case (str() as tenant, str() as task_id, *_):
            return tenant, "", task_id
        case _:
            return "", "", ""


def _pairs_of(job: Job) -> set[Pair]:
    """The balances that a verb will lock: those of the demands among its arguments."""
    lists = [value for value in job.values if isinstance(value, (tuple, list))]
    demands = [one for each in lists for one in each if isinstance(one, Demand)]
    return {(_clean(one.budget), _clean(one.window)) for one in demands}


def _advance(asking: list[Asking], job: Job, steps: Steps[Any], rows: list[Row] | None) -> None:
    """Send a verb its rows, and note what it asks next or what it answers."""
    try:
        query = next(steps) if rows is None else steps.send(rows)
    except StopIteration as done:
        job.answer = done.value
    except Exception as undone:
        raise Redo from undone
    else:
        asking.append((job, steps, query))


async def _ask_for_all(connection: Any, text: str, values: list[tuple[Any, ...]]) -> list[list[Row]]:
    """Execute a statement for each set of values; returns the rows of each."""
    if len(values) == 1:
        return [await _ask(connection, text, values[0])]
    answers: list[list[Row]] = [[] for _one in values]
    found = await connection.fetchmany(numbered(text), [(*one, place) for place, one in enumerate(values)])
    for row in found:
        *own, place = row
        answers[place].append(tuple(own))
    return answers


@lru_cache(maxsize=256)
def numbered(text: str) -> str:
    """Add a last column to what a statement returns, with a value of its own: whose rows they are."""
    text = translated(text)
    place = f"cast(${1 + max(map(int, PLACE.findall(text)), default=0)} as bigint)"
    if re.search(r"\breturning\b", text):
        return f"{text} , {place}"
    if re.match(r"\s*(select|with)\b", text):
        return f"select answer.*, {place} from ({text}) as answer"  # noqa: S608 - both are constants of ours
    return f"{text} returning {place}"


@lru_cache(maxsize=256)
def translated(text: str) -> str:
    """Say in PostgreSQL's words what stands in the statement as a comment."""
    return SKIP_LOCKED.sub(r"\1", text)


# -- one by one -------------------------------------------------------------------------------------------------------


async def _ask(connection: Any, text: str, values: tuple[Any, ...]) -> list[Row]:
    return [tuple(row) for row in await connection.fetch(translated(text), *values)]


async def _do_one_by_one(connection: Any, batch: Sequence[Job], till: Till) -> None:
    """Execute each verb in a savepoint, those last that decide about money: by then all else is known."""
    deciding = {job: pairs for job in batch if (pairs := _pairs_of(job))}
    for job in batch:
        if job not in deciding:
            await _do_in_savepoint(connection, job, till)
    if deciding:
        await till.lock_known(pair for pairs in deciding.values() for pair in pairs)
    for job in deciding:
        await _do_in_savepoint(connection, job, till)


async def _do_in_savepoint(connection: Any, job: Job, till: Till) -> None:
    """Execute one verb of a batch; whatever becomes of it, the others are not touched."""
    await connection.execute("savepoint verb")
    undone = False
    till.keep()
    try:
        await _do_alone(connection, job, till)
        undone = job.failure is not None
    except Undone as undo:
        job.answer, undone = undo.answer, True
    if undone:
        till.undo()
    await connection.execute("rollback to savepoint verb" if undone else "release savepoint verb")


async def _do_alone(connection: Any, job: Job, till: Till) -> None:
    """Execute one verb; trouble ends the batch, any other exception is this verb's own."""
    job.failure = None
    try:
        job.answer = await drive(connection, job.begin(), till)
    except Undone:
        raise
    except Exception as found:
        if isinstance(found, QUICKER) or is_trouble(connection, found):
            raise
        job.failure = found


async def drive(connection: Any, steps: Steps[A], till: Till) -> A:
    """Take a verb through its steps. What PostgreSQL cannot store in a text is replaced."""
    try:
        text, values = next(steps)
        while True:
            rows: list[Row] = []
            values = tuple(_clean(value) for value in values)
            if text is sql.LOCK_BALANCE:
                rows = [await till.read((values[0], values[1]))]
            elif text is sql.POST_BALANCE:
                till.add(*values)
            else:
                rows = await _ask(connection, text, values)
            text, values = steps.send(rows)
    except StopIteration as done:
        answer: A = done.value
        return answer


def _clean(value: Any) -> Any:
    return value.replace(NUL, REPLACEMENT) if type(value) is str and NUL in value else value


async def _roll_back(connection: Any) -> None:
    """End a transaction without a trace; a connection that cannot is closed, which is the same to the server."""
    try:
        await connection.execute("rollback")
    except Exception:
        connection.terminate()
        raise
