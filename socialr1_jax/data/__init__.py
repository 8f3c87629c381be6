"""Question records and their readers, prompts, tokenizers and preference pairs.

Nothing here imports jax, so a question file can be checked on any machine within a second.
"""
