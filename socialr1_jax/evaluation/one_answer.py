"""Streaming response to a single question on the console."""

import sys
import time

from socialr1_jax.config.evaluation import GenerateConfig
from socialr1_jax.data.chat_template import response_opening
from socialr1_jax.data.examples import Example
from socialr1_jax.data.prompts import PromptWriter, encode_prompt
from socialr1_jax.data.question_files import picked_question, typed_question
from socialr1_jax.rewards.parsing import final_answer, parse_response
from socialr1_jax.rewards.terms import outcome_reward
from socialr1_jax.runtime.startup import prepare
from socialr1_jax.runtime.terminal import counted, print_error, print_result, printable

_SEGMENT_TOKENS = 8  # printed in pieces of this size: reads smoothly, and the host syncs cost little


def ask_one(config: GenerateConfig) -> None:
    """Print the model's response to one question as it is generated, then the answer and the speed.

    Raises ValueError if there is no question, before JAX is imported.
    """
    try:
        _print_answer(config, _read_question(config))
    except KeyboardInterrupt:
        print_error("\nstopped")
        raise


def _read_question(config: GenerateConfig) -> Example:
    if config.file:
        read = config.model_dump(include={"columns", "where", "first_label"})
        example = picked_question(config.file, config.row, **read)
    else:
        question = config.question or ("" if sys.stdin.isatty() else sys.stdin.read())
        if not question.strip():
            raise ValueError("no question: give --question or --file, or write it to standard input")
        example = typed_question(question, config.story, config.options)
    return PromptWriter(config.prompt, config.system)(example) if config.prompt or config.system else example


def _print_answer(config: GenerateConfig, example: Example) -> None:
    prepare()
    from socialr1_jax.evaluation.respondents import read_model  # imports JAX
    from socialr1_jax.sampling import Engine, SamplingParams
    from socialr1_jax.sampling.streaming import ResponseStream
    from socialr1_jax.sampling.text import stop_token_ids
    from socialr1_jax.weights.tokenizer_files import load_tokenizer

    print_error(f"loading {config.model}")
    model, checkpoint = read_model(config.model, config.step, config.dtype, config.ignore_fields)
    if checkpoint:
        print_error(f"the checkpoint is {checkpoint}")
    tokenizer = load_tokenizer(model.source)
    sampling = SamplingParams(
        **config.model_dump(include={"max_new_tokens", "temperature", "top_k", "top_p", "min_p", "seed"}),
        stop_token_ids=stop_token_ids(model, tokenizer),
    )
    engine = Engine(
        params=model.params,
        config=model.config,
        num_tokens=model.num_tokens,
        dtype=config.dtype,
        segment_tokens=_SEGMENT_TOKENS,
    )
    prompt, opening = encode_prompt(tokenizer, example, config.thinking), response_opening(tokenizer, config.thinking)
    response = ResponseStream(engine, tokenizer, prompt, sampling, opening)
    started = time.monotonic()
    for piece in response:
        print_result(piece, end="")
    speed = response.tokens / (time.monotonic() - started)
    answer, problems = final_answer(response.text), parse_response(response.text).problems
    summary = f"answer {printable(answer)}" if answer else f"no answer ({', '.join(problems)})"
    if config.file:
        summary += f", {'right' if outcome_reward(answer, example.answer) else f'gold is {printable(example.answer)}'}"
    print_result(
        f"\n\n{summary}; {response.finish_reason} after {counted(response.tokens, 'token')}, {speed:.1f} "
        "tokens/s with compilation"
    )
