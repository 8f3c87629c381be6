"""The Bradley-Terry loss of preference pairs, and the metrics of a reward model on held-out pairs.

Shapes: `p` pairs. A pair's difference is the score of the chosen text minus that of the rejected one.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_BINS = 10  # of the calibration error


def bradley_terry(
    chosen_p: Any, rejected_p: Any, margin_p: Any = 0.0, real_p: Any = True, *, centring: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Return (sum, pairs) of -log sigmoid(chosen - rejected - margin) + centring (chosen + rejected)^2.

    The probability of Bradley and Terry (1952), with the margin of Llama 2 (arXiv 2307.09288, section 3.2.2). The loss
    determines scores only up to a constant; `centring` (arXiv 2312.09244, equation 2) pulls their mean to 0. `real_p`
    masks padding. Loss and gradient are finite for any finite scores.
    """
    chosen_p, rejected_p = (jnp.asarray(x, jnp.float32) for x in (chosen_p, rejected_p))
    loss_p = jax.nn.softplus(margin_p - (chosen_p - rejected_p)) + centring * (chosen_p + rejected_p) ** 2
    real_p = jnp.broadcast_to(jnp.asarray(real_p), loss_p.shape)
    return jnp.sum(jnp.where(real_p, loss_p, 0.0)), jnp.sum(real_p).astype(jnp.float32)


def pair_accuracy(difference_p: np.ndarray) -> float:
    """Return the share of pairs whose chosen text scores higher; a tie counts half. NaN without pairs."""
    right_p = (difference_p > 0) + 0.5 * (difference_p == 0)
    return float(right_p.mean()) if right_p.size else float("nan")


def calibration_error(difference_p: np.ndarray) -> float:
    """Return the expected calibration error of sigmoid(difference) as the probability that the chosen text is better.

    The model prefers one text of a pair with probability sigmoid(|difference|), from 1/2 to 1. The error is the mean
    distance between the average probability and the accuracy over ten bins of that probability, weighted by pairs (Guo
    et al., arXiv 1706.04599, equation 3).
    """
    sure_p = 1.0 / (1.0 + np.exp(-np.abs(difference_p)))
    bin_p = np.minimum(((sure_p - 0.5) * 2 * _BINS).astype(int), _BINS - 1)
    masks = [bin_p == i for i in range(_BINS)]
    parts = [
        np.abs(sure_p[mask].mean() - pair_accuracy(difference_p[mask])) * mask.sum() for mask in masks if mask.any()
    ]
    return float(sum(parts) / difference_p.size) if difference_p.size else float("nan")


def length_correlation(scores_n: np.ndarray, lengths_n: np.ndarray) -> float:
    """Return Pearson's correlation of scores with text lengths; NaN if either is constant."""
    if len(scores_n) < 2 or np.ptp(scores_n) == 0 or np.ptp(lengths_n) == 0:
        return float("nan")
    return float(np.corrcoef(scores_n, lengths_n)[0, 1])


def length_matched(lengths_p2: np.ndarray) -> np.ndarray:
    """Return a boolean mask [p] of pairs whose lengths differ by at most a tenth of the longer one."""
    return 10 * np.abs(lengths_p2[:, 0] - lengths_p2[:, 1]) <= lengths_p2.max(axis=1)


def swap_consistency(difference_p: np.ndarray, swapped_p: np.ndarray) -> float:
    """Return the share of pairs whose preferred text stays the same when the two texts swap places.

    `swapped_p` is the rejected text's score minus the chosen one's, scored with the rejected text first.
    """
    return float(np.mean(np.sign(difference_p) == -np.sign(swapped_p)))


def preference_metrics(scores_p2: np.ndarray, lengths_p2: np.ndarray) -> dict[str, float]:
    """Return metrics of scores [p, (chosen, rejected)] and of their dependence on length (characters).

    `longer_wins` is the accuracy of always preferring the longer text, a baseline by length alone.
    """
    difference_p = scores_p2[:, 0] - scores_p2[:, 1]
    matched_p = length_matched(lengths_p2)
    total, count = bradley_terry(scores_p2[:, 0], scores_p2[:, 1])
    accuracy = pair_accuracy(difference_p)
    return {
        "pairs": len(difference_p),
        "loss": float(total / count),
        "accuracy": accuracy,
        "accuracy_stderr": float(np.sqrt(accuracy * (1 - accuracy) / len(difference_p))),
        "margin": float(difference_p.mean()),
        "score_chosen": float(scores_p2[:, 0].mean()),
        "score_rejected": float(scores_p2[:, 1].mean()),
        "calibration_error": calibration_error(difference_p),
        "length_correlation": length_correlation(scores_p2.ravel(), lengths_p2.ravel()),
        "longer_wins": pair_accuracy(lengths_p2[:, 0] - lengths_p2[:, 1]),
        "length_matched_pairs": int(matched_p.sum()),
        "accuracy_length_matched": pair_accuracy(difference_p[matched_p]),
    }
