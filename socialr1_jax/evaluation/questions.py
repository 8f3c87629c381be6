"""Sampled accuracy on questions with gold answers."""

from typing import Any

import numpy as np

from socialr1_jax.config import RewardConfig
from socialr1_jax.data.prompts import PromptSet
from socialr1_jax.rewards import score_response
from socialr1_jax.sampling import Engine, SamplingParams
from socialr1_jax.sampling.text import decode_responses

# Evaluations draw with a step number that training never reaches: the same numbers each time, so that two
# evaluations differ by their weights alone.
_EVALUATION_STEP = 2**31 - 1


def evaluate_questions(
    engine: Engine, questions: PromptSet, sampling: SamplingParams, tokenizer: Any, reward: RewardConfig
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """`sampling.n` responses a question -> (metrics, one record a response).

    Metrics: accuracy and its standard error (over questions, since responses to one question hang together),
    format_rate, reward (with the curriculum's weights of step 0, so that evaluations compare), response_tokens,
    truncated (shares), sampling_errors and responses (numbers).
    """
    groups = engine.sample(questions.prompts, sampling, step=_EVALUATION_STEP)
    records = []
    for example, group in zip(questions.examples, groups, strict=True):
        texts = decode_responses(tokenizer, group)
        for sample, (text, completion) in enumerate(zip(texts, group, strict=True)):
            terms = score_response(text, example.answer, step=0, config=reward)
            record = response_record(example, sample, text, completion.finish_reason, terms)
            records.append(record | {"tokens": len(completion.tokens)})
    by_question = np.array([r["terms"]["outcome"] for r in records]).reshape(len(groups), sampling.n).mean(axis=1)
    metrics = {
        "accuracy": float(by_question.mean()),
        "accuracy_stderr": float(by_question.std(ddof=1) / len(groups) ** 0.5) if len(groups) > 1 else 0.0,
        "format_rate": float(np.mean([r["terms"]["format"] for r in records])),
        "reward": float(np.nanmean([r["reward"] for r in records])),
        "response_tokens": float(np.mean([r.pop("tokens") for r in records])),
        "truncated": float(np.mean([r["finish_reason"] == "length" for r in records])),
        "sampling_errors": float(np.sum([r["finish_reason"] == "error" for r in records])),
        "responses": len(records),
    }
    return metrics, records


def response_record(example: Any, sample: int, text: str, finish_reason: str, terms: Any) -> dict[str, Any]:
    """One response as a line of rollouts.jsonl (phase and step are added by the caller)."""
    return {
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
