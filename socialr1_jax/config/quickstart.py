"""Settings of the quickstart: a GRPO run, and the model, stories, cold start and content model made for it."""

from typing import Literal, Self

from pydantic import Field, model_validator

from socialr1_jax.config.run import RunConfig, divisors
from socialr1_jax.config.sections import Real, Section, Texts
from socialr1_jax.config.stories import CORRUPTIONS, StoryConfig


class TinyModelConfig(Section):
    """The small random Qwen3 that the quickstart builds (names as in Hugging Face's config.json)."""

    hidden_size: int = Field(128, ge=1, description="width")
    intermediate_size: int = Field(384, ge=1, description="width of the feed-forward block")
    num_hidden_layers: int = Field(4, ge=1, description="layers")
    num_attention_heads: int = Field(4, ge=1, description="query heads")
    num_key_value_heads: int = Field(2, ge=1, description="key and value heads; divides num_attention_heads")
    head_dim: int = Field(32, ge=2, multiple_of=2, description="width of a head (even, for the rotary embedding)")
    vocab_size: int = Field(1024, ge=300, description="tokens of the tokenizer, with 256 bytes and the special tokens")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads {self.num_key_value_heads} does not divide num_attention_heads "
                f"{self.num_attention_heads}; set num_key_value_heads to {divisors(self.num_attention_heads)}"
            )
        return self


class StoriesConfig(StoryConfig):
    """The quickstart's stories."""

    train_count: int = Field(4000, ge=1, description="questions to train on")
    heldout_count: int = Field(
        200, ge=1, description="questions to evaluate on; they never combine a name and an object as in training"
    )
    question_types: Texts = Field(("belief", "knowledge", "reality"), min_length=1, description="kinds of question")
    hold_out_plots: Texts = Field((), description="plots that only held-out questions use")
    hold_out_names: bool = Field(False, description="held-out questions use names that do not occur in training")
    options: int = Field(3, ge=3, le=4, description="options per question")


class SftConfig(Section):
    """The cold start on reference traces before GRPO."""

    steps: int = Field(210, ge=1, description="optimiser updates")
    batch_size: int = Field(32, ge=1, description="reference responses per update")
    egocentric: Real = Field(
        0.0, ge=0, le=1, description="share of the references on beliefs which assume that everybody knows the truth"
    )
    learning_rate: Real = Field(1e-3, gt=0, description="peak learning rate")
    warmup_steps: int = Field(20, ge=0, description="updates of the warm-up from 0 to the peak")
    weight_decay: Real = Field(0.01, ge=0, description="decoupled weight decay")
    optimizer: Literal["adamw", "muon"] = Field("adamw", description="like optimizer.name, for the cold start")
    schedule: Literal["constant", "linear", "cosine"] = Field("cosine", description="shape after the warm-up")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} must be less than steps {self.steps}; lower warmup_steps"
            )
        return self


class CorruptionsConfig(Section):
    """The content reward model, trained from the SFT model on pairs of sound and corrupted reference thoughts."""

    stories: int = Field(900, ge=10, description="questions to make pairs of, one for each kind of corruption")
    kinds: Texts = Field(CORRUPTIONS, min_length=1, description="kinds of corruption")
    steps: int = Field(80, ge=2, description="optimiser updates")
    pairs: int = Field(32, ge=1, description="pairs per update")
    learning_rate: Real = Field(5e-3, gt=0, description="peak learning rate of Muon, with a cosine decay to a tenth")


class QuickstartConfig(RunConfig):
    """The quickstart: builds a small model and stories, then runs SFT and GRPO."""

    required = ()
    makes_content_model = True

    output_dir: str = Field("runs/quickstart", min_length=1, description="folder for all output")
    tiny_model: TinyModelConfig = TinyModelConfig()
    stories: StoriesConfig = StoriesConfig()
    sft: SftConfig = SftConfig()
    corruptions: CorruptionsConfig = CorruptionsConfig()

    @model_validator(mode="after")
    def _own_parts(self) -> Self:
        content = ("rewards.content.model", self.rewards.content.model)
        for name, value in (("model.path", self.model.path), ("data.train", self.data.train), content):
            if value:
                raise ValueError(f"{name}: the quickstart makes its own model and stories; use socialr1 train")
        if self.evaluation.questions > self.stories.heldout_count:
            raise ValueError(
                f"evaluation.questions {self.evaluation.questions} is more than stories.heldout_count "
                f"{self.stories.heldout_count}; raise stories.heldout_count"
            )
        return self

    def arithmetic(self) -> str:
        """Return the size of the cold start and of the run in prompts, samples and tokens."""
        width = self.data.max_prompt_tokens + self.sampling.max_new_tokens
        shown = self.sft.steps * self.sft.batch_size
        return (
            f"{'sft':<11} {self.sft.steps:,} updates x {self.sft.batch_size} = {shown:,} reference responses "
            f"({shown / self.stories.train_count:.1f} times {self.stories.train_count:,} stories), "
            f"up to {shown * width:,} tokens\n" + super().arithmetic()
        )
