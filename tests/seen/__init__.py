"""What must be seen: one command per promise of an issue. `make seen ID=spine.2` prints figures and judges them."""
