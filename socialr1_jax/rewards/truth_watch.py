"""Watch whether the reward terms follow the truth on generated stories, where the truth is known."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, Field

from socialr1_jax.data.examples import Example
from socialr1_jax.rewards.parsing import FormatMode, parse_response
from socialr1_jax.rewards.shares import centred
from socialr1_jax.rewards.total import RewardTerms
from socialr1_jax.runtime.terminal import printable
from socialr1_jax.stories.trace_truth import Statement, Story, read_story, read_thoughts, share_of_truth

_TERMS = ("structure", "content")  # user-defined functions are added
_STEPS = 10  # of a window
_ERRORS = 4.0  # standard errors that the difference of two windows must exceed
_LEAST_FALL = 0.05  # of the truth
_EXAMPLES, _QUOTED = 2, 2  # responses of a warning, and false statements of each

_Number = Annotated[float, Field(strict=True)]
_Pair = Annotated[list[_Number], Field(min_length=2, max_length=2)]


class _Seen(BaseModel, extra="forbid"):
    """Windows of steps for one term. A step is [mean of the term, mean of the truth]."""

    first: list[_Pair]  # the first steps
    spread: list[_Pair]  # their standard deviations over the responses
    recent: list[_Pair]  # the last two windows
    best: list[_Pair]  # the window of highest truth before the last window


class _State(BaseModel, extra="forbid"):
    seen: dict[str, _Seen]
    said: list[str]


class _Row(NamedTuple):
    """A well-formed response to a generated story."""

    place: int
    example: Example
    story: Story
    statements: list[Statement]


class TruthWatch:
    """Compare each term with the truth of the thoughts, and warn once if the term rises while the truth falls.

    The truth of a response is `trace_truth.share_of_truth` of its thoughts, 0 to 1. Only well-formed responses to
    examples with a story in `meta["script"]` count; without any, nothing is computed.
    """

    def __init__(self, mode: FormatMode = "strict") -> None:
        self._mode = mode
        self._seen: dict[str, _Seen] = {}
        self._said: set[str] = set()

    def get_state(self) -> dict[str, Any]:
        """Return the state as JSON, for a checkpoint."""
        return _State(seen=self._seen, said=sorted(self._said)).model_dump()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `get_state` returned. Raises ValidationError for anything else."""
        read = _State.model_validate(state)
        self._seen, self._said = read.seen, set(read.said)

    def __call__(
        self, examples: Sequence[Example], terms: Sequence[RewardTerms], texts: Sequence[str]
    ) -> tuple[dict[str, float], list[str]]:
        """Return the metrics of a step and the warnings that are due.

        Metrics: `truth/mean`, and for each term TERM with scores `truth/TERM_correlation` (with the truth, within
        groups; absent if one of the two is constant) and `truth/TERM_gap`: the rise of the term since the first steps
        minus the rise of the truth, each in standard deviations over the responses of those steps.

        Args:
            examples: one per group.
            terms: one per response, ordered by group.
            texts: the responses.
        """
        stories = [read_story(example) for example in examples]
        if not any(stories):
            return {}, []
        rows = self._rows(examples, stories, terms, texts)
        if not rows:
            return {}, []
        truth_b = np.full(len(terms), np.nan)
        for row in rows:
            truth_b[row.place] = share_of_truth(row.statements, row.story)
        metrics, warnings = {"truth/mean": float(np.nanmean(truth_b))}, []
        for name in (*_TERMS, *terms[0].extra):
            term_b = np.array([term.raw()[name] for term in terms])
            both_b = np.isfinite(term_b) & np.isfinite(truth_b)
            if not both_b.any():
                continue
            correlation = _within_groups(term_b, truth_b, both_b, len(terms) // len(examples))
            metrics |= {} if correlation is None else {f"truth/{name}_correlation": correlation}
            seen = self._seen.setdefault(name, _Seen(first=[], spread=[], recent=[], best=[]))
            gap = _add(seen, term_b[both_b], truth_b[both_b])
            metrics |= {} if gap is None else {f"truth/{name}_gap": gap}
            counts = any(term.weights.get(name, 0.0) > 0 for term in terms)
            if counts and name not in self._said and (change := _parting(seen)):
                self._said.add(name)
                by_term = sorted(rows, key=lambda row: (truth_b[row.place], -np.nan_to_num(term_b[row.place])))
                warnings.append(f"{name} {change}. {' '.join(map(_quote, by_term[:_EXAMPLES]))}")
        return metrics, warnings

    def _rows(
        self,
        examples: Sequence[Example],
        stories: Sequence[Story | None],
        terms: Sequence[RewardTerms],
        texts: Sequence[str],
    ) -> list[_Row]:
        group, rows = len(terms) // len(examples), []
        for place, (term, text) in enumerate(zip(terms, texts, strict=True)):
            story = stories[place // group]
            if story is not None and term.format:
                thoughts = parse_response(text, self._mode).thoughts
                rows.append(_Row(place, examples[place // group], story, read_thoughts(thoughts, story)))
        return rows


def _within_groups(term_b: np.ndarray, truth_b: np.ndarray, both_b: np.ndarray, group: int) -> float | None:
    """Return the correlation of the two, both centred within groups; None if one is constant."""
    term_pg, truth_pg = (centred(x_b.reshape(-1, group), both_b.reshape(-1, group)) for x_b in (term_b, truth_b))
    size = np.sqrt((term_pg**2).sum() * (truth_pg**2).sum())
    return float((term_pg * truth_pg).sum() / size) if size > 1e-12 else None


def _add(seen: _Seen, term_b: np.ndarray, truth_b: np.ndarray) -> float | None:
    """Add a step and return its gap, None if one of the two was constant in the first steps."""
    step = [float(term_b.mean()), float(truth_b.mean())]
    if len(seen.first) < _STEPS:
        seen.first.append(step)
        seen.spread.append([float(term_b.std()), float(truth_b.std())])
    seen.recent = [*seen.recent, step][-2 * _STEPS :]
    before, last = seen.recent[:-_STEPS], seen.recent[-_STEPS:]
    if len(before) == _STEPS and (not seen.best or np.mean(before, 0)[1] > np.mean(seen.best, 0)[1]):
        seen.best = before
    spread = np.mean(seen.spread, 0)
    if not spread.all():
        return None
    rise = (np.array(last[-1]) - np.mean(seen.first, 0)) / spread
    return float(rise[0] - rise[1])


def _parting(seen: _Seen) -> str:
    """Describe a rise of the term with a fall of the truth since the window of highest truth; "" if there is none."""
    if not seen.best:
        return ""
    last = np.array(seen.recent[-_STEPS:])
    best = np.array(seen.best)
    change = last.mean(0) - best.mean(0)
    error = np.sqrt((last.var(0, ddof=1) + best.var(0, ddof=1)) / _STEPS)
    if change[0] <= _ERRORS * error[0] or -change[1] <= max(_LEAST_FALL, _ERRORS * error[1]):
        return ""
    (term, truth), (term_now, truth_now) = best.mean(0), last.mean(0)
    return (
        f"has risen from {term:.3g} to {term_now:.3g} while the truth of the thoughts fell from {truth:.2f} to "
        f"{truth_now:.2f} (means of {_STEPS} steps): it pays for something else"
    )


def _quote(row: _Row) -> str:
    """Describe a response by its false statements, or by its number of true ones if none is false."""
    false = [statement.text for statement in row.statements if not statement.true]
    name = printable(row.example.id, 80)
    if not false:
        return f"{name}: {len(row.statements)} true statements, the reference trace has {row.story.size}."
    quoted = ", ".join(f'"{printable(text, 100)}"' for text in false[:_QUOTED])
    return f"{name}: {len(false)} of {len(row.statements)} statements are false, as {quoted}."
