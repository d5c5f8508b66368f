"""What a surface hands to the intake, and what it is answered: a request as read, taken or refused. Floor 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from router.provider import Kind, Role
from router.task import Error, Preferences, Priority, Task


@dataclass(slots=True)
class Folder:
    """Where the files of a request lie that came before its row (`uploads`): under the id that its task will have.

    `keys` are the files begun so far. `offered`: the intake was asked to take them, and sees to them from then on.
    """

    tenant: str
    task_id: str
    keys: list[str] = field(default_factory=list)
    offered: bool = False


@dataclass(frozen=True, slots=True)
class Upload:
    """An input file of a request: the caller's `url`, its bytes, or a key in the vault.

    The key is that of another task's file, which is to be copied (`copy_of`), or of one that came piece by piece and
    lies in the `folder` of this request (`kept`).
    """

    role: Role
    url: str | None = None
    content: bytes | None = field(default=None, repr=False)
    copy_of: str | None = None
    kept: str | None = None
    folder: Folder | None = None
    size: int | None = None
    content_type: str = "application/octet-stream"
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """A request as a surface has read it: fields validated, extras taken out of `input`.

    `model` None: the default of the kind. `wait_s` is how long the caller would wait for the answer, None when it will
    not. `repeats` says that the client announced an automatic repeat (`x-stainless-retry-count` > 0).
    `callback_events` are the types that `callback_url` is told of; `link_base` is where the links in webhooks begin,
    None: where the daemon listens.
    """

    tenant: str
    kind: Kind
    input: Mapping[str, object]
    surface: str
    route: str
    digest: str
    request_id: str
    model: str | None = None
    key_id: str | None = None
    priority: Priority = Priority.NORMAL
    metadata: Mapping[str, str] = field(default_factory=dict)
    preferences: Preferences = field(default_factory=Preferences)
    idempotency_key: str | None = None
    start_within_s: float | None = None
    timeout_s: float | None = None
    wait_s: float | None = None
    repeats: bool = False
    retry_of: str | None = None
    files: tuple[Upload, ...] = ()
    callback_url: str | None = None
    callback_events: tuple[str, ...] = ()
    link_base: str | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The task is durable. `replayed`: it existed before this request (a used key or an attached repeat)."""

    task: Task
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """No row was written. `retry_after_s` only where repeating helps."""

    error: Error
    retry_after_s: float | None = None
