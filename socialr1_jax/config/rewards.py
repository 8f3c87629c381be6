"""Settings of the reward: its terms, their weights, and the judges. Defaults are the published constants."""

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from socialr1_jax.config.sections import Need, Real, Section
from socialr1_jax.config.server import ServerConfig

JudgeKind = Literal["rules", "endpoint", "local", "none"]
Preset = Literal["full", "outcome_only", "no_content", "no_structure", "no_length"]


class Uses(NamedTuple):
    """The terms that a preset uses in addition to outcome and format."""

    structure: bool = True
    content: bool = True
    length: bool = True


USES: dict[str, Uses] = {
    "full": Uses(),
    "outcome_only": Uses(structure=False, content=False, length=False),
    "no_content": Uses(content=False),
    "no_structure": Uses(structure=False),
    "no_length": Uses(length=False),
}


def _need(fields: str, term: str) -> Need:
    return Need(fields, "preset", tuple(preset for preset, uses in USES.items() if getattr(uses, term)))


class Schedule(Section):
    """A number that moves from `start` to `end` over the first `steps` steps; a plain number sets both."""

    plain = ("start", "end")

    start: Real = Field(1.0, ge=0, description="value at step 0")
    end: Real = Field(1.0, ge=0, description="value from `steps` on")
    steps: int = Field(200, ge=1, description="steps over which it moves")
    shape: Literal["linear", "cosine", "step"] = Field(
        "linear", description="shape of the change; step: stays at start until `steps`"
    )

    def at(self, step: int) -> float:
        """Return the value at a global step. Raises ValueError if it is negative."""
        if step < 0:
            raise ValueError(f"step {step} is negative; steps count from 0")
        share = min(1.0, step / self.steps)
        if self.shape == "cosine":
            share = (1.0 - math.cos(math.pi * share)) / 2
        elif self.shape == "step":
            share = math.floor(share)
        return self.start + share * (self.end - self.start)


class StructureConfig(ServerConfig):
    """The judge of the structure of the thoughts, and its server."""

    needs = (
        Need("model rubric temperature max_tokens", "judge", ("endpoint", "local")),
        Need(" ".join(name for name in ServerConfig.model_fields if name != "model"), "judge", ("endpoint",)),
        Need("cache offline price_input price_output", "judge", ("endpoint",)),
    )

    judge: JudgeKind = Field(
        "rules",
        description="rules: fixed rules, no server; endpoint: a chat model behind an OpenAI-compatible server; "
        "local: a Qwen3 folder on this mesh; none: no judge",
    )
    model: str = Field("", description="endpoint: name of the model; local: its folder or hub id")
    rubric: str = Field("", description='text file with the judge\'s prompt (docs/rewards.md); "" = the built-in one')
    temperature: Real = Field(0.0, ge=0, description="sampling temperature of the judge")
    max_tokens: int = Field(1024, ge=1, description="length limit of a judge's answer, thoughts included")
    deadline: Real = Field(300.0, gt=0, description="seconds that a step waits for the judge after its last response")
    cache: str = Field("", description='folder that caches answers, and can be shared by runs; "" = none')
    offline: bool = Field(False, description="use only the cache; responses without a cached answer are unscorable")
    price_input: Real = Field(0.0, ge=0, description="price of a million tokens sent, for the cost metrics")
    price_output: Real = Field(0.0, ge=0, description="price of a million tokens received")

    def patient(self) -> Self:
        """Return a copy without a deadline, for offline use: the timeout and the number of retries bound the wait."""
        return self.model_copy(update={"deadline": 30 * 86_400.0})

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.judge == "endpoint" and not (self.model and (self.base_url or self.offline)):
            raise ValueError("judge endpoint needs model and base_url; set both")
        if self.judge == "local" and not self.model:
            raise ValueError("judge local needs model, the folder or hub id of a Qwen3; set it")
        if self.offline and not self.cache:
            raise ValueError("offline uses only the cache, but cache is not set; set it to a folder")
        if 0 < self.tokens_per_minute <= self.max_tokens:
            raise ValueError(
                f"max_tokens {self.max_tokens} is not below tokens_per_minute {self.tokens_per_minute}, so no call "
                "would be allowed; lower max_tokens or raise tokens_per_minute"
            )
        return self


class ContentConfig(Section):
    """The content reward model."""

    model: str = Field("", description="folder or hub id of a Qwen3 classifier with one label")
    batch_tokens: int = Field(16_384, ge=1, description="tokens of one forward pass on a device")
    shift: Real = Field(2.0, description="added to the scalar")
    power: Real = Field(1.2, gt=0, description="exponent of the shifted scalar")


