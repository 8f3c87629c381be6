"""Count the FLOP and bytes of a run's phases from the shapes (docs/performance.md has the derivation).

A multiplication and an addition are two FLOP. Causal attention is counted at half its square, padding not at all:
that is what the mathematics needs, whatever a kernel does beside it.
"""

from dataclasses import dataclass

from socialr1_jax.models.qwen3_config import Qwen3Config


@dataclass(frozen=True)
class Cost:
    """FLOP, and bytes that must come from or go to the devices' memory, over all devices."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> "Cost":
        return Cost(self.flops * times, self.bytes * times)


@dataclass(frozen=True)
class Arithmetic:
    """Costs of one Qwen3. `copies` is the number of devices (or groups of them) that read the weights on their own."""

    config: Qwen3Config
    itemsize: int  # bytes of a number of the computation
    copies: int

    @property
    def kernels(self) -> int:
        """Weights of all layers' kernels."""
        c = self.config
        heads = c.num_attention_heads + c.num_key_value_heads
        return c.num_hidden_layers * c.hidden_size * (2 * c.head_dim * heads + 3 * c.intermediate_size)

    @property
    def vocabulary(self) -> int:
        """Weights of the output matrix."""
        return self.config.vocab_size * self.config.hidden_size

    @property
    def parameters(self) -> int:
        """All weights (norms and biases, a millionth of them, left out)."""
        return self.kernels + self.vocabulary * (1 if self.config.tie_word_embeddings else 2)

    @property
    def cache_token(self) -> int:
        """Bytes of keys and values of one token."""
        c = self.config
        return 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * self.itemsize

    def forward(self, rows: float, tokens: float, predicted: float, passes: float = 1) -> Cost:
        """Whole rows of `tokens`, of which `predicted` positions get logits; the weights are read `passes` times."""
        return Cost(rows * self.flops(tokens, tokens * tokens / 2, predicted), passes * self._weights)

    def flops(self, tokens: float, pairs: float, predicted: float) -> float:
        """Forward FLOP of texts with so many tokens, pairs of a query and a key, and positions with logits."""
        return 2 * self.kernels * tokens + self.attention_pair * pairs + 2 * self.vocabulary * predicted

    @property
    def attention_pair(self) -> int:
        """FLOP of one query and one key, in all layers and heads."""
        c = self.config
        return 4 * c.num_hidden_layers * c.num_attention_heads * c.head_dim

    def by_block(self, tokens: float, pairs: float, predicted: float, passes: float) -> dict[str, Cost]:
        """Return the costs by named block with matrix products: `flops`, and the weights read `passes` times."""
        mlp = 3 * self.config.num_hidden_layers * self.config.hidden_size * self.config.intermediate_size
        read = passes * self.itemsize * self.copies
        return {
            "attention": Cost(2 * (self.kernels - mlp) * tokens, (self.kernels - mlp) * read),
            "attend": Cost(self.attention_pair * pairs),
            "mlp": Cost(2 * mlp * tokens, mlp * read),
            "lm_head": Cost(2 * self.vocabulary * predicted, self.vocabulary * read),
        }

    def decode_step(self, rows: float, own: float, prefix: float = 0, group: float = 1) -> Cost:
        """One token for each of `rows`, which have `own` tokens each behind `prefix` tokens that a group shares."""
        flops = rows * (2 * (self.kernels + self.vocabulary) + self.attention_pair * (own + prefix))
        return Cost(flops, self._weights + rows * (own + prefix / group) * self.cache_token)

    def update(self, rows: float, tokens: float, predicted: float, micro_batches: float, remat: str) -> Cost:
        """Forward and backward of `rows`, the logits computed twice."""
        forward = self.forward(rows, tokens, predicted)
        c = self.config
        # A layer is computed again up to its last product, whose result nothing in the backward pass needs.
        last = 2 * rows * tokens * c.num_hidden_layers * c.hidden_size * c.intermediate_size
        again = self.forward(rows, tokens, 0).flops - last if remat == "everything" else 0
        logits = Cost(2 * rows * predicted * self.vocabulary)
        # A micro-batch reads the weights forward and backward and adds to their gradient.
        moved = Cost(0, micro_batches * (3 * self._weights + 8 * self.parameters))
        return Cost(3 * forward.flops + again + logits.flops) + moved

    def optimizer(self) -> Cost:
        """AdamW on float32 masters: gradient read, masters and two moments read and written."""
        return Cost(0, 28 * self.parameters)

    @property
    def _weights(self) -> float:
        return (self.kernels + self.vocabulary) * self.itemsize * self.copies
