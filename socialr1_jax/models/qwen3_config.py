"""The architecture of a Qwen3, read from and written to Hugging Face's config.json.

Every field of the file is used, known not to change the forward pass, or rejected by name: silently dropping a field
(a rope theta, a sliding window) gives a subtly wrong model. Null means the same as in transformers.
"""

import json
import logging
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, NamedTuple

from socialr1_jax.runtime.model_files import first_few
from socialr1_jax.runtime.terminal import printable, shown

log = logging.getLogger(__name__)

# Fields that cannot change the forward pass, whatever their value: transformers and related tools write them for their
# own use. `model.ignore_fields` adds names to this list.
_HARMLESS_OF = {
    "where the file comes from": (
        "_name_or_path name_or_path model_name model_id base_model_name_or_path _commit_hash _from_auto _from_pipeline "
        "_auto_class auto_map custom_pipelines transformers_version _diffusers_version trl_version peft_version "
        "vllm_version library_name pipeline_tag license language tags datasets unsloth_fixed unsloth_version "
        "unsloth_tiled_mlp unsloth_gradient_checkpointing transformers.js_config"
    ),
    "how the weights are stored, placed and trained": (
        "dtype torch_dtype use_bfloat16 bf16 fp16 fp32 device_map low_cpu_mem_usage torchscript xla_device "
        "gradient_checkpointing gradient_checkpointing_kwargs use_liger_kernel model_parallel is_parallelizable "
        "tp_plan base_model_tp_plan base_model_pp_plan base_model_ep_plan base_model_fsdp_plan base_config_key "
        "is_composition keys_to_ignore_at_inference ignore_index pretraining_tp"
    ),
    "which kernel computes the same attention": (
        "attn_implementation _attn_implementation _attn_implementation_autoset _attn_implementation_internal "
        "experts_implementation _experts_implementation _experts_implementation_internal use_flash_attn "
        "use_flash_attention use_flash_attention_2 _flash_attn_2_enabled use_sdpa use_cache chunk_size_feed_forward"
    ),
    "what a call returns beside the logits, and for which task": (
        "output_hidden_states output_attentions output_scores output_logits return_dict_in_generate "
        "tie_last_hidden_states finetuning_task task_specific_params problem_type id2label label2id num_labels "
        "classifier_dropout tf_legacy_loss architectures model_type"
    ),
    "of encoder-decoder models": (
        "is_encoder_decoder is_decoder add_cross_attention cross_attention_hidden_size tie_encoder_decoder "
        "decoder_start_token_id"
    ),
    "of the tokenizer": (
        "tokenizer_class tokenizer_file vocab_file prefix chat_template padding_side model_max_length bos_token "
        "eos_token pad_token unk_token sep_token_id unk_token_id mask_token_id cls_token_id max_seq_length "
        "max_sequence_length seq_length"
    ),
    "defaults of generation, which belong into generation_config.json": (
        "generation_config max_length max_new_tokens min_length min_new_tokens max_time do_sample early_stopping "
        "num_beams num_beam_groups diversity_penalty penalty_alpha temperature top_k top_p top_h min_p typical_p "
        "epsilon_cutoff eta_cutoff repetition_penalty encoder_repetition_penalty length_penalty no_repeat_ngram_size "
        "encoder_no_repeat_ngram_size bad_words_ids force_words_ids constraints renormalize_logits sequence_bias "
        "guidance_scale num_return_sequences forced_bos_token_id forced_eos_token_id suppress_tokens "
        "begin_suppress_tokens forced_decoder_ids remove_invalid_values exponential_decay_length_penalty stop_strings "
        "token_healing low_memory watermarking_config cache_implementation cache_config return_legacy_cache "
        "num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold assistant_early_exit "
        "assistant_lookbehind target_lookbehind prompt_lookup_num_tokens max_matching_ngram_size "
        "assistant_ensemble_weight is_assistant speculation_type use_mtp dola_layers max_cache_len prefill_chunk_size "
        "compile_config disable_compile continuous_batching_config _from_model_config"
    ),
    "of a sliding window that is not used (`use_sliding_window`)": "max_window_layers",
}
_HARMLESS = frozenset(name for names in _HARMLESS_OF.values() for name in names.split())
# Fields that change the forward pass unless they have one of these values.
_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_dropout": (0.0,),
    "partial_rotary_factor": (1.0, None),
    "is_causal": (True,),
    "use_bidirectional_attention": (False, None),
    "mlp_bias": (False, None),
    "use_qk_norm": (True,),
    "use_mrope": (False, None),
    "use_dynamic_ntk": (False, None),
    "use_logn_attn": (False, None),
    "pruned_heads": ({}, None),
    "attribute_map": ({},),  # renames fields
    "return_dict": (True, None),
    "per_layer_config": ({}, None),
    "quantization_config": (None,),
    "quantization": (None,),
    "compression_config": (None,),
    "transformers_weights": (None,),  # the name of another weight file
}
_ROPE_THETA = 10_000.0  # transformers' default if rope_parameters has none
_SLIDING_WINDOW = 4096  # transformers' default
_REWARD_MODEL = "Qwen3ForSequenceClassification"  # the architecture with a scalar head


