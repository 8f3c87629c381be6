"""Sampled accuracy on questions with gold answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from socialr1_jax.data.examples import Example
from socialr1_jax.data.prompts import PromptSet
from socialr1_jax.rewards import RewardTerms, Scorer
from socialr1_jax.sampling import Completion, Engine, SamplingParams
from socialr1_jax.sampling.text import decode_responses

# Evaluations draw with a step number that training never reaches: the same numbers each time, so that two
# evaluations differ by their weights alone.
_EVALUATION_STEP = 2**31 - 1


def sample_and_submit(
    engine: Engine, questions: PromptSet, chosen: Sequence[int], sampling: SamplingParams, tokenizer: Any,
    scorer: Scorer, step: int,
) -> tuple[list[Completion], list[str]]:  # fmt: skip
    """Responses to the chosen questions and their texts, those of a question one after another.

    Each goes to the scorer as soon as it has ended, so that a judge works while others are still sampled.
    """
    found: dict[int, tuple[Completion, str]] = {}
    prompts = [questions.prompts[i] for i in chosen]
    for at, sample, completion in engine.completions(prompts, sampling, step=step, prompt_ids=chosen):
        place = at * sampling.n + sample
        (text,) = decode_responses(tokenizer, [completion])
        scorer.submit(place, text, questions.examples[chosen[at]])
        found[place] = completion, text
    return [found[i][0] for i in range(len(found))], [found[i][1] for i in range(len(found))]


def evaluate_questions(
    engine: Engine, questions: PromptSet, sampling: SamplingParams, tokenizer: Any, scorer: Scorer
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """`sampling.n` responses a question -> (metrics, one record a response).

    Metrics: accuracy and its standard error (over questions, since responses to one question hang together),
    format_rate, reward (with the curriculum's weights of step 0, so that evaluations compare; of the responses that
    could be scored), unscorable, response_tokens, truncated (shares), sampling_errors and responses (numbers).
    """
    count, n = len(questions.prompts), sampling.n
    completions, texts = sample_and_submit(
        engine, questions, range(count), sampling, tokenizer, scorer, step=_EVALUATION_STEP
    )
    records = [
        response_record(questions.examples[i // n], i % n, text, completion.finish_reason, terms)
        for i, (text, completion, terms) in enumerate(zip(texts, completions, scorer.results(0), strict=True))
    ]
    rewards = np.array([record["reward"] for record in records])
    lengths = [len(completion.tokens) for completion in completions]
    by_question = np.array([r["terms"]["outcome"] for r in records]).reshape(count, n).mean(axis=1)
    metrics = {
        "accuracy": float(by_question.mean()),
        "accuracy_stderr": float(by_question.std(ddof=1) / count**0.5) if count > 1 else 0.0,
        "format_rate": float(np.mean([r["terms"]["format"] for r in records])),
        "reward": float("nan") if np.isnan(rewards).all() else float(np.nanmean(rewards)),
        "unscorable": float(np.isnan(rewards).mean()),
        "response_tokens": float(np.mean(lengths)),
        "truncated": float(np.mean([r["finish_reason"] == "length" for r in records])),
        "sampling_errors": float(np.sum([r["finish_reason"] == "error" for r in records])),
        "responses": len(records),
    }
    return metrics, records


def response_record(example: Example, sample: int, text: str, finish_reason: str, terms: RewardTerms) -> dict[str, Any]:
    """One response as a line of rollouts.jsonl (phase and step are added by the caller)."""
    record = {
        "id": example.id,
        "sample": sample,
        "story": example.story,
        "question": example.question,
        "options": list(example.options),
        "answer": example.answer,
        "response": text,
        "finish_reason": finish_reason,
        "reward": terms.total,
        "terms": terms.raw(),
    }
    return record | ({"unscorable": terms.cause} if terms.cause else {})
