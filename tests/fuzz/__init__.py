"""Generated requests against a real daemon: everything that its OpenAPI document allows, and much that it does not.

schemathesis makes them, in an environment and with a lock of its own (`make fuzz`, `make fuzz-smoke`), because it
brings some thirty packages. `hooks` runs inside it and imports nothing of ours. `run` runs in Pointsman's environment,
starts the daemon and its simulated providers, and reads what the hooks counted.
"""
