"""One try of a task on one provider: intent, submit, poll, result, in the order that money demands.

The intent is durable before a byte leaves (promise 2), the upstream's job id as soon as it is parsed. What an adapter
raises becomes kind BUG here and nowhere else. A caller's cancel is a fact that the poll loop looks at, not an asyncio
cancellation; a shutdown leaves an accepted job to the next life. This module decides nothing about what comes next:
`run.py` asks `policy.verdict`. Floor 2.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field, replace
from typing import assert_never, cast

from router.events import AttemptAccepted, BytesStored, TaskProgressed
from router.flow.fleet import Started
from router.flow.previews import Preview
from router.flow.rehost import Unfetchable, store_outputs
from router.flow.runtime import FILES, REMIX, STREAM, Live, Phase, Runtime, copy_folder, files_of, shape_of
from router.outcome import SUCCEEDED, Billed, Fail, FailureKind, fail
from router.persistence import Stale
from router.policy import price
from router.policy.fit import FIELD_OF_ROLE
from router.policy.route import Candidate
from router.policy.rules import Provider, Shape, Target
from router.provider import (
    Account,
    Adapter,
    Broken,
    Call,
    Done,
    Handle,
    Job,
    Media,
    Missing,
    Partial,
    Pending,
    Polled,
    Probing,
    Reply,
    Request,
    Source,
    Stream,
    Streaming,
    Submitted,
    Trouble,
    Usage,
)
from router.task import Attempt, AttemptState, Output, Task, ended

POLL_MAX_S = 15.0
POLL_GROWTH = 1.3
POLL_REPLY_S = 30.0
PROBE_REPLY_S = 10.0
MISSING_BELIEVED = 3  # a job id unknown upstream is believed after three polls in a row (contract 6)
INPUT_FETCH_S = 60.0
STORE_RESULT_MIN_S = 60.0  # a paid result is fetched for at least this long, whatever is left of the timeout


class LeftToNextLife(Exception):  # noqa: N818 - it names what happened
    """A shutdown came while an accepted job was being polled; its row says all that the next life needs."""


class NothingSent(Exception):  # noqa: N818 - it names what happened
    """A shutdown came between the intent and the first byte."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of an attempt. `outcome` None is success; then `output` and `usage` say what was delivered."""

    attempt: Attempt
    outcome: Fail | None
    output: tuple[Output, ...] = ()
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Trial:
    """An attempt in the hands of its driver, with what it needs from the rules it was chosen under."""

    attempt: Attempt
    task: Task
    provider: Provider
    target: Target
    adapter: Adapter
    job: Job
    deadline_s: float
    live: Live

    @property
    def shape(self) -> Shape:
        """What the attempt was to make, as pricing sees it."""
        whole = shape_of(self.task)
        return replace(whole, n=len(self.attempt.covers(whole.n)))


def intend(
    runtime: Runtime, task: Task, candidate: Candidate, started: Started, *, n: int, images: range, timeout_s: float
) -> Attempt:
    """Draw up the intent of attempt `n` of a task, which makes these images at this candidate."""
    now, shape = runtime.now(), shape_of(task)
    # A key is bound to what was asked under it: fewer images under the key of more would be refused or replayed.
    part = "0" if len(images) >= shape.n else f"{images.start}-{len(images)}"
    return Attempt(
        task_id=task.id,
        tenant=task.tenant,
        n=n,
        part=images.start,
        count=len(images),
        provider=candidate.provider.name,
        target=candidate.target.name,
        target_model=candidate.target.model,
        account=started.credential.label,
        base_url=candidate.provider.base_url,
        attempt_key=f"{task.id}-{part}",
        started_at=now,
        timeout_at=now + round(timeout_s * 1000),
        rules_hash=runtime.rules.hash,
        fence=task.fence,
        estimate_nanos=price.quote(candidate.target.price, replace(shape, n=len(images))),
    )


