"""Speeds of a run's programs, beside those of their peers."""
