"""The official `openai` SDKs, unmodified, against a real daemon: nothing is set but the base URL and the key."""
