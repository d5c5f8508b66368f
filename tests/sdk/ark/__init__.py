"""Volcengine's Ark runtime against the simulator, in an environment of its own: `make test-sdk-ark`."""
