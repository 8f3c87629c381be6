"""Plan the largest batch that fits: counted from the shapes, before anything is compiled."""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax

from socialr1_jax.models.arithmetic import Arithmetic
from socialr1_jax.models.attention import Backend
from socialr1_jax.models.qwen3 import Qwen3Config
from socialr1_jax.runtime.processes import least_of_all
from socialr1_jax.runtime.terminal import gib
from socialr1_jax.sampling.families import SHARERS

_PREFILL_TOKENS = 16_384  # of one prefill on a device: enough to keep it busy, little to hold
_SHARED = 256  # attention reads a pool's beginning in multiples of this many slots
_STRIDE = 128  # response lengths are proposed in multiples of it, which every platform's caches have
USABLE = 0.9  # of what is free: allocators round up and leave gaps


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The batch of one device, and the bytes that sampling takes there at its fullest."""

    rows: int  # responses decoded at once
    prompts: int  # prefilled by one call, at most
    width: int  # of a prompt, at most
    slots: int  # of a row's own cache, at most
    sharers: int  # rows that share a prefix, at most
    prefixes: int  # kept at once
    weights: int  # the rollout copy
    cache: int  # of all rows and prefixes, all slots in use, and the pool of what prompts share
    temporaries: int  # of the hungriest program

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.temporaries


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
) -> BatchPlan:
    """The largest batch of at most `rows` responses (groups of `group`, of `prompts` prompts) within `memory` bytes.

    All of one device: `width` is the longest prompt's, `slots` what a row can need behind its prefix, `tensor` the
    number of devices that share a row. `memory` None is without limit. `alike`: rows that share a prefix in the
    mean, where other prompts may; 0 where a group alone does. Raises ValueError when not even one row fits; the message
    says what would make it fit.
    """
    planned = partial(_batch, config, group=group, groups=prompts, backend=backend, alike=alike)
    most = max(1, min(prompts, _PREFILL_TOKENS // width))
    sizes = [(rows, power(most))]
    sizes += [(size, min(power(most), max(1, size // group))) for size in _below(rows)]
    for rows, prompts in [*sizes, (1, 1)]:
        plan = planned(itemsize, rows, prompts, width=width, slots=slots, tensor=tensor)
        if memory is None or plan.total <= memory:
            return plan
    raise ValueError(
        f"sampling does not fit: one row of {width} + {slots} tokens takes {gib(plan.total)} GiB a device "
        f"({gib(plan.weights)} of it the weights), and {gib(memory or 0)} GiB may be used. "
        + _advice(planned, config, itemsize, width, width // 4 if alike else 0, slots, tensor, memory or 0)
    )


def _batch(
    config: Qwen3Config,
    itemsize: int,
    rows: int,
    prompts: int,
    *,
    group: int,
    groups: int,
    width: int,
    slots: int,
    backend: Backend,
    tensor: int,
    alike: float,
) -> BatchPlan:
    costs = Arithmetic(config, itemsize, 1)
    d, n, h, f = config.hidden_size, config.num_attention_heads, config.head_dim, config.intermediate_size
    weights = costs.parameters * itemsize // tensor
    token = costs.cache_token // tensor
    seen = width + (shared_slots(width) if alike else 0)
    scores = 8 * n // tensor * seen if backend == "xla" else 0  # the float32 square before and after its softmax
    prefilled = token + itemsize * (4 * d + (2 * f + 3 * n * h) // tensor) + scores  # of one token of a prompt
    drawn = 16 * config.vocab_size  # float32 logits of one row and three arrays like them, in drawing
    # Twice what all rows need at first: rows of a family end at different times, and the last of them keeps its prefix.
    prefixes = min(rows, 2 * math.ceil(rows / (alike or min(group, rows))), groups * -(-group // rows))
    layer = max(rows * slots, prefixes * width) * token // config.num_hidden_layers
    cache = (rows * slots + prefixes * width + (pool_slots(prompts, width) if alike else 0)) * token
    inserted = prompts * (width + (min(group, rows) * slots if alike else 0)) * token  # before it is written
    temporaries = max(prompts * width * prefilled + inserted, rows * drawn, 2 * layer)
    return BatchPlan(
        rows=rows,
        prompts=prompts,
        width=width,
        slots=slots,
        sharers=min(max(group, SHARERS) if alike else group, rows),
        prefixes=prefixes,
        weights=weights,
        cache=cache,
        temporaries=temporaries,
    )


def _advice(
    planned: Callable[..., BatchPlan],
    config: Qwen3Config,
    itemsize: int,
    width: int,
    own: int,
    slots: int,
    tensor: int,
    memory: int,
) -> str:
    """Return what would make one row fit, each by the same sum: fewer tokens, bfloat16, more devices.

    own: tokens of a prompt that may be in the row's own slots.
    """
    new = slots - own

    def fits(itemsize: int = itemsize, width: int = width, new: int = new, tensor: int = tensor) -> bool:
        return planned(itemsize, 1, 1, width=width, slots=own + new, tensor=tensor).total <= memory

    def most(name: str, tokens: int) -> int:
        shorter = range(_STRIDE, tokens, _STRIDE)
        return _STRIDE * bisect_left(shorter, True, key=lambda size: not fits(**{name: size}))

    fixes = []
    if tokens := most("new", new):
        fixes.append(f"with max_new_tokens of at most {tokens}")
    if tokens := most("width", width):
        fixes.append(f"with prompts of at most {tokens} tokens")
    if itemsize > 2 and fits(itemsize=2):
        fixes.append("in bfloat16")
    sizes = config.num_key_value_heads, config.intermediate_size, config.vocab_size
    split = (more for more in range(tensor + 1, sizes[0] + 1) if not any(size % more for size in sizes))
    if more := next((more for more in split if fits(tensor=more)), 0):
        fixes.append(f"with {more} such devices for each row (mesh.tensor={more})")
    if fixes:
        return f"It fits {', or '.join(fixes)}"
    return "Neither fewer tokens nor bfloat16 nor more devices for a row make it fit: take a smaller model"


def free_memory() -> int | None:
    """Bytes that sampling may take on each device, the same in every process; None if unknown."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if all("bytes_limit" in one for one in stats):
        free = min(one["bytes_limit"] - one["bytes_in_use"] for one in stats)
    elif jax.default_backend() == "cpu" and Path("/proc/meminfo").exists():
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024
        free //= jax.local_device_count()
    else:
        return None
    return least_of_all(int(free * USABLE) >> 20) << 20


def shared_slots(tokens: int) -> int:
    """Return how many slots of a pool attention reads where prompts share `tokens`: rounded up, for few programs."""
    return ladder(-(-tokens // _SHARED)) * _SHARED if tokens else 0


def pool_slots(prompts: int, width: int) -> int:
    """Return the slots of a pool for `prompts` prompts of `width` tokens behind what they share."""
    return shared_slots(width) + prompts * width


def power(size: int) -> int:
    """The largest power of two that is not above `size`."""
    return 1 << (size.bit_length() - 1)


def ceiling(size: int) -> int:
    """Return the smallest power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()


def ladder(size: int) -> int:
    """The next size of the ladder 1, 2, 3, 4, 6, 8, 12, 16, 24...: at most half as much again."""
    above = ceiling(size)
    return above * 3 // 4 if size <= above * 3 // 4 and above >= 4 else above


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple that is not below `size`."""
    return -(-size // multiple) * multiple


def _below(rows: int) -> list[int]:
    """Sizes of the ladder below `rows`, the largest first."""
    return sorted({size << i for i in range(rows.bit_length()) for size in (1, 3) if size << i < rows}, reverse=True)
