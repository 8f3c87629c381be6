"""A run in its folder: state, checkpoints, log, console, questions, summary."""
