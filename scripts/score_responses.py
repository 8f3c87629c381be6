"""Score responses with the Social-R1 reward, offline.

    python scripts/score_responses.py --input I.jsonl --output O.jsonl --preset no_content --judge rules
    python scripts/score_responses.py --input I.jsonl --output O.jsonl --preset full --content-model DIR \\
        --judge endpoint --judge-base-url http://localhost:8000/v1 --judge-model NAME

Each row of the input holds story, question, options, answer and response; the output adds reward, status and terms.
Rows with `type` or `twin_id`, such as those of generated stories, also get accuracy by type and pair accuracy printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from socialr1_jax.config.command_line import parse_args
from socialr1_jax.rewards.extra import load_extras
from socialr1_jax.rewards.scorer import ContentScores
from socialr1_jax.rewards.scoring import ScoreConfig, score_file
from socialr1_jax.runtime.terminal import counted, print_error, print_line, printable, run_script

_MOST_TYPES = 20  # on the console


def main(argv: list[str] | None = None) -> int:
    config = parse_args(
        ScoreConfig,
        argv,
        description="Score the responses of a JSONL file with the Social-R1 reward.",
        check=lambda config: print_line(f"own functions: {', '.join(load_extras(config.rewards)) or 'none'}"),
    )
    from socialr1_jax.rewards.verdict import JudgeRefused

    try:
        summary = score_file(config, _content_model(config))
    except (ValueError, ImportError, JudgeRefused) as error:
        print_error(f"score_responses.py: error: {error}")
        return 2
    except OSError as error:
        print_error(f"score_responses.py: error: {error.filename}: {error.strerror}")
        return 2
    print_line(
        f"{config.output}: {counted(summary.responses, 'response')}, mean reward {summary.mean_reward:.4f}, "
        f"format rate {summary.format_rate:.4f}, accuracy {summary.accuracy:.4f}, unscorable {summary.unscorable}"
    )
    if summary.stories:
        print_line(f"{config.output}: {stories_line(summary.stories)}")
    if summary.opened:
        print_error(
            f"{config.input}: no response has <think>, so the prompts opened the thoughts and it was put in front of "
            "each; --opened no scores them as they stand"
        )
    if summary.unscorable:
        causes = ", ".join(f"{cause} {count}" for cause, count in sorted(summary.causes.items()))
        print_error(f"score_responses.py: {summary.unscorable} rewards are null: {causes}")
    if "content" in summary.causes and not config.rewards.content.model:
        print_error(
            f"score_responses.py: preset {config.rewards.preset} needs a content score: give --content-model DIR or a "
            "'content' number in the rows, or use --preset no_content"
        )
    return int(summary.judge_failed)  # no figure comes from a judge that never answered


def stories_line(figures: Mapping[str, Any]) -> str:
    """Return pair accuracy, accuracy by type, chance and the best rule as words."""
    parts = []
    if "pair_accuracy" in figures:
        parts.append(f"pair accuracy {figures['pair_accuracy']:.4f}")
    if by_type := figures.get("accuracy_by_type"):
        shown = [f"{printable(name, 40)} {value:.4f}" for name, value in by_type.items()]
        more = f" and {counted(len(shown) - _MOST_TYPES, 'further type')}" if len(shown) > _MOST_TYPES else ""
        parts.append(f"accuracy {', '.join(shown[:_MOST_TYPES])}{more}")
    if "chance" in figures:
        parts.append(f"chance {figures['chance']:.4f}")
    if "best_rule" in figures:
        pairs = figures.get("best_rule_pair_accuracy")
        beside = "" if pairs is None else f" (of pairs {pairs:.4f})"
        parts.append(f"best rule {figures['best_rule']} {figures['best_rule_accuracy']:.4f}{beside}")
    return "; ".join(parts)


def _content_model(config: ScoreConfig) -> ContentScores | None:
    if not (config.rewards.uses.content and config.rewards.content.model):
        return None
    import jax  # only where a model runs

    from socialr1_jax.rewards.content_model import load_content_model
    from socialr1_jax.runtime.mesh import make_mesh

    mesh = make_mesh()
    jax.set_mesh(mesh)
    return load_content_model(config.rewards.content, mesh, "float32", "xla")


if __name__ == "__main__":
    run_script(main)
