"""The weights that a run starts from: a folder's or random ones, and a cold start by SFT."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from socialr1_jax.config.quickstart import SftConfig
from socialr1_jax.config.run import OptimizerConfig, RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.data.chat_template import plain_tokens, response_opening
from socialr1_jax.data.examples import Example
from socialr1_jax.data.prompts import encode_prompt, question_text, reference_response
from socialr1_jax.grpo.logprobs import row_logprobs
from socialr1_jax.grpo.optimizer import make_optimizer, make_schedule
from socialr1_jax.grpo.packing import Rows, pack_rows
from socialr1_jax.grpo.update import init_state, make_update
from socialr1_jax.models.qwen3 import Params, Qwen3
from socialr1_jax.questions.pipeline import PromptStream
from socialr1_jax.run.console import Bar
from socialr1_jax.run.metrics import RunLog
from socialr1_jax.run.questions import made_tokenizer
from socialr1_jax.runtime.files import whole_folder
from socialr1_jax.runtime.processes import is_first, wait_for_all
from socialr1_jax.weights.hf import load_hf, random_model

_FILE = "tokenizer.json"
_ROW_MULTIPLE = 16
_LONGEST_TEXTS = 200


def first_model(config: RunConfig, questions: Sequence[Example]) -> Qwen3:
    """Return the model `model.path`, or a random one of shape `model.random` with that model's tokenizer, on the mesh.

    A random model without a path gets a tokenizer that is built from the questions and saved in `output_dir`/tokenizer.
    Raises ConfigError if there are no questions to build it from, and the errors of `load_hf` and `random_model`.
    """
    mesh, shape = jax.sharding.get_mesh(), config.model.random
    if not shape:
        return load_hf(config.model.path, mesh, ignore_fields=config.model.ignore_fields)
    folder = Path(config.model.path or Path(config.output_dir) / "tokenizer")
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


def train_sft(
    model: Qwen3, tokenizer: Any, examples: Sequence[Example], config: SftConfig, log: RunLog | None, seed: int
) -> Qwen3:
    """Return the model after `config.steps` updates on prompt + reference response.

    The loss is the mean over the response tokens of a batch, end tokens included.
    """
    opening = response_opening(tokenizer)

    @cache
    def encoded(i: int) -> tuple[list[int], list[int]]:
        [response] = plain_tokens(tokenizer, [reference_response(examples[i], opening)])
        return encode_prompt(tokenizer, examples[i]), [*response, tokenizer.eos_token_id]

    def loss_fn(params: Params, rows: Rows) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]:
        logp_bt, _ = row_logprobs(
            params,
            model.config,
            rows.tokens_bt,
            rows.lengths_b,
            1.0,
            num_tokens=model.num_tokens,
            dtype="float32",
            wanted_bt=rows.mask_bt,
        )
        tokens = jnp.sum(rows.mask_bt).astype(jnp.float32)
        return -jnp.sum(jnp.where(rows.mask_bt, logp_bt, 0.0)), (tokens, {"tokens": tokens})

    settings = OptimizerConfig(
        name=config.optimizer,
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        beta2=0.95,  # 0.999 averages over a thousand updates; a cold start has a few hundred
    )
    schedule = make_schedule(settings, config.steps)
    optimizer = make_optimizer(settings, schedule)
    update = make_update(loss_fn, optimizer)
    state = init_state(model.params, optimizer)
    stream = PromptStream(len(examples), config.batch_size, seed)
    # One width for all batches, so that one program is compiled: that of the longest row among the texts with the most
    # characters, since tokenizing all texts would delay the first step. A longer row doubles the width of its batch.
    size = [len(question_text(example)) + len(reference_response(example)) for example in examples]
    longest = sorted(range(len(examples)), key=size.__getitem__)[-_LONGEST_TEXTS:]
    width = max(sum(map(len, encoded(i))) for i in longest)
    multiple = -(-width // _ROW_MULTIPLE) * _ROW_MULTIPLE
    with Bar("sft", config.steps) as bar:
        for step in range(config.steps):
            prompts, responses = zip(*map(encoded, stream.batch(step)), strict=True)
            rows = pack_rows(prompts, responses, multiple=multiple)
            state, metrics, _ = update(state, [rows.placed()])
            values = {name: float(value) for name, value in metrics.items()}
            if log:
                log.metrics("sft", step + 1, values | {"learning_rate": float(schedule(step))})
            bar.advance(f"loss {values['loss']:.3f}")
    return Qwen3(model.config, state.params, source=model.source, num_tokens=model.num_tokens)
