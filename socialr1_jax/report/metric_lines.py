"""One line for every metric of metrics.jsonl: the report's tooltips and the table of docs/metrics.md.

A name in capitals stands for any text: TERM, TYPE, N. A metric of a run's second and further evaluation set has the
set's name and a slash before its own; it has the line of the metric.
"""

import re
from collections.abc import Iterable

_LONGEST = 200  # characters of a name

# phase -> (title in docs/metrics.md, {name: line})
PHASES: dict[str, tuple[str, dict[str, str]]] = {
    "grpo": (
        "`grpo`: a step of training",
        {
            "reward/total": "mean reward of the step's responses, those left out that could not be scored",
            "reward/shaped": "the same after `grpo.truncated`: what advantages are computed from",
            "reward/format": "share of responses of the right format",
            "reward/outcome": "share of responses with the right answer",
            "reward/structure": "mean score of the thoughts' structure, 0 to 1, before its weight",
            "reward/content": "mean score of the content reward model after shift and power, before its weight",
            "reward/length_window": "mean factor for the length of the thoughts; 1 = inside the window",
            "reward/repetition": "mean factor for repetition; 1 = nothing repeated",
            "reward/NAME": "mean of your own reward function of this name (`rewards.extra`), before its weight",
            "reward/unscorable": "share of responses without a reward: not scored, or not sampled to the end",
            "weight/structure": "weight of the structure term at this step",
            "weight/content": "weight of the content term at this step",
            "weight/NAME": "weight of your own reward function at this step; 0 if it is gated and no response had the "
            "right format",
            "variance_share/TERM": "share of the reward's variance within groups that a term explains; the shares add "
            "up to 1; below 0 for a term that works against the others, 0 for one that does not vary",
            "variance_share/length_and_format": "share that length, repetition and format have by multiplying terms "
            "that do not vary",
            "accuracy": "share of responses with the right answer",
            "format_rate": "share of responses of the right format",
            "response_tokens": "mean tokens of a response",
            "truncated": "share of responses cut at `sampling.max_new_tokens`",
            "sampling_errors": "responses that ended since the model's logits were not finite",
            "zero_variance_groups": "groups whose rewards are all equal: they give no gradient",
            "replaced_groups": "groups without variance that other questions took the place of",
            "dropped_prompts": "prompts left out so far: longer than `data.max_prompt_tokens`, or bad rows met late; a "
            "question counts once an epoch",
            "source/SOURCE/TERM": "mean of a raw reward term over the questions of one source, with several sources",
            "truth/mean": "generated stories: mean share of true statements in the thoughts of well-formed responses",
            "truth/TERM_correlation": "correlation of a term with that truth within groups",
            "truth/TERM_gap": "how much further a term has risen than the truth since the first steps, in standard "
            "deviations: growth means that it pays for something else",
            "judge/waited_seconds": "seconds that the step waited for the judge after its last response",
            "judge/calls": "requests to the judge (retries included), or responses that a local judge read",
            "judge/retries": "requests that repeated a failed one",
            "judge/latency": "mean seconds from a request to its reply",
            "judge/seconds": "seconds that a local judge computed",
            "judge/tokens_in": "tokens sent to the judge",
            "judge/tokens_out": "tokens that the judge wrote",
            "judge/cache_hits": "verdicts taken from `rewards.structure.cache`",
            "judge/cost": "cost of the judge's tokens at `price_input` and `price_output`",
            "judge/failed/CAUSE": "responses without a verdict, by cause",
            "unscorable/CAUSE": "responses without a reward, by cause",
            "loss": "loss of the step, its KL and entropy terms included; mean over its updates",
            "grad_norm": "norm of the gradient before it is clipped to `optimizer.max_grad_norm`; mean over updates",
            "tokens": "response tokens in the loss; mean over updates",
            "kl": "estimated KL divergence from the starting weights, nats a token",
            "entropy": "entropy of the policy, nats a token",
            "clip_fraction": "share of tokens whose ratio was clipped",
            "ratio_max": "largest ratio of a token's probability after to before the step's updates",
            "ratio_min": "smallest such ratio",
            "skipped": "updates left out because loss or gradient was not finite",
            "nonfinite_count": "log-probs that were not finite",
            "learning_rate": "learning rate of the step's last update",
            "mismatch/mean": "mean difference of a token's log-prob between sampler and trainer",
            "mismatch/max": "largest such difference",
            "mismatch/p99": "99th percentile of the differences",
            "mismatch/ratio_error": "mean factor between both probabilities; 1 = equal, a warning above 1.05",
            "mismatch/effective_samples": "share of the tokens that an importance-weighted mean would be made of",
            "padding_waste": "share of the trained micro-batches' tokens that is padding",
            "shared_prompt_tokens": "share of the trained tokens that need no computing since a prompt is shared",
            "tokens_per_second": "sampled tokens by the seconds of the whole step",
            "update_tflops": "TFLOP/s that the model needs in the updates, over all devices",
            "mfu": "the same as a share of the chips' peak, where that is known",
            "seconds": "wall seconds of the step",
            "seconds/rollout": "of them sampling (a judge works at the same time)",
            "seconds/reward": "of them waiting for scores, and packing",
            "seconds/old": "of them log-probs of the policy that sampled",
            "seconds/reference": "of them log-probs of the starting weights",
            "seconds/update": "of them forward, backward and optimizer",
            "seconds/between": "wall seconds before the step, since the last one: logging, waiting for a save",
            "memory_peak_bytes": "most memory in use so far, of the first device or (on a CPU) of the process",
            "compiled_programs": "programs compiled so far",
        },
    ),
    "eval": (
        "`eval`: an evaluation on held-out questions (of step 0, before training, too)",
        {
            "accuracy": "share of right answers, the mean over questions",
            "accuracy_stderr": "its standard error over questions: responses to one question hang together",
            "accuracy_low": "lower end of its 95 % interval",
            "accuracy_high": "upper end of its 95 % interval",
            "accuracy/TYPE": "accuracy on the questions of one type",
            "pair_accuracy": "probability that all twins of a group are answered right, the mean over groups",
            "pair_accuracy_stderr": "its standard error over groups",
            "pair_accuracy_low": "lower end of its 95 % interval",
            "pair_accuracy_high": "upper end of its 95 % interval",
            "mean@N": "accuracy of N responses a question",
            "maj@N": "share of questions whose most frequent answer of N is right",
            "chance": "accuracy of guessing among the options",
            "best_rule": "the rule without a model of minds that does best on these questions",
            "best_rule_accuracy": "its accuracy",
            "best_rule_pair_accuracy": "highest pair accuracy of any such rule",
            "best_rule_accuracy/TYPE": "highest accuracy of any such rule on the questions of one type",
            "format_rate": "share of responses of the right format",
            "reward": "mean reward with the weights of step 0, so that evaluations compare",
            "unscorable": "share of responses without a reward",
            "response_tokens": "mean tokens of a response",
            "truncated": "share of responses cut at `sampling.max_new_tokens`",
            "sampling_errors": "responses that ended since the model's logits were not finite",
            "responses": "responses of the evaluation: questions x `evaluation.samples`",
            "judge/NAME": "the judge's numbers in this evaluation, as in `grpo`",
            "unscorable/CAUSE": "responses without a reward, by cause",
            "seconds": "wall seconds of the evaluation, all sets together",
            "pairs": "reward model: held-out pairs",
            "loss": "reward model: mean Bradley-Terry loss",
            "margin": "reward model: mean score of the chosen text less that of the rejected one",
            "score_chosen": "reward model: mean score of the chosen texts",
            "score_rejected": "reward model: mean score of the rejected texts",
            "calibration_error": "reward model: mean distance of its certainty from the share that is right",
            "length_correlation": "reward model: correlation of a text's score with its length",
            "longer_wins": "reward model: accuracy of always taking the longer text",
            "length_matched_pairs": "reward model: pairs whose lengths differ by at most a tenth",
            "accuracy_length_matched": "reward model: accuracy on those",
            "swap_consistency": "reward model: share of pairs with the same winner when scored in the other order",
        },
    ),
    "sft": (
        "`sft`: an update of supervised fine-tuning (quickstart)",
        {
            "loss": "mean negative log-prob of a reference response's token, nats",
            "grad_norm": "norm of the gradient before it is clipped",
            "tokens": "response tokens of the update",
            "skipped": "1 if the update was left out because loss or gradient was not finite",
            "learning_rate": "learning rate of the update",
        },
    ),
    "reward_model": (
        "`reward_model`: an update of the content reward model",
        {
            "loss": "mean Bradley-Terry loss of the update's pairs",
            "grad_norm": "norm of the gradient before it is clipped",
            "tokens": "tokens of the update, padding left out",
            "skipped": "1 if the update was left out because loss or gradient was not finite",
            "accuracy": "share of pairs with the chosen text ahead; a tie is half of one",
            "margin": "mean score of the chosen text less that of the rejected one",
            "score": "mean score of all texts",
            "learning_rate": "learning rate of the update",
            "tokens_per_second": "trained tokens a second",
            "seconds": "wall seconds of the update",
        },
    ),
}


def metric_line(phase: str, name: str) -> str:
    """Returns the line of a metric, "" for one that is not in the table.

    Args:
        name: as `files.flattened` gives it, such as accuracy/belief.
    """
    if phase not in PHASES or len(name) > _LONGEST:
        return ""
    lines, rest = PHASES[phase][1], name
    while rest:
        if rest in lines:
            return lines[rest]
        for known, line in lines.items():
            if known != known.lower() and re.fullmatch(re.sub("[A-Z]+", ".+", known), rest):
                return line
        rest = rest.partition("/")[2] if phase == "eval" else ""
    return ""


def meanings(names: Iterable[tuple[str, str]]) -> dict[str, dict[str, str]]:
    """Returns {phase: {name: line}} of the (phase, name) pairs that have a line."""
    found: dict[str, dict[str, str]] = {}
    for phase, name in names:
        if line := metric_line(phase, name):
            found.setdefault(phase, {})[name] = line
    return found
