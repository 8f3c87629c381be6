"""The responses of a GRPO step with their rewards: sampled and scored, kept in a file, and read back from it."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from socialr1_jax.command_line import Count
from socialr1_jax.config import ConfigError, RunConfig, load_config
from socialr1_jax.data.examples import Example
from socialr1_jax.data.pipeline import QuestionStream
from socialr1_jax.data.prompts import Prompt
from socialr1_jax.files import append, finite
from socialr1_jax.grpo.advantages import flat_groups, soft_overlong
from socialr1_jax.interrupt import Stop
from socialr1_jax.models.attention import Backend
from socialr1_jax.ownership import begins_as, open_own, refuse_foreign_file
from socialr1_jax.processes import divided, is_first
from socialr1_jax.rewards import JudgeRefused, RewardTerms, Scorer
from socialr1_jax.rewards.judge_probe import judge_fault
from socialr1_jax.rewards.shares import variance_shares
from socialr1_jax.sampling import Completion, Engine, SamplingParams
from socialr1_jax.sampling.params import FinishReason
from socialr1_jax.terminal import printable
from socialr1_jax.training.checkpoints import first_fault
from socialr1_jax.training.validation import response_record, sample_and_submit


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """The responses of one step, those of a group one after another."""

    group: int  # responses per prompt
    prompts: list[list[int]]  # one a group, as the other lists are one a response
    prompt_ids: list[int]
    completions: list[Completion]
    terms: list[RewardTerms]
    examples: list[Example] = field(default_factory=list)  # one a group; a replay has none
    texts: list[str] = field(default_factory=list)  # of the completions; a replay has none
    replaced: int = 0  # groups whose rewards were equal, so that other prompts took their places

    @property
    def rewards_pg(self) -> np.ndarray:
        """float64 [prompts, group]; NaN where a response could not be scored, or not be sampled to its end."""
        rewards = np.array([term.total for term in self.terms])
        rewards[[completion.finish_reason == "error" for completion in self.completions]] = np.nan
        return rewards.reshape(-1, self.group)

    def shaped_rewards(self, config: RunConfig) -> np.ndarray:
        """What advantages are made of: the rewards, those of truncated responses as `grpo.truncated` says."""
        grpo, limit = config.grpo, config.sampling.max_new_tokens
        rewards = self.rewards_pg
        if grpo.truncated == "mask":
            truncated = [completion.finish_reason == "length" for completion in self.completions]
            rewards[np.reshape(truncated, rewards.shape)] = np.nan
        elif grpo.truncated == "penalise":
            lengths = [len(completion.tokens) for completion in self.completions]
            buffer = max(1, round(grpo.overlong_share * limit))
            rewards += soft_overlong(lengths, limit, buffer, grpo.overlong_penalty).reshape(rewards.shape)
        return rewards

    def take(self, groups: Sequence[int]) -> "Rollouts":
        """Some of the groups, in this order."""
        rows = [i * self.group + j for i in groups for j in range(self.group)]
        return replace(
            self,
            prompts=[self.prompts[i] for i in groups],
            prompt_ids=[self.prompt_ids[i] for i in groups],
            completions=[self.completions[i] for i in rows],
            terms=[self.terms[i] for i in rows],
            examples=[self.examples[i] for i in groups],
            texts=[self.texts[i] for i in rows],
        )

    def __add__(self, other: "Rollouts") -> "Rollouts":
        return replace(
            self,
            prompts=self.prompts + other.prompts,
            prompt_ids=self.prompt_ids + other.prompt_ids,
            completions=self.completions + other.completions,
            terms=self.terms + other.terms,
            examples=self.examples + other.examples,
            texts=self.texts + other.texts,
        )

    def metrics(self) -> dict[str, float]:
        """Means over the responses of the total and of every raw term, beside the weights that made the total."""
        terms, completions, rewards = self.terms, self.completions, self.rewards_pg
        raw = {f"reward/{name}": np.array([t.raw()[name] for t in terms]) for name in terms[0].raw()}
        scored = {name: float(np.nanmean(values)) for name, values in raw.items() if not np.isnan(values).all()}
        return {
            "reward/total": float("nan") if np.isnan(rewards).all() else float(np.nanmean(rewards)),
            **scored,
            "reward/unscorable": float(np.isnan(rewards).mean()),
            "weight/structure": terms[0].weights["structure"],
            "weight/content": terms[0].weights["content"],
            **{f"weight/{name}": max(term.weights[name] for term in terms) for name in terms[0].extra},
            "accuracy": float(raw["reward/outcome"].mean()),
            "format_rate": float(raw["reward/format"].mean()),
            "response_tokens": float(np.mean([len(c.tokens) for c in completions])),
            "truncated": float(np.mean([c.finish_reason == "length" for c in completions])),
            "sampling_errors": float(sum(c.finish_reason == "error" for c in completions)),
            "zero_variance_groups": float(flat_groups(rewards).sum()),
            "replaced_groups": float(self.replaced),
            **{f"variance_share/{name}": share for name, share in variance_shares(terms, rewards).items()},
            **self._by_source(raw),
        }

    def _by_source(self, raw: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Means of the raw terms over the questions of each source, where there are several."""
        sources = np.repeat([example.meta.get("source", "") for example in self.examples], self.group)
        names = np.unique(sources)
        found = {}
        for name in names if len(names) > 1 else ():
            for term, values in raw.items():
                of_source = values[sources == name]
                if not np.isnan(of_source).all():
                    found[f"source/{name}/{term}"] = float(np.nanmean(of_source))
        return found


