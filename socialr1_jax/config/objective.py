"""Settings of the objective: advantages, policy term, aggregation, KL, truncation. Presets are the published variants.

| preset | variant | source |
|---|---|---|
| social_r1 | the recipe of the SocialR1 cards on verl's defaults | arXiv 2603.09249; verl core_algos |
| grpo | the original, as TRL implements it (loss_type grpo) | DeepSeekMath, arXiv 2402.03300 section 4.1 |
| dr_grpo | no division by standard deviation or length | Dr. GRPO, arXiv 2503.20783 |
| dapo | higher upper clip, token mean, soft length limit, dynamic sampling | DAPO, arXiv 2503.14476 |
| gspo | one ratio per response | GSPO, arXiv 2507.18071 |
| cispo | the clipped ratio is a weight, and no token loses its gradient | MiniMax-M1, arXiv 2506.13585 |
| rloo | leave-one-out baseline, no division | arXiv 2402.14740 |
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from socialr1_jax.config.sections import Real, Section

Preset = Literal["social_r1", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo"]

# Values in which a preset differs from the defaults of the fields, which are those of social_r1. Constants of TRL are
# from 1.16, those of verl from its core_algos.
_OTHERS: Mapping[str, Any] = {"dual_clip": 0.0, "kl_coefficient": 0.0}  # for all presets but social_r1
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "social_r1": {},
    "grpo": {**_OTHERS, "deviation_epsilon": 1e-4, "aggregation": "seq-mean-token-mean"},
    "dr_grpo": {**_OTHERS, "scale_advantages": False, "aggregation": "seq-mean-token-sum-norm"},
    "dapo": {**_OTHERS, "replace_flat_groups": True, "truncated": "penalise", "clip_high": 0.28},
    "gspo": {**_OTHERS, "ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "aggregation": "seq-mean-token-mean"},
    "cispo": {**_OTHERS, "policy_term": "cispo", "clip_low": 1.0, "clip_high": 4.0},
    "rloo": {**_OTHERS, "baseline": "leave_one_out", "scale_advantages": False},
}


class Objective(Section):
    """Objective of an update. Fields that are not given have the preset's values."""

    preset: Preset = Field("social_r1", description="sets every field below that is not given (docs/objectives.md)")
    baseline: Literal["mean", "leave_one_out"] = Field(
        "mean", description="baseline of a reward: the mean of its group, or of the others in it"
    )
    scale_advantages: bool = Field(True, description="divide advantages by the group's standard deviation")
    deviation_ddof: Literal[0, 1] = Field(1, description="divisor of the variance is n - this; 1 = Bessel's correction")
    deviation_epsilon: Real = Field(1e-6, ge=0, description="added to the standard deviation")
    replace_flat_groups: bool = Field(
        False, description="replace groups whose rewards are all equal by other prompts (DAPO's dynamic sampling)"
    )
    most_replacements: int = Field(3, ge=0, description="most times that a step draws other prompts")
    truncated: Literal["keep", "mask", "penalise"] = Field(
        "keep",
        description="responses that reach the length limit: keep; mask in loss and baseline; or penalise: the reward "
        "falls by up to overlong_penalty over the last overlong_share of the limit (DAPO)",
    )
    overlong_share: Real = Field(0.2, gt=0, le=1, description="fraction of max_new_tokens over which the reward falls")
    overlong_penalty: Real = Field(1.0, ge=0, description="penalty at max_new_tokens")
    policy_term: Literal["clip", "cispo"] = Field(
        "clip", description="clip: -min(ratio A, clipped ratio A); cispo: -(clipped ratio, no gradient) A log-prob"
    )
    ratio: Literal["token", "sequence"] = Field(
        "token", description="ratio of new to old probability of a token, or its geometric mean over a response (GSPO)"
    )
    clip_low: Real = Field(0.2, gt=0, le=1, description="the ratio is clipped below 1 - clip_low")
    clip_high: Real = Field(0.2, gt=0, description="the ratio is clipped above 1 + clip_high")
    dual_clip: Real = Field(
        3.0, ge=0, description="for A < 0 the term is at most this times -A (arXiv 1912.09729); 0 = no bound"
    )
    aggregation: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"] = Field(
        "token-mean",
        description="mean over all tokens; or mean over responses of the tokens' mean, sum, or sum / length_constant",
    )
    length_constant: int = Field(
        0, ge=0, description="divisor of seq-mean-token-sum-norm; 0 = sampling.max_new_tokens (3,072 outside a run)"
    )
    kl_coefficient: Real = Field(0.04, ge=0, description="weight of the KL to the starting weights; 0 = no reference")
    kl_estimator: Literal["k1", "k2", "k3", "k1+", "k3+"] = Field(
        "k3", description="estimator of the KL in the loss; with +, its value has the gradient of the exact reverse KL"
    )
    entropy_coefficient: Real = Field(0.0, description="weight of an entropy bonus; 0 = only logged")
    importance_sampling: Literal["none", "token", "sequence"] = Field(
        "none", description="weight the policy term by trainer over sampler probability, per token or response"
    )
    importance_cap: Real = Field(2.0, gt=0, description="largest such weight")

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {**PRESETS.get(given.get("preset", "social_r1"), {}), **given}

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.policy_term == "cispo" and self.dual_clip:
            raise ValueError("dual_clip bounds the clip term and has no effect on cispo; set dual_clip to 0")
        return self


def objective(preset: str | Objective = "social_r1", **overrides: Any) -> Objective:
    """Build an objective from a preset (or from an `Objective`) with the given fields replaced.

    Raises pydantic's ValueError for an unknown preset or field, or a value out of range.
    """
    if isinstance(preset, Objective):
        return Objective.model_validate({**preset.model_dump(include=set(Objective.model_fields)), **overrides})
    return Objective.model_validate({"preset": preset, **overrides})
