"""Benchmarks, one per file; `registry.py` loads them."""
