"""The HTTP edge: aiohttp handlers that read a request, ask the flow, and render the answer (floor 3)."""