def take_up(
    runtime: Runtime, task: Task, attempt: Attempt, candidate: Candidate, *, credential: str, live: Live
) -> Trial:
    """Get everything in hand to drive an attempt, new or left by an earlier life."""
    fields = candidate.target.abilities.fields
    body = {name: value for name, value in task.input.items() if fields is None or name in fields}
    body.pop(FILES, None)
    body.pop(STREAM, None)
    body.pop(REMIX, None)
    remix = task.input.get(REMIX)
    if "n" in body and attempt.count not in {0, body["n"]}:
        body["n"] = attempt.count
    job = Job(
        attempt_key=attempt.attempt_key,
        kind=task.kind,
        model=attempt.target_model,
        input=body,
        base_url=attempt.base_url,
        credential=credential,
        now=runtime.now(),
        files=files_of(task),
        callback_url=_callback_url(runtime, task, candidate.provider),
        remix_of=None if remix is None else remix["remote_id"],
    )
    return Trial(
        attempt=attempt,
        task=task,
        provider=candidate.provider,
        target=candidate.target,
        adapter=runtime.world.adapter(candidate.provider.adapter.slug),
        job=job,
        deadline_s=asyncio.get_running_loop().time() + max(0, attempt.timeout_at - runtime.now()) / 1000,
        live=live,
    )


async def drive(runtime: Runtime, trial: Trial) -> Ended:
    """Bring an attempt whose intent is durable to its end; a job that was accepted is resumed, never resubmitted.

    Raises `NothingSent` or `LeftToNextLife` when a shutdown comes at a point where stopping costs nothing.
    """
    if trial.attempt.state is AttemptState.ACCEPTED and trial.attempt.handle is not None:
        answer: Done | Pending | Fail = Pending(trial.attempt.handle)
        attempt = trial.attempt
    else:
        answer = await _submit(runtime, trial)
        attempt = trial.attempt
    if isinstance(answer, Pending):
        attempt = await _accept(runtime, trial, attempt, answer.handle)
        answer = await _poll(runtime, trial, answer)
    if isinstance(answer, Fail):
        return _close(runtime, trial, attempt, answer)
    return await _deliver(runtime, trial, attempt, answer)


def abandon(runtime: Runtime, trial: Trial) -> Ended:
    """End an attempt whose intent was durable when the daemon stopped: nobody knows whether it was sent (C3 to C5)."""
    unknown = fail(FailureKind.UNKNOWN, "the daemon stopped while the request was out; what came of it is not known")
    return _close(runtime, trial, trial.attempt, unknown)


def orphan(runtime: Runtime, attempt: Attempt) -> Ended:
    """End an attempt whose provider the configuration no longer has: nobody can ask after it."""
    unknown = fail(FailureKind.UNKNOWN, "its provider is no longer configured; what came of the request is not known")
    after = ended(attempt, runtime.now(), unknown.kind.value, unknown.billed, None, detail=unknown.detail)
    return Ended(after, unknown)


# -- parts ----------------------------------------------------------------------------------------------------------


def _callback_url(runtime: Runtime, task: Task, provider: Provider) -> str | None:
    """Where this attempt's upstream may wake us (`api/callbacks.py`); None where nothing could reach or verify it."""
    if runtime.public_url is None or provider.webhook is None:
        return None
    return f"{runtime.public_url}/v1/callbacks/{provider.name}/{task.id}"


async def probe(runtime: Runtime, candidate: Candidate, started: Started) -> Fail | None:
    """Ask a provider that is just coming back for something free, before a task is tried on it; None: it may be."""
    facts = candidate.provider.adapter
    if not facts.probes:
        return None
    adapter = cast("Probing", runtime.world.adapter(facts.slug))
    account = Account(candidate.provider.base_url, started.credential.secret, runtime.now())

    async def call(request: Request) -> Reply | Broken:
        return await runtime.world.call(request, PROBE_REPLY_S)

    try:
        return await adapter.probe(account, call)
    except Exception:  # noqa: BLE001 - a probe that raises says nothing about the provider
        return None


def _call_of(runtime: Runtime, trial: Trial, limit_s: float | None = None) -> Call:
    """Bind the wire to what is left of the attempt's time."""
    loop = asyncio.get_running_loop()

    async def call(request: Request) -> Reply | Broken:
        left = trial.deadline_s - loop.time()
        return await runtime.world.call(request, max(0.001, left if limit_s is None else min(limit_s, left)))

    return call


async def _submit(runtime: Runtime, trial: Trial) -> Submitted:
    job = await _at_hand(runtime, trial)
    if isinstance(job, Fail):
        return job
    if runtime.draining or not runtime.holds(trial.live):
        raise NothingSent
    trial.live.phases[trial.attempt.n] = Phase.SUBMITTING
    runtime.world.mark("C3")
    try:
        if trial.task.input.get(STREAM) is True and job.kind in trial.provider.adapter.streams:
            return await _stream(runtime, trial, job)
        return await trial.adapter.submit(job, _call_of(runtime, trial))
    except Exception as bug:  # noqa: BLE001 - the one boundary where an adapter's exception becomes a value
        return fail(FailureKind.BUG, f"the adapter raised {type(bug).__name__}")