class ExtraConfig(Section):
    """A reward function of your own, called NAME, whose result is added to the reward (docs/rewards.md)."""

    function: str = Field(description="module:function or file.py:function")
    weight: Schedule = Schedule()
    gated: bool = Field(True, description="add it only for well-formed responses")

    @field_validator("function")
    @classmethod
    def _names_a_function(cls, function: str) -> str:
        if not all(part.strip() for part in function.rpartition(":")):
            raise ValueError(f"{function!r} is not of the form module:function or file.py:function")
        return function


# Names that a user's function cannot have, since metrics and files use them.
_TAKEN = (
    *("total", "format", "outcome", "structure", "content", "length_window", "repetition", "tau"),
    *("shaped", "unscorable", "length_and_format"),
)


class RewardConfig(Section):
    """The Social-R1 reward; every constant is the published one."""

    needs = (
        _need("structure structure_weight", "structure"),
        _need("content content_weight", "content"),
        _need("length_low length_high length_scale", "length"),
        _need("repetition_gram repetition_threshold repetition_rate", "length"),
    )

    preset: Preset = Field(
        "no_content", description="terms of the reward; full, no_structure and no_length need a content reward model"
    )
    format_mode: Literal["strict", "reference"] = Field(
        "strict", description="strict: each tag exactly once; reference: the published pattern, with repeated tags"
    )
    answer_mode: Literal["plain", "reference"] = Field(
        "plain",
        description="plain: the one letter that the answer names, as in evaluation; reference: the published pattern, "
        "its first capital letter, which accepts Anna as A",
    )
    format_power: Real = Field(3.0, gt=0, description="exponent of the format term")
    format_gate: Real = Field(0.1, gt=0, le=1, description="the reward is 0 if the format term is below this")
    floor: Real = Field(0.01, ge=0, description="least reward of a well-formed response")
    length_low: Real = Field(400.0, ge=0, description="lower edge of the length window, in characters of thoughts")
    length_high: Real = Field(3000.0, gt=0, description="upper edge of the length window, in characters of thoughts")
    length_scale: Real = Field(50.0, gt=0, description="softness of both edges, in characters")
    repetition_gram: int = Field(16, ge=1, description="characters per gram in the repetition term")
    repetition_threshold: Real = Field(0.1, ge=0, le=1, description="share of repeated grams without penalty")
    repetition_rate: Real = Field(8.0, ge=0, description="rate of the exponential decay above the threshold")
    extra: dict[str, ExtraConfig] = Field({}, description="reward functions of your own, by name")
    most_unscorable: Real = Field(
        0.25, gt=0, le=1, description="stop if a larger share of the responses in a window is unscorable"
    )
    unscorable_window: int = Field(5, ge=1, description="steps in the window of most_unscorable")
    structure: StructureConfig = StructureConfig()
    content: ContentConfig = ContentConfig()
    outcome_weight: Schedule = Schedule()
    structure_weight: Schedule = Schedule(start=2.0)
    content_weight: Schedule = Schedule(end=3.0)
    tau_right: Schedule = Schedule()
    tau_wrong: Schedule = Schedule(start=0.2, end=0.2)

    @property
    def uses(self) -> Uses:
        """The terms of the preset."""
        return USES[self.preset]

    @field_validator("extra")
    @classmethod
    def _names(cls, extra: dict[str, ExtraConfig]) -> dict[str, ExtraConfig]:
        for name in extra:
            if not re.fullmatch("[A-Za-z0-9_]{1,60}", name):
                raise ValueError(f"{name!r} is not a valid name: use at most 60 letters, digits and underscores")
            if name in _TAKEN:
                raise ValueError(f"{name} is already the name of a term; choose another one")
        return extra

    @model_validator(mode="before")
    @classmethod
    def _over_defaults(cls, values: Any) -> Any:
        """Complete a partly given schedule with the field's own defaults."""
        if not isinstance(values, Mapping):
            return values
        merged = dict(values)
        for name, field in cls.model_fields.items():
            if field.annotation is Schedule and isinstance(values.get(name), Mapping):
                merged[name] = field.default.model_dump() | dict(values[name])
        return merged

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.length_low >= self.length_high:
            raise ValueError(
                f"length_low {self.length_low} must be below length_high {self.length_high}; lower length_low"
            )
        if self.uses.structure and self.structure.judge == "none":
            raise ValueError(
                f"preset {self.preset} scores the structure, but structure.judge is none; set structure.judge to rules"
            )
        return self
