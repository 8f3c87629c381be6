"""Sentence embeddings for benchmarks that compare texts by cosine similarity.

sentence-transformers is optional: without it these figures are left out, with a note in the results.
"""

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from socialr1_jax.evaluation.task import BenchmarkError, Embedder

FANTOM_MODEL = "sentence-transformers/all-roberta-large-v1"
TACTFULTOM_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def installed() -> bool:
    """Return whether sentence-transformers is installed, without importing it (that takes seconds)."""
    return find_spec("sentence_transformers") is not None


def load_embedder(model: str = FANTOM_MODEL) -> Embedder:
    """Load a model on the device that sentence-transformers picks.

    Raises BenchmarkError if the package is not installed or the weights cannot be loaded.
    """
    if not installed():
        raise BenchmarkError(f"{model} needs sentence-transformers: pip install sentence-transformers")
    from sentence_transformers import SentenceTransformer

    try:
        encoder = SentenceTransformer(model)
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"cannot load {model} for sentence embeddings: {error}") from error
    return lambda texts: np.asarray(encoder.encode(list(texts), show_progress_bar=False))


def similarities(pairs: Sequence[tuple[str, str]], embed: Embedder) -> list[float]:
    """Return the cosine similarity of each pair of texts; distinct texts are embedded once, all in one call.

    Raises BenchmarkError if `embed` does not return one row per text.
    """
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    if not texts:
        return []
    rows_nd = np.asarray(embed(texts), np.float64)
    if rows_nd.ndim != 2 or len(rows_nd) != len(texts):
        raise BenchmarkError(f"the embedder returned shape {rows_nd.shape} for {len(texts)} texts")
    lengths_n1 = np.linalg.norm(rows_nd, axis=1, keepdims=True)
    unit_nd = rows_nd / np.where(lengths_n1 > 0, lengths_n1, 1.0)
    place = {text: i for i, text in enumerate(texts)}
    left, right = ([place[pair[side]] for pair in pairs] for side in (0, 1))
    return np.einsum("nd,nd->n", unit_nd[left], unit_nd[right]).tolist()
