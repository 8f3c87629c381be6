"""Plan the largest batch that fits into memory, from the shapes alone and before anything is compiled."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import partial

import jax

from socialr1_jax.models.arithmetic import Arithmetic
from socialr1_jax.models.attention import Backend
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.runtime.host_memory import available
from socialr1_jax.runtime.processes import least_of_all
from socialr1_jax.runtime.terminal import gib
from socialr1_jax.sampling.families import SHARERS

_PREFILL_TOKENS = 16_384  # of a prefill on one device: enough to keep it busy with little memory
_LEAST_PREFILL = 2_048  # tokens of a prefill below which fewer rows are better than fewer prompts
_SHARE = 4  # rows are planned for caches of a quarter of their limit: most end early, and some can wait in host memory
_SHARED = 256  # attention reads the start of a pool in multiples of this many slots
_STRIDE = 128  # suggested response lengths are multiples of it, as caches are on every platform
USABLE = 0.9  # share of the free memory that is used: allocators round up and fragment


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The batch of one device, and the peak of sampling's memory there in bytes."""

    rows: int  # responses decoded at once
    prompts: int  # largest number of prompts in a prefill
    width: int  # largest prompt length
    slots: int  # largest number of slots in a row's own cache
    tokens: int  # largest number of slots of all rows together; if rows need more, some wait in host memory
    sharers: int  # largest number of rows that share a prefix
    prefixes: int  # largest number of prefixes in the cache
    weights: int  # bytes of the rollout copy
    cache: int  # bytes of all slots of rows and prefixes, and of the pool of shared prefixes
    temporaries: int  # bytes of the program that needs most

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.temporaries

    @property
    def slots_each(self) -> int:
        """The number of slots that all rows can have at the same time."""
        return min(self.slots, self.tokens // self.rows)

    def rows_of(self, slots: int, group: int) -> int:
        """Return a number of rows, at least a group, that can have `slots` slots: at most an eighth below the largest.

        It has four significant binary digits, so that devices that share rows also divide them.
        """
        count = self.tokens // slots
        unit = 1 << max(0, count.bit_length() - 4)
        return max(group, count // unit * unit)


def plan_batch(
    config: Qwen3Config,
    itemsize: int,
    *,
    rows: int,
    group: int,
    prompts: int,
    width: int,
    slots: int,
    backend: Backend = "xla",
    tensor: int = 1,
    memory: int | None = None,
    alike: float = 0,
    weights: str = "dtype",
    first: int = 0,
) -> BatchPlan:
    """Return the largest batch of at most `rows` responses (groups of `group`, to `prompts` prompts) in `memory` bytes.

    All arguments are those of one device: `width` of the longest prompt, `slots` that a row may need after its prefix
    (`first` of them for its first segment), `tensor` devices that share a row. `memory` None is no limit. `alike` is
    the mean number of rows per prefix if prompts share prefixes, 0 if only the samples of a prompt do; `weights` as in
    `Arithmetic`. Fewer prompts in a prefill are tried before fewer rows.

    Raises ValueError if not even one row fits; the message suggests fixes.
    """
    planned = partial(
        _batch,
        config=config,
        itemsize=itemsize,
        group=group,
        groups=prompts,
        width=width,
        slots=slots,
        backend=backend,
        tensor=tensor,
        alike=alike,
        weights=weights,
    )
    token = Arithmetic(config, itemsize, 1).cache_token // tensor
    if alike:  # a pool of _PREFILL_TOKENS, whatever the width, so that its programs serve prompts of any length
        most = max(1, min(prompts, (_PREFILL_TOKENS - shared_slots(width)) // width))
    else:
        most = power(max(1, min(prompts, _PREFILL_TOKENS // width)))
    least = min(most, power(max(1, _LEAST_PREFILL // width)))
    fewer = [most >> i for i in range((most // least).bit_length())]
    each = min(max(first, slots // _SHARE), slots)  # slots that every row must have room for
    sizes = [(rows, count, slots) for count in fewer]
    sizes += [(size, min(count, max(1, size // group)), each) for size in [rows, *_below(rows)] for count in fewer]
    for rows, prompts, least in [*sizes, (1, 1, slots)]:
        plan = planned(rows, prompts)
        over = 0 if memory is None else max(0, -(-(plan.total - memory) // token))
        if plan.tokens - over >= max(min(group, rows) * slots, rows * least):
            return planned(rows, prompts, tokens=plan.tokens - over)
    raise ValueError(
        f"sampling does not fit: one row of {width} + {slots} tokens takes {gib(plan.total)} GiB a device "
        f"({gib(plan.weights)} of it the weights), and {gib(memory or 0)} GiB may be used. "
        + _advice(planned, width // 4 if alike else 0, memory or 0)
    )


def _batch(
    rows: int,
    prompts: int,
    *,
    config: Qwen3Config,
    itemsize: int,
    group: int,
    groups: int,
    width: int,
    slots: int,
    backend: Backend,
    tensor: int,
    alike: float,
    weights: str,
    tokens: int = 0,
) -> BatchPlan:
    tokens = tokens or rows * slots
    costs = Arithmetic(config, itemsize, 1, weights)
    d, n, h, f = config.hidden_size, config.num_attention_heads, config.head_dim, config.intermediate_size
    token = costs.cache_token // tensor
    seen = width + (shared_slots(width) if alike else 0)
    scores = 8 * n // tensor * seen if backend == "xla" else 0  # the float32 square before and after its softmax
    prefilled = token + itemsize * (4 * d + (2 * f + 3 * n * h) // tensor) + scores  # of one token of a prompt
    drawn = 16 * config.vocab_size  # float32 logits of one row and three arrays of their size while drawing
    # Twice the initial need: rows of a family end at different times, and the last one keeps the prefix.
    prefixes = 2 * math.ceil(rows / (alike or min(group, rows)))
    prefixes = min(rows, round_up(prefixes, 8) if alike else prefixes, groups * -(-group // rows))
    layer = max(tokens, prefixes * width) * token // config.num_hidden_layers
    inserted = prompts * (width + (min(group, rows) * slots if alike else 0)) * token  # copies to be written
    return BatchPlan(
        rows=rows,
        prompts=prompts,
        width=width,
        slots=slots,
        tokens=tokens,
        sharers=min(max(group, SHARERS) if alike else group, rows),
        prefixes=prefixes,
        weights=costs.rollout_copy // tensor,
        cache=(tokens + prefixes * width + (pool_slots(prompts, width) if alike else 0)) * token,
        temporaries=max(prompts * width * prefilled + inserted, rows * drawn, 2 * layer),
    )


def _advice(planned: partial[BatchPlan], own: int, memory: int) -> str:
    """Return the changes that would make one row fit, each checked with the plan: fewer tokens, bfloat16, more devices.

    own: tokens of a prompt that may be in the row's own slots.
    """
    given = planned.keywords
    config, tensor = given["config"], given["tensor"]

    def fits(**changes: int) -> bool:
        return planned(1, 1, **changes).total <= memory

    def most(name: str, beside: int) -> int:
        shorter = range(_STRIDE, given[name] - beside, _STRIDE)
        return _STRIDE * bisect_left(shorter, True, key=lambda size: not fits(**{name: beside + size}))

    fixes = []
    if tokens := most("slots", own):
        fixes.append(f"with max_new_tokens of at most {tokens}")
    if tokens := most("width", 0):
        fixes.append(f"with prompts of at most {tokens} tokens")
    if given["itemsize"] > 2 and fits(itemsize=2):
        fixes.append("in bfloat16")
    sizes = config.num_key_value_heads, config.intermediate_size, config.vocab_size
    split = (more for more in range(tensor + 1, sizes[0] + 1) if not any(size % more for size in sizes))
    if more := next((more for more in split if fits(tensor=more)), 0):
        fixes.append(f"with {more} such devices for each row (mesh.tensor={more})")
    if fixes:
        return f"It fits {', or '.join(fixes)}"
    return "Neither fewer tokens nor bfloat16 nor more devices for a row make it fit: take a smaller model"


def free_memory() -> int | None:
    """Return the bytes that sampling may take on each device, the same in every process, or None if unknown."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if all("bytes_limit" in device for device in stats):
        free = min(device["bytes_limit"] - device["bytes_in_use"] for device in stats)
    elif jax.default_backend() == "cpu" and (host := available()):
        free = host // jax.local_device_count()
    else:
        return None
    return least_of_all(int(free * USABLE) >> 20) << 20


def shared_slots(tokens: int) -> int:
    """Return the slots of a pool that attention reads for `tokens` shared tokens, rounded up for few programs."""
    return ladder(tokens, _SHARED) if tokens else 0


def pool_slots(prompts: int, width: int) -> int:
    """Return the size of a pool with a shared prefix and `prompts` prompts of `width` tokens."""
    return ladder(shared_slots(width) + prompts * width)


def power(size: int) -> int:
    """Return the largest power of two that is not above `size`."""
    return 1 << (size.bit_length() - 1)


def ceiling(size: int) -> int:
    """Return the smallest power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()


def coarse(size: int) -> int:
    """Round up to 2, 8, 32, 64, 128...: few sizes where padding costs little."""
    return next((most for most in (2, 8) if size <= most), max(32, ceiling(size)))


def ladder(size: int, step: int = 1) -> int:
    """Round up to `step` times a number of the ladder 1, 2, 3, 4, 6, 8, 12, 16, 24, ..."""
    steps = -(-size // step)
    above = ceiling(steps)
    return step * (above * 3 // 4 if steps <= above * 3 // 4 and above >= 4 else above)


def round_up(size: int, multiple: int) -> int:
    """Return the smallest multiple that is not below `size`."""
    return -(-size // multiple) * multiple


def _below(rows: int) -> list[int]:
    return sorted({size << i for i in range(rows.bit_length()) for size in (1, 3) if size << i < rows}, reverse=True)
