"""The closed set of things that happen, as frozen records, and the bus that tells them to readers.

Events are emitted after the commit that made them true, in order, synchronously. Readers (metrics, logs, waiters,
streams) may not wait; one that raises is counted and skipped, and steers nothing. Every record has `at`, an instant in
milliseconds. No event carries a secret or a prompt. Floor 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from router.outbox import Standing, Try, Webhook
from router.relays import Relayed
from router.task import Attempt, State, Task


@dataclass(frozen=True, slots=True)
class TaskAdmitted:
    """A task row was written."""

    at: int
    task: Task


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """A task went from waiting to running; `waited_s` since it was runnable."""

    at: int
    task: Task
    waited_s: float


@dataclass(frozen=True, slots=True)
class TaskRetrying:
    """Another attempt will follow."""

    at: int
    task: Task
    delay_s: float


@dataclass(frozen=True, slots=True)
class TaskInterrupted:
    """A shutdown withdrew an attempt of which nothing had been sent."""

    at: int
    task: Task


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """A task reached a terminal state; `was` is the state in which it had been."""

    at: int
    task: Task
    was: State


@dataclass(frozen=True, slots=True)
class TaskSwept:
    """Retention removed the output of a succeeded task."""

    at: int
    task: Task


@dataclass(frozen=True, slots=True)
class TaskHeld:
    """No candidate may be tried now; the task waits in the state it has."""

    at: int
    task: Task
    delay_s: float


@dataclass(frozen=True, slots=True)
class TaskProgressed:
    """The upstream said how far it is (0-100)."""

    at: int
    task: Task
    progress: int


@dataclass(frozen=True, slots=True)
class AttemptOpened:
    """An intent is durable; the paid call follows."""

    at: int
    task: Task
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class AttemptAccepted:
    """The upstream named the job and the name is durable."""

    at: int
    task: Task
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """An attempt is over and its bill is written. `heard` when its task had already ended."""

    at: int
    task: Task
    attempt: Attempt
    heard: bool = False


@dataclass(frozen=True, slots=True)
class FailedOver:
    """The next attempt goes to another target than the last; `reason` is the outcome word."""

    at: int
    task: Task
    source: str
    destination: str
    reason: str


@dataclass(frozen=True, slots=True)
class RelayEnded:
    """A try of a relayed completion is over; its row is written within a second. `cut` by a shutdown.

    `estimate_nanos` is what it was thought to cost.
    """

    at: int
    relayed: Relayed
    estimate_nanos: int | None
    cut: bool = False


@dataclass(frozen=True, slots=True)
class RelayMoved:
    """The next try of a relayed completion goes to another target than the last; `reason` is the outcome word."""

    at: int
    request_id: str
    tenant: str
    model: str
    source: str
    destination: str
    reason: str


@dataclass(frozen=True, slots=True)
class BreakerMoved:
    """A target's breaker changed: closed, half_open or open (for `open_for_s`)."""

    at: int
    provider: str
    target: str
    model: str
    before: str
    after: str
    open_for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class AccountRested:
    """A credential was put aside after an account error."""

    at: int
    provider: str
    account: str
    rest_s: float
    detail: str


@dataclass(frozen=True, slots=True)
class BudgetRefused:
    """A budget had no room. `left` in nano-USD."""

    at: int
    tenant: str
    budget: str
    window: str
    left: int


@dataclass(frozen=True, slots=True)
class QueueRefused:
    """A submit met the queue's bound."""

    at: int
    tenant: str
    bound: str


@dataclass(frozen=True, slots=True)
class BytesStored:
    """A result was copied to our storage."""

    at: int
    task_id: str
    provider: str
    bytes: int


@dataclass(frozen=True, slots=True)
class ConfigApplied:
    """A new ruleset is in force."""

    at: int
    hash: str
    before: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigRejected:
    """A new configuration was refused; the running one stays. One line per problem (file:line:path)."""

    at: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DrainStarted:
    """Shutdown began."""

    at: int
    running: int


@dataclass(frozen=True, slots=True)
class CallCut:
    """A shutdown cut a paid call short. What it cost is unknown; `estimate_nanos` is what it was thought to cost."""

    at: int
    task: Task
    attempt: Attempt
    estimate_nanos: int | None


@dataclass(frozen=True, slots=True)
class Recovered:
    """A life began with what an earlier one left: counts of tasks taken over."""

    at: int
    waiting: int
    resumed: int
    unknown: int


@dataclass(frozen=True, slots=True)
class LifeReplaced:
    """Another life has taken this one's place in the store: this one can write nothing any more and takes no task."""

    at: int
    replica: str
    epoch: int


@dataclass(frozen=True, slots=True)
class TasksTaken:
    """Tasks of other lives go on here: of silent ones, or of busy ones that had more than they could start."""

    at: int
    count: int
    silent: bool


@dataclass(frozen=True, slots=True)
class KeyChanged:
    """An operator made, rotated or revoked an API key. `by`: the API key that it was done with, None: the admin key."""

    at: int
    key_id: str
    tenant: str
    change: str
    by: str | None


@dataclass(frozen=True, slots=True)
class WebhookTried:
    """A webhook (as it was taken) was tried, and this is where it stands now."""

    at: int
    webhook: Webhook
    tried: Try
    standing: Standing


Event = (
    TaskAdmitted
    | TaskStarted
    | TaskRetrying
    | TaskInterrupted
    | TaskEnded
    | TaskSwept
    | TaskHeld
    | TaskProgressed
    | AttemptOpened
    | AttemptAccepted
    | AttemptEnded
    | FailedOver
    | RelayEnded
    | RelayMoved
    | BreakerMoved
    | AccountRested
    | BudgetRefused
    | QueueRefused
    | BytesStored
    | ConfigApplied
    | ConfigRejected
    | DrainStarted
    | CallCut
    | Recovered
    | LifeReplaced
    | TasksTaken
    | KeyChanged
    | WebhookTried
)

Reader = Callable[[Event], None]


@dataclass(slots=True)
class Bus:
    """Tells each event to each reader, in the order of subscription. `failures` counts readers that raised."""

    readers: list[Reader] = field(default_factory=list)
    failures: int = 0

    def subscribe(self, reader: Reader) -> Callable[[], None]:
        """Add a reader; the returned function takes it away again."""
        self.readers.append(reader)
        return lambda: self.readers.remove(reader)

    def emit(self, *events: Event) -> None:
        """Tell them, in order."""
        for event in events:
            for reader in tuple(self.readers):
                try:
                    reader(event)
                except Exception:  # noqa: BLE001 - an observer must never steer or stop the flow
                    self.failures += 1
