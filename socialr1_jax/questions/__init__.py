"""The questions of a run: where they come from, their order, their audit, accuracy on them."""
