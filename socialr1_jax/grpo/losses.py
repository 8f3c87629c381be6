"""The clipped policy loss with a KL term, as (sum, denominator)."""

import jax
import jax.numpy as jnp

# verl's guards: a log-ratio beyond +-20 would overflow, a k3 beyond 10 is an outlier and not a lesson.
_LOG_RATIO_LIMIT = 20.0
_KL_LIMIT = 10.0
_DUAL_CLIP = 3.0


def policy_loss(
    logp_bt: jax.Array,
    old_logp_bt: jax.Array | None,
    ref_logp_bt: jax.Array | None,
    advantages_b: jax.Array,
    mask_bt: jax.Array,
    preset: str = "social_r1",
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl_coefficient: float = 0.04,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """(sum over tokens, number of tokens, metrics as sums over tokens); the loss is sum / denominator.

    Token-mean GRPO (DeepSeekMath arXiv 2402.03300 eq. 3 with verl's aggregation): per token
    -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A), for A < 0 at most -3 A (dual clip, arXiv 1912.09729),
    plus kl_coefficient * k3, k3 = exp(d) - d - 1 with d = ref - logp. Both sums add up over any split of the rows.

    `old_logp_bt=None` means that the policy that sampled is the one being updated: the ratio is exactly 1.
    `ref_logp_bt=None` needs kl_coefficient 0. All arrays are float32 [b, t] but advantages [b]; mask is boolean.
    Metrics: kl, clip_fraction, ratio_max (a maximum).
    """
    if preset != "social_r1":
        raise ValueError(f"unknown preset {preset!r}; known: social_r1")
    if ref_logp_bt is None and kl_coefficient:
        raise ValueError("kl_coefficient is not 0: give ref_logp_bt")
    mask_bt = mask_bt.astype(bool)
    # `where`, not multiplication: a NaN in padding times 0 is NaN, in the gradient too.
    logp_bt = jnp.where(mask_bt, logp_bt, 0.0)
    old_bt = logp_bt if old_logp_bt is None else jnp.where(mask_bt, old_logp_bt, 0.0)
    ratio_bt = jnp.exp(jnp.clip(logp_bt - jax.lax.stop_gradient(old_bt), -_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT))
    gain_bt = jnp.where(mask_bt, advantages_b[:, None], 0.0)
    plain_bt = -ratio_bt * gain_bt
    clipped_bt = -jnp.clip(ratio_bt, 1 - clip_low, 1 + clip_high) * gain_bt
    loss_bt = jnp.maximum(plain_bt, clipped_bt)
    loss_bt = jnp.where(gain_bt < 0, jnp.minimum(loss_bt, -_DUAL_CLIP * gain_bt), loss_bt)
    kl_bt = jnp.zeros_like(logp_bt)
    if ref_logp_bt is not None:
        ref_bt = jax.lax.stop_gradient(jnp.where(mask_bt, ref_logp_bt, 0.0))
        d_bt = jnp.clip(ref_bt - logp_bt, -_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
        kl_bt = jnp.clip(jnp.expm1(d_bt) - d_bt, -_KL_LIMIT, _KL_LIMIT)

    def total(x_bt: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(mask_bt, x_bt, 0.0))

    metrics = {
        "kl": total(kl_bt),
        "clip_fraction": total((clipped_bt > plain_bt).astype(jnp.float32)),
        "ratio_max": jnp.max(jnp.where(mask_bt, ratio_bt, 0.0)),
    }
    return total(loss_bt + kl_coefficient * kl_bt), jnp.sum(mask_bt).astype(jnp.float32), metrics
