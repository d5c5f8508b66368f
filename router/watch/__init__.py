"""Readers of the event bus: what the daemon shows of itself, as numbers and as lines. Floor 3; they steer nothing."""