class _Place(BaseModel):
    grain: dict[Literal["next_index"], Count]


_PLACES = TypeAdapter(dict[Literal["prompts", "spare"], _Place])  # of the two streams of prompts


@dataclass(frozen=True, kw_only=True)
class Collector:
    """Samples the responses of a step and scores them."""

    config: RunConfig
    sampling: SamplingParams
    prompts: QuestionStream
    spare: QuestionStream  # an order of its own, so that the next steps' prompts stay as they are
    tokenizer: Any
    scorer: Scorer

    def __call__(self, engine: Engine, step: int, end_lap: Callable[[str], float]) -> Rollouts:
        """The responses of step `step` (from 0); tells `end_lap` when sampling and when scoring is over."""
        grpo = self.config.grpo
        rollouts = self._sampled(engine, step, next(self.prompts), end_lap)
        if not grpo.replace_flat_groups:
            return rollouts
        used = set(rollouts.prompt_ids)
        for _ in range(grpo.most_replacements):
            rewards_pg = rollouts.rewards_pg
            scored_p = np.isfinite(rewards_pg).sum(axis=1) > 1  # other prompts are no help when nobody scores them
            flat = np.flatnonzero(flat_groups(rewards_pg) & scored_p).tolist()
            if not flat:
                break
            drawn = {prompt.id: prompt for prompt in next(self.spare)}  # each once, in order
            fresh = [prompt for prompt in drawn.values() if prompt.id not in used][: len(flat)]
            if not fresh:
                break
            used.update(prompt.id for prompt in fresh)
            others = self._sampled(engine, step, fresh, end_lap)
            good = np.flatnonzero(~flat_groups(others.rewards_pg)).tolist()
            kept = [i for i in range(grpo.prompts_per_step) if i not in flat[: len(good)]]
            rollouts = rollouts.take(kept) + others.take(good)
            rollouts = replace(rollouts, replaced=rollouts.replaced + len(good))
        return rollouts

    def records(self, rollouts: Rollouts, advantages_b: np.ndarray) -> Iterator[dict[str, Any]]:
        """Yield the first `tracking.responses` responses, or all, as rollouts.jsonl holds them."""
        texts, ids = rollouts.texts[: self.config.tracking.responses or None], rollouts.prompt_ids
        earlier = [ids[:place].count(one) for place, one in enumerate(ids)]  # a prompt may come twice
        for i, text in enumerate(texts):
            place, sample = divmod(i, rollouts.group)
            sample += earlier[place] * rollouts.group
            record = response_record(rollouts.examples[place], sample, text, rollouts.completions[i], rollouts.terms[i])
            yield {"advantage": float(advantages_b[i])} | record

    def dropped(self, steps: int) -> int:
        """Return how many prompts the first `steps` steps left out: too long, or bad rows met late; once an epoch each.

        From the place in the questions, so that a resumed run counts on.
        """
        return int(self.prompts.get_state()["grain"]["next_index"]) - steps * self.config.grpo.prompts_per_step

    def get_state(self) -> dict[str, Any]:
        """Where the streams of prompts stand, as JSON."""
        return {"prompts": self.prompts.get_state(), "spare": self.spare.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned. Raises ValueError or KeyError for anything else."""
        _PLACES.validate_python(state)
        self.prompts.set_state(state["prompts"])
        self.spare.set_state(state["spare"])

    def close(self) -> None:
        """Lets go of the questions."""
        self.prompts.close()
        self.spare.close()

    def _sampled(self, engine: Engine, step: int, prompts: list[Prompt], end_lap: Callable[[str], float]) -> Rollouts:
        completions, texts = sample_and_submit(engine, prompts, self.sampling, self.tokenizer, self.scorer, step=step)
        end_lap("rollout")
        terms = self.scorer.results(step)
        end_lap("reward")
        return Rollouts(
            group=self.sampling.n,
            prompts=[prompt.tokens for prompt in prompts],
            prompt_ids=[prompt.id for prompt in prompts],
            completions=completions,
            terms=terms,
            examples=[prompt.example for prompt in prompts],
            texts=texts,
        )


def make_scorer(config: RunConfig, mesh: Mesh, backend: Backend, stop: Stop) -> Scorer:
    """What scores the run's responses: the judge that each process asks about its share, the content model on the mesh.

    Raises what reading the content model raises, ConfigError for a judge that grades nothing (`judge_fault`) or a
    reward function that cannot be had.
    """
    if config.rewards.uses.structure:  # each process asks from its own host; all hear of a fault
        asked = divided(lambda _: {"fault": judge_fault(config.rewards.structure)}, range(jax.process_count()))
        if fault := next((one["fault"] for one in asked if one["fault"]), ""):
            raise ConfigError(f"rewards.structure: {fault}")
    content = None
    if config.rewards.uses.content:
        from socialr1_jax.rewards.content_model import load_content_model

        content = load_content_model(config.rewards.content, mesh, config.model.dtype, backend)
    # The limits are the server's, whatever the number of processes that ask it.
    count, structure = jax.process_count(), config.rewards.structure
    limits = ("concurrency", "requests_per_minute", "tokens_per_minute")
    shares = {name: -(-value // count) for name in limits if (value := getattr(structure, name))}
    rewards = config.rewards.model_copy(update={"structure": structure.model_copy(update=shares)})
    try:
        return Scorer(rewards, content, (jax.process_index(), count), divided, stop)
    except (JudgeRefused, ImportError) as error:  # no key, no client
        raise ConfigError(f"rewards.structure: {error}") from error


# ------------------------------------------------------------------------------------------------------------- a file

_BEGIN = b'{"step": 0, "group": '


class RolloutFile:
    """Rollouts as JSON lines, one a step: token ids, the sampler's log-probs, finish reasons and reward terms.

    Log-probs are written so that the same floats come back. NaN is written as null.
    """

    def __init__(self, path: str | Path, *, finished: int = 0) -> None:
        """Opens the file for writing; lines of steps after `finished` are dropped, since those steps run again."""
        self._path = Path(os.path.realpath(path))
        if is_first() and self._path.exists():
            offsets = _line_offsets(self._path)
            with open_own(self._path, "rb+") as file:
                file.truncate(offsets[min(finished, len(offsets) - 1)])

    def append(self, step: int, rollouts: Rollouts) -> None:
        """Writes the rollouts of step `step` (from 0)."""
        if not is_first():
            return
        line = {
            "step": step,
            "group": rollouts.group,
            "prompts": rollouts.prompts,
            "prompt_ids": [int(i) for i in rollouts.prompt_ids],
            "tokens": [completion.tokens for completion in rollouts.completions],
            "logprobs": [[float(x) for x in completion.logprobs] for completion in rollouts.completions],
            "finish_reason": [completion.finish_reason for completion in rollouts.completions],
            "terms": [finite(asdict(term)) for term in rollouts.terms],
            "replaced": rollouts.replaced,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        append(self._path, [json.dumps(line) + "\n"])


def refuse_foreign_rollouts(config: RunConfig) -> None:
    """Raises ConfigError unless `save_rollouts` is absent, empty, or what this very run has recorded so far."""
    path, folder = Path(config.save_rollouts), Path(config.output_dir)
    if config.replay_rollouts and os.path.realpath(path) == os.path.realpath(config.replay_rollouts):
        raise ConfigError(f"save_rollouts: {path} is the file that replay_rollouts reads: give another one")
    refuse_foreign_file(path, partial(begins_as, begin=_BEGIN), "a recording of rollouts")
    if not path.exists() or not path.stat().st_size:
        return
    saved = folder / "config.yaml"
    before = load_config(RunConfig, saved) if saved.exists() else None
    inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    same = before and all(
        os.path.realpath(getattr(before, name)) == os.path.realpath(getattr(config, name))
        for name in ("save_rollouts", "output_dir")  # a copy of a run must not cut the recording of the original
    )
    if before is None or not (inside or same):
        raise ConfigError(f"save_rollouts: {path} is there, and this run did not write it: give another file")


_Number = Annotated[float, Field(strict=True, ge=-1e30, le=1e30)]
_Token = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
_LogProb = Annotated[float, Field(strict=True, ge=-1e30, le=0.01)]  # rounding may leave one just above 0


class _Terms(BaseModel, extra="forbid"):
    total: _Number | None
    format: _Number | None
    outcome: _Number | None
    structure: _Number | None
    content: _Number | None
    length_window: _Number | None
    repetition: _Number | None
    weights: dict[str, _Number]
    extra: dict[str, _Number | None] = {}
    cause: str = ""


class _Line(BaseModel):
    step: Count
    group: Count
    prompts: list[Annotated[list[_Token], Field(min_length=1)]]
    prompt_ids: list[Count]
    tokens: list[list[_Token]]
    logprobs: list[list[_LogProb]]
    finish_reason: list[FinishReason]
    terms: list[_Terms]
    replaced: Count


class Replay:
    """Reads what a RolloutFile wrote. Raises ConfigError naming file, line and field if it does not fit the run."""

    def __init__(self, config: RunConfig) -> None:
        self._path, self._config = Path(config.replay_rollouts), config
        if not self._path.is_file():
            raise ConfigError(f"replay_rollouts: there is no file {self._path}")
        self._offsets = _line_offsets(self._path)
        if len(self._offsets) - 1 < config.steps:
            raise ConfigError(
                f"replay_rollouts: {self._path} holds {len(self._offsets) - 1} whole steps, the run has "
                f"{config.steps}; lower steps"
            )

    def check(self, num_tokens: int) -> None:
        """Reads all steps of the run, so that a bad last line does not end it late.

        Raises ConfigError for a token that is not below `num_tokens`, and what a call raises.
        """
        for step in range(self._config.steps):
            rollouts = self(step)
            rows = {"prompts": rollouts.prompts, "tokens": [completion.tokens for completion in rollouts.completions]}
            for name, lists in rows.items():
                for i, tokens in enumerate(lists):
                    if (largest := max(tokens, default=0)) >= num_tokens:
                        raise ConfigError(
                            f"{self._path} line {step + 1}: {name}.{i} holds token {largest}, the model has "
                            f"{num_tokens} tokens: give the model that these rollouts were sampled from"
                        )

    def __call__(self, step: int) -> Rollouts:
        """Returns the rollouts of step `step` (from 0)."""
        with self._path.open("rb") as file:
            file.seek(self._offsets[step])
            text = file.readline()
        try:
            line = _Line.model_validate(json.loads(text))
        except ValidationError as error:
            raise self._unfit(step, first_fault(error)) from None
        except (ValueError, RecursionError) as error:
            raise self._unfit(step, printable(f"not JSON: {error}", 300)) from None
        prompts, group = self._config.grpo.prompts_per_step, self._config.sampling.group_size
        found = line.step, len(line.prompts), line.group, len(line.tokens)
        if found != (step, prompts, group, prompts * group):
            raise ConfigError(
                f"{self._path} line {step + 1} holds step {found[0]} with {found[1]} prompts x {found[2]} responses, "
                f"the run wants step {step} with {prompts} x {group}: set grpo.prompts_per_step and "
                "sampling.group_size as they were"
            )
        self._check_lengths(step, line)
        return Rollouts(
            group=group,
            prompts=line.prompts,
            prompt_ids=line.prompt_ids,
            completions=[Completion(*row) for row in zip(line.tokens, line.logprobs, line.finish_reason, strict=True)],
            terms=[_reward_terms(term) for term in line.terms],
            replaced=line.replaced,
        )

    def _check_lengths(self, step: int, line: _Line) -> None:
        responses = len(line.tokens)
        lengths = {"prompt_ids": len(line.prompts)} | dict.fromkeys(("logprobs", "finish_reason", "terms"), responses)
        for name, wanted in lengths.items():
            if len(getattr(line, name)) != wanted:
                raise self._unfit(step, f"{name}: {len(getattr(line, name))} of them, not {wanted}")
        for i, (tokens, logprobs) in enumerate(zip(line.tokens, line.logprobs, strict=True)):
            if len(tokens) != len(logprobs):
                raise self._unfit(step, f"logprobs.{i}: {len(logprobs)} of them for {len(tokens)} tokens")
        names, extra = line.terms[0].weights.keys(), line.terms[0].extra.keys()
        for i, term in enumerate(line.terms):
            if term.extra.keys() != extra:
                raise self._unfit(step, f"terms.{i}.extra: not the names of the first response")
            if term.weights.keys() != names or not {"outcome", "structure", "content", "tau", *extra} <= names:
                raise self._unfit(step, f"terms.{i}.weights: not those of outcome, structure, content, tau, and extra")
        for name, lists, setting, most in (
            ("prompts", line.prompts, "data.max_prompt_tokens", self._config.data.max_prompt_tokens),
            ("tokens", line.tokens, "sampling.max_new_tokens", self._config.sampling.max_new_tokens),
        ):
            if (longest := max(map(len, lists))) > most:
                raise ConfigError(
                    f"{self._path} line {step + 1}: {name} holds {longest} tokens, {setting} allows {most}: raise it"
                )

    def _unfit(self, step: int, reason: str) -> ConfigError:
        return ConfigError(
            f"{self._path} line {step + 1}: not rollouts of a step ({reason}): give a file that save_rollouts wrote"
        )


def _reward_terms(line: _Terms) -> RewardTerms:
    def number(value: Any) -> Any:
        return float("nan") if value is None else value

    values = {name: number(value) for name, value in line}
    return RewardTerms(**values | {"extra": {name: number(value) for name, value in line.extra.items()}})


def _line_offsets(path: Path) -> list[int]:
    """Where each whole line begins, and where the last one ends: a kill may have cut what follows."""
    offsets = [0]
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                offsets.append(offsets[-1] + len(line))
    return offsets
