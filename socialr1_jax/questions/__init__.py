"""The questions of a run: sources, order, audit and accuracy."""
