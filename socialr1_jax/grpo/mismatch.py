"""Measure the difference between the sampler's and the trainer's log-probs of the same tokens."""

import numpy as np
import numpy.typing as npt

# Above this, sampler and trainer compute different policies (NeMo-RL warns at 1.02 to 1.05).
RATIO_ERROR_LIMIT = 1.05


def mismatch(trainer_bt: npt.ArrayLike, sampler_bt: npt.ArrayLike, mask_bt: npt.ArrayLike) -> dict[str, float]:
    """Return statistics of |trainer - sampler| and of the importance weights over the masked tokens of arrays [b, t].

    `mean`, `max` and `p99` of the absolute difference; `ratio_error`, the mean of its exp (1 = equal);
    `effective_samples`, (sum w)^2 / (n sum w^2) with w = exp(trainer - sampler): the effective sample size of an
    importance-weighted mean, as a share of the tokens.
    """
    mask_bt = np.asarray(mask_bt, bool)
    difference = np.asarray(trainer_bt, np.float64)[mask_bt] - np.asarray(sampler_bt, np.float64)[mask_bt]
    if difference.size == 0:
        return {"mean": 0.0, "max": 0.0, "p99": 0.0, "ratio_error": 1.0, "effective_samples": 1.0}
    distance = np.abs(difference)
    weights = np.exp(difference - difference.max())  # scaled: only their ratios matter
    return {
        "mean": float(distance.mean()),
        "max": float(distance.max()),
        "p99": float(np.percentile(distance, 99)),
        "ratio_error": float(np.exp(np.minimum(distance, 700)).mean()),  # e^709 overflows
        "effective_samples": float(weights.sum() ** 2 / (weights.size * (weights**2).sum())),
    }
