"""Random weights for trying a run: their tokenizer (given, or built from the questions) and their cold start."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from socialr1_jax.config.quickstart import SftConfig
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.data.examples import Example
from socialr1_jax.models.qwen3 import Qwen3
from socialr1_jax.run.questions import made_tokenizer
from socialr1_jax.runtime.files import whole_folder
from socialr1_jax.runtime.processes import is_first, wait_for_all
from socialr1_jax.training.sft import train_sft
from socialr1_jax.weights.hf import random_model

_FILE = "tokenizer.json"


def random_start(config: RunConfig, mesh: Mesh, questions: Sequence[Example]) -> Qwen3:
    """Return a random model of shape `config.model.random`, with the tokenizer of `model.path` or one built here.

    A tokenizer built from the questions is saved in `output_dir`/tokenizer. Raises ConfigError if there are no
    questions to build it from, and the errors of `random_model`.
    """
    shape, folder = config.model.random, Path(config.model.path or Path(config.output_dir) / "tokenizer")
    if not config.model.path and is_first() and not (folder / _FILE).exists():
        if not questions:
            raise ConfigError(f"{folder}: there is no tokenizer, and a replay has no questions to make one from")
        with whole_folder(folder, marker=_FILE) as partial:
            made_tokenizer(config, questions).save_pretrained(partial)
    wait_for_all(f"tokenizer of {config.output_dir}", config.distributed.timeout)
    return random_model(folder, shape, config.seed, mesh)


def cold_start(config: RunConfig, model: Qwen3, tokenizer: Any, questions: Sequence[Example]) -> Qwen3:
    """Return the model after `config.cold_start` SFT updates on reference responses to the questions.

    After 40 updates on 48 stories about half of the nano shape's responses are well-formed. A schedule that decays to
    0 needs twice as many updates.
    """
    settings = SftConfig(
        steps=config.cold_start,
        batch_size=16,
        optimizer="muon",
        learning_rate=2e-2,
        schedule="constant",
        warmup_steps=min(2, config.cold_start - 1),
    )
    return train_sft(model, tokenizer, questions, settings, None, config.seed)