async def _stream(runtime: Runtime, trial: Trial, job: Job) -> Done | Fail:
    """Make the request whose answer comes bit by bit, and pass previews on to whoever listens; the rest is the same."""
    loop, counts = asyncio.get_running_loop(), Counter[int]()

    def listen(request: Request) -> AbstractAsyncContextManager[Stream | Reply | Broken]:
        # A picture may take all the time it has between two previews, as it may without any.
        left = max(0.001, trial.deadline_s - loop.time())
        return runtime.world.listen(request, left, left)

    async with aclosing(cast("Streaming", trial.adapter).stream(job, listen)) as told:
        async for one in told:
            match one:
                case Done() | Fail():
                    return one
                case Partial(index, media) if media.b64 is not None:
                    preview = Preview(trial.attempt.part + index, counts[index], media.b64)
                    runtime.previews.tell(trial.task.id, preview)
                    counts[index] += 1
                case _:
                    continue  # nothing that a picture's caller could be shown
    return fail(FailureKind.BUG, "the adapter's stream had no end")


async def _at_hand(runtime: Runtime, trial: Trial) -> Job | Fail:
    """Fetch the input files that are named by URL, where the upstream does not do that itself; costs nothing."""
    job = trial.job
    if trial.target.abilities.takes_urls or all(one.key is not None for one in job.files):
        return job
    left = trial.deadline_s - asyncio.get_running_loop().time()
    files: list[Source] = []
    for at, source in enumerate(job.files):
        if source.url is None:
            files.append(source)
            continue
        stored = await store_outputs(
            runtime.world,
            (Media(url=source.url),),
            key_prefix=copy_folder(trial.task, at),
            allowed_origin=None,
            timeout_s=min(INPUT_FETCH_S, left),
        )
        if isinstance(stored, Unfetchable):
            detail = f"an input file could not be fetched: {stored.detail}"
            return fail(FailureKind.BAD_REQUEST, detail, param=FIELD_OF_ROLE[source.role])
        [copy] = stored
        files.append(Source(source.role, copy.key, content_type=copy.content_type, size=copy.bytes))
    return replace(job, files=tuple(files))


async def _accept(runtime: Runtime, trial: Trial, attempt: Attempt, handle: Handle) -> Attempt:
    """Make the job id durable before anything else happens."""
    if attempt.state is AttemptState.ACCEPTED:
        return attempt
    runtime.world.mark("C5")
    kept = await runtime.insist(lambda: runtime.world.store.accept(attempt, handle, runtime.now()))
    if isinstance(kept, Stale):
        raise LeftToNextLife  # another life owns the row now; it will be judged there
    runtime.world.mark("C6")
    runtime.bus.emit(AttemptAccepted(runtime.now(), trial.task, kept))
    return kept


async def _poll(runtime: Runtime, trial: Trial, pending: Pending) -> Done | Fail:
    """Ask after the job until it has ended, its time is up or the daemon stops."""
    loop = asyncio.get_running_loop()
    pace_s, missing, heard_cancel = trial.provider.adapter.polls_every_s, 0, False
    trial.live.phases[trial.attempt.n] = Phase.POLLING
    while True:
        if runtime.draining:
            raise LeftToNextLife
        if trial.live.cancelled and not heard_cancel:
            heard_cancel = True
            stopped = await _cancel_upstream(runtime, trial, pending.handle)
            if stopped is not None:
                return stopped
        left = trial.deadline_s - loop.time()
        if left <= 0:
            return fail(FailureKind.UNKNOWN, "the job was accepted and did not end within the attempt's timeout")
        wait_s = max(pending.after_s or 0.0, pace_s) * runtime.time_scale
        await _rest(trial.live, min(wait_s, left))
        polled = await _ask(runtime, trial, pending.handle)
        match polled:
            case Done() | Fail():
                return polled
            case Pending():
                missing = 0
                pending = polled
                _tell_progress(runtime, trial, polled.progress)
                pace_s = min(pace_s * POLL_GROWTH, POLL_MAX_S)
            case Trouble():
                pending = Pending(pending.handle, after_s=polled.after_s)
                pace_s = min(pace_s * 2, POLL_MAX_S)
                trial = _with_key_in_force(runtime, trial) if polled.refused else trial
            case Missing():
                missing += 1
                if missing >= MISSING_BELIEVED:
                    return fail(FailureKind.LOST, polled.detail)
            case _:
                assert_never(polled)


