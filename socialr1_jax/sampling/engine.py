"""The decode engine: one prefill per prompt, then segments of decode steps on the device.

A segment is one jitted `while_loop` of at most N steps. Between segments the host collects what came out, gathers the
live rows into a smaller batch when enough are done, and grows the cache to the next bucket. Batch and cache sizes
come from short ladders, so the number of compiled programs stays small.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from socialr1_jax.mesh import ROWS, P, by_rows, constrain, fetch, place, row_shards
from socialr1_jax.models.attention import Backend, decode_attention, rope_tables
from socialr1_jax.models.kv_cache import LayerCache, cache_from_prefill
from socialr1_jax.models.qwen3 import (
    Params,
    Qwen3Config,
    block,
    forward,
    gathered,
    head_kernel,
    rms_norm,
    weight_spec,
)  # fmt: skip
from socialr1_jax.sampling.draw import draw, row_keys, uniforms
from socialr1_jax.sampling.filters import filter_logits, temper
from socialr1_jax.sampling.params import Completion, SamplingParams


def slot_stride(platform: str) -> int:
    """Cache and prompt lengths are multiples of it: 64 on a CPU, where slots cost time, 128 where kernels want it."""
    return 64 if platform == "cpu" else 128


def wave_prompts(prompts: int, samples: int, max_rows: int) -> int:
    """How many of a device's prompts are decoded at once, so that `samples` rows of each are at most `max_rows`."""
    return min(ladder(prompts), floor_ladder(max(1, max_rows // samples)))


class DecodeState(NamedTuple):
    """Live rows. `last_b` is the newest token, not yet in the cache; `positions_b` is where it will be written."""

    last_b: jax.Array
    positions_b: jax.Array
    left_b: jax.Array  # tokens this row may still generate
    done_b: jax.Array
    keys_b: jax.Array  # uint32 [b, 2]
    temperature_b: jax.Array
    caches: list[LayerCache]


class Segment(NamedTuple):
    """What one segment brought for one row: new tokens and their log-probs, and whether the row is finished."""

    row: int
    tokens: list[int]
    logprobs: list[float]
    finished: bool


def rollout_weights(params: Params, config: Qwen3Config, dtype: Any) -> Params:
    """The copy of the weights that decoding reads: layout "rollout", `dtype`, layers apart, kernels [in, out].

    Layers are cut out here, once, because XLA does not hoist the slices out of the decode loop; kernels are turned
    because a small batch times [in, out] is 1.3 to 2.7 times faster on CPUs (4 x 1024 x 3072: 171 against 455 us).
    """

    def turned(name: str, kernel: jax.Array) -> jax.Array:
        whole = gathered(name, kernel, dtype)
        return constrain(whole.T, P(*reversed(weight_spec(name, "rollout")))) if name.endswith("_proj") else whole

    layers = [
        {name: turned(name, stacked[i]) for name, stacked in params["layers"].items()}
        for i in range(config.num_hidden_layers)
    ]
    return {
        "embed_tokens": gathered("embed_tokens", params["embed_tokens"], dtype),
        "layers": layers,
        "norm": gathered("norm", params["norm"], dtype),
        "head_dv": constrain(head_kernel(params, dtype).T, P(*reversed(weight_spec("lm_head", "rollout")))),
    }


def decode_step(
    weights: Params, config: Qwen3Config, tokens_b: jax.Array, positions_b: jax.Array, caches: list[LayerCache]
) -> tuple[jax.Array, list[LayerCache]]:
    """float32 logits [b, v] after one more token a row, and the caches that hold it."""
    x_btd = weights["embed_tokens"][tokens_b][:, None]
    rope = rope_tables(positions_b[:, None], config.head_dim, config.rope_theta)
    grown = []
    for layer, cache in zip(weights["layers"], caches, strict=True):

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, cache: LayerCache = cache) -> tuple[jax.Array, LayerCache]:
            cache = cache.write(positions_b, k[:, 0], v[:, 0])
            return decode_attention(q[:, 0], *cache, positions_b + 1)[:, None], cache

        x_btd, cache = block(x_btd, layer, config, rope, attend, kernel="io")
        grown.append(cache)
    x_bd = rms_norm(x_btd[:, 0], weights["norm"], config.rms_norm_eps)
    with jax.named_scope("lm_head"):
        return jnp.dot(x_bd, weights["head_dv"], preferred_element_type=jnp.float32), grown


class Filters(NamedTuple):
    """Top-k, top-p and min-p as arrays, so that another value is no recompilation."""

    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array


def _next_tokens(
    logits_bv: jax.Array, state: DecodeState, filters: Filters | None, num_tokens: int
) -> tuple[jax.Array, jax.Array]:
    with jax.named_scope("draw"):
        # Whole rows on every device of `tensor`: one gather instead of talk in each step of filters and draw, of which
        # some would wait for devices whose rows, and loops, have ended.
        logits_bv = constrain(logits_bv, P())
        logits_bv = jnp.where(jnp.arange(logits_bv.shape[-1]) < num_tokens, logits_bv, -jnp.inf)
        rows = state.temperature_b.shape
        if filters is None:
            logits_bv = temper(logits_bv, state.temperature_b)
        else:
            each = (jnp.broadcast_to(value, rows) for value in filters)
            logits_bv = filter_logits(logits_bv, state.temperature_b, *each)
        return draw(logits_bv, uniforms(state.keys_b, state.positions_b), state.temperature_b == 0)


def _advance(state: DecodeState, tokens_b: jax.Array, stops: jax.Array, step: int) -> DecodeState:
    """The state after drawing `tokens_b`; finished rows stay where they are."""
    live_b = ~state.done_b
    left_b = state.left_b - live_b
    stopped_b = jnp.any(tokens_b[:, None] == stops, axis=-1)
    return state._replace(
        last_b=jnp.where(live_b, tokens_b, state.last_b),
        positions_b=state.positions_b + jnp.where(live_b, step, 0),
        left_b=left_b,
        done_b=state.done_b | stopped_b | (left_b <= 0),
    )


@partial(jax.jit, static_argnames=("config", "dtype", "backend", "group", "slots", "num_tokens"))
def prefill(
    params: Params, config: Qwen3Config, tokens_pt: jax.Array, lengths_p: jax.Array, keys_b: jax.Array,
    left_b: jax.Array, done_b: jax.Array, temperature: float, filters: Filters | None, stops: jax.Array,
    *, dtype: Any, backend: Backend, group: int, slots: int, num_tokens: int,
) -> tuple[DecodeState, jax.Array, jax.Array]:  # fmt: skip
    """Prefills each prompt once, repeats its cache for the group and draws every row's first token."""
    hidden_ptd, kv = forward(params, config, tokens_pt, lengths_p, dtype=dtype, backend=backend, keep_kv=True)

    def first_tokens(
        hidden_ptd: jax.Array, kv: tuple[jax.Array, jax.Array], head_vd: jax.Array, lengths_p: jax.Array,
        keys_b: jax.Array, left_b: jax.Array, done_b: jax.Array, temperature: jax.Array, filters: Filters | None,
        stops: jax.Array,
    ) -> tuple[DecodeState, jax.Array, jax.Array]:  # fmt: skip
        last_pd = jnp.take_along_axis(hidden_ptd, (lengths_p - 1)[:, None, None], axis=1)[:, 0]
        logits_pv = jnp.dot(last_pd, head_vd.T, preferred_element_type=jnp.float32)
        caches = [cache.grow(slots) for cache in cache_from_prefill(*kv)]
        rows = jnp.repeat(jnp.arange(lengths_p.shape[0]), group)
        zeros_b = jnp.zeros_like(rows)
        temperature_b = jnp.broadcast_to(temperature, rows.shape)
        state = DecodeState(
            zeros_b, lengths_p[rows], left_b, done_b, keys_b, temperature_b, [cache.take(rows) for cache in caches]
        )
        tokens_b, logprobs_b = _next_tokens(logits_pv[rows], state, filters, num_tokens)
        return _advance(state, tokens_b, stops, step=0), tokens_b, logprobs_b

    specs = (ROWS, P(None, *ROWS), P(), ROWS, ROWS, ROWS, ROWS, P(), P(), P())
    return by_rows(first_tokens, specs, ROWS)(
        hidden_ptd, kv, head_kernel(params, dtype), lengths_p, keys_b, left_b, done_b, jnp.float32(temperature),
        filters, stops,
    )  # fmt: skip


# Steps taken, state, tokens [b, steps] and log-probs [b, steps] so far.
_Carry = tuple[jax.Array, DecodeState, jax.Array, jax.Array]


@partial(jax.jit, static_argnames=("config", "steps", "num_tokens"), donate_argnames=("state",))
def decode_segment(
    weights: Params, config: Qwen3Config, state: DecodeState, filters: Filters | None, stops: jax.Array,
    *, steps: int, num_tokens: int,
) -> tuple[DecodeState, jax.Array, jax.Array]:  # fmt: skip
    """At most `steps` decode steps, fewer when all rows are done: (state, tokens [b, steps], log-probs [b, steps]).

    Each device loops over its own rows and ends when they are done: no word between devices inside the loop.
    """

    def more(carry: _Carry) -> jax.Array:
        i, state, _, _ = carry
        return (i < steps) & ~jnp.all(state.done_b)

    def loop(
        weights: Params, state: DecodeState, filters: Filters | None, stops: jax.Array
    ) -> tuple[DecodeState, jax.Array, jax.Array]:
        def step(carry: _Carry) -> _Carry:
            i, state, tokens_bi, logprobs_bi = carry
            logits_bv, caches = decode_step(weights, config, state.last_b, state.positions_b, state.caches)
            # The token just written takes the row's position; the next one is drawn for the position after it.
            ahead = state._replace(caches=caches, positions_b=state.positions_b + 1)
            tokens_b, logprobs_b = _next_tokens(logits_bv, ahead, filters, num_tokens)
            state = _advance(state._replace(caches=caches), tokens_b, stops, step=1)
            return i + 1, state, tokens_bi.at[:, i].set(tokens_b), logprobs_bi.at[:, i].set(logprobs_b)

        b = state.last_b.shape[0]
        empty = (jnp.zeros((b, steps), jnp.int32), jnp.zeros((b, steps), jnp.float32))
        _, state, tokens_bi, logprobs_bi = jax.lax.while_loop(more, step, (jnp.int32(0), state, *empty))
        return state, tokens_bi, logprobs_bi

    return by_rows(loop, (P(), ROWS, P(), P()), ROWS)(weights, state, filters, stops)


@partial(jax.jit, static_argnames=("slots",))
def take_rows(part: Any, rows: jax.Array, *, slots: int) -> Any:
    """The chosen rows, counted on each device from 0, of a tree of arrays; the caches in it get `slots`."""

    def take(part: Any, rows: jax.Array) -> Any:
        return jax.tree.map(
            lambda x: x.take(rows).grow(slots) if isinstance(x, LayerCache) else x[rows],
            part,
            is_leaf=lambda x: isinstance(x, LayerCache),
        )

    return by_rows(take, (ROWS, ROWS), ROWS)(part, rows)


def _resize(state: DecodeState, rows: jax.Array, slots: int) -> DecodeState:
    """The chosen rows of the state, in caches of `slots`; layer by layer, so that no second cache is ever whole."""
    old, new = state.caches, []
    while old:
        new.append(take_rows(old.pop(0), rows, slots=slots))
    return take_rows(state._replace(caches=[]), rows, slots=slots)._replace(caches=new)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Samples from one set of weights. Make a new one when the weights change; compiled programs are shared."""

    params: Params
    config: Qwen3Config
    num_tokens: int
    dtype: str = "float32"
    backend: Backend = "xla"
    segment_tokens: int = 64
    max_rows: int = 512  # that a device decodes at once; more prompts come in waves

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        step: int = 0,
        prompt_ids: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt (a list of token ids).

        A completion depends on (seed, step, prompt id, sample index) alone; `prompt_ids` default to 0, 1, 2...
        """
        tokens: list[list[int]] = [[] for _ in range(len(prompts) * sampling.n)]
        logprobs: list[list[float]] = [[] for _ in tokens]
        for part in self.stream(prompts, sampling, step=step, prompt_ids=prompt_ids):
            tokens[part.row] += part.tokens
            logprobs[part.row] += part.logprobs
        stops = set(sampling.stop_token_ids)
        rows = [Completion(t, p, "stop" if t[-1] in stops else "length") for t, p in zip(tokens, logprobs, strict=True)]
        return [rows[i : i + sampling.n] for i in range(0, len(rows), sampling.n)]

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        *,
        step: int = 0,
        prompt_ids: Sequence[int] | None = None,
    ) -> Iterator[Segment]:
        """The same as `sample`, handed out segment by segment; row = prompt index * n + sample index."""
        for i, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(f"prompt {i} is empty")
            if min(prompt) < 0 or max(prompt) >= self.config.vocab_size:
                raise ValueError(
                    f"prompt {i} has token ids outside 0..{self.config.vocab_size - 1}: another tokenizer?"
                )
            if len(prompt) + sampling.max_new_tokens > self.config.max_position_embeddings:
                raise ValueError(
                    f"prompt {i} has {len(prompt)} tokens; with max_new_tokens={sampling.max_new_tokens} that passes "
                    f"the model's max_position_embeddings={self.config.max_position_embeddings}: lower one of them"
                )
        ids = list(range(len(prompts))) if prompt_ids is None else list(prompt_ids)
        weights = reshard(self.params, self.config, self.dtype)
        wave = wave_prompts(-(-len(prompts) // row_shards()), sampling.n, self.max_rows) * row_shards()
        for first in range(0, len(prompts), wave):
            chosen = slice(first, first + wave)
            for part in self._wave(weights, prompts[chosen], ids[chosen], sampling, step):
                yield part._replace(row=part.row + first * sampling.n)

    def _wave(
        self,
        weights: Params,
        prompts: Sequence[Sequence[int]],
        ids: Sequence[int],
        sampling: SamplingParams,
        step: int,
    ) -> Iterator[Segment]:
        stride = slot_stride(jax.default_backend())
        count, n, shards = len(prompts), sampling.n, row_shards()
        each = ladder(-(-count // shards))  # prompts of a device
        # Prompts are dealt out in turn, so that every device has as many as the others; -1 fills up.
        dealt = np.arange(each * shards).reshape(each, shards).T.reshape(-1)
        dealt = np.where(dealt < count, dealt, -1)
        width = round_up(max(map(len, prompts)), stride)
        most = round_up(max(map(len, prompts)) + sampling.max_new_tokens, stride)  # slots that any row can need
        tokens_pt = np.zeros((len(dealt), width), np.int32)
        lengths_p = np.ones(len(dealt), np.int32)
        for row, i in enumerate(dealt.tolist()):
            if i >= 0:
                tokens_pt[row, : len(prompts[i])], lengths_p[row] = prompts[i], len(prompts[i])
        real_b = np.repeat(dealt >= 0, n)
        prompt_ids_b = np.repeat(np.asarray(ids, np.uint32)[dealt], n)
        samples_b = np.tile(np.arange(n), len(dealt))
        keys_b = place(row_keys(sampling.seed, step, jnp.asarray(prompt_ids_b), jnp.asarray(samples_b)))
        filters = (
            Filters(jnp.int32(sampling.top_k), jnp.float32(sampling.top_p), jnp.float32(sampling.min_p))
            if sampling.filtered
            else None
        )
        stops = jnp.asarray(sorted(set(sampling.stop_token_ids)) or [-1], jnp.int32)
        state, tokens, logprobs = prefill(
            self.params, self.config, place(tokens_pt), place(lengths_p), keys_b,
            place(np.full(real_b.shape, sampling.max_new_tokens)), place(~real_b), sampling.temperature, filters,
            stops, dtype=jnp.dtype(self.dtype), backend=self.backend, group=n, slots=width,
            num_tokens=self.num_tokens,
        )  # fmt: skip
        rows = np.repeat(dealt * n, n) + samples_b  # which row of the wave each row of the state is
        live = real_b
        drawn = np.ones(len(rows), np.int64)
        tokens, logprobs = fetch(tokens)[:, None], fetch(logprobs)[:, None]
        while True:
            done, left = fetch(state.done_b), fetch(state.left_b)
            for i in np.flatnonzero(live).tolist():
                yield Segment(
                    int(rows[i]), tokens[i, : drawn[i]].tolist(), logprobs[i, : drawn[i]].tolist(), bool(done[i])
                )
            if done.all():
                return
            done_sb = done.reshape(shards, -1)
            size = _halved(done_sb.shape[1], int((~done_sb).sum(axis=1).max()))
            needed = int(fetch(state.positions_b)[~done].max()) + self.segment_tokens
            slots = min(ladder(-(-needed // stride)) * stride, most)
            if size < done_sb.shape[1] or slots > state.caches[0].slots:
                order_sb = np.argsort(done_sb, axis=1, kind="stable")[:, :size]  # live rows first, device by device
                state = _resize(state, place(order_sb.reshape(-1)), max(slots, state.caches[0].slots))
                kept = (order_sb + np.arange(shards)[:, None] * done_sb.shape[1]).reshape(-1)
                rows, done, left = rows[kept], done[kept], left[kept]
            live = ~done
            state, tokens, logprobs = decode_segment(
                weights, self.config, state, filters, stops, steps=self.segment_tokens, num_tokens=self.num_tokens
            )
            tokens, logprobs = fetch(tokens), fetch(logprobs)
            drawn = left - fetch(state.left_b)


reshard = jax.jit(rollout_weights, static_argnums=(1, 2))


def ladder(size: int) -> int:
    """The next batch size of the ladder 1, 2, 3, 4, 6, 8, 12, 16, 24...: at most half as much again."""
    power = 1 << (size - 1).bit_length()
    return power * 3 // 4 if size <= power * 3 // 4 and power >= 4 else power


def floor_ladder(size: int) -> int:
    """The largest batch size of the ladder that is not above `size`."""
    power = 1 << (size.bit_length() - 1)
    return power * 3 // 2 if size >= power * 3 // 2 and power >= 2 else power


def _halved(rows: int, live: int) -> int:
    """The batch halved as long as the live rows fit, but not below 16: smaller ones save no time on any device."""
    while rows % 2 == 0 and live <= rows // 2 and rows >= 32:
        rows //= 2
    return rows


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple that is not below `size`."""
    return -(-size // multiple) * multiple
