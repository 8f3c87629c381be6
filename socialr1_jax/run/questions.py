"""Read and check the questions of a run: those to train on, to hold out and to evaluate on."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.data.bad_rows import write_bad_rows
from socialr1_jax.data.evaluation_sets import refuse_evaluation_sets
from socialr1_jax.data.examples import LETTERS, Example
from socialr1_jax.data.prompts import Prompt, PromptWriter, encode_prompts, question_text, reference_response
from socialr1_jax.data.tables import DataError
from socialr1_jax.data.twins import whole_groups
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.models.shapes import named_shape
from socialr1_jax.questions.audit import SHORTCUTS, audit_examples, shortcut_sample
from socialr1_jax.questions.pipeline import QuestionStream
from socialr1_jax.questions.prompt_lengths import refuse_long_prompts
from socialr1_jax.questions.sources import Questions, open_questions, source_names
from socialr1_jax.rewards.extra import load_extras
from socialr1_jax.run.console import shown_log
from socialr1_jax.run.epochs import in_steps
from socialr1_jax.runtime.files import read_json, write_json
from socialr1_jax.runtime.terminal import counted, print_line
from socialr1_jax.weights.hub import cached_folder
from socialr1_jax.weights.tokenizer_files import load_tokenizer

HELD_OUT = "heldout"
_READ = 1000  # questions to train a tokenizer on
_LOOKED_AT = 1000  # questions checked for missing options
_MOST_COMPARED = 100_000  # questions of training and of each set, in the check for shared questions
log = logging.getLogger(__name__)


def list_bad_rows(config: RunConfig, train: Questions, sets: Mapping[str, Questions]) -> None:
    """Write the rows that were dropped to `output_dir`/bad_rows.jsonl, if there are any."""
    from socialr1_jax.runtime.processes import is_first  # imports JAX, which a dry run does without

    # Questions held out of `train` share its list of bad rows.
    bad = [row for part in (train, *(sets.values() if config.data.eval else ())) for row in part.bad_rows]
    if bad and is_first():
        write_bad_rows(file := Path(config.output_dir) / "bad_rows.jsonl", bad)
        log.warning("%s lists %s that %s left out", file, counted(len(bad), "row"), "is" if len(bad) == 1 else "are")


def understood(questions: Questions, sets: Mapping[str, Questions], asked: int) -> list[str]:
    """Return lines about the questions to train and to evaluate on: numbers, kinds, columns that are read or ignored.

    `asked` is `evaluation.questions`.
    """
    lines = []
    for name, part in (("training", questions), *sets.items()):
        kinds = [
            f"{count:,} {f'with {options} options' if options else 'of free text'}"
            for options, count in sorted(part.option_counts().items(), reverse=True)
        ]
        lines.append(f"{name}: {counted(len(part), 'question')}" + (f", {', '.join(kinds)}" if kinds else ""))
        if name in sets and asked < len(part):
            lines[-1] += f"; {asked:,} of them are asked (evaluation.questions)"
    lines += dict.fromkeys(reading for part in (questions, *sets.values()) for reading in part.readings)
    first = list(islice(questions, _LOOKED_AT))
    free = [example.answer for example in first if not example.options]
    if len(free) > 1 and all(len(answer) == 1 for answer in free):
        lines.append(
            "the answers are single letters or digits, but there are no options: if they choose among columns, name "
            "these in data.columns.options, such as data.columns.options='A, B, C, D'"
        )
    turns = [question_text(example) for example in first if example.messages]
    if turns and not any("<answer>" in text.casefold() for text in turns):
        lines.append(
            "no prompt asks for <think> and <Answer>, which the format reward wants: ask for them in the turns or in "
            "data.system, or put {{ instruction }} into data.prompt"
        )
    return lines


def cold_start_questions(config: RunConfig, questions: Questions) -> Questions:
    """Return the questions with reference thoughts, for `config.cold_start`, in their order.

    Logs their number if some questions have none. Raises ConfigError if no question has any.
    """
    places = [i for i in range(len(questions)) if (example := questions.get(i)) and example.thoughts.strip()]
    if not places:
        raise ConfigError(
            f"cold_start learns from the reference thoughts, and no question of {', '.join(config.data.train)} has "
            "any: name their column in data.columns.thoughts, set cold_start=0, or train from a model that knows the "
            "format (docs/tutorial.md)"
        )
    if len(places) == len(questions):
        return questions
    log.warning("cold_start learns from %d of %d questions: the others have no thoughts", len(places), len(questions))
    return questions.take(places)


def first_prompt(questions: Questions, tokenizer: Any) -> list[str]:
    """Return lines with the first question's prompt exactly as the model sees it, and its gold answer."""
    example = next(iter(questions))
    text = tokenizer.decode(encode_prompts(tokenizer, [example], 2**31)[0].tokens)
    gold = f"{example.answer}. {example.options[LETTERS.index(example.answer)]}" if example.options else example.answer
    return [f"the prompt of {example.id}, as the model sees it:", *text.splitlines(), f"gold: {gold}"]


