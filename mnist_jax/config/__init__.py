"""What a run is: the keys of a config, each checked once, and the grid that they span."""
