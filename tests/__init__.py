"""The tests, laid out by the floors that they test. A package, so that `python -m tests.sim` and `python -m tests.seen`
work; nothing in `router/` or `providers/` imports it.
"""
