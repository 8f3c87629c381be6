"""Tokenizer and chat template: that prompts come out whole, and that a turn ends where the sampler stops."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from socialr1_jax.config import ConfigError
from socialr1_jax.tokenizer_files import count_tokens, has_tokenizer, load_tokenizer
from socialr1_jax.training.doctor.data import OPTIONS, QUESTION, STORY
from socialr1_jax.training.doctor.line import DoctorConfig, Line, NotChecked, good_or, short
from socialr1_jax.training.doctor.model import local, model_shape


def check_tokenizer(config: DoctorConfig) -> Iterator[Line]:
    path = config.model.path
    if not path:
        raise NotChecked("it is made from the questions" if config.model.random else "model.path is not given")
    try:
        folder = local(path)
    except ConfigError as error:  # a problem of the model's check
        raise NotChecked(str(error)) from None
    if folder is None or not folder.is_dir():
        raise NotChecked(f"{path} is not on this machine")
    fix = f"put tokenizer.json and tokenizer_config.json of the model that {path} comes from beside its weights"
    try:
        if not has_tokenizer(folder):
            yield Line("tokenizer", "problem", f"{folder} holds no tokenizer", fix)
            return
        tokenizer = load_tokenizer(folder)
        with contextlib.suppress(NotChecked):
            if not config.model.random:  # which gets a vocabulary that fits
                count_tokens(folder, model_shape(config).vocab_size)
    except ValueError as error:  # names the folder or the file
        yield Line("tokenizer", "problem", short(error), fix)
        return
    yield Line("tokenizer", "ok", f"{type(tokenizer).__name__} of {len(tokenizer):,} tokens")
    split = [token for token in ("<think>", "</think>") if len(tokenizer.encode(token, add_special_tokens=False)) != 1]
    found = f"{' and '.join(split)} not one token" if split else "<think> and </think> are one token each"
    fix = "take a Qwen3 tokenizer, whose tags are single tokens: the model has to learn to spell these"
    yield good_or("warning", "thoughts", not split, found, fix)
    if not tokenizer.chat_template:
        fix = f"put chat_template.jinja, or a tokenizer_config.json with chat_template, into {folder}"
        yield Line("chat template", "problem", f"{folder} has no chat template", fix)
        return
    yield _thoughts_in_prompt(tokenizer)
    yield _end_of_turn(config, tokenizer, folder)
    yield _prompt(config, tokenizer)


def _thoughts_in_prompt(tokenizer: Any) -> Line:
    """Report what the template does with the thoughts, in the prompt and in earlier turns."""
    from socialr1_jax.data.chat_template import read_template

    template = read_template(tokenizer)
    history = "; drops the thoughts of earlier turns" if template.drops_thoughts else ""
    if template.kind == "closes":
        fix = "no response can be well formed: take a template that leaves thoughts to the model"
        return Line("prompt's end", "problem", f"closes empty thoughts ({template.opening!r}){history}", fix)
    found = "leaves <think> to the model"
    if template.kind == "opens":
        found = f"opens the thoughts ({template.opening!r}); it counts as the beginning of each response"
    return Line("prompt's end", "ok", found + history)


def _end_of_turn(config: DoctorConfig, tokenizer: Any, folder: Path) -> Line:
    """Whether what the template puts behind a response stops the sampler."""
    from socialr1_jax.sampling.text import stop_token_ids

    eos_token_id, vocab_size = None, len(tokenizer)
    with contextlib.suppress(NotChecked):
        shape = model_shape(config)
        eos_token_id, vocab_size = shape.eos_token_id, max(vocab_size, shape.vocab_size)
    sizes = SimpleNamespace(eos_token_id=eos_token_id, vocab_size=vocab_size)
    model: Any = SimpleNamespace(config=sizes, source=str(folder))
    try:
        stops = stop_token_ids(model, tokenizer)
    except ValueError as error:  # names generation_config.json
        return Line("chat template", "problem", short(error), "correct generation_config.json of the model's folder")
    said = "Ann."
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": said}]
    behind = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(said)[2]
    ids = tokenizer.encode(behind, add_special_tokens=False)
    names = ", ".join(tokenizer.convert_ids_to_tokens(list(stops))) or "none"
    if ids and ids[0] in stops:
        return Line("chat template", "ok", f"there; a turn ends with a stop token ({names})")
    found = f"a turn ends with {behind.strip()!r}, but the stop tokens are: {names}; responses would not end"
    fix = f"name the token in {folder}/generation_config.json: eos_token_id {ids[:1]}"
    return Line("chat template", "problem", found, fix)


def _prompt(config: DoctorConfig, tokenizer: Any) -> Line:
    """A sample question as the run would put it, to ids and back."""
    from socialr1_jax.data.one_question import typed_question
    from socialr1_jax.data.prompts import encode_prompt, question_text

    example = typed_question(QUESTION, story=STORY, options=OPTIONS)
    tokens, limit = encode_prompt(tokenizer, example), config.data.max_prompt_tokens
    told = f"a sample question of {len(question_text(example))} characters is {len(tokens)} tokens"
    if question_text(example) not in tokenizer.decode(tokens):
        fix = "this is another tokenizer than the template's, or one that drops text: take the model's own"
        return Line("prompt", "problem", f"{told}, and they do not give its text back", fix)
    if len(tokens) > limit:
        found = f"{told}, data.max_prompt_tokens is {limit}"
        return Line("prompt", "warning", found, "raise data.max_prompt_tokens")
    return Line("prompt", "ok", f"{told} and comes back whole; data.max_prompt_tokens is {limit}")
