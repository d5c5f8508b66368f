"""The flow: coroutines that ask the policies and write the answer down before acting on it (floor 2)."""