class _Kind(NamedTuple):
    """The valid values of a field, in words and as a check."""

    words: str
    fits: Callable[[Any], bool]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _size(most: int) -> _Kind:
    return _Kind(f"a whole number from 1 to {most:,}", lambda x: _is_whole(x) and 1 <= x <= most)


def _number(least: float, most: float) -> _Kind:
    return _Kind(
        f"a number from {least:g} to {most:g}",
        lambda x: (_is_whole(x) or isinstance(x, float)) and least <= x <= most,  # false for NaN
    )


def _is_token(value: Any) -> bool:
    return _is_whole(value) and -1 <= value < _MOST  # some files write -1 for none


_MOST = 10_000_000  # the largest size, including the vocabulary
_SIZE = _size(_MOST)
_EVEN_SIZE = _Kind("an even whole number from 2 to 10,000", lambda x: _is_whole(x) and 2 <= x <= 10_000 and x % 2 == 0)
_SWITCH = _Kind("true or false", lambda x: isinstance(x, bool))
_TOKEN = _Kind("a token id, -1 or null", lambda x: x is None or _is_token(x))
_TOKENS = _Kind(
    "a token id, a list of them, -1 or null",
    lambda x: all(map(_is_token, x)) if isinstance(x, list | tuple) else _TOKEN.fits(x),
)
_WINDOW = _Kind("a whole number or null", lambda x: x is None or _is_whole(x))
_MAPPING = _Kind("a mapping {...} or null", lambda x: x is None or isinstance(x, dict))
_TEXTS = _Kind(
    "a list of texts or null", lambda x: x is None or (isinstance(x, list) and all(isinstance(y, str) for y in x))
)
_COUNT = _Kind("a whole number of at least 0 or null", lambda x: x is None or (_is_whole(x) and x >= 0))
_KINDS: Mapping[str, _Kind] = {
    "vocab_size": _SIZE,
    "hidden_size": _SIZE,
    "intermediate_size": _SIZE,
    "num_hidden_layers": _size(10_000),
    "num_attention_heads": _SIZE,
    "num_key_value_heads": _SIZE,
    "head_dim": _EVEN_SIZE,
    "rope_theta": _number(1, 1e15),  # larger values give frequencies that float32 cannot represent
    "rms_norm_eps": _number(1e-15, 1),
    "tie_word_embeddings": _SWITCH,
    "attention_bias": _SWITCH,
    "initializer_range": _number(0, 1000),
    "max_position_embeddings": _size(1_000_000_000),
    "bos_token_id": _TOKEN,
    "eos_token_id": _TOKENS,
    "pad_token_id": _TOKEN,
    "rope_parameters": _MAPPING,
    "rope_scaling": _MAPPING,
    "layer_types": _TEXTS,
    "use_sliding_window": _SWITCH,
    "sliding_window": _WINDOW,
    "architectures": _TEXTS,
    "id2label": _MAPPING,
    "num_labels": _COUNT,
}
_FULL_ATTENTION = {"full_attention", "attention"}  # the second is transformers' older name


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
    max_position_embeddings: int = 32768
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None
    scalar_head: bool = False  # a reward model: a scalar in place of logits (from the file's `architectures`)

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )

    @classmethod
    def from_hf(
        cls, raw: Mapping[str, Any], source: str = "config.json", ignore_fields: Collection[str] = ()
    ) -> "Qwen3Config":
        """Build the configuration from a config.json of transformers 4 (`rope_theta` on top) or 5 (`rope_parameters`).

        Args:
            raw: the object in the file.
            source: the file's name for messages.
            ignore_fields: names of unknown fields to ignore; each is logged.

        Raises:
            ValueError: one line that names every field that is missing, unknown, unsupported or of the wrong type.
        """
        if raw.get("model_type") != "qwen3":
            model_type = shown(raw.get("model_type"))
            raise ValueError(f"{source}: model_type {model_type} is not supported, only 'qwen3' (dense)")
        values = {name: value for name, value in raw.items() if name in _KINDS}
        if values.get("num_key_value_heads", 0) is None:
            values["num_key_value_heads"] = values.get("num_attention_heads")
        if isinstance(values.get("architectures"), str):
            values["architectures"] = [values["architectures"]]
        problems = _rope_problems(values)
        wrong = [name for name, value in values.items() if not _KINDS[name].fits(value)]
        problems += [f"{name}={shown(values[name])} is not {_KINDS[name].words}" for name in wrong]
        problems += [f"missing field {name!r}" for name in sorted(_REQUIRED - set(values))]
        if not wrong:
            problems += _value_problems(values)
        for name, supported in _SUPPORTED.items():
            if name in raw and not any(_same(raw[name], value) for value in supported):
                problems.append(f"{name}={shown(raw[name])} (only {shown(supported[0])} is supported)")
        scalar_head = values.get("architectures") == [_REWARD_MODEL]
        unknown = sorted(set(raw) - set(_KINDS) - set(_SUPPORTED) - _HARMLESS)
        problems += [
            f"ignore_fields names {name!r}, which this model uses"
            for name in sorted({*ignore_fields} & {*_KINDS, *_SUPPORTED})
        ]
        fix = ""
        if refused := [name for name in unknown if name not in ignore_fields]:
            problems += [f"unknown field {shown(name)}={shown(raw[name])}" for name in refused]
            setting = f"ignore_fields=[{printable(first_few([*map(_as_yaml, refused)], ','), 1000)}]"
            fix = f" (if unknown fields cannot change the forward pass, set {setting}, in a run model.{setting})"
        if problems:
            raise ValueError(f"{source}: cannot build this model: {first_few(problems)}{fix}")
        for name in unknown:
            log.warning("%s: ignoring the field %s=%s", source, _as_yaml(name), shown(raw[name]))
        if isinstance(values.get("eos_token_id"), list):  # a tuple keeps the configuration hashable
            values["eos_token_id"] = tuple(values["eos_token_id"])
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        try:
            return cls(**known, scalar_head=scalar_head)
        except ValueError as error:
            raise ValueError(f"{source}: cannot build this model: {error}") from error

    def to_hf(self, dtype: str) -> dict[str, Any]:
        """Return the config.json that transformers 4 and 5 both read; `dtype` is the name of the weights' dtype."""
        config = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "scalar_head"}
        head: dict[str, Any] = {"architectures": ["Qwen3ForCausalLM"]}
        if self.scalar_head:
            head = {"architectures": [_REWARD_MODEL], "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        return {
            **head,
            "model_type": "qwen3",
            "hidden_act": "silu",
            "use_sliding_window": False,
            "attention_dropout": 0.0,
            **config,
            "rope_scaling": None,
            "sliding_window": None,
            "torch_dtype": dtype,
        }