async def _ask(runtime: Runtime, trial: Trial, handle: Handle) -> Polled:
    try:
        return await trial.adapter.poll(handle, trial.job, _call_of(runtime, trial, POLL_REPLY_S))
    except Exception as bug:  # noqa: BLE001 - a poll that raises says nothing about the paid job
        return Trouble(f"the adapter raised {type(bug).__name__}")


def _with_key_in_force(runtime: Runtime, trial: Trial) -> Trial:
    """Replace a refused key that a reload has taken away: by the one of its label, else by the provider's first."""
    account = runtime.rules.providers.get(trial.provider.name)
    if account is None or account.base_url != trial.job.base_url:
        return trial  # what is configured now, if anything, is another upstream: it must not see the job's name
    if any(one.secret == trial.job.credential for one in account.credentials):
        return trial
    alike = [one for one in account.credentials if one.label == trial.attempt.account]
    chosen = next(iter(alike or account.credentials), None)
    return trial if chosen is None else replace(trial, job=replace(trial.job, credential=chosen.secret))


async def _cancel_upstream(runtime: Runtime, trial: Trial, handle: Handle) -> Fail | None:
    """Ask the upstream to stop this attempt's job, where it has such a call (I11)."""
    if not trial.provider.adapter.cancels:
        return None
    try:
        return await trial.adapter.cancel(handle, trial.job, _call_of(runtime, trial, POLL_REPLY_S))
    except Exception:  # noqa: BLE001 - an upstream cancel that fails leaves the job to be heard to its end
        return None


async def _rest(live: Live, wait_s: float) -> None:
    """Wait between polls; a cancel or a drain ends the wait early."""
    try:
        async with asyncio.timeout(wait_s):
            await live.wake.wait()
        live.wake.clear()
    except TimeoutError:
        return


def _tell_progress(runtime: Runtime, trial: Trial, progress: int | None) -> None:
    """Keep the upstream's word; progress never falls (contract 5.3)."""
    if progress is None:
        return
    trial.live.shares[trial.attempt.part] = progress * trial.shape.n
    of_all = sum(trial.live.shares.values()) // max(1, shape_of(trial.task).n)
    if of_all > trial.live.progress:
        trial.live.progress = min(of_all, 99)
        runtime.bus.emit(TaskProgressed(runtime.now(), trial.task, trial.live.progress))


async def _deliver(runtime: Runtime, trial: Trial, attempt: Attempt, done: Done) -> Ended:
    """Copy the result to our side; until that copy exists the attempt has not succeeded."""
    trial.live.phases[trial.attempt.n] = Phase.STORING
    runtime.world.mark("C7")
    left = trial.deadline_s - asyncio.get_running_loop().time()
    stored = await store_outputs(
        runtime.world,
        done.media,
        key_prefix=f"{trial.task.id}/{attempt.n}",
        allowed_origin=trial.job.base_url,
        timeout_s=max(left, STORE_RESULT_MIN_S),
        family=trial.task.kind.family,
    )
    if isinstance(stored, Unfetchable):
        kind = FailureKind.UNUSABLE if stored.unusable else FailureKind.RESULT_LOST
        lost = fail(kind, stored.detail, http_status=done.http_status, cost_nanos=done.cost_nanos)
        return _close(runtime, trial, attempt, lost)
    runtime.world.mark("C8")
    now = runtime.now()
    runtime.bus.emit(*(BytesStored(now, trial.task.id, attempt.provider, output.bytes) for output in stored))
    return _close(runtime, trial, attempt, done, stored)


def _close(
    runtime: Runtime, trial: Trial, attempt: Attempt, outcome: Done | Fail, output: tuple[Output, ...] = ()
) -> Ended:
    """Work out the bill and write down the end (in memory; the caller commits it)."""
    failed = outcome if isinstance(outcome, Fail) else None
    usage = Usage() if isinstance(outcome, Fail) else outcome.usage
    settled = price.settle(
        trial.target.price, trial.shape, billed=_billed(outcome), usage=usage, reported=outcome.cost_nanos
    )
    after = ended(
        attempt,
        runtime.now(),
        SUCCEEDED if failed is None else failed.kind.value,
        _billed(outcome),
        settled.cost_nanos,
        estimated=settled.estimated,
        http_status=outcome.http_status,
        detail="" if failed is None else failed.detail,
    )
    return Ended(after, failed, output, usage)


def _billed(outcome: Done | Fail) -> Billed:
    return outcome.billed if isinstance(outcome, Fail) else Billed.YES
