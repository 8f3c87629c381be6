"""Figures of a set: both agents' scores with intervals, and rates of unusable replies and verdicts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from socialr1_jax.evaluation.metrics import mean_metric
from socialr1_jax.evaluation.rows import JsonRow
from socialr1_jax.evaluation.sotopia.episode import Setting
from socialr1_jax.evaluation.sotopia.judging import DIMENSIONS
from socialr1_jax.questions.intervals import around

OVERALL = "overall"
ENDINGS = ("left", "stale", "turn_limit")


class Figure(NamedTuple):
    """A mean over episodes with its standard error and 95 % interval over scenarios.

    n: number of scenarios. episodes: number of judged episodes. The t interval has n - 1 degrees of freedom, since
    episodes of one scenario are correlated; it is NaN for fewer than two scenarios.
    """

    value: float
    stderr: float
    low: float
    high: float
    n: int
    episodes: int


class SetFigures(NamedTuple):
    """Figures of the tested agent and of its partner, by dimension.

    counts: episodes `expected` and `played`; of those played `judged`, `judge_failed` and `not_judged`.
    rates: `parse_failures` and `truncated` over the tested agent's turns, with the prefix `partner_` over the
    partner's; over played episodes `judge_failed` and the endings `left`, `stale`, `turn_limit`. NaN if none is played.
    """

    figures: Mapping[str, Figure]
    partner: Mapping[str, Figure]
    counts: Mapping[str, int]
    rates: Mapping[str, float]


def figures(
    settings: Sequence[Setting], episodes: Mapping[str, JsonRow], verdicts: Mapping[str, JsonRow]
) -> SetFigures:
    """Compute the figures of a set (`episodes_of`) from the rows of episodes and verdicts; other rows are ignored.

    Goal is first, then the other dimensions and `overall`, the unweighted mean of an episode's seven scores.
    """
    played = [(setting, episodes[setting.key]) for setting in settings if setting.key in episodes]
    status = [verdicts[setting.key]["status"] if setting.key in verdicts else "" for setting, _ in played]
    judged = [setting for (setting, _), state in zip(played, status, strict=True) if state == "ok"]
    failed = status.count("judge_failed")
    counts = {"expected": len(settings), "played": len(played), "judged": len(judged), "judge_failed": failed}
    counts["not_judged"] = len(played) - len(judged) - failed
    rates = {}
    for prefix, own in (("", True), ("partner_", False)):
        turns = [turn for setting, row in played for turn in row["turns"] if (turn["agent"] == setting.tested) == own]
        rates[f"{prefix}parse_failures"] = _share(not turn["parsed"] for turn in turns)
        rates[f"{prefix}truncated"] = _share(turn["truncated"] for turn in turns)
    rates["judge_failed"] = _share(state == "judge_failed" for state in status)
    rates |= {ending: _share(row["ended"] == ending for _, row in played) for ending in ENDINGS}
    clusters = [setting.scenario.id for setting in judged]
    scores = [(setting.tested, verdicts[setting.key]["scores"]) for setting in judged]
    of_tested, of_partner = [both[tested] for tested, both in scores], [both[1 - tested] for tested, both in scores]
    return SetFigures(_by_dimension(of_tested, clusters), _by_dimension(of_partner, clusters), counts, rates)


def _by_dimension(scores: Sequence[Mapping[str, int]], clusters: Sequence[str]) -> dict[str, Figure]:
    columns = {name: [float(row[name]) for row in scores] for name in ("goal", *DIMENSIONS)}
    columns[OVERALL] = [math.fsum(row[name] for name in DIMENSIONS) / len(DIMENSIONS) for row in scores]
    means = {name: mean_metric(column, clusters) for name, column in columns.items()}
    return {name: Figure(m.value, m.stderr, *around(*m), m.n, len(scores)) for name, m in means.items()}


def _share(hits: Iterable[bool]) -> float:
    flags = [bool(hit) for hit in hits]
    return sum(flags) / len(flags) if flags else math.nan
