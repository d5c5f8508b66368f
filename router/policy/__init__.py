"""Decisions: pure functions and values. No await, no clock, no dice, no IO, no log line (floor 1)."""
