"""The policy loss with KL and entropy terms, as a sum and its denominator."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from socialr1_jax.config.objective import Objective, objective

# Clipped as in verl: log-ratios at +-20, which would overflow, and KL estimates at +-10, which are outliers.
_LOG_RATIO_LIMIT = 20.0
_KL_LIMIT = 10.0
_LENGTH_CONSTANT = 3072  # the recipe's max_new_tokens


def policy_loss(
    logp_bt: jax.Array,
    old_logp_bt: jax.Array | None,
    ref_logp_bt: jax.Array | None,
    advantages_b: jax.Array,
    mask_bt: jax.Array,
    preset: str | Objective = "social_r1",
    *,
    sampler_logp_bt: jax.Array | None = None,
    entropy_bt: jax.Array | None = None,
    segments_bt: jax.Array | None = None,
    **overrides: Any,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Return (sum, denominator, metrics); the loss is sum / denominator, and both add up over any split of the rows.

    The loss of a token is the policy term of `preset` (config/objective.py; `overrides` replace single fields), plus
    kl_coefficient x KL estimate, minus entropy_coefficient x entropy. The policy term of "clip" is
    -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A), DeepSeekMath arXiv 2402.03300 eq. 3. `aggregation` sums
    over tokens; the denominator is the number of tokens, or of responses that have any.

    Arrays are float32 [b, t], advantages [b]; the mask is boolean, and values outside it have no effect. A row may hold
    several responses, numbered by int32 `segments_bt`; then advantages are [b, t]. `old_logp_bt=None` means that the
    policy being updated is the one that sampled, and the ratio is exactly 1. The metrics tokens, kl, entropy and
    clip_fraction are sums over tokens; ratio_max and ratio_min are extremes. Raises ValueError if an array is missing
    that the objective needs.
    """
    chosen = objective(preset, **overrides)
    _need(chosen, ref_logp_bt=ref_logp_bt, entropy_bt=entropy_bt, sampler_logp_bt=sampler_logp_bt)
    mask_bt = mask_bt.astype(bool)

    def inside(x_bt: jax.Array) -> jax.Array:
        # `where` stops NaN propagation from padding, also in the gradient: 0 * NaN is NaN.
        return jnp.where(mask_bt, x_bt, 0.0)

    def total(x_bt: jax.Array) -> jax.Array:
        return jnp.sum(inside(x_bt))

    logp_bt = inside(logp_bt)
    still_bt = jax.lax.stop_gradient(logp_bt)
    old_bt = still_bt if old_logp_bt is None else jax.lax.stop_gradient(inside(old_logp_bt))
    gain_bt = inside(advantages_b if advantages_b.ndim == 2 else jnp.broadcast_to(advantages_b[:, None], mask_bt.shape))
    length_bt = jnp.maximum(_of_response(mask_bt.astype(jnp.float32), segments_bt), 1.0)

    with jax.named_scope("policy_loss"):
        log_ratio_bt = logp_bt - old_bt
        if chosen.ratio == "sequence":
            # The value is the response's mean log-ratio; the gradient flows through each token's own log-prob.
            mean_bt = _of_response(jax.lax.stop_gradient(log_ratio_bt), segments_bt) / length_bt
            log_ratio_bt = mean_bt + logp_bt - still_bt
        ratio_bt = jnp.exp(jnp.clip(log_ratio_bt, -_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT))
        policy_bt, clipped_bt = _policy_term(chosen, ratio_bt, gain_bt, logp_bt)
        if chosen.importance_sampling != "none" and sampler_logp_bt is not None:
            policy_bt *= truncated_weights(
                old_bt, sampler_logp_bt, mask_bt, chosen.importance_sampling, chosen.importance_cap, segments_bt
            )

        kl_bt = jnp.zeros_like(logp_bt)
        if ref_logp_bt is not None:
            kl_bt = _kl(logp_bt, inside(ref_logp_bt), jax.lax.stop_gradient(logp_bt - old_bt), chosen.kl_estimator)
        entropy_bt = jnp.zeros_like(logp_bt) if entropy_bt is None else inside(entropy_bt)
        loss_bt = policy_bt + chosen.kl_coefficient * kl_bt - chosen.entropy_coefficient * entropy_bt

    sum_, denominator, tokens = _aggregated(chosen, loss_bt, length_bt, total)
    metrics = {
        "tokens": tokens,
        "kl": total(kl_bt),
        "entropy": total(entropy_bt),
        "clip_fraction": total(clipped_bt.astype(jnp.float32)),
        "ratio_max": jnp.max(ratio_bt, where=mask_bt, initial=-jnp.inf),
        "ratio_min": jnp.min(ratio_bt, where=mask_bt, initial=jnp.inf),
    }
    return sum_, denominator, jax.tree.map(jax.lax.stop_gradient, metrics)


