"""Device programs of sampling: prefill into a batch, decode a segment, resize the batch.

A batch has a fixed number of rows (one per response) and of cache slots per row. Its state stays on the devices;
`batch.py` schedules the rows between two programs. Every device works on its own rows.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from socialr1_jax.models.attention import Backend, DecodeKernel, decode_attention, rope_tables
from socialr1_jax.models.blockwise import Prefix, Segments
from socialr1_jax.models.decode_kernel import attention_by_length
from socialr1_jax.models.kv_cache import LayerCache, Sharing, cache_from_prefill
from socialr1_jax.models.qwen3 import Params, block, forward, logits, rms_norm
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.models.temperature import GREEDY, LARGEST, SMALLEST
from socialr1_jax.runtime.mesh import ROWS, P, by_heads, by_rows, constrain, tensor_shards
from socialr1_jax.sampling.draw import draw, uniforms
from socialr1_jax.sampling.families import Tokens
from socialr1_jax.sampling.filters import filter_logits, temper
from socialr1_jax.sampling.params import SamplingParams

LIVE, STOP, LENGTH, ERROR = range(4)  # whether and how a row has ended
NO_BUDGET = 2**31 - 1


class RowSampling(NamedTuple):
    """Sampling parameters of each row, as arrays so that new values need no recompilation."""

    keys_b: jax.Array  # uint32 [b, 2]
    temperature_b: jax.Array
    top_k_b: jax.Array
    top_p_b: jax.Array
    min_p_b: jax.Array
    penalty_b: jax.Array  # for repetition
    stops_bi: jax.Array  # stop tokens, padded with -1
    think_end_b: jax.Array


class DecodeState(NamedTuple):
    """The rows of a batch. `last_b` is the newest token, not yet in the cache; it will be written at `positions_b`."""

    last_b: jax.Array
    positions_b: jax.Array
    left_b: jax.Array  # tokens that the row may still get
    thinking_b: jax.Array  # tokens left of the thinking budget; NO_BUDGET without one or after </think>
    ended_b: jax.Array  # LIVE, STOP, LENGTH or ERROR; free rows are STOP
    sampling: RowSampling
    caches: list[LayerCache]
    seen_bv: jax.Array | None = None  # whether the row contains the token; None without repetition penalties


class Drawn(NamedTuple):
    """Drawn tokens with their log-probs, [b], or [b, steps] for a segment; `raw` is None unless requested."""

    tokens: jax.Array
    logprobs: jax.Array
    raw: jax.Array | None


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def empty_batch(
    config: Qwen3Config, rows: int, slots: int, dtype: Any, stops: int, penalised: bool = False
) -> DecodeState:
    """Return a batch of free rows with caches of `slots` slots and room for `stops` stop tokens per row.

    `penalised`: whether rows may have a repetition penalty.
    """
    state = free_rows(jnp, rows, stops, config.vocab_size if penalised else 0)
    state = jax.tree.map(lambda x: constrain(x, ROWS), state)
    return state._replace(caches=empty_caches(config, rows, slots, dtype))


def free_rows(xp: Any, rows: int, stops: int, vocabulary: int) -> DecodeState:
    """Return free rows without caches as arrays of `xp`, NumPy or jax.numpy; `seen_bv` is None for `vocabulary` 0."""
    ints, floats = xp.zeros(rows, xp.int32), xp.zeros(rows, xp.float32)
    keys, no_stops = xp.zeros((rows, 2), xp.uint32), xp.full((rows, stops), -1, xp.int32)
    sampling = RowSampling(keys, floats, ints, floats, floats, floats + 1, no_stops, ints)
    seen_bv = xp.zeros((rows, vocabulary), bool) if vocabulary else None
    return DecodeState(ints, ints, ints, ints, ints + STOP, sampling, [], seen_bv)


def start_row(rows: Any, at: int, prompt: Tokens, params: SamplingParams, key: np.ndarray) -> None:
    """Write a row that continues `prompt` into `free_rows` of NumPy, whose arrays must be copies of their own."""
    rows.last_b[at], rows.positions_b[at] = prompt[-1], len(prompt) - 1
    rows.left_b[at], rows.ended_b[at] = params.max_new_tokens, LIVE
    rows.thinking_b[at] = NO_BUDGET if params.thinking_budget is None else params.thinking_budget
    how = rows.sampling
    how.keys_b[at] = key
    # Clip before the cast to float32, which would turn tiny numbers into 0 and huge ones into inf. 0 stays 0.
    how.temperature_b[at] = params.temperature and np.clip(params.temperature, SMALLEST, LARGEST)
    how.top_k_b[at], how.top_p_b[at], how.min_p_b[at] = params.top_k, params.top_p, params.min_p
    how.penalty_b[at] = params.repetition_penalty
    stops = sorted(set(params.stop_token_ids))
    how.stops_bi[at, : len(stops)] = stops
    how.think_end_b[at] = -1 if params.think_end_id is None else params.think_end_id
    if rows.seen_bv is not None:
        rows.seen_bv[at, list(prompt)] = True


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def empty_caches(config: Qwen3Config, rows: int, slots: int, dtype: Any) -> list[LayerCache]:
    """Return an empty cache of `slots` slots per layer, for rows or for shared prefixes."""
    shape, spec = (rows, config.num_key_value_heads), P(*ROWS, "tensor")
    return [
        LayerCache(
            constrain(jnp.zeros((*shape, config.head_dim, slots), dtype), spec),
            constrain(jnp.zeros((*shape, slots, config.head_dim), dtype), spec),
        )
        for _ in range(config.num_hidden_layers)
    ]


@partial(jax.jit, static_argnames=("config", "dtype", "backend"), donate_argnames=("state", "prefixes"))
def admit(
    params: Params,
    config: Qwen3Config,
    state: DecodeState,
    prefixes: list[LayerCache],
    tokens_pt: jax.Array,
    lengths_p: jax.Array,
    entries_p: jax.Array,
    rows_m: jax.Array,
    fresh: DecodeState,
    *,
    dtype: Any,
    backend: Backend,
) -> tuple[DecodeState, list[LayerCache]]:
    """Prefill each prompt once, as the prefix of its group, and start the group's rows with empty caches.

    `entries_p` and `rows_m` are the indices of the prefixes and rows on each device; indices past the end are dropped.
    `fresh` holds the rest of the rows' state. The prompt's last token is not part of the prefix: decoding starts with
    it, so the prefill needs no logits.
    """
    _, kv = forward(params, config, tokens_pt, lengths_p, dtype=dtype, backend=backend, keep_kv=True, move=True)

    def insert(
        kv: tuple[jax.Array, jax.Array],
        state: DecodeState,
        prefixes: list[LayerCache],
        entries_p: jax.Array,
        rows_m: jax.Array,
        fresh: DecodeState,
    ) -> tuple[DecodeState, list[LayerCache]]:
        nothing = cache_from_prefill(*(x_lptkh[:, :1, :0].repeat(len(rows_m), axis=1) for x_lptkh in kv))
        new = fresh._replace(caches=nothing)
        return put_rows(state, rows_m, new), put_rows(prefixes, entries_p, cache_from_prefill(*kv))

    with jax.named_scope("insert"):
        return by_rows(insert, (P(None, *ROWS), *(ROWS,) * 5), (ROWS, ROWS))(
            kv, state, prefixes, entries_p, rows_m, fresh
        )


def put_rows(part: Any, rows: jax.Array, new: Any) -> Any:
    """Return a device's part of a state with new rows, whose caches may have fewer slots; drop rows past the end."""
    return jax.tree.map(
        lambda old, x: old.put(rows, x) if isinstance(old, LayerCache) else old.at[rows].set(x, mode="drop"),
        part,
        new,
        is_leaf=lambda x: isinstance(x, LayerCache),
    )


