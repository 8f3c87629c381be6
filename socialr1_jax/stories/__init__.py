"""Stories with simulated minds, questions about them, and reasoning traces."""
