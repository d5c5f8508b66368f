"""Eleven faulty doubles, each handed in where `World` or a store is made; the check that must catch it is named.

The simulator is only worth its verdicts if it condemns what is wrong: every double breaks one guard of the design and
the run of some seeds must blame exactly the check that guards it.
"""

from dataclasses import replace

import pytest

from router.flow.fleet import Fleet
from router.outcome import Billed, FailureKind
from router.persistence import Cancelled, Opened
from router.policy.budget import Posting
from router.store.memory import MemoryStore
from router.task import State, accepted, apply, retried
from tests.sim.engines import memory
from tests.sim.simulation import simulate

SEEDS = range(8)
SEEDS_UNTIL_CAUGHT = range(
    24
)  # a fault may need a coincidence that few seeds have; the first that has it ends the search


class IntentSkipped(MemoryStore):
    """Says that the intent is durable and writes nothing."""

    async def open_attempt(self, task, attempt, move, demands):
        return Opened(apply(task, move), attempt)


class ResubmitAfterRestart(MemoryStore):
    """Takes what was running when the daemon died for something that never happened."""

    async def claim(self, owner, silent_ms, limit, now):
        claimed = []
        for view in await super().claim(owner, silent_ms, limit, now):
            out = self._out(view.task.id)
            if view.task.state is State.RUNNING and out:
                del self._attempts[view.task.id][out[0].n]
                back = replace(view.task, state=State.PENDING, tries=view.task.tries - 1)
                self._tasks[view.task.id] = back
                claimed.append(self._view(back))
            else:
                claimed.append(view)
        return tuple(claimed)


class RefundTwice(MemoryStore):
    """Releases the hold of an attempt that was not billed a second time."""

    async def close_attempt(self, task, attempt, move):
        closed = await super().close_attempt(task, attempt, move)
        again = [line for line in self.books.ledger(task.id) if line.entry == "release" and line.n == attempt.n]
        self.books.post(task.id, Posting(lines=tuple(again)))
        return closed


class RemoteIdSavedLate(MemoryStore):
    """Says that the job id is durable and keeps it in memory only."""

    async def accept(self, attempt, handle, at):
        return accepted(attempt, handle, at)


class StaleFenceAccepted(MemoryStore):
    """Takes tasks over without a new version, and lets the daemon that was replaced go on writing."""

    async def claim(self, owner, silent_ms, limit, now):
        claimed = [view.task for view in await super().claim(owner, silent_ms, limit, now)]
        for task in claimed:
            self._tasks[task.id] = replace(task, version=task.version - 1)
        return tuple(self._view(self._tasks[task.id]) for task in claimed)

    def _current(self, task):
        row = self._row(task.tenant, task.id)
        return row if row is not None and row.version == task.version else None

    def _current_attempt(self, attempt):
        row = self._attempts.get(attempt.task_id, {}).get(attempt.n)
        return row if row is not None and row.ended_at is None else None


class ReservationForgotten(MemoryStore):
    """Admits without holding the budget."""

    async def admit(self, task, demands):
        return await super().admit(task, ())


class RetryAfterUnknown(MemoryStore):
    """Writes an unknown outcome down as a passing overload, so that the task is tried again."""

    async def close_attempt(self, task, attempt, move):
        if attempt.outcome == FailureKind.UNKNOWN:
            move = retried(move.at, move.at)
            attempt = replace(attempt, outcome="overloaded", billing=Billed.NO, cost_nanos=0)
        return await super().close_attempt(task, attempt, move)


class TerminalOverwritten(MemoryStore):
    """Lets a cancel win over a task that has already succeeded."""

    async def cancel(self, tenant, task_id, move):
        view = await self.view(tenant, task_id)
        if view is not None and view.task.state is State.SUCCEEDED:
            again = replace(view.task, state=State.CANCELLED, version=view.task.version + 1, error=move.error)
            self._tasks[task_id] = again
            return Cancelled(again, State.SUCCEEDED)
        return await super().cancel(tenant, task_id, move)


class PartForgotten(MemoryStore):
    """Ends a part beside others without keeping its images."""

    async def close_attempt(self, task, attempt, move):
        return await super().close_attempt(task, replace(attempt, output=()), move)


class WebhookForgotten(MemoryStore):
    """Cancels without writing the webhook that is owed."""

    async def cancel(self, tenant, task_id, move):
        known = set(self._webhooks)
        answer = await super().cancel(tenant, task_id, move)
        for webhook_id in set(self._webhooks) - known:
            del self._webhooks[webhook_id]
        return answer


class TwoProbes(Fleet):
    """Forgets that the right to probe a half-open circuit has been given away."""

    def _target_of(self, provider, target):
        line = super()._target_of(provider, target)
        line.circuit._leased_until_s = None  # noqa: SLF001 - it breaks the guard from inside
        return line


@pytest.mark.parametrize(
    ("store", "check"),
    [
        (IntentSkipped, "I4 intent"),
        (ResubmitAfterRestart, "I5 paid again"),
        (RefundTwice, "I8 settle"),
        (RemoteIdSavedLate, "I6 remote id"),
        (StaleFenceAccepted, "I7 fence"),
        (ReservationForgotten, "I9 reservation"),
        (RetryAfterUnknown, "I5 paid again"),
        (TerminalOverwritten, "I2 one end"),
        (PartForgotten, "I25 parts"),
        (WebhookForgotten, "I14 webhook"),
    ],
)
def test_a_faulty_store_is_caught_by_its_check(store, check):
    assert is_caught(check, lambda seed: simulate(seed, memory(store)), SEEDS_UNTIL_CAUGHT)


def test_a_fleet_that_sends_two_probes_is_caught_by_its_check():
    assert is_caught("I20 probe", lambda seed: simulate(seed, memory(), fleet=TwoProbes))


def test_the_real_parts_are_blamed_for_nothing():
    assert not is_caught("", lambda seed: simulate(seed, memory()))


def is_caught(check, run, seeds=SEEDS):
    """Run seeds until one of them is blamed by this check."""
    return any(line.startswith(check) for seed in seeds for line in run(seed).violations)
