"""Training: the GRPO trainer, supervised cold start, metrics, checkpoints and the run report."""