class Pool(NamedTuple):
    """Keys and values [d, l, m, k, h] of prompts with a common prefix before they are copied to rows; m slots a device.

    The prefix comes first, followed by the prompts' own tokens.
    """

    k_dlmkh: jax.Array
    v_dlmkh: jax.Array


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def empty_pool(config: Qwen3Config, devices: int, slots: int, dtype: Any) -> Pool:
    """Return an empty pool with `slots` slots on each device."""
    shape = (devices, config.num_hidden_layers, slots, config.num_key_value_heads, config.head_dim)
    return Pool(*(constrain(jnp.zeros(shape, dtype), P(*ROWS, None, None, "tensor")) for _ in range(2)))


@partial(jax.jit, static_argnames=("config", "shared", "dtype", "backend"), donate_argnames=("pool",))
def prefill_bins(
    params: Params,
    config: Qwen3Config,
    pool: Pool,
    tokens_bt: jax.Array,
    segments: Segments,
    lengths_d: jax.Array,
    at_d: jax.Array,
    *,
    shared: int,
    dtype: Any,
    backend: Backend,
) -> Pool:
    """Prefill bins of tokens that continue the pool's prefix, and write their keys and values into the pool.

    Every device has the same number of bins. They continue its first `lengths_d` slots (at most `shared`) and are
    written bin by bin from slot `at_d`.
    """
    prefix = None
    if shared:
        k_ldskh, v_ldskh = (x_dlmkh[:, :, :shared].swapaxes(0, 1) for x_dlmkh in pool)
        prefix = Prefix(k_ldskh, v_ldskh, lengths_d)
    full_b = jnp.full(len(tokens_bt), tokens_bt.shape[1])
    _, kv = forward(
        params,
        config,
        tokens_bt,
        full_b,
        dtype=dtype,
        backend=backend,
        keep_kv=True,
        segments=segments,
        prefix=prefix,
        move=True,
    )

    def write(pool: Pool, kv: tuple[jax.Array, jax.Array], at_d: jax.Array) -> Pool:
        flat = (x_lbtkh.reshape(1, len(x_lbtkh), -1, *x_lbtkh.shape[3:]) for x_lbtkh in kv)
        place = (0, 0, at_d[0], 0, 0)
        return Pool(*(jax.lax.dynamic_update_slice(*both, place) for both in zip(pool, flat, strict=True)))

    with jax.named_scope("insert"):
        return by_rows(write, (ROWS, P(None, *ROWS), ROWS), ROWS)(pool, kv, at_d)


