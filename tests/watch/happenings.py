"""One of every event, around one task that has a prompt and one attempt that failed."""

from dataclasses import replace
from typing import get_args

from router.events import (
    AccountRested,
    AttemptAccepted,
    AttemptEnded,
    AttemptOpened,
    BreakerMoved,
    BudgetRefused,
    BytesStored,
    CallCut,
    ConfigApplied,
    ConfigRejected,
    DrainStarted,
    Event,
    FailedOver,
    KeyChanged,
    LifeReplaced,
    QueueRefused,
    Recovered,
    RelayEnded,
    RelayMoved,
    TaskAdmitted,
    TaskEnded,
    TaskHeld,
    TaskInterrupted,
    TaskProgressed,
    TaskRetrying,
    TasksTaken,
    TaskStarted,
    TaskSwept,
    WebhookTried,
)
from router.outbox import Standing, Try, TryResult, Webhook
from router.outcome import Billed
from router.provider import Handle, Kind
from router.relays import Relayed
from router.task import Attempt, Priority, State, Task, accepted, ended

AT = 1_795_176_000_000
PROMPT = "a prompt that nobody else may read"
TASK = Task(
    id="task_" + "0" * 32,
    tenant="studio",
    kind=Kind.IMAGE_GENERATION,
    model="m",
    input={"prompt": PROMPT},
    surface="openai",
    route="/v1/images/generations",
    priority=Priority.HIGH,
    created_at=AT - 5_000,
)
WEBHOOK = Webhook(
    f"msg_{'0' * 32}_3", "studio", TASK.id, "task.failed", "https://hook.example/in-the-path", "hook.example:443", AT
)
INTENT = Attempt(
    task_id=TASK.id,
    tenant=TASK.tenant,
    n=1,
    provider="a",
    target="a",
    target_model="a-model",
    account="#0",
    base_url="http://127.0.0.1",
    attempt_key="k",
    started_at=AT - 4_000,
    timeout_at=AT + 100_000,
    rules_hash="0" * 16,
)
FAILURE = ended(INTENT, AT, "overloaded", Billed.NO, 0, http_status=503, detail="busy")
SUCCESS = ended(INTENT, AT, "succeeded", Billed.YES, 40_000_000)
DONE = replace(TASK, state=State.SUCCEEDED, completed_at=AT)
FAILED = replace(TASK, state=State.FAILED, completed_at=AT)
RELAYED = Relayed(
    request_id="req_" + "0" * 32,
    n=1,
    tenant="studio",
    key_id=None,
    model="m",
    provider="a",
    target="a",
    target_model="a-model",
    account="#0",
    streamed=True,
    begun=True,
    started_at=AT - 2_000,
    ended_at=AT,
    outcome="succeeded",
    billing=Billed.YES,
    cost_nanos=20_000_000,
)

ONE_OF_EACH: tuple[Event, ...] = (
    TaskAdmitted(AT, TASK),
    TaskStarted(AT, TASK, 0.25),
    TaskRetrying(AT, TASK, 0.5),
    TaskInterrupted(AT, TASK),
    TaskEnded(AT, DONE, State.RUNNING),
    TaskSwept(AT, DONE),
    TaskHeld(AT, TASK, 1.0),
    TaskProgressed(AT, TASK, 40),
    AttemptOpened(AT, TASK, INTENT),
    AttemptAccepted(AT, TASK, accepted(INTENT, Handle("job-1"), AT)),
    AttemptEnded(AT, TASK, FAILURE),
    FailedOver(AT, TASK, "a", "b", "overloaded"),
    RelayEnded(AT, RELAYED, 30_000_000),
    RelayMoved(AT, RELAYED.request_id, "studio", "m", "a", "b", "overloaded"),
    BreakerMoved(AT, "a", "a", "a-model", "closed", "open", 30.0),
    AccountRested(AT, "a", "#0", 600.0, "no credit left"),
    BudgetRefused(AT, "studio", "tenant:studio", "day:2026-11-21", 5),
    QueueRefused(AT, "studio", "per_tenant"),
    BytesStored(AT, TASK.id, "a", 1234),
    ConfigApplied(AT, "1" * 16, "0" * 16),
    ConfigRejected(AT, ("routing.yaml:3: models.m: no targets",)),
    DrainStarted(AT, 2),
    CallCut(AT, TASK, INTENT, 30_000_000),
    Recovered(AT, 1, 2, 3),
    LifeReplaced(AT, "a-replica", 3),
    KeyChanged(AT, "key_1", "acme", "revoked", None),
    TasksTaken(AT, 4, silent=True),
    WebhookTried(AT, WEBHOOK, Try(AT, TryResult.REJECTED, 500, "HTTP 500", 12), Standing.WAITING),
)


def list_event_types():
    return set(get_args(Event))
