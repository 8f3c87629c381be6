"""Ask a model one question; its thoughts and answer appear while it generates them.

    python scripts/generate.py --model DIR --story "Anna put the coin in the drawer and left. Ben took it away." \\
        --question "Where will Anna look for the coin?" --options "A. the drawer, B. the shelf, C. the box"
    python scripts/generate.py --model runs/mine --step best --file quiz.csv --row 3 --columns '{options: choices}'

`--file` is read as scripts/evaluate.py reads it. Only the row that is asked for need be a question.
"""

import sys
import time
from typing import Literal, Self

from pydantic import Field, model_validator

from socialr1_jax.config.command_line import parse_args
from socialr1_jax.config.evaluation import QuestionFileConfig
from socialr1_jax.config.sections import FreeText, Real, Texts
from socialr1_jax.data.chat_template import response_opening
from socialr1_jax.data.prompts import PromptWriter, encode_prompt
from socialr1_jax.data.question_files import picked_question, typed_question
from socialr1_jax.rewards import parse_response
from socialr1_jax.rewards.parsing import final_answer
from socialr1_jax.rewards.terms import outcome_reward
from socialr1_jax.runtime.startup import prepare
from socialr1_jax.runtime.terminal import counted, print_error, print_result, printable, run_script

_SEGMENT_TOKENS = 8  # text comes in pieces of this size: smooth to read, and the host's look costs little


class GenerateConfig(QuestionFileConfig):
    """Which model, which question, and how to sample."""

    model: str = Field(min_length=1, description="Hugging Face folder or hub id of a Qwen3, or a run's folder")
    step: str = Field("latest", description="of a run's checkpoints: latest, best, or a number of steps")
    story: FreeText = Field("", description="what happened")
    question: FreeText = Field("", description="the question; without it and --file it is read from standard input")
    options: FreeText = Field("", description='"A. drawer, B. shelf"; "" asks for a free answer')
    file: str = Field("", description="take the question from this .jsonl, .json, .csv or .parquet file")
    row: int = Field(1, ge=1, description="which row of the file, from 1; those that `where` leaves out do not count")
    thinking: bool = Field(True, description="false: ask for an answer without thoughts (enable_thinking)")
    max_new_tokens: int = Field(2048, ge=1, description="length limit, lowered to what the model's positions allow")
    temperature: Real = Field(0.7, ge=0, description="0 takes the likeliest token each time")
    top_k: int = Field(0, ge=0, description="draw from the k likeliest tokens only; 0 = all")
    top_p: Real = Field(1.0, gt=0, le=1, description="draw from the smallest set with this probability; 1 = all")
    min_p: Real = Field(0.0, ge=0, lt=1, description="drop tokens below this share of the likeliest; 0 = none")
    seed: int = Field(0, ge=0, lt=2**31, description="of the draws")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of weights and computation")
    ignore_fields: Texts = Field((), description="fields of config.json that are unknown here but harmless: [a, b]")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.file and (self.story or self.question or self.options):
            raise ValueError("file brings its own story, question and options; leave those out, or file")
        for name in ("columns", "where", "first_label"):
            if getattr(self, name) and not self.file:
                raise ValueError(f"{name} is about a question file, and file names none; leave it out, or give file")
        return self


def main(argv: list[str] | None = None) -> int:
    config = parse_args(GenerateConfig, argv, description="Ask a model one question and watch it answer.")
    try:
        answer(config)
    except (OSError, ValueError) as error:
        print_error(f"generate.py: error: {error}")
        return 2
    except KeyboardInterrupt:
        print_error("\nstopped")
        return 130
    return 0


def answer(config: GenerateConfig) -> None:
    if config.file:
        read = config.model_dump(include={"columns", "where", "first_label"})
        example = picked_question(config.file, config.row, **read)
    else:
        question = config.question or ("" if sys.stdin.isatty() else sys.stdin.read())
        if not question.strip():
            raise ValueError("no question: give --question or --file, or write it to standard input")
        example = typed_question(question, config.story, config.options)
    if config.prompt or config.system:
        example = PromptWriter(config.prompt, config.system)(example)

    prepare()
    from socialr1_jax.evaluation.respondents import read_model  # these import JAX: only once the question is there
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
    given, problems = final_answer(response.text), parse_response(response.text).problems
    found = f"answer {printable(given)}" if given else f"no answer ({', '.join(problems)})"
    if config.file:
        found += f", {'right' if outcome_reward(given, example.answer) else f'gold is {printable(example.answer)}'}"
    print_result(
        f"\n\n{found}; {response.finish_reason} after {counted(response.tokens, 'token')}, {speed:.1f} "
        "tokens/s with compilation"
    )


if __name__ == "__main__":
    run_script(main)
