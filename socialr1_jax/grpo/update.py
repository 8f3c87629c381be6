"""One optimizer update from the micro-batches of a mini-batch.

Two jitted programs: `accumulate` adds a micro-batch's gradient to float32 sums, `apply` divides once by the summed
denominator and steps the optimizer. The result therefore does not depend on the split into micro-batches. The loop over
micro-batches runs on the host; a scan would be compiled again for every number of them. Each replica adds up its own
rows; a third program, `sum_replicas`, sums over replicas once per update, because the links between nodes are slow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

from socialr1_jax.grpo.packing import Rows
from socialr1_jax.models.qwen3 import Params
from socialr1_jax.runtime.host_memory import Memory, check_room, moved, on_host
from socialr1_jax.runtime.mesh import P, place, replicas

# loss_fn(params, micro-batch) -> (sum, (denominator, metrics)). The metrics must include `tokens`. They are summed over
# micro-batches and divided by the tokens, except: names ending in "_max" and "_min" are extremes, "_count" is a plain
# sum, and "_bt" arrays are returned per micro-batch.
LossFn = Callable[[Params, Rows], tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]]


class TrainState(NamedTuple):
    """float32 master weights, optimizer moments, and the numbers of updates and of skipped updates so far."""

    params: Params
    opt_state: optax.OptState
    updates: jax.Array
    skipped: jax.Array


class Sums(NamedTuple):
    """Sums over micro-batches of the float32 gradient, the loss, its denominator and the metrics.

    If the mesh has several replicas, each has its own sums, along a first axis of all arrays; `total` removes it.
    """

    gradient: Params
    numbers: dict[str, jax.Array]


def init_state(params: Params, optimizer: optax.GradientTransformation, memory: Memory = "device") -> TrainState:
    """Return a new state with float32 master weights, copied since updates donate the state, and moments like them.

    The moments are in `memory` between updates. Raises ValueError if the host has too little.
    """
    masters = jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), params)
    moments = jax.jit(optimizer.init, out_shardings=moment_shardings(optimizer, masters))(masters)
    if memory == "host":
        check_room(moments, "optimizer.moments_memory")
        moments = moved(moments, "host")
    return TrainState(masters, moments, place(np.int32(0), P()), place(np.int32(0), P()))


def moment_shardings(optimizer: optax.GradientTransformation, masters: Params) -> Any:
    """Return the optimizer state's sharding: moments like their weights, counts replicated; None without a mesh."""
    sharding = jax.tree.leaves(masters)[0].sharding
    if not isinstance(sharding, NamedSharding):
        return None  # a sharding would commit the moments to the device and recompile the second update
    everywhere = NamedSharding(sharding.mesh, P())
    homes = {path: weight.sharding for path, weight in jax.tree_util.tree_leaves_with_path(masters)}

    def home(path: tuple[Any, ...], _: Any) -> NamedSharding:  # a moment's path ends with its weight's
        return next((homes[path[i:]] for i in range(len(path)) if path[i:] in homes), everywhere)

    return jax.tree_util.tree_map_with_path(home, jax.eval_shape(optimizer.init, masters))


@dataclass(frozen=True)
class Update:
    """One optimizer update: (state, micro-batches) -> (new state, metrics, the "_bt" arrays of each micro-batch).

    The old state is donated. Metrics: loss, grad_norm (before clipping), tokens, skipped, and those of the loss. If the
    loss or the gradient is not finite or "nonfinite_count" is not 0, weights and moments stay unchanged and the update
    counts as skipped. They also stay unchanged without a token to train on, which does not count as skipped.
    """

    accumulate: Any  # jitted (params, sums, rows) -> (sums, arrays of the rows)
    apply: Any  # jitted (state, sums) -> (state, metrics)
    loss_fn: LossFn
    # Initial values of the sums, from the first micro-batch.
    _numbers: dict[str, np.floating] = field(default_factory=dict)

    def __call__(
        self, state: TrainState, micro_batches: Sequence[Rows]
    ) -> tuple[TrainState, dict[str, jax.Array], list[dict[str, jax.Array]]]:
        return self.finish(state, self.begin(state.params, micro_batches[0]), micro_batches)

    def finish(
        self, state: TrainState, sums: Sums, micro_batches: Sequence[Rows]
    ) -> tuple[TrainState, dict[str, jax.Array], list[dict[str, jax.Array]]]:
        """Add the micro-batches to the sums of `begin` and step the optimizer; return the same as `__call__`."""
        arrays = []
        for rows in micro_batches:
            sums, of_rows = self.accumulate(state.params, sums, rows)
            arrays.append(of_rows)
        sums = total(sums)
        if not on_host(state.opt_state):
            return *self.apply(state, sums), arrays
        state, metrics = self.apply(state._replace(opt_state=moved(state.opt_state, "device")), sums)
        return state._replace(opt_state=moved(state.opt_state, "host")), metrics, arrays

    def begin(self, params: Params, rows: Rows) -> Sums:
        """Return the initial sums."""
        if not self._numbers:
            empty = {"_max": -np.inf, "_min": np.inf}
            names = number_names(self.loss_fn, params, rows)
            self._numbers.update({name: np.float32(empty.get(name[-4:], 0.0)) for name in names})
        shape, axes = ((replicas(),), ("replica",)) if replicas() > 1 else ((), ())

        def zeros(x: Any) -> jax.Array:
            where = x.sharding
            home = NamedSharding(where.mesh, P(*axes, *where.spec)) if isinstance(where, NamedSharding) else None
            return jnp.zeros((*shape, *x.shape), jnp.float32, device=home)

        numbers = {name: place(np.full(shape, value), P(*axes)) for name, value in self._numbers.items()}
        return Sums(jax.tree.map(zeros, params), numbers)


