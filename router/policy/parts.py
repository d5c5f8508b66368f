"""Which images of a task are still to be made, and what has been tried for each of them (contract section 6, n > 1).

A task's images are indexes from 0. An attempt makes some that stand next to one another; where a target makes fewer at
a time than are missing, several attempts are out side by side. What failed is the history of the images that it was to
make, so that each part is judged by its own failures alone. Knows no plan and no clock. Floor 1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from router.outcome import SUCCEEDED, FailureKind
from router.policy.route import Try
from router.task import Attempt, AttemptState


@dataclass(frozen=True, slots=True)
class Piece:
    """Missing images next to one another that share their history: `count` of them, beginning with index `first`."""

    first: int
    count: int
    history: tuple[Try, ...]


def pieces_of(asked: int, attempts: Iterable[Attempt], aside: Collection[int] = ()) -> tuple[Piece, ...]:
    """Cut what is missing of a task into pieces that one attempt could make, in the order of the images.

    `asked` is how many images the task wants, `attempts` are all of its attempts, `aside` the images that nobody shall
    make now.
    """
    every = tuple(attempts)
    wanted = [image for image in missing_of(asked, every) if image not in aside]
    pieces: list[Piece] = []
    for image in wanted:
        history, last = history_of(every, asked, image), pieces[-1] if pieces else None
        if last is not None and last.first + last.count == image and last.history == history:
            pieces[-1] = Piece(last.first, last.count + 1, history)
        else:
            pieces.append(Piece(image, 1, history))
    return tuple(pieces)


def missing_of(asked: int, attempts: Iterable[Attempt]) -> tuple[int, ...]:
    """Name the images that no attempt has made or is making."""
    taken: set[int] = set()
    for one in attempts:
        if one.state is not AttemptState.ENDED or one.outcome == SUCCEEDED:
            taken.update(one.covers(asked))
    return tuple(image for image in range(asked) if image not in taken)


def history_of(attempts: Iterable[Attempt], asked: int, image: int) -> tuple[Try, ...]:
    """See the earlier failures of an image as the policies see them."""
    return tuple(_try_of(one) for one in attempts if _has_failed(one) and image in one.covers(asked))


def beside(attempts: Iterable[Attempt], asked: int, image: int) -> tuple[Try, ...]:
    """See the failures of all other images: they decide nothing about this one, but their bill is the task's."""
    return tuple(_try_of(one) for one in attempts if _has_failed(one) and image not in one.covers(asked))


def count_repeats(attempts: Iterable[Attempt]) -> int:
    """Count the attempts that went again for an image that another had been to make (contract 5.3, `retry_count`)."""
    seen: set[int] = set()
    repeats = 0
    for one in attempts:
        images = set(one.covers(1))  # one that covers all meets whichever came before it
        repeats += bool(images & seen)
        seen |= images
    return repeats


def _has_failed(attempt: Attempt) -> bool:
    return attempt.state is AttemptState.ENDED and attempt.outcome is not None and attempt.outcome != SUCCEEDED


def _try_of(attempt: Attempt) -> Try:
    return Try(attempt.target, FailureKind(attempt.outcome or ""), attempt.billing)
