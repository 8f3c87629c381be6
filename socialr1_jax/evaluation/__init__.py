"""Evaluation on benchmarks and question files, comparison of two runs, and audits of question files."""
