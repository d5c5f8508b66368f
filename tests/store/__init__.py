"""Engines of `persistence.Store`: one contract for all, a search for differences, and what only SQLite promises."""
