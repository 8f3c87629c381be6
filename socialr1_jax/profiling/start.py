"""The run of a quickstart without its training before GRPO: its stories, its tokenizer, a random model."""

import json
from dataclasses import asdict
from pathlib import Path

import jax

from socialr1_jax.config import QuickstartConfig, RunConfig
from socialr1_jax.data.examples import LETTERS
from socialr1_jax.data.prompts import question_text, reference_response
from socialr1_jax.data.scripts import WORDS
from socialr1_jax.data.stories import generate_stories
from socialr1_jax.data.tokenizer import build_tokenizer
from socialr1_jax.hf import save_hf
from socialr1_jax.models.qwen3 import Qwen3, Qwen3Config, init_params

_TOKENIZER_STORIES = 1000  # as many as the quickstart's tokenizer is made from


def quickstart_run(config: QuickstartConfig, folder: Path) -> RunConfig:
    """The GRPO run of a quickstart, its model and questions written into `folder`.

    Without the content reward model: it is asked about responses of the right format alone, and those of random
    weights never are.
    """
    stories = config.stories.model_dump(exclude={"train_count", "heldout_count"})
    examples = generate_stories(config.stories.train_count, seed=config.seed, split="train", **stories)
    (folder / "train.jsonl").write_text(
        "".join(json.dumps(asdict(example) | {"meta": dict(example.meta)}) + "\n" for example in examples), "utf-8"
    )
    texts = [question_text(e) + "\n" + reference_response(e) for e in examples[:_TOKENIZER_STORIES]]
    letters = LETTERS[: config.stories.options]
    words = (*WORDS, *letters, *(f"{letter}. " for letter in letters))
    tokenizer = build_tokenizer(texts, config.tiny_model.vocab_size, words)
    tokenizer.save_pretrained(folder / "tokenizer")
    shape = Qwen3Config(
        **config.tiny_model.model_dump(),
        tie_word_embeddings=True,
        initializer_range=config.tiny_model.hidden_size**-0.5,
        max_position_embeddings=config.data.max_prompt_tokens + config.sampling.max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    params = init_params(shape, jax.random.key(config.seed))
    source = str(folder / "tokenizer")
    save_hf(Qwen3(shape, params, source=source, num_tokens=len(tokenizer)), folder / "model")
    values = {name: value for name, value in config.model_dump().items() if name in RunConfig.model_fields}
    values["model"]["path"] = str(folder / "model")
    values["data"] |= {"train": str(folder / "train.jsonl"), "eval": ()}
    if config.rewards.uses.content:
        values["rewards"]["preset"] = "no_content"
    return RunConfig(**values)
