"""Figures that were published, to stand beside ours. What they can be compared with: docs/evaluation.md."""

from __future__ import annotations

from collections.abc import Mapping

# arXiv 2603.09249v1 as summaries of it give them, fractions; the sources differ in worth (docs/evaluation.md).
COLUMNS = ("Qwen3-4B", "Qwen3-8B", "SocialR1-4B", "SocialR1-8B")
PUBLISHED: Mapping[str, tuple[float | None, float | None, float | None, float | None]] = {
    "tombench": (None, 0.6179, None, 0.6881),
    "tombench_hard": (0.3403, None, 0.4846, 0.6279),
    "socialiqa": (None, None, None, 0.7774),
    "simpletom": (None, None, None, 0.9675),
    "emobench": (None, None, None, 0.7010),
    "motivebench": (None, None, None, 0.8889),
    "hitom": (None, None, None, 0.7083),
    "tactfultom": (None, None, None, 0.5079),
}
NOTE = (
    "Published figures are plain accuracies with the cards' prompt (our protocol social_r1) as summaries of arXiv "
    "2603.09249v1 give them; prompts, thinking, temperature and the questions counted are not known for all of them. "
    "FANToM's and SOTOPIA's figures of the paper were not found."
)
