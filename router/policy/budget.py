"""What a request must reserve on which budget, and the arithmetic of the ledger that every store calls.

A budget has a name made of its scope and the value it counts (`tenant:acme`, `model:gpt-image-2`, `key:k1`, `all`,
`provider:openai`) and starts anew with each calendar window of the configuration's zone. A task reserves at admission:
a unit for each image, what the dearest permitted target may charge for it, times the attempts it may have to pay for it
(promise 5). An attempt takes the units of its images from each of its task's holds and adds holds of its own on the
budgets of its provider. At its end a hold is
settled (billed), released (not billed) or kept (nobody knows: the budget keeps the estimate, promise 3). At the end of
the task what is left of its own holds is freed; the unit of an attempt that is still out stays with the attempt.

Per attempt and budget there is one `hold` line and then at most one `settle` or `release` (I8), because a hold goes
away with the line that ends it. All functions are pure: a store reads holds and balances, calls, and writes the
`Posting` down in the same transaction. So no engine invents money. Knows no store and no prices. Floor 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from fnmatch import fnmatchcase
from typing import assert_never

from router.outcome import Billed
from router.persistence import Balance, Demand, LedgerEntry, OverBudget
from router.policy.rules import Budget, Scope, Shape, Window
from router.relays import Charge, Relayed
from router.task import Attempt, AttemptState, Task

Pair = tuple[str, str]  # (budget, window)


def demands(
    budgets: Sequence[Budget], shape: Shape, key_id: str | None, *, unit: int, units: int, now: int, zone: tzinfo
) -> tuple[Demand, ...]:
    """Say what a task must reserve before it is admitted: `units` times `unit` nano-USD on each budget that covers it.

    `key_id` None (the admin key) is covered by no budget of scope key. Budgets of providers are demanded per attempt,
    when the provider is known: `provider_demands`.
    """
    values = {Scope.TENANT: shape.tenant, Scope.KEY: key_id, Scope.MODEL: shape.model, Scope.ALL: ""}
    return _demands_of(budgets, values, unit=unit, units=units, now=now, zone=zone)


def provider_demands(
    budgets: Sequence[Budget], provider_name: str, *, unit: int, now: int, zone: tzinfo
) -> tuple[Demand, ...]:
    """Say what one attempt must hold on the budgets of its provider."""
    return _demands_of(budgets, {Scope.PROVIDER: provider_name}, unit=unit, units=1, now=now, zone=zone)


def applies(budgets: Sequence[Budget], shape: Shape, key_id: str | None) -> bool:
    """Whether any budget covers this request, so that targets without a price are left out (promise 5).

    Budgets of providers are not asked here: see `covers_provider`.
    """
    values = {Scope.TENANT: shape.tenant, Scope.KEY: key_id, Scope.MODEL: shape.model, Scope.ALL: ""}
    return any(_covers(budget, values) for budget in budgets)


def covers_provider(budgets: Sequence[Budget], provider_name: str) -> bool:
    """Whether a provider has a budget of its own, so that its targets without a price are left out."""
    return any(_covers(budget, {Scope.PROVIDER: provider_name}) for budget in budgets)


def window_key(window: Window, now: int, zone: tzinfo) -> str:
    """Name the calendar window that an instant (milliseconds, UTC) lies in: `day:2026-11-21`, `month:2026-11`, `total`.

    An hour carries its offset (`hour:2026-10-25T02+01:00`), because a clock that is put back shows the same hour twice.
    """
    local = datetime.fromtimestamp(now / 1000, tz=zone)
    match window:
        case Window.HOUR:
            return f"hour:{local.isoformat(timespec='hours')}"
        case Window.DAY:
            return f"day:{local.date().isoformat()}"
        case Window.MONTH:
            return f"month:{local.date().isoformat()[:7]}"
        case Window.TOTAL:
            return "total"
        case _:
            assert_never(window)


# -- the ledger -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hold:
    """What a task (`n` 0) or one of its attempts holds on one budget window: `units` times `unit` nano-USD.

    A task's own hold stays when its last unit is taken, so that the next attempt is refused. `limit` as demanded.
    """

    n: int
    part: int
    budget: str
    window: str
    unit: int
    units: int
    limit: int

    @property
    def pair(self) -> Pair:
        """The budget and its window."""
        return self.budget, self.window


@dataclass(frozen=True, slots=True)
class Posting:
    """What one step does to the books of a task: lines to append, holds as they are now, and holds that are gone."""

    lines: tuple[LedgerEntry, ...] = ()
    holds: tuple[Hold, ...] = ()
    gone: tuple[Hold, ...] = ()

    def changes(self) -> Mapping[Pair, tuple[int, int]]:
        """Sum what the lines change of each balance: (held, spent) in nano-USD. Balances that stay are left out."""
        sums: dict[Pair, tuple[int, int]] = {}
        for line in self.lines:
            if line.budget:
                held, spent = sums.get((line.budget, line.window), (0, 0))
                sums[(line.budget, line.window)] = (held + line.held_delta, spent + (line.spent_delta or 0))
        return {pair: change for pair, change in sums.items() if change != (0, 0)}


Balances = Mapping[Pair, Balance]


def reserve(task: Task, asked: Sequence[Demand], balances: Balances) -> Posting | OverBudget:
    """Admission: hold everything that is demanded, or say what does not fit. A window never used has no balance."""
    refusal = _find_refusal(asked, balances)
    if refusal is not None:
        return refusal
    holds = tuple(Hold(0, 0, one.budget, one.window, one.unit, one.units, one.limit) for one in asked)
    lines = tuple(_line(task, None, "reserve", hold, task.created_at, held=hold.unit * hold.units) for hold in holds)
    return Posting(lines, holds)


def take(
    task: Task, attempt: Attempt, asked: Sequence[Demand], held: Iterable[Hold], *, balances: Balances, at: int
) -> Posting | OverBudget:
    """An intent: units of each of the task's holds become the attempt's, and the attempt's own demands are held.

    An attempt takes a unit for each image that it makes. `held` is everything that the task and its attempts hold.
    """
    reserved, units = _held_by(0, held), max(1, attempt.count)
    for hold in reserved:
        if hold.units < units:
            return OverBudget(Demand(hold.budget, hold.window, hold.unit, hold.limit, units), 0)
    refusal = _find_refusal(asked, balances)
    if refusal is not None:
        return refusal
    _demand_distinct([hold.pair for hold in reserved] + [(one.budget, one.window) for one in asked])
    moved = [replace(hold, n=attempt.n, part=attempt.part, units=units) for hold in reserved]
    added = [Hold(attempt.n, attempt.part, one.budget, one.window, one.unit * one.units, 1, one.limit) for one in asked]
    lines = [_line(task, attempt, "hold", hold, at) for hold in moved]
    lines += [_line(task, attempt, "hold", hold, at, held=hold.unit) for hold in added]
    rest = [replace(hold, units=hold.units - units) for hold in reserved]
    return Posting(tuple(lines), (*rest, *moved, *added))


def settle(task: Task, attempt: Attempt, held: Iterable[Hold], at: int, *, lives: bool) -> Posting:
    """The end of an attempt: settle its holds, release them, or keep them, by what is known of its bill.

    `lives`: the task goes on, so that a unit that was not needed returns to the task's own hold. What was billed, or
    may have been, is also written on one `spend` line without a budget, with None for an unknown amount.
    """
    if attempt.state is not AttemptState.ENDED:
        raise ValueError(f"attempt {attempt.n} of {attempt.task_id} has not ended")
    match attempt.billing:
        case Billed.NO:
            return release(task, attempt, held, at, lives=lives)
        case Billed.YES:
            mine = _held_by(attempt.n, held)
            lines = [
                _line(task, attempt, "settle", hold, at, held=-hold.unit * hold.units, spent=_cost(attempt, hold))
                for hold in mine
            ]
            return Posting((*lines, _spend(task, attempt, at)), gone=mine)
        case Billed.UNKNOWN:
            return Posting((_spend(task, attempt, at),))
        case _:
            assert_never(attempt.billing)


def release(task: Task, attempt: Attempt, held: Iterable[Hold], at: int, *, lives: bool) -> Posting:
    """Nothing was paid: units taken from the task's holds return to them while it `lives`; all other holds end."""
    every = tuple(held)
    reserved = {hold.pair: hold for hold in every if hold.n == 0} if lives else {}
    mine = _held_by(attempt.n, every)
    lines = [
        _line(task, attempt, "release", hold, at, held=0 if hold.pair in reserved else -hold.unit * hold.units)
        for hold in mine
    ]
    back = [
        replace(reserved[hold.pair], units=reserved[hold.pair].units + hold.units)
        for hold in mine
        if hold.pair in reserved
    ]
    return Posting(tuple(lines), tuple(back), mine)