# Fields without a default, and rope_theta, whose default in transformers (10,000) fits no Qwen3.
_REQUIRED = {f.name for f in fields(Qwen3Config) if f.default is MISSING} | {"rope_theta"}


def _rope_problems(values: dict[str, Any]) -> list[str]:
    """Set `rope_theta` in `values` as transformers reads it, and return what is not supported.

    In transformers `rope_scaling` replaces `rope_parameters`, and a theta in either overrides the one on top.
    """
    used = next((name for name in ("rope_scaling", "rope_parameters") if values.get(name)), "rope_parameters")
    rope = values.get(used)
    if rope is not None and not isinstance(rope, dict):
        return []  # the wrong type is reported with the others
    if isinstance(values.get("rope_parameters", "absent"), dict | None):
        values.setdefault("rope_theta", _ROPE_THETA)
    rope = dict(rope or {})
    values |= {"rope_theta": rope.pop("rope_theta")} if "rope_theta" in rope else {}
    rope_type = rope.pop("rope_type", rope.pop("type", "default"))
    rope.pop("type", None)
    if rope.get("partial_rotary_factor") == 1:
        del rope["partial_rotary_factor"]
    if rope_type != "default" or any(value is not None for value in rope.values()):
        return [f"{used}={shown(values[used])} (only the default rotary positions are supported)"]
    return []


def _value_problems(values: Mapping[str, Any]) -> list[str]:
    """Return the problems of layer types, sliding windows and labels in values of the right types."""
    problems = []
    if values.get("use_sliding_window") and values.get("sliding_window", _SLIDING_WINDOW) is not None:
        problems.append("use_sliding_window=True (only false is supported)")
    if (layer_types := values.get("layer_types")) is not None:
        if set(layer_types) - _FULL_ATTENTION:
            problems.append(f"layer_types {shown(sorted(set(layer_types)))} (only full_attention is supported)")
        if len(layer_types) != values.get("num_hidden_layers", len(layer_types)):
            problems.append(f"{len(layer_types)} layer_types for num_hidden_layers={values['num_hidden_layers']}")
    vocab_size, padding = values.get("vocab_size"), values.get("pad_token_id")
    if vocab_size and padding is not None and padding >= vocab_size:
        problems.append(f"pad_token_id={padding} for vocab_size={vocab_size} (transformers refuses it, too)")
    if values.get("architectures") == [_REWARD_MODEL]:
        labels = values.get("num_labels")
        if values.get("id2label") is not None:
            labels = len(values["id2label"])
        labels = 2 if labels is None else labels  # transformers' default, which it does not write
        if labels != 1:
            problems.append(f"{shown(labels)} labels (a reward model has one: train it with num_labels=1)")
    return problems


def _same(value: Any, supported: Any) -> bool:
    """Compare JSON values, in which true is not 1."""
    return value == supported and isinstance(value, bool) == isinstance(supported, bool)


def _as_yaml(name: str) -> str:
    """Return a field's name for the command line: quoted and escaped if it has special characters."""
    return name if re.fullmatch(r"[\w.-]+", name, re.ASCII) else json.dumps(name)
