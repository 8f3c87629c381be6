"""The sampling engine: check the prompts, plan a batch, and yield completions as they finish."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from socialr1_jax.models.attention import Backend
from socialr1_jax.models.eight_bit import WeightFormat
from socialr1_jax.models.qwen3 import Params
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.runtime.mesh import row_shards, tensor_shards
from socialr1_jax.runtime.terminal import counted, gib
from socialr1_jax.sampling.batch import Group, Rollout, Segment, slot_stride
from socialr1_jax.sampling.draw import row_keys
from socialr1_jax.sampling.families import Prompts, mean_rows
from socialr1_jax.sampling.memory import BatchPlan, free_memory, ladder, plan_batch, round_up
from socialr1_jax.sampling.params import Completion, SamplingParams
from socialr1_jax.sampling.text import Decode

Sampling = SamplingParams | Sequence[SamplingParams]
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Samples from one set of weights. Create a new engine when the weights change; compiled programs are shared.

    A completion depends on (seed, step, prompt id, sample index) alone, not on other prompts, `max_rows`, the batch
    size or the number of devices. If a prompt id occurs k times before in a call, its samples are numbered from k * n,
    so no two of its completions share a key.

    `memory` is the limit of sampling in bytes per device; None is the free memory. `decode` turns token ids into text
    and is needed only for stop strings.
    """

    params: Params  # in the layout "train" or "lent" of the context's mesh
    config: Qwen3Config
    num_tokens: int
    dtype: str = "float32"
    weights: WeightFormat = "dtype"  # of the copy that decoding reads; prompts are prefilled in `dtype`
    backend: Backend = "xla"  # of prefill
    attention: Literal["auto", "xla", "triton"] = "auto"  # of decoding; auto tries them
    segment_tokens: int = 64
    max_rows: int = 512  # decoded at once, for each device; the others wait for free rows
    memory: int | None = None
    decode: Decode | None = None
    share_prefixes: bool = False  # compute common prefixes once; rounding then depends on the other prompts
    poll: Callable[[], None] = lambda: None  # called between segments; may raise to stop sampling
    platform: str = field(default_factory=jax.default_backend)  # differs from the default only in plans

    def sample(
        self, prompts: Prompts, sampling: Sampling, *, step: int = 0, prompt_ids: Sequence[int] | None = None
    ) -> list[list[Completion]]:
        """Return all completions of each prompt (a list of token ids); `sampling` is for all prompts, or one for each.

        `prompt_ids` default to 0, 1, 2... Raises ValueError before anything is compiled if a prompt is empty, too long
        or of another vocabulary (naming its index), or if not even one row fits into memory.
        """
        groups: list[dict[int, Completion]] = [{} for _ in prompts]
        for prompt, sample, completion in self.completions(prompts, sampling, step=step, prompt_ids=prompt_ids):
            groups[prompt][sample] = completion
        return [[group[i] for i in range(len(group))] for group in groups]

    def completions(
        self, prompts: Prompts, sampling: Sampling, *, step: int = 0, prompt_ids: Sequence[int] | None = None
    ) -> Iterator[tuple[int, int, Completion]]:
        """Yield (prompt index, sample index, completion) of each completion as soon as it is finished.

        The devices run the next segment while the caller handles a completion.
        """
        each = _one_each(sampling, len(prompts))
        places = [(i, sample) for i, params in enumerate(each) for sample in range(params.n)]
        for row, completion in finished(self.stream(prompts, each, step=step, prompt_ids=prompt_ids), {}):
            yield *places[row], completion

    def stream(
        self, prompts: Prompts, sampling: Sampling, *, step: int = 0, prompt_ids: Sequence[int] | None = None
    ) -> Iterator[Segment]:
        """Yield partial completions after each segment. Rows are numbered prompt by prompt, sample by sample."""
        if prompts:
            for parts in self.rollout(prompts, sampling, step=step, prompt_ids=prompt_ids).steps():
                yield from parts

    def rollout(
        self, prompts: Prompts, sampling: Sampling, *, step: int = 0, prompt_ids: Sequence[int] | None = None
    ) -> Rollout:
        """Return the call of `stream` as a rollout, whose `steps` sample. There must be at least one prompt."""
        each = _one_each(sampling, len(prompts))
        self.check(prompts, each)
        ids = range(len(prompts)) if prompt_ids is None else prompt_ids
        plan = self.plan(prompts, each)
        return Rollout(self, plan, groups_of(prompts, each, ids, step, plan.rows), each)

    def plan(self, prompts: Prompts, sampling: Sampling) -> BatchPlan:
        """Return the batch of these prompts on each device. Raises ValueError if not even one row fits."""
        each = _one_each(sampling, len(prompts))
        stride, shards = slot_stride(self.platform), row_shards()
        longest, new = max(map(len, prompts)), max(params.max_new_tokens for params in each)
        # If prompts share prefixes, at most a quarter of a prompt is in a row's own slots, and sizes are rounded up so
        # that the calls of an evaluation share their programs.
        own = longest // 4 if self.share_prefixes else 0
        # On a CPU host memory is the device's, so every row gets room for all of its tokens.
        first = own + (new if self.platform == "cpu" else min(new, self.segment_tokens))

        def sized(tokens: int) -> int:
            return ladder(tokens, stride) if self.share_prefixes else round_up(tokens, stride)

        rows, group = sum(params.n for params in each), max(params.n for params in each)
        # A whole number of groups, if all have the same size.
        wanted = round_up(-(-rows // shards), group) if group * len(prompts) == rows else -(-rows // shards)
        most = self.max_rows * tensor_shards()
        wanted = min(wanted, max(most // group * group, min(group, most)))
        memory = free_memory() if self.memory is None else self.memory
        plan = plan_batch(
            self.config,
            jnp.dtype(self.dtype).itemsize,
            rows=wanted,
            group=group,
            prompts=-(-len(prompts) // shards),
            width=sized(longest),
            slots=sized(own + new),
            backend=self.backend,
            tensor=tensor_shards(),
            memory=memory,
            alike=mean_rows(prompts, [params.n for params in each]) if self.share_prefixes else 0,
            weights=self.weights,
            first=ladder(first, stride),
        )
        _say(
            f"sampling {counted(rows, 'response')} to {counted(len(prompts), 'prompt')}: "
            f"{counted(plan.rows, 'row')} at once{f' on each of {shards} devices' if shards > 1 else ''}, "
            f"caches of up to {plan.slots} slots ({plan.tokens} together) behind {plan.prefixes} prefixes of up to "
            f"{plan.width}; "
            f"{gib(plan.weights)} GiB weights, {gib(plan.cache)} caches, "
            f"{gib(plan.temporaries)} temporary; attention {self.backend}"
        )
        return plan

    def check(self, prompts: Prompts, each: Sequence[SamplingParams]) -> None:
        """Check prompts and parameters. Raises ValueError naming the first prompt that cannot be sampled from."""
        vocabulary, positions = self.config.vocab_size, self.config.max_position_embeddings
        for i, (prompt, params) in enumerate(zip(prompts, each, strict=True)):
            if not len(prompt):
                raise ValueError(f"prompt {i} is empty")
            if min(prompt) < 0 or max(prompt) >= vocabulary:
                raise ValueError(f"prompt {i} has token ids outside 0..{vocabulary - 1}: another tokenizer?")
            if len(prompt) + params.max_new_tokens > positions:
                raise ValueError(
                    f"prompt {i} has {len(prompt)} tokens; with max_new_tokens={params.max_new_tokens} that passes "
                    f"the model's max_position_embeddings={positions}: lower one of them"
                )
            if params.think_end_id is not None and not 0 <= params.think_end_id < self.num_tokens:
                raise ValueError(f"prompt {i}: think_end_id {params.think_end_id} is not in 0..{self.num_tokens - 1}")
            if params.stop and self.decode is None:
                raise ValueError(f"prompt {i} has stop strings: give the engine `decode`, from token ids to text")


@lru_cache(maxsize=256)
def _say(text: str) -> None:
    """Log a text once, not in every step."""
    log.debug(text)


def _one_each(sampling: Sampling, prompts: int) -> list[SamplingParams]:
    if isinstance(sampling, SamplingParams):
        return [sampling] * prompts
    if len(sampling) != prompts:
        raise ValueError(f"{len(sampling)} sampling parameters for {prompts} prompts: give one, or one for each")
    return list(sampling)


def groups_of(
    prompts: Prompts, each: Sequence[SamplingParams], ids: Sequence[int], step: int, most: int, first: int = 0
) -> list[Group]:
    """Return the samples of all prompts in groups of at most `most` rows, numbered from `first`.

    A repeated prompt id continues its sample indices, so that its groups draw different numbers.
    """
    counts = np.array([params.n for params in each])
    total = int(counts.sum())
    of = np.repeat(np.arange(len(prompts)), counts)
    drawn, earlier = Counter[int](), []  # samples of the same prompt id before this prompt
    for prompt_id, params in zip(ids, each, strict=True):
        earlier.append(drawn[prompt_id])
        drawn[prompt_id] += params.n
    sample = np.arange(total) - np.repeat(np.cumsum(counts) - counts - earlier, counts)
    seeds = np.array([params.seed for params in each])[of]
    columns = (seeds, np.asarray(ids, np.uint32)[of], sample)
    padded = (jnp.asarray(np.pad(column, (0, ladder(total) - total))) for column in columns)  # few sizes to compile
    seeds_b, ids_b, samples_b = padded
    keys = np.asarray(row_keys(seeds_b, step, ids_b, samples_b))
    rows, groups = range(first, first + total), []
    for i, (end, prompt, params) in enumerate(zip(np.cumsum(counts).tolist(), prompts, each, strict=True)):
        for at in range(end - params.n, end, most):
            part = slice(at, min(at + most, end))
            groups.append(Group(i, prompt, params, keys[part], rows[part]))
    return groups


def finished(parts: Iterable[Segment], pending: dict[int, list[Segment]]) -> Iterator[tuple[int, Completion]]:
    """Yield row and completion of each response that one of `parts` ends; `pending` holds the parts of the others."""
    for part in parts:
        pending.setdefault(part.row, []).append(part)
        if part.finish_reason:
            yield part.row, joined(pending.pop(part.row))


def joined(parts: Sequence[Segment]) -> Completion:
    """Join the segments of a completion; the last one has the finish reason."""
    last = parts[-1]
    assert last.finish_reason is not None
    raw = None if last.raw_logprobs is None else [x for part in parts for x in part.raw_logprobs or ()]
    return Completion(
        [x for part in parts for x in part.tokens],
        [x for part in parts for x in part.logprobs],
        last.finish_reason,
        last.stop,
        raw,
    )
