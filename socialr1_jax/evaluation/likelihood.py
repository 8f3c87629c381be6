"""Log-probs of continuations of plain prompts, for multiple choice by likelihood."""

from collections.abc import Iterator, Sequence
from itertools import chain, count

import jax
import numpy as np

from socialr1_jax.grpo.logprobs import row_logprobs
from socialr1_jax.models.text_bins import Unit, bin_width, fill_bins, lay_out
from socialr1_jax.runtime.mesh import fetch, place, row_shards
from socialr1_jax.sampling import Engine

_BATCH_TOKENS = 8192  # per device

_row_logprobs = jax.jit(row_logprobs, static_argnums=1, static_argnames=("num_tokens", "dtype", "backend"))


def continuation_logprobs(
    engine: Engine, questions: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]
) -> Iterator[tuple[int, list[float]]]:
    """Yield (index, log-probs) for each question, in any order: one log-prob per continuation, summed over its tokens.

    Args:
        engine: source of the weights, on the mesh of the context. Temperature is 1.
        questions: (prompt, continuations) as non-empty lists of token ids. Each prompt is computed once.
    """
    numbers = count()
    # Each text starts with the prompt's last token, whose logits give the log-prob of the continuation's first token.
    units = [
        Unit([next(numbers) for _ in tails], list(prompt[:-1]), [[prompt[-1], *tail] for tail in tails])
        for prompt, tails in questions
    ]
    question_of = {unit.items[0]: i for i, unit in enumerate(units)}
    width = bin_width(max((unit.length for unit in units), default=1))
    rows = max(1, _BATCH_TOKENS // width) * row_shards()
    left = fill_bins(units, width)
    while left:
        batch, left = left[:rows], left[rows:]
        here = list(chain(*batch))
        bins = lay_out(batch, width, rows)
        ends = dict(zip(bins.items, bins.ends, strict=True))
        spans = [
            [slice(ends[item] + 2 - len(own), ends[item] + 1) for item, own in zip(unit.items, unit.own, strict=True)]
            for unit in here
        ]
        wanted_n = np.zeros(rows * width, bool)
        for span in chain(*spans):
            wanted_n[span] = True
        arrays = jax.tree.map(place, (bins.tokens_bt, bins.lengths_b, wanted_n.reshape(rows, width), bins.segments))
        tokens_bt, lengths_b, wanted_bt, segments = arrays
        logp_bt, _ = _row_logprobs(
            engine.params,
            engine.config,
            tokens_bt,
            lengths_b,
            1.0,
            num_tokens=engine.num_tokens,
            dtype=engine.dtype,
            wanted_bt=wanted_bt,
            backend=engine.backend,
            segments=segments,
        )
        logp_n = fetch(logp_bt).astype(np.float64).ravel()
        for unit, each in zip(here, spans, strict=True):
            yield question_of[unit.items[0]], [float(logp_n[span].sum()) for span in each]
