"""Which results nobody has collected, in every engine. Floor 3."""

from __future__ import annotations

from router.store.steps import Steps

# Note a result, and again for longer.
LEAVE = """
insert into uncollected (tenant, digest, until_at) values ($1, $2, $3)
on conflict (tenant, digest) do update set until_at = excluded.until_at
"""
# Drop what nobody came for.
DROP_STALE = """
delete from uncollected where until_at <= $1
"""
# A result was given out.
COLLECT = """
delete from uncollected where tenant = $1 and digest = $2
"""
# List them, those that end last first.
UNCOLLECTED = """
select tenant, digest, until_at from uncollected where until_at > $1 order by until_at desc, tenant, digest limit $2
"""


class UncollectedVerbs:
    """The verbs without state."""

    def leave_uncollected(self, tenant: str, digest: str, until: int, now: int) -> Steps[None]:
        """Note a result that nobody has."""
        yield DROP_STALE, (now,)
        yield LEAVE, (tenant, digest, until)

    def collect(self, tenant: str, digest: str) -> Steps[None]:
        """Forget it."""
        yield COLLECT, (tenant, digest)

    def uncollected(self, now: int, limit: int) -> Steps[tuple[tuple[str, str, int], ...]]:
        """List them."""
        return tuple((row[0], row[1], row[2]) for row in (yield UNCOLLECTED, (now, limit)))


class UncollectedDicts:
    """The same for the reference model."""

    def __init__(self) -> None:
        """Begin with none."""
        self._until: dict[tuple[str, str], int] = {}

    def put(self, tenant: str, digest: str, until: int, now: int) -> None:
        """Note a result that nobody has."""
        self._until = {pair: instant for pair, instant in self._until.items() if instant > now}
        self._until[(tenant, digest)] = until

    def drop(self, tenant: str, digest: str) -> None:
        """Forget it."""
        self._until.pop((tenant, digest), None)

    def rows(self, now: int, limit: int) -> tuple[tuple[str, str, int], ...]:
        """List them, those that end last first."""
        found = [(*pair, until) for pair, until in self._until.items() if until > now]
        return tuple(sorted(found, key=lambda row: (-row[2], row[0], row[1]))[:limit])