def made_tokenizer(config: RunConfig, questions: Iterable[Example]) -> Any:
    """Return a tokenizer trained on the first 1,000 questions, for a random model without `model.path`."""
    from socialr1_jax.data.tokenizer import build_tokenizer  # imports transformers

    texts = [f"{question_text(example)}\n{reference_response(example)}" for example in islice(questions, _READ)]
    return build_tokenizer(texts, named_shape(config.model.random).vocab_size)


def write_shortcuts(questions: Questions, folder: Path) -> None:
    """Write the accuracy of shortcut rules on a sample of the questions to shortcuts.json, for the report."""
    from socialr1_jax.runtime.processes import is_first  # imports JAX, which a dry run does without

    if is_first():
        write_json(folder / SHORTCUTS, audit_examples(shortcut_sample(questions), learned=False))


def read_run_questions(config: RunConfig) -> tuple[Questions, dict[str, Questions]]:
    """Read and check every row; return the questions to train on and, by name, the sets to evaluate on.

    Raises DataError for an invalid row (unless `data.allow_bad_rows`) and for a file whose authors forbid training on
    it. Raises ConfigError if `data.holdout` leaves nothing to train on.
    """
    data = config.data
    refuse_evaluation_sets(data.train, data.train_on_evaluation_set)
    reading = data.model_dump(include={"columns", "where", "allow_bad_rows", "first_label"})
    writer = PromptWriter(data.prompt, data.system) if data.prompt or data.system else None

    def opened(sources: Sequence[str]) -> Questions:
        questions = open_questions(sources, **reading)
        return questions.asked_by(writer) if writer else questions

    sets, faults = dict[str, Questions](), dict[str, None]()
    names = source_names(data.eval)
    for name, sources in [("", data.train), *((name, [file]) for name, file in zip(names, data.eval, strict=True))]:
        try:
            sets[name] = opened(sources)
        except DataError as error:
            faults[str(error)] = None
    if faults:  # report those of training and evaluation together
        raise DataError("\n".join(faults))
    train = sets.pop("")
    if sets:
        return train, sets
    if len(train) <= data.holdout:
        raise ConfigError(
            f"data.train has {counted(len(train), 'question')} and data.holdout takes {data.holdout}: lower "
            "data.holdout"
        )
    order = np.random.default_rng(0).permutation(len(train))  # a fixed seed: all runs hold out the same questions
    # Hold out twins together: training on one would give away the answer of the other.
    heldout = sorted(whole_groups(order.tolist(), train.twins(), data.holdout))
    if not heldout:
        raise ConfigError(f"data.holdout {data.holdout} is less than the questions of any group of twins: raise it")
    rest = np.delete(np.arange(len(train)), heldout)
    return train.take(rest.tolist()), {HELD_OUT: train.take(heldout)}


def refuse_long_questions(config: RunConfig, train: Questions, sets: Mapping[str, Questions], folder: Path) -> None:
    """Raise ConfigError if a prompt that the run may sample leaves too few positions for its response.

    Checks all questions to train on and those that `asked_questions` selects from each set. `folder` holds the
    tokenizer and, unless the model is random, config.json; no weights are read. Raises ValueError if a file there is
    unreadable.
    """
    data, new_tokens = config.data, config.sampling.max_new_tokens
    positions = model_positions(config, folder)
    if data.max_prompt_tokens + new_tokens <= positions:
        return
    tokenizer = load_tokenizer(folder)
    sources = dict(zip(source_names(data.eval), data.eval, strict=True))
    evaluated = [
        ([sources[name]] if sources else data.train, asked_questions(part, config.evaluation.questions))
        for name, part in sets.items()
    ]
    refuse_long_prompts(
        tokenizer,
        [(data.train, train), *evaluated],
        positions=positions,
        max_new_tokens=new_tokens,
        max_prompt_tokens=data.max_prompt_tokens,
    )


def check_positions(config: RunConfig, train: Questions, sets: Mapping[str, Questions]) -> str:
    """Raise ConfigError as `refuse_long_questions` would when the run starts.

    Returns "" if the check was possible, else the reason: the model or its tokenizer is not on this machine.
    """
    model, built = config.model, Path(config.output_dir) / "tokenizer"  # built by the run if there is no model.path
    folder = cached_folder(model.path) if model.path else built
    if folder is None or not (model.random or (folder / "config.json").exists()):
        return f"{model.path or 'model.path'} is not on this machine"
    if folder == built and not folder.exists():
        fits = config.data.max_prompt_tokens + config.sampling.max_new_tokens <= model_positions(config, folder)
        return "" if fits else "the run makes its tokenizer when it starts"
    refuse_long_questions(config, train, sets, folder)
    return ""


