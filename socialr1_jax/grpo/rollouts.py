"""The responses of a GRPO step with their rewards, and where they come from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from socialr1_jax.config.run import RunConfig
from socialr1_jax.data.examples import Example
from socialr1_jax.grpo.advantages import flat_groups, soft_overlong
from socialr1_jax.models.qwen3 import Params
from socialr1_jax.rewards import RewardTerms
from socialr1_jax.rewards.shares import variance_shares
from socialr1_jax.sampling import Completion

PHASES = ("rollout", "reward", "old", "reference", "update")  # of a step, in order
_OF_GROUPS, _OF_RESPONSES = ("prompts", "prompt_ids", "examples"), ("completions", "terms", "texts")  # lists
Phase = Callable[[str], AbstractContextManager[None]]  # name -> what measures the phase


def unmeasured(name: str) -> AbstractContextManager[None]:
    """Measure nothing: the `Phase` of a step that is not timed."""
    return nullcontext()


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
        """Return the rewards that advantages are made of; truncated responses as `grpo.truncated` says."""
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
        """Return some of the groups, in this order."""
        rows = [i * self.group + j for i in groups for j in range(self.group)]
        places = dict.fromkeys(_OF_GROUPS, groups) | dict.fromkeys(_OF_RESPONSES, rows)
        taken: dict[str, Any] = {name: [getattr(self, name)[i] for i in which] for name, which in places.items()}
        return replace(self, **taken)

    def __add__(self, other: "Rollouts") -> "Rollouts":
        names = (*_OF_GROUPS, *_OF_RESPONSES)
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in names})

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


class RolloutSource:
    """Source of a run's rollouts: a `Sampler`, or a `Replay` of what one sampled. By default nothing is sampled."""

    def __call__(self, params: Params, step: int, phase: Phase) -> Rollouts:
        """Return the rollouts of step `step` (from 0), whose phases "rollout" and "reward" are measured."""
        raise NotImplementedError

    def evaluate(self, params: Params, step: int) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        """Return metrics and records of the evaluation after `step` steps; None where nothing is sampled."""
        return None

    def metrics(self, steps: int) -> dict[str, float]:
        """Return what `steps` steps counted beside their responses."""
        return {}

    def records(self, rollouts: Rollouts, advantages_b: np.ndarray) -> Iterator[Mapping[str, Any]]:
        """Yield responses as rollouts.jsonl holds them."""
        return iter(())

    def dropped(self, steps: int) -> int:
        """Return how many prompts the first `steps` steps left out: too long, or bad rows met late."""
        return 0

    def close(self) -> None:
        """Free the questions and stop the threads."""
