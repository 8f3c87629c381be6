"""Compute the Social-R1 reward of a response: terms, curriculum, presets and missing scores."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from socialr1_jax.config.rewards import USES, RewardConfig
from socialr1_jax.rewards.parsing import given_answer, parse_response
from socialr1_jax.rewards.terms import content_reward, length_window, outcome_reward, repetition_factor

_DEFAULT = RewardConfig()


@dataclass(frozen=True)
class RewardTerms:
    """The reward of a response and its raw terms, as plain floats. An unscorable term is NaN, never 0.

    total: the reward; NaN if a term that counts is unscorable.
    format: `R_fmt`, 0 or 1.
    outcome: `R_out`, 0 or 1.
    structure: `R_struct` in [0, 1].
    content: `R_cont` >= 0, the reward model's scalar after shift and power.
    length_window, repetition: the two factors of `R_len`, each at most 1.
    weights: the weights of `outcome`, `structure` and `content` (0 if the preset omits the term), the factor `tau` of
        structure and content, the weight of `format` if it is a separate term (outcome_only), and that of each function
        in `rewards.extra` (0 for a gated function if the format is wrong).
    extra: the rewards of those functions, by name.
    cause: short name of why the total is NaN, if the scorer knows it; else "".

    Terms that the preset omits are also set, for logging.
    """

    total: float
    format: float
    outcome: float
    structure: float
    content: float
    length_window: float
    repetition: float
    weights: Mapping[str, float]
    extra: Mapping[str, float] = field(default_factory=dict)
    cause: str = ""

    def raw(self) -> dict[str, float]:
        """Return the raw terms by name, without total and weights, for logs and rollouts.jsonl."""
        left_out = ("total", "weights", "cause", "extra")
        return {name: value for name, value in vars(self).items() if name not in left_out} | dict(self.extra)

    def parts(self) -> dict[str, float]:
        """Return each term's part of the total, weighted and times format and length; the parts add up to the total."""
        weights = self.weights
        extra = {name: _weighted(weights[name], value) for name, value in self.extra.items()}
        if not self.format and "format" not in weights:  # gated to 0, although the other terms may be NaN
            return dict.fromkeys(("format", "outcome", "structure", "content"), 0.0) | extra
        format = weights.get("format", 0.0) * self.format
        parts = {
            "outcome": weights["outcome"] * self.outcome,
            "structure": _weighted(weights["tau"] * weights["structure"], self.structure),
            "content": _weighted(weights["tau"] * weights["content"], self.content),
        }
        summed = sum(parts.values())
        factor = (self.total - sum(extra.values()) - format) / summed if summed else 0.0
        return {"format": format} | {name: part * factor for name, part in parts.items()} | extra


def social_r1_reward(
    text: str,
    gold: str,
    structure: float | None = 0.9,
    content: float | None = 0.5,
    step: int = 0,
    preset: str | None = None,
    config: RewardConfig | None = None,
    extra: Mapping[str, float] | None = None,
) -> RewardTerms:
    """Return the Social-R1 reward of a response and its terms.

    Args:
        text: the response after the assistant header, special end tokens removed.
        gold: an option letter (a single capital: multiple choice) or the free-text answer.
        structure: a judge's score of the thoughts in [0, 1]; None or NaN = unscorable.
        content: the content reward model's scalar s; None or NaN = unscorable.
        step: the global optimisation step, from 0.
        preset: `full`, `outcome_only`, `no_content`, `no_structure` or `no_length`; None takes the preset of `config`,
            or `full` without a config.
        config: the constants; None takes the published ones.
        extra: the reward of each function in `config.extra` for the response, by name; NaN = unscorable.

    Returns:
        The terms. `total` is NaN if a term with a nonzero weight is unscorable, except that a malformed response scores
        0 without a judge. Length and repetition are those of the thoughts that `parse_response` returns, which are
        empty if they are ambiguous.

    Raises:
        TypeError: text or gold is not a string.
        ValueError: unknown preset, negative step, structure outside [0, 1], infinite content, a gold answer without a
            letter or digit, names in `extra` that differ from `config.extra`.
    """
    if not isinstance(gold, str):
        raise TypeError(f"the gold answer is a string, not {type(gold).__name__}")
    preset = preset or (config.preset if config else "full")
    config = config or _DEFAULT
    extra = {} if extra is None else extra
    if extra.keys() != config.extra.keys():
        raise ValueError(f"extra has {sorted(extra)}, the configuration {sorted(config.extra)}; give a number of each")
    parsed = parse_response(text, config.format_mode)
    answer = given_answer(text, config.format_mode)
    structure = math.nan if structure is None else float(structure)
    if not (math.isnan(structure) or 0.0 <= structure <= 1.0):
        raise ValueError(f"the structure score {structure} is outside [0, 1]; pass NaN for one that could not be had")
    terms = {
        "format": float(parsed.well_formed),
        "outcome": outcome_reward(answer, gold, config.answer_mode),
        "structure": structure,
        "content": content_reward(content, config),
    }
    window = length_window(len(parsed.thoughts), config)
    repetition = repetition_factor(parsed.thoughts, config)
    weights = term_weights(terms["outcome"], step, preset, config)
    if terms["format"] < config.format_gate:
        weights |= {name: 0.0 for name, function in config.extra.items() if function.gated}
    total = total_reward(**terms, length=window * repetition, weights=weights, preset=preset, config=config)
    for name, value in extra.items():
        total += _weighted(weights[name], value)
    return RewardTerms(
        total=total, **terms, length_window=window, repetition=repetition, weights=weights, extra=extra, cause=""
    )


def term_weights(outcome: float, step: int, preset: str, config: RewardConfig) -> dict[str, float]:
    """Return the weights of a response's terms: `outcome`, `structure`, `content`, `tau` and the extra functions.

    Raises ValueError for an unknown preset or a negative step.
    """
    if preset not in USES:
        raise ValueError(f"unknown reward preset {preset!r}; use one of {', '.join(USES)}")
    uses = USES[preset]
    weights = {
        "outcome": config.outcome_weight.at(step),
        "structure": config.structure_weight.at(step) if uses.structure else 0.0,
        "content": config.content_weight.at(step) if uses.content else 0.0,
        "tau": (config.tau_right if outcome > 0.5 else config.tau_wrong).at(step),
    }
    if preset == "outcome_only":
        weights["format"] = 1.0
    return weights | {name: function.weight.at(step) for name, function in config.extra.items()}


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
    """Combine the terms into the reward; `content` is `R_cont`, `length` is `R_len`, `weights` those of `term_weights`.

    `R = R_fmt^3 (w_out R_out + tau (w_struct R_struct + w_cont R_cont)) R_len`, 0 if `R_fmt < 0.1`, else at least 0.01.
    `outcome_only` is the plain sum `w_out R_out + R_fmt`, as published, without gate and floor.
    """
    if preset == "outcome_only":
        return weights["outcome"] * outcome + format
    if format < config.format_gate:
        return 0.0
    process = _weighted(weights["tau"] * weights["structure"], structure)
    process += _weighted(weights["tau"] * weights["content"], content)
    if math.isnan(process):
        return math.nan  # explicitly, because max(floor, NaN) is the floor
    factor = length if USES[preset].length else 1.0
    return max(config.floor, format**config.format_power * (weights["outcome"] * outcome + process) * factor)


def _weighted(weight: float, value: float) -> float:
    """Return weight * value, 0 for weight 0: a term that does not count may be NaN."""
    return weight * value if weight else 0.0
