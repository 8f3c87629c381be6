"""Profile a run's time and memory: its own programs traced, and the trace in figures."""
