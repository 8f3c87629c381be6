"""Count the FLOP and bytes of a run's phases from the shapes (docs/performance.md has the derivation).

A multiply-add is two FLOP. Causal attention counts as half its square and padding as nothing: this is the minimum that
the mathematics needs, not what a kernel executes.
"""

from dataclasses import dataclass

from socialr1_jax.models.qwen3_config import Qwen3Config


@dataclass(frozen=True)
class Cost:
    """FLOP and bytes read from or written to device memory, summed over all devices."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, times: float) -> "Cost":
        return Cost(self.flops * times, self.bytes * times)


@dataclass(frozen=True)
class Arithmetic:
    """Costs of one Qwen3. `copies` is the number of devices (or tensor-parallel groups) that each read all weights."""

    config: Qwen3Config
    itemsize: int  # bytes of an element of the compute dtype
    copies: int
    weights: str = "dtype"  # `WeightFormat` of the copy that decoding reads

    @property
    def kernels(self) -> int:
        """Number of weights in the kernels of all layers."""
        c = self.config
        heads = c.num_attention_heads + c.num_key_value_heads
        return c.num_hidden_layers * c.hidden_size * (2 * c.head_dim * heads + 3 * c.intermediate_size)

    @property
    def vocabulary(self) -> int:
        """Number of weights in the output matrix."""
        return self.config.vocab_size * self.config.hidden_size

    @property
    def parameters(self) -> int:
        """Number of all weights (without norms and biases, a millionth of them)."""
        return self.kernels + self.vocabulary * (1 if self.config.tie_word_embeddings else 2)

    @property
    def decoded(self) -> int:
        """Bytes of a weight that a decode step multiplies by."""
        return self.itemsize if self.weights == "dtype" else 1

    @property
    def rollout_copy(self) -> int:
        """Bytes of the copy of the weights that decoding reads; an 8-bit output matrix is beside its embedding."""
        embedding = 0 if self.weights == "dtype" and self.config.tie_word_embeddings else self.vocabulary
        return (self.kernels + self.vocabulary) * self.decoded + embedding * self.itemsize

    @property
    def cache_token(self) -> int:
        """Bytes of one token's keys and values."""
        c = self.config
        return 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * self.itemsize

    def forward(self, tokens: float, pairs: float, predicted: float, passes: float = 1) -> Cost:
        """Return the cost of a forward pass, whose FLOP are those of `flops`; it reads the weights `passes` times."""
        return Cost(self.flops(tokens, pairs, predicted), passes * self._weights)

    def flops(self, tokens: float, pairs: float, predicted: float) -> float:
        """Return the forward FLOP of `tokens` tokens, `pairs` query-key pairs and `predicted` positions with logits."""
        return 2 * self.kernels * tokens + self.attention_pair * pairs + 2 * self.vocabulary * predicted

    @property
    def attention_pair(self) -> int:
        """FLOP of one query-key pair in all layers and heads."""
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
        """Return the cost of one token for each of `rows`, whose `own` tokens follow a `prefix` shared by a group."""
        flops = rows * (2 * (self.kernels + self.vocabulary) + self.attention_pair * (own + prefix))
        weights = (self.kernels + self.vocabulary) * self.decoded * self.copies
        return Cost(flops, weights + rows * (own + prefix / group) * self.cache_token)

    def update(self, tokens: float, pairs: float, predicted: float, micro_batches: float, remat: str) -> Cost:
        """Return the cost of the forward and backward pass over these (as in `flops`), with logits computed twice."""
        c = self.config
        # Remat recomputes a layer up to its last product, whose result the backward pass does not need.
        last = 2 * tokens * c.num_hidden_layers * c.hidden_size * c.intermediate_size
        again = self.flops(tokens, pairs, 0) - last if remat == "everything" else 0
        logits = Cost(2 * predicted * self.vocabulary)
        # Each micro-batch reads the weights in both passes and accumulates into their gradient.
        moved = Cost(0, micro_batches * (3 * self._weights + 8 * self.parameters))
        return Cost(3 * self.flops(tokens, pairs, predicted) + again + logits.flops) + moved

    def optimizer(self) -> Cost:
        """Return the cost of AdamW on float32 masters: read the gradient, read and write masters and two moments."""
        return Cost(0, 28 * self.parameters)

    @property
    def _weights(self) -> float:
        return (self.kernels + self.vocabulary) * self.itemsize * self.copies
