"""GRPO's variants by what they differ in: advantages, policy term, aggregation, KL, truncation. A preset fixes all.

| preset | what it is | source |
|---|---|---|
| social_r1 | the recipe of the SocialR1 cards on verl's defaults | arXiv 2603.09249; verl core_algos |
| grpo | the original, as TRL computes it (loss_type grpo) | DeepSeekMath, arXiv 2402.03300 section 4.1 |
| dr_grpo | no division by deviation or length | Dr. GRPO, arXiv 2503.20783 |
| dapo | higher upper clip, token mean, soft length limit, groups without variance replaced | DAPO, arXiv 2503.14476 |
| gspo | one ratio a response | GSPO, arXiv 2507.18071 |
| cispo | the ratio is a clipped weight and no token loses its gradient | MiniMax-M1, arXiv 2506.13585 |
| rloo | mean of the others as baseline, no division | arXiv 2402.14740 |
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from socialr1_jax.config.sections import Real, Section

Preset = Literal["social_r1", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo"]

# What a preset sets differently from the fields' defaults, which are social_r1's. TRL's constants are those of 1.16,
# verl's those of its core_algos.
_OTHERS: Mapping[str, Any] = {"dual_clip": 0.0, "kl_coefficient": 0.0}  # of all but social_r1
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "social_r1": {},
    "grpo": {**_OTHERS, "deviation_epsilon": 1e-4, "aggregation": "seq-mean-token-mean"},
    "dr_grpo": {**_OTHERS, "scale_advantages": False, "aggregation": "seq-mean-token-sum-norm"},
    "dapo": {**_OTHERS, "replace_flat_groups": True, "truncated": "penalise", "clip_high": 0.28},
    "gspo": {
        **_OTHERS,
        "ratio": "sequence",
        "clip_low": 3e-4,
        "clip_high": 4e-4,
        "aggregation": "seq-mean-token-mean",
    },
    "cispo": {**_OTHERS, "policy_term": "cispo", "clip_low": 1.0, "clip_high": 4.0},
    "rloo": {**_OTHERS, "baseline": "leave_one_out", "scale_advantages": False},
}


class Objective(Section):
    """Objective of an update. A field that is not given is the preset's."""

    preset: Preset = Field("social_r1", description="sets every field below that is not given (docs/objectives.md)")
    baseline: Literal["mean", "leave_one_out"] = Field(
        "mean", description="what a reward is compared with: the mean of its group, or of the others in it"
    )
    scale_advantages: bool = Field(True, description="divide advantages by the group's deviation")
    deviation_ddof: Literal[0, 1] = Field(1, description="deviation over n - this; 1 is Bessel's")
    deviation_epsilon: Real = Field(1e-6, ge=0, description="added to the deviation")
    replace_flat_groups: bool = Field(
        False, description="draw other prompts for groups whose rewards are equal (DAPO's dynamic sampling)"
    )
    most_replacements: int = Field(3, ge=0, description="times that a step draws other prompts, at most")
    truncated: Literal["keep", "mask", "penalise"] = Field(
        "keep",
        description="responses that reach the length limit: as others; out of loss and baseline; or with a reward that "
        "falls by up to overlong_penalty over the last overlong_share of the limit (DAPO)",
    )
    overlong_share: Real = Field(0.2, gt=0, le=1, description="part of max_new_tokens over which the reward falls")
    overlong_penalty: Real = Field(1.0, ge=0, description="what the reward has lost at max_new_tokens")
    policy_term: Literal["clip", "cispo"] = Field(
        "clip", description="clip: -min(ratio A, clipped ratio A); cispo: -(clipped ratio, no gradient) A log-prob"
    )
    ratio: Literal["token", "sequence"] = Field(
        "token", description="new over old probability of a token, or the geometric mean over a response (GSPO)"
    )
    clip_low: Real = Field(0.2, gt=0, le=1, description="the ratio is clipped below 1 - clip_low")
    clip_high: Real = Field(0.2, gt=0, description="the ratio is clipped above 1 + clip_high")
    dual_clip: Real = Field(
        3.0, ge=0, description="for A < 0 the term is at most this times -A (arXiv 1912.09729); 0 = no bound"
    )
    aggregation: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"] = Field(
        "token-mean",
        description="mean over all tokens; or mean over responses of their tokens' mean, sum, or sum / length_constant",
    )
    length_constant: int = Field(
        0, ge=0, description="divisor of seq-mean-token-sum-norm; 0 = sampling.max_new_tokens (3,072 outside a run)"
    )
    kl_coefficient: Real = Field(0.04, ge=0, description="weight of the KL to the starting weights; 0 = no reference")
    kl_estimator: Literal["k1", "k2", "k3", "k1+", "k3+"] = Field(
        "k3", description="of the KL in the loss; +: that value with the gradient of the exact reverse KL"
    )
    entropy_coefficient: Real = Field(0.0, description="weight of the entropy, which is maximised; 0 = only logged")
    importance_sampling: Literal["none", "token", "sequence"] = Field(
        "none", description="weigh the policy term by trainer's over sampler's probability, a token's or a response's"
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
            raise ValueError("dual_clip bounds the clip term and does nothing to cispo; set dual_clip to 0")
        return self


def objective(preset: str | Objective = "social_r1", **overrides: Any) -> Objective:
    """The preset of that name with the given fields in place of its own; an Objective passes through.

    Raises ValueError (pydantic's) naming an unknown preset or field, or a value out of range.
    """
    if isinstance(preset, Objective):
        return Objective.model_validate({**preset.model_dump(include=set(Objective.model_fields)), **overrides})
    return Objective.model_validate({"preset": preset, **overrides})
