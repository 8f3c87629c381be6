"""Warns about a run whose responses are nearly never well formed: most rewards are then 0, and little is learned."""

from collections import Counter
from collections.abc import Sequence

from socialr1_jax.data.chat_template import ChatTemplate
from socialr1_jax.rewards.parsing import parse_response

_STEPS, _LEAST = 3, 0.02  # steps in a row, and the format rate below which they count


class FormatWatch:
    """Counts steps in a row with nearly no well-formed response, and says why that may be."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._bad = self._steps = self._quiet_until = 0

    def __call__(self, format_rate: float, truncated: float, paid: float, texts: Sequence[str]) -> str:
        """Return a warning after `_STEPS` bad steps in a row, at most once while the number of steps doubles; else "".

        Args:
            format_rate: share of the step's responses that are well formed.
            truncated: share of them that were cut at `sampling.max_new_tokens`.
            paid: share of them whose reward is not 0.
            texts: some of the step's responses.
        """
        self._steps += 1
        self._bad = self._bad + 1 if format_rate < _LEAST else 0
        if self._bad < _STEPS or self._steps < self._quiet_until:
            return ""
        self._quiet_until = 2 * self._steps
        problems = Counter(problem for text in texts for problem in parse_response(text).problems)
        common = ", ".join(f"{problem} ({count} of {len(texts)})" for problem, count in problems.most_common(3))
        likely = (
            [f"{truncated:.0%} of the responses were cut: raise sampling.max_new_tokens"] if truncated > 0.5 else []
        )
        if self._template.kind == "closes":
            likely.append("the chat template closes empty thoughts in the prompt: take one that leaves thoughts open")
        likely = likely or ["the model does not know the format: take one that follows instructions, or SFT it first"]
        effect = (
            "nearly all rewards are 0 and the run learns nothing"
            if paid < _LEAST
            else f"only terms that do not need the format count ({paid:.0%} of the rewards are not 0)"
        )
        return (
            f"in the last {self._bad} steps {format_rate:.1%} of the responses were well formed, so {effect}. "
            f"What is wrong with them: {common}. Likely causes: {'; '.join(likely)}. "
            "rollouts.jsonl has the responses"
        )
