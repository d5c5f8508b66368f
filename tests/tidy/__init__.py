"""The rules of the house that no tool knows: what they are (`floors`, `shape`, `text`) and which files they read
(`sources`). `tests/test_tidy.py` applies them; every rule takes source text, so that it can be shown a bad example.
"""