@partial(jax.jit, donate_argnames=("part",))
def insert_from_pool(part: Any, pool: Pool, at_ms: jax.Array, rows_m: jax.Array, fresh: DecodeState | None) -> Any:
    """Fill rows of a state, or prefixes if `fresh` is None; token s of row m is in slot `at_ms[m, s]`, or -1 for none.

    `rows_m` and `fresh` are as in `admit`, but here rows begin with tokens of their own.
    """

    def insert(part: Any, pool: Pool, at_ms: jax.Array, rows_m: jax.Array, fresh: DecodeState | None) -> Any:
        kv = (jnp.where((at_ms >= 0)[..., None, None], x_dlmkh[0][:, at_ms], 0) for x_dlmkh in pool)
        caches = cache_from_prefill(*kv)
        return put_rows(part, rows_m, fresh._replace(caches=caches) if fresh else caches)

    with jax.named_scope("insert"):
        return by_rows(insert, (ROWS,) * 5, ROWS)(part, pool, at_ms, rows_m, fresh)


def decode_step(
    weights: Params,
    config: Qwen3Config,
    tokens_b: jax.Array,
    positions_b: jax.Array,
    caches: list[LayerCache],
    prefixes: list[LayerCache],
    sharing: Sharing,
    live_b: jax.Array,
    blocks: int = 1,
    kernel: DecodeKernel = "xla",
) -> tuple[jax.Array, list[LayerCache]]:
    """Return float32 logits [b, v] after one more token per live row, and the caches with it. `blocks`: see `linear`.

    A row's own cache holds its tokens after the prefix.
    """
    with jax.named_scope("embed"):
        x_btd = weights["embed_tokens"][tokens_b][:, None]
    with jax.named_scope("rope"):
        rope = rope_tables(positions_b[:, None], config.head_dim, config.rope_theta)
    own_b = positions_b - sharing.lengths_e[sharing.places_b // sharing.rows_em.shape[1]]
    lengths_b = jnp.where(live_b, own_b + 1, 0)
    attention, heads = decode_attention, P(None, "tensor")
    if kernel == "triton":
        attention = by_heads(attention_by_length, (heads, heads, P(), heads, P()), heads)
    grown = []
    for layer, cache, prefix in zip(weights["layers"], caches, prefixes, strict=True):

        def attend(
            q: jax.Array, k: jax.Array, v: jax.Array, cache: LayerCache = cache, prefix: LayerCache = prefix
        ) -> tuple[jax.Array, LayerCache]:
            with jax.named_scope("cache_write"):
                cache = cache.write(own_b, k[:, 0], v[:, 0])
            return attention(q[:, 0], cache, lengths_b, prefix, sharing)[:, None], cache

        x_btd, cache = block(x_btd, layer, config, rope, attend, blocks)
        grown.append(cache)
    with jax.named_scope("final_norm"):
        x_btd = rms_norm(x_btd, weights["norm"], config.rms_norm_eps)
    return logits(x_btd, weights["lm_head" if "lm_head" in weights else "embed_tokens"], blocks)[:, 0], grown


def _next(
    logits_bv: jax.Array, uniform_b: jax.Array, state: DecodeState, filters: frozenset[str], num_tokens: int, raw: bool
) -> tuple[DecodeState, Drawn]:
    """Return the state after one more token per live row, and the drawn tokens, [b]."""
    # Each device of `tensor` draws for a part of the rows after one all-to-all, or for all after one all-gather if it
    # does not divide them. Otherwise the collectives of filters and draw would hang on devices that have already left
    # the loop.
    rows = P("tensor") if len(logits_bv) % tensor_shards() == 0 else P()
    logits_bv = constrain(constrain(logits_bv, P(None, "tensor")), rows)
    state = _replicated(state)
    logits_bv = jnp.where(jnp.arange(logits_bv.shape[-1]) < num_tokens, logits_bv, -jnp.inf)
    how = state.sampling
    shaped_bv = logits_bv
    with jax.named_scope("filters"):
        if state.seen_bv is not None:
            penalty_b1 = how.penalty_b[:, None]
            less_bv = jnp.where(logits_bv < 0, logits_bv * penalty_b1, logits_bv / penalty_b1)
            shaped_bv = jnp.where(state.seen_bv, less_bv, logits_bv)
        if filters:
            shaped_bv = filter_logits(shaped_bv, how.temperature_b, how.top_k_b, how.top_p_b, how.min_p_b, filters)
        else:
            shaped_bv = temper(shaped_bv, how.temperature_b)
    tokens_b, logprobs_b = draw(shaped_bv, uniform_b, how.temperature_b < GREEDY)
    forced_b = state.thinking_b == 0
    tokens_b = jnp.where(forced_b, how.think_end_b, tokens_b)
    logprobs_b = jnp.where(forced_b, 0.0, logprobs_b)

    finite_b = jnp.isfinite(jnp.max(logits_bv, axis=-1))
    tokens_b, logprobs_b, finite_b = _replicated((tokens_b, logprobs_b, finite_b))

    live_b = state.ended_b == LIVE
    failed_b = live_b & ~finite_b
    took_b = live_b & ~failed_b
    left_b = state.left_b - took_b
    stopped_b = jnp.any(tokens_b[:, None] == how.stops_bi, axis=-1)
    ended_b = jnp.where(stopped_b, STOP, jnp.where(left_b <= 0, LENGTH, LIVE))
    ended_b = jnp.where(took_b, ended_b, jnp.where(failed_b, ERROR, state.ended_b))
    bounded_b = (state.thinking_b != NO_BUDGET) & (tokens_b != how.think_end_b)
    thinking_b = jnp.where(bounded_b, state.thinking_b - took_b, NO_BUDGET)
    seen_bv = state.seen_bv
    if seen_bv is not None:
        seen_bv = seen_bv.at[jnp.arange(len(tokens_b)), tokens_b].max(took_b)
    state = state._replace(
        seen_bv=seen_bv,
        last_b=jnp.where(took_b, tokens_b, state.last_b),
        positions_b=state.positions_b + took_b,
        left_b=left_b,
        thinking_b=thinking_b,
        ended_b=ended_b.astype(jnp.int32),
    )
    raw_b = None
    if raw:
        chosen_b = jnp.take_along_axis(logits_bv, tokens_b[:, None], axis=-1)[:, 0]
        raw_b = _replicated(chosen_b - jax.nn.logsumexp(logits_bv, axis=-1))
    return state, Drawn(tokens_b, logprobs_b, raw_b)


def _replicated(tree: Any) -> Any:
    return jax.tree.map(lambda x: constrain(x, P()), tree)


# Steps taken, state, tokens drawn so far.
_Carry = tuple[jax.Array, DecodeState, Drawn]


@partial(
    jax.jit,
    static_argnames=("config", "steps", "num_tokens", "filters", "raw", "blocks", "kernel"),
    donate_argnames=("state",),
)
def decode_segment(
    weights: Params,
    config: Qwen3Config,
    state: DecodeState,
    prefixes: list[LayerCache],
    sharing: Sharing,
    enough: jax.Array,
    *,
    steps: int,
    num_tokens: int,
    filters: frozenset[str] = frozenset(),
    raw: bool = False,
    blocks: int = 1,
    kernel: DecodeKernel = "xla",
) -> tuple[DecodeState, Drawn]:
    """Run at most `steps` decode steps; a device stops once no more than `enough` of its rows are live.

    Each device loops over its own rows, without collectives between rows inside the loop.
    """

    def more(carry: _Carry) -> jax.Array:
        i, state, _ = carry
        return (i < steps) & (jnp.sum(state.ended_b == LIVE) > enough)

    def loop(
        weights: Params, state: DecodeState, prefixes: list[LayerCache], sharing: Sharing, enough: jax.Array
    ) -> tuple[DecodeState, Drawn]:
        with jax.named_scope("draw"):  # the numbers of all steps: a live row advances by one position in each
            positions_bi = state.positions_b[:, None] + 1 + jnp.arange(steps)
            uniform_bi = _replicated(uniforms(state.sampling.keys_b, positions_bi))

        def step(carry: _Carry) -> _Carry:
            i, state, drawn = carry
            rows = state.last_b, state.positions_b, state.caches
            live_b = state.ended_b == LIVE
            logits_bv, caches = decode_step(weights, config, *rows, prefixes, sharing, live_b, blocks, kernel)
            with jax.named_scope("draw"):
                without = state._replace(caches=[])
                state, new = _next(logits_bv, uniform_bi[:, i], without, filters, num_tokens, raw)
            drawn = jax.tree.map(lambda all_bi, new_b: all_bi.at[:, i].set(new_b), drawn, new)
            return i + 1, state._replace(caches=caches), drawn

        shape = (state.last_b.shape[0], steps)
        floats = jnp.zeros(shape, jnp.float32)
        empty = Drawn(jnp.zeros(shape, jnp.int32), floats, floats if raw else None)
        _, state, drawn = jax.lax.while_loop(more, step, (jnp.int32(0), state, empty))
        return state, drawn

    return by_rows(loop, (P(), ROWS, ROWS, ROWS, P()), ROWS)(weights, state, prefixes, sharing, enough)


@partial(jax.jit, static_argnames=("slots",))
def take_rows(part: Any, rows: jax.Array, *, slots: int) -> Any:
    """Return the chosen rows (numbered from 0 on each device) of a tree of arrays; caches in it get `slots` slots."""

    def take(part: Any, rows: jax.Array) -> Any:
        return jax.tree.map(
            lambda x: x.take(rows).grow(slots) if isinstance(x, LayerCache) else x[rows],
            part,
            is_leaf=lambda x: isinstance(x, LayerCache),
        )

    with jax.named_scope("resize"):
        return by_rows(take, (ROWS, ROWS), ROWS)(part, rows)


def resized(state: DecodeState, rows: jax.Array, slots: int) -> DecodeState:
    """Return the chosen rows of the state, with caches of `slots` slots."""
    caches = resized_caches(state.caches, rows, slots)
    return take_rows(state._replace(caches=[]), rows, slots=slots)._replace(caches=caches)


def resized_caches(old: list[LayerCache], rows: jax.Array, slots: int) -> list[LayerCache]:
    """Return the chosen rows with `slots` slots, emptying `old` layer by layer so that two caches never coexist."""
    new = []
    while old:
        new.append(take_rows(old.pop(0), rows, slots=slots))
    return new
