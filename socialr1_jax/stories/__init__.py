"""Stories from simulated minds, questions about them, and traces of thoughts."""
