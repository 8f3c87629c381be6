"""The parts of a run and its steps, phase by phase, as `train_grpo` makes them: the same programs in the same order.

What a step does beside them (evaluation, checkpoints, logs, groups that are replaced) is left out.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from socialr1_jax.config import RunConfig
from socialr1_jax.data.prompts import Prompt
from socialr1_jax.grpo.advantages import group_advantages
from socialr1_jax.grpo.packing import MicroBatch, Rows, pack_rows
from socialr1_jax.grpo.update import TrainState, init_state
from socialr1_jax.hf import load_hf
from socialr1_jax.interrupt import NEVER
from socialr1_jax.mesh import fetch, row_shards
from socialr1_jax.models.arithmetic import Arithmetic, Cost
from socialr1_jax.models.attention_trial import working_attention
from socialr1_jax.sampling import Completion, Engine, SamplingParams
from socialr1_jax.sampling.text import stop_token_ids
from socialr1_jax.tokenizer_files import load_tokenizer
from socialr1_jax.training.epochs import in_steps
from socialr1_jax.training.programs import compile_programs, reference_weights, row_multiple
from socialr1_jax.training.rollouts import Rollouts, make_scorer
from socialr1_jax.training.run_questions import prompt_streams, read_run_questions
from socialr1_jax.training.start import random_start
from socialr1_jax.training.validation import sample_and_submit

PHASES = ("rollout", "reward", "old", "reference", "update")
Measured = Literal["rollout", "reward", "update", "step"]
Phase = Callable[[str], AbstractContextManager[None]]


class ImplicitTransfer(RuntimeError):
    """An update moved an array between host and device without being asked to; the message says which."""


@dataclass(frozen=True)
class Sampled:
    """The responses of a step, before their rewards."""

    prompts: list[Prompt]
    completions: list[Completion]
    texts: list[str]


@dataclass
class Steps:
    """The steps of a run. `strict` makes an implicit transfer in the update an error."""

    config: RunConfig
    mesh: Mesh
    strict: bool = False

    def __post_init__(self) -> None:
        config = self.config
        backend = working_attention(config.model.attention, config.model.dtype)
        self.scorer = make_scorer(config, self.mesh, backend, NEVER)
        questions, _ = read_run_questions(config)
        config, _ = in_steps(config, len(questions), config.grpo.prompts_per_step)
        if config.model.random:
            model = random_start(config, self.mesh, questions)
        else:
            model = load_hf(config.model.path, self.mesh, ignore_fields=config.model.ignore_fields)
        self.shape, self.backend, self.num_tokens = model.config, backend, model.num_tokens
        self.tokenizer: Any = load_tokenizer(model.source)
        self.sampling = SamplingParams(
            n=config.sampling.group_size,
            seed=config.seed,
            stop_token_ids=stop_token_ids(model, self.tokenizer),
            **config.sampling.model_dump(exclude={"group_size", "segment_tokens", "max_rows"}),
        )
        self.prompts, self._spare = prompt_streams(config, questions, self.tokenizer)
        self.programs = compile_programs(config, model.config, model.num_tokens, backend)
        self.reference = None
        if config.grpo.kl_coefficient:
            self.reference = reference_weights(model.params, config.model.dtype, config.grpo.reference_memory)
        self.state = init_state(model.params, self.programs.optimizer)
        self._arithmetic = Arithmetic(model.config, jnp.dtype(config.model.dtype).itemsize, row_shards())
        self._sampled: Sampled | None = None  # of the newest step
        self._batches: list[list[MicroBatch]] | None = None

    def run(self, measured: Measured, step: int, phase: Phase) -> None:
        """Step `step` (from 0), or one of its phases: what that needs is made once and used again."""
        match measured:
            case "step":
                with phase("rollout"):
                    self._sampled = self._sample(step)
                with phase("reward"):
                    batches = self._reward(self._sampled, step)
                with phase("old"):
                    batches = self.programs.with_old(batches, self.state.params)
                with phase("reference"):
                    self._batches = self.programs.with_reference(batches, self.reference)
                with phase("update"):
                    self._update(self._batches)
            case "rollout":
                with phase("rollout"):
                    self._sampled = self._sample(step)
                self.scorer.results(step)
            case "reward":
                if self._sampled is None:
                    self._sampled = self._sample(step)
                    self.scorer.results(step)
                with phase("reward"):
                    for place, text in enumerate(self._sampled.texts):
                        self.scorer.submit(place, text, self._sampled.prompts[place // self.sampling.n].example)
                    self._reward(self._sampled, step)
            case "update":
                if self._batches is None:
                    batches = self._reward(self._sample(step), step)
                    batches = self.programs.with_old(batches, self.state.params)
                    self._batches = self.programs.with_reference(batches, self.reference)
                with phase("update"):
                    self._update(self._batches)

    def costs(self) -> dict[str, list[Cost]]:
        """What the phases of the newest step need by the shapes alone, each as parts that come one after another."""
        found = {}
        if self._sampled is not None:
            found["rollout"] = self._rollout_costs(self._sampled)
        if self._batches is not None:
            forward = [self._forward_cost(batch) for batch in self._batches]
            if self.programs.several_updates:
                found["old"] = forward[1:]
            if self.reference is not None:
                found["reference"] = forward
            needed, moments = self._arithmetic, self._arithmetic.optimizer()
            moved = [needed.update(0, 0, 0, len(batch), "nothing").bytes for batch in self._batches]
            found["update"] = [Cost(3 * one.flops, x) + moments for one, x in zip(forward, moved, strict=True)]
        return found

    def sizes(self) -> dict[str, float]:
        """Return how the newest step was divided: responses, rows decoded at once, updates, micro-batches.

        Beside them the bytes that its decode steps need, of weights and of caches, over all devices.
        """
        batches = self._batches or []
        found: dict[str, float] = {"updates": len(batches), "micro_batches": sum(map(len, batches))}
        if self._sampled is None:
            return found
        prompts = [prompt.tokens for prompt in self._sampled.prompts]
        rows = self._engine().plan(prompts, self.sampling).rows * row_shards()
        new, pairs = self._decoded(self._sampled)
        return found | {
            "responses": len(new),
            "rows_at_once": min(rows, len(new)),
            "longest_response": int(new.max()),
            "decode_weight_bytes": float(new.max() * self._arithmetic.decode_step(0, 0).bytes),
            "decode_cache_bytes": pairs * self._arithmetic.cache_token,
        }

    def close(self) -> None:
        """Lets go of the judge and the questions."""
        self.scorer.close()
        self.prompts.close()
        self._spare.close()

    def _engine(self) -> Engine:
        return Engine(
            params=self.state.params,
            config=self.shape,
            num_tokens=self.num_tokens,
            dtype=self.config.model.dtype,
            backend=self.backend,
            segment_tokens=self.config.sampling.segment_tokens,
            max_rows=self.config.sampling.max_rows,
        )

    def _sample(self, step: int) -> Sampled:
        prompts = next(self.prompts)
        found = sample_and_submit(self._engine(), prompts, self.sampling, self.tokenizer, self.scorer, step=step)
        return Sampled(prompts, *found)

    def _reward(self, sampled: Sampled, step: int) -> list[list[MicroBatch]]:
        rollouts = Rollouts(
            group=self.sampling.n,
            prompts=[prompt.tokens for prompt in sampled.prompts],
            prompt_ids=[prompt.id for prompt in sampled.prompts],
            completions=sampled.completions,
            terms=self.scorer.results(step),
            examples=[prompt.example for prompt in sampled.prompts],
        )
        rewards_pg = rollouts.shaped_rewards(self.config)
        rows = pack_rows(
            [prompt for prompt in rollouts.prompts for _ in range(rollouts.group)],
            [completion.tokens for completion in rollouts.completions],
            multiple=row_multiple(),
            sampler_logprobs=[completion.logprobs for completion in rollouts.completions],
            advantages=group_advantages(rewards_pg, self.config.grpo).reshape(-1).astype(np.float32),
        )
        rows.mask_bt[~np.isfinite(rewards_pg).reshape(-1)] = False
        return self.programs.mini_batches(rows)

    def _update(self, batches: list[list[MicroBatch]]) -> None:
        results = []
        for batch in batches:
            rows = [one.rows.placed() for one in batch]
            self.state, result = (
                self._checked_update(rows) if self.strict else self.programs.update(self.state, rows)[:2]
            )
            results.append(result)
        for result in results:
            for x in result.values():
                fetch(x)

    def _checked_update(self, rows: list[Rows]) -> tuple[TrainState, dict[str, jax.Array]]:
        """The same update, with its calls of compiled programs under the guard; what goes before them is placed."""
        update = self.programs.update
        sums = update.begin(self.state.params, rows[0])
        try:
            with jax.transfer_guard("disallow"):
                for one in rows:
                    sums, _ = update.accumulate(self.state.params, sums, one)
                return update.apply(self.state, sums)
        except jax.errors.JaxRuntimeError as error:
            if "Disallowed" not in str(error):
                raise
            raise ImplicitTransfer(f"the update moved an array unasked: {error}") from error

    def _rollout_costs(self, sampled: Sampled) -> list[Cost]:
        """Of a prefill of each prompt, and of decoding all rows at once; each reads the weights as seldom as it can."""
        needed = self._arithmetic
        weights = needed.decode_step(0, 0).bytes
        prefill = sum(needed.flops(n, n * n / 2, 0) for n in (len(prompt.tokens) for prompt in sampled.prompts))
        new, pairs = self._decoded(sampled)
        decode = needed.flops(float(new.sum()), pairs, float(new.sum()))
        return [Cost(prefill, weights), Cost(decode, new.max() * weights + pairs * needed.cache_token)]

    def _decoded(self, sampled: Sampled) -> tuple[np.ndarray, float]:
        """The tokens of each response, and the pairs of a query and a key in decoding them."""
        new = np.array([len(completion.tokens) for completion in sampled.completions], float)
        prompt = np.repeat([len(prompt.tokens) for prompt in sampled.prompts], self.sampling.n)
        return new, float(np.sum(new * prompt + new * new / 2))

    def _forward_cost(self, batch: list[MicroBatch]) -> Cost:
        """Of one forward pass over the micro-batches."""
        flops = self.programs.throughput(batch, 1.0)["update_tflops"] * 1e12 / 3
        return Cost(flops, len(batch) * self._arithmetic.decode_step(0, 0).bytes)
