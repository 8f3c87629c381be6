"""GRPO: group advantages, the clipped loss, log-probs over chunks, and the jitted update."""

from socialr1_jax.grpo.advantages import group_advantages
from socialr1_jax.grpo.logprobs import token_logprobs
from socialr1_jax.grpo.losses import policy_loss

__all__ = ["group_advantages", "policy_loss", "token_logprobs"]
