"""Run the steps of a run phase by phase, with the trainer's own sampler and step.

Evaluation, checkpoints, logs and replaced groups are left out.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from socialr1_jax.config.run import RunConfig
from socialr1_jax.grpo.packing import MicroBatch, Rows, counts
from socialr1_jax.grpo.rollouts import Phase, Rollouts
from socialr1_jax.grpo.step import make_step
from socialr1_jax.grpo.update import Sums, TrainState, Update, init_state
from socialr1_jax.models.arithmetic import Arithmetic, Cost
from socialr1_jax.models.attention_trial import working_attention
from socialr1_jax.profiling.summary import Costs
from socialr1_jax.run.epochs import in_steps
from socialr1_jax.run.questions import read_run_questions
from socialr1_jax.runtime.interrupt import NEVER
from socialr1_jax.runtime.mesh import row_shards
from socialr1_jax.runtime.terminal import CommandEnded
from socialr1_jax.training.sampler import make_sampler, make_scorer
from socialr1_jax.training.start import first_model
from socialr1_jax.weights.tokenizer_files import load_tokenizer

Measured = Literal["rollout", "reward", "update", "step"]


class ImplicitTransfer(CommandEnded):
    """Raised when an update transfers an array between host and device implicitly; the message says which."""

    word = "strict"
    status = 1


class Steps:
    """The steps of a run on the current mesh. `strict` makes an implicit transfer in the update an error."""

    def __init__(self, config: RunConfig, strict: bool = False) -> None:
        self.config = config
        self.backend = working_attention(config.model.attention, config.model.dtype)
        scorer = make_scorer(config, self.backend, NEVER)
        questions, _ = read_run_questions(config)
        config, _ = in_steps(config, len(questions), config.grpo.prompts_per_step)
        model = first_model(config, questions)
        tokenizer = load_tokenizer(model.source)
        self.sampler = make_sampler(config, model, tokenizer, scorer, self.backend, questions, {})
        self.step = make_step(config, model.config, model.num_tokens, model.params, self.backend)
        if strict:
            guarded = _Guarded(**vars(self.step.programs.update))
            self.step = replace(self.step, programs=self.step.programs._replace(update=guarded))
        self.state = init_state(model.params, self.step.programs.optimizer, config.optimizer.moments_memory)
        itemsize = jnp.dtype(config.model.dtype).itemsize
        self._needed = Arithmetic(model.config, itemsize, row_shards(), config.sampling.weights)
        self._rollouts: Rollouts | None = None  # of the last step
        self._updates: list[list[MicroBatch]] | None = None

    def run(self, measured: Measured, number: int, phase: Phase) -> None:
        """Run step `number` (from 0), or one of its phases on inputs that are made once and reused."""
        within: Phase = phase if measured == "step" else lambda name: phase(name) if name == measured else nullcontext()
        rollouts = self._rollouts
        if measured in ("step", "rollout") or rollouts is None:
            with within("rollout"):  # as the seconds of a run count it
                prompts = next(self.sampler.prompts)
            rollouts = self._rollouts = self.sampler.draw(self.state.params, number, prompts, within)
        if measured == "reward":
            with within("reward"):
                for place, text in enumerate(rollouts.texts):
                    self.sampler.scorer.submit(place, text, rollouts.examples[place // rollouts.group])
                self.step.pack(replace(rollouts, terms=self.sampler.scorer.results(number)))
        elif measured == "step" or (measured == "update" and self._updates is None):
            with within("reward"):
                packed = self.step.pack(rollouts)
            self._updates = self.step.log_probs(self.state.params, packed.updates, within)
        if measured in ("step", "update") and self._updates is not None:
            with within("update"):
                self.state, _ = self.step.update(self.state, self._updates)

    def costs(self) -> dict[str, Costs]:
        """Return the costs of the last step's phases, computed from the shapes."""
        costs: dict[str, Costs] = {}
        if self._rollouts is not None:
            costs["rollout"] = self._rollout_costs(self._rollouts)
        if self._updates is not None:
            forward = [self._needed.by_block(*counts(batch), passes=len(batch)) for batch in self._updates]
            costs["old"] = forward[1:] if self.config.grpo.old_pass else []
            costs["reference"] = forward if self.step.reference is not None else []
            costs["update"] = [self._update_cost(*pair) for pair in zip(self._updates, forward, strict=True)]
        return costs

    def _rollout_costs(self, rollouts: Rollouts) -> Costs:
        """Return the costs of prefilling each prompt and decoding all rows at once, with one weight read per pass."""
        new_b = np.array([len(completion.tokens) for completion in rollouts.completions], float)
        prompts_p = np.array([len(prompt) for prompt in rollouts.prompts], float)
        own, new_pg = float(np.sum(new_b * new_b / 2)), new_b.reshape(len(prompts_p), -1)
        pairs = own + float(np.sum(new_pg.sum(1) * prompts_p))  # pairs of a query and a key
        read = own + float(np.sum(new_pg.max(1) * prompts_p))  # keys: a step reads a prompt's once per group
        mesh = self.sampler.mesh
        needed = replace(self._needed, copies=mesh.size // mesh.shape["tensor"])
        prefill = needed.by_block(prompts_p.sum(), np.sum(prompts_p * prompts_p / 2), 0, passes=1)
        kernels = replace(needed, itemsize=needed.decoded)
        decode = kernels.by_block(new_b.sum(), pairs, new_b.sum(), passes=new_b.max())
        return [prefill, decode | {"attend": decode["attend"] + Cost(0, read * needed.cache_token)}]

    def _update_cost(self, batch: Sequence[MicroBatch], forward: dict[str, Cost]) -> dict[str, Cost]:
        """Return the cost of an update: a backward pass costs two forward ones and accumulates float32 gradients."""
        cost, head = {name: cost * 3 for name, cost in forward.items()}, forward["lm_head"]
        cost |= {"lm_head": head, "logprobs": head * 2, "optimizer": self._needed.optimizer()}
        return cost | {"gradient_sum": Cost(0, 8 * len(batch) * self._needed.parameters)}


class _Guarded(Update):
    """An update whose compiled programs run under the transfer guard; their inputs are placed before."""

    def finish(
        self, state: TrainState, sums: Sums, micro_batches: Sequence[Rows]
    ) -> tuple[TrainState, dict[str, jax.Array], list[dict[str, jax.Array]]]:
        try:
            with jax.transfer_guard("disallow"):
                return super().finish(state, sums, micro_batches)
        except jax.errors.JaxRuntimeError as error:
            if "Disallowed" not in str(error):
                raise
            raise ImplicitTransfer(f"implicit transfer of an array in the update: {error}") from error
