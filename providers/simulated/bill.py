"""A simulated provider's own bill: what it accepted, and what it would charge. The judge of every test about money.

It knows nothing of sockets and faults: a simulator tells it when a job is accepted and how it ended. A job is charged
at acceptance, as a real provider's meter is; an ending may lower the charge (a refusal that costs nothing). With a
file, both are appended as JSON lines and handed to the kernel before the call returns, so the bill survives `kill -9`
of its process and a later life on the same file goes on counting where the earlier one stopped.
"""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

PROMPT_KEPT = 1000
"""Characters of a prompt that an entry keeps."""
ENTRIES_KEPT = 200_000
"""Jobs that one bill holds; a simulator that has filled its bill accepts no more (503)."""
NOTHING = Decimal(0)


class What(StrEnum):
    """How a job ended, as its provider sees it."""

    ACCEPTED = "accepted"  # has not ended yet
    SUCCESS = "success"  # made, and somebody was there to take it
    REFUSAL = "refusal"  # content policy
    FAILURE = "failure"  # accepted, then failed
    TIMEOUT = "timeout"  # made, but answered later than the client waited, or never
    DISCONNECT = "disconnect"  # made, but the connection was gone before the answer


@dataclass(frozen=True, slots=True)
class Entry:
    """One accepted job. amount_usd: what it costs in US dollars; at_ms: the acceptance, milliseconds since the
    epoch.
    """

    job: str
    prompt: str
    model: str
    amount_usd: Decimal
    at_ms: int
    what: What


class Bill:
    """Entries in order of acceptance. `submitted` counts accepted jobs, `billed` those that cost something."""

    def __init__(self, owner: str, now_ms: Callable[[], int], file: Path | None = None) -> None:
        """`owner` goes into the job ids, which are UUIDs made from it and a running number. An existing file is read
        first.
        """
        self._owner = owner
        self._now_ms = now_ms
        self._entries: dict[str, Entry] = {}
        self._abandoned: set[str] = set()
        self._file: TextIO | None = None
        if file is not None:
            self._entries = {entry.job: entry for entry in read_bill(file)} if file.exists() else {}
            self._file = _open_for_append(file)

    def accept(self, *, model: str, prompt: str, amount_usd: Decimal) -> str:
        """Charge one job and return its id. RuntimeError when the bill is `full`: ask first."""
        if self.full:
            raise RuntimeError("the bill is full; a simulator asks before it accepts")
        digest = hashlib.sha256(f"{self._owner}/{len(self._entries)}".encode()).digest()
        job = str(uuid.UUID(bytes=digest[:16], version=4))
        entry = Entry(job, prompt[:PROMPT_KEPT], model, amount_usd, self._now_ms(), What.ACCEPTED)
        self._entries[job] = entry
        self._write("accepted", entry)
        return job

    def abandon(self, job: str) -> None:
        """The client of a job went away. It changes the ending's word, never the charge."""
        if self._entries[job].what is What.ACCEPTED:
            self._abandoned.add(job)

    def abandoned(self, job: str) -> bool:
        """Whether the client went away before the job ended."""
        return job in self._abandoned

    def end(self, job: str, what: What, amount_usd: Decimal | None = None) -> None:
        """Write down an ending, once, and the final charge if it differs from the one at acceptance."""
        entry = self._entries[job]
        if entry.what is not What.ACCEPTED:
            raise RuntimeError(f"job {job} ended twice: {entry.what}, then {what}")
        if what is What.SUCCESS and job in self._abandoned:
            what = What.DISCONNECT
        self._abandoned.discard(job)
        ended = replace(entry, what=what, amount_usd=entry.amount_usd if amount_usd is None else amount_usd)
        self._entries[job] = ended
        self._write("ended", ended)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every job of this bill, the oldest first."""
        return tuple(self._entries.values())

    @property
    def submitted(self) -> int:
        """How many jobs were accepted."""
        return len(self._entries)

    @property
    def billed(self) -> int:
        """How many jobs cost something."""
        return sum(entry.amount_usd > 0 for entry in self._entries.values())

    @property
    def total(self) -> Decimal:
        """What the account owes, in US dollars."""
        return sum((entry.amount_usd for entry in self._entries.values()), NOTHING)

    @property
    def full(self) -> bool:
        """Whether another job would exceed the bound of the bill."""
        return len(self._entries) >= ENTRIES_KEPT

    def jobs_by_prompt(self) -> dict[str, tuple[Entry, ...]]:
        """The entries of each prompt: more than one that costs something is a picture paid for twice."""
        return group_by_prompt(self._entries.values())

    def close(self) -> None:
        """Close the file, if there is one. The entries stay readable."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, event: str, entry: Entry) -> None:
        # A short synchronous write on the loop, on purpose: when the caller goes on, the line is out of this process.
        if self._file is not None:
            self._file.write(json.dumps({"event": event, **entry_json(entry)}) + "\n")
            self._file.flush()


def read_bill(file: Path) -> tuple[Entry, ...]:
    """The entries of a bill's file, the oldest first, also while its simulator writes: an unfinished last line is
    left out.
    """
    entries: dict[str, Entry] = {}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                entry = _entry(json.loads(line))
                entries[entry.job] = entry
    return tuple(entries.values())


def group_by_prompt(entries: Iterable[Entry]) -> dict[str, tuple[Entry, ...]]:
    """Entries by their prompt (its first `PROMPT_KEPT` characters), each group in order of acceptance."""
    grouped: dict[str, list[Entry]] = {}
    for entry in entries:
        grouped.setdefault(entry.prompt, []).append(entry)
    return {prompt: tuple(group) for prompt, group in grouped.items()}


def entry_json(entry: Entry) -> dict[str, Any]:
    """An entry as JSON, money as a decimal string."""
    return {
        "job": entry.job,
        "prompt": entry.prompt,
        "model": entry.model,
        "amount_usd": f"{entry.amount_usd:f}",
        "at_ms": entry.at_ms,
        "what": str(entry.what),
    }


def _entry(line: dict[str, Any]) -> Entry:
    return Entry(
        job=line["job"],
        prompt=line["prompt"],
        model=line["model"],
        amount_usd=Decimal(line["amount_usd"]),
        at_ms=line["at_ms"],
        what=What(line["what"]),
    )


def _open_for_append(file: Path) -> TextIO:
    # What a kill left of a last line is cut off: it was never reported to anybody, and the next line must start on
    # its own.
    if file.exists():
        whole = file.read_bytes().rfind(b"\n") + 1
        with file.open("r+b") as torn:
            torn.truncate(whole)
    return file.open("a", encoding="utf-8")
