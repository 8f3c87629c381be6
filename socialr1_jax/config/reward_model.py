"""Settings of `train_reward_model.py`, which trains a content reward model on preference pairs."""

from typing import Literal, Self

from pydantic import Field, model_validator

from socialr1_jax.config.run import (
    CheckpointConfig,
    DistributedConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrackingConfig,
    refuse_unfit,
)
from socialr1_jax.config.sections import Real, Section, XlaFlags
from socialr1_jax.runtime.terminal import counted


class PairDataConfig(Section):
    """The preference pairs."""

    pairs: str = Field("", description="file written by `socialr1 pairs`: .jsonl or .parquet (required)")
    holdout: Real = Field(0.1, gt=0, lt=1, description="share of the stories held out for evaluation")
    max_tokens: int = Field(
        4096, ge=8, description="limit of story, question and thoughts; longer pairs are dropped and counted"
    )


class PreferenceConfig(Section):
    """The Bradley-Terry loss."""

    margin: bool = Field(False, description="use the difference of a pair's judged scores as a margin")
    centring: Real = Field(0.0, ge=0, description="weight of the squared sum of a pair's scores, to centre them")


class BatchConfig(Section):
    """Batch sizes."""

    pairs: int = Field(64, ge=1, description="pairs per optimiser update")
    micro_batch_tokens: int = Field(
        8192,
        ge=1,
        description="tokens of one backward pass on a device, padding included; a longer pair gets its own. Changes "
        "memory, never the gradient",
    )


class RewardOptimizerConfig(OptimizerConfig):
    """Optimizer of the float32 master weights."""

    learning_rate: Real = Field(9e-6, ge=0, description="peak learning rate; 0 changes nothing")
    schedule: Literal["constant", "cosine", "linear"] = Field("cosine", description="shape after the warm-up")


class RewardModelConfig(Section):
    """A reward model, trained from any Qwen3 folder on any file of pairs."""

    either = (("steps", "epochs"),)

    output_dir: str = Field("runs/reward_model", min_length=1, description="folder for all output")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of the new head and of the order of pairs")
    steps: int = Field(300, ge=1, lt=2**31, description="optimiser updates")
    epochs: Real = Field(
        0.0, ge=0, description="instead of steps: pairs x epochs / batch.pairs, rounded up; 0 = use steps"
    )
    xla_flags: XlaFlags = Field((), description="added to XLA_FLAGS; flags already set there win")
    evaluate_every: int = Field(50, ge=0, description="steps between evaluations; 0 = only at start and end")
    model: ModelConfig = ModelConfig()
    data: PairDataConfig = PairDataConfig()
    loss: PreferenceConfig = PreferenceConfig()
    batch: BatchConfig = BatchConfig()
    mesh: MeshConfig = MeshConfig()
    distributed: DistributedConfig = DistributedConfig()
    optimizer: RewardOptimizerConfig = RewardOptimizerConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.model.path:
            raise ValueError("model.path is required: Hugging Face folder or hub id of the Qwen3 to start from")
        if not self.data.pairs:
            raise ValueError(f"data.pairs is required: {PairDataConfig.model_fields['pairs'].description}")
        refuse_unfit(self.model, self.optimizer, 0 if self.epochs else self.steps)
        return self

    def arithmetic(self) -> str:
        """Return the size of the run in pairs, texts and tokens."""
        pairs, width = self.batch.pairs, self.data.max_tokens
        lines = {
            "text": f"up to {width:,} tokens of story, question and thoughts",
            "update": f"{counted(pairs, 'pair')} = {2 * pairs:,} texts, up to {2 * pairs * width:,} tokens, "
            f"{max(self.batch.micro_batch_tokens, 2 * width):,} at most in a device's backward pass",
            "run": f"{self.epochs:g} epochs of the pairs"
            if self.epochs
            else f"{counted(self.steps, 'update')}, {counted(self.steps * pairs, 'pair')}",
        }
        return "\n".join(f"{name:<11} {text}" for name, text in lines.items())
