"""The content reward model as a scorer: story, question and thoughts go in, its scalar comes out."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from socialr1_jax.config.rewards import ContentConfig
from socialr1_jax.data.chat_template import plain_tokens
from socialr1_jax.models.attention import Backend
from socialr1_jax.models.qwen3 import Params, Qwen3Config, weight_specs
from socialr1_jax.models.reward_model import RewardModel, position_scores
from socialr1_jax.models.text_bins import Unit, bin_width, fill_bins, lay_out
from socialr1_jax.runtime.mesh import constrain, fetch, place, row_shards
from socialr1_jax.weights.hf import load_reward_model
from socialr1_jax.weights.hf_folder import local_folder
from socialr1_jax.weights.tokenizer_files import load_tokenizer

Text = tuple[str, str, str]  # story, question, thoughts
_START, _END = "<|im_start|>", "<|im_end|>"


def content_prompts(tokenizer: Any, texts: Sequence[Text], max_tokens: int) -> list[list[int] | None]:
    """Return the reward model's input of each (story, question, thoughts), in training and scoring; None if too long.

        <|im_start|>user
        {story}

        {question}<|im_end|><|im_start|>assistant
        {thoughts}<|im_end|>

    The borders are token ids that no text can have: markers inside a text are encoded letter by letter. The scalar is
    read at the last one. Nothing is ever cut: a score of half a story is a score of something else. Raises ValueError
    for a tokenizer without these markers, which every Qwen3's has.
    """
    start, end = borders(tokenizer)
    user, assistant = plain_tokens(tokenizer, ["user\n", "assistant\n"])
    heads = list(dict.fromkeys(f"{story}\n\n{question}" for story, question, _ in texts))
    bodies = dict(zip(heads, plain_tokens(tokenizer, heads), strict=True))
    rows = [
        [start, *user, *bodies[f"{story}\n\n{question}"], end, start, *assistant, *thoughts, end]
        for (story, question, _), thoughts in zip(
            texts, plain_tokens(tokenizer, [text[2] for text in texts]), strict=True
        )
    ]
    return [row if len(row) <= max_tokens else None for row in rows]


def borders(tokenizer: Any) -> tuple[int, int]:
    """The ids of the markers around a turn."""
    found = [tokenizer.get_vocab().get(marker) for marker in (_START, _END)]
    if None in found:
        raise ValueError(f"{tokenizer.name_or_path} has no tokens {_START} and {_END}: give a Qwen3's tokenizer files")
    return found[0], found[1]


def check_tokenizer(tokenizer: Any, config: Qwen3Config) -> None:
    """Raises ValueError when the tokenizer's ids are not the model's, or transformers would read another token."""
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"{tokenizer.name_or_path} has {len(tokenizer)} tokens, but the model's vocab_size is {config.vocab_size}: "
            "give the tokenizer files that belong to the model"
        )
    if config.pad_token_id == borders(tokenizer)[1]:
        raise ValueError(
            f"the model's pad_token_id {config.pad_token_id} is {_END}, which ends every text, and transformers would "
            "read the token before it: set pad_token_id in its config.json to another id"
        )


class ContentModel:
    """A reward model that scores texts packed into batches, on the mesh of the context, where it is also made.

    Its weights are copied once: in `dtype`, whole over fsdp, while rows are split over the devices. With several
    processes all of them call with the same texts. `causes` counts why texts could not be scored.
    """

    def __init__(
        self, model: RewardModel, tokenizer: Any, config: ContentConfig, dtype: str, backend: Backend = "xla"
    ) -> None:
        check_tokenizer(tokenizer, model.config)
        self.config, self.tokenizer = model.config, tokenizer
        self.dtype, self.backend, self.batch_tokens = dtype, backend, config.batch_tokens
        self.params = _rollout_layout(model.params, model.config, dtype)
        self.causes: Counter[str] = Counter()

    def __call__(self, texts: Sequence[Text]) -> np.ndarray:
        """float64 [n]: the scalar of each text, NaN for one that cannot be scored.

        That is one without thoughts, one longer than the model's positions, one whose scalar is not finite. A score
        depends on its own text alone, to rounding (tests: 1e-6).
        """
        rows = content_prompts(self.tokenizer, texts, self.config.max_position_embeddings)
        there: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            if row is None:
                self.causes["too_long"] += 1
            elif not texts[i][2].strip():
                self.causes["no_thoughts"] += 1
            else:
                there[i] = row
        found = self.score(list(there.values()))
        self.causes["not_finite"] += int(np.sum(~np.isfinite(found)))
        scores = np.full(len(texts), np.nan)
        scores[list(there)] = np.where(np.isfinite(found), found, np.nan)
        return scores

    def score(self, rows: Sequence[list[int]]) -> np.ndarray:
        """float64 [n]: the scalars of rows of `content_prompts`."""
        scores, waiting, shards = np.empty(len(rows)), [], row_shards()
        width = bin_width(max(map(len, rows), default=1))
        left = fill_bins(_units(rows, borders(self.tokenizer)[0], width), width)
        while left:
            # A power of two on each device, so that few programs are compiled; a rest goes into smaller batches.
            most = max(1, min(self.batch_tokens // width, len(left) // shards))
            count = (1 << (most.bit_length() - 1)) * shards
            bins, left = lay_out(left[:count], width, count), left[count:]
            arrays = jax.tree.map(place, (bins.tokens_bt, bins.lengths_b))
            scores_bt = position_scores(
                self.params,
                self.config,
                *arrays,
                dtype=self.dtype,
                backend=self.backend,
                segments=jax.tree.map(place, bins.segments),
            )
            waiting.append((bins, scores_bt))  # the devices go on while the host packs the next ones
        for bins, scores_bt in waiting:
            scores[bins.items] = fetch(scores_bt).ravel()[bins.ends]
        return scores


def load_content_model(
    config: ContentConfig, mesh: Mesh | None = None, dtype: str = "float32", backend: Backend = "xla"
) -> ContentModel:
    """The scorer of `config.model`, a folder or hub id with its tokenizer files; errors are those of its parts."""
    tokenizer = load_tokenizer(folder := local_folder(config.model))  # its faults show before the weights are read
    return ContentModel(load_reward_model(folder, mesh, dtype), tokenizer, config, dtype, backend)


@partial(jax.jit, static_argnums=(1, 2))
def _rollout_layout(params: Params, config: Qwen3Config, dtype: str) -> Params:
    return jax.tree.map(lambda x, spec: constrain(x.astype(dtype), spec), params, weight_specs(config, "rollout"))


def _units(rows: Sequence[list[int]], start: int, width: int) -> list[Unit]:
    """The rows behind one copy of the story and question that they share, as many together as a bin holds."""
    units: dict[tuple[int, ...], list[Unit]] = {}
    for i, row in enumerate(rows):
        cut = row.index(start, 1)  # the assistant's turn
        shared, own = row[:cut], row[cut:]
        of_head = units.setdefault(tuple(shared), [])
        if not of_head or of_head[-1].length + len(own) > width:
            of_head.append(Unit([], shared, []))
        of_head[-1].items.append(i)
        of_head[-1].own.append(own)
    return [unit for of_head in units.values() for unit in of_head]
