"""Evaluation: held-out questions, scored by the rewards' own rules."""
