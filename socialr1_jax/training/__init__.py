"""The GRPO trainer, the SFT cold start, the reward model's trainer, the builder of pairs and the quickstart."""
