"""Sample and score the responses of a run, and evaluate its weights."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from pydantic import BaseModel, TypeAdapter

from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError, Count
from socialr1_jax.data.prompts import Prompt
from socialr1_jax.grpo.advantages import flat_groups
from socialr1_jax.grpo.rollouts import Phase, Rollouts, RolloutSource
from socialr1_jax.models.attention import Backend
from socialr1_jax.models.attention_trial import prefill_attention
from socialr1_jax.models.qwen3 import Params, Qwen3, lent
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.questions.accuracy import baseline_figures
from socialr1_jax.questions.pipeline import QuestionStream
from socialr1_jax.questions.sources import Questions
from socialr1_jax.rewards import JudgeRefused, Scorer
from socialr1_jax.rewards.judge_probe import judge_fault
from socialr1_jax.run.console import console, working
from socialr1_jax.run.questions import evaluation_prompts, prompt_streams
from socialr1_jax.run.run import rollout_mesh
from socialr1_jax.runtime.chips import chip_of
from socialr1_jax.runtime.interrupt import Stop
from socialr1_jax.runtime.processes import divided
from socialr1_jax.sampling import Engine, SamplingParams
from socialr1_jax.sampling.memory import free_memory
from socialr1_jax.sampling.text import stop_token_ids
from socialr1_jax.training.validation import evaluate_questions, response_record, sample_and_submit


class _Place(BaseModel):
    grain: dict[Literal["next_index"], Count]


_PLACES = TypeAdapter(dict[Literal["prompts", "spare"], _Place])  # of the two streams of prompts


@dataclass(frozen=True, kw_only=True)
class Sampler(RolloutSource):
    """Source of rollouts that samples them: a stream of prompts, an engine on the newest weights and a scorer.

    `poll` is called between segments and may raise to stop the sampling.
    """

    config: RunConfig
    model: Qwen3Config
    num_tokens: int
    mesh: Mesh  # of the rollout
    backend: Backend
    tokenizer: Any
    scorer: Scorer
    sampling: SamplingParams
    prompts: QuestionStream
    spare: QuestionStream  # a separate stream of replacements, so that `prompts` keeps its order
    sets: Mapping[str, list[Prompt]]  # questions to evaluate on
    baselines: Mapping[str, dict[str, Any]]  # accuracies of the shortcut rules on each set
    poll: Callable[[], None]

    def __call__(self, params: Params, step: int, phase: Phase) -> Rollouts:
        """Return the rollouts of step `step` (from 0); `grpo.replace_flat_groups` replaces groups of equal rewards."""
        grpo = self.config.grpo
        rollouts = self.draw(params, step, next(self.prompts), phase)
        if not grpo.replace_flat_groups:
            return rollouts
        used = set(rollouts.prompt_ids)
        for _ in range(grpo.most_replacements):
            rewards_pg = rollouts.rewards_pg
            scored_p = np.isfinite(rewards_pg).sum(axis=1) > 1  # other prompts would get no score either
            flat = np.flatnonzero(flat_groups(rewards_pg) & scored_p).tolist()
            if not flat:
                break
            drawn = {prompt.id: prompt for prompt in next(self.spare)}  # each once, in order
            fresh = [prompt for prompt in drawn.values() if prompt.id not in used][: len(flat)]
            if not fresh:
                break
            used.update(prompt.id for prompt in fresh)
            others = self.draw(params, step, fresh, phase)
            good = np.flatnonzero(~flat_groups(others.rewards_pg)).tolist()
            remaining = [i for i in range(grpo.prompts_per_step) if i not in flat[: len(good)]]
            rollouts = rollouts.take(remaining) + others.take(good)
            rollouts = replace(rollouts, replaced=rollouts.replaced + len(good))
        return rollouts

    def draw(self, params: Params, step: int, prompts: list[Prompt], phase: Phase) -> Rollouts:
        """Sample the prompts; each response is submitted for scoring as soon as it is complete."""
        with phase("rollout"):
            completions, texts = sample_and_submit(
                self.engine(params), prompts, self.sampling, self.tokenizer, self.scorer, step=step
            )
        with phase("reward"):
            terms = self.scorer.results(step)
        return Rollouts(
            group=self.sampling.n,
            prompts=[prompt.tokens for prompt in prompts],
            prompt_ids=[prompt.id for prompt in prompts],
            completions=completions,
            terms=terms,
            examples=[prompt.example for prompt in prompts],
            texts=texts,
        )

    def evaluate(self, params: Params, step: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        begun, metrics, rows = time.perf_counter(), dict[str, Any](), []
        sampling = replace(self.sampling, n=self.config.evaluation.samples)
        for number, (name, prompts) in enumerate(self.sets.items()):
            with working(f"evaluating on {name} after step {step}"):
                stats, records = evaluate_questions(self.engine(params), prompts, sampling, self.tokenizer, self.scorer)
            stats |= self.baselines[name]
            metrics |= {f"{name}/{key}" if number else key: value for key, value in stats.items()}
            rows += [{"phase": "eval", "step": step, "set": name, **record} for record in records]
            console.print(
                f"step {step}: {name} accuracy {stats['accuracy']:.3f} +- {stats['accuracy_stderr']:.3f}, "
                + (f"pairs {stats['pair_accuracy']:.3f}, " if "pair_accuracy" in stats else "")
                + f"format {stats['format_rate']:.2f}, reward {stats['reward']:.2f}"
            )
        return metrics | self.scorer.metrics() | {"seconds": time.perf_counter() - begun}, rows

    def metrics(self, steps: int) -> dict[str, float]:
        return self.scorer.metrics() | {"dropped_prompts": self.dropped(steps)}

    def records(self, rollouts: Rollouts, advantages_b: np.ndarray) -> Iterator[dict[str, Any]]:
        """Yield the first `tracking.responses` responses (all if 0) as records of rollouts.jsonl."""
        texts, ids = rollouts.texts[: self.config.tracking.responses or None], rollouts.prompt_ids
        earlier = [ids[:place].count(prompt_id) for place, prompt_id in enumerate(ids)]  # a prompt may occur twice
        for i, text in enumerate(texts):
            place, sample = divmod(i, rollouts.group)
            sample += earlier[place] * rollouts.group
            record = response_record(rollouts.examples[place], sample, text, rollouts.completions[i], rollouts.terms[i])
            yield {"advantage": float(advantages_b[i])} | record

    def dropped(self, steps: int) -> int:
        # Derived from the stream's position, which a checkpoint restores. A prompt counts once per epoch.
        return int(self.prompts.get_state()["grain"]["next_index"]) - steps * self.config.grpo.prompts_per_step

    def engine(self, params: Params) -> Engine:
        """Return an engine that samples from these weights on the mesh of the rollout."""
        if self.mesh != jax.sharding.get_mesh():
            params = lent(params, self.model, self.mesh)
        return Engine(
            params=params,
            config=self.model,
            num_tokens=self.num_tokens,
            dtype=self.config.model.dtype,
            backend=self.backend,
            poll=self.poll,
            **self.config.sampling.model_dump(include={"weights", "attention", "segment_tokens", "max_rows"}),
        )

    def get_state(self) -> dict[str, Any]:
        return {"prompts": self.prompts.get_state(), "spare": self.spare.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        _PLACES.validate_python(state)
        self.prompts.set_state(state["prompts"])
        self.spare.set_state(state["spare"])

    def close(self) -> None:
        self.scorer.close()
        self.prompts.close()
        self.spare.close()


def make_sampler(
    config: RunConfig,
    model: Qwen3,
    tokenizer: Any,
    scorer: Scorer,
    backend: Backend,
    questions: Questions,
    heldout: Mapping[str, Questions],
    poll: Callable[[], None] = lambda: None,
) -> Sampler:
    """Return the sampler of a run that trains on `questions` and is evaluated on the sets of `heldout`.

    Raises ConfigError if `sampling.tensor` does not divide the devices or the model.
    """
    n, stops = config.sampling.group_size, stop_token_ids(model, tokenizer)
    sampling = SamplingParams(n=n, seed=config.seed, stop_token_ids=stops, **config.sampling.draws)
    mesh, why = rollout_mesh(
        config, model.config, jax.sharding.get_mesh(), chip_of(jax.devices()[0].device_kind), _memory(config, model)
    )
    if why:
        console.print(why)
    prompts, spare = prompt_streams(config, questions, tokenizer)
    sets = evaluation_prompts(config, heldout, tokenizer)
    return Sampler(
        config=config,
        model=model.config,
        num_tokens=model.num_tokens,
        mesh=mesh,
        backend=prefill_attention(backend, config.model.dtype),
        tokenizer=tokenizer,
        scorer=scorer,
        sampling=sampling,
        prompts=prompts,
        spare=spare,
        sets=sets,
        baselines={name: baseline_figures([prompt.example for prompt in part]) for name, part in sets.items()},
        poll=poll,
    )


def _memory(config: RunConfig, model: Qwen3) -> int | None:
    """Return the bytes that sampling may take on each device once the run has its moments and reference."""
    kept, shape = 12, jax.sharding.get_mesh().shape  # bytes of a master and two moments
    if config.grpo.kl_coefficient and config.grpo.reference_memory == "device":
        kept += jnp.dtype(config.model.dtype).itemsize
    more = sum(x.size * kept - x.nbytes for x in jax.tree.leaves(model.params))
    free = free_memory()
    return None if free is None else free - more // (shape["fsdp"] * shape["tensor"])


def make_scorer(config: RunConfig, backend: Backend, stop: Stop) -> Scorer:
    """Return the scorer of a run: each process sends its share to the judge; the content model runs on the mesh.

    Raises ConfigError for a judge that gives no grade (`judge_fault`) or an unusable reward function, and the errors
    of loading the content model.
    """
    if config.rewards.uses.structure:  # each process tests the judge from its own host; a fault stops all processes
        probes = divided(lambda _: {"fault": judge_fault(config.rewards.structure)}, range(jax.process_count()))
        if fault := next((probe["fault"] for probe in probes if probe["fault"]), ""):
            raise ConfigError(f"rewards.structure: {fault}")
    content = None
    if config.rewards.uses.content:
        from socialr1_jax.rewards.content_model import load_content_model

        content = load_content_model(config.rewards.content, jax.sharding.get_mesh(), config.model.dtype, backend)
    # The limits apply to the server, so the processes divide them.
    count, structure = jax.process_count(), config.rewards.structure
    limits = ("concurrency", "requests_per_minute", "tokens_per_minute")
    shares = {name: -(-value // count) for name in limits if (value := getattr(structure, name))}
    rewards = config.rewards.model_copy(update={"structure": structure.model_copy(update=shares)})
    try:
        return Scorer(rewards, content, (jax.process_index(), count), divided, stop)
    except (JudgeRefused, ImportError) as error:  # no API key, or no client installed
        raise ConfigError(f"rewards.structure: {error}") from error
