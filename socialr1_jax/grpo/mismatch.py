"""Distance between the log-probs of the sampler and those of the trainer for the same tokens."""

import numpy as np
import numpy.typing as npt

# Above this the two programs compute different policies (NeMo-RL alarms at 1.02 to 1.05).
RATIO_ERROR_LIMIT = 1.05


def mismatch(trainer_bt: npt.ArrayLike, sampler_bt: npt.ArrayLike, mask_bt: npt.ArrayLike) -> dict[str, float]:
    """Over the tokens of the mask, of arrays [b, t]: statistics of |trainer - sampler| and of the importance weights.

    `mean`, `max`, `p99` of the absolute difference; `ratio_error`, the mean of exp of it (1 = equal);
    `effective_samples`, (sum w)^2 / (n sum w^2) of w = exp(trainer - sampler): the share of the tokens that an
    importance-weighted mean would still be made of.
    """
    mask_bt = np.asarray(mask_bt, bool)
    difference = np.asarray(trainer_bt, np.float64)[mask_bt] - np.asarray(sampler_bt, np.float64)[mask_bt]
    if difference.size == 0:
        return {"mean": 0.0, "max": 0.0, "p99": 0.0, "ratio_error": 1.0, "effective_samples": 1.0}
    distance, weights = np.abs(difference), np.exp(difference - difference.max())  # scaled: their ratios count
    return {
        "mean": float(distance.mean()),
        "max": float(distance.max()),
        "p99": float(np.percentile(distance, 99)),
        "ratio_error": float(np.exp(np.minimum(distance, 700)).mean()),  # e^709 overflows
        "effective_samples": float(weights.sum() ** 2 / (weights.size * (weights**2).sum())),
    }
