"""The sampling engine: what is asked for is checked, a batch is planned, and completions come out as they end."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from socialr1_jax.models.attention import Backend
from socialr1_jax.models.qwen3 import Params, Qwen3Config
from socialr1_jax.runtime.mesh import row_shards, tensor_shards
from socialr1_jax.runtime.terminal import counted, gib
from socialr1_jax.sampling.batch import Group, Rollout, Segment, slot_stride
from socialr1_jax.sampling.draw import row_keys
from socialr1_jax.sampling.families import mean_rows
from socialr1_jax.sampling.memory import BatchPlan, free_memory, ladder, plan_batch, round_up
from socialr1_jax.sampling.params import Completion, SamplingParams
from socialr1_jax.sampling.stops import Decode

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Samples from one set of weights. Make a new one when the weights change; compiled programs are shared.

    A completion depends on (seed, step, prompt id, sample index) alone: not on other prompts, `max_rows`, the size of
    the batch or the number of devices. A prompt id that comes k times before in one call begins at sample index k * n,
    so that no two of its completions share a key.

    `memory` is what sampling may take of each device in bytes; None is what is free. `decode` turns token ids into
    text and is needed for stop strings only.
    """

    params: Params
    config: Qwen3Config
    num_tokens: int
    dtype: str = "float32"
    backend: Backend = "xla"
    segment_tokens: int = 64
    max_rows: int = 512  # that a device decodes at once; more wait until rows are free
    memory: int | None = None
    decode: Decode | None = None
    share_prefixes: bool = False  # compute what prompts begin with alike once; its rounding depends on neighbours
    poll: Callable[[], None] = lambda: None  # called between segments; may raise to end the sampling
    platform: str = field(default_factory=jax.default_backend)  # another one only to plan for it

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams | Sequence[SamplingParams],
        *,
        step: int = 0,
        prompt_ids: Sequence[int] | None = None,
    ) -> list[list[Completion]]:
        """All completions of each prompt (a list of token ids); `sampling` is for all prompts, or one for each.

        `prompt_ids` default to 0, 1, 2... Raises ValueError for a prompt that is empty, too long or of another
        vocabulary, naming its index, and when not even one row fits into memory: before anything is compiled.
        """
        groups: list[dict[int, Completion]] = [{} for _ in prompts]
        for prompt, sample, completion in self.completions(prompts, sampling, step=step, prompt_ids=prompt_ids):
            groups[prompt][sample] = completion
        return [[group[i] for i in range(len(group))] for group in groups]

    def completions(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams | Sequence[SamplingParams],
        *,
        step: int = 0,
        prompt_ids: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, int, Completion]]:
        """Yield (prompt index, sample index, completion) of each completion as soon as it has ended.

        The devices already work on the next segment while the caller has a completion in hand.
        """
        each = _one_each(sampling, len(prompts))
        places = [(i, sample) for i, params in enumerate(each) for sample in range(params.n)]
        parts: dict[int, list[Segment]] = {}
        for part in self.stream(prompts, each, step=step, prompt_ids=prompt_ids):
            parts.setdefault(part.row, []).append(part)
            if part.finish_reason:
                yield *places[part.row], joined(parts.pop(part.row))

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams | Sequence[SamplingParams],
        *,
        step: int = 0,
        prompt_ids: Sequence[int] | None = None,
    ) -> Iterator[Segment]:
        """Yield the completions segment by segment; rows count the first prompt's samples, then the second's ..."""
        if prompts:
            for parts in self.rollout(prompts, sampling, step=step, prompt_ids=prompt_ids).steps():
                yield from parts

    def rollout(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams | Sequence[SamplingParams],
        *,
        step: int = 0,
        prompt_ids: Sequence[int] | None = None,
    ) -> Rollout:
        """Return the same call with nothing done yet: its `steps` sample. There is at least one prompt."""
        each = _one_each(sampling, len(prompts))
        self.check(prompts, each)
        ids = range(len(prompts)) if prompt_ids is None else prompt_ids
        plan = self.plan(prompts, each)
        return Rollout(self, plan, groups_of(prompts, each, ids, step, plan.rows), each)

    def plan(self, prompts: Sequence[Sequence[int]], sampling: SamplingParams | Sequence[SamplingParams]) -> BatchPlan:
        """The batch that these prompts get on each device. Raises ValueError when not even one row fits."""
        each = _one_each(sampling, len(prompts))
        stride, shards = slot_stride(self.platform), row_shards()
        longest, new = max(map(len, prompts)), max(params.max_new_tokens for params in each)
        # Of a prompt that shares its prefix with others, at most a quarter is in a row's own slots.
        own = longest // 4 if self.share_prefixes else 0
        rows, group = sum(params.n for params in each), max(params.n for params in each)
        # A whole number of groups, where all are alike.
        wanted = round_up(-(-rows // shards), group) if group * len(prompts) == rows else -(-rows // shards)
        wanted = min(wanted, max(self.max_rows // group * group, min(group, self.max_rows)))
        memory = free_memory() if self.memory is None else self.memory
        plan = plan_batch(
            self.config,
            jnp.dtype(self.dtype).itemsize,
            rows=wanted,
            group=group,
            prompts=-(-len(prompts) // shards),
            width=round_up(longest, stride),
            slots=round_up(own + new, stride),
            backend=self.backend,
            tensor=tensor_shards(),
            memory=memory,
            alike=mean_rows(prompts, [params.n for params in each]) if self.share_prefixes else 0,
        )
        _say(
            f"sampling {counted(rows, 'response')} to {counted(len(prompts), 'prompt')}: "
            f"{counted(plan.rows, 'row')} at once{f' on each of {shards} devices' if shards > 1 else ''}, "
            f"caches of up to {plan.slots} slots behind {plan.prefixes} prefixes of up to {plan.width}; "
            f"{gib(plan.weights)} GiB weights, {gib(plan.cache)} caches, "
            f"{gib(plan.temporaries)} temporary; attention {self.backend}"
        )
        return plan

    def check(self, prompts: Sequence[Sequence[int]], each: Sequence[SamplingParams]) -> None:
        """Raises ValueError naming the prompt that cannot be sampled from."""
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
    """Once, not in every step."""
    log.debug(text)


def _one_each(sampling: SamplingParams | Sequence[SamplingParams], prompts: int) -> list[SamplingParams]:
    if isinstance(sampling, SamplingParams):
        return [sampling] * prompts
    if len(sampling) != prompts:
        raise ValueError(f"{len(sampling)} sampling parameters for {prompts} prompts: give one, or one for each")
    return list(sampling)


def groups_of(
    prompts: Sequence[Sequence[int]],
    each: Sequence[SamplingParams],
    ids: Sequence[int],
    step: int,
    most: int,
    first: int = 0,
) -> list[Group]:
    """Return the samples of every prompt, in groups that fit into a batch of `most` rows, numbered from `first`.

    A prompt id that comes again continues with the sample indices: its groups draw different numbers.
    """
    counts = np.array([params.n for params in each])
    total = int(counts.sum())
    of = np.repeat(np.arange(len(prompts)), counts)
    drawn, earlier = Counter[int](), []  # samples that the same prompt id has before this prompt
    for prompt_id, params in zip(ids, each, strict=True):
        earlier.append(drawn[prompt_id])
        drawn[prompt_id] += params.n
    sample = np.arange(total) - np.repeat(np.cumsum(counts) - counts - earlier, counts)
    seeds = np.array([params.seed for params in each])[of]
    columns = (seeds, np.asarray(ids, np.uint32)[of], sample)
    padded = (jnp.asarray(np.pad(column, (0, ladder(total) - total))) for column in columns)  # few sizes to compile
    seeds_b, ids_b, samples_b = padded
    keys = np.asarray(row_keys(seeds_b, step, ids_b, samples_b))
    groups = []
    start = first
    for i, (prompt, params) in enumerate(zip(prompts, each, strict=True)):
        rows = range(first, first + params.n)
        for at in range(0, params.n, most):
            part = rows[at : at + most]
            groups.append(Group(i, prompt, params, keys[part.start - start : part.stop - start], part))
        first = rows.stop
    return groups


def joined(parts: Sequence[Segment]) -> Completion:
    """A completion of its segments, the last of which says how it ended."""
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
