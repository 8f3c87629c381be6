"""The steps of a run, phase by phase, with the trainer's own sampler and step.

What a run does beside them (evaluation, checkpoints, logs, groups that are replaced) is left out.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from socialr1_jax.config.run import RunConfig
from socialr1_jax.grpo.packing import MicroBatch, Rows
from socialr1_jax.grpo.rollouts import Phase, Rollouts, unmeasured
from socialr1_jax.grpo.step import make_step
from socialr1_jax.grpo.update import Sums, TrainState, Update, init_state
from socialr1_jax.models.arithmetic import Arithmetic, Cost
from socialr1_jax.models.attention_trial import working_attention
from socialr1_jax.run.epochs import in_steps
from socialr1_jax.run.questions import read_run_questions
from socialr1_jax.runtime.interrupt import NEVER
from socialr1_jax.runtime.mesh import row_shards
from socialr1_jax.training.sampler import make_sampler, make_scorer
from socialr1_jax.training.start import random_start
from socialr1_jax.weights.hf import load_hf
from socialr1_jax.weights.tokenizer_files import load_tokenizer

Measured = Literal["rollout", "reward", "update", "step"]


class ImplicitTransfer(RuntimeError):
    """An update moved an array between host and device without being asked to; the message says which."""


class Steps:
    """The steps of a run on the mesh of the context. `strict` makes an implicit transfer in the update an error."""

    def __init__(self, config: RunConfig, strict: bool = False) -> None:
        self.config, mesh = config, jax.sharding.get_mesh()
        self.backend = working_attention(config.model.attention, config.model.dtype)
        scorer = make_scorer(config, self.backend, NEVER)
        questions, _ = read_run_questions(config)
        config, _ = in_steps(config, len(questions), config.grpo.prompts_per_step)
        if config.model.random:
            model = random_start(config, mesh, questions)
        else:
            model = load_hf(config.model.path, mesh, ignore_fields=config.model.ignore_fields)
        tokenizer = load_tokenizer(model.source)
        self.sampler = make_sampler(config, model, tokenizer, scorer, self.backend, questions, {})
        self.step = make_step(config, model.config, model.num_tokens, model.params, self.backend)
        if strict:
            guarded = _Guarded(**vars(self.step.programs.update))
            self.step = replace(self.step, programs=self.step.programs._replace(update=guarded))
        self.state = init_state(model.params, self.step.programs.optimizer)
        self._arithmetic = Arithmetic(model.config, jnp.dtype(config.model.dtype).itemsize, row_shards())
        self._rollouts: Rollouts | None = None  # of the newest step
        self._updates: list[list[MicroBatch]] | None = None

    def run(self, measured: Measured, number: int, phase: Phase) -> None:
        """Do step `number` (from 0), or one of its phases: what that needs is made once and used again."""
        match measured:
            case "step":
                self._rollouts = self._drawn(number, phase)
                with phase("reward"):
                    packed = self.step.pack(self._rollouts)
                self._updates = self.step.log_probs(self.state.params, packed.updates, phase)
            case "rollout":
                self._rollouts = self._drawn(number, lambda name: phase(name) if name == "rollout" else nullcontext())
            case "reward":
                rollouts = self._rollouts = self._rollouts or self._drawn(number, unmeasured)
                with phase("reward"):
                    for place, text in enumerate(rollouts.texts):
                        self.sampler.scorer.submit(place, text, rollouts.examples[place // rollouts.group])
                    self.step.pack(replace(rollouts, terms=self.sampler.scorer.results(number)))
            case "update":
                if self._updates is None:
                    packed = self.step.pack(self._drawn(number, unmeasured))
                    self._updates = self.step.log_probs(self.state.params, packed.updates)
        if measured in ("step", "update") and self._updates:
            with phase("update"):
                self.state, _ = self.step.update(self.state, self._updates)

    def costs(self) -> dict[str, list[Cost]]:
        """Return what the phases of the newest step need by the shapes alone, each as parts that run one by one."""
        found = {}
        if self._rollouts is not None:
            found["rollout"] = self._rollout_costs(self._rollouts)
        if self._updates is not None:
            forward = [self._forward_cost(batch) for batch in self._updates]
            if self.config.grpo.several_updates:
                found["old"] = forward[1:]
            if self.step.reference is not None:
                found["reference"] = forward
            needed, moments = self._arithmetic, self._arithmetic.optimizer()
            moved = [needed.update(0, 0, 0, len(batch), "nothing").bytes for batch in self._updates]
            found["update"] = [Cost(3 * one.flops, x) + moments for one, x in zip(forward, moved, strict=True)]
        return found

    def sizes(self) -> dict[str, float]:
        """Return how the newest step was divided: responses, rows decoded at once, updates, micro-batches.

        Beside them the bytes that its decode steps need, of weights and of caches, over all devices.
        """
        updates = self._updates or []
        found: dict[str, float] = {"updates": len(updates), "micro_batches": sum(map(len, updates))}
        if self._rollouts is None:
            return found
        engine = self.sampler.engine(self.state.params)
        rows = engine.plan(self._rollouts.prompts, self.sampler.sampling).rows * row_shards()
        new, _, read = _decoded(self._rollouts)
        return found | {
            "responses": len(new),
            "rows_at_once": min(rows, len(new)),
            "longest_response": int(new.max()),
            "decode_weight_bytes": float(new.max() * self._arithmetic.decode_step(0, 0).bytes),
            "decode_cache_bytes": read * self._arithmetic.cache_token,
        }

    def close(self) -> None:
        """Free the questions and stop the judge's threads."""
        self.sampler.close()

    def _drawn(self, number: int, phase: Phase) -> Rollouts:
        return self.sampler.draw(self.state.params, number, next(self.sampler.prompts), phase)

    def _rollout_costs(self, rollouts: Rollouts) -> list[Cost]:
        """Return the costs of a prefill of each prompt and of decoding all rows at once, weights read once a pass."""
        needed = self._arithmetic
        weights = needed.decode_step(0, 0).bytes
        prefill = sum(needed.flops(n, n * n / 2, 0) for n in map(len, rollouts.prompts))
        new, pairs, read = _decoded(rollouts)
        decode = needed.flops(float(new.sum()), pairs, float(new.sum()))
        return [Cost(prefill, weights), Cost(decode, new.max() * weights + read * needed.cache_token)]

    def _forward_cost(self, batch: list[MicroBatch]) -> Cost:
        """Return the cost of one forward pass over the micro-batches."""
        flops = self.step.throughput(batch, 1.0)["update_tflops"] * 1e12 / 3
        return Cost(flops, len(batch) * self._arithmetic.decode_step(0, 0).bytes)


class _Guarded(Update):
    """An update whose compiled programs run under the transfer guard; what goes before them is placed."""

    def finish(
        self, state: TrainState, sums: Sums, micro_batches: Sequence[Rows]
    ) -> tuple[TrainState, dict[str, jax.Array], list[dict[str, jax.Array]]]:
        try:
            with jax.transfer_guard("disallow"):
                return super().finish(state, sums, micro_batches)
        except jax.errors.JaxRuntimeError as error:
            if "Disallowed" not in str(error):
                raise
            raise ImplicitTransfer(f"the update moved an array unasked: {error}") from error


def _decoded(rollouts: Rollouts) -> tuple[np.ndarray, float, float]:
    """Return the tokens of each response, the pairs of a query and a key in decoding them, and the keys read.

    A step reads a prompt's keys once for all of its responses.
    """
    new = np.array([len(completion.tokens) for completion in rollouts.completions], float)
    prompts = np.array([len(prompt) for prompt in rollouts.prompts])
    new_pg, own = new.reshape(len(prompts), -1), float(np.sum(new * new / 2))
    pairs, read = np.sum(new_pg.sum(1) * prompts), np.sum(new_pg.max(1) * prompts)
    return new, own + float(pairs), own + float(read)
