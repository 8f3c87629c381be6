"""Benchmark a run's programs, optionally against transformers and TRL."""
