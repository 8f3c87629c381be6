"""GRPO: group advantages, policy loss, chunked log-probs, sampler-trainer mismatch and the jitted update."""

from socialr1_jax.grpo.advantages import group_advantages, soft_overlong
from socialr1_jax.grpo.logprobs import token_logprobs
from socialr1_jax.grpo.losses import policy_loss, truncated_weights
from socialr1_jax.grpo.mismatch import mismatch

__all__ = ["group_advantages", "mismatch", "policy_loss", "soft_overlong", "token_logprobs", "truncated_weights"]
