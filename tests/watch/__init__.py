"""Readers of the bus: what they count, what they write, and what they keep to themselves."""
