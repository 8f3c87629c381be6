"""Build the optimizer and its schedule from the configuration."""

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from socialr1_jax.config.run import OptimizerConfig

# Muon's updates are scaled to the root mean square of AdamW's, so that both can share a learning rate (Moonlight, arXiv
# 2502.16982 section 2.2).
_MUON_RMS = 0.2


def make_schedule(config: OptimizerConfig, updates: int) -> optax.Schedule:
    """Return the learning rate by update: linear warm-up, then constant, or cosine or linear to `final_fraction`."""
    peak, rest = config.learning_rate, max(1, updates - config.warmup_steps)
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=config.final_fraction),
        "linear": optax.linear_schedule(peak, peak * config.final_fraction, rest),
    }[config.schedule]
    if not config.warmup_steps:
        return after
    # Start at peak / warmup_steps: a learning rate of 0 would waste the first update.
    warmup = optax.linear_schedule(peak / config.warmup_steps, peak, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Return AdamW, or Muon for the layers' matrices, after clipping by global norm; norms and biases do not decay."""
    if config.name == "muon":
        direction = muon(
            1.0,
            consistent_rms=_MUON_RMS,
            adam_b1=config.beta1,
            adam_b2=config.beta2,
            eps=config.epsilon,
            muon_weight_dimension_numbers=_layer_matrices,
        )
        direction = optax.chain(direction, optax.scale(-1.0))  # undo Muon's sign: scale_by_learning_rate below negates
    else:
        direction = optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        direction,
        optax.add_decayed_weights(config.weight_decay, _decays),
        optax.scale_by_learning_rate(schedule),
    )


def _decays(params: Any) -> Any:
    """Return a mask of the weights that decay: not norms, which should stay near 1, nor biases, which are small."""
    return jax.tree_util.tree_map_with_path(lambda path, _: not path[-1].key.endswith(("norm", "bias")), params)


def _layer_matrices(params: Any) -> Any:
    """Return Muon's dimension numbers for stacks of matrices [layer, out, in], None for other weights."""
    matrices = MuonDimensionNumbers(reduction_axis=2, output_axis=1)
    return jax.tree.map(lambda x: matrices if x.ndim == 3 else None, params)