def free(task: Task, held: Iterable[Hold], at: int) -> Posting:
    """The end of a task: let go of what no attempt has taken. An attempt that is still out keeps its own holds."""
    reserved = _held_by(0, held)
    left = (hold for hold in reserved if hold.unit * hold.units)
    lines = tuple(_line(task, None, "free", hold, at, held=-hold.unit * hold.units) for hold in left)
    return Posting(lines, gone=reserved)


def book(relayed: Relayed, charges: Sequence[Charge]) -> Posting:
    """A try of a relayed completion is over: a `relay` line for each budget that it counts for, and its `spend` line.

    Nothing was held in the books before; what is unknown is held from now on.
    """
    lines = [
        _relay_line(relayed, "relay", one.budget, one.window, held=one.held, spent=one.spent)
        for one in charges
        if one.held or one.spent
    ]
    if relayed.billing is not Billed.NO:
        lines.append(_relay_line(relayed, "spend", "", "", held=0, spent=relayed.cost_nanos))
    return Posting(tuple(lines))


def charges_of(
    asked: Sequence[Demand], billed: Billed, cost_nanos: int | None, estimate_nanos: int
) -> tuple[Charge, ...]:
    """Say what one try counts for on the budgets that cover it: its cost, or the estimate where nobody knows that."""
    amount = estimate_nanos if cost_nanos is None else cost_nanos
    match billed:
        case Billed.NO:
            return ()
        case Billed.YES:
            return tuple(Charge(one.budget, one.window, spent=amount) for one in asked)
        case Billed.UNKNOWN:
            return tuple(Charge(one.budget, one.window, held=estimate_nanos) for one in asked)
        case _:
            assert_never(billed)


