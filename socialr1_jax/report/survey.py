"""Survey rollouts.jsonl in one pass: counts, and the offsets of the rows to show.

The file of a long run has gigabytes, so rows are read one by one and only their offsets are kept.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from socialr1_jax.report import run_files
from socialr1_jax.report.run_files import Row
from socialr1_jax.report.sketches import EvenDraw, LengthMap

# At most 600 responses per run: draws from training and from evaluations, the best and worst of steps, and some of each
# status other than ok, so that rare ones are shown too.
_TRAINING, _EVALUATIONS, _STEPS, _OF_A_STATUS = 220, 120, 30, 50


class Answer(NamedTuple):
    """A response to a held-out question: whether it is right, the number of options, the offset of its row."""

    right: bool
    options: int
    offset: int


@dataclass
class Survey:
    """Result of `survey_rollouts`.

    `before` maps (source, question id, sample) to its answer in the first evaluation (phase eval_sft, or eval at the
    first step of that phase), `after` to the latest one (phase eval_grpo, or eval at a later step). `evaluations` are
    the steps of phase eval in file order.
    """

    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    tokens: LengthMap = field(default_factory=LengthMap)  # of training
    before: dict[tuple[str, str, int], Answer] = field(default_factory=dict)
    after: dict[tuple[str, str, int], Answer] = field(default_factory=dict)
    evaluations: list[int] = field(default_factory=list)
    _training: EvenDraw[int] = field(default_factory=lambda: EvenDraw(_TRAINING))
    _evaluations: EvenDraw[int] = field(default_factory=lambda: EvenDraw(_EVALUATIONS))
    _by_status: dict[str, EvenDraw[int]] = field(
        default_factory=lambda: {status: EvenDraw(_OF_A_STATUS) for status in run_files.STATUSES[1:]}
    )
    _extremes: EvenDraw[tuple[int, int]] = field(default_factory=lambda: EvenDraw(_STEPS))  # offsets of best, worst
    _step: tuple[str, int] | None = None  # the current step, with (reward, offset) of its best and worst response
    _best: tuple[float, int] = (0.0, 0)
    _worst: tuple[float, int] = (0.0, 0)

    def add(self, offset: int, row: Row) -> None:
        phase, step, status = str(row.get("phase")), row["step"], run_files.status_of(row)
        self.rows += 1
        self.statuses[status] += 1
        self._note_extremes(offset, (phase, step), run_files.number(row.get("reward")) or 0.0)
        if status in self._by_status:
            self._by_status[status].offer(offset)
        if phase.startswith("eval"):
            self._evaluations.offer(offset)
            self._note_answer(offset, row, phase)
            return
        self._training.offer(offset)
        tokens = row.get("tokens")
        if isinstance(tokens, int) and tokens >= 0:
            self.tokens.add(step, tokens, status == "truncated")

    def picks(self) -> dict[int, str]:
        """Return {offset: reason} of the rows to show, interleaved so that any prefix is a fair selection."""
        extremes = self._extremes.items()
        draws = [("best of its step", [best for best, _ in extremes])]
        draws += [("worst of its step", [worst for _, worst in extremes])]
        draws += [("drawn for its status", draw.items()) for draw in self._by_status.values()]
        draws += [("drawn", self._evaluations.items()), ("drawn", self._training.items())]
        ranked = sorted(
            (rank / len(offsets), order, offset)
            for order, (_, offsets) in enumerate(draws)
            for rank, offset in enumerate(offsets)
        )
        picks: dict[int, str] = {}
        for _, order, offset in ranked:
            picks.setdefault(offset, draws[order][0])
        return picks

    def chance(self) -> float | None:
        """Return the accuracy of guessing among the options of the held-out questions, or None without options."""
        counts = [answer.options for answer in (self.after or self.before).values() if answer.options]
        return sum(1 / count for count in counts) / len(counts) if counts else None

    def end_step(self) -> None:
        """Offer the best and worst response of the current step, which is complete."""
        if self._step is not None:
            self._extremes.offer((self._best[1], self._worst[1]))

    def _note_extremes(self, offset: int, step: tuple[str, int], reward: float) -> None:
        if step != self._step:
            self.end_step()
            self._step, self._best, self._worst = step, (reward, offset), (reward, offset)
        if reward > self._best[0]:
            self._best = reward, offset
        if reward < self._worst[0]:
            self._worst = reward, offset

    def _note_answer(self, offset: int, row: Row, phase: str) -> None:
        if phase == "eval" and row["step"] not in self.evaluations[-1:]:
            self.evaluations.append(row["step"])
        is_before = phase == "eval_sft" or (phase == "eval" and row["step"] == self.evaluations[0])
        options, sample = row.get("options"), row.get("sample")
        key = str(row.get("source", "")), str(row.get("id")), sample if isinstance(sample, int) else 0
        answer = Answer(run_files.is_right(row), len(options) if isinstance(options, list) else 0, offset)
        (self.before if is_before else self.after)[key] = answer


def survey_rollouts(path: Path, notes: list[str]) -> Survey:
    """Read rollouts.jsonl once; a missing file gives an empty survey."""
    survey = Survey()
    for offset, row in run_files.read_lines(path, notes):
        survey.add(offset, row)
    survey.end_step()
    return survey
