"""Plan the memory, traffic and time of a run before it starts, on these devices or others."""