# -- parts ----------------------------------------------------------------------------------------------------------


def _covers(budget: Budget, values: Mapping[Scope, str | None]) -> bool:
    value = values.get(budget.scope)
    if value is None:
        return False
    return budget.scope is Scope.ALL or fnmatchcase(value, budget.match)


def _demands_of(
    budgets: Sequence[Budget], values: Mapping[Scope, str | None], *, unit: int, units: int, now: int, zone: tzinfo
) -> tuple[Demand, ...]:
    """Each matching value has a balance of its own; where two budgets count the same one, the tighter limit holds."""
    found: dict[Pair, Demand] = {}
    for budget in budgets:
        if _covers(budget, values):
            name = budget.scope.value if budget.scope is Scope.ALL else f"{budget.scope.value}:{values[budget.scope]}"
            pair = name, window_key(budget.window, now, zone)
            limit = min(budget.limit, found[pair].limit) if pair in found else budget.limit
            found[pair] = Demand(*pair, unit, limit, units)
    return tuple(found.values())


def _find_refusal(asked: Sequence[Demand], balances: Balances) -> OverBudget | None:
    """I9: held and spent, with what is asked, never pass the limit."""
    _demand_distinct([(one.budget, one.window) for one in asked])
    for one in asked:
        balance = balances.get((one.budget, one.window))
        left = one.limit - (0 if balance is None else balance.held + balance.spent)
        if one.unit * one.units > left:
            return OverBudget(one, max(0, left))
    return None


def _held_by(n: int, held: Iterable[Hold]) -> tuple[Hold, ...]:
    """What the task (0) or one of its attempts holds, in an order that depends on no engine."""
    return tuple(sorted((hold for hold in held if hold.n == n), key=lambda hold: hold.pair))


def _demand_distinct(pairs: Sequence[Pair]) -> None:
    if len(set(pairs)) != len(pairs):
        raise ValueError(f"a budget window is demanded twice: {sorted(pairs)}")


def _cost(attempt: Attempt, hold: Hold) -> int:
    """What a budget counts: billed without an amount counts as the estimate."""
    return hold.unit * hold.units if attempt.cost_nanos is None else attempt.cost_nanos


def _spend(task: Task, attempt: Attempt, at: int) -> LedgerEntry:
    return LedgerEntry(
        task_id=task.id,
        tenant=task.tenant,
        part=attempt.part,
        n=attempt.n,
        entry="spend",
        budget="",
        window="",
        held_delta=0,
        spent_delta=attempt.cost_nanos,
        provider=attempt.provider,
        model=task.model,
        at=at,
    )


def _relay_line(relayed: Relayed, entry: str, budget: str, window: str, *, held: int, spent: int | None) -> LedgerEntry:
    return LedgerEntry(
        task_id=relayed.request_id,
        tenant=relayed.tenant,
        part=0,
        n=relayed.n,
        entry=entry,
        budget=budget,
        window=window,
        held_delta=held,
        spent_delta=spent,
        provider=relayed.provider,
        model=relayed.model,
        at=relayed.ended_at,
    )


def _line(
    task: Task, attempt: Attempt | None, entry: str, hold: Hold, at: int, *, held: int = 0, spent: int = 0
) -> LedgerEntry:
    return LedgerEntry(
        task_id=task.id,
        tenant=task.tenant,
        part=hold.part,
        n=hold.n,
        entry=entry,
        budget=hold.budget,
        window=hold.window,
        held_delta=held,
        spent_delta=spent,
        provider="" if attempt is None else attempt.provider,
        model=task.model,
        at=at,
    )
