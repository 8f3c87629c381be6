"""Compute the terms of the Social-R1 reward (docs/rewards.md): outcome, content, length window, repetition.

Each is a pure function of plain values; `total.py` combines them.
"""

import math

import numpy as np

from socialr1_jax.config.rewards import RewardConfig
from socialr1_jax.data.examples import normalized
from socialr1_jax.rewards.answers import AnswerMode, answer_letter
from socialr1_jax.runtime.terminal import shown

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: 2^64 over the golden ratio


def is_choice(gold: str) -> bool:
    """Return True if the gold answer is an option letter: a single capital A to Z."""
    return len(gold) == 1 and "A" <= gold <= "Z"


def outcome_reward(answer: str, gold: str, mode: AnswerMode = "plain") -> float:
    """Return `R_out`: 1.0 if the answer is the gold answer, else 0.0.

    A gold answer that is a single capital letter is multiple choice: the one letter that the answer names must equal
    it (`answers.answer_letter`, which knows `mode`). Any other gold answer is free text: both are compared by
    `normalized`. A missing answer ("") scores 0.

    Raises ValueError if the gold answer has no letter or digit to compare.
    """
    gold = gold.strip()
    if is_choice(gold):
        return float(answer_letter(answer, mode) == gold)
    expected = normalized(gold)
    if not expected:
        raise ValueError(f"the gold answer {shown(gold)} holds no letter or digit; give an option letter or a text")
    return float(normalized(answer) == expected)


def content_reward(scalar: float | None, config: RewardConfig) -> float:
    """Return `R_cont = max(0, s + content.shift) ** content.power` of the scalar s; NaN for None or NaN.

    Raises ValueError if the result is not finite. Pass NaN for a missing score.
    """
    try:
        if scalar is None or math.isnan(scalar):
            return math.nan
        content = max(0.0, scalar + config.content.shift) ** config.content.power
    except OverflowError:
        content = math.inf
    if math.isinf(content):
        raise ValueError(
            f"the content score {shown(scalar)} is too large; pass NaN or None for one that could not be had"
        )
    return content


def length_window(characters: int, config: RewardConfig) -> float:
    """Return a factor for the length of the stripped thoughts in characters: near 1 inside the window, 0 outside."""
    low = (characters - config.length_low) / config.length_scale
    high = (config.length_high - characters) / config.length_scale
    return _sigmoid(low) * _sigmoid(high)


def repetition_factor(thoughts: str, config: RewardConfig) -> float:
    """Return `exp(-rate (r - threshold))` for r above the threshold, else 1.

    r is the share of repeated character grams, `(n - unique) / n`; 0 for texts shorter than a gram.
    """
    gram = config.repetition_gram
    count = len(thoughts) - gram + 1
    if count < 1:
        return 1.0
    repeated = (count - _different_grams(thoughts, gram, count)) / count
    if repeated <= config.repetition_threshold:
        return 1.0
    return math.exp(-config.repetition_rate * (repeated - config.repetition_threshold))


def _different_grams(text: str, gram: int, count: int) -> int:
    """Return the number of distinct grams, counted by a 64-bit hash: ten times faster than a set of strings."""
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    hashes = np.zeros(count, np.uint64)
    for i in range(gram):
        hashes = hashes * _MULTIPLIER + characters[i : i + count]
    hashes.sort()
    return 1 + int(np.count_nonzero(hashes[1:] != hashes[:-1]))


def _sigmoid(x: float) -> float:
    small = math.exp(-abs(x))  # underflows to 0 where exp(x) would overflow
    return 1.0 / (1.0 + small) if x >= 0 else small / (1.0 + small)
