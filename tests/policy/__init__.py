"""Floor 1: tables and properties of the decisions, without a clock, a store or a network."""
