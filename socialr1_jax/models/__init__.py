"""Qwen3: configuration, weights, forward pass, KV cache."""
