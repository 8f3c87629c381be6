"""Score thoughts with the content reward model: (story, question, thoughts) -> scalar."""

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
from socialr1_jax.models.qwen3 import Params, weight_specs
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.models.reward_model import RewardModel, position_scores
from socialr1_jax.models.text_bins import Unit, bin_width, fill_bins, lay_out
from socialr1_jax.runtime.mesh import constrain, fetch, place, row_shards
from socialr1_jax.weights.hf import load_reward_model
from socialr1_jax.weights.hf_folder import local_folder
from socialr1_jax.weights.tokenizer_files import load_tokenizer

Text = tuple[str, str, str]  # story, question, thoughts
_START, _END = "<|im_start|>", "<|im_end|>"


def content_prompts(tokenizer: Any, texts: Sequence[Text], max_tokens: int) -> list[list[int] | None]:
    """Return the reward model's input tokens for each (story, question, thoughts), None if it is too long.

        <|im_start|>user
        {story}

        {question}<|im_end|><|im_start|>assistant
        {thoughts}<|im_end|>

    Training and scoring share this format. Text cannot forge the markers: inside a text they are encoded as ordinary
    characters. The scalar is read at the last marker. Inputs are never truncated, since half a story has another score.
    Raises ValueError for a tokenizer without these markers; every Qwen3 tokenizer has them.
    """
    start, end = borders(tokenizer)
    user, assistant = plain_tokens(tokenizer, ["user\n", "assistant\n"])
    heads = list(dict.fromkeys(f"{story}\n\n{question}" for story, question, _ in texts))
    bodies = dict(zip(heads, plain_tokens(tokenizer, heads), strict=True))
    own = plain_tokens(tokenizer, [thoughts for _, _, thoughts in texts])
    rows = [
        [start, *user, *bodies[f"{story}\n\n{question}"], end, start, *assistant, *thoughts, end]
        for (story, question, _), thoughts in zip(texts, own, strict=True)
    ]
    return [row if len(row) <= max_tokens else None for row in rows]


def borders(tokenizer: Any) -> tuple[int, int]:
    """Return the token ids of the markers at the start and the end of a turn."""
    ids = [tokenizer.get_vocab().get(marker) for marker in (_START, _END)]
    if None in ids:
        raise ValueError(f"{tokenizer.name_or_path} has no tokens {_START} and {_END}: give a Qwen3's tokenizer files")
    return ids[0], ids[1]


def check_tokenizer(tokenizer: Any, config: Qwen3Config) -> None:
    """Raise ValueError if the tokenizer has too many ids for the model or its padding token confuses transformers."""
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
    """A reward model that scores packed batches of texts on the mesh of the context.

    The weights are copied once, in `dtype` and replicated over fsdp; rows are sharded over the devices. All processes
    must call it with the same texts. `causes` counts unscorable texts by cause.
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
        """Return the scalar of each text, float64 [n]; NaN for an unscorable text.

        A text is unscorable if it has no thoughts, is longer than the model's positions, or has a non-finite scalar. A
        score does not depend on the other texts, up to rounding (tests: 1e-6).
        """
        rows = content_prompts(self.tokenizer, texts, self.config.max_position_embeddings)
        scorable: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            if row is None:
                self.causes["too_long"] += 1
            elif not texts[i][2].strip():
                self.causes["no_thoughts"] += 1
            else:
                scorable[i] = row
        scalars = self.score(list(scorable.values()))
        self.causes["not_finite"] += int(np.sum(~np.isfinite(scalars)))
        scores = np.full(len(texts), np.nan)
        scores[list(scorable)] = np.where(np.isfinite(scalars), scalars, np.nan)
        return scores

    def score(self, rows: Sequence[list[int]]) -> np.ndarray:
        """Return the scalars of rows of `content_prompts`, float64 [n]."""
        scores, waiting, shards = np.empty(len(rows)), [], row_shards()
        width = bin_width(max(map(len, rows), default=1))
        left = fill_bins(_units(rows, borders(self.tokenizer)[0], width), width)
        while left:
            # Use a power of two per device, so that few programs are compiled; smaller batches take the remainder.
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
            waiting.append((bins, scores_bt))  # asynchronous: the host packs the next batch meanwhile
        for bins, scores_bt in waiting:
            scores[bins.items] = fetch(scores_bt).ravel()[bins.ends]
        return scores


def load_content_model(
    config: ContentConfig, mesh: Mesh | None = None, dtype: str = "float32", backend: Backend = "xla"
) -> ContentModel:
    """Load the scorer `config.model`, a folder or hub id with tokenizer files. Raises the errors of its loaders."""
    folder = local_folder(config.model)
    tokenizer = load_tokenizer(folder)  # first: a bad tokenizer fails before the weights are loaded
    return ContentModel(load_reward_model(folder, mesh, dtype), tokenizer, config, dtype, backend)


@partial(jax.jit, static_argnums=(1, 2))
def _rollout_layout(params: Params, config: Qwen3Config, dtype: str) -> Params:
    return jax.tree.map(lambda x, spec: constrain(x.astype(dtype), spec), params, weight_specs(config, "rollout"))


def _units(rows: Sequence[list[int]], start: int, width: int) -> list[Unit]:
    """Group rows with the same story and question into units with one shared prefix, each fitting into a bin."""
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
