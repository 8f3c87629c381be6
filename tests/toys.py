"""A GRPO run so small that a step takes a second: its settings, and what reads its files."""

import json
import re
from functools import partial
from pathlib import Path

from jax.experimental import pallas

from socialr1_jax.config.quickstart import QuickstartConfig
from socialr1_jax.config.run import RunConfig

ONE_LAYER = {  # sizes of the smallest Qwen3
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "tie_word_embeddings": True,
}
TOY = {
    "tiny_model": {name: x for name, x in ONE_LAYER.items() if name != "tie_word_embeddings"} | {"vocab_size": 640},
    "stories": {"question_types": ["belief", "reality"], "train_count": 40, "heldout_count": 6, "max_events": 5},
    "sft": {"steps": 2, "batch_size": 4, "warmup_steps": 1},
    "data": {"max_prompt_tokens": 128},
    "sampling": {"group_size": 4, "max_new_tokens": 12},
    "grpo": {"prompts_per_step": 4, "mini_batch_prompts": 2, "micro_batch_tokens": 512},
    "optimizer": {"learning_rate": 1e-3},
    "model": {"remat": "nothing"},
    "evaluation": {"every": 0, "questions": 4, "samples": 2},
    "checkpoint": {"every": 1},
}


def toy(folder: Path, **changes: object) -> QuickstartConfig:
    return QuickstartConfig(output_dir=str(folder), steps=2, **(TOY | changes))


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def changed(config: RunConfig, folder: Path, **sections: object) -> RunConfig:
    values = config.model_dump() | {"output_dir": str(folder)}
    for name, value in sections.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    # a preset's fields are given anew by the preset
    if "preset" in sections.get("grpo", {}):
        sizes = ("prompts_per_step", "mini_batch_prompts", "micro_batch_tokens")
        values["grpo"] = {name: config.model_dump()["grpo"][name] for name in sizes} | sections["grpo"]
    return RunConfig.model_validate(values)


def timeless(row: dict) -> dict:
    """A line of metrics.jsonl without what another run of the same numbers may have otherwise."""
    return {k: v for k, v in row.items() if not re.search("second|flops|mfu|memory|compiled", k)}


def steps_of(folder: Path) -> list[dict]:
    return [row for row in lines(folder / "metrics.jsonl") if row["phase"] == "grpo"]


def decode_by_length(setattr, split=64):
    """Make engines decode with the kernel for GPUs, interpreted. split: slots of a prefix for each of its programs."""
    from socialr1_jax.models import decode_kernel
    from socialr1_jax.sampling import batch

    setattr(decode_kernel.pl, "pallas_call", partial(pallas.pallas_call, interpret=True))
    setattr(decode_kernel, "_SPLIT", split)
    setattr(batch, "working_decode_kernel", lambda *_: "triton")


def interpret_segment_kernel(setattr):
    """Make the kernels for packed rows, "triton", run interpreted on a CPU. All blocks of attention become small."""
    from socialr1_jax.models import blockwise, segment_kernel

    setattr(blockwise, "_SMALLEST_BLOCK", 16)
    setattr(segment_kernel.pl, "pallas_call", partial(pallas.pallas_call, interpret=True))
    setattr(segment_kernel, "_OWN", 8)
    setattr(segment_kernel, "_OTHER", 4)