def _aggregated(
    chosen: Objective, loss_bt: jax.Array, length_bt: jax.Array, total: Callable[[jax.Array], jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the loss's sum and denominator and the number of tokens; `total` sums over the mask."""
    tokens, responses = total(jnp.ones_like(loss_bt)), jnp.round(total(1.0 / length_bt))
    sum_, denominator = total(loss_bt), responses
    match chosen.aggregation:
        case "token-mean":
            denominator = tokens
        case "seq-mean-token-mean":
            sum_ = total(loss_bt / length_bt)
        case "seq-mean-token-sum-norm":
            denominator = responses * (chosen.length_constant or _LENGTH_CONSTANT)
    return sum_, denominator, tokens


def _need(chosen: Objective, **arrays: jax.Array | None) -> None:
    needed = {
        "kl_coefficient": (chosen.kl_coefficient, "ref_logp_bt"),
        "entropy_coefficient": (chosen.entropy_coefficient, "entropy_bt"),
        "importance_sampling": (chosen.importance_sampling != "none", "sampler_logp_bt"),
    }
    for field, (used, name) in needed.items():
        if used and arrays[name] is None:
            raise ValueError(f"{field} is {getattr(chosen, field)}: give {name}")


def _policy_term(
    chosen: Objective, ratio_bt: jax.Array, gain_bt: jax.Array, logp_bt: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the policy term of each token and the mask of clipped tokens, both [b, t]."""
    bounded_bt = jnp.clip(ratio_bt, 1 - chosen.clip_low, 1 + chosen.clip_high)
    if chosen.policy_term == "cispo":
        return -jax.lax.stop_gradient(bounded_bt) * gain_bt * logp_bt, bounded_bt != ratio_bt
    policy_bt = jnp.maximum(-ratio_bt * gain_bt, -bounded_bt * gain_bt)
    clipped_bt = -bounded_bt * gain_bt > -ratio_bt * gain_bt
    if chosen.dual_clip:
        policy_bt = jnp.where(gain_bt < 0, jnp.minimum(policy_bt, -chosen.dual_clip * gain_bt), policy_bt)
    return policy_bt, clipped_bt


def truncated_weights(
    old_bt: jax.Array,
    sampler_bt: jax.Array,
    mask_bt: jax.Array,
    level: str,
    cap: float,
    segments_bt: jax.Array | None = None,
) -> jax.Array:
    """Return min(trainer's / sampler's probability, cap), float32 [b, t] without gradient; 1 outside the mask.

    Truncated importance sampling corrects for the difference between the sampler's and the trainer's policy. A weight
    belongs to a token or, at `level` "sequence", to a response: the product over its tokens.
    """
    difference_bt = jnp.where(mask_bt, old_bt - sampler_bt, 0.0)
    if level == "sequence":
        difference_bt = _of_response(difference_bt, segments_bt)
    difference_bt = jnp.clip(difference_bt, -_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    return jax.lax.stop_gradient(jnp.where(mask_bt, jnp.minimum(jnp.exp(difference_bt), cap), 1.0))


def _of_response(x_bt: jax.Array, segments_bt: jax.Array | None) -> jax.Array:
    """Return, at each token, the sum over its response's tokens, [b, t]; without segments a row is one response."""
    if segments_bt is None:
        return jnp.broadcast_to(jnp.sum(x_bt, axis=1, keepdims=True), x_bt.shape)

    def of_row(x_t: jax.Array, segments_t: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(x_t, segments_t, num_segments=len(x_t) + 1)[segments_t]

    return jax.vmap(of_row)(x_bt, segments_bt)


def _kl(logp_bt: jax.Array, ref_bt: jax.Array, log_ratio_bt: jax.Array, estimator: str) -> jax.Array:
    """Return an estimate of KL(policy || reference) at each token (Schulman, "Approximating KL divergence", 2020).

    With d = reference - policy: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1. In expectation the gradient of k1 is 0,
    that of k2 is the reverse KL's and that of k3 the forward KL's. "+" keeps the value and uses the gradient
    ratio (policy - reference) grad log-prob, which is exact in expectation even for tokens of an old policy.
    """
    d_bt = jnp.clip(jax.lax.stop_gradient(ref_bt) - logp_bt, -_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    value_bt = {"k1": -d_bt, "k2": d_bt**2 / 2, "k3": jnp.expm1(d_bt) - d_bt}[estimator.rstrip("+")]
    value_bt = jnp.clip(value_bt, -_KL_LIMIT, _KL_LIMIT)
    if not estimator.endswith("+"):
        return value_bt
    ratio_bt = jnp.exp(jnp.clip(log_ratio_bt, -_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT))
    score_bt = jax.lax.stop_gradient(-ratio_bt * d_bt) * logp_bt
    return jax.lax.stop_gradient(value_bt) + score_bt - jax.lax.stop_gradient(score_bt)
