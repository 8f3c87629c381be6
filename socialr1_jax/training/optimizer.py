"""AdamW with gradient clipping and a schedule, from the configuration."""

import optax

from socialr1_jax.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, updates: int) -> optax.Schedule:
    """Learning rate by update: linear warm-up, then constant, cosine or linear down to `final_fraction` of the peak."""
    peak, rest = config.learning_rate, max(1, updates - config.warmup_steps)
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=config.final_fraction),
        "linear": optax.linear_schedule(peak, peak * config.final_fraction, rest),
    }[config.schedule]
    if not config.warmup_steps:
        return after
    # From peak / warmup_steps, not from 0: the first update is not wasted.
    warmup = optax.linear_schedule(peak / config.warmup_steps, peak, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clip by global norm, then AdamW with decay on every weight (verl's default)."""
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(schedule, config.beta1, config.beta2, config.epsilon, weight_decay=config.weight_decay),
    )