def model_positions(config: RunConfig, folder: Path) -> int:
    """Return the number of positions of the run's model; `load_hf` validates the rest of its config.json."""
    if config.model.random:
        return named_shape(config.model.random).max_position_embeddings
    value = read_json(folder / "config.json").get("max_position_embeddings")
    return value if isinstance(value, int) else Qwen3Config.max_position_embeddings


def warn_of_few(config: RunConfig, questions: Questions) -> None:
    """Log a warning if a step takes more prompts than there are questions."""
    if len(questions) < config.grpo.prompts_per_step:
        log.warning(
            "there are %d questions to train on and grpo.prompts_per_step is %d: a step holds some questions several "
            "times, each time with other random numbers",
            *(len(questions), config.grpo.prompts_per_step),
        )


def prompt_streams(config: RunConfig, questions: Questions, tokenizer: Any) -> tuple[QuestionStream, QuestionStream]:
    """Return the stream of the steps' prompts, and a separate stream of prompts that replace groups."""
    warn_of_few(config, questions)
    sizes = {"prompts_per_step": config.grpo.prompts_per_step, "max_prompt_tokens": config.data.max_prompt_tokens}
    first, second = (QuestionStream(questions, tokenizer, **sizes, seed=config.seed + i) for i in (0, 1))
    return first, second


def evaluation_prompts(config: RunConfig, sets: Mapping[str, Questions], tokenizer: Any) -> dict[str, list[Prompt]]:
    """Return the prompts of the questions that `asked_questions` selects from each set.

    Raises ValueError if no prompt of a set is short enough.
    """
    count, limit = config.evaluation.questions, config.data.max_prompt_tokens
    return {name: encode_prompts(tokenizer, asked_questions(part, count), limit) for name, part in sets.items()}


def asked_questions(questions: Questions, count: int) -> list[Example]:
    """Return the first `count` questions of a set, with each group of twins complete.

    A group that does not fit is left out, unless nothing would be left.
    """
    if groups := questions.twins():
        places = whole_groups(range(len(questions)), groups, count)
        examples = [example for place in places if (example := questions.get(place))]
        if examples:
            return examples
    return list(islice(questions, count))


def check_questions(config: RunConfig) -> None:
    """Print how the run would read its questions. Raises ValueError if the run would stop."""
    if config.replay_rollouts:
        return
    load_extras(config.rewards)
    with shown_log():
        questions, sets = read_run_questions(config)
        warn_of_shared(questions, sets)
        warn_of_few(config, questions)
        if config.cold_start:
            cold_start_questions(config, questions)
    if unchecked := check_positions(config, questions, sets):
        print_line(f"positions   not checked: {unchecked}")
    in_full, lines = in_steps(config, len(questions), config.grpo.prompts_per_step)
    if lines:  # epochs were converted to steps
        lines += in_full.arithmetic().splitlines()[-2:]
    lines += understood(questions, sets, config.evaluation.questions)
    if not config.model.path:
        lines += first_prompt(questions, made_tokenizer(config, questions))
    elif folder := cached_folder(config.model.path):
        lines += first_prompt(questions, load_tokenizer(folder))
    print_line("\n".join(lines))


def warn_of_shared(train: Iterable[Example], sets: Mapping[str, Iterable[Example]]) -> None:
    """Log a warning if questions of the sets are also trained on."""
    if shared := shared_questions(train, sets):
        log.warning("%s: evaluate on questions that are not in data.train", shared)


def shared_questions(train: Iterable[Example], sets: Mapping[str, Iterable[Example]]) -> str:
    """Return how many questions of each set are also trained on (same story, question, options), "" if none.

    Ids are ignored. The first 100,000 questions of training and of each set are compared.
    """
    keys_by_set = {name: [_key(example) for example in islice(part, _MOST_COMPARED)] for name, part in sets.items()}
    wanted = {key for keys in keys_by_set.values() for key in keys}
    trained = {key for example in islice(train, _MOST_COMPARED) if (key := _key(example)) in wanted}
    counts = {name: (sum(key in trained for key in keys), len(keys)) for name, keys in keys_by_set.items()}
    shared = [f"{both:,} of {count:,} questions of {name}" for name, (both, count) in counts.items() if both]
    return f"{' and '.join(shared)} are also trained on (same story, question and options)" if shared else ""


def _key(example: Example) -> int:
    turns = tuple(tuple(turn.items()) for turn in example.messages)
    return hash((example.story, example.question, example.options, turns))
