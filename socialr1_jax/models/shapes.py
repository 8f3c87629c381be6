"""Named sizes of a Qwen3: every published dense model, and small ones for trials and laptops."""

from collections.abc import Mapping
from dataclasses import replace

from socialr1_jax.config.sections import ConfigError
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.runtime.terminal import counted


def _shape(
    layers: int,
    hidden: int,
    ffn: int,
    heads: int,
    kv_heads: int,
    *,
    head_dim: int = 128,
    vocab: int = 151_936,
    tied: bool = True,
) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        rope_theta=1e6,
        max_position_embeddings=40_960,
        tie_word_embeddings=tied,
    )


# Sizes from the config.json of Qwen/Qwen3-0.6B to -32B on the Hugging Face hub.
PUBLISHED_TOKENS = 151_669  # ids of the published tokenizer; higher rows of the vocabulary are padding
SHAPES: Mapping[str, Qwen3Config] = {
    "nano": _shape(2, 64, 128, 2, 1, head_dim=32, vocab=640),
    "tiny": _shape(4, 256, 768, 4, 2, head_dim=64, vocab=4096),
    "small": _shape(12, 512, 1536, 8, 4, head_dim=64, vocab=32_768),
    "0.6b": _shape(28, 1024, 3072, 16, 8),
    "1.7b": _shape(28, 2048, 6144, 16, 8),
    "4b": _shape(36, 2560, 9728, 32, 8),
    "8b": _shape(36, 4096, 12_288, 32, 8, tied=False),
    "14b": _shape(40, 5120, 17_408, 40, 8, tied=False),
    "32b": _shape(64, 5120, 25_600, 64, 8, tied=False),
}


def named_shape(name: str, setting: str = "model.random") -> Qwen3Config:
    """Return the shape that a setting names; 8b/4 has a quarter of the layers of 8b. Raises ConfigError."""
    whole, slash, part = name.partition("/")
    if whole not in SHAPES:
        raise ConfigError(f"{setting} {name!r} is not one of {', '.join(SHAPES)}")
    layers = SHAPES[whole].num_hidden_layers
    if slash and (not part.isdecimal() or not int(part) or layers % int(part)):
        count = counted(layers, "layer")
        raise ConfigError(f"{setting} {name!r}: {part} does not divide the {count} of {whole}; set a divisor")
    return replace(SHAPES[whole], num_hidden_layers=layers // int(part)) if slash else SHAPES[whole]
