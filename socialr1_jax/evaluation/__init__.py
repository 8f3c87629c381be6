"""Evaluation: benchmarks and question files asked and scored, two runs compared, question files audited."""
