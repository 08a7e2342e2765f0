"""A run's config: its keys, each checked once, and the grid that they span."""
