"""One optimizer update from a mini-batch of rows, in one jitted call.

Micro-batches go through `lax.scan`; gradients add up as float32 sums and are divided once by the summed denominator,
so the result does not depend on how rows are cut into micro-batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

from socialr1_jax.mesh import ROWS, P, constrain, place
from socialr1_jax.models.qwen3 import Params

# loss_fn(params, micro-batch) -> (sum, (denominator, metrics)); metrics add up over micro-batches, but names that
# end in "_max" take the maximum.
LossFn = Callable[[Params, "Rows"], tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]]


class TrainState(NamedTuple):
    """float32 master weights, Adam moments, and the number of updates so far."""

    params: Params
    opt_state: optax.OptState
    updates: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Rows:
    """Right-padded rows: prompt then response. `mask_bt` marks the tokens that are trained on.

    The last three are None where they are not needed: old log-probs with one update a rollout, reference log-probs
    with KL coefficient 0, advantages in supervised training.
    """

    tokens_bt: Any
    lengths_b: Any
    mask_bt: Any
    advantages_b: Any = None
    old_logp_bt: Any = None
    ref_logp_bt: Any = None

    def take(self, rows: Any) -> "Rows":
        return jax.tree.map(lambda x: x[rows], self)

    def placed(self) -> "Rows":
        """The same rows on the devices, split over the context's mesh."""
        return jax.tree.map(place, self)


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """A fresh state with float32 master weights (a copy: the update donates its state), moments laid out like them."""
    masters = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), params)
    moments = jax.jit(optimizer.init, out_shardings=moment_shardings(optimizer, masters))(masters)
    return TrainState(masters, moments, place(np.int32(0), P()))


def moment_shardings(optimizer: optax.GradientTransformation, masters: Params) -> Any:
    """Where the optimizer's state lies: moments like their weights, counts whole; None for weights on no mesh."""
    sharding = jax.tree.leaves(masters)[0].sharding
    if not isinstance(sharding, NamedSharding):
        return None  # naming the one device would commit the moments to it, and the second update compile again
    everywhere = NamedSharding(sharding.mesh, P())
    return optax.tree.map_params(
        optimizer,
        lambda _, weight: weight.sharding,
        jax.eval_shape(optimizer.init, masters),
        masters,
        transform_non_params=lambda _: everywhere,
    )


def make_update(
    loss_fn: LossFn, optimizer: optax.GradientTransformation, micro_batch_rows: int
) -> Callable[[TrainState, Rows], tuple[TrainState, dict[str, jax.Array]]]:
    """The jitted update: (state, rows) -> (new state, metrics). The old state's memory is reused.

    Metrics: loss, grad_norm (before clipping), tokens (the denominator), and the loss's own, per token.
    """

    def update(state: TrainState, rows: Rows) -> tuple[TrainState, dict[str, jax.Array]]:
        def one(total: Any, batch: Rows) -> tuple[Any, Any]:
            (loss, (denominator, metrics)), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state.params, batch)
            total = jax.tree.map(lambda a, g: a + g.astype(jnp.float32), total, gradient)
            return total, {"loss": loss, "tokens": denominator, **metrics}

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), state.params)
        gradient, parts = jax.lax.scan(one, zeros, micro_batches(rows, micro_batch_rows))
        sums = {name: jnp.max(x) if name.endswith("_max") else jnp.sum(x) for name, x in parts.items()}
        tokens = jnp.maximum(sums["tokens"], 1.0)
        gradient = jax.tree.map(lambda g: g / tokens, gradient)
        with jax.named_scope("optimizer"):
            change, opt_state = optimizer.update(gradient, state.opt_state, state.params)
            params = optax.apply_updates(state.params, change)
        metrics = {k: v if k.endswith("_max") or k == "tokens" else v / tokens for k, v in sums.items()}
        metrics["grad_norm"] = optax.global_norm(gradient)
        return TrainState(params, opt_state, state.updates + 1), metrics

    return jax.jit(update, donate_argnums=0)


def map_rows(
    function: Callable[[Params, Rows], jax.Array], micro_batch_rows: int
) -> Callable[[Params, Rows], jax.Array]:
    """The jitted (params, rows) -> [b, ...] that applies `function` to one micro-batch after another."""

    def mapped(params: Params, rows: Rows) -> jax.Array:
        parts = jax.lax.map(partial(function, params), micro_batches(rows, micro_batch_rows))
        return constrain(parts.swapaxes(0, 1).reshape(-1, *parts.shape[2:])[: rows.lengths_b.shape[0]], ROWS)

    return jax.jit(mapped)


def micro_batches(rows: Rows, size: int) -> Rows:
    """The rows as [micro-batches, size, ...], row i in micro-batch i modulo their number: no device hands rows on.

    Rows of nothing fill up the last places: an empty mask adds 0 to every sum.
    """
    count = rows.lengths_b.shape[0]
    parts = -(-count // size)

    def cut(x: jax.Array) -> jax.Array:
        filled = jnp.pad(x, ((0, parts * size - count),) + ((0, 0),) * (x.ndim - 1))
        return constrain(filled.reshape(size, parts, *x.shape[1:]).swapaxes(0, 1), P(None, *ROWS))

    return jax.tree.map(cut, rows)


def pack_rows(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], *, multiple: int, **extra: Any
) -> Rows:
    """Right-padded int32 rows of prompt + response, width a multiple of `multiple`; the mask marks the response."""
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    width = -(-max(lengths) // multiple) * multiple
    tokens_bt = np.zeros((len(lengths), width), np.int32)
    mask_bt = np.zeros((len(lengths), width), bool)
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        tokens_bt[i, : lengths[i]] = [*prompt, *response]
        mask_bt[i, len(prompt) : lengths[i]] = True
    return Rows(tokens_bt=tokens_bt, lengths_b=np.asarray(lengths, np.int32), mask_bt=mask_bt, **extra)
