"""The HTTP edge over the real flow, a memory store and a provider that the test plays by hand."""
