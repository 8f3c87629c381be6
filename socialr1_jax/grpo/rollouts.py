"""The rollouts of a GRPO step, and the interface of their sources."""

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
Phase = Callable[[str], AbstractContextManager[None]]  # name -> a context that measures the phase


def unmeasured(name: str) -> AbstractContextManager[None]:
    """Measure nothing: the `Phase` of a step that is not timed."""
    return nullcontext()


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """The responses of one step with their rewards, ordered by group."""

    group: int  # responses per prompt
    prompts: list[list[int]]  # one per group; token ids
    prompt_ids: list[int]
    completions: list[Completion]
    terms: list[RewardTerms]
    examples: list[Example] = field(default_factory=list)  # one per group; a replay has none
    texts: list[str] = field(default_factory=list)  # of the completions; a replay has none
    replaced: int = 0  # groups of equal rewards that were replaced by other prompts

    @property
    def rewards_pg(self) -> np.ndarray:
        """Rewards, float64 [prompts, group]; NaN for a response that is unscorable or that failed in sampling."""
        rewards = np.array([term.total for term in self.terms])
        rewards[[completion.finish_reason == "error" for completion in self.completions]] = np.nan
        return rewards.reshape(-1, self.group)

    def shaped_rewards(self, config: RunConfig) -> np.ndarray:
        """Return the rewards for the advantages, with truncated responses masked or penalised by `grpo.truncated`."""
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
        """Return these groups, in this order."""
        rows = [i * self.group + j for i in groups for j in range(self.group)]
        places = dict.fromkeys(_OF_GROUPS, groups) | dict.fromkeys(_OF_RESPONSES, rows)
        taken: dict[str, Any] = {name: [getattr(self, name)[i] for i in which] for name, which in places.items()}
        return replace(self, **taken)

    def __add__(self, other: "Rollouts") -> "Rollouts":
        names = (*_OF_GROUPS, *_OF_RESPONSES)
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in names})

    def metrics(self) -> dict[str, float]:
        """Return means of the reward and of its raw terms over the responses, the weights, and rates and counts."""
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
        """Return the means of the raw terms by source of the questions, {} if there is one source."""
        sources = np.repeat([example.meta.get("source", "") for example in self.examples], self.group)
        names = np.unique(sources)
        means = {}
        for name in names if len(names) > 1 else ():
            for term, values in raw.items():
                of_source = values[sources == name]
                if not np.isnan(of_source).all():
                    means[f"source/{name}/{term}"] = float(np.nanmean(of_source))
        return means


class RolloutSource:
    """Source of a run's rollouts: a `Sampler`, or a `Replay` of recorded ones. The defaults are those of a replay."""

    def __call__(self, params: Params, step: int, phase: Phase) -> Rollouts:
        """Return the rollouts of step `step` (from 0); `phase` measures its phases "rollout" and "reward"."""
        raise NotImplementedError

    def evaluate(self, params: Params, step: int) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        """Evaluate the weights after `step` steps; return metrics and records, None for a source that cannot sample."""
        return None

    def metrics(self, steps: int) -> dict[str, float]:
        """Return the source's own metrics after `steps` steps, such as those of the judge."""
        return {}

    def records(self, rollouts: Rollouts, advantages_b: np.ndarray) -> Iterator[Mapping[str, Any]]:
        """Yield responses as records of rollouts.jsonl."""
        return iter(())

    def dropped(self, steps: int) -> int:
        """Return how many prompts the first `steps` steps skipped: too long, or bad rows found late."""
        return 0

    def close(self) -> None:
        """Free the questions and stop the threads."""
