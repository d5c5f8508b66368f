"""One task in the words of one surface: pure rendering, every field that the contract prints is present (floor 3)."""
