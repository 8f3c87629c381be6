"""The architecture of a Qwen3, read from and written to Hugging Face's config.json.

Every field of the file is either used, or known to leave the mathematics alone, or refused by name: a field that
is silently dropped (a rope theta, a sliding window) gives a model that is subtly wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

# Fields that say nothing about the forward pass.
_PASSIVE = {
    "_name_or_path", "architectures", "transformers_version",
    "use_cache", "max_window_layers", "sliding_window", "id2label", "label2id", "problem_type", "return_dict",
    "output_attentions", "output_hidden_states", "chunk_size_feed_forward", "is_encoder_decoder", "is_decoder",
    "torch_dtype", "dtype", "model_type", "rope_parameters", "rope_scaling", "add_cross_attention",
    "tie_encoder_decoder", "cross_attention_hidden_size", "num_labels",
}  # fmt: skip
# Fields that this model supports with one value only.
_FIXED: Mapping[str, Any] = {"hidden_act": "silu", "use_sliding_window": False, "attention_dropout": 0.0}
_REWARD_MODEL = "Qwen3ForSequenceClassification"  # the architecture with a scalar head


@dataclass(frozen=True, kw_only=True)
class Qwen3Config:
    """Sizes and constants of a dense Qwen3; names as in Hugging Face's config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int = 128
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    initializer_range: float = 0.02
    max_position_embeddings: int = 40960
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    scalar_head: bool = False  # a reward model: one number in place of logits (the file says it in `architectures`)

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any], source: str = "config.json") -> "Qwen3Config":
        """The configuration in a config.json of transformers 4 (`rope_theta` on top) or 5 (`rope_parameters`).

        Raises ValueError naming every field that is missing, unsupported or unknown.
        """
        if raw.get("model_type") != "qwen3":
            raise ValueError(f"{source}: model_type {raw.get('model_type')!r} is not supported, only 'qwen3' (dense)")
        values = dict(raw)
        rope = dict(raw.get("rope_parameters") or {})
        if "rope_theta" in rope:
            values["rope_theta"] = rope.pop("rope_theta")
        known = {f.name for f in fields(cls)} - {"scalar_head"}
        problems = []
        for field_name, rope_fields in (("rope_parameters", rope), ("rope_scaling", raw.get("rope_scaling") or {})):
            kind = rope_fields.get("rope_type", rope_fields.get("type", "default"))
            extra = set(rope_fields) - {"rope_type", "type"}
            if kind != "default" or extra:
                problems.append(f"{field_name} {dict(rope_fields)} (only the default rotary positions are supported)")
        problems += [
            f"{name}={raw[name]!r} (only {value!r} is supported)"
            for name, value in _FIXED.items()
            if name in raw and raw[name] != value
        ]
        if set(raw.get("layer_types") or ()) - {"full_attention"}:
            problems.append("layer_types other than full_attention")
        unknown = set(raw) - known - _PASSIVE - set(_FIXED) - {"layer_types"}
        problems += [f"unknown field {name!r}={raw[name]!r}" for name in sorted(unknown)]
        scalar_head = raw.get("architectures") == [_REWARD_MODEL]
        labels = raw.get("num_labels") or len(raw.get("id2label") or ()) or 2  # transformers leaves two unsaid
        if scalar_head and labels != 1:
            problems.append(f"{labels} labels (a reward model has one: train it with num_labels=1)")
        needed = {f.name for f in fields(cls) if f.name in _REQUIRED} - set(values)
        problems += [f"missing field {name!r}" for name in sorted(needed)]
        if problems:
            raise ValueError(f"{source}: cannot build this model: " + "; ".join(problems))
        if isinstance(values.get("eos_token_id"), list):  # a tuple keeps the configuration hashable
            values["eos_token_id"] = tuple(values["eos_token_id"])
        return cls(**{name: value for name, value in values.items() if name in known}, scalar_head=scalar_head)

    def to_hf(self, dtype: str) -> dict[str, Any]:
        """The config.json that transformers 4 and 5 both read; `dtype` is the name of the weights' dtype."""
        config = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "scalar_head"}
        head: dict[str, Any] = {"architectures": ["Qwen3ForCausalLM"]}
        if self.scalar_head:
            head = {"architectures": [_REWARD_MODEL], "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        return {
            **head,
            "model_type": "qwen3",
            **_FIXED,
            **config,
            "rope_scaling": None,
            "sliding_window": None,
            "torch_dtype": dtype,
        }


# No default that transformers would share: a file without them is refused.
_REQUIRED = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "rope_theta",
}  # fmt: skip
