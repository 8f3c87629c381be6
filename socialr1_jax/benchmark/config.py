"""Settings of the benchmarks."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from socialr1_jax.config.sections import Need, Section
from socialr1_jax.models.shapes import SHAPES, named_shape


def _known(shape: str) -> str:
    named_shape(shape, "shape")
    return shape


Shape = Annotated[str, AfterValidator(_known)]
_SHAPES = f"size of the model: {', '.join(SHAPES)}; 8b/4 has a quarter of the layers of 8b"


class BenchmarkConfig(Section):
    """Settings of the benchmark of sampling and training."""

    needs = (Need("seconds", "suite"),)

    shape: Shape = Field("tiny", description=_SHAPES)
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="compute dtype; masters stay float32")
    weights: Literal["dtype", "int8", "float8"] = Field("dtype", description="copy of the weights that decoding reads")
    rows: int = Field(40, ge=1, description="rows of the prefill, decode and update batches")
    prompt: int = Field(128, ge=1, description="tokens of a prompt")
    new: int = Field(128, ge=2, description="tokens of a response; there are no stop tokens")
    prompts: int = Field(0, ge=0, description="prompts of a GRPO step; 0 = no step is measured")
    group: int = Field(5, ge=2, description="responses per prompt of a GRPO step")
    requests: int = Field(
        0,
        ge=0,
        description="prompts with responses of long-tailed lengths (mean new / 4), `rows` at once; 0 = not measured",
    )
    repeats: int = Field(3, ge=1, description="measured calls after the warm-up call; the median is reported")
    micro_batch_tokens: int = Field(2048, ge=1, description="tokens of one backward pass")
    remat: Literal["nothing", "attention", "everything"] = Field(
        "attention", description="what the backward pass recomputes"
    )
    attention: Literal["auto", "xla", "cudnn", "triton"] = Field(
        "auto", description="attention kernel of prefill and update"
    )
    sampling: bool = Field(True, description="false: only the update and the step, without prefill and decode")
    decode_attention: Literal["auto", "xla", "triton"] = Field("auto", description="attention kernel of decoding")
    update: bool = Field(
        True,
        description="false: only prefill and decode, with weights in dtype (an update needs over 16 bytes a parameter)",
    )
    check: bool = Field(False, description="also compare logits with those of the CPU in float32")
    peers: bool = Field(False, description="also measure transformers and, for the step, TRL (extra test)")
    record: str = Field(
        "", description="append the result to this .jsonl file, and regenerate the table in performance.md beside it"
    )
    suite: Literal["", "gpu", "trial"] = Field(
        "", description="gpu: the whole record of one accelerator, into `record`; trial: the same on the smallest model"
    )
    seconds: int = Field(480, ge=1, description="most seconds of a suite; a part gets a quarter at most")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        positions = named_shape(self.shape).max_position_embeddings
        if self.prompt + self.new > positions:
            raise ValueError(f"prompt {self.prompt} + new {self.new} is more than the {positions} positions; lower one")
        if self.attention in ("cudnn", "triton") and self.dtype != "bfloat16":
            raise ValueError(f"attention {self.attention} computes in bfloat16; set dtype to bfloat16")
        if self.suite and (not self.record or self.model_fields_set - {"suite", "record", "seconds"}):
            raise ValueError("a suite has its own settings and needs record; leave out all but suite, record, seconds")
        if not self.sampling and (not self.update or self.requests):
            raise ValueError("sampling=false leaves the update alone; leave out sampling, or update=false and requests")
        if self.prompts and not self.update:
            raise ValueError("a GRPO step (prompts) includes an update; leave out prompts or update=false")
        return self


class CheckpointBenchmark(Section):
    """Settings of the benchmark of checkpoints."""

    shape: Shape = Field("0.6b", description="size of the model whose full state (12 bytes a parameter) is restored")
    restore: bool = Field(True, description="measure restoring")
    repeats: int = Field(3, ge=1, description="repetitions of each measurement; the median is reported")
    steps: int = Field(0, ge=0, description="steps of a small run with and without a save every 10; 0 = not measured")
    folder: str = Field("", description='folder for temporary files; "" = the system\'s')


class LoadingBenchmark(Section):
    """Settings of the benchmark of loading and saving."""

    shape: Shape = Field("0.6b", description=_SHAPES)
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="dtype of the files")
    into: Literal["", "float32", "bfloat16"] = Field(
        "", description='dtype of the loaded weights; "" = that of the files'
    )
    shards: int = Field(4, ge=1, description="number of weight files")
    repeats: int = Field(3, ge=1, description="loads in each process; the median is reported")
    rounds: int = Field(3, ge=1, description="processes of each reader, alternating; the median is reported")
