"""Measure sampled accuracy on questions with gold answers."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from socialr1_jax.config.rewards import RewardConfig
from socialr1_jax.data.examples import Example, normalized
from socialr1_jax.data.prompts import Prompt
from socialr1_jax.questions.accuracy import accuracy_figures
from socialr1_jax.questions.intervals import share_figures
from socialr1_jax.rewards import RewardTerms, Scorer
from socialr1_jax.rewards.answers import answer_letter
from socialr1_jax.rewards.parsing import given_answer
from socialr1_jax.rewards.terms import is_choice, outcome_reward
from socialr1_jax.runtime.mesh import mesh_of
from socialr1_jax.sampling import Completion, Engine, SamplingParams
from socialr1_jax.sampling.text import decode_responses

# A step number that training never reaches: every evaluation draws the same random numbers, so two evaluations differ
# only by their weights.
_EVALUATION_STEP = 2**31 - 1


def sample_and_submit(
    engine: Engine, prompts: Sequence[Prompt], sampling: SamplingParams, tokenizer: Any, scorer: Scorer, step: int
) -> tuple[list[Completion], list[str]]:
    """Sample `sampling.n` responses per prompt and return completions and texts, grouped by prompt.

    Each response is submitted to the scorer when it is complete, so the judge works while others are being sampled. The
    mesh is that of the engine's weights.
    """
    responses: dict[int, tuple[Completion, str]] = {}
    tokens, ids = [prompt.tokens for prompt in prompts], [prompt.id for prompt in prompts]
    with jax.set_mesh(mesh_of(engine.params)):
        for at, sample, completion in engine.completions(tokens, sampling, step=step, prompt_ids=ids):
            place = at * sampling.n + sample
            (text,) = decode_responses(tokenizer, [completion])
            scorer.submit(place, text, prompts[at].example)
            responses[place] = completion, text
    ordered = [responses[i] for i in range(len(responses))]
    return [completion for completion, _ in ordered], [text for _, text in ordered]


def evaluate_questions(
    engine: Engine, prompts: Sequence[Prompt], sampling: SamplingParams, tokenizer: Any, scorer: Scorer
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Sample k = `sampling.n` responses per question and return (metrics, one record per response).

    Metrics:
    - accuracy (mean@k), its standard error (over questions, since responses to one question are correlated) and 95 %
      interval; pair accuracy and accuracy by type (`accuracy_figures`); for k > 1 maj@k (ties go to the first answer);
    - reward, the mean over scorable responses with the weights of step 0, so that evaluations are comparable;
    - format_rate, unscorable and truncated (shares), response_tokens (mean), sampling_errors and responses (counts).
    """
    count, n = len(prompts), sampling.n
    completions, texts = sample_and_submit(engine, prompts, sampling, tokenizer, scorer, step=_EVALUATION_STEP)
    records = [
        response_record(prompts[i // n].example, i % n, text, completion, terms)
        for i, (text, completion, terms) in enumerate(zip(texts, completions, scorer.results(0), strict=True))
    ]
    rewards = np.array([record["reward"] for record in records])
    right_qk = np.array([record["terms"]["outcome"] for record in records]).reshape(count, n)
    by_question = right_qk.mean(axis=1)
    accuracy = float(by_question.mean())
    metrics = {
        **share_figures("accuracy", by_question, len(records)),
        **accuracy_figures([prompt.example for prompt in prompts], by_question.tolist()),
        **({f"mean@{n}": accuracy, f"maj@{n}": _majority(prompts, texts, n, scorer.config)} if n > 1 else {}),
        "format_rate": float(np.mean([r["terms"]["format"] for r in records])),
        "reward": float("nan") if np.isnan(rewards).all() else float(np.nanmean(rewards)),
        "unscorable": float(np.isnan(rewards).mean()),
        "response_tokens": float(np.mean([r["tokens"] for r in records])),
        "truncated": float(np.mean([r["finish_reason"] == "length" for r in records])),
        "sampling_errors": float(np.sum([r["finish_reason"] == "error" for r in records])),
        "responses": len(records),
    }
    return metrics, records


def response_record(
    example: Example, sample: int, text: str, completion: Completion, terms: RewardTerms
) -> dict[str, Any]:
    """Return a response as a record of rollouts.jsonl; the caller adds phase and step.

    `status` is the first that applies: error (of sampling), unscorable, truncated, malformed, ok.
    """
    faults = {
        "error": completion.finish_reason == "error",
        "unscorable": terms.cause,
        "truncated": completion.finish_reason == "length",
        "malformed": not terms.format,
    }
    record = {
        "id": example.id,
        "source": example.meta.get("source", ""),
        **{name: example.meta[name] for name in ("type", "twin_id") if name in example.meta},
        "sample": sample,
        "status": next((name for name, applies in faults.items() if applies), "ok"),
        "story": example.story,
        "question": example.question,
        "options": list(example.options),
        "answer": example.answer,
        "response": text,
        "tokens": len(completion.tokens),
        "finish_reason": completion.finish_reason,
        "reward": terms.total,
        "terms": terms.raw(),
    }
    return record | ({"unscorable": terms.cause} if terms.cause else {})


def _majority(prompts: Sequence[Prompt], texts: Sequence[str], n: int, config: RewardConfig) -> float:
    """Return the share of questions whose most frequent answer is right; a missing answer counts as an answer."""
    right = 0.0
    for i, prompt in enumerate(prompts):
        gold, mode = prompt.example.answer, config.answer_mode
        answers = [given_answer(text, config.format_mode) for text in texts[i * n : (i + 1) * n]]
        read = [answer_letter(answer, mode) if is_choice(gold) else normalized(answer) for answer in answers]
        winner = Counter(read).most_common(1)[0][0]
        right += outcome_reward(answers[read.index(winner)], gold, mode)
    return right / len(prompts)
