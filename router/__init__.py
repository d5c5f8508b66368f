"""Pointsman: the daemon that takes media-generation tasks, queues them over a durable store, and runs them on paid
providers. This file owns the version and nothing else; `router/DESIGN.md` is the map of the floors below it.
"""

__version__ = "0.1.0"
