"""The official SDKs, unmodified, against the simulators: whoever writes a client for a provider can try it here first.

It is a test root of its own, with environments and locks of its own (`make test-sdk`), so that the SDKs and what they
pull in stay out of Pointsman's environment; `make test-sdk-ark` runs by itself. A simulator runs in a process
of Pointsman's interpreter; the tests import neither `router` nor `providers`, and of `tests` only what needs the
standard library alone (`tests.waiting`).
"""