def make_update(loss_fn: LossFn, optimizer: optax.GradientTransformation) -> Update:
    """Return the update that minimises sum / denominator of `loss_fn` over a mini-batch."""
    return Update(
        jax.jit(partial(_accumulate, loss_fn), donate_argnums=1),
        jax.jit(partial(_apply, optimizer), donate_argnums=0),
        loss_fn,
    )


def number_names(loss_fn: LossFn, params: Params, rows: Rows) -> list[str]:
    """Return the names of the numbers that are summed beside the gradient."""
    _, (_, metrics) = jax.eval_shape(loss_fn, params, rows)
    return ["loss", "denominator", *(name for name in metrics if not name.endswith("_bt"))]


def total(sums: Sums) -> Sums:
    """Return the sums over the context's replicas. The replicas' sums are donated."""
    return sums if replicas() == 1 else sum_replicas(sums)


@partial(jax.jit, donate_argnums=0)  # in place: in `_apply` XLA would hold both, 15 GiB each of a 32B on eight devices
def sum_replicas(sums: Sums) -> Sums:
    """Sum over the first axis of all arrays."""
    gradient = jax.tree.map(lambda x: x.sum(0), sums.gradient)
    return Sums(gradient, {name: _combine(name).reduce(x) for name, x in sums.numbers.items()})


def _combine(name: str) -> Any:
    """Return the function that combines two values of a metric."""
    return {"_max": jnp.maximum, "_min": jnp.minimum}.get(name[-4:], jnp.add)


def _accumulate(loss_fn: LossFn, params: Params, sums: Sums, rows: Rows) -> tuple[Sums, dict[str, jax.Array]]:
    if replicas() == 1:
        return _add(loss_fn, params, sums, rows)

    def of_replica(params: Params, sums: Sums, rows: Rows) -> tuple[Sums, dict[str, jax.Array]]:
        sums, arrays = _add(loss_fn, params, jax.tree.map(lambda x: x[0], sums), rows)
        return jax.tree.map(lambda x: x[None], sums), arrays

    each = P("replica")
    # check_vma=False: otherwise the gradient of each use of a weight is summed over replicas.
    of_replicas = jax.shard_map(
        of_replica, in_specs=(P(), each, each), out_specs=each, axis_names={"replica"}, check_vma=False
    )
    return of_replicas(params, sums, rows)


def _add(loss_fn: LossFn, params: Params, sums: Sums, rows: Rows) -> tuple[Sums, dict[str, jax.Array]]:
    (loss, (denominator, metrics)), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params, rows)
    numbers = {"loss": loss, "denominator": denominator, **metrics}
    arrays = {name: numbers.pop(name) for name in metrics if name.endswith("_bt")}
    with jax.named_scope("gradient_sum"):
        return Sums(
            jax.tree.map(lambda a, g: a + g.astype(jnp.float32), sums.gradient, gradient),
            {name: _combine(name)(sums.numbers[name], x) for name, x in numbers.items()},
        ), arrays


def _apply(
    optimizer: optax.GradientTransformation, state: TrainState, sums: Sums
) -> tuple[TrainState, dict[str, jax.Array]]:
    numbers = dict(sums.numbers)
    denominator, tokens = (jnp.where(x == 0, 1.0, x) for x in (numbers.pop("denominator"), numbers["tokens"]))
    with jax.named_scope("gradient_norm"):
        gradient = jax.tree.map(lambda g: g / denominator, sums.gradient)
        norm, loss = optax.global_norm(gradient), numbers.pop("loss") / denominator
    fine = jnp.isfinite(norm) & jnp.isfinite(loss) & (numbers.get("nonfinite_count", 0) == 0)
    with jax.named_scope("optimizer"):
        change, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        stepped = TrainState(optax.apply_updates(state.params, change), opt_state, state.updates + 1, state.skipped)
        stayed = state._replace(skipped=state.skipped + jnp.where(fine, 0, 1))
        # Without a token to train on, momentum and weight decay must not move the weights either.
        moves = fine & (numbers["tokens"] > 0)
        state = jax.tree.map(lambda new, old: jnp.where(moves, new, old), stepped, stayed)
    whole = ("_max", "_min", "_count", "tokens")
    metrics = {name: x if name.endswith(whole) else x / tokens for name, x in numbers.items()}
    return state, {"loss": loss, "grad_norm": norm, "skipped": 1.0 - fine, **metrics}
