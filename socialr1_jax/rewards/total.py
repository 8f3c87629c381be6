"""The Social-R1 reward of one response: terms, curriculum, presets, and scores that could not be had."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

from socialr1_jax.config import RewardConfig
from socialr1_jax.rewards.parsing import parse_response
from socialr1_jax.rewards.rules_judge import judge_thoughts
from socialr1_jax.rewards.terms import (
    content_reward,
    curriculum_weights,
    length_window,
    outcome_reward,
    repetition_factor,
)


class _Uses(NamedTuple):
    structure: bool
    content: bool
    length: bool


# outcome_only is a sum of two terms and not the product form of the others (total_reward)
_PRESETS = {
    "full": _Uses(structure=True, content=True, length=True),
    "no_content": _Uses(structure=True, content=False, length=True),
    "no_structure": _Uses(structure=False, content=True, length=True),
    "no_length": _Uses(structure=True, content=True, length=False),
    "outcome_only": _Uses(structure=False, content=False, length=False),
}
_DEFAULT = RewardConfig()


@dataclass(frozen=True)
class RewardTerms:
    """The reward of one response and its raw terms, as plain floats. NaN means unscorable, never 0.

    total: the reward; NaN if a term that counts could not be scored.
    format: ``R_fmt``, 0 or 1.
    outcome: ``R_out``, 0 or 1.
    structure: ``R_struct`` in [0, 1].
    content: ``R_cont`` >= 0, that is, after shift and power; the reward model's scalar went in.
    length_window, repetition: the two factors of ``R_len``, each at most 1.
    weights: what multiplied the terms: ``outcome``, ``structure``, ``content`` (0 where the preset leaves it out) and
        ``tau``, the factor of structure and content together.

    Terms that the preset leaves out are still given, so that they can be logged.
    """

    total: float
    format: float
    outcome: float
    structure: float
    content: float
    length_window: float
    repetition: float
    weights: Mapping[str, float]

    def raw(self) -> dict[str, float]:
        """The six raw terms by name, without total and weights, as logs and rollouts.jsonl hold them."""
        return {name: value for name, value in asdict(self).items() if name not in ("total", "weights")}


def social_r1_reward(
    text: str,
    gold: str,
    structure: float | None = 0.9,
    content: float | None = 0.5,
    step: int = 0,
    preset: str | None = None,
    config: RewardConfig | None = None,
) -> RewardTerms:
    """The Social-R1 reward of one response.

    Args:
        text: the response after the assistant header, special end tokens removed.
        gold: an option letter (a single capital: multiple choice) or the free-text answer.
        structure: a judge's score of the thoughts in [0, 1]; None or NaN = unscorable.
        content: the content reward model's scalar s; None or NaN = unscorable.
        step: the global optimisation step, from 0.
        preset: ``full``, ``outcome_only``, ``no_content``, ``no_structure`` or ``no_length``; None takes the one of
            ``config``, or ``full`` when there is no config either.
        config: the constants; None takes the published ones.

    Returns:
        The terms. ``total`` is NaN when a term with a weight other than 0 is unscorable, except that a response of
        failed format is 0 whatever the judges said: it needs none. Length and repetition are counted on
        ``parse_response``'s thoughts, so they are those of an empty text when the thoughts cannot be told.

    Raises:
        TypeError: text or gold is no string.
        ValueError: unknown preset, negative step, structure outside [0, 1], infinite content, a gold answer without a
            letter or digit.
    """
    if not isinstance(gold, str):
        raise TypeError(f"the gold answer is a string, not {type(gold).__name__}")
    preset = preset or (config.preset if config else "full")
    config = config or _DEFAULT
    parsed = parse_response(text, config.format_mode)
    structure = math.nan if structure is None else float(structure)
    if not (math.isnan(structure) or 0.0 <= structure <= 1.0):
        raise ValueError(f"the structure score {structure} is outside [0, 1]; pass NaN for one that could not be had")
    terms = {
        "format": float(parsed.well_formed),
        "outcome": outcome_reward(parsed.answer, gold),
        "structure": structure,
        "content": content_reward(content, config),
    }
    window = length_window(len(parsed.thoughts), config)
    repetition = repetition_factor(parsed.thoughts, config)
    weights = term_weights(terms["outcome"], step, preset, config)
    total = total_reward(**terms, length=window * repetition, weights=weights, preset=preset, config=config)
    return RewardTerms(total, **terms, length_window=window, repetition=repetition, weights=weights)


def score_response(
    text: str, gold: str, *, step: int, config: RewardConfig, content: float | None = None
) -> RewardTerms:
    """``social_r1_reward`` with the structure scored by the judge that the configuration names.

    ``judge: rules`` scores the thoughts here (none to be told: 0), ``judge: none`` leaves structure unscorable.
    """
    structure = math.nan
    if config.judge == "rules":
        structure = judge_thoughts(parse_response(text, config.format_mode).thoughts).score
    return social_r1_reward(text, gold, structure, content, step, config=config)


def term_weights(outcome: float, step: int, preset: str, config: RewardConfig) -> dict[str, float]:
    """What multiplies the terms of a response: ``outcome``, ``structure``, ``content``, ``tau``.

    Raises ValueError for an unknown preset or a negative step.
    """
    if preset not in _PRESETS:
        raise ValueError(f"unknown reward preset {preset!r}; use one of {', '.join(_PRESETS)}")
    uses = _PRESETS[preset]
    structure, content = curriculum_weights(step, config)
    return {
        "outcome": config.outcome_weight,
        "structure": structure if uses.structure else 0.0,
        "content": content if uses.content else 0.0,
        "tau": config.tau_right if outcome > 0.5 else config.tau_wrong,
    }


def total_reward(
    *,
    format: float,
    outcome: float,
    structure: float,
    content: float,
    length: float,
    weights: Mapping[str, float],
    preset: str,
    config: RewardConfig,
) -> float:
    """The terms as one number; ``content`` is ``R_cont``, ``length`` is ``R_len``, ``weights`` are ``term_weights``'.

    ``R = R_fmt^3 (w_out R_out + tau (w_struct R_struct + w_cont R_cont)) R_len``, 0 if ``R_fmt < 0.1``, else at least
    0.01; ``outcome_only`` is the plain sum ``w_out R_out + R_fmt``, as published (no gate, no floor).
    """
    if preset == "outcome_only":
        return weights["outcome"] * outcome + format
    if format < config.format_gate:
        return 0.0
    process = 0.0
    for name, value in (("structure", structure), ("content", content)):
        weight = weights["tau"] * weights[name]
        if weight:  # 0 * NaN is NaN, but a term that does not count need not be scored
            process += weight * value
    if math.isnan(process):
        return math.nan  # told apart here because max(floor, NaN) is the floor
    factor = length if _PRESETS[preset].length else 1.0
    return max(config.floor, format**config.format_power * (weights["outcome"] * outcome + process) * factor)
