"""Settings of benchmarks: what is measured, and on which shapes."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from socialr1_jax.config.sections import Section
from socialr1_jax.models.shapes import SHAPES


def _known(shape: str) -> str:
    if shape not in SHAPES:
        raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
    return shape


Shape = Annotated[str, AfterValidator(_known)]


class BenchmarkConfig(Section):
    """Settings of the measurement."""

    shape: Shape = Field("tiny", description=f"size of the model: {', '.join(SHAPES)}")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the computation; masters stay float32")
    rows: int = Field(40, ge=1, description="rows of the prefill, decode and update batches")
    prompt: int = Field(128, ge=1, description="tokens of a prompt")
    new: int = Field(128, ge=2, description="tokens of a response; no token stops one")
    prompts: int = Field(0, ge=0, description="prompts of a GRPO step; 0 = measure none")
    group: int = Field(5, ge=2, description="responses per prompt of a GRPO step")
    requests: int = Field(
        0, ge=0, description="prompts with responses of long-tailed lengths (mean new / 4), rows at once; 0 = none"
    )
    repeats: int = Field(3, ge=1, description="calls measured after the one that compiles; the median counts")
    micro_batch_tokens: int = Field(2048, ge=1, description="tokens of one backward pass")
    remat: Literal["nothing", "attention", "everything"] = Field(
        "attention", description="what the backward pass computes again"
    )
    attention: Literal["auto", "xla", "cudnn"] = Field("auto", description="attention kernel of prefill and update")
    update: bool = Field(
        True,
        description="false: prefill and decode only, weights in dtype; an update takes 16 bytes a parameter and more",
    )
    peers: bool = Field(False, description="alternate with transformers, and with TRL for the step (extra test)")
    record: str = Field(
        "", description="append the result to this .jsonl file, and regenerate the table in performance.md beside it"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        positions = SHAPES[self.shape].max_position_embeddings
        if self.prompt + self.new > positions:
            raise ValueError(f"prompt {self.prompt} + new {self.new} is more than the {positions} positions; lower one")
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise ValueError("attention cudnn computes in bfloat16; set dtype to bfloat16")
        if self.prompts and not self.update:
            raise ValueError("a GRPO step (prompts) has an update; leave out prompts, or update=false")
        return self


class CheckpointBenchmark(Section):
    """Settings of the measurement."""

    shape: Shape = Field("0.6b", description="size of the model whose full state (12 bytes a parameter) is restored")
    restore: bool = Field(True, description="measure restoring")
    repeats: int = Field(3, ge=1, description="times that each is measured; the median is reported")
    steps: int = Field(0, ge=0, description="steps of a small run with and without a save every 10; 0 = not measured")
    folder: str = Field("", description='where files are written for a while; "" = the temporary folder')


class LoadingBenchmark(Section):
    """Settings of the measurement."""

    shape: Shape = Field("0.6b", description=f"size of the model: {', '.join(SHAPES)}")
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="of the files and of what is read")
    into: Literal["", "float32", "bfloat16"] = Field("", description='dtype that is read into; "" = that of the files')
    shards: int = Field(4, ge=1, description="files of the folder")
    repeats: int = Field(3, ge=1, description="readings of each process; the median counts")
    rounds: int = Field(3, ge=1, description="processes of each reader, alternating; the median counts")
