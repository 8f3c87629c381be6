"""Share of each term in the variance of the reward within groups."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from socialr1_jax.rewards.total import RewardTerms

_DOMINANT, _AGAINST = 0.95, -0.2
_STEPS = 20


def variance_shares(terms: Sequence[RewardTerms], total_pg: np.ndarray) -> dict[str, float]:
    """Return each term's share in the variance of the reward within groups; the shares add up to 1.

    A share is the covariance of the term's part with the reward, divided by the variance of the reward, both centred
    within groups; it is below 0 for a term that works against the others. If a raw term is constant within every group,
    its share is 0, and the variance that length, repetition and format give to its part goes to `length_and_format`.
    `total_pg` are the rewards [prompts, group] of the same responses; NaN is ignored. Returns {} if all rewards are
    equal.
    """
    each = [response.parts() for response in terms]
    parts = {name: np.array([part[name] for part in each]).reshape(total_pg.shape) for name in each[0]}
    scored_pg = np.isfinite(total_pg)
    centre_pg = centred(total_pg, scored_pg)
    variance = float((centre_pg**2).sum())
    if variance <= 1e-12 * total_pg.size:
        return {}
    shares = {name: float((centred(part, scored_pg) * centre_pg).sum()) / variance for name, part in parts.items()}
    constant = [name for name in shares if not _varies(terms, name, scored_pg)]
    return {
        **{name: 0.0 if name in constant else share for name, share in shares.items()},
        "length_and_format": sum((shares[name] for name in constant), 0.0),
    }


def centred(x_pg: np.ndarray, counted_pg: np.ndarray) -> np.ndarray:
    """Return values [prompts, group] minus the mean of their group; those that are not counted become 0."""
    x_pg = np.where(counted_pg, x_pg, 0.0)
    mean_p1 = x_pg.sum(1, keepdims=True) / np.maximum(counted_pg.sum(1, keepdims=True), 1)
    return np.where(counted_pg, x_pg - mean_p1, 0.0)


def _varies(terms: Sequence[RewardTerms], name: str, scored_pg: np.ndarray) -> bool:
    """Return True if the raw term differs between two scored responses of some group."""
    raw_pg = np.array([response.raw()[name] for response in terms], float).reshape(scored_pg.shape)
    valid_pg = scored_pg & np.isfinite(raw_pg)
    low_p = np.where(valid_pg, raw_pg, np.inf).min(axis=1)
    return bool((np.where(valid_pg, raw_pg, -np.inf).max(axis=1) > low_p).any())


class _State(BaseModel):
    seen: dict[str, list[Annotated[float, Field(strict=True)]]]
    said: list[str]


class ShareWatch:
    """Warn once per term that, over the last steps, decides alone or works against the others."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[float]] = {}
        self._said: set[str] = set()

    def get_state(self) -> dict[str, Any]:
        """Return the state as JSON, for a checkpoint."""
        return {"seen": {name: list(steps) for name, steps in self._seen.items()}, "said": sorted(self._said)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `get_state` returned. Raises ValidationError for anything else."""
        read = _State.model_validate(state)
        self._seen = {name: deque(steps, maxlen=_STEPS) for name, steps in read.seen.items()}
        self._said = set(read.said)

    def __call__(self, shares: Mapping[str, float]) -> list[str]:
        """Add the shares of a step and return the warnings that are due."""
        warnings = []
        counted = [name for name, share in shares.items() if share]
        for name, share in shares.items():
            steps = self._seen.setdefault(name, deque(maxlen=_STEPS))
            steps.append(share)
            mean = sum(steps) / len(steps)
            if len(steps) < _STEPS or name in self._said:
                continue
            if mean > _DOMINANT and len(counted) > 1:
                warnings.append(f"{name} alone makes {mean:.0%} of the reward's variance within groups")
            elif mean < _AGAINST:
                warnings.append(f"{name} works against the other terms: {mean:.0%} of the reward's variance")
            else:
                continue
            self._said.add(name)
        return warnings
