"""Profile the time and memory of a run by tracing its own programs."""
