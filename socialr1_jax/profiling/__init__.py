"""Where the time and the memory of a run go: its own programs traced, and what the trace says in figures."""
