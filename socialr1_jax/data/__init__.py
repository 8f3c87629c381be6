"""Questions in, batches out: the example record and its readers, prompts, generated stories, the prompt order.

Nothing here imports jax, so that a question file can be checked on any machine in a second.
"""
